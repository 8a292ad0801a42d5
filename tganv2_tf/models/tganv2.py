"""TGANv2 (Saito & Saito, arXiv 1811.09245) as a Keras model: the training step of all networks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import tensorflow as tf

from tganv2_tf.config import Config
from tganv2_tf.models.discriminator import Discriminator
from tganv2_tf.models.fast_gradients import check_discriminator, fast_gradients
from tganv2_tf.models.generator import Generator
from tganv2_tf.models.latents import sample_latents
from tganv2_tf.models.loss_scaling import LossScales, loss_scale, unscale_gradients
from tganv2_tf.models.objective import plain_gradients
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


def _move_average(average: tf.Variable, variable: tf.Variable, rate: tf.Tensor) -> None:
    """Computes average += rate * (variable - average) with few passes over memory."""
    tf.raw_ops.ResourceApplyGradientDescent(var=average.handle, alpha=rate, delta=average - variable)


class TGANv2(tf.keras.Model):
    """Generator and discriminators, trained by `fit` (arXiv 1811.09245).

    A batch has three parts: pyramids of real clips with a leading axis n_dis, level l float32
    [n_dis, N_l, T_l, H_l, W_l, 3]; labels, int64 [n_dis, N_1]; and the number of slots each input pipeline used for it
    (see `data/pipeline.py`), int64 [num_pipelines]. In a conditional model, fakes have the labels of the real clips.
    Means are over the replica's batch and gradients are averaged over replicas, so results do not depend on the number
    of replicas that share a global batch.

    Attributes:
      generator, discriminator: The networks.
      ema_generator: Exponential moving average of the generator, including batch-norm statistics. It is the generator
        itself if `ema_decay` is 0.
      config: The configuration of the run.
      step: int64, number of generator updates so far.
      data_position: int64 [num_pipelines], number of slots used so far by each pipeline.
      restarts: int64, number of restarts from a checkpoint after non-finite losses. Each restart uses new random
        numbers.
    """

    def __init__(
        self,
        generator: Generator,
        discriminator: Discriminator,
        config: Config,
        num_pipelines: int = 1,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if config.train.gradients == "fast":
            check_discriminator(discriminator, config.model)
        self.generator, self.discriminator, self.config = generator, discriminator, config
        self.distribute_reduction_method = "first"  # the results are means over replicas already; fit would sum them
        self.generator_optimizer: Any = None
        self.discriminator_optimizer: Any = None
        self.latest_penalty = tf.Variable(
            0.0, False, synchronization=tf.VariableSynchronization.ON_READ, aggregation=tf.VariableAggregation.MEAN
        )
        self.step, self.restarts, self.data_position = (
            tf.Variable(
                tf.zeros(shape, tf.int64), trainable=False, aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA
            )
            for shape in ([], [], [num_pipelines])
        )
        self.ema_generator = generator
        if config.train.ema_decay:
            self.ema_generator = Generator(generator.config, name="ema_generator")
            self.ema_generator.set_weights(generator.get_weights())

    def compile(self, generator_optimizer: Any, discriminator_optimizer: Any, **kwargs: Any) -> None:
        """Sets the optimisers. The losses are set by the config."""
        super().compile(**kwargs)
        self.generator_optimizer = generator_optimizer
        self.discriminator_optimizer = discriminator_optimizer
        generator_optimizer.build(self.generator.trainable_variables)
        discriminator_optimizer.build(self.discriminator.trainable_variables)

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
        fold_in = tf.random.experimental.stateless_fold_in
        run = tf.stack([tf.constant(self.config.train.seed, tf.int64), self.restarts])
        seed = fold_in(fold_in(run, self.step), update)
        replica = tf.distribute.get_replica_context().replica_id_in_sync_group
        return StepNoise(
            sample_latents(num_clips, self.generator.config.z_dim, fold_in(fold_in(seed, LATENTS), replica)),
            random_frame_offsets(self.config.model.frame_strides, fold_in(seed, OFFSETS)),
            fold_in(fold_in(seed, AUGMENTATION), replica),
        )

    @tf.autograph.experimental.do_not_convert  # no Python branch depends on a tensor; tracing is faster
    def train_step(self, data: tuple[Sequence[tf.Tensor], tf.Tensor, tf.Tensor]) -> dict[str, tf.Tensor]:
        """Performs one generator update and n_dis discriminator updates; called by `fit` on each replica.

        The gradients of both networks are computed on the same fakes before either network is updated, as in the
        authors' code. With n_dis > 1 the generator is updated along with the first discriminator update.

        Args:
          data: n_dis batches of this replica: levels, level l float32 [n_dis, N_l, T_l, H_l, W_l, 3]; labels, int64
            [n_dis, N_1]; number of slots used, int64 [num_pipelines].
        Returns:
          Scalars, averaged over replicas: losses and mean logits per level at the first discriminator update, and
          gradient norms. The discriminators' norm is the maximum over the updates.
        """
        real_videos, labels, used = data
        train = self.config.train
        replica_context = tf.distribute.get_replica_context()
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
                self._apply(self.generator_optimizer, self.generator, step.generator_gradients)
                self.generator.update_moving_statistics()
            self._apply(self.discriminator_optimizer, self.discriminator, step.discriminator_gradients)
        self.step.assign_add(1)
        # all_reduce needs a tensor made on this replica: the strategy does not know the device of an input tensor.
        used = replica_context.all_reduce(tf.distribute.ReduceOp.SUM, tf.identity(used))
        self.data_position.assign_add(used)
        if self.ema_generator is not self.generator:
            replica_context.merge_call(self._update_average)
        return replica_context.all_reduce(tf.distribute.ReduceOp.MEAN, results)

    @staticmethod
    def _apply(optimizer: Any, network: tf.keras.Model, gradients: Sequence[tf.Tensor]) -> None:
        """Applies gradients. Optimisers sum them over replicas, so each is divided by the number of replicas."""
        replicas = tf.distribute.get_replica_context().num_replicas_in_sync
        means = gradients if replicas == 1 else [gradient / replicas for gradient in gradients]
        optimizer.apply_gradients(zip(means, network.trainable_variables))

    def _update_average(self, strategy: tf.distribute.Strategy) -> None:
        """Updates `ema_generator`. Early decay is (1 + t) / (10 + t), as in tf.train.ExponentialMovingAverage."""
        step = tf.cast(tf.convert_to_tensor(self.step), tf.float32)
        decay = tf.minimum(self.config.train.ema_decay, (1.0 + step) / (10.0 + step))
        for average, variable in zip(self.ema_generator.variables, self.generator.variables):
            strategy.extended.update(average, _move_average, args=(variable, 1.0 - decay))
