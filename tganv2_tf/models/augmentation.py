"""DiffAugment (Zhao et al., arXiv 2006.10738) for pyramids of clips, applied to reals and fakes.

All frames and levels of a clip share one transform. Otherwise the generator would learn to change colour or position
within a clip or between levels. A transform commutes with averaging pixels down to a coarser level: colour transforms
are affine per pixel, and translation and cutout move by whole pixels of level 1.

Ranges are the paper's, for pixels in [-1, 1]; the fill value is 0 (grey). One thing differs from the paper: contrast is
relative to grey instead of the image mean, because the mean differs between frames and levels. As in the paper,
results may leave [-1, 1].
"""

from __future__ import annotations

import itertools
import operator
from collections.abc import Callable, Sequence
from typing import NamedTuple

import tensorflow as tf

from tganv2_tf.config import POLICIES


class Transform(NamedTuple):
    """One kind of augmentation.

    Attributes:
      draw: Maps (N, size of level 1 in pixels, seed) to the parameters of N clips, [N, number of parameters].
      apply: Maps (videos of any level, parameters, size of level 1) to videos.
    """

    draw: Callable[[int | tf.Tensor, int, tf.Tensor], tf.Tensor]
    apply: Callable[[tf.Tensor, tf.Tensor, int], tf.Tensor]


def draw_color(num_clips: int | tf.Tensor, size: int, seed: tf.Tensor) -> tf.Tensor:
    """Draws brightness in [-1/2, 1/2), saturation in [0, 2), contrast in [1/2, 3/2): float32 [num_clips, 3]."""
    return tf.random.stateless_uniform([num_clips, 3], seed, [-0.5, 0.0, 0.5], [0.5, 2.0, 1.5])


def color(videos: tf.Tensor, parameters: tf.Tensor, size: int) -> tf.Tensor:
    """Computes contrast * (m + saturation * (x - m) + brightness), where m is the mean of a pixel's channels."""
    brightness, saturation, contrast = tf.unstack(
        parameters[:, tf.newaxis, tf.newaxis, tf.newaxis, tf.newaxis], axis=-1
    )
    mean = tf.reduce_mean(videos, axis=-1, keepdims=True)
    return contrast * (mean + saturation * (videos - mean) + brightness)


def draw_translation(num_clips: int | tf.Tensor, size: int, seed: tf.Tensor) -> tf.Tensor:
    """Draws shifts down and right, in pixels of level 1, from -size / 8 to size / 8: int32 [num_clips, 2]."""
    return tf.random.stateless_uniform([num_clips, 2], seed, -(size // 8), size // 8 + 1, tf.int32)


def translate(videos: tf.Tensor, parameters: tf.Tensor, size: int) -> tf.Tensor:
    """Shifts videos and fills with grey."""

    # The gradient is the opposite shift. TensorFlow's gradient of `gather` is slow and not deterministic.
    @tf.custom_gradient
    def translated(videos: tf.Tensor) -> tuple[tf.Tensor, Callable[[tf.Tensor], tf.Tensor]]:
        return _translate(videos, parameters, size), lambda grad_output: translate(grad_output, -parameters, size)

    return translated(videos)


def _translate(videos: tf.Tensor, parameters: tf.Tensor, size: int) -> tf.Tensor:
    frames, height, width, channels = videos.shape[1:]
    from_index = tf.range(size) - parameters[:, :, tf.newaxis]  # [N, 2, size]
    exists = tf.cast((from_index >= 0) & (from_index < size), videos.dtype)[:, :, tf.newaxis, :, tf.newaxis]
    from_index = tf.clip_by_value(from_index, 0, size - 1)
    # A pixel of level 1 is a block of pixels here: copies whole rows, then parts of rows.
    rows = tf.reshape(videos, [-1, frames, size, height // size * width * channels])
    rows = tf.gather(rows, from_index[:, 0], axis=2, batch_dims=1) * exists[:, 0]
    pieces = tf.reshape(rows, [-1, frames * height, size, width // size * channels])
    pieces = tf.gather(pieces, from_index[:, 1], axis=2, batch_dims=1) * exists[:, 1]
    return tf.reshape(pieces, tf.shape(videos))


def draw_cutout(num_clips: int | tf.Tensor, size: int, seed: tf.Tensor) -> tf.Tensor:
    """Draws the centre of the hole, row and column in pixels of level 1, from 0 to size: int32 [num_clips, 2]."""
    return tf.random.stateless_uniform([num_clips, 2], seed, 0, size + 1, tf.int32)


def cut_out(videos: tf.Tensor, parameters: tf.Tensor, size: int) -> tf.Tensor:
    """Fills a square of half the side length with grey. The square may extend over the edge."""
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
    """Applies a random transform to each clip of a pyramid. The result can be differentiated twice.

    Args:
      videos: L levels, level l float32 [N_l, T_l, H_l, W_l, 3] in [-1, 1]. H_l = W_l is a multiple of H_1, and H_1 of
        8. Sample i of level l + 1 is sample batch_strides[l] * i of level l.
      policy: Names of the transforms, in order of application, as `parse_policy` returns them.
      batch_strides: Batch strides between levels, L - 1 integers.
      seed: Stateless seed, int32 or int64 [2]; must differ between reals, fakes and replicas.
    Returns:
      Levels of the same shapes. With an empty policy, the input tensors themselves.
    Raises:
      ValueError: The number of strides is wrong.
    """
    if len(batch_strides) != len(videos) - 1:
        raise ValueError(f"{len(batch_strides)} batch strides for {len(videos)} levels")
    levels = list(videos)
    num_clips, size = videos[0].shape[0] or tf.shape(videos[0])[0], videos[0].shape[2]
    clip_strides = list(itertools.accumulate((1, *batch_strides), operator.mul))
    for name in policy:
        transform = TRANSFORMS[name]
        # A transform draws the same parameters whatever other transforms the policy contains.
        seed_of_name = tf.random.experimental.stateless_fold_in(seed, POLICIES.index(name))
        parameters = transform.draw(num_clips, size, seed_of_name)
        levels = [transform.apply(level, parameters[::stride], size) for level, stride in zip(levels, clip_strides)]
    return levels
