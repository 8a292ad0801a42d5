"""Which videos are rendered, and their frames, part after part, in memory that does not grow with their number."""

from __future__ import annotations

import dataclasses
import urllib.parse
from collections.abc import Iterator, Sequence

import numpy as np

from tganv2_tf.serving.latent_paths import WAYS, back_and_forth
from tganv2_tf.serving.sampler import CHUNK_FRAMES, Sampler
from tganv2_tf.videos import enlarge

Chunks = Iterator[np.ndarray]


@dataclasses.dataclass(frozen=True)
class LatentPath:
    """Latents that belong together.

    Attributes:
      name: fit for a file.
      seed: of the first latent.
      z: float32 [S, z_dim].
    """

    name: str
    seed: int
    z: np.ndarray


@dataclasses.dataclass(frozen=True)
class Selection:
    """Videos to render, row by row.

    Attributes:
      z: float32 [N, z_dim]; [N, K, z_dim] of walks, a latent for each of their K frames.
      seeds: int64 [N], the first seed of each.
      labels: int32 [N]; None where there are no classes.
      names: N names, each fit for a file.
      columns: videos a row of a grid; 0 = about as many as rows.
    """

    z: np.ndarray
    seeds: np.ndarray
    labels: np.ndarray | None
    names: list[str]
    columns: int = 0

    def __len__(self) -> int:
        return len(self.z)

    def part(self, first: int, end: int) -> Selection:
        """The videos from number `first` to, not including, `end`."""
        labels = None if self.labels is None else self.labels[first:end]
        return Selection(self.z[first:end], self.seeds[first:end], labels, self.names[first:end])

    def captions(self, num_levels: int = 0) -> list[str]:
        """The names as they are read: `seed3-Biking`. With levels, N * num_levels of them, such as `seed3, level 1`."""
        names = list(map(urllib.parse.unquote, self.names))
        if not num_levels:
            return names
        return [f"{name}, level {level}" for name in names for level in range(1, num_levels + 1)]

    def arrays(self) -> dict[str, np.ndarray]:
        """What an archive says of its videos: seeds, z, names, and labels where there are classes."""
        arrays = {"seeds": self.seeds, "z": self.z, "names": np.array(self.names)}
        return arrays if self.labels is None else {**arrays, "labels": self.labels}


def between(z: np.ndarray, seeds: Sequence[int], way: str, steps: int) -> list[LatentPath]:
    """The ways from each latent to the next: steps + 1 points each, the ends among them.

    Args:
      z: float32 [S, z_dim], S at least 2.
      seeds: those of the latents.
      way: one of `WAYS`.
      steps: at least 1.
    """
    weights = np.arange(steps + 1) / steps
    pairs = zip(seeds, seeds[1:])
    return [
        LatentPath(f"seed{first}-to-{second}", first, WAYS[way](z[i], z[i + 1], weights))
        for i, (first, second) in enumerate(pairs)
    ]


def joined(paths: Sequence[LatentPath], name: str) -> LatentPath:
    """One way through all of them; a point at which two meet comes once."""
    return LatentPath(name, paths[0].seed, np.concatenate([*(path.z[:-1] for path in paths), paths[-1].z[-1:]]))


def select(
    paths: Sequence[LatentPath], class_names: Sequence[str] = (), labels: Sequence[int] = (), walk: bool = False
) -> Selection:
    """A video for each latent of the paths; with classes, all of them in each class.

    Args:
      paths: of equal length.
      class_names: of the generator; none of an unconditional one.
      labels: a row of videos for each, all with the same latents. Where a conditional generator gets none, the classes
        come in turn, by seed: a path shows the class seed % num_classes.
      walk: one video a path, which goes through its latents while it plays.
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


def play(sampler: Sampler, chosen: Selection, num_frames: int, level: int, batch_size: int) -> Chunks:
    """All videos, each from its own latent.

    Args:
      sampler: the generator.
      chosen: N videos.
      num_frames: T.
      level: from 1; 0 = the last.
      batch_size: videos that are rendered together.
    Yields:
      uint8 [N, t, H, W, 3], t up to 16, T in all.
    """
    parts = [chosen.part(first, first + batch_size) for first in range(0, len(chosen), batch_size)]
    streams = [sampler.stream(part.z, num_frames, level, part.labels) for part in parts]
    for rendered in zip(*streams):
        yield np.concatenate(rendered)


def play_levels(sampler: Sampler, chosen: Selection, num_frames: int, batch_size: int, resample: str) -> Chunks:
    """Every level of each video, enlarged to the size of the last (paper, Figure 4).

    Args are those of `play`, and the way of enlarging.

    Yields:
      uint8 [N * L, t, H, W, 3]: the levels of a video follow each other.
    """
    levels = range(1, sampler.num_levels + 1)
    for rendered in zip(*(play(sampler, chosen, num_frames, level, batch_size) for level in levels)):
        equal = [enlarge(videos, sampler.sizes[-1] // videos.shape[2], resample) for videos in rendered]
        yield np.stack(equal, axis=1).reshape(-1, *equal[-1].shape[1:])


def play_walk(sampler: Sampler, chosen: Selection, num_frames: int, level: int, batch_size: int) -> Chunks:
    """Videos whose latents move while they play: frame k is frame t(k) of the clip of latent number k.

    The clock t goes through the clip forwards and backwards, so that neither what is seen nor its motion jumps, however
    long the walk. Each frame costs a clip of its own: a recurrence that has begun from one latent cannot go on with
    another.

    Args are those of `play`; `num_frames` is the length of the clips.

    Yields:
      uint8 [N, t, H, W, 3], as many frames in all as each walk has latents.
    """
    length = chosen.z.shape[1]
    clock = back_and_forth(length, num_frames)
    for first in range(0, length, CHUNK_FRAMES):
        z, times = chosen.z[:, first : first + CHUNK_FRAMES], clock[first : first + CHUNK_FRAMES]
        flat = z.reshape(-1, z.shape[-1])
        labels = None if chosen.labels is None else np.repeat(chosen.labels, len(times))
        frames = []
        for at in range(0, len(flat), batch_size):
            some = slice(at, at + batch_size)
            clips = sampler.render(flat[some], num_frames, level, None if labels is None else labels[some])
            frames.append(clips[np.arange(len(clips)), np.tile(times, len(z))[some]])
        yield np.concatenate(frames).reshape(*z.shape[:2], *frames[0].shape[1:])
