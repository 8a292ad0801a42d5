"""ProgressiveVGAN's networks (Acharya et al., arXiv 1810.02419), with the authors' initialisers and scales.

Axes are N, T, H, W, C. Levels are those of `ModelConfig`: 0 has 4x4 pixels. While a level fades in, its result is mixed
with that of the level before; the share of the latter falls from 1 to 0.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import tensorflow as tf
from tensorflow.keras import layers

from tganv2_tf.models.convolutions import upsample_convolve
from tganv2_tf.systems.clip_generator import ClipGenerator
from tganv2_tf.systems.layers import leaky_relu
from tganv2_tf.systems.progressive_vgan.config import ModelConfig
from tganv2_tf.systems.progressive_vgan.scaling import averaged, copied, mixed
from tganv2_tf.systems.progressive_vgan.schedule import STDDEV_GROUP

EPSILON = 1e-8
ROOT_2 = math.sqrt(2.0)
COLOURS = 3


def pixel_norm(maps: tf.Tensor) -> tf.Tensor:
    """Divides the channels of each position by the root of their mean square."""
    return maps * tf.math.rsqrt(tf.reduce_mean(tf.square(maps), -1, keepdims=True) + EPSILON)


def with_deviation(maps: tf.Tensor) -> tf.Tensor:
    """Appends a channel: the mean standard deviation over groups of up to four clips (arXiv 1710.10196, section 3).

    With g groups, clips i, i + g, i + 2 g, ... are a group.

    Args:
      maps: float32 [N, T, H, W, C]; N is below 5 or a multiple of 4.
    """
    count = maps.shape[0] or tf.shape(maps)[0]
    group = min(STDDEV_GROUP, count) if isinstance(count, int) else tf.minimum(STDDEV_GROUP, count)
    groups = tf.reshape(maps, [group, -1, *maps.shape[1:]])
    variance = tf.reduce_mean(tf.square(groups - tf.reduce_mean(groups, 0, keepdims=True)), 0)
    means = tf.reduce_mean(tf.sqrt(variance + EPSILON), [1, 2, 3, 4])  # [groups]
    of_clips = tf.tile(means, [group])
    plane = of_clips[:, tf.newaxis, tf.newaxis, tf.newaxis, tf.newaxis] * tf.ones([1, *maps.shape[1:4], 1])
    return tf.concat([maps, plane], -1)


class Equalized(layers.Layer):
    """Convolution over T, H and W, or matrix product, with equalised learning rate (arXiv 1710.10196, section 4.1).

    Weights are drawn from N(0, 1), and multiplied by gain / sqrt(number of inputs) when they are used.

    Attributes:
      kernel: float32 [kT, kH, kW, inputs, outputs] or [inputs, outputs].
      bias: float32 [number of biases].
    """

    def __init__(self, shape: Sequence[int], gain: float = ROOT_2, biases: int | None = None, name: str = "") -> None:
        super().__init__(dtype="float32", name=name)
        self.scale = gain / math.sqrt(math.prod(shape[:-1]))
        normal = tf.keras.initializers.RandomNormal(0.0, 1.0)
        self.kernel = self.add_weight("kernel", list(shape), initializer=normal)
        self.bias = self.add_weight("bias", [biases or shape[-1]], initializer="zeros")
        self.built = True

    def without_bias(self, inputs: tf.Tensor) -> tf.Tensor:
        """Returns the convolution or product alone."""
        kernel = self.kernel * self.scale
        if len(kernel.shape) == 2:
            return tf.matmul(inputs, kernel)
        return tf.nn.conv3d(inputs, kernel, [1] * 5, "SAME")

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        return self.without_bias(inputs) + self.bias

    def enlarged(self, inputs: tf.Tensor, factors: Sequence[int]) -> tf.Tensor:
        """Convolves nearest copies of maps, enlarged by 1 or 2 per axis."""
        return upsample_convolve(inputs, self.kernel * self.scale, [factor == 2 for factor in factors]) + self.bias


def convolution(inputs: int, outputs: int, name: str) -> Equalized:
    """Creates a 3x3x3 convolution."""
    return Equalized([3, 3, 3, inputs, outputs], name=name)


class Generator(ClipGenerator):
    """Grows clips from 4x4 pixels by nearest copies and two convolutions a level. Every level can make colours.

    Attributes:
      lod: float32, the lod at which it was last trained, see `schedule.py`. It is in checkpoints, so that a loaded
        generator renders as in training. It is the last level in a new generator, and 0 in a grown one.
    """

    config: ModelConfig

    def __init__(self, config: ModelConfig, **kwargs: Any) -> None:
        super().__init__(config, **kwargs)
        frames, height, width = config.size(0)
        first, channels = config.channels(-1), [config.channels(level) for level in range(config.last_level + 1)]
        self.first_shape = (frames, height, width, first)
        self.dense = Equalized([config.z_dim, math.prod(self.first_shape)], ROOT_2 / 4, first, name="dense")
        self.blocks = [[convolution(first, channels[0], "level_0_conv")]]
        for level in range(1, config.last_level + 1):
            before, now, name = channels[level - 1], channels[level], f"level_{level}"
            self.blocks.append([convolution(before, now, f"{name}_conv_0"), convolution(now, now, f"{name}_conv_1")])
        self.to_colours = [
            Equalized([1, 1, 1, count, COLOURS], 1.0, name=f"level_{level}_to_colours")
            for level, count in enumerate(channels)
        ]
        # Not a weight: it is set, not trained or averaged.
        self.lod = self.add_weight(
            "lod",
            [],
            initializer=tf.keras.initializers.Constant(config.last_level),
            trainable=False,
            aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA,
        )
        self.built = True

    def _maps(self, z: tf.Tensor, last_level: int) -> list[tf.Tensor]:
        """Returns the maps of each level up to one, [N, T, H, W, C]."""
        maps = tf.reshape(self.dense.without_bias(pixel_norm(z)), [-1, *self.first_shape])
        maps = pixel_norm(leaky_relu(maps + self.dense.bias))  # one bias per channel
        found = []
        for level, (first, *others) in enumerate(self.blocks[: last_level + 1]):
            convolved = first.enlarged(maps, self.config.factors(level)) if level else first(maps)
            maps = pixel_norm(leaky_relu(convolved))
            for layer in others:
                maps = pixel_norm(leaky_relu(layer(maps)))
            found.append(maps)
        return found

    def clips_of_level(self, z: tf.Tensor, level: int, old_share: tf.Tensor | None = None) -> tf.Tensor:
        """Generates clips at the size of a level.

        Args:
          z: float32 [N, z_dim].
          level: The level.
          old_share: Share of the level before, [] in [0, 1]; None if the level is not fading in.
        Returns:
          float32 [N, *config.size(level), 3], mostly within [-1, 1]: there is no tanh.
        """
        maps = self._maps(z, level)
        clips = self.to_colours[level](maps[level])
        if old_share is None:
            return clips
        old = copied(self.to_colours[level - 1](maps[level - 1]), self.config.factors(level))
        return mixed(clips, old, old_share)

    def unclipped(self, z: tf.Tensor, lod: tf.Tensor) -> tf.Tensor:
        """Generates clips at full size, at any lod; those of lower levels are enlarged by nearest copies.

        All levels are computed, and those above the lod have no share in the result. So one graph serves every lod.

        Args:
          z: float32 [N, z_dim].
          lod: float32 [].
        Returns:
          float32 [N, num_frames, H, W, 3], mostly within [-1, 1].
        """
        last = self.config.last_level
        maps = self._maps(z, last)
        clips = self.to_colours[0](maps[0])
        for level in range(1, last + 1):
            old_share = tf.clip_by_value(lod - float(last - level), 0.0, 1.0)
            old = copied(clips, self.config.factors(level))
            clips = mixed(self.to_colours[level](maps[level]), old, old_share)
        return clips

    def clips(self, z: tf.Tensor, training: bool) -> tf.Tensor:
        return tf.clip_by_value(self.unclipped(z, self.lod), -1.0, 1.0)


class Projection(layers.Layer):
    """Projects features to trained orthogonal directions: p = LReLU(s * (f W) + o). Their mean is the score.

    Attributes:
      directions: W, float32 [F, F], orthogonal.
      slope, offset: s and o, float32 [F].
    """

    def __init__(self, size: int, **kwargs: Any) -> None:
        super().__init__(dtype="float32", **kwargs)
        orthogonal = tf.keras.initializers.Orthogonal()
        self.directions = self.add_weight("directions", [size, size], initializer=orthogonal)
        self.slope = self.add_weight("slope", [size], initializer="ones")
        self.offset = self.add_weight("offset", [size], initializer="zeros")
        self.built = True

    def call(self, features: tf.Tensor) -> tf.Tensor:
        """Returns the projected features: [N, F] -> [N, F]."""
        return leaky_relu(self.slope * tf.matmul(features, self.directions) + self.offset)


class Discriminator(tf.keras.Model):
    """Scores clips; the mirror image of the generator. It also contains the projection of sliced Wasserstein.

    Attributes:
      projection: The projection, or None with another objective.
      to_score: The last layer without a projection, or None.
    """

    def __init__(self, config: ModelConfig, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.config = config
        channels = [config.channels(level) for level in range(config.last_level + 1)]
        self.from_colours = [
            Equalized([1, 1, 1, COLOURS, count], name=f"level_{level}_from_colours")
            for level, count in enumerate(channels)
        ]
        self.blocks = [[convolution(channels[0] + 1, channels[0], "level_0_conv")]]
        for level in range(1, config.last_level + 1):
            now, after, name = channels[level], channels[level - 1], f"level_{level}"
            self.blocks.append([convolution(now, now, f"{name}_conv_0"), convolution(now, after, f"{name}_conv_1")])
        size = config.channels(-1)
        self.dense = Equalized([math.prod(config.size(0)) * channels[0], size], name="dense_0")
        swl = config.objective == "swl"
        self.projection = Projection(size, name="projection") if swl else None
        self.to_score = None if swl else Equalized([size, 1], 1.0, name="dense_1")
        self.built = True

    def features(self, clips: tf.Tensor, level: int, old_share: tf.Tensor | None = None) -> tf.Tensor:
        """Returns the features of clips.

        Args:
          clips: float32 [N, *config.size(level), 3].
          level: The level.
          old_share: Share of the level before, [] in [0, 1]; None if the level is not fading in.
        Returns:
          float32 [N, F].
        """
        maps = leaky_relu(self.from_colours[level](clips))
        for number in range(level, 0, -1):
            for layer in self.blocks[number]:
                maps = leaky_relu(layer(maps))
            maps = averaged(maps, self.config.factors(number))
            if number == level and old_share is not None:
                old = averaged(clips, self.config.factors(number))
                maps = mixed(maps, leaky_relu(self.from_colours[number - 1](old)), old_share)
        (last,) = self.blocks[0]
        maps = leaky_relu(last(with_deviation(maps)))
        return leaky_relu(self.dense(tf.reshape(maps, [-1, math.prod(maps.shape[1:])])))

    def scores(self, features: tf.Tensor) -> tf.Tensor:
        """Returns the scores of features: [N, F] -> [N]."""
        if self.projection is not None:
            return tf.reduce_mean(self.projection(features), -1)
        assert self.to_score is not None
        return self.to_score(features)[:, 0]

    def call(self, clips: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Returns the scores of clips at full size: [N, num_frames, H, W, 3] -> [N]."""
        return self.scores(self.features(clips, self.config.last_level))
