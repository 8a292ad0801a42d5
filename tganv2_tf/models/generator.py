"""The generator (paper, Figures 1 and 2): a map from the latent, a recurrence over frames, levels of up blocks.

Training renders every level and subsamples frames and samples between them; inference renders one level of all frames.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf
from tensorflow.keras import layers

from tganv2_tf.config import ModelConfig
from tganv2_tf.models.activation_checkpointing import checkpoint_activations
from tganv2_tf.models.layers import BatchNorm, ConvLSTM, RenderingBlock, UpBlock, lecun_normal
from tganv2_tf.pyramid import FIRST_LEVEL_BLOCKS
from tganv2_tf.subsampling import subsample


class GeneratorLevel(layers.Layer):
    """One level: the up blocks of its abstract block g^A_l, and its rendering block g^R_l."""

    def __init__(self, channels: Sequence[int], num_classes: int = 0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.blocks = [UpBlock(c, num_classes, name=f"up{i}") for i, c in enumerate(channels, start=1)]
        self.rendering = RenderingBlock(num_classes, name="rendering")

    def call(self, features: tf.Tensor, training: bool = False, labels: tf.Tensor | None = None) -> tf.Tensor:
        """g^A_l: [M, H, W, C] -> [M, H', W', C']; `labels` [M] where there are classes."""
        for block in self.blocks:
            features = block(features, training=training, labels=labels)
        return features

    def render(self, features: tf.Tensor, training: bool = False, labels: tf.Tensor | None = None) -> tf.Tensor:
        """g^R_l: [M, H', W', C'] -> float32 [M, H', W', 3] in [-1, 1]; `labels` [M] where there are classes."""
        return self.rendering(features, training=training, labels=labels)


def _per_frame(
    layer: Callable[..., tf.Tensor],
    videos: tf.Tensor,
    training: bool,
    labels: tf.Tensor | None,
    recompute: bool = False,
) -> tf.Tensor:
    """Applies to [N, T, H, W, C] and labels [N] a layer that works on frames [N * T, H, W, C]."""
    if recompute:
        return checkpoint_activations(lambda videos: _per_frame(layer, videos, training, labels), videos)
    shape = tf.shape(videos)
    if labels is not None:
        labels = tf.repeat(labels, shape[1])
    outputs = layer(tf.reshape(videos, [-1, *videos.shape[2:]]), training=training, labels=labels)
    outputs = tf.reshape(outputs, tf.concat([shape[:2], outputs.shape[1:]], 0))
    return tf.ensure_shape(outputs, [*videos.shape[:2], *outputs.shape[2:]])


class Generator(tf.keras.Model):
    """z, and in a conditional model a class -> video.

    The class chooses the scales and shifts of every batch norm, and its own share of the map that the recurrence
    begins with, since motion is made there.

    Attributes:
      config: the shape of the network.
      generator_levels: the L levels.
    """

    def __init__(self, config: ModelConfig, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.config = config
        size, channels, num_classes = config.pyramid.base_size, config.lstm_channels, config.num_classes
        if config.conditional and not num_classes:
            raise ValueError("a conditional generator needs num_classes")
        self.to_map = layers.Dense(size * size * channels, kernel_initializer=lecun_normal(), name="to_map")
        if num_classes:
            # As large as what to_map makes of a latent, whose entries have variance 1/3.
            spread = tf.keras.initializers.RandomNormal(stddev=3**-0.5)
            self.class_to_map = layers.Embedding(num_classes, size * size * channels, spread, name="class_to_map")
        self.recurrence = [
            ConvLSTM(channels, config.lstm_forget_bias, name=f"lstm{i}") for i in range(1, config.lstm_layers + 1)
        ]
        per_level = [config.up_channels[:FIRST_LEVEL_BLOCKS], *([c] for c in config.up_channels[FIRST_LEVEL_BLOCKS:])]
        self.generator_levels = [
            GeneratorLevel(c, num_classes, name=f"level{i}") for i, c in enumerate(per_level, start=1)
        ]
        labels = tf.zeros([1], tf.int32) if num_classes else None
        for level in range(1, len(per_level) + 1):  # makes all weights now, so that checkpoints find them
            self(tf.zeros([1, config.z_dim]), num_frames=1, level=level, labels=labels)

    def first_map(self, z: tf.Tensor, labels: tf.Tensor | None = None) -> tf.Tensor:
        """The input of the recurrence at the first frame: [N, z_dim] -> [N, base, base, C]."""
        if len(z.shape) != 2 or z.shape[-1] != self.config.z_dim:
            raise ValueError(f"z has shape {z.shape}; expected [N, {self.config.z_dim}]")
        if (labels is None) == self.config.conditional:
            raise ValueError("labels are for a conditional generator" if labels is not None else "labels are missing")
        if labels is not None and not tf.TensorShape(labels.shape).is_compatible_with(z.shape[:1]):
            raise ValueError(f"labels have shape {labels.shape} for z of shape {z.shape}; expected [N]")
        features = self.to_map(z)
        if labels is not None:
            features += self.class_to_map(labels)
        size = self.config.pyramid.base_size
        return tf.reshape(features, [-1, size, size, self.config.lstm_channels])

    def unroll(
        self, first_map: tf.Tensor | None, num_frames: int | tf.Tensor, state: tf.Tensor | None = None
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """The recurrence, from the first frame on, or from a state.

        Args:
          first_map: [N, base, base, C]; None where a state is given.
          num_frames: T, a number or an int32 scalar.
          state: [lstm_layers, 2, N, base, base, C], hidden and cell after the frame before.
        Returns:
          What level 1 takes, [N, T, base, base, C], and the state after the last frame.
        """
        features, states = first_map, []
        for index, lstm in enumerate(self.recurrence):
            features, last = lstm(features, num_frames, None if state is None else state[index])
            states.append(last)
        return features, tf.stack(states)

    def render(self, features: tf.Tensor, level: int | None = None, labels: tf.Tensor | None = None) -> tf.Tensor:
        """Inference: one level of all frames, by running statistics.

        Args:
          features: [N, T, base, base, C], from the recurrence.
          level: 1..L; the last where it is None.
          labels: int [N], of a conditional model.
        Returns:
          float32 [N, T, H_l, W_l, 3] in [-1, 1].
        Raises:
          ValueError: no such level.
        """
        level = len(self.generator_levels) if level is None else level
        if not 1 <= level <= len(self.generator_levels):
            raise ValueError(f"level {level} does not exist; valid: 1 to {len(self.generator_levels)}")
        for block in self.generator_levels[:level]:
            features = _per_frame(block, features, False, labels)
        return _per_frame(self.generator_levels[level - 1].render, features, False, labels)

    def call(
        self,
        z: tf.Tensor,
        num_frames: int | tf.Tensor | None = None,
        level: int | None = None,
        labels: tf.Tensor | None = None,
    ) -> tf.Tensor:
        """Inference: all frames, one level, running statistics.

        Args:
          z: float [N, z_dim], in [-1, 1].
          num_frames: T, a number or an int32 scalar; the training clip's where it is None.
          level: 1..L, the level to render; the last where it is None.
          labels: int [N], 0..num_classes - 1, of a conditional model.
        Returns:
          float32 [N, T, H_l, W_l, 3] in [-1, 1].
        Raises:
          ValueError: no such level, z or labels of a wrong shape, or labels that are missing or not expected.
        """
        return self.begin(z, self.config.num_frames if num_frames is None else num_frames, level, labels)[0]

    def begin(
        self, z: tf.Tensor, num_frames: int | tf.Tensor, level: int | None = None, labels: tf.Tensor | None = None
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """`call`, and the state after its last frame, from which `resume` goes on: long videos in constant memory."""
        features, state = self.unroll(self.first_map(z, labels), num_frames)
        return self.render(features, level, labels), state

    def resume(
        self, state: tf.Tensor, num_frames: int | tf.Tensor, level: int | None = None, labels: tf.Tensor | None = None
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """The next frames of videos, and the state after them.

        Args:
          state: float [lstm_layers, 2, N, base, base, C], from `begin` or `resume`.
          num_frames: T, how many; a number or an int32 scalar.
          level: as in `call`.
          labels: those that the videos began with.
        Returns:
          float32 [N, T, H_l, W_l, 3] in [-1, 1], and the state.
        """
        features, state = self.unroll(None, num_frames, state)
        return self.render(features, level, labels), state

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
        """Training: every level, with the subsampling layers S^G between them (paper, equations of G'_1 to G'_L).

        Args:
          z: float [N_1, z_dim], in [-1, 1].
          training: normalise by the batch's moments.
          frame_strides: s_t of each layer; the config's where it is None.
          batch_strides: s_n of each layer; the config's where it is None.
          frame_offsets: b_t of each layer; drawn anew where it is None.
          labels: int [N_1], of a conditional model.
          recompute: store only the inputs of each level, and compute it again in the backward pass.
        Returns:
          L tensors, level l float32 [N_l, T_l, H_l, W_l, 3] in [-1, 1].
        Raises:
          ValueError: z, labels, strides or offsets of a wrong shape or number.
        """
        frame_strides = self.config.frame_strides if frame_strides is None else frame_strides
        batch_strides = self.config.batch_strides if batch_strides is None else batch_strides
        for name, values in (
            ("frame strides", frame_strides),
            ("batch strides", batch_strides),
            ("frame offsets", frame_offsets),
        ):
            if values is not None and len(values) != len(self.generator_levels) - 1:
                raise ValueError(f"{len(values)} {name} for {len(self.generator_levels)} levels")
        if frame_offsets is None:
            frame_offsets = [tf.random.uniform([], 0, stride, tf.int32) for stride in frame_strides]
        features, _ = self.unroll(self.first_map(z, labels), self.config.num_frames)
        videos = []
        for index, level in enumerate(self.generator_levels):
            if index:
                i = index - 1
                features = subsample(features, frame_offsets[i], frame_strides[i], batch_strides[i])
                labels = None if labels is None else labels[:: batch_strides[i]]
            features = _per_frame(level, features, training, labels, recompute)
            videos.append(_per_frame(level.render, features, training, labels, recompute))
        return videos

    @property
    def batch_norms(self) -> list[BatchNorm]:
        """All of them."""
        return [layer for layer in self.submodules if isinstance(layer, BatchNorm)]

    def update_moving_statistics(self) -> None:
        """Moves the batch norms' running statistics towards the moments of the latest training pass."""
        for norm in self.batch_norms:
            norm.update_moving_statistics()
