"""A gallery of videos as self-contained HTML: the videos are embedded, so no files have to be served."""

from __future__ import annotations

import base64
import html
import os
import pathlib
import tempfile
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from tganv2_tf.video_io import videos

ARROW = (  # download icon
    '<svg viewBox="0 0 24 24" width="17" height="17" fill="none" stroke="currentColor" stroke-width="2" '
    'stroke-linecap="round" stroke-linejoin="round"><path d="M12 4v11m-5-5 5 5 5-5M5 20h14"/></svg>'
)


def encode(clips: Sequence[np.ndarray], fps: float) -> list[bytes]:
    """Encodes videos, each uint8 [T, H, W, 3], as MP4 files; returns their bytes."""
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(os.cpu_count()) as pool:

        def mp4(number: int) -> bytes:
            path = pathlib.Path(folder, f"{number}.mp4")
            videos.write_video(path, clips[number], fps)
            return path.read_bytes()

        return list(pool.map(mp4, range(len(clips))))


def tile(mp4: bytes, name: str, caption: str, note: str = "", seed: int | None = None) -> str:
    """Returns HTML of a playing video with its caption and a download button.

    Args:
      mp4: contents of the video file.
      name: file name for the download, without suffix.
      caption: text below the video.
      note: smaller text on separate lines.
      seed: seed of a selectable video; None = not selectable.
    """
    picked = "" if seed is None else f' data-seed="{seed}" tabindex="0" role="button"'
    source = f"data:video/mp4;base64,{base64.b64encode(mp4).decode()}"
    return (
        f'<figure class="tile" data-name="{html.escape(name)}"{picked}>'
        f'<video src="{source}" autoplay loop muted playsinline></video>'
        f"<figcaption><span>{html.escape(caption)}</span><small>{html.escape(note)}</small>"
        f'<button class="save" title="Save as MP4" aria-label="Save as MP4">{ARROW}</button></figcaption></figure>'
    )


def gallery(each: Iterable[str]) -> str:
    """Arranges tiles in rows, as many per row as fit."""
    return f'<div class="tiles">{"".join(each)}</div>'


CSS = """
.tiles { display: grid; grid-template-columns: repeat(auto-fill, minmax(112px, 1fr)); gap: 12px; }
.tile { margin: 0; border-radius: 12px; overflow: hidden; background: var(--background-fill-secondary);
  border: 2px solid var(--border-color-primary); transition: border-color .15s, transform .15s; position: relative; }
.tile[data-seed] { cursor: pointer; }
.tile[data-seed]:hover { border-color: var(--color-accent); transform: translateY(-2px); }
.tile.picked { border-color: var(--color-accent); box-shadow: 0 0 0 2px var(--color-accent); }
.tile.picked::before { content: attr(data-pick); position: absolute; z-index: 1; top: 8px; left: 8px; width: 24px;
  height: 24px; border-radius: 50%; background: var(--color-accent); color: white; font-weight: 600; font-size: 13px;
  display: grid; place-items: center; }
.tile video { display: block; width: 100%; aspect-ratio: 1; image-rendering: pixelated; background: black; }
.tile figcaption { display: grid; grid-template-columns: minmax(0, 1fr) auto; margin: 0 !important;
  padding: 4px 4px 4px 9px; align-items: center; align-content: start; font-size: 13px; line-height: 1.3;
  overflow-wrap: anywhere; color: var(--body-text-color); }
.tile figcaption span { font-variant-numeric: tabular-nums; font-weight: 600; }
.tile figcaption small { grid-row: 2; grid-column: 1 / -1; padding: 0 5px 4px 0; font-size: 12px; }
.tile figcaption small:empty { display: none; }
.tile .save { border-radius: 8px; width: 26px; height: 26px; padding: 0 !important; margin: 0; display: grid;
  place-items: center; background: none; color: var(--body-text-color-subdued); }
.tile .save svg { display: block; margin: 0; }
.tile .save:hover { background: var(--color-accent); color: white; }
"""

# `element`, `trigger` and `watch` are provided by Gradio. The last two clicked tiles are selected, as 1 and 2.
JAVASCRIPT = """
let picked = [];
const mark = () => element.querySelectorAll('.tile').forEach(tile => {
  const place = picked.indexOf(tile.dataset.seed);
  tile.classList.toggle('picked', tile.dataset.seed !== undefined && place >= 0);
  tile.dataset.pick = place + 1;
});
const act = event => {
  const tile = event.target.closest('.tile');
  if (!tile) return;
  if (event.target.closest('.save')) {
    const link = document.createElement('a');
    link.href = tile.querySelector('video').src;
    link.download = tile.dataset.name + '.mp4';
    link.click();
  } else if (tile.dataset.seed !== undefined) {
    event.preventDefault();
    picked = [...picked.filter(seed => seed !== tile.dataset.seed), tile.dataset.seed].slice(-2);
    mark();
    trigger('pick', {seeds: picked});
  }
};
element.addEventListener('click', act);
element.addEventListener('keydown', event => {
  if (event.target.matches('.tile') && ['Enter', ' '].includes(event.key)) act(event);
});
watch('value', mark);
"""
