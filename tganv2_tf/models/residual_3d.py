"""The discriminators' residual block: spectral-normalised 3D convolutions and average pooling.

Details, such as the padding of odd axes, follow the authors' implementation.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import tensorflow as tf
from tensorflow.keras import layers

from tganv2_tf.models.activation_checkpointing import checkpoint_activations
from tganv2_tf.models.convolutions import average_pairs, relu
from tganv2_tf.models.layers import glorot_uniform, relu_glorot_uniform
from tganv2_tf.models.spectral_norm import LayerWeights, SpectralConv3D


def pooling(
    lengths: Sequence[int], pool_time: bool = True, grow_length_one_axes: bool = False
) -> tuple[list[bool], list[int]]:
    """Returns, for each of T, H, W, whether `average_pool` halves it, and the zeros it first pads on each side."""
    pooled = [length > 1 and (pool_time or axis > 0) for axis, length in enumerate(lengths)]
    padded = [
        (halved and length % 2 == 1) or (length == 1 and grow_length_one_axes and (pool_time or axis > 0))
        for axis, (length, halved) in enumerate(zip(lengths, pooled))
    ]
    return pooled, list(map(int, padded))


def average_pool(inputs: tf.Tensor, pool_time: bool = True, grow_length_one_axes: bool = False) -> tf.Tensor:
    """Halves time (if `pool_time`), height and width by averaging pairs.

    An odd axis longer than 1 is padded by one zero on both sides; the zeros count in the averages, as in the authors'
    code. An axis of length 1 is unchanged. With `grow_length_one_axes` it is padded but not pooled, so it grows to 3,
    as in the authors' code.

    Args:
      inputs: [N, T, H, W, C] with static T, H, W.
    """
    pooled, zeros = pooling(inputs.shape[1:4], pool_time, grow_length_one_axes)
    if any(zeros):
        inputs = tf.pad(inputs, [[count, count] for count in (0, *zeros, 0)])
    return average_pairs(inputs, pooled, pooled)


class BlockWeights(NamedTuple):
    """Weights used by a block."""

    conv1: LayerWeights
    conv2: LayerWeights
    shortcut: LayerWeights


class ResBlock3D(layers.Layer):
    """Residual block of the discriminator, with downsampling (arXiv 1811.09245, architecture; arXiv 1802.05957).

    First block (`first`): conv3-ReLU-conv3-pool + pool-conv1, without pooling of time. Later blocks:
    ReLU-conv3-ReLU-conv3-pool + conv1-pool, with as many hidden as input channels.
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

    def effective_weights(self, lengths: Sequence[int] | None = None) -> BlockWeights:
        """Returns each layer's `effective_weights`; `lengths` is T, H, W of the inputs."""
        return BlockWeights(*(layer.effective_weights(lengths) for layer in (self.conv1, self.conv2, self.shortcut)))

    def checkpointed(self, inputs: tf.Tensor, weights: BlockWeights | None = None) -> tf.Tensor:
        """Like `call`, but stores only inputs and weights and recomputes the block in the backward pass."""
        weights = self.effective_weights() if weights is None else weights

        def block(inputs: tf.Tensor, *flat: tf.Tensor) -> tf.Tensor:
            return self(inputs, weights=tf.nest.pack_sequence_as(weights, flat))

        return checkpoint_activations(block, inputs, *tf.nest.flatten(weights))

    def _pool(self, inputs: tf.Tensor) -> tf.Tensor:
        return average_pool(inputs, pool_time=not self.first, grow_length_one_axes=self.grow_length_one_axes)

    def lengths_after(self, lengths: Sequence[int]) -> list[int]:
        """Returns T', H', W' of the outputs for inputs with T, H, W."""
        pooled, zeros = pooling(lengths, not self.first, self.grow_length_one_axes)
        return [(length + 2 * count) // (2 if halved else 1) for length, count, halved in zip(lengths, zeros, pooled)]

    def call(self, inputs: tf.Tensor, weights: BlockWeights | None = None) -> tf.Tensor:
        """[N, T, H, W, C] -> [N, T', H', W', channels]. `weights` replace the layer's own weights."""
        conv1, conv2, shortcut = (None, None, None) if weights is None else weights
        hidden = relu(self.conv1(inputs if self.first else relu(inputs), weights=conv1))
        lengths = inputs.shape[1:4]
        if self.first or all(n % 2 == 0 or (n == 1 and not self.grow_length_one_axes) for n in lengths):
            # Without padding, pooling can be fused into conv2, and it commutes with the shortcut convolution.
            pool = [n > 1 and not (axis == 0 and self.first) for axis, n in enumerate(lengths)]
            hidden = self.conv2(hidden, pool, weights=conv2)
            return hidden + self.shortcut(self._pool(inputs), weights=shortcut)
        hidden = self.conv2(hidden, weights=conv2)
        return self._pool(hidden + self.shortcut(inputs, weights=shortcut))
