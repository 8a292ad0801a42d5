"""The videos that are scored: of a generator, of a folder, or real ones.

Each source is an iterator of batches, float32 [n, 16, H, W, 3] in [-1, 1], n up to the batch size. Those of generators
and shards never end.
"""

from __future__ import annotations

import dataclasses
import itertools
import pathlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import tensorflow as tf
from absl import logging

from tganv2_tf.config import DataConfig
from tganv2_tf.data.manifest import Manifest
from tganv2_tf.data.pipeline import labelled_clips, normalize
from tganv2_tf.data.reading import explain
from tganv2_tf.decoding import VideoError, open_video
from tganv2_tf.errors import UserError
from tganv2_tf.evaluation.c3d import NUM_FRAMES
from tganv2_tf.evaluation.framing import Framing
from tganv2_tf.folders import find_videos
from tganv2_tf.models.latents import latents_from_seeds

Batches = Iterator[tf.Tensor]


class Stream:
    """Batches, of which any number of videos can be taken.

    Args:
      batches: whatever has one entry a video along its first axis: tensors, arrays, nests of them and of None.
    """

    def __init__(self, batches: Iterator[Any]) -> None:
        self._batches = batches
        self._rest: Any = None

    def take(self, count: int) -> Iterator[Any]:
        """The next `count` videos in batches; fewer only where there are no more."""
        while count:
            batch = next(self._batches, None) if self._rest is None else self._rest
            if batch is None:
                return
            size = len(tf.nest.flatten(batch)[0])
            self._rest = _sliced(batch, slice(count, None)) if size > count else None
            yield _sliced(batch, slice(count))
            count -= min(size, count)


def _sliced(batch: Any, which: slice) -> Any:
    return tf.nest.map_structure(lambda values: None if values is None else values[which], batch)


def of_generator(
    sample: Callable[[tf.Tensor, tf.Tensor | None], tf.Tensor],
    z_dim: int,
    seed: int,
    batch_size: int,
    num_classes: int = 0,
    truncation: float = 1.0,
) -> Batches:
    """Videos of the latents number 0, 1, 2 ... of a seed, whatever the batch size.

    Args:
      sample: float32 [n, z_dim], and int32 labels [n] or None -> float32 [n, 16, H, W, 3].
      z_dim: dimensions of a latent.
      seed: from 0 up to, not including, 2^31.
      batch_size: n.
      num_classes: of a conditional generator, whose classes take turns: video number i is of class i % num_classes.
      truncation: psi in (0, 1]: latents are of U(-psi, psi).
    """
    return (
        batch_of_generator(sample, z_dim, seed, number, batch_size, num_classes, truncation)
        for number in itertools.count()
    )


def batch_of_generator(
    sample: Callable[[tf.Tensor, tf.Tensor | None], tf.Tensor],
    z_dim: int,
    seed: int,
    number: int,
    batch_size: int,
    num_classes: int = 0,
    truncation: float = 1.0,
) -> tf.Tensor:
    """Batch `number`, from 0, of `of_generator`, with the same other arguments: the same on every machine."""
    numbers = tf.range(number * batch_size, (number + 1) * batch_size, dtype=tf.int64)
    labels = tf.cast(numbers % num_classes, tf.int32) if num_classes else None
    z = truncation * latents_from_seeds(numbers + (seed << 32), z_dim)
    return tf.clip_by_value(sample(z, labels), -1.0, 1.0)


def videos_in(folder: str) -> list[pathlib.Path]:
    """All videos in a folder and below, files and folders of frames, in the order of their paths.

    Raises:
      UserError: no such folder, or no video in it.
    """
    return sorted(map(pathlib.Path, find_videos(folder).videos))


def of_folder(
    paths: list[pathlib.Path], batch_size: int, normalization: str, framing: Framing | None = None
) -> Batches:
    """The first 16 frames of each video; a batch holds videos of one size.

    Args:
      paths: of video files and folders of frames.
      batch_size: the most videos of a batch.
      normalization: from bytes to numbers, as `normalize` has it.
      framing: how frames are cropped and resized; None leaves them as they are.
    Raises:
      UserError: a video that cannot be decoded, is damaged, has fewer frames or frames of several sizes, or cannot be
        cropped.
    """
    return _batched(((f"{path}", _first_frames(path)) for path in paths), batch_size, normalization, framing)


def _first_frames(path: pathlib.Path) -> np.ndarray:
    try:
        opened = open_video(path)
        frames = list(itertools.islice(opened.frames, NUM_FRAMES))
    except VideoError as error:
        raise UserError(f"{path}: {error}; take it out of the folder") from error
    if opened.damage.bad_packets:
        raise UserError(f"{path}: its first {NUM_FRAMES} frames are damaged; take it out of the folder")
    if len(frames) < NUM_FRAMES:
        raise UserError(f"{path}: {len(frames)} frames; the scores are of {NUM_FRAMES}; take it out of the folder")
    if len({frame.shape for frame in frames}) > 1:
        raise UserError(f"{path}: its frames differ in size; take it out of the folder")
    return np.stack(frames)


def of_array(videos: np.ndarray, batch_size: int, normalization: str, framing: Framing | None = None) -> Batches:
    """The first 16 frames of each video of an array, uint8 [N, T, H, W, 3]. The other arguments are `of_folder`'s.

    Raises:
      UserError: another dtype or shape, fewer frames, or frames that cannot be cropped.
    """
    if videos.dtype != np.uint8 or videos.ndim != 5 or videos.shape[-1] != 3 or not videos.size:
        raise UserError(f"videos: {videos.dtype} {list(videos.shape)}; valid: uint8 [N, T, H, W, 3]")
    if videos.shape[1] < NUM_FRAMES:
        raise UserError(f"videos: {videos.shape[1]} frames; the scores need {NUM_FRAMES}")
    named = ((f"videos[{number}]", video[:NUM_FRAMES]) for number, video in enumerate(videos))
    return _batched(named, batch_size, normalization, framing)


def _batched(
    named: Iterable[tuple[str, np.ndarray]], batch_size: int, normalization: str, framing: Framing | None
) -> Batches:
    """Batches of videos, uint8 [16, H, W, 3], that come with their names."""
    batch: list[np.ndarray] = []
    squeezed = False
    for number, (name, video) in enumerate(named):
        if framing is not None:
            try:
                video = framing.fitted(video, number)
            except VideoError as error:
                raise UserError(f"{name}: {error}") from error
        elif video.shape[1] != video.shape[2] and not squeezed:
            squeezed = True
            logging.warning(
                "%s: frames of %dx%d pixels; the network sees them squeezed to a square. Name the real videos by "
                "--data_dir, and they are cropped as those were.",
                *(name, video.shape[2], video.shape[1]),
            )
        if batch and (len(batch) == batch_size or batch[0].shape != video.shape):
            yield normalize(np.stack(batch), normalization)
            batch = []
        batch.append(video)
    yield normalize(np.stack(batch), normalization)


def of_shards(manifest: Manifest, data: DataConfig, seed: int, batch_size: int) -> Batches:
    """Real clips of 16 frames as training sees them, one random window of each video before the next of any.

    (But for the last few of each shard, beside which the next ones begin.)

    Raises:
      ConfigError: at the first batch, where no video has that many frames.
      UserError: damaged data.
    """
    data = dataclasses.replace(data, windows_per_record=1, shuffle_buffer=1)  # scores do not ask for an order
    clips = labelled_clips(manifest, data, NUM_FRAMES, manifest.height, seed, endless=True)
    batches = clips.map(lambda clip, label: normalize(clip, data.normalization)).batch(batch_size)
    try:
        yield from batches.prefetch(tf.data.AUTOTUNE)
    except tf.errors.OpError as error:
        damage = explain(error, manifest, data)
        raise UserError(damage or f"{data.data_dir}: {error.message.splitlines()[0]}") from error
