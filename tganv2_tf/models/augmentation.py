"""DiffAugment for pyramids of clips: what the discriminators see of reals and fakes alike (Zhao et al., 2020).

A clip has ONE transform, for all its frames and on all levels: a discriminator that sees a clip change colour in its
midst, or sit elsewhere at another resolution, would teach the generator to do the same. Transforms of fine levels are
therefore those that, followed by the mean over pixels, are the transform of the coarse level: colours are affine maps
of single pixels, and translation and cutout move by whole pixels of level 1.

The ranges are the paper's, with pixels in [-1, 1], and so is the grey, 0, that stands where nothing is left. It differs
in one thing: contrast is about that grey instead of the image's own mean, which is another one on each frame and level.
As in the paper, results may leave [-1, 1].
"""

from __future__ import annotations

import itertools
import operator
from collections.abc import Callable, Sequence
from typing import NamedTuple

import tensorflow as tf

from tganv2_tf.augmentation_policy import POLICIES


class Transform(NamedTuple):
    """One kind of augmentation.

    Attributes:
      draw: (N, size of level 1 in pixels, seed) -> the parameters of N clips, [N, number of parameters].
      apply: (videos of any level, their parameters, size of level 1) -> videos.
    """

    draw: Callable[[int | tf.Tensor, int, tf.Tensor], tf.Tensor]
    apply: Callable[[tf.Tensor, tf.Tensor, int], tf.Tensor]


def draw_color(num_clips: int | tf.Tensor, size: int, seed: tf.Tensor) -> tf.Tensor:
    """Brightness in [-1/2, 1/2), saturation in [0, 2), contrast in [1/2, 3/2), uniform: float32 [num_clips, 3]."""
    return tf.random.stateless_uniform([num_clips, 3], seed, [-0.5, 0.0, 0.5], [0.5, 2.0, 1.5])


def color(videos: tf.Tensor, parameters: tf.Tensor, size: int) -> tf.Tensor:
    """contrast * (m + saturation * (x - m) + brightness), with m the mean of a pixel's red, green and blue."""
    brightness, saturation, contrast = tf.unstack(
        parameters[:, tf.newaxis, tf.newaxis, tf.newaxis, tf.newaxis], axis=-1
    )
    mean = tf.reduce_mean(videos, axis=-1, keepdims=True)
    return contrast * (mean + saturation * (videos - mean) + brightness)


def draw_translation(num_clips: int | tf.Tensor, size: int, seed: tf.Tensor) -> tf.Tensor:
    """Pixels of level 1 down and to the right, each a whole number from -size / 8 to size / 8: int32 [num_clips, 2]."""
    return tf.random.stateless_uniform([num_clips, 2], seed, -(size // 8), size // 8 + 1, tf.int32)


def translate(videos: tf.Tensor, parameters: tf.Tensor, size: int) -> tf.Tensor:
    """Moves videos; grey comes in, and what goes over the edge is gone."""

    # A move back is the gradient of a move. TensorFlow's own gradient of `gather` adds up in any order, and slowly.
    @tf.custom_gradient
    def moved(videos: tf.Tensor) -> tuple[tf.Tensor, Callable[[tf.Tensor], tf.Tensor]]:
        return _move(videos, parameters, size), lambda upstream: translate(upstream, -parameters, size)

    return moved(videos)


def _move(videos: tf.Tensor, parameters: tf.Tensor, size: int) -> tf.Tensor:
    frames, height, width, channels = videos.shape[1:]
    from_index = tf.range(size) - parameters[:, :, tf.newaxis]  # [N, 2, size]
    exists = tf.cast((from_index >= 0) & (from_index < size), videos.dtype)[:, :, tf.newaxis, :, tf.newaxis]
    from_index = tf.clip_by_value(from_index, 0, size - 1)
    # A pixel of level 1 is a block here, so whole rows, and then pieces of rows, are copied.
    rows = tf.reshape(videos, [-1, frames, size, height // size * width * channels])
    rows = tf.gather(rows, from_index[:, 0], axis=2, batch_dims=1) * exists[:, 0]
    pieces = tf.reshape(rows, [-1, frames * height, size, width // size * channels])
    pieces = tf.gather(pieces, from_index[:, 1], axis=2, batch_dims=1) * exists[:, 1]
    return tf.reshape(pieces, tf.shape(videos))


def draw_cutout(num_clips: int | tf.Tensor, size: int, seed: tf.Tensor) -> tf.Tensor:
    """Centre of the hole: row and column of level 1, each a whole number from 0 to size: int32 [num_clips, 2]."""
    return tf.random.stateless_uniform([num_clips, 2], seed, 0, size + 1, tf.int32)


def cut_out(videos: tf.Tensor, parameters: tf.Tensor, size: int) -> tf.Tensor:
    """Greys out a square of half of the side; of one near the edge, what lies within."""
    index = tf.range(size) - parameters[:, :, tf.newaxis]  # [N, 2, size]
    inside = (index >= -(size // 4)) & (index < size // 4)
    hole = inside[:, 0, :, tf.newaxis] & inside[:, 1, tf.newaxis, :]
    kept = tf.cast(~hole, videos.dtype)
    scale = videos.shape[2] // size
    kept = tf.repeat(tf.repeat(kept, scale, axis=1), scale, axis=2)
    return videos * kept[:, tf.newaxis, :, :, tf.newaxis]


TRANSFORMS = {
    "color": Transform(draw_color, color),
    "translation": Transform(draw_translation, translate),
    "cutout": Transform(draw_cutout, cut_out),
}


def diffaugment(
    videos: Sequence[tf.Tensor], policy: Sequence[str], batch_strides: Sequence[int], seed: tf.Tensor
) -> list[tf.Tensor]:
    """Transforms each clip of a pyramid in its own way; the gradient flows through, twice if need be.

    Args:
      videos: the pyramid's L levels, level l float32 [N_l, T_l, H_l, W_l, 3] in [-1, 1], H_l = W_l a multiple of H_1,
        and that a multiple of 8. Sample i of level l + 1 is sample batch_strides[l] * i of level l.
      policy: which transforms, in the order of their application; of `POLICIES`, by `parse_policy`.
      batch_strides: the clips that a level keeps of the one before, L - 1 strides.
      seed: int32 or int64 [2], a stateless seed; another one for reals, for fakes and on every replica.
    Returns:
      The levels, of the same shapes; the very same tensors where the policy is empty.
    Raises:
      ValueError: another number of strides.
    """
    if len(batch_strides) != len(videos) - 1:
        raise ValueError(f"{len(batch_strides)} batch strides for {len(videos)} levels")
    levels = list(videos)
    num_clips, size = videos[0].shape[0] or tf.shape(videos[0])[0], videos[0].shape[2]
    clip_strides = list(itertools.accumulate((1, *batch_strides), operator.mul))
    for name in policy:
        transform = TRANSFORMS[name]
        # Its own draw, whatever else the policy has.
        seed_of_name = tf.random.experimental.stateless_fold_in(seed, POLICIES.index(name))
        parameters = transform.draw(num_clips, size, seed_of_name)
        levels = [transform.apply(level, parameters[::stride], size) for level, stride in zip(levels, clip_strides)]
    return levels
