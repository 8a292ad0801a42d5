"""The networks as they are defined, and as the authors' code runs them, without the cheaper equivalents.

The package computes some layers in forms that give the same values with fewer multiplications. To compare costs with
the authors' figures the benchmark puts the definitions in their place; the package itself has no switch for that.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any
from unittest import mock

import tensorflow as tf

from tganv2_tf.models import layers, residual_3d, spectral_norm


def _conv3x3(inputs: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
    """On 1x1 maps too, where the package takes a matrix product."""
    return tf.nn.conv2d(inputs, kernel, 1, "SAME")


def _upsample_conv3x3(inputs: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
    return _conv3x3(layers.upsample(inputs), kernel)


def _conv3d(inputs: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
    """Along axes of length 1 too, where the package leaves out the taps that meet only padding."""
    return tf.nn.conv3d(inputs, kernel, [1] * 5, "SAME")


def _unroll(lstm: Any, inputs: tf.Tensor, num_frames: int, state: None = None) -> tuple[tf.Tensor, tf.Tensor]:
    """The ConvLSTM of a single map: both convolutions at every frame, on inputs and states of zeros as well."""
    hidden = cell = zeros = tf.zeros_like(inputs)
    frames = []
    for driving in [inputs] + [zeros] * (num_frames - 1):
        hidden, cell = lstm._step(_conv3x3(driving, lstm.input_kernel) + lstm.bias, hidden, cell)
        frames.append(hidden)
    return tf.stack(frames, axis=1), tf.stack([hidden, cell])


def _up_block(block: Any, inputs: tf.Tensor, training: bool = False, labels: None = None) -> tf.Tensor:
    """The shortcut's convolution after the upsampling, not before it."""
    hidden = block.conv1(tf.nn.relu(block.norm1(inputs, training=training)), upsampled=True)
    hidden = block.conv2(tf.nn.relu(block.norm2(hidden, training=training)))
    return hidden + block.shortcut(layers.upsample(inputs))


def _res_block(block: Any, inputs: tf.Tensor) -> tf.Tensor:
    """Convolutions at all positions, then pooling; but for the first block's shortcut, which is defined that way."""
    hidden = block.conv2(tf.nn.relu(block.conv1(inputs if block.first else tf.nn.relu(inputs))))
    shortcut = block.shortcut(block._pool(inputs)) if block.first else block._pool(block.shortcut(inputs))
    return block._pool(hidden) + shortcut


@contextlib.contextmanager
def plain_form() -> Iterator[None]:
    """In its block, networks with one ConvLSTM compute by the definitions. Weights and results are the same."""
    with contextlib.ExitStack() as stack:
        for owner, name, definition in (
            (layers, "conv3x3", _conv3x3),
            (layers, "upsample_conv3x3", _upsample_conv3x3),
            (layers.ConvLSTM, "call", _unroll),
            (layers.UpBlock, "call", _up_block),
            (spectral_norm, "conv3d", _conv3d),
            (residual_3d.ResBlock3D, "call", _res_block),
        ):
            stack.enter_context(mock.patch.object(owner, name, definition))
        yield
