"""The explorer's page and its functions. It makes no requests to other hosts."""

from __future__ import annotations

import html
import random
from collections.abc import Iterable, Iterator
from typing import Any, Callable

import fastapi
import gradio as gr
import numpy as np

from tganv2_tf.errors import UserError
from tganv2_tf.explorer import tiles
from tganv2_tf.explorer.gate import RequestFilter
from tganv2_tf.explorer.limits import MAX_FPS, MAX_STEPS, Limits, choice, number, one_seed, text, whole
from tganv2_tf.sampling.latent_paths import INTERPOLATIONS, ping_pong
from tganv2_tf.sampling.sampler import Sampler
from tganv2_tf.sampling.selection import parse_seeds
from tganv2_tf.video_io import videos

MIN_SIZE = 128  # approximate minimum size in pixels; smaller videos lose colour in H.264 and are enlarged
BATCH_SIZE = 4  # videos rendered and encoded at once
DEFAULT_VIDEOS = 16
MAX_CLIPS = 8  # default maximum length of a video, in training clips
IN_TURN = -1  # in place of a label: the class of seed s is s % num_classes
SIDE_BY_SIDE, WALK = "side by side", "one moving video"
WALK_FRAMES = 6  # frames of a walk per step


class Explorer:
    """The functions behind the page's controls. Arguments are the controls' values, in order; results are HTML.

    Arguments come from clients and may have any type and size: invalid ones raise a UserError.

    Attributes:
      sampler: the generator.
      limits: limits of a request.
      scale: factor by which the videos of all levels are enlarged, by repeated pixels.
      min_frames, max_frames: minimum and maximum frames per video; equal if the generator's videos have fixed length.
    """

    def __init__(self, sampler: Sampler, limits: Limits) -> None:
        self.sampler, self.limits, self.scale = sampler, limits, max(1, MIN_SIZE // sampler.sizes[-1])
        self.min_frames, self.max_frames = 1, limits.max_frames or MAX_CLIPS * sampler.num_frames
        if sampler.fixed_length:
            self.min_frames = self.max_frames = sampler.num_frames

    def gallery(self, seeds: Any, truncation: Any, num_frames: Any, level: Any, label: Any, fps: Any) -> str:
        """Renders one video per seed; tiles can be selected."""
        numbers = parse_seeds(text("Seeds", seeds), "Seeds")
        truncation, num_frames, level, label, fps = self._checked(truncation, num_frames, level, label, fps)
        self._check_size(len(numbers), num_frames, level)
        labels = [self._label(seed, label) for seed in numbers]
        clips = self._draw(self.sampler.latents(numbers, truncation), num_frames, level, labels)
        return tiles.gallery(
            tiles.tile(mp4, f"seed{seed}", f"seed {seed}", self._class(label), seed)
            for mp4, seed, label in zip(self._encode(clips, fps), numbers, labels)
        )

    def interpolate(
        self,
        first: Any,
        second: Any,
        steps: Any,
        interpolation: Any,
        view: Any,
        truncation: Any,
        num_frames: Any,
        level: Any,
        label: Any,
        fps: Any,
    ) -> str:
        """Renders an interpolation between two seeds: several videos, or one video whose latent moves.

        Both ends are the videos that `gallery` shows for these seeds: if classes are assigned by seed, the first half
        of the path has the class of the first seed, and the rest that of the second.
        """
        ends = [one_seed("From seed", first), one_seed("To seed", second)]
        steps = whole("Steps", steps, 1, MAX_STEPS)
        interpolation = choice("Method", interpolation, tuple(INTERPOLATIONS))
        view = choice("Show", view, (SIDE_BY_SIDE, WALK))
        truncation, num_frames, level, label, fps = self._checked(truncation, num_frames, level, label, fps)
        count = WALK_FRAMES * steps if view == WALK else steps
        if view == WALK:
            self._check_size(1, count + 1, level)  # one frame per latent
        else:
            self._check_size(count + 1, num_frames, level)
        weights = np.arange(count + 1) / count
        labels = [self._label(ends[int(weight > 0.5)], label) for weight in weights]
        start, end = self.sampler.latents(ends, truncation)
        z = INTERPOLATIONS[interpolation](start, end, weights, self.sampler.latent)
        clips = self._draw(z, num_frames, level, labels)
        name = f"seed{ends[0]}-to-{ends[1]}"
        if view == WALK:
            # Frame k is from the clip of latent k; the time in the clip runs back and forth, so motion is continuous.
            times = iter(ping_pong(len(z), num_frames))
            walk = np.stack([clip[next(times)] for part in clips for clip in part])
            (mp4,) = self._encode([walk[np.newaxis]], fps)
            classes = " to ".join(self._class(label) for label in dict.fromkeys(labels))
            return tiles.gallery([tiles.tile(mp4, name, f"{ends[0]} to {ends[1]}", classes)])
        return tiles.gallery(
            tiles.tile(mp4, f"{name}-step{step}", f"{weight:.0%}", self._class(label))
            for step, (mp4, weight, label) in enumerate(zip(self._encode(clips, fps), weights, labels))
        )

    def _checked(
        self, truncation: Any, num_frames: Any, level: Any, label: Any, fps: Any
    ) -> tuple[float, int, int, int, float]:
        """Validates the settings that all requests share, and returns them as numbers."""
        return (
            number("Truncation", truncation, 0, 1),
            whole("Frames", num_frames, self.min_frames, self.max_frames),
            whole("Level", level, 1, self.sampler.num_levels),
            whole("Class", label, IN_TURN, len(self.sampler.class_names) - 1),
            number("Frames per second", fps, 1, MAX_FPS),
        )

    def _check_size(self, num_videos: int, num_frames: int, level: int) -> None:
        self.limits.check_size(num_videos, num_frames, self.scale * self.sampler.sizes[level - 1])

    def _label(self, seed: int, label: int) -> int:
        return seed % max(1, len(self.sampler.class_names)) if label == IN_TURN else label

    def _class(self, label: int) -> str:
        return self.sampler.class_names[label] if self.sampler.class_names else ""

    def _draw(self, z: np.ndarray, num_frames: int, level: int, labels: list[int]) -> Iterator[np.ndarray]:
        """Renders videos in batches, uint8 [n, T, H, W, 3], so that memory use does not grow with their number."""
        given = labels if self.sampler.class_names else None
        for at in range(0, len(z), BATCH_SIZE):
            part = slice(at, at + BATCH_SIZE)
            yield self.sampler.render(z[part], num_frames, level, given and given[part])

    def _encode(self, parts: Iterable[np.ndarray], fps: float) -> Iterator[bytes]:
        """Encodes the videos as MP4 files, one by one."""
        for clips in parts:
            yield from tiles.encode([videos.enlarge(clip, self.scale) for clip in clips], fps)


def build(sampler: Sampler, limits: Limits) -> gr.Blocks:
    """Builds the page for a generator."""
    explorer = Explorer(sampler, limits)

    def shown(method: Callable[..., str]) -> Callable[..., str]:
        """Wraps a method for Gradio, so that a UserError is shown on the page."""

        def call(*values: Any) -> str:
            try:
                return method(*values)
            except UserError as error:
                raise gr.Error(str(error), duration=8, print_exception=False) from error

        return call

    def shuffle(seeds: Any) -> str:
        try:
            count = len(parse_seeds(text("Seeds", seeds)))
        except UserError:
            count = DEFAULT_VIDEOS
        start = random.randrange(10**6)
        return f"{start}-{start + count - 1}"

    def pick(event: gr.EventData) -> list[str]:
        seeds = event.seeds
        return seeds if len(seeds) == 2 else [*seeds, gr.skip()]

    with gr.Blocks(title="TGANv2 explorer", analytics_enabled=False, fill_width=True) as page:
        levels = " · ".join(f"{number}: {size}x{size}" for number, size in enumerate(sampler.sizes, start=1))
        classes, halves = "", ""
        if sampler.class_names:
            classes = f" · {len(sampler.class_names)} classes"
            halves = " If their classes differ, the first half of the path has the class of the first."
        about = f"{sampler.description} · {sampler.sizes[-1]}x{sampler.sizes[-1]} pixels{classes}"
        gr.HTML(f"<h1>TGANv2 explorer</h1><p>{html.escape(about)}</p>", elem_id="title")
        with gr.Row(equal_height=False):
            with gr.Column(scale=0, min_width=300, elem_id="controls"):
                seeds = gr.Textbox(
                    f"0-{DEFAULT_VIDEOS - 1}", label="Seeds", info="one video each: 0-15 or 3,7,12", submit_btn=False
                )
                with gr.Row():
                    other = gr.Button("Shuffle", min_width=80)
                    generate = gr.Button("Generate", variant="primary", min_width=80)
                choices = [("each in turn", IN_TURN), *((name, i) for i, name in enumerate(sampler.class_names))]
                label = gr.Dropdown(choices, value=IN_TURN, label="Class", visible=bool(sampler.class_names))
                truncation = gr.Slider(
                    0.1, 1.0, 1.0, step=0.05, label="Truncation", info="lower: less varied", buttons=[]
                )
                longest = explorer.max_frames
                num_frames = gr.Slider(
                    1, longest, min(longest, sampler.num_frames), step=1, label="Frames",
                    info=f"training: {sampler.num_frames}", buttons=[], visible=not sampler.fixed_length,
                )  # fmt: skip
                level = gr.Slider(
                    1, sampler.num_levels, sampler.num_levels, step=1, label="Level", info=levels, buttons=[],
                    visible=sampler.num_levels > 1,
                )  # fmt: skip
                rate = min(max(1, round(sampler.fps)), MAX_FPS) if sampler.fps else 10
                fps = gr.Slider(1, MAX_FPS, rate, step=1, label="Frames per second", buttons=[])
            with gr.Column(scale=1, min_width=320):
                videos_of_seeds = gr.HTML(js_on_load=tiles.JAVASCRIPT, elem_id="seeds")
                with gr.Row(equal_height=False):
                    gr.HTML(
                        f"<h2>Interpolation</h2><p>Click two videos above, or enter their seeds.{halves}</p>",
                        elem_id="between",
                    )
                    interpolate = gr.Button("Interpolate", variant="primary", scale=0, min_width=150)
                with gr.Row():
                    first = gr.Textbox("0", label="From seed", min_width=80)
                    second = gr.Textbox("1", label="To seed", min_width=80)
                    steps = gr.Slider(1, MAX_STEPS, 7, step=1, label="Steps", buttons=[], min_width=150)
                    interpolation = gr.Radio(list(INTERPOLATIONS), value="spherical", label="Method", min_width=230)
                    view = gr.Radio([SIDE_BY_SIDE, WALK], value=SIDE_BY_SIDE, label="Show", min_width=280)
                videos_between = gr.HTML(js_on_load=tiles.JAVASCRIPT, elem_id="steps")

        settings = [truncation, num_frames, level, label, fps]
        # One request at a time, on all cores; of several changes in the meantime, only the last one is handled.
        # Values are passed on without Gradio's preprocessing; the functions validate them.
        event_options = {
            "concurrency_id": "generator",
            "trigger_mode": "always_last",
            "api_visibility": "private",
            "preprocess": False,
        }
        changes = [page.load, generate.click, seeds.submit, label.input, fps.release]
        changes += [slider.release for slider in (truncation, num_frames, level)]
        gr.on(changes, shown(explorer.gallery), [seeds, *settings], videos_of_seeds, **event_options)
        other.click(shuffle, seeds, seeds, api_visibility="private", preprocess=False, show_progress="hidden").then(
            shown(explorer.gallery), [seeds, *settings], videos_of_seeds, **event_options
        )
        # By default, Gradio drops a click that comes before the answer to the one before it.
        videos_of_seeds.pick(
            pick, None, [first, second], api_visibility="private", show_progress="hidden", trigger_mode="multiple"
        )
        inputs = [first, second, steps, interpolation, view, *settings]
        gr.on(
            [interpolate.click, first.submit, second.submit],
            shown(explorer.interpolate),
            inputs,
            videos_between,
            **event_options,
        )
    page.queue(default_concurrency_limit=1, max_size=limits.max_waiting)
    # Limits the sessions that Gradio keeps: 0.1 MB each, plus unread responses. With twice as many sessions as waiting
    # requests, no session with a waiting request is dropped.
    page.state_session_capacity = 2 * limits.max_waiting
    page._queue.pending_messages_per_session.max_size = 2 * limits.max_waiting
    return page


def theme() -> gr.themes.Base:
    """Returns Gradio's base theme. Its fonts are bundled; other themes load fonts from another host."""
    return gr.themes.Base(primary_hue="orange", neutral_hue="stone", radius_size="lg")


CSS = """
.gradio-container { max-width: 1500px !important; margin: 0 auto; }
#title h1 { font-size: 26px; font-weight: 700; margin: 0; }
#title p, #between p { color: var(--body-text-color-subdued); margin: 2px 0 0; font-size: 14px; }
#between-head { align-items: flex-end; margin-top: 10px; }
#seeds { min-height: 200px; }  /* otherwise the progress text covers the button below */
#between h2 { font-size: 19px; font-weight: 600; margin: 0; }
#controls { position: sticky; top: 12px; }
@media (max-width: 700px) { #controls { position: static; flex-grow: 1; } }
"""


def application(sampler: Sampler, limits: Limits) -> RequestFilter:
    """Returns the web application: the page with its style, behind a `RequestFilter` that enforces the limits."""
    looks = {"theme": theme(), "css": CSS + tiles.CSS, "footer_links": [], "run_history": False}
    page, server = build(sampler, limits), fastapi.FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    mounted = gr.mount_gradio_app(server, page, path="", ssr_mode=False, pwa=False, mcp_server=False, **looks)
    return RequestFilter(mounted, 1000 * limits.max_request_kilobytes)
