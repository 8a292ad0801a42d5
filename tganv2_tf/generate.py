"""Generates videos from a run or from a SavedModel.

A grid of seeds, and single files, one per seed:
  python -m tganv2_tf.generate --model_dir=runs/ucf101 --seeds=0-24 --output=samples.gif
  python -m tganv2_tf.generate --saved_model=saved_models/ucf101/1 --seeds=3,7 --layout=single --output=video.mp4
Classes of a conditional model, one per row:
  python -m tganv2_tf.generate --model_dir=runs/ucf101 --labels=Biking,Diving --seeds=0-7 --output=classes.mp4
From seed to seed, side by side, and as one video whose latent moves while it plays:
  python -m tganv2_tf.generate --model_dir=runs/ucf101 --seeds=3,7 --interpolate=spherical --output=between.gif
  python -m tganv2_tf.generate --model_dir=runs/ucf101 --seeds=3,7,3 --layout=walk --interpolate=spherical \\
    --interpolation_steps=48 --output=walk.mp4
Every level of the same samples, enlarged to one size (the paper's Figure 4):
  python -m tganv2_tf.generate --model_dir=runs/ucf101 --seeds=0-3 --layout=levels --output=levels.png
A long video, in constant memory, and arrays for programs (`videos`, `seeds`, `z`, `names`, `labels`):
  python -m tganv2_tf.generate --model_dir=runs/ucf101 --seeds=3 --num_frames=5000 --output=long.mp4
  python -m tganv2_tf.generate --model_dir=runs/ucf101 --seeds=0-99 --output=samples.npz
Many files, rendered on the nodes of a Ray cluster (docs/distributed.md):
  python -m tganv2_tf.generate --model_dir=runs/ucf101 --seeds=0-9999 --layout=single --output=samples/video.mp4 \\
    --runner=ray --gpus_per_task=1

Interpolation: `linear` is the straight line between two latents; `spherical` keeps the distribution of latents seen in
training, see tganv2_tf/sampling/latent_paths.py. In a walk, each frame comes from the clip of its own latent, and the
time within the clip runs back and forth; repeat the first seed at the end of --seeds for a loop. Interpolated videos
have the class of the first seed.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import os
import platform
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Callable

from tganv2_tf import cli, ray_cluster, storage
from tganv2_tf.errors import ConfigError, UserError
from tganv2_tf.options import option, require
from tganv2_tf.ray_cluster import LOCAL, RunnerOptions
from tganv2_tf.runtime import machine
from tganv2_tf.sampling.selection import parse_labels, parse_seeds

if TYPE_CHECKING:
    import numpy as np
    from tqdm import tqdm

    from tganv2_tf.sampling.rendering import Chunks, Selection
    from tganv2_tf.sampling.sampler import Sampler

GRID_STEPS, WALK_STEPS = 8, 32
DEFAULT_FPS = 10


@dataclasses.dataclass(frozen=True)
class Command:
    """Videos to generate, and their files."""

    output: str = option(
        "file to write: .gif, .mp4 (H.264), .png (a strip of frames), .npz (arrays), or NAME/, a folder of frames",
        destination="file",
    )
    model_dir: str = option("a run, RUN/best, or a checkpoint such as RUN/snapshots/ckpt-10000", "")
    saved_model: str = option("folder of one version of a SavedModel, instead of --model_dir", "")
    seeds: str = option("seeds, one per video: numbers and ranges, such as 0-15 or 3,7,12", "0-15")
    labels: str = option(
        "classes of a conditional model, one per row: names, quoted if needed, ranges of names, or all; numbers and "
        "their ranges are labels, from 0, unless a class name is a number; none = in turn, by seed",
        "",
    )
    truncation: float = option("scale of the latents; lower values give less varied videos, closer to the mean", 1.0)
    interpolate: str = option("interpolation from each seed to the next", "none", ("none", "linear", "spherical"))
    interpolation_steps: int = option(
        f"videos, or frames of a walk, from one seed to the next; 0 = {GRID_STEPS}, or {WALK_STEPS} for a walk", 0
    )
    layout: str = option(
        "one grid; single files named by seed; all levels of each sample; a walk: one video whose latent moves",
        "grid",
        ("grid", "single", "levels", "walk"),
    )
    columns: int = option("videos per row of the grid; 0 = one row per class or seed pair, or nearly square", 0)
    level: int = option("level to render, from 1; 0 = the last, full resolution", 0)
    num_frames: int = option("frames per video, any number; 0 = as in training; for a walk: frames of each clip", 0)
    fps: float = option(f"frames per second; 0 = as the training data, {DEFAULT_FPS} if that is unknown", 0.0)
    scale: int = option("enlarge by this factor", 1)
    captions: bool = option("write seed and class below each video; not in .npz, which has `names`", False)
    resample: str = option("how to enlarge; nearest repeats pixels", "nearest", ("nearest", "bicubic", "lanczos"))
    batch_size: int = option("videos rendered together, 16 frames of each; fewer need less memory", 8)
    max_gigabytes: float = option("maximum total size of the uncompressed frames, in 10^9 bytes", 100.0)

    def __post_init__(self) -> None:
        if bool(self.model_dir) == bool(self.saved_model):
            raise ConfigError("specify exactly one of --model_dir and --saved_model")
        seeds = parse_seeds(self.seeds)
        minimum = {"columns": 0, "level": 0, "num_frames": 0, "interpolation_steps": 0, "scale": 1, "batch_size": 1}
        for name, number in minimum.items():
            require(getattr(self, name) >= number, name, getattr(self, name), f"a whole number of at least {number}")
        require(0 < self.truncation <= 1, "truncation", self.truncation, "a number above 0, up to 1")
        require(0 <= self.fps <= self.max_fps, "fps", self.fps, f"a number above 0, up to {self.max_fps}, or 0")
        require(self.max_gigabytes > 0, "max_gigabytes", self.max_gigabytes, "a number above 0")
        moving = self.interpolate != "none"
        require(moving or self.layout != "walk", "layout", "walk", "with --interpolate=linear or spherical")
        require(len(seeds) > 1 or not moving, "seeds", self.seeds, "at least two with --interpolate")
        require(not self.level or self.layout != "levels", "level", self.level, "0 with --layout=levels")
        arrays = self.output.lower().endswith(".npz")
        require(not arrays or self.layout != "levels", "layout", "levels", "grid, single or walk for an .npz")
        require(not arrays or not self.captions, "captions", "true", "false for an .npz")

    @property
    def max_fps(self) -> int:
        """The highest frame rate that players of this file type support."""
        return 50 if self.output.lower().endswith(".gif") else 120


def frame_rate(command: Command, sampler: Sampler) -> float:
    """Returns the frames per second of the files."""
    return command.fps or min(sampler.fps or DEFAULT_FPS, command.max_fps)


def steps_between(command: Command) -> int:
    """Returns the number of interpolation steps from each seed to the next."""
    return command.interpolation_steps or (WALK_STEPS if command.layout == "walk" else GRID_STEPS)


def check_size(command: Command, sampler: Sampler) -> None:
    """Checks, before rendering, that the request is within --max_gigabytes and that each chunk fits in memory.

    Raises:
      UserError: the request is too large.
      ConfigError: a class does not exist.
    """
    from tganv2_tf.sampling.sampler import CHUNK_FRAMES

    walk, levels = command.layout == "walk", sampler.num_levels if command.layout == "levels" else 1
    rows = len(parse_labels(command.labels, sampler.class_names)) if command.labels else 1
    num_seeds, clip_frames = len(parse_seeds(command.seeds)), command.num_frames or sampler.num_frames
    if walk:
        points = (num_seeds - 1) * steps_between(command) + 1
    else:
        points = num_seeds if command.interpolate == "none" else (num_seeds - 1) * (steps_between(command) + 1)
    count, frames = (rows, points) if walk else (rows * points, clip_frames)
    rendered = sampler.sizes[command.level - 1 if command.level else -1]
    size = command.scale * rendered
    total = 3 * count * levels * frames * size**2
    request = f"{count:,} videos of {frames:,} frames of {size}x{size} pixels" + (" at the last level" * (levels > 1))
    if total > command.max_gigabytes * 1e9:
        raise UserError(
            f"{request} are {total // 10**9:,} GB uncompressed; valid: up to "
            f"--max_gigabytes={command.max_gigabytes:g}, or fewer --seeds, --num_frames or --scale"
        )
    # A lower bound, without the networks: the latents and their interpolation in float64; the frames written together,
    # as videos, as a grid and as bytes; one batch, in float32 before and after clipping, and as bytes.
    together = (min(command.batch_size, count) if command.layout == "single" else count) * min(CHUNK_FRAMES, frames)
    batch = min(command.batch_size, rows * points) * (clip_frames if walk else min(CHUNK_FRAMES, frames))
    needed = rows * points * sampler.z_dim * (4 + 8) + 3 * levels * together * size**2 * 3 + 3 * batch * rendered**2 * 9
    memory = machine.memory()
    if memory and needed > memory.available:
        raise UserError(
            f"{request} need at least {needed / 1e9:,.1f} GB of memory, but only {memory.available / 1e9:,.1f} GB "
            "are free; use fewer --seeds, a smaller --scale or --batch_size, or --layout=single"
        )


def choose(command: Command, sampler: Sampler) -> Selection:
    """Returns the videos that the command selects.

    Raises:
      ConfigError: a class does not exist, or two single files would have the same name.
    """
    from tganv2_tf.sampling import rendering

    seeds, walk = parse_seeds(command.seeds), command.layout == "walk"
    labels = parse_labels(command.labels, sampler.class_names) if command.labels else []
    z = sampler.latents(seeds)
    if command.interpolate == "none":
        paths = [rendering.LatentPath(f"seed{seed}", seed, z[i : i + 1]) for i, seed in enumerate(seeds)]
    else:
        paths = rendering.interpolate_seeds(z, seeds, command.interpolate, steps_between(command), sampler.latent)
    if walk:
        paths = [rendering.concatenate_paths(paths, f"seed{seeds[0]}-to-{seeds[-1]}")]
    chosen = rendering.select(paths, sampler.class_names, labels, walk)
    if command.layout == "single" and len(set(chosen.names)) < len(chosen):
        name, count = collections.Counter(chosen.names).most_common(1)[0]
        raise ConfigError(f"--layout=single: {count} files would have the name {name}; valid: each seed and class once")
    return dataclasses.replace(chosen, z=sampler.truncated(chosen.z, command.truncation))


def render(command: Command, sampler: Sampler, chosen: Selection) -> Chunks:
    """Renders all videos in chunks of frames, uint8 [N, t, H, W, 3]; [N * L, t, H, W, 3] for levels."""
    from tganv2_tf.sampling import rendering
    from tganv2_tf.video_io.videos import enlarge

    num_frames = command.num_frames or sampler.num_frames
    if command.layout == "levels":
        chunks = rendering.render_levels(sampler, chosen, num_frames, command.batch_size, command.resample)
    elif command.layout == "walk":
        chunks = rendering.render_walk(sampler, chosen, num_frames, command.level, command.batch_size)
    else:
        chunks = rendering.render(sampler, chosen, num_frames, command.level, command.batch_size)
    return (enlarge(chunk, command.scale, command.resample) for chunk in chunks)


def write_single(command: Command, sampler: Sampler, chosen: Selection, progress: tqdm) -> str:
    """Writes one file per video. Returns their name or name pattern."""
    from tganv2_tf.video_io import videos

    root, suffix = os.path.splitext(command.output.rstrip("/"))
    named = [f"{root}-{name}{suffix}" for name in chosen.names]
    slash = "/" if videos.is_folder(command.output) else ""
    existing = [name for name in named if slash and os.path.exists(name)]
    if existing:
        raise UserError(f"{existing[0]} already exists; choose another name or delete it")
    num_frames = command.num_frames or sampler.num_frames
    fps = frame_rate(command, sampler)
    for first in range(0, len(chosen), command.batch_size):
        with contextlib.ExitStack() as files:
            writers: list[Callable[[np.ndarray], None]] = []
            for number in range(first, min(first + command.batch_size, len(chosen))):
                one = chosen.part(number, number + 1)
                captions = one.captions() if command.captions else []
                name = f"{named[number]}{slash}"
                writer = videos.open_writer(name, num_frames, fps, arrays=one.arrays(), captions=captions)
                writers.append(files.enter_context(writer))
            for chunk in render(command, sampler, chosen.part(first, first + command.batch_size)):
                for write, video in zip(writers, chunk):
                    write(video[None])
                progress.update(chunk.shape[0] * chunk.shape[1])
    return f"{named[0]}{slash}" if len(named) == 1 else f"{root}-seed*{suffix}{slash}"


def write_with_ray(command: Command, runner: RunnerOptions, progress: tqdm) -> str:
    """Runs `write_single` on the nodes of a cluster, some seeds per task. Returns the files' name or name pattern."""
    from tganv2_tf.runs import Run

    if not storage.is_remote(command.output):
        storage.make_folder(os.path.dirname(command.output) or ".")
    # All tasks must use the same checkpoint, even if training continues meanwhile.
    command = dataclasses.replace(
        command,
        model_dir=ray_cluster.absolute_path(command.model_dir and Run.open(command.model_dir).pinned().name),
        saved_model=ray_cluster.absolute_path(command.saved_model),
        output=ray_cluster.absolute_path(command.output),
    )
    seeds, size = parse_seeds(command.seeds), command.batch_size
    parts = (
        dataclasses.replace(command, seeds=",".join(map(str, seeds[first : first + size])))
        for first in range(0, len(seeds), size)
    )
    names: set[str] = set()
    for _, (name, frames) in ray_cluster.run_tasks(write_part, parts, runner):
        names.add(name)
        progress.update(frames)
    root, suffix = os.path.splitext(command.output)
    return names.pop() if len(names) == 1 else f"{root}-seed*{suffix}"


def write_part(command: Command) -> tuple[str, int]:
    """Writes single files in a worker process. Returns their name or name pattern, and the number of frames."""
    from tqdm import tqdm

    from tganv2_tf.sampling.sampler import cached_sampler

    folder = os.path.dirname(command.output)
    if not storage.is_remote(folder) and not os.path.isdir(folder):
        raise UserError(
            f"--output={command.output}: node {platform.node()} cannot access {folder}; specify a folder that all "
            "nodes mount at the same path, or one in a bucket"
        )
    sampler = cached_sampler(command.model_dir, command.saved_model)
    with tqdm(disable=True) as progress, explain_out_of_memory(command):
        chosen = choose(command, sampler)
        name = write_single(command, sampler, chosen, progress)
    return name, len(chosen) * (command.num_frames or sampler.num_frames)


@contextlib.contextmanager
def explain_out_of_memory(command: Command) -> Iterator[None]:
    """Turns out-of-memory errors in the block into a UserError with advice."""
    import tensorflow as tf

    try:
        yield
    except tf.errors.ResourceExhaustedError as error:
        raise UserError(f"--batch_size={command.batch_size}: out of memory; use a smaller batch") from error


def write_grid(command: Command, sampler: Sampler, chosen: Selection, progress: tqdm) -> str:
    """Writes all videos into one file. Returns its name."""
    from tganv2_tf.video_io import videos

    levels = command.layout == "levels"
    num_frames = chosen.z.shape[1] if command.layout == "walk" else command.num_frames or sampler.num_frames
    columns = sampler.num_levels if levels else command.columns or chosen.columns
    shown = 1 if levels else videos.STRIP_FRAMES
    fps = frame_rate(command, sampler)
    captions = chosen.captions(sampler.num_levels if levels else 0) if command.captions else []
    with videos.open_writer(command.output, num_frames, fps, columns, shown, chosen.arrays(), captions) as write:
        for chunk in render(command, sampler, chosen):
            write(chunk)
            progress.update(chunk.shape[0] * chunk.shape[1])
    return command.output


def main(command: Command, runner: RunnerOptions = LOCAL) -> int:
    from tganv2_tf.video_io import videos

    videos.check_suffix(command.output)
    apart = command.layout == "single" and command.interpolate == "none"
    require(runner.runner == "local" or apart, "runner", "ray", "with --layout=single and without --interpolate")
    # A task of a lost node is repeated; it would fail if the folder had already been written.
    single_files = runner.runner == "local" or not videos.is_folder(command.output)
    require(single_files, "runner", "ray", "with one file per video, not folders of frames")
    import tensorflow as tf
    from tqdm import tqdm

    from tganv2_tf.sampling.sampler import load_sampler

    if runner.runner == "ray":
        tf.config.set_visible_devices([], "GPU")  # leaves the GPUs to tasks on this machine
    sampler = load_sampler(command.model_dir, command.saved_model)
    levels = sampler.num_levels
    if sampler.fixed_length and command.num_frames not in (0, sampler.num_frames):
        raise ConfigError(
            f"--num_frames={command.num_frames}: this generator renders videos of {sampler.num_frames} frames only; "
            f"valid: {sampler.num_frames}, or 0"
        )
    if command.level > levels:
        raise ConfigError(f"--level={command.level}: the generator has {levels} levels; valid: 1 to {levels}")
    check_size(command, sampler)
    chosen = choose(command, sampler)
    frames = chosen.z.shape[1] if command.layout == "walk" else command.num_frames or sampler.num_frames
    total = len(chosen) * frames * (sampler.num_levels if command.layout == "levels" else 1)
    cluster = ray_cluster.connected(runner.ray_address) if runner.runner == "ray" else contextlib.nullcontext()
    memory = explain_out_of_memory(command)
    with cluster, memory, tqdm(total=total, unit=" frames", unit_scale=True, disable=total <= 16) as progress:
        if runner.runner == "ray":
            name = write_with_ray(command, runner, progress)
        else:
            write = write_single if command.layout == "single" else write_grid
            name = write(command, sampler, chosen, progress)
    print(f"{len(chosen)} videos: {name}")
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(main, (Command, RunnerOptions), "tganv2_tf.generate", __doc__))
