"""The inputs and the results of a training step's gradients, and the microbatches of `gradient_accumulation_steps`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Callable, NamedTuple

import tensorflow as tf

from tganv2_tf.config import ModelConfig
from tganv2_tf.models.layers import BatchNorm


class StepInputs(NamedTuple):
    """The data of one discriminator update on one replica.

    Attributes:
      real_videos: S^D(x), the pyramid's L levels, level l float32 [N_l, T_l, H_l, W_l, 3] in [-1, 1].
      z: float32 [N_1, z_dim] in [-1, 1].
      frame_offsets: b_t of each subsampling layer S^G, L - 1 integers; None draws them.
      labels: int [N_1], of reals and fakes, in a conditional model.
      augmentation_seed: int32 [2], the seed of DiffAugment; without one nothing is augmented.
    """

    real_videos: Sequence[tf.Tensor]
    z: tf.Tensor
    frame_offsets: Sequence[int | tf.Tensor] | None = None
    labels: tf.Tensor | None = None
    augmentation_seed: tf.Tensor | None = None

    def check(self, config: ModelConfig) -> None:
        """Raises ValueError unless the shapes, as far as they are known, are those of the config's levels."""
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
        """One of `count` equal parts along the batch, with its own augmentation."""

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
        """The same inputs, which a graph provides only when these tensors have been computed."""
        with tf.control_dependencies(tensors):
            return self._replace(real_videos=[tf.identity(level) for level in self.real_videos], z=tf.identity(self.z))


class StepGradients(NamedTuple):
    """The results of one replica's batch.

    Attributes:
      losses: Scalars: `generator_loss`, `discriminator_loss` (without the penalty) and `r1_penalty`.
      mean_logits: Scalars: `real_logits/level_1` and so on.
      generator_gradients: d generator_loss / d G, in the order of its trainable variables; empty if not requested.
      discriminator_gradients: d (discriminator_loss + r1_penalty) / d D, likewise.
    """

    losses: dict[str, tf.Tensor]
    mean_logits: dict[str, tf.Tensor]
    generator_gradients: list[tf.Tensor]
    discriminator_gradients: list[tf.Tensor]


def mean_logits(real_logits: Sequence[tf.Tensor], fake_logits: Sequence[tf.Tensor]) -> dict[str, tf.Tensor]:
    """The means of each level's logits, by the names under which they are logged."""
    return {
        f"{name}/level_{number}": tf.reduce_mean(logits)
        for name, levels in (("real_logits", real_logits), ("fake_logits", fake_logits))
        for number, logits in enumerate(levels, start=1)
    }


def accumulate(
    compute: Callable[[StepInputs], StepGradients], inputs: StepInputs, count: int, batch_norms: Sequence[BatchNorm]
) -> StepGradients:
    """Computes the gradients of `count` microbatches, one after the other, and returns the means of their results.

    Args:
      compute: Computes the results of one microbatch.
      inputs: The whole batch.
      count: The number of microbatches.
      batch_norms: Of the generator. Each normalises one microbatch at a time, and keeps the mean of their moments.
    """
    total: StepGradients | None = None
    moments = []
    for index in range(count):
        part = inputs.microbatch(index, count)
        if total is not None:  # two microbatches are never in memory at the same time
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
