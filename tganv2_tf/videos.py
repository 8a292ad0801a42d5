"""Videos in memory and on disk: bytes, grids, strips, GIF, MP4 and PNG."""

from __future__ import annotations

import io
import math
import pathlib

import imageio.v3 as iio
import numpy as np

from tganv2_tf.errors import UserError
from tganv2_tf.files import Path, whole_file

SUFFIXES = (".gif", ".mp4", ".png")


def to_uint8(videos: np.ndarray) -> np.ndarray:
    """float in [-1, 1] -> uint8, round((x + 1) * 127.5)."""
    return np.rint((np.clip(videos, -1.0, 1.0) + 1.0) * 127.5).astype(np.uint8)


def grid(videos: np.ndarray, columns: int | None = None, border: int = 2) -> np.ndarray:
    """Lays videos out side by side, row by row.

    Args:
      videos: uint8 [N, T, H, W, 3].
      columns: videos a row; as many as rows, about, where it is None.
      border: black pixels between videos.
    Returns:
      uint8 [T, H', W', 3].
    """
    num, frames, height, width, channels = videos.shape
    columns = min(num, columns or math.ceil(math.sqrt(num)))
    rows = math.ceil(num / columns)
    shape = (frames, rows * (height + border) - border, columns * (width + border) - border, channels)
    canvas = np.zeros(shape, np.uint8)
    for i, video in enumerate(videos):
        top, left = (i // columns) * (height + border), (i % columns) * (width + border)
        canvas[:, top : top + height, left : left + width] = video
    return canvas


def strip(videos: np.ndarray, num_frames: int = 8, border: int = 2) -> np.ndarray:
    """Frames of each video from left to right, a video a row: uint8 [N, T, H, W, 3] -> uint8 [H', W', 3].

    Args:
      videos: uint8 [N, T, H, W, 3].
      num_frames: how many of the T, evenly spaced.
      border: black pixels between frames.
    """
    chosen = np.linspace(0, videos.shape[1] - 1, min(num_frames, videos.shape[1])).round().astype(int)
    frames = videos[:, chosen]
    return grid(frames.reshape(-1, 1, *videos.shape[2:]), len(chosen), border)[0]


def enlarge(video: np.ndarray, factor: int) -> np.ndarray:
    """Repeats pixels: uint8 [..., H, W, 3] -> [..., factor * H, factor * W, 3]."""
    return video.repeat(factor, axis=-3).repeat(factor, axis=-2)


def gif_bytes(video: np.ndarray, fps: float) -> bytes:
    """An endless animated GIF of uint8 [T, H, W, 3]."""
    buffer = io.BytesIO()
    # A duration of 0 would be left to the viewer; GIF counts hundredths of a second.
    iio.imwrite(buffer, video, extension=".gif", plugin="pillow", duration=max(20, round(1000 / fps)), loop=0)
    return buffer.getvalue()


def check_suffix(path: Path) -> str:
    """The file's suffix.

    Raises:
      UserError: not one that can be written.
    """
    suffix = pathlib.Path(path).suffix.lower()
    if suffix not in SUFFIXES:
        raise UserError(f"{path}: cannot write {suffix or 'a file without a suffix'}; valid: {', '.join(SUFFIXES)}")
    return suffix


def write_video(path: Path, video: np.ndarray, fps: float) -> None:
    """Writes a GIF, an MP4 (H.264), or a PNG strip of the frames; whole, or not at all.

    Args:
      path: its suffix decides.
      video: uint8 [T, H, W, 3].
      fps: frames a second.
    Raises:
      UserError: another suffix.
    """
    suffix = check_suffix(path)
    if suffix == ".png":
        write_image(path, strip(video[np.newaxis]))
        return
    with whole_file(path) as temporary:
        if suffix == ".gif":
            temporary.write_bytes(gif_bytes(video, fps))
        else:
            _write_mp4(temporary, video, fps)


def write_image(path: Path, image: np.ndarray) -> None:
    """Writes uint8 [H, W, 3]; whole, or not at all."""
    with whole_file(path) as temporary:
        iio.imwrite(temporary, image)


def _write_mp4(path: pathlib.Path, video: np.ndarray, fps: float) -> None:
    height, width = video.shape[1:3]
    # yuv420p, which all players read, needs even sizes.
    even = np.pad(video, [(0, 0), (0, height % 2), (0, width % 2), (0, 0)], mode="edge")
    iio.imwrite(path, even, plugin="FFMPEG", fps=fps, codec="libx264", macro_block_size=1, quality=8)
