"""The discriminator: one spectral-normalised 3D ResNet for each level of the pyramid.

The network of the spectral-normalisation paper with its kernels made three-dimensional (paper, section on the
architecture); the blocks' details are those of the authors' implementation.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tensorflow as tf
from tensorflow.keras import layers

from tganv2_tf.config import ModelConfig
from tganv2_tf.models.layers import glorot_uniform
from tganv2_tf.models.residual_3d import ResBlock3D
from tganv2_tf.models.spectral_norm import SpectralDense, SpectralLayer


class LevelDiscriminator(layers.Layer):
    """D_l: residual blocks, ReLU, sum over frames and pixels, linear."""

    def __init__(self, config: ModelConfig, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.blocks = []
        in_channels = 3
        for i, channels in enumerate(config.discriminator_channels, start=1):
            block = ResBlock3D(
                channels, i == 1, config.spectral_norm, config.grow_length_one_axes, in_channels, name=f"block{i}"
            )
            self.blocks.append(block)
            in_channels = channels
        # float32 whatever the blocks compute in, as what it adds up is a sum over a whole video.
        self.linear = SpectralDense(1, glorot_uniform(), config.spectral_norm, name="linear", dtype="float32")

    def call(self, videos: tf.Tensor) -> tf.Tensor:
        """float [N, T, H, W, 3] in [-1, 1] -> float32 logits [N]."""
        features = tf.cast(videos, self.compute_dtype)
        for block in self.blocks:
            features = block(features)
        features = tf.reduce_sum(tf.cast(tf.nn.relu(features), tf.float32), [1, 2, 3])
        return self.linear(features)[:, 0]


class Discriminator(tf.keras.Model):
    """D_1..D_L; their logits become one score, or one each, in the loss.

    Attributes:
      config: the shape of the networks.
      level_discriminators: the L networks.
    """

    def __init__(self, config: ModelConfig, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.config = config
        self.level_discriminators = [
            LevelDiscriminator(config, name=f"level{level.number}") for level in config.pyramid.levels
        ]
        self([tf.zeros([1, 1, 2, 2, 3])] * len(self.level_discriminators))  # makes all weights now

    def call(self, videos: Sequence[tf.Tensor]) -> list[tf.Tensor]:
        """Scores a pyramid.

        Args:
          videos: L tensors, level l float [N_l, T_l, H_l, W_l, 3] in [-1, 1].
        Returns:
          L tensors of logits, level l float32 [N_l].
        Raises:
          ValueError: another number of levels.
        """
        if len(videos) != len(self.level_discriminators):
            raise ValueError(f"{len(videos)} levels of videos for {len(self.level_discriminators)} networks")
        return [network(level) for network, level in zip(self.level_discriminators, videos)]

    @property
    def spectral_layers(self) -> list[SpectralLayer]:
        """All layers whose weights are normalised."""
        return [m for m in self.submodules if isinstance(m, SpectralLayer) and m.spectral_norm]

    def update_singular_vectors(self) -> None:
        """One power iteration of every normalised weight; once per discriminator update."""
        for layer in self.spectral_layers:
            layer.update_singular_vectors()
