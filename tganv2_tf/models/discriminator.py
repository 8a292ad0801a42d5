"""The discriminator: one spectral-normalised 3D ResNet per level of the pyramid.

It is the network of the spectral normalisation paper (arXiv 1802.05957) with three-dimensional kernels (Saito & Saito,
arXiv 1811.09245, section on the architecture). Details of the blocks follow the authors' implementation.

The networks are functions of videos and weights. By default they use their own weights; a training step passes
normalised weights, or biases that differ between samples.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import tensorflow as tf
from tensorflow.keras import layers

from tganv2_tf.config import ModelConfig
from tganv2_tf.models.convolutions import relu
from tganv2_tf.models.layers import glorot_uniform
from tganv2_tf.models.residual_3d import BlockWeights, ResBlock3D
from tganv2_tf.models.spectral_norm import LayerWeights, SpectralDense, SpectralLayer


class LevelWeights(NamedTuple):
    """Weights used by the network of one level.

    Attributes:
      blocks: Weights of the residual blocks.
      linear: Weights of the linear layer.
      projection: Weights of the class projection: one element, or none without classes.
    """

    blocks: Sequence[BlockWeights]
    linear: LayerWeights
    projection: Sequence[LayerWeights]


class LevelDiscriminator(layers.Layer):
    """D_l: residual blocks, ReLU, sum over frames and pixels, linear layer (arXiv 1811.09245, architecture).

    With classes it is a projection discriminator (Miyato & Koyama, arXiv 1802.05637): a second linear layer has one
    output per class, and the output of the video's class is added to the logit.
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
        # float32 under every dtype policy, because its inputs are sums over a whole video.
        self.linear = SpectralDense(1, glorot_uniform(), config.spectral_norm, name="linear", dtype="float32")
        self.has_projection = bool(config.num_classes)
        if self.has_projection:
            self.projection = SpectralDense(
                config.num_classes, glorot_uniform(), config.spectral_norm, name="projection", dtype="float32"
            )

    def effective_weights(self, lengths: Sequence[int] | None = None) -> LevelWeights:
        """Returns each layer's `SpectralLayer.effective_weights`; `lengths` is T, H, W of the videos."""
        blocks, no_lengths = [], None if lengths is None else ()
        for block in self.blocks:
            blocks.append(block.effective_weights(lengths))
            lengths = None if lengths is None else block.lengths_after(lengths)
        projections = [self.projection] if self.has_projection else []
        return LevelWeights(
            blocks,
            self.linear.effective_weights(no_lengths),
            [layer.effective_weights(no_lengths) for layer in projections],
        )

    def cast_weights(self, weights: LevelWeights) -> LevelWeights:
        """Casts weights to the compute dtypes of their layers."""
        return weights._replace(blocks=tf.nest.map_structure(lambda w: tf.cast(w, self.compute_dtype), weights.blocks))

    def call(
        self,
        videos: tf.Tensor,
        labels: tf.Tensor | None = None,
        weights: LevelWeights | None = None,
        recompute: bool = False,
    ) -> tf.Tensor:
        """Computes the logits of videos.

        Args:
          videos: float [N, T, H, W, 3] in [-1, 1].
          labels: int [N], if there are classes.
          weights: Used instead of the network's own weights.
          recompute: Whether to store only each block's inputs and recompute the block in the backward pass.
        Returns:
          float32 logits [N].
        """
        block_weights: Sequence[BlockWeights | None]
        block_weights = [None] * len(self.blocks) if weights is None else weights.blocks
        features = tf.cast(videos, self.compute_dtype)
        for block, own in zip(self.blocks, block_weights):
            features = (block.checkpointed if recompute else block)(features, weights=own)
        features = tf.reduce_sum(tf.cast(relu(features), tf.float32), [1, 2, 3])
        logits = self.linear(features, weights=None if weights is None else weights.linear)[:, 0]
        if labels is None:
            return logits
        class_logits = self.projection(features, weights=None if weights is None else weights.projection[0])
        return logits + tf.reduce_sum(tf.one_hot(labels, class_logits.shape[1]) * class_logits, axis=1)


class Discriminator(tf.keras.Model):
    """D_1..D_L (arXiv 1811.09245, section on multiple subsampling layers). The loss combines their logits.

    Attributes:
      config: The architecture.
      level_discriminators: The L networks.
    """

    def __init__(self, config: ModelConfig, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.config = config
        self.level_discriminators = [
            LevelDiscriminator(config, name=f"level{level.number}") for level in config.pyramid.levels
        ]
        labels = tf.zeros([1], tf.int32) if config.num_classes else None
        self([tf.zeros([1, 1, 2, 2, 3])] * len(self.level_discriminators), labels)  # creates all weights

    def effective_weights(self, lengths: Sequence[Sequence[int] | None] | None = None) -> list[LevelWeights]:
        """Returns each level's weights, float32: kernels divided by their largest singular values, and biases.

        Args:
          lengths: T_l, H_l, W_l of each level's videos, if the weights are used only for these. See `SpectralLayer`.
        """
        lengths = [None] * len(self.level_discriminators) if lengths is None else lengths
        return [network.effective_weights(level) for network, level in zip(self.level_discriminators, lengths)]

    def cast_weights(self, weights: Sequence[LevelWeights]) -> list[LevelWeights]:
        """Casts weights to the compute dtypes of their layers."""
        return [network.cast_weights(level) for network, level in zip(self.level_discriminators, weights)]

    def call(
        self,
        videos: Sequence[tf.Tensor],
        labels: tf.Tensor | None = None,
        weights: Sequence[LevelWeights] | None = None,
        recompute: bool = False,
    ) -> list[tf.Tensor]:
        """Computes the logits of a pyramid of videos.

        Args:
          videos: L tensors, level l float [N_l, T_l, H_l, W_l, 3] in [-1, 1]. T_l, H_l and W_l are arbitrary.
          labels: int [N_1], in a conditional model. Sample i of level l is sample i * N_1 / N_l of level 1.
          weights: Used instead of `effective_weights`, one element per level.
          recompute: As in `LevelDiscriminator`.
        Returns:
          L tensors of logits, level l float32 [N_l].
        Raises:
          ValueError: The number of levels or a level's shape is wrong, or labels are missing or unexpected.
        """
        if (labels is None) == self.config.conditional:
            raise ValueError("labels are for a conditional model" if labels is not None else "labels are missing")
        if len(videos) != len(self.level_discriminators):
            raise ValueError(f"{len(videos)} levels of videos for {len(self.level_discriminators)} networks")
        for number, level in enumerate(videos, start=1):
            if level.shape.rank != 5 or level.shape[-1] != 3:
                raise ValueError(f"videos of level {number} have shape {level.shape}; expected [N, T, H, W, 3]")
        if labels is not None and not tf.TensorShape(labels.shape).is_compatible_with(videos[0].shape[:1]):
            raise ValueError(f"labels have shape {labels.shape} for videos of shape {videos[0].shape}; expected [N]")
        level_weights: Sequence[LevelWeights | None] = [None] * len(videos) if weights is None else weights
        logits = []
        for index, (network, level, own) in enumerate(zip(self.level_discriminators, videos, level_weights)):
            if index and labels is not None:
                labels = labels[:: self.config.batch_strides[index - 1]]
            logits.append(network(level, labels, weights=own, recompute=recompute))
        return logits

    @property
    def weight_layers(self) -> list[SpectralLayer]:
        """All layers with weights. Their kernels and biases are all trainable variables."""
        return [module for module in self.submodules if isinstance(module, SpectralLayer)]

    def update_singular_vectors(self) -> None:
        """Runs one power iteration for every normalised kernel; called once per discriminator update."""
        for layer in self.weight_layers:
            layer.update_singular_vectors()
