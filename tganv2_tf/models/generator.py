"""The generator (paper, Figures 1 and 2): a map from the latent, a recurrence over frames, levels of up blocks.

Training renders every level and subsamples frames and samples between them; inference renders one level of all frames.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf
from tensorflow.keras import layers

from tganv2_tf.config import ModelConfig
from tganv2_tf.models.layers import BatchNorm, ConvLSTM, RenderingBlock, UpBlock, lecun_normal
from tganv2_tf.pyramid import FIRST_LEVEL_BLOCKS
from tganv2_tf.subsampling import subsample


class GeneratorLevel(layers.Layer):
    """One level: the up blocks of its abstract block g^A_l, and its rendering block g^R_l."""

    def __init__(self, channels: Sequence[int], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.blocks = [UpBlock(c, name=f"up{i}") for i, c in enumerate(channels, start=1)]
        self.rendering = RenderingBlock(name="rendering")

    def call(self, features: tf.Tensor, training: bool = False) -> tf.Tensor:
        """g^A_l: [M, H, W, C] -> [M, H', W', C']."""
        for block in self.blocks:
            features = block(features, training=training)
        return features

    def render(self, features: tf.Tensor, training: bool = False) -> tf.Tensor:
        """g^R_l: [M, H', W', C'] -> float32 [M, H', W', 3] in [-1, 1]."""
        return self.rendering(features, training=training)


def _per_frame(layer: Callable[..., tf.Tensor], videos: tf.Tensor, training: bool) -> tf.Tensor:
    """Applies to [N, T, H, W, C] a layer that works on frames [N * T, H, W, C]."""
    shape = tf.shape(videos)
    outputs = layer(tf.reshape(videos, [-1, *videos.shape[2:]]), training=training)
    outputs = tf.reshape(outputs, tf.concat([shape[:2], outputs.shape[1:]], 0))
    return tf.ensure_shape(outputs, [*videos.shape[:2], *outputs.shape[2:]])


class Generator(tf.keras.Model):
    """z -> video.

    Attributes:
      config: the shape of the network.
      generator_levels: the L levels.
    """

    def __init__(self, config: ModelConfig, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.config = config
        size, channels = config.pyramid.base_size, config.lstm_channels
        self.to_map = layers.Dense(size * size * channels, kernel_initializer=lecun_normal(), name="to_map")
        self.recurrence = [
            ConvLSTM(channels, config.lstm_forget_bias, name=f"lstm{i}") for i in range(1, config.lstm_layers + 1)
        ]
        per_level = [config.up_channels[:FIRST_LEVEL_BLOCKS], *([c] for c in config.up_channels[FIRST_LEVEL_BLOCKS:])]
        self.generator_levels = [GeneratorLevel(c, name=f"level{i}") for i, c in enumerate(per_level, start=1)]
        for level in range(1, len(per_level) + 1):  # makes all weights now, so that checkpoints find them
            self(tf.zeros([1, config.z_dim]), num_frames=1, level=level)

    def abstract_map(self, z: tf.Tensor, num_frames: int | tf.Tensor) -> tf.Tensor:
        """What the recurrence gives to level 1: [N, z_dim] -> [N, T, base, base, C]."""
        if z.shape[-1] != self.config.z_dim:
            raise ValueError(f"z has shape {z.shape}; expected [N, {self.config.z_dim}]")
        size = self.config.pyramid.base_size
        features = tf.reshape(self.to_map(z), [-1, size, size, self.config.lstm_channels])
        for lstm in self.recurrence:
            features = lstm(features, num_frames)
        return features

    def call(self, z: tf.Tensor, num_frames: int | tf.Tensor | None = None, level: int | None = None) -> tf.Tensor:
        """Inference: all frames, one level, running statistics.

        Args:
          z: float [N, z_dim], in [-1, 1].
          num_frames: T, a number or an int32 scalar; the training clip's where it is None.
          level: 1..L, the level to render; the last where it is None.
        Returns:
          float32 [N, T, H_l, W_l, 3] in [-1, 1].
        Raises:
          ValueError: no such level, or z of another size.
        """
        level = len(self.generator_levels) if level is None else level
        if not 1 <= level <= len(self.generator_levels):
            raise ValueError(f"level {level} does not exist; valid: 1 to {len(self.generator_levels)}")
        features = self.abstract_map(z, self.config.num_frames if num_frames is None else num_frames)
        for block in self.generator_levels[:level]:
            features = _per_frame(block, features, training=False)
        return _per_frame(self.generator_levels[level - 1].render, features, training=False)

    def pyramid(
        self,
        z: tf.Tensor,
        training: bool = True,
        frame_strides: Sequence[int] | None = None,
        batch_strides: Sequence[int] | None = None,
        frame_offsets: Sequence[int | tf.Tensor] | None = None,
    ) -> list[tf.Tensor]:
        """Training: every level, with the subsampling layers S^G between them (paper, equations of G'_1 to G'_L).

        Args:
          z: float [N_1, z_dim], in [-1, 1].
          training: normalise by the batch's moments.
          frame_strides: s_t of each layer; the config's where it is None.
          batch_strides: s_n of each layer; the config's where it is None.
          frame_offsets: b_t of each layer; drawn anew where it is None.
        Returns:
          L tensors, level l float32 [N_l, T_l, H_l, W_l, 3] in [-1, 1].
        """
        frame_strides = self.config.frame_strides if frame_strides is None else frame_strides
        batch_strides = self.config.batch_strides if batch_strides is None else batch_strides
        if frame_offsets is None:
            frame_offsets = [tf.random.uniform([], 0, stride, tf.int32) for stride in frame_strides]
        features = self.abstract_map(z, self.config.num_frames)
        videos = []
        for index, level in enumerate(self.generator_levels):
            if index:
                i = index - 1
                features = subsample(features, frame_offsets[i], frame_strides[i], batch_strides[i])
            features = _per_frame(level, features, training=training)
            videos.append(_per_frame(level.render, features, training=training))
        return videos

    def update_moving_statistics(self) -> None:
        """Moves the batch norms' running statistics towards the moments of the latest training pass."""
        for layer in self.submodules:
            if isinstance(layer, BatchNorm):
                layer.update_moving_statistics()
