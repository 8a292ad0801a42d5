"""The networks by their definitions, without the package's optimizations, for comparison in benchmarks.

They are the package's networks with the same weights, but compute every layer by its definition: all taps at all
positions, then pooling; upsampling, then all taps; both convolutions of the ConvLSTM at every frame.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from tganv2_tf.config import Config
from tganv2_tf.models.convolutions import upsample
from tganv2_tf.models.discriminator import Discriminator, LevelDiscriminator, LevelWeights
from tganv2_tf.models.generator import Generator
from tganv2_tf.models.layers import Conv2D, RenderingBlock, UpBlock
from tganv2_tf.models.residual_3d import BlockWeights, ResBlock3D, average_pool
from tganv2_tf.models.spectral_norm import LayerWeights
from tganv2_tf.models.tganv2 import TGANv2
from tganv2_tf.subsampling import subsample


def _conv2d(features: tf.Tensor, layer: Conv2D) -> tf.Tensor:
    return tf.nn.conv2d(features, tf.convert_to_tensor(layer.kernel), 1, "SAME") + layer.bias


def _conv3d(features: tf.Tensor, weights: LayerWeights) -> tf.Tensor:
    kernel, bias = (tf.cast(weight, features.dtype) for weight in weights)
    return tf.nn.conv3d(features, kernel, [1] * 5, "SAME") + bias


def _up_block(features: tf.Tensor, block: UpBlock) -> tf.Tensor:
    hidden = _conv2d(upsample(tf.nn.relu(block.norm1(features, training=True))), block.conv1)
    hidden = _conv2d(tf.nn.relu(block.norm2(hidden, training=True)), block.conv2)
    return hidden + _conv2d(upsample(features), block.shortcut)


def _rendering(features: tf.Tensor, block: RenderingBlock) -> tf.Tensor:
    return tf.tanh(tf.cast(_conv2d(tf.nn.relu(block.norm(features, training=True)), block.conv), tf.float32))


class PlainGenerator(Generator):
    """An unconditional generator with one ConvLSTM, for training."""

    def pyramid(
        self,
        z: tf.Tensor,
        training: bool = True,
        frame_strides: Sequence[int] | None = None,
        batch_strides: Sequence[int] | None = None,
        frame_offsets: Sequence[int | tf.Tensor] | None = None,
        labels: tf.Tensor | None = None,
        recompute: bool = False,
    ) -> list[tf.Tensor]:
        """See `Generator.pyramid`; for training without labels and without `recompute`."""
        (lstm,) = self.recurrence
        assert training and labels is None and not recompute
        frame_strides = self.config.frame_strides if frame_strides is None else frame_strides
        batch_strides = self.config.batch_strides if batch_strides is None else batch_strides
        inputs = self.initial_features(z)
        hidden = cell = zeros = tf.zeros_like(inputs)
        frames = []
        for frame in [inputs] + [zeros] * (self.config.num_frames - 1):
            gates = tf.nn.conv2d(frame, tf.convert_to_tensor(lstm.input_kernel), 1, "SAME") + lstm.bias
            gates += tf.nn.conv2d(hidden, tf.convert_to_tensor(lstm.recurrent_kernel), 1, "SAME")
            i, f, o, c = tf.split(gates, 4, axis=-1)
            cell = tf.sigmoid(f) * cell + tf.sigmoid(i) * tf.tanh(c)
            hidden = tf.sigmoid(o) * tf.tanh(cell)
            frames.append(hidden)
        features = tf.stack(frames, axis=1)
        videos = []
        for index, level in enumerate(self.generator_levels):
            if index:
                offset = 0 if frame_offsets is None else frame_offsets[index - 1]
                features = subsample(features, offset, frame_strides[index - 1], batch_strides[index - 1])
            shape, single = features.shape[:2], tf.reshape(features, [-1, *features.shape[2:]])
            for block in level.blocks:
                single = _up_block(single, block)
            rendered = _rendering(single, level.rendering)
            features, video = (tf.reshape(frames, [-1, shape[1], *frames.shape[1:]]) for frames in (single, rendered))
            videos.append(video)
        return videos


def _res_block(features: tf.Tensor, block: ResBlock3D, weights: BlockWeights) -> tf.Tensor:
    def pool(features: tf.Tensor) -> tf.Tensor:
        return average_pool(features, not block.first, block.grow_length_one_axes)

    hidden = _conv3d(features if block.first else tf.nn.relu(features), weights.conv1)
    hidden = pool(_conv3d(tf.nn.relu(hidden), weights.conv2))
    if block.first:
        return hidden + _conv3d(pool(features), weights.shortcut)
    return hidden + pool(_conv3d(features, weights.shortcut))


def _logits(videos: tf.Tensor, network: LevelDiscriminator, weights: LevelWeights) -> tf.Tensor:
    features = tf.cast(videos, network.compute_dtype)
    for block, block_weights in zip(network.blocks, weights.blocks):
        features = _res_block(features, block, block_weights)
    features = tf.reduce_sum(tf.cast(tf.nn.relu(features), tf.float32), [1, 2, 3])
    return (features @ weights.linear.kernel + weights.linear.bias)[:, 0]


class PlainDiscriminator(Discriminator):
    """Discriminators without classes."""

    def call(
        self,
        videos: Sequence[tf.Tensor],
        labels: tf.Tensor | None = None,
        weights: Sequence[LevelWeights] | None = None,
        recompute: bool = False,
    ) -> list[tf.Tensor]:
        """See `Discriminator.call`; without labels and without `recompute`."""
        assert labels is None and not recompute
        if not self.level_discriminators[0].built:
            return super().call(videos)  # creates the weights
        weights = self.effective_weights() if weights is None else weights
        return [_logits(*level) for level in zip(videos, self.level_discriminators, weights)]


def plain_model(config: Config) -> TGANv2:
    """Builds the model of a run with these networks, plain gradients, and Keras' implementation of Adam."""
    train = dataclasses.replace(config.train, gradients="plain")
    tf.keras.utils.set_random_seed(train.seed)
    policy = tf.keras.mixed_precision.global_policy()
    tf.keras.mixed_precision.set_global_policy(train.mixed_precision)  # layers read it when they are created
    try:
        networks: tuple[Any, Any] = PlainGenerator(config.model), PlainDiscriminator(config.model)
    finally:
        tf.keras.mixed_precision.set_global_policy(policy)
    model = TGANv2(*networks, dataclasses.replace(config, train=train))
    rates = train.generator_learning_rate, train.discriminator_learning_rate
    adam = train.adam_beta1, train.adam_beta2, train.adam_epsilon
    model.compile(*(tf.keras.optimizers.Adam(rate, *adam) for rate in rates))
    return model
