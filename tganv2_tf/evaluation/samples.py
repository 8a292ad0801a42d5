"""Sources of videos to score: a generator, a folder, an array, or shards.

Each source is an iterator of batches, float32 [n, 16, H, W, 3] in [-1, 1], n up to the batch size. Generators and
shards are endless.
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
from tganv2_tf.data.clips import normalize
from tganv2_tf.data.damage import cause_of_error
from tganv2_tf.data.labelled import labelled_clips
from tganv2_tf.data.manifest import Manifest
from tganv2_tf.errors import UserError
from tganv2_tf.evaluation.c3d import NUM_FRAMES
from tganv2_tf.evaluation.framing import Framing
from tganv2_tf.models.latents import Latent, latents_from_seeds, truncate
from tganv2_tf.video_io.decoding import VideoError, open_video
from tganv2_tf.video_io.folders import find_videos

Batches = Iterator[tf.Tensor]


class Rebatcher:
    """Rebatches an iterator, so that any number of videos can be taken.

    Args:
      batches: tensors, arrays, or nests of them and of None, with one entry per video along the first axis.
    """

    def __init__(self, batches: Iterator[Any]) -> None:
        self._batches = batches
        self._rest: Any = None

    def take(self, count: int) -> Iterator[Any]:
        """Yields the next `count` videos in batches; fewer if the iterator ends."""
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


def generator_batches(
    sample: Callable[[tf.Tensor, tf.Tensor | None], tf.Tensor],
    latent: Latent,
    seed: int,
    batch_size: int,
    num_classes: int = 0,
    truncation: float = 1.0,
) -> Batches:
    """Yields videos of the latents 0, 1, 2 ... of a seed. Latents do not depend on the batch size.

    Args:
      sample: float32 [n, z_dim], and int32 labels [n] or None -> float32 [n, 16, H, W, 3].
      latent: distribution of the latents.
      seed: in [0, 2^31).
      batch_size: n.
      num_classes: classes of a conditional generator, else 0; video i has class i % num_classes.
      truncation: psi in (0, 1], scale of the latents.
    """
    return (
        generator_batch(sample, latent, seed, number, batch_size, num_classes, truncation)
        for number in itertools.count()
    )


def generator_batch(
    sample: Callable[[tf.Tensor, tf.Tensor | None], tf.Tensor],
    latent: Latent,
    seed: int,
    number: int,
    batch_size: int,
    num_classes: int = 0,
    truncation: float = 1.0,
) -> tf.Tensor:
    """Returns batch `number` (from 0) of `generator_batches` with the same arguments, equal on all machines."""
    numbers = tf.range(number * batch_size, (number + 1) * batch_size, dtype=tf.int64)
    labels = tf.cast(numbers % num_classes, tf.int32) if num_classes else None
    z = truncate(latents_from_seeds(numbers + (seed << 32), latent), truncation, latent)
    return tf.clip_by_value(sample(z, labels), -1.0, 1.0)


def list_videos(folder: str) -> list[pathlib.Path]:
    """Lists all videos (files and folders of frames) in a folder and its subfolders, sorted by path.

    Raises:
      UserError: the folder does not exist or holds no video.
    """
    return sorted(map(pathlib.Path, find_videos(folder).videos))


def folder_batches(
    paths: list[pathlib.Path], batch_size: int, normalization: str, framing: Framing | None = None
) -> Batches:
    """Yields the first 16 frames of each video; all videos of a batch have one size.

    Args:
      paths: video files and folders of frames.
      batch_size: maximum number of videos per batch.
      normalization: mapping from uint8 to [-1, 1], see `normalize`.
      framing: how frames are cropped and resized; None = unchanged.
    Raises:
      UserError: a video cannot be decoded or cropped, is damaged or too short, or has frames of several sizes.
    """
    return _batched(((f"{path}", _first_frames(path)) for path in paths), batch_size, normalization, framing)


def _first_frames(path: pathlib.Path) -> np.ndarray:
    try:
        opened = open_video(path)
        frames = list(itertools.islice(opened.frames, NUM_FRAMES))
    except VideoError as error:
        raise UserError(f"{path}: {error}; remove it from the folder") from error
    if opened.damage.bad_packets:
        raise UserError(f"{path}: its first {NUM_FRAMES} frames are damaged; remove it from the folder")
    if len(frames) < NUM_FRAMES:
        raise UserError(f"{path}: {len(frames)} frames; the scores need {NUM_FRAMES}; remove it from the folder")
    if len({frame.shape for frame in frames}) > 1:
        raise UserError(f"{path}: its frames differ in size; remove it from the folder")
    return np.stack(frames)


def array_batches(videos: np.ndarray, batch_size: int, normalization: str, framing: Framing | None = None) -> Batches:
    """Yields the first 16 frames of each video of an array.

    Args:
      videos: uint8 [N, T, H, W, 3].
      batch_size, normalization, framing: as in `folder_batches`.
    Raises:
      UserError: the dtype or shape is wrong, there are too few frames, or frames cannot be cropped.
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
    """Applies the framing to pairs of a name and a video, uint8 [16, H, W, 3], and yields batches of the videos."""
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
                "%s: %dx%d pixels are squeezed to a square; set --data_dir to crop them like the real videos.",
                *(name, video.shape[2], video.shape[1]),
            )
        if batch and (len(batch) == batch_size or batch[0].shape != video.shape):
            yield normalize(np.stack(batch), normalization)
            batch = []
        batch.append(video)
    yield normalize(np.stack(batch), normalization)


def shard_batches(manifest: Manifest, data: DataConfig, seed: int, batch_size: int) -> Batches:
    """Yields 16-frame clips of real videos, preprocessed as in training.

    Each pass draws one random window per video; passes may overlap at shard boundaries.

    Raises:
      ConfigError: no video is long enough (raised at the first batch).
      UserError: the data are damaged.
    """
    data = dataclasses.replace(data, windows_per_record=1, shuffle_buffer=1)  # scores do not depend on the order
    clips = labelled_clips(manifest, data, NUM_FRAMES, manifest.height, seed, endless=True)
    batches = clips.map(lambda clip, label: normalize(clip, data.normalization)).batch(batch_size)
    try:
        yield from batches.prefetch(tf.data.AUTOTUNE)
    except tf.errors.OpError as error:
        damage = cause_of_error(error, manifest, data)
        raise UserError(damage or f"{data.data_dir}: {error.message.splitlines()[0]}") from error
