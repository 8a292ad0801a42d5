"""Inputs and results of the gradient computation of a training step, and gradient accumulation over microbatches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Callable, NamedTuple

import tensorflow as tf

from tganv2_tf.config import ModelConfig
from tganv2_tf.models.layers import BatchNorm


class StepInputs(NamedTuple):
    """Inputs of one discriminator update on one replica.

    Attributes:
      real_videos: S^D(x), L levels, level l float32 [N_l, T_l, H_l, W_l, 3] in [-1, 1].
      z: float32 [N_1, z_dim] in [-1, 1].
      frame_offsets: b_t of each subsampling layer S^G, L - 1 integers; None draws them at random.
      labels: int [N_1], of reals and fakes, in a conditional model.
      augmentation_seed: Stateless seed of DiffAugment, int32 [2]; None disables augmentation.
    """

    real_videos: Sequence[tf.Tensor]
    z: tf.Tensor
    frame_offsets: Sequence[int | tf.Tensor] | None = None
    labels: tf.Tensor | None = None
    augmentation_seed: tf.Tensor | None = None

    def check(self, config: ModelConfig) -> None:
        """Raises ValueError if the static shapes do not match the config."""
        latents, levels = tf.TensorShape(self.z.shape), config.pyramid.levels
        if not latents.is_compatible_with([None, config.z_dim]):
            raise ValueError(f"z has shape {latents}; expected [N, {config.z_dim}]")
        if len(self.real_videos) != len(levels):
            raise ValueError(f"{len(self.real_videos)} levels of real videos for {len(levels)} levels of the model")
        for level, videos in zip(levels, self.real_videos):
            batch_size = None if latents[0] is None else -(-latents[0] // level.clip_stride)
            expected = tf.TensorShape([batch_size, level.frames, level.size, level.size, 3])
            if not expected.is_compatible_with(videos.shape):
                text = f"real videos of level {level.number} have shape {videos.shape}; expected {expected}"
                raise ValueError(f"{text} for z of shape {latents}")

    def microbatch(self, index: int, count: int) -> StepInputs:
        """Returns one of `count` equal parts of the batch, with its own augmentation seed."""

        def part(tensor: tf.Tensor) -> tf.Tensor:
            if count == 1:
                return tensor
            size = (tensor.shape[0] or tf.shape(tensor)[0]) // count
            return tensor[index * size : (index + 1) * size]

        seed = self.augmentation_seed
        return self._replace(
            real_videos=[part(level) for level in self.real_videos],
            z=part(self.z),
            labels=None if self.labels is None else part(self.labels),
            augmentation_seed=None if seed is None else tf.random.experimental.stateless_fold_in(seed, index),
        )

    def after(self, tensors: Sequence[tf.Tensor]) -> StepInputs:
        """Returns the same inputs with a control dependency on `tensors`."""
        with tf.control_dependencies(tensors):
            return self._replace(real_videos=[tf.identity(level) for level in self.real_videos], z=tf.identity(self.z))


class StepGradients(NamedTuple):
    """Losses and gradients of one replica's batch.

    Attributes:
      losses: Scalars `generator_loss`, `discriminator_loss` (without the penalty) and `r1_penalty`.
      mean_logits: Scalars `real_logits/level_1`, etc.
      generator_gradients: d generator_loss / d G, in the order of trainable variables; empty if not requested.
      discriminator_gradients: d (discriminator_loss + r1_penalty) / d D, in the order of trainable variables.
    """

    losses: dict[str, tf.Tensor]
    mean_logits: dict[str, tf.Tensor]
    generator_gradients: list[tf.Tensor]
    discriminator_gradients: list[tf.Tensor]


def mean_logits(real_logits: Sequence[tf.Tensor], fake_logits: Sequence[tf.Tensor]) -> dict[str, tf.Tensor]:
    """Returns the mean logits of each level, keyed by the names used in logs."""
    return {
        f"{name}/level_{number}": tf.reduce_mean(logits)
        for name, levels in (("real_logits", real_logits), ("fake_logits", fake_logits))
        for number, logits in enumerate(levels, start=1)
    }


def accumulate(
    compute: Callable[[StepInputs], StepGradients], inputs: StepInputs, count: int, batch_norms: Sequence[BatchNorm]
) -> StepGradients:
    """Computes gradients of `count` microbatches sequentially and returns the means of the results.

    Args:
      compute: Computes the results of one microbatch.
      inputs: The whole batch.
      count: Number of microbatches.
      batch_norms: The generator's batch norms. Each one normalises per microbatch and keeps the mean of the moments.
    """
    total: StepGradients | None = None
    moments = []
    for index in range(count):
        part = inputs.microbatch(index, count)
        if total is not None:  # keeps only one microbatch in memory
            part = part.after(tf.nest.flatten(total))
        result = compute(part)
        moments.append([norm.batch_moments for norm in batch_norms])
        total = result if total is None else tf.nest.map_structure(tf.add, total, result)
    assert total is not None
    if count == 1:
        return total
    for norm, parts in zip(batch_norms, zip(*moments)):
        norm.batch_moments = tuple(tf.add_n(moment) / count for moment in zip(*parts))
    return tf.nest.map_structure(lambda tensor: tensor / count, total)
