"""TGAN's networks (Saito, Matsumoto & Saito, arXiv 1611.06624), with names and initialisers of the authors' code."""

from __future__ import annotations

from typing import Any

import tensorflow as tf
from tensorflow.keras import layers

from tganv2_tf.models.layers import lecun_normal
from tganv2_tf.systems.clip_generator import ClipGenerator
from tganv2_tf.systems.layers import BatchNorm, leaky_relu
from tganv2_tf.systems.tgan.config import SCALE, ModelConfig

EPSILON = 2e-5  # of batch norm, Chainer's default


def narrow_uniform() -> tf.keras.initializers.Initializer:
    """Returns the initialiser of the image generator: U(-0.01, 0.01)."""
    return tf.keras.initializers.RandomUniform(-0.01, 0.01)


class TemporalGenerator(layers.Layer):
    """Maps the "slow" latent of a video to one "fast" latent per frame by transposed convolutions over time."""

    def __init__(self, config: ModelConfig, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        sizes = [*config.temporal_channels, config.fast_z_dim]
        self.deconvolutions = [
            layers.Conv1DTranspose(
                channels,
                4 if index else 1,
                2 if index else 1,
                padding="same",
                kernel_initializer=lecun_normal(),
                name=f"dc{index}",
            )
            for index, channels in enumerate(sizes)
        ]
        self.norms = [BatchNorm(EPSILON, center=False, name=f"bn{index}") for index in range(len(sizes) - 1)]

    def call(self, z: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Returns the fast latents in [-1, 1]: [N, z_dim] -> [N, 16, fast_z_dim]."""
        features = z[:, tf.newaxis]
        for deconvolution, norm in zip(self.deconvolutions, self.norms):
            features = tf.nn.relu(norm(deconvolution(features), training=training))
        return tf.tanh(self.deconvolutions[-1](features))


class ImageGenerator(layers.Layer):
    """Maps the slow latent of a video and the fast latent of a frame to the frame."""

    def __init__(self, config: ModelConfig, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.size, channels = config.resolution // SCALE, config.image_channels
        units = self.size**2 * channels // 2
        self.maps = {
            name: layers.Dense(units, use_bias=False, kernel_initializer=narrow_uniform(), name=f"l0{name[0]}")
            for name in ("slow", "fast")
        }
        self.map_norms = {name: BatchNorm(EPSILON, name=f"bn0{name[0]}") for name in ("slow", "fast")}
        self.deconvolutions = [
            layers.Conv2DTranspose(
                channels // 2**index,
                4,
                2,
                padding="same",
                use_bias=False,
                kernel_initializer=narrow_uniform(),
                name=f"dc{index}",
            )
            for index in range(1, 5)
        ]
        self.norms = [BatchNorm(EPSILON, name=f"bn{index}") for index in range(1, 5)]
        self.to_colours = layers.Conv2DTranspose(3, 3, padding="same", kernel_initializer=narrow_uniform(), name="dc5")

    def call(self, slow: tf.Tensor, fast: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Returns frames in [-1, 1]: [M, z_dim], [M, fast_z_dim] -> [M, H, W, 3]."""
        both = []
        for name, z in (("slow", slow), ("fast", fast)):
            features = tf.nn.relu(self.map_norms[name](self.maps[name](z), training=training))
            both.append(tf.reshape(features, [-1, self.size, self.size, features.shape[-1] // self.size**2]))
        features = tf.concat(both, -1)
        for deconvolution, norm in zip(self.deconvolutions, self.norms):
            features = tf.nn.relu(norm(deconvolution(features), training=training))
        return tf.tanh(self.to_colours(features))


class Generator(ClipGenerator):
    """The temporal generator and, for each frame, the image generator."""

    config: ModelConfig

    def __init__(self, config: ModelConfig, **kwargs: Any) -> None:
        super().__init__(config, **kwargs)
        self.temporal = TemporalGenerator(config, name="temporal")
        self.image = ImageGenerator(config, name="image")
        self(tf.zeros([1, config.z_dim]))

    def clips(self, z: tf.Tensor, training: bool) -> tf.Tensor:
        fast = self.temporal(z, training=training)
        slow = tf.repeat(z, self.config.num_frames, axis=0)  # batch norm counts each frame
        frames = self.image(slow, tf.reshape(fast, [-1, self.config.fast_z_dim]), training=training)
        return tf.reshape(frames, [-1, self.config.num_frames, *frames.shape[1:]])


class Discriminator(tf.keras.Model):
    """Scores clips of 16 frames by convolutions over time and space; a critic, without a sigmoid."""

    def __init__(self, config: ModelConfig, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.convolutions = [
            layers.Conv3D(
                config.discriminator_width * 2**index,
                4,
                2,
                padding="same",
                kernel_initializer=lecun_normal(),
                name=f"c{index}",
            )
            for index in range(4)
        ]
        self.norms = [BatchNorm(EPSILON, center=False, name=f"bn{index}") for index in range(1, 4)]
        size = config.resolution // SCALE
        self.to_score = layers.Conv3D(1, (1, size, size), kernel_initializer=lecun_normal(), name="c4")
        self(tf.zeros([1, config.num_frames, config.resolution, config.resolution, 3]))

    def call(self, clips: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Returns the scores: [N, 16, H, W, 3] -> [N]."""
        features = leaky_relu(self.convolutions[0](clips))
        for convolution, norm in zip(self.convolutions[1:], self.norms):
            features = leaky_relu(norm(convolution(features), training=training))
        return self.to_score(features)[:, 0, 0, 0, 0]
