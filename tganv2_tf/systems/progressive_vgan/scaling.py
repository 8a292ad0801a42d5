"""Changes of the size of clips and maps, [N, T, H, W, C]. All can be differentiated any number of times."""

from __future__ import annotations

import math
from collections.abc import Sequence

import tensorflow as tf

from tganv2_tf.data.clips import normalize


def _per_axis(maps: tf.Tensor, factors: Sequence[int], enlarge: bool) -> tf.Tensor:
    """Copies or averages along T, H and W, one after the other, as tensors of three axes."""
    shape = [-1 if size is None else size for size in maps.shape.as_list()]
    for axis, factor in enumerate(factors, start=1):
        if factor == 1:
            continue
        inner = math.prod(shape[axis + 1 :])
        if enlarge:
            shape[axis] *= factor
            rows = tf.reshape(maps, [-1, 1, inner])
            maps = tf.reshape(tf.tile(rows, [1, factor, 1]), shape)
        else:
            shape[axis] //= factor
            maps = tf.reshape(tf.reduce_mean(tf.reshape(maps, [-1, factor, inner]), 1), shape)
    return maps


def copied(maps: tf.Tensor, factors: Sequence[int]) -> tf.Tensor:
    """Enlarges T, H and W by whole factors, by nearest copies."""
    return _per_axis(maps, factors, enlarge=True)


def averaged(maps: tf.Tensor, factors: Sequence[int]) -> tf.Tensor:
    """Reduces T, H and W by whole factors, by averages."""
    return _per_axis(maps, factors, enlarge=False)


def mixed(new: tf.Tensor, old: tf.Tensor, old_share: tf.Tensor) -> tf.Tensor:
    """Interpolates linearly: `new` if the share is 0, `old` if it is 1."""
    return new + (old - new) * old_share


def reduced_reals(clips: tf.Tensor, size: Sequence[int], normalization: str) -> tf.Tensor:
    """Reduces real clips to a level.

    Frames are averaged and rounded to bytes, as the authors do before training. Then time is averaged.

    Args:
      clips: float32 [N, T, H, W, 3] from whole bytes.
      size: T, H and W of the level.
      normalization: How bytes were mapped to [-1, 1], see `data.clips.normalize`.
    Returns:
      float32 [N, *size, 3] in [-1, 1].
    """
    frames, height, width = (full // part for full, part in zip(clips.shape[1:4], size))
    if height * width > 1:
        # Averages of whole bytes are exact, so halves are rounded alike everywhere.
        values = (clips + 1.0) * 127.5 if normalization == "paper" else clips * 128.0 + 128.0
        clips = normalize(tf.round(averaged(tf.round(values), (1, height, width))), normalization)
    return averaged(clips, (frames, 1, 1))
