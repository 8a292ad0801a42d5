"""TGANv2 (Saito & Saito, arXiv 1811.09245) as a Keras model: the training step of all networks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import tensorflow as tf

from tganv2_tf.config import Config
from tganv2_tf.models.adversary import Adversary
from tganv2_tf.models.discriminator import Discriminator
from tganv2_tf.models.fast_gradients import check_discriminator, fast_gradients
from tganv2_tf.models.generator import Generator
from tganv2_tf.models.latents import sample_latents
from tganv2_tf.models.loss_scaling import LossScales, loss_scale, unscale_gradients
from tganv2_tf.models.objective import plain_gradients
from tganv2_tf.models.optimizers import make_adam
from tganv2_tf.models.step import StepGradients, StepInputs, accumulate
from tganv2_tf.subsampling import random_frame_offsets

# Each kind of random number has its own seed per step: (seed, restarts) folded with the step and one of these numbers.
# A resumed run therefore repeats them.
LATENTS, OFFSETS, AUGMENTATION = 0, 1, 2


class StepNoise(NamedTuple):
    """Random numbers of one discriminator update on one replica.

    Attributes:
      z: Latents, float32 [N_1, z_dim].
      frame_offsets: b_t of each subsampling layer, int32 scalars; equal on all replicas.
      augmentation_seed: Stateless seed of DiffAugment, int32 [2].
    """

    z: tf.Tensor
    frame_offsets: list[tf.Tensor]
    augmentation_seed: tf.Tensor


class TGANv2(Adversary):
    """Generator and discriminators, trained by `fit` (arXiv 1811.09245).

    In a conditional model, fakes have the labels of the real clips. See `Adversary` for batches and attributes.

    Attributes:
      latest_penalty: The latest penalty, for steps without one (lazy regularization).
    """

    NETWORKS: ClassVar[Mapping[str, Any]] = {"generator": Generator, "discriminator": Discriminator}
    STATE: ClassVar[tuple[str, ...]] = ("latest_penalty",)
    generator: Generator
    discriminator: Discriminator

    def __init__(
        self,
        generator: Generator,
        discriminator: Discriminator,
        config: Config,
        num_pipelines: int = 1,
        **kwargs: Any,
    ) -> None:
        if config.train.gradients == "fast":
            check_discriminator(discriminator, config.model)
        super().__init__({"generator": generator, "discriminator": discriminator}, config, num_pipelines, **kwargs)
        self.latest_penalty = tf.Variable(
            0.0, False, synchronization=tf.VariableSynchronization.ON_READ, aggregation=tf.VariableAggregation.MEAN
        )

    @classmethod
    def create(cls, config: Config, num_pipelines: int = 1) -> TGANv2:
        policy = tf.keras.mixed_precision.global_policy()
        tf.keras.mixed_precision.set_global_policy(config.train.mixed_precision)  # read when layers are created
        try:
            return cls(Generator(config.model), Discriminator(config.model), config, num_pipelines)
        finally:
            tf.keras.mixed_precision.set_global_policy(policy)

    @classmethod
    def make_optimizers(cls, config: Config) -> tuple[tf.keras.optimizers.Optimizer, ...]:
        train = config.train
        return (
            make_adam(train, train.generator_learning_rate),
            make_adam(train, train.discriminator_learning_rate, train.n_dis),
        )

    @classmethod
    def describe(cls, config: Config) -> Iterator[str]:
        generator, discriminator = Generator(config.model), Discriminator(config.model)
        levels = generator.generator_levels
        first = generator.count_params() - sum(level.count_params() for level in levels)
        yield "level  resolution  frames  batch  generator parameters  discriminator parameters"
        yield f"{'latent and recurrence':>29}{'':>7}{first:>22,}"
        for level, block, network in zip(config.model.pyramid.levels, levels, discriminator.level_discriminators):
            size = f"{level.size}x{level.size}"
            batch = level.batch_size(config.train.global_batch_size)
            yield (
                f"{level.number:>5}  {size:>10}  {level.frames:>6}  {batch:>5}  {block.count_params():>20,}  "
                f"{network.count_params():>24,}"
            )
        yield f"total{'':>26}{generator.count_params():>22,}  {discriminator.count_params():>24,}"

    def traced_gradients(self, real_videos: Sequence[tf.Tensor]) -> list[tuple[list[tf.Tensor], float]]:
        num_clips = real_videos[0].shape[0]
        z = tf.compat.v1.placeholder(tf.float32, [num_clips, self.config.model.z_dim])
        labels = tf.zeros([num_clips], tf.int64) if self.config.model.conditional else None
        step = self.losses_and_gradients(real_videos, z, labels=labels, augmentation_seed=tf.constant([0, 0]))
        both = [*step.generator_gradients, *step.discriminator_gradients]
        return [(both, 1), (step.discriminator_gradients, self.config.train.n_dis - 1)]

    def scalars(self) -> dict[str, tf.Tensor]:
        """Returns the largest and the mean spectral norm of the weights of each level's discriminator."""
        found = {}
        for number, network in enumerate(self.discriminator.level_discriminators, start=1):
            norms = [layer.sigma() for layer in network.submodules if getattr(layer, "spectral_norm", False)]
            if norms:
                found[f"spectral_norm/level_{number}_max"] = tf.reduce_max(norms)
                found[f"spectral_norm/level_{number}_mean"] = tf.reduce_mean(norms)
        return found

    def losses_and_gradients(
        self,
        real_videos: Sequence[tf.Tensor],
        z: tf.Tensor,
        frame_offsets: Sequence[int | tf.Tensor] | None = None,
        labels: tf.Tensor | None = None,
        augmentation_seed: tf.Tensor | None = None,
        train_generator: bool = True,
    ) -> StepGradients:
        """Computes the losses and gradients of one step, without updating weights.

        With `gradient_accumulation_steps` all results are means over the microbatches. In steps without a penalty (lazy
        regularization), `r1_penalty` is the latest value.

        Args:
          real_videos, z, frame_offsets, labels, augmentation_seed: See `StepInputs`.
          train_generator: Whether to compute the generator's gradients.
        Raises:
          ValueError: The shapes of videos, latents or labels do not match the model.
        """
        train = self.config.train
        inputs = StepInputs(real_videos, z, frame_offsets, labels, augmentation_seed)
        inputs.check(self.config.model)
        lazy = bool(train.r1_weight) and train.r1_every_steps > 1
        penalty_due = self.step % train.r1_every_steps == 0 if lazy else bool(train.r1_weight)
        networks = self.generator, self.discriminator
        if train.gradients == "plain":
            r1_factor = train.r1_every_steps * tf.cast(penalty_due, tf.float32)
            step = accumulate(
                lambda part: plain_gradients(*networks, part, self.config, r1_factor, train_generator),
                inputs,
                train.gradient_accumulation_steps,
                self.generator.batch_norms,
            )
        else:
            scales = LossScales(loss_scale(self.generator_optimizer), loss_scale(self.discriminator_optimizer))
            step = fast_gradients(*networks, inputs, self.config, penalty_due, train_generator, scales)
            step = step._replace(
                generator_gradients=unscale_gradients(step.generator_gradients, self.generator_optimizer),
                discriminator_gradients=unscale_gradients(step.discriminator_gradients, self.discriminator_optimizer),
            )
        if lazy:
            penalty = tf.where(penalty_due, step.losses["r1_penalty"], self.latest_penalty)
            # With loss scaling a penalty may overflow. That value must not be reported until the next penalty.
            self.latest_penalty.assign(tf.where(tf.math.is_finite(penalty), penalty, self.latest_penalty))
            step.losses["r1_penalty"] = penalty
        return step

    def sample_noise(self, update: int, num_clips: int | tf.Tensor) -> StepNoise:
        """Returns this replica's random numbers for discriminator update `update` of the current step."""
        fold_in, seed = tf.random.experimental.stateless_fold_in, self.seed_of_update(update)
        replica = tf.distribute.get_replica_context().replica_id_in_sync_group
        return StepNoise(
            sample_latents(num_clips, self.config.model.latent, fold_in(fold_in(seed, LATENTS), replica)),
            random_frame_offsets(self.config.model.frame_strides, fold_in(seed, OFFSETS)),
            fold_in(fold_in(seed, AUGMENTATION), replica),
        )

    def update(self, real_videos: Sequence[tf.Tensor], labels: tf.Tensor) -> dict[str, tf.Tensor]:
        """Performs one generator update and n_dis discriminator updates.

        The gradients of both networks are computed on the same fakes before either network is updated, as in the
        authors' code. With n_dis > 1 the generator is updated along with the first discriminator update.

        Returns:
          Losses and mean logits per level at the first discriminator update, and gradient norms. The discriminators'
          norm is the maximum over the updates.
        """
        train = self.config.train
        num_clips = real_videos[0].shape[1] or tf.shape(real_videos[0])[1]
        results: dict[str, tf.Tensor] = {}
        for i in range(train.n_dis):
            noise = self.sample_noise(i, num_clips)
            self.discriminator.update_singular_vectors()
            step = self.losses_and_gradients(
                [level[i] for level in real_videos],
                noise.z,
                noise.frame_offsets,
                labels[i] if self.config.model.conditional else None,
                noise.augmentation_seed,
                train_generator=i == 0,
            )
            norm = tf.linalg.global_norm(step.discriminator_gradients)
            results["discriminator_gradient_norm"] = tf.maximum(norm, results.get("discriminator_gradient_norm", norm))
            if i == 0:
                results |= {**step.losses, **step.mean_logits}
                results["generator_gradient_norm"] = tf.linalg.global_norm(step.generator_gradients)
                self.apply_gradients("generator", step.generator_gradients)
                self.generator.update_moving_statistics()
            self.apply_gradients("discriminator", step.discriminator_gradients)
        return results
