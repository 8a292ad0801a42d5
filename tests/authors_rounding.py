"""Batch norms that add up as the authors' code does on a CPU, so that its numbers can be compared."""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf

from tganv2_tf.models.generator import Generator
from tganv2_tf.models.layers import BatchNorm


def round_as_the_authors(generator: Generator) -> Generator:
    """Replaces the moments of all batch norms in training; inference is unchanged. Returns the same generator."""
    for layer in generator.submodules:
        if isinstance(layer, BatchNorm):
            layer.moments = _rounding_moments(by_image=layer is generator.generator_levels[0].blocks[0].norm1)
    return generator


def _rounding_moments(by_image: bool) -> Callable[[tf.Tensor], tuple[tf.Tensor, tf.Tensor]]:
    """Returns moments for batch norm, float32 [M, H, W, C] -> [C], [C], that round like the authors' code on a CPU.

    NumPy sums in memory order. Outputs of Chainer's convolutions have channels innermost, so all values of a channel
    are added one by one to a single float32. Over 300,000 values, variances deviate by up to 7e-4 from exact sums,
    videos by 4e-4, and single gradients by 4 %. The frames of the recurrence (`by_image`) have channels outermost, so
    each map is summed separately first.
    """

    def mean(values: tf.Tensor) -> tf.Tensor:
        channels, count = values.shape[-1], tf.cast(tf.reduce_prod(tf.shape(values)[:-1]), tf.float32)
        terms = tf.reduce_sum(values, [1, 2]) if by_image else tf.reshape(values, [-1, channels])
        # The last running sum; the order of reduce_sum differs, and depends on the number of channels.
        return tf.cumsum(terms)[-1] / count

    def moments(values: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        center = mean(values)
        return center, mean(tf.square(values - tf.stop_gradient(center)))

    return moments
