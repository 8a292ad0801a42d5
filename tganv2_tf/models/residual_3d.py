"""The discriminators' residual block: spectral-normalised 3D convolutions and average pooling.

Details, such as what happens to odd axes, are those of the authors' implementation.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tensorflow as tf
from tensorflow.keras import layers

from tganv2_tf.models.convolutions import mean_of_pairs, relu
from tganv2_tf.models.layers import glorot_uniform, relu_glorot_uniform
from tganv2_tf.models.recomputation import recomputed
from tganv2_tf.models.spectral_norm import SpectralConv3D, given_weights


def pooling(
    lengths: Sequence[int], pool_time: bool = True, grow_length_one_axes: bool = False
) -> tuple[list[bool], list[int]]:
    """For each of T, H, W whether `average_pool` halves it, and how many zeros it pads on both sides before."""
    pooled = [length > 1 and (pool_time or axis > 0) for axis, length in enumerate(lengths)]
    padded = [
        (halved and length % 2 == 1) or (length == 1 and grow_length_one_axes and (pool_time or axis > 0))
        for axis, (length, halved) in enumerate(zip(lengths, pooled))
    ]
    return pooled, list(map(int, padded))


def average_pool(inputs: tf.Tensor, pool_time: bool = True, grow_length_one_axes: bool = False) -> tf.Tensor:
    """Halves time (unless told not to), height and width by averages of pairs.

    An odd axis longer than 1 is padded by a zero on both sides, and the zeros count, as in the authors' code. An axis
    of length 1 is left alone, or, with `grow_length_one_axes`, padded and not pooled: it grows to 3 as it does there.

    Args:
      inputs: [N, T, H, W, C] with static T, H, W.
    """
    pooled, zeros = pooling(inputs.shape[1:4], pool_time, grow_length_one_axes)
    if any(zeros):
        inputs = tf.pad(inputs, [[count, count] for count in (0, *zeros, 0)])
    return mean_of_pairs(inputs, pooled, pooled)


class ResBlock3D(layers.Layer):
    """Residual block of the discriminator; it halves its input.

    First block (`first`): conv3-ReLU-conv3-pool, plus pool-conv1; time is not pooled. Later blocks:
    ReLU-conv3-ReLU-conv3-pool, plus conv1-pool; the hidden channels are those of the input.
    """

    def __init__(
        self,
        channels: int,
        first: bool,
        spectral_norm: bool,
        grow_length_one_axes: bool,
        in_channels: int,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.first = first
        self.grow_length_one_axes = grow_length_one_axes
        hidden = channels if first else in_channels
        self.conv1 = SpectralConv3D(hidden, 3, relu_glorot_uniform(), spectral_norm, name="conv1")
        self.conv2 = SpectralConv3D(channels, 3, relu_glorot_uniform(), spectral_norm, name="conv2")
        self.shortcut = SpectralConv3D(channels, 1, glorot_uniform(), spectral_norm, name="shortcut")

    def recomputed(self, inputs: tf.Tensor, bias_scale: tf.Tensor | None = None) -> tf.Tensor:
        """`call`, which is computed again to go back through it; only the inputs are kept."""
        convolutions = (self.conv1, self.conv2, self.shortcut)
        weights = [layer.weights_in_use() for layer in convolutions]

        def block(inputs: tf.Tensor, *weights: tf.Tensor) -> tf.Tensor:
            with given_weights(convolutions, weights[:3], weights[3:]):
                return self(inputs, bias_scale)

        return recomputed(block, inputs, *(kernel for kernel, _ in weights), *(bias for _, bias in weights))

    def _pool(self, inputs: tf.Tensor) -> tf.Tensor:
        return average_pool(inputs, pool_time=not self.first, grow_length_one_axes=self.grow_length_one_axes)

    def lengths_after(self, lengths: Sequence[int]) -> list[int]:
        """T', H', W' of what it makes of inputs with T, H, W."""
        pooled, zeros = pooling(lengths, not self.first, self.grow_length_one_axes)
        return [(length + 2 * count) // (2 if halved else 1) for length, count, halved in zip(lengths, zeros, pooled)]

    def call(self, inputs: tf.Tensor, bias_scale: tf.Tensor | None = None) -> tf.Tensor:
        """[N, T, H, W, C] -> [N, T', H', W', channels]; `bias_scale` as in `LevelDiscriminator`."""
        hidden = relu(self.conv1(inputs if self.first else relu(inputs), bias_scale=bias_scale))
        lengths = inputs.shape[1:4]
        if self.first or all(n % 2 == 0 or (n == 1 and not self.grow_length_one_axes) for n in lengths):
            # No zeros are padded in: the mean joins the convolution, and commutes with the shortcut's.
            pool = [n > 1 and not (axis == 0 and self.first) for axis, n in enumerate(lengths)]
            return self.conv2(hidden, pool, bias_scale) + self.shortcut(self._pool(inputs), bias_scale=bias_scale)
        return self._pool(self.conv2(hidden, bias_scale=bias_scale) + self.shortcut(inputs, bias_scale=bias_scale))
