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
from tganv2_tf.models.convolutions import relu
from tganv2_tf.models.layers import glorot_uniform
from tganv2_tf.models.residual_3d import ResBlock3D
from tganv2_tf.models.spectral_norm import SpectralDense, SpectralLayer


class LevelDiscriminator(layers.Layer):
    """D_l: residual blocks, ReLU, sum over frames and pixels, linear.

    With classes the logit is that of a projection discriminator (Miyato & Koyama, 2018): a second linear layer, with an
    output a class, adds that of the video's class.
    """

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
        if config.num_classes:
            self.projection = SpectralDense(
                config.num_classes, glorot_uniform(), config.spectral_norm, name="projection", dtype="float32"
            )

    def call(
        self,
        videos: tf.Tensor,
        labels: tf.Tensor | None = None,
        bias_scale: tf.Tensor | None = None,
        recompute: bool = False,
    ) -> tf.Tensor:
        """Scores videos.

        Args:
          videos: float [N, T, H, W, 3] in [-1, 1].
          labels: int [N], where there are classes.
          bias_scale: float32 [N], what all biases are multiplied by for each sample. With it the logits are
            homogeneous: they grow with the video and this number together.
          recompute: keep, of each block, only what it begins with, and compute it again to go back through it.
        Returns:
          float32 logits [N].
        """
        features = tf.cast(videos, self.compute_dtype)
        for block in self.blocks:
            features = (block.recomputed if recompute else block)(features, bias_scale)
        features = tf.reduce_sum(tf.cast(relu(features), tf.float32), [1, 2, 3])
        logits = self.linear(features, bias_scale)[:, 0]
        if labels is None:
            return logits
        of_classes = self.projection(features, bias_scale)
        return logits + tf.reduce_sum(tf.one_hot(labels, of_classes.shape[1]) * of_classes, axis=1)


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
        labels = tf.zeros([1], tf.int32) if config.num_classes else None
        self([tf.zeros([1, 1, 2, 2, 3])] * len(self.level_discriminators), labels)  # makes all weights now

    def call(
        self,
        videos: Sequence[tf.Tensor],
        labels: tf.Tensor | None = None,
        bias_scales: Sequence[tf.Tensor] | None = None,
        recompute: bool = False,
    ) -> list[tf.Tensor]:
        """Scores a pyramid.

        Args:
          videos: L tensors, level l float [N_l, T_l, H_l, W_l, 3] in [-1, 1].
          labels: int [N_1], of a conditional model: sample i of level l is sample i * N_1 / N_l of level 1.
          bias_scales: L tensors, as in `LevelDiscriminator`.
          recompute: as in `LevelDiscriminator`.
        Returns:
          L tensors of logits, level l float32 [N_l].
        Raises:
          ValueError: another number of levels, or labels where there are no classes, or the other way round.
        """
        if (labels is None) == self.config.conditional:
            raise ValueError("labels are for a conditional model" if labels is not None else "labels are missing")
        if len(videos) != len(self.level_discriminators):
            raise ValueError(f"{len(videos)} levels of videos for {len(self.level_discriminators)} networks")
        logits = []
        for index, (network, level) in enumerate(zip(self.level_discriminators, videos)):
            if index and labels is not None:
                labels = labels[:: self.config.batch_strides[index - 1]]
            bias_scale = None if bias_scales is None else bias_scales[index]
            logits.append(network(level, labels, bias_scale, recompute))
        return logits

    def input_lengths(self, levels: Sequence[Sequence[int]]) -> dict[SpectralLayer, Sequence[int]]:
        """T, H, W of what each 3x3x3 convolution gets where level l has the lengths T_l, H_l, W_l."""
        found = {}
        for network, lengths in zip(self.level_discriminators, levels):
            for block in network.blocks:
                found[block.conv1] = found[block.conv2] = lengths
                lengths = block.lengths_after(lengths)
        return found

    @property
    def weight_layers(self) -> list[SpectralLayer]:
        """All layers with weights; their kernels and biases are all that is trained here."""
        return [module for module in self.submodules if isinstance(module, SpectralLayer)]

    def update_singular_vectors(self) -> None:
        """One power iteration of every normalised weight; once per discriminator update."""
        for layer in self.weight_layers:
            layer.update_singular_vectors()
