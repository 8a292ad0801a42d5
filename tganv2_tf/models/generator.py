"""The generator: a linear map of the latent, a ConvLSTM over frames, and levels of up blocks.

Training renders every level, with subsampling layers between levels. Inference renders all frames of one level. Paper:
Saito & Saito, arXiv 1811.09245, Figures 1 and 2.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tensorflow as tf
from tensorflow.keras import layers

from tganv2_tf.config import ModelConfig
from tganv2_tf.models.frames import in_groups_of_frames, per_frame
from tganv2_tf.models.layers import UNCONDITIONAL, BatchNorm, Condition, ConvLSTM, RenderingBlock, UpBlock, lecun_normal
from tganv2_tf.models.resumable import ResumableGenerator
from tganv2_tf.pyramid import FIRST_LEVEL_BLOCKS
from tganv2_tf.subsampling import subsample

# Pixels that inference renders at a time, because the maps of all frames take more memory than the weights. 4 frames of
# 192x192 pixels, or 1 of 384x384.
PIXELS_AT_ONCE = 4 * 192 * 192


class GeneratorLevel(layers.Layer):
    """One level: the abstract block g^A_l (up blocks) and the rendering block g^R_l (arXiv 1811.09245, Figure 2)."""

    def __init__(
        self, channels: Sequence[int], num_classes: int = 0, self_modulation: bool = False, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.blocks = [UpBlock(c, num_classes, self_modulation, name=f"up{i}") for i, c in enumerate(channels, start=1)]
        self.rendering = RenderingBlock(num_classes, self_modulation, name="rendering")

    def call(self, features: tf.Tensor, training: bool = False, condition: Condition = UNCONDITIONAL) -> tf.Tensor:
        """Applies g^A_l: [M, H, W, C] -> [M, H', W', C']."""
        for block in self.blocks:
            features = block(features, training=training, condition=condition)
        return features

    def render(self, features: tf.Tensor, training: bool = False, condition: Condition = UNCONDITIONAL) -> tf.Tensor:
        """Applies g^R_l: [M, H', W', C'] -> float32 [M, H', W', 3] in [-1, 1]."""
        return self.rendering(features, training=training, condition=condition)


class Generator(ResumableGenerator):
    """Generator G (arXiv 1811.09245, Figures 1 and 2): maps z, and in a conditional model a class, to a video.

    The class selects the scale and shift of every batch norm. It also adds an embedding to the input of the
    recurrence, because the recurrence generates the motion. With self-modulation, all batch norms depend on z as well.

    Attributes:
      config: The architecture.
      generator_levels: The L levels.
    """

    def __init__(self, config: ModelConfig, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.config = config
        size, channels, num_classes = config.pyramid.base_size, config.lstm_channels, config.num_classes
        if config.conditional and not num_classes:
            raise ValueError("a conditional generator needs num_classes")
        self.to_map = layers.Dense(size * size * channels, kernel_initializer=lecun_normal(), name="to_map")
        if num_classes:
            # Equals the initial standard deviation of to_map(z), because the entries of z have variance 1/3.
            spread = tf.keras.initializers.RandomNormal(stddev=3**-0.5)
            self.class_to_map = layers.Embedding(num_classes, size * size * channels, spread, name="class_to_map")
        self.recurrence = [
            ConvLSTM(channels, config.lstm_forget_bias, name=f"lstm{i}") for i in range(1, config.lstm_layers + 1)
        ]
        per_level = [config.up_channels[:FIRST_LEVEL_BLOCKS], *([c] for c in config.up_channels[FIRST_LEVEL_BLOCKS:])]
        self.generator_levels = [
            GeneratorLevel(c, num_classes, config.self_modulation, name=f"level{i}")
            for i, c in enumerate(per_level, start=1)
        ]
        labels = tf.zeros([1], tf.int32) if num_classes else None
        for level in range(1, len(per_level) + 1):  # creates all weights before a checkpoint is restored
            self(tf.zeros([1, config.z_dim]), num_frames=1, level=level, labels=labels)

    def initial_features(self, z: tf.Tensor, labels: tf.Tensor | None = None) -> tf.Tensor:
        """Returns the input of the recurrence at the first frame: [N, z_dim] -> [N, base, base, C]."""
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

    def condition(self, z: tf.Tensor | None, labels: tf.Tensor | None) -> Condition:
        """Returns the condition of the batch norms. Raises ValueError if the model needs z and it is None."""
        if z is None and self.config.self_modulation:
            raise ValueError("z is missing; a generator with self-modulation needs it for every frame")
        return Condition(labels, z if self.config.self_modulation else None)

    @property
    def feature_shape(self) -> list[int | None]:
        """Shape of the features that `render` accepts: [N, T, base, base, C]."""
        return [None, None, *self._map_shape]

    @property
    def state_shape(self) -> list[int | None]:
        """Shape of the state between two calls of `begin` or `resume`: [lstm_layers, 2, N, base, base, C]."""
        return [self.config.lstm_layers, 2, None, *self._map_shape]

    @property
    def _map_shape(self) -> list[int]:
        return [self.config.pyramid.base_size, self.config.pyramid.base_size, self.config.lstm_channels]

    @property
    def resume_needs_z(self) -> bool:
        """Whether `resume` needs the latents as well as the state."""
        return self.config.self_modulation

    def begin_features(
        self, z: tf.Tensor, num_frames: int | tf.Tensor, labels: tf.Tensor | None = None
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns the features of the first frames, of shape `feature_shape`, and the state after them."""
        return self.unroll(self.initial_features(z, labels), num_frames)

    def resume_features(
        self, state: tf.Tensor, num_frames: int | tf.Tensor, z: tf.Tensor | None = None
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns the features of the next frames, and the state after them."""
        return self.unroll(None, num_frames, state)

    def unroll(
        self, initial_features: tf.Tensor | None, num_frames: int | tf.Tensor, state: tf.Tensor | None = None
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Runs the recurrence from the first frame or from a state.

        Args:
          initial_features: [N, base, base, C]; None if a state is passed.
          num_frames: T, a Python integer or an int32 scalar.
          state: Hidden and cell state after the previous frame, [lstm_layers, 2, N, base, base, C].
        Returns:
          The input of level 1, [N, T, base, base, C], and the state after the last frame.
        """
        features, states = initial_features, []
        for index, lstm in enumerate(self.recurrence):
            features, last = lstm(features, num_frames, None if state is None else state[index])
            states.append(last)
        return features, tf.stack(states)

    def render(
        self,
        features: tf.Tensor,
        level: int | None = None,
        labels: tf.Tensor | None = None,
        z: tf.Tensor | None = None,
    ) -> tf.Tensor:
        """Renders one level of all frames for inference, with the running batch-norm statistics.

        Args:
          features: Output of the recurrence, [N, T, base, base, C].
          level: 1..L; None is the last.
          labels: int [N], in a conditional model.
          z: float [N, z_dim], with self-modulation.
        Returns:
          float32 [N, T, H_l, W_l, 3] in [-1, 1].
        Raises:
          ValueError: The level does not exist, or z is missing.
        """
        level = len(self.generator_levels) if level is None else level
        if not 1 <= level <= len(self.generator_levels):
            raise ValueError(f"level {level} does not exist; valid: 1 to {len(self.generator_levels)}")
        condition = self.condition(z, labels)
        first, *others = self.generator_levels[:level]
        features = per_frame(first, features, False, condition)

        def rest(features: tf.Tensor) -> tf.Tensor:
            for block in others:
                features = per_frame(block, features, False, condition)
            return per_frame(self.generator_levels[level - 1].render, features, False, condition)

        size = self.config.pyramid.levels[level - 1].size
        videos = in_groups_of_frames(rest, features, PIXELS_AT_ONCE // size**2)
        return tf.ensure_shape(videos, [*features.shape[:2], size, size, 3])

    def call(
        self,
        z: tf.Tensor,
        num_frames: int | tf.Tensor | None = None,
        level: int | None = None,
        labels: tf.Tensor | None = None,
    ) -> tf.Tensor:
        """Generates videos: all frames of one level, with the running batch-norm statistics.

        Args:
          z: float [N, z_dim], in [-1, 1].
          num_frames: T, a Python integer or an int32 scalar; None is the length of a training clip.
          level: 1..L, the level to render; None is the last.
          labels: int [N] in 0..num_classes - 1, in a conditional model.
        Returns:
          float32 [N, T, H_l, W_l, 3] in [-1, 1].
        Raises:
          ValueError: The level does not exist, the shape of z or labels is wrong, or labels are missing or unexpected.
        """
        return self.begin(z, self.config.num_frames if num_frames is None else num_frames, level, labels)[0]

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
        """Renders every level for training, with subsampling layers S^G between them (paper, G'_1 to G'_L).

        Args:
          z: float [N_1, z_dim], in [-1, 1].
          training: Whether to normalise by the batch's moments.
          frame_strides: s_t of each layer; None uses the config's.
          batch_strides: s_n of each layer; None uses the config's.
          frame_offsets: b_t of each layer; None draws them at random.
          labels: int [N_1], in a conditional model.
          recompute: Whether to store only each level's inputs and recompute the level in the backward pass.
        Returns:
          L tensors, level l float32 [N_l, T_l, H_l, W_l, 3] in [-1, 1].
        Raises:
          ValueError: The shape or number of z, labels, strides or offsets is wrong.
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
        features, _ = self.unroll(self.initial_features(z, labels), self.config.num_frames)
        videos, condition = [], self.condition(z, labels)
        for index, level in enumerate(self.generator_levels):
            if index:
                i = index - 1
                features = subsample(features, frame_offsets[i], frame_strides[i], batch_strides[i])
                condition = condition.every(batch_strides[i])
            features = per_frame(level, features, training, condition, recompute)
            videos.append(per_frame(level.render, features, training, condition, recompute))
        return videos

    @property
    def batch_norms(self) -> list[BatchNorm]:
        """All batch-norm layers."""
        return [layer for layer in self.submodules if isinstance(layer, BatchNorm)]

    def update_moving_statistics(self) -> None:
        """Updates the running statistics of all batch norms with the moments of the latest training pass."""
        for norm in self.batch_norms:
            norm.update_moving_statistics()
