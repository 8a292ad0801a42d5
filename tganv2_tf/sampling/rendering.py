"""Selects videos and renders them in chunks of frames, so that memory use does not grow with the video length."""

from __future__ import annotations

import dataclasses
import urllib.parse
from collections.abc import Iterator, Sequence

import numpy as np

from tganv2_tf.models.latents import Latent
from tganv2_tf.sampling.latent_paths import INTERPOLATIONS, ping_pong
from tganv2_tf.sampling.sampler import CHUNK_FRAMES, Sampler
from tganv2_tf.video_io.videos import enlarge

Chunks = Iterator[np.ndarray]


@dataclasses.dataclass(frozen=True)
class LatentPath:
    """A path of latents.

    Attributes:
      name: a valid file name.
      seed: seed of the first latent.
      z: float32 [S, z_dim].
    """

    name: str
    seed: int
    z: np.ndarray


@dataclasses.dataclass(frozen=True)
class Selection:
    """Videos to render, in row-major order of a grid.

    Attributes:
      z: float32 [N, z_dim]; for walks [N, K, z_dim], one latent per frame.
      seeds: int64 [N], the first seed of each video.
      labels: int32 [N]; None without classes.
      names: N valid file names.
      columns: videos per row of a grid; 0 = about as many as rows.
    """

    z: np.ndarray
    seeds: np.ndarray
    labels: np.ndarray | None
    names: list[str]
    columns: int = 0

    def __len__(self) -> int:
        return len(self.z)

    def part(self, first: int, end: int) -> Selection:
        """Returns the videos from index `first` up to, but not including, `end`."""
        labels = None if self.labels is None else self.labels[first:end]
        return Selection(self.z[first:end], self.seeds[first:end], labels, self.names[first:end])

    def captions(self, num_levels: int = 0) -> list[str]:
        """Returns readable names: `seed3-Biking`; with levels, N * num_levels names such as `seed3, level 1`."""
        names = list(map(urllib.parse.unquote, self.names))
        if not num_levels:
            return names
        return [f"{name}, level {level}" for name in names for level in range(1, num_levels + 1)]

    def arrays(self) -> dict[str, np.ndarray]:
        """Returns metadata for an .npz: seeds, z, names, and labels if there are classes."""
        arrays = {"seeds": self.seeds, "z": self.z, "names": np.array(self.names)}
        return arrays if self.labels is None else {**arrays, "labels": self.labels}


def interpolate_seeds(
    z: np.ndarray, seeds: Sequence[int], interpolation: str, steps: int, latent: Latent | None = None
) -> list[LatentPath]:
    """Interpolates from each latent to the next: steps + 1 points each, including both ends.

    Args:
      z: float32 [S, z_dim], S at least 2.
      seeds: S seeds of the latents.
      interpolation: a name in `INTERPOLATIONS`.
      steps: at least 1.
      latent: distribution of the latents; None is U(-1, 1).
    """
    weights = np.arange(steps + 1) / steps
    pairs = zip(seeds, seeds[1:])
    return [
        LatentPath(f"seed{first}-to-{second}", first, INTERPOLATIONS[interpolation](z[i], z[i + 1], weights, latent))
        for i, (first, second) in enumerate(pairs)
    ]


def concatenate_paths(paths: Sequence[LatentPath], name: str) -> LatentPath:
    """Concatenates paths; the common point of two consecutive paths is kept once."""
    return LatentPath(name, paths[0].seed, np.concatenate([*(path.z[:-1] for path in paths), paths[-1].z[-1:]]))


def select(
    paths: Sequence[LatentPath], class_names: Sequence[str] = (), labels: Sequence[int] = (), walk: bool = False
) -> Selection:
    """Selects one video per latent and label.

    Args:
      paths: paths of equal length.
      class_names: classes of the generator; empty for an unconditional one.
      labels: classes; each is one row of videos, with the same latents in all rows. If empty, a conditional generator
        renders class seed % num_classes for each path.
      walk: render one video per path, whose latent moves along the path.
    """
    cells: list[tuple[np.ndarray, int, int | None, str]] = []
    points = len(paths[0].z)
    rows: Sequence[int | None] = labels or [None]
    for row in rows:
        for path in paths:
            label = path.seed % len(class_names) if class_names and row is None else row
            name = path.name if label is None else f"{path.name}-{urllib.parse.quote(class_names[label], safe='')}"
            if walk or points == 1:
                cells.append((path.z if walk else path.z[0], path.seed, label, name))
            else:
                cells += [(z, path.seed, label, f"{name}-step{i}") for i, z in enumerate(path.z)]
    latents, seeds, chosen, names = zip(*cells)
    columns = 0 if walk else points if points > 1 else len(paths) if labels else 0
    known = np.array(chosen, np.int32) if class_names else None
    return Selection(np.stack(latents), np.array(seeds, np.int64), known, list(names), columns)


def render(sampler: Sampler, chosen: Selection, num_frames: int, level: int, batch_size: int) -> Chunks:
    """Renders videos, each from one latent.

    Args:
      sampler: the generator.
      chosen: N videos.
      num_frames: T.
      level: from 1; 0 = the last.
      batch_size: videos per batch.
    Yields:
      uint8 [N, t, H, W, 3], t up to 16, T frames in total.
    """
    parts = [chosen.part(first, first + batch_size) for first in range(0, len(chosen), batch_size)]
    streams = [sampler.stream(part.z, num_frames, level, part.labels) for part in parts]
    for rendered in zip(*streams):
        yield np.concatenate(rendered)


def render_levels(sampler: Sampler, chosen: Selection, num_frames: int, batch_size: int, resample: str) -> Chunks:
    """Renders all levels of each video, enlarged to the size of the last level (paper, Figure 4).

    Args are those of `render`, and `resample`, the method of enlarging.

    Yields:
      uint8 [N * L, t, H, W, 3]; the L levels of a video are adjacent.
    """
    levels = range(1, sampler.num_levels + 1)
    for rendered in zip(*(render(sampler, chosen, num_frames, level, batch_size) for level in levels)):
        equal = [enlarge(videos, sampler.sizes[-1] // videos.shape[2], resample) for videos in rendered]
        yield np.stack(equal, axis=1).reshape(-1, *equal[-1].shape[1:])


def render_walk(sampler: Sampler, chosen: Selection, num_frames: int, level: int, batch_size: int) -> Chunks:
    """Renders walks through the latent space: frame k is frame t(k) of the clip of latent k.

    t(k) runs through the clip back and forth, so that content and motion stay continuous in walks of any length. Each
    frame requires rendering a full clip, because a ConvLSTM state cannot continue with another latent.

    Args are those of `render`; `num_frames` is the length of the clips.

    Yields:
      uint8 [N, t, H, W, 3], one frame per latent in total.
    """
    length = chosen.z.shape[1]
    frame_indices = ping_pong(length, num_frames)
    for first in range(0, length, CHUNK_FRAMES):
        z, times = chosen.z[:, first : first + CHUNK_FRAMES], frame_indices[first : first + CHUNK_FRAMES]
        flat = z.reshape(-1, z.shape[-1])
        labels = None if chosen.labels is None else np.repeat(chosen.labels, len(times))
        frames = []
        for at in range(0, len(flat), batch_size):
            some = slice(at, at + batch_size)
            clips = sampler.render(flat[some], num_frames, level, None if labels is None else labels[some])
            frames.append(clips[np.arange(len(clips)), np.tile(times, len(z))[some]])
        yield np.concatenate(frames).reshape(*z.shape[:2], *frames[0].shape[1:])
