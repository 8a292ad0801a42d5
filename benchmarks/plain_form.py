"""The networks and the training step as they are defined, without the cheaper equivalents.

The package computes some layers, and the gradients of a step, in forms that give the same values with fewer
multiplications. To compare with them the benchmarks put the definitions in their place; the package itself has no
switch for that.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any, Callable
from unittest import mock

import tensorflow as tf

from tganv2_tf.models import convolutions, discriminator, layers, residual_3d, spectral_norm, tganv2
from tganv2_tf.models.scoring import LOSSES, total_scores
from tganv2_tf.training import loop


def _convolve(inputs: tf.Tensor, kernel: tf.Tensor, pool: Sequence[bool] | None = None) -> tf.Tensor:
    """All taps at all positions, then the mean of pairs."""
    if kernel.shape.rank == 4:
        return tf.nn.conv2d(inputs, kernel, 1, "SAME")
    outputs = tf.nn.conv3d(inputs, kernel, [1] * 5, "SAME")
    return outputs if pool is None else convolutions.mean_of_pairs(outputs, pool, pool)


def _upsample_convolve(inputs: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
    return _convolve(convolutions.upsample(inputs), kernel)


def _unroll(lstm: Any, inputs: tf.Tensor, num_frames: int, state: None = None) -> tuple[tf.Tensor, tf.Tensor]:
    """The ConvLSTM of a single map: both convolutions at every frame, on inputs and states of zeros as well."""
    hidden = cell = zeros = tf.zeros_like(inputs)
    frames = []
    for driving in [inputs] + [zeros] * (num_frames - 1):
        gates = _convolve(driving, lstm.input_kernel) + _convolve(hidden, lstm.recurrent_kernel) + lstm.bias
        hidden, cell = lstm._step(gates, cell)
        frames.append(hidden)
    return tf.stack(frames, axis=1), tf.stack([hidden, cell])


def _up_block(block: Any, inputs: tf.Tensor, training: bool = False, labels: None = None) -> tf.Tensor:
    """The shortcut's convolution after the upsampling, not before it."""
    hidden = block.conv1(tf.nn.relu(block.norm1(inputs, training=training)), upsampled=True)
    hidden = block.conv2(tf.nn.relu(block.norm2(hidden, training=training)))
    return hidden + block.shortcut(convolutions.upsample(inputs))


def _res_block(block: Any, inputs: tf.Tensor, bias_scale: None = None) -> tf.Tensor:
    """Convolutions at all positions, then pooling; but for the first block's shortcut, which is defined that way."""
    hidden = block.conv2(tf.nn.relu(block.conv1(inputs if block.first else tf.nn.relu(inputs))))
    shortcut = block.shortcut(block._pool(inputs)) if block.first else block._pool(block.shortcut(inputs))
    return block._pool(hidden) + shortcut


def _real_part(
    model: Any, videos: Sequence[tf.Tensor], labels: tf.Tensor | None, weights: Sequence[tf.Tensor], penalty: float
) -> list[Any]:
    """The gradient of the slopes' squares, by a tape around a tape."""
    train = model.config.train
    with tf.GradientTape() as tape:
        tape.watch(weights)
        with tf.GradientTape() as inner:
            inner.watch(videos)
            logits = model.discriminator(videos, labels)
        squares = [tf.reduce_sum(tf.square(slope)) for slope in inner.gradient(logits, videos)] if penalty else [0.0]
        r1_penalty = train.r1_weight * tf.add_n(squares) / tf.cast(tf.shape(logits[0])[0], tf.float32)
        scores = total_scores(logits, model.config.model.batch_strides, train.score)
        loss = tf.reduce_mean(LOSSES[train.loss].real(scores))
        total = loss + penalty * r1_penalty
    return [loss, logits, r1_penalty, tape.gradient(total, weights)]


def _fake_part(
    model: Any,
    z: tf.Tensor,
    frame_offsets: Sequence[int | tf.Tensor] | None,
    labels: tf.Tensor | None,
    weights: Sequence[tf.Tensor],
    seen: Callable[[Sequence[tf.Tensor]], Sequence[tf.Tensor]],
    train_generator: bool,
) -> tuple[Any, ...]:
    """The gradient of each network's loss for itself."""
    train, strides = model.config.train, model.config.model.batch_strides
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(weights)
        videos = model.generator.pyramid(z, frame_offsets=frame_offsets, labels=labels)
        logits = model.discriminator(seen(videos), labels)
        scores = total_scores(logits, strides, train.score)
        loss = LOSSES[train.loss]
        losses = [tf.reduce_mean(function(scores)) for function in (loss.generator, loss.fake)]
    of_generator = tape.gradient(losses[0], model.generator.trainable_variables) if train_generator else []
    return losses, logits, of_generator, tape.gradient(losses[1], weights)


@contextlib.contextmanager
def plain_form() -> Iterator[None]:
    """In its block, networks with one ConvLSTM, and steps in float32, are computed by the definitions.

    Weights and results are the same.
    """
    with contextlib.ExitStack() as stack:
        for owner, name, definition in (
            (layers, "convolve", _convolve),
            (layers, "upsample_convolve", _upsample_convolve),
            (layers.ConvLSTM, "call", _unroll),
            (layers.UpBlock, "call", _up_block),
            (spectral_norm, "convolve", _convolve),
            (residual_3d.ResBlock3D, "call", _res_block),
            (discriminator, "relu", tf.nn.relu),
            (discriminator.Discriminator, "input_lengths", lambda *_: {}),  # all taps
            (tganv2.TGANv2, "_real_part", _real_part),
            (tganv2.TGANv2, "_fake_part", _fake_part),
            (loop, "Adam", tf.keras.optimizers.Adam),
        ):
            stack.enter_context(mock.patch.object(owner, name, definition))
        yield
