"""TGANv2 as a Keras model: one training step of generator, discriminators and averaged generator."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import tensorflow as tf

from tganv2_tf.config import Config
from tganv2_tf.models.discriminator import Discriminator
from tganv2_tf.models.generator import Generator
from tganv2_tf.models.latents import sample_latents
from tganv2_tf.models.scoring import LOSSES, total_scores
from tganv2_tf.subsampling import random_frame_offsets

# What the numbers of a step are drawn from: (seed, step) folded with one of these, so that a resumed run repeats them.
LATENTS, OFFSETS = 0, 1


class Step(NamedTuple):
    """Losses (scalars of one replica) and the gradients of both networks, in the order of their trainable variables."""

    losses: dict[str, tf.Tensor]
    generator_gradients: list[tf.Tensor]
    discriminator_gradients: list[tf.Tensor]


def scales_losses(optimizer: Any) -> bool:
    """Whether losses are to be multiplied while they are differentiated: float16 has no room for small gradients."""
    return isinstance(optimizer, tf.keras.mixed_precision.LossScaleOptimizer)


def scaled(loss: tf.Tensor, optimizer: Any) -> tf.Tensor:
    """The loss that is to be differentiated."""
    return optimizer.get_scaled_loss(loss) if scales_losses(optimizer) else loss


def unscaled(gradients: list[tf.Tensor], optimizer: Any) -> list[tf.Tensor]:
    """The gradients of a loss, from those of its `scaled`."""
    return optimizer.get_unscaled_gradients(gradients) if scales_losses(optimizer) else gradients


class TGANv2(tf.keras.Model):
    """The adversarial pair, trained by `fit`.

    The batches that `fit` draws are pyramids of real clips with a leading axis of n_dis: level l is
    float32 [n_dis, N_l, T_l, H_l, W_l, 3]. All means are over the replica's own batch, and gradients are averaged over
    replicas, so that nothing depends on how many of them share the global batch.

    Attributes:
      generator, discriminator: the networks.
      ema_generator: exponential moving average of the generator, batch-norm statistics included; the generator
        itself where `ema_decay` is 0.
      config: the run.
      step: int64, generator updates so far.
    """

    def __init__(self, generator: Generator, discriminator: Discriminator, config: Config, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.generator, self.discriminator, self.config = generator, discriminator, config
        self.generator_optimizer: Any = None
        self.discriminator_optimizer: Any = None
        self.latest_penalty = tf.Variable(
            0.0, False, synchronization=tf.VariableSynchronization.ON_READ, aggregation=tf.VariableAggregation.MEAN
        )
        self.step = tf.Variable(
            0, dtype=tf.int64, trainable=False, aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA
        )
        self.ema_generator = generator
        if config.train.ema_decay:
            self.ema_generator = Generator(generator.config, name="ema_generator")
            self.ema_generator.set_weights(generator.get_weights())

    def compile(self, generator_optimizer: Any, discriminator_optimizer: Any, **kwargs: Any) -> None:
        """Sets the optimisers; the losses are the config's."""
        super().compile(**kwargs)
        self.generator_optimizer = generator_optimizer
        self.discriminator_optimizer = discriminator_optimizer
        generator_optimizer.build(self.generator.trainable_variables)
        discriminator_optimizer.build(self.discriminator.trainable_variables)

    def r1_penalty(self, real_videos: Sequence[tf.Tensor]) -> tuple[list[tf.Tensor], tf.Tensor]:
        """Logits of real clips and r1_weight / N_1 * sum_l sum_n |d D_l / d x_l|^2 (Mescheder et al., 2018).

        The sum over levels and the missing 1/2 are those of the authors' code; the division by the replica's N_1 makes
        it independent of the number of replicas.
        """
        # The root of the loss scale, since what is differentiated twice is multiplied by both.
        scales = scales_losses(self.discriminator_optimizer)
        scale = tf.sqrt(self.discriminator_optimizer.loss_scale) if scales else 1.0
        with tf.GradientTape() as tape:
            tape.watch(real_videos)
            logits = self.discriminator(real_videos)
            total = scale * tf.add_n([tf.reduce_sum(level) for level in logits])
        gradients = tape.gradient(total, real_videos)
        squares = tf.add_n([tf.reduce_sum(tf.square(gradient / scale)) for gradient in gradients])
        return logits, self.config.train.r1_weight * squares / tf.cast(tf.shape(logits[0])[0], tf.float32)

    def _lazy_penalty(self, real_videos: Sequence[tf.Tensor]) -> tuple[tf.Tensor, list[tf.Tensor]]:
        """The latest penalty, and its gradients: every `r1_every_steps` steps, as many times as strong, else zeros.

        (Karras et al., 2020.) It has a pass of D of its own, since a graph leaves out only what is inside a branch.
        """
        every, variables = self.config.train.r1_every_steps, self.discriminator.trainable_variables
        optimizer = self.discriminator_optimizer

        def penalty() -> list[tf.Tensor]:
            with tf.GradientTape() as tape:
                value = self.r1_penalty(real_videos)[1]
                loss = scaled(every * value, optimizer)
            # The biases at the end do not act on the penalty.
            gradients = tape.gradient(loss, variables, unconnected_gradients=tf.UnconnectedGradients.ZERO)
            return [value, *unscaled(gradients, optimizer)]

        def none() -> list[tf.Tensor]:
            return [tf.convert_to_tensor(self.latest_penalty), *(tf.zeros_like(variable) for variable in variables)]

        value, *gradients = tf.cond(self.step % every == 0, penalty, none)
        # Loss scaling lets single penalties overflow; the ones that are shown until the next do not have to.
        self.latest_penalty.assign(tf.where(tf.math.is_finite(value), value, self.latest_penalty))
        return value, gradients

    def _losses_and_gradients(
        self,
        real_videos: Sequence[tf.Tensor],
        z: tf.Tensor,
        frame_offsets: Sequence[tf.Tensor] | None,
        train_generator: bool = True,
    ) -> tuple[Step, dict[str, list[tf.Tensor]]]:
        train, model = self.config.train, self.config.model
        loss = LOSSES[train.loss]
        lazy = train.r1_every_steps > 1
        with tf.GradientTape(persistent=True) as tape:
            if train.r1_weight and not lazy:
                real_logits, r1_penalty = self.r1_penalty(real_videos)
            else:
                real_logits, r1_penalty = self.discriminator(real_videos), tf.constant(0.0)
            fake_videos = self.generator.pyramid(
                z,
                frame_strides=model.frame_strides,
                batch_strides=model.batch_strides,
                frame_offsets=frame_offsets,
            )
            if not train_generator:
                fake_videos = [tf.stop_gradient(videos) for videos in fake_videos]
            fake_logits = self.discriminator(fake_videos)
            real_scores = total_scores(real_logits, model.batch_strides, train.score)
            fake_scores = total_scores(fake_logits, model.batch_strides, train.score)
            generator_loss = tf.reduce_mean(loss.generator(fake_scores))
            discriminator_loss = tf.reduce_mean(loss.discriminator(real_scores, fake_scores))
            for_generator = scaled(generator_loss, self.generator_optimizer)
            for_discriminator = scaled(discriminator_loss + r1_penalty, self.discriminator_optimizer)
        generator_gradients = []
        if train_generator:
            gradients = tape.gradient(for_generator, self.generator.trainable_variables)
            generator_gradients = unscaled(gradients, self.generator_optimizer)
        gradients = tape.gradient(for_discriminator, self.discriminator.trainable_variables)
        discriminator_gradients = unscaled(gradients, self.discriminator_optimizer)
        if train.r1_weight and lazy:
            r1_penalty, of_penalty = self._lazy_penalty(real_videos)
            discriminator_gradients = [a + b for a, b in zip(discriminator_gradients, of_penalty)]
        losses = {
            "generator_loss": generator_loss,
            "discriminator_loss": discriminator_loss,
            "r1_penalty": r1_penalty,
        }
        logits = {"real_logits": real_logits, "fake_logits": fake_logits}
        return Step(losses, generator_gradients, discriminator_gradients), logits

    def losses_and_gradients(
        self, real_videos: Sequence[tf.Tensor], z: tf.Tensor, frame_offsets: Sequence[int | tf.Tensor] | None = None
    ) -> Step:
        """One step's losses and gradients, without updating anything.

        Args:
          real_videos: the pyramid's L levels, level l float32 [N_l, T_l, H_l, W_l, 3] in [-1, 1].
          z: float32 [N_1, z_dim] in [-1, 1].
          frame_offsets: b_t of each subsampling layer; drawn anew where it is None.
        Returns:
          `generator_loss`, `discriminator_loss` (without the penalty) and `r1_penalty`; d generator_loss / d G;
          d (discriminator_loss + r1_penalty) / d D.
        """
        return self._losses_and_gradients(real_videos, z, frame_offsets)[0]

    def draw(self, update: int, num_clips: int | tf.Tensor) -> tuple[tf.Tensor, list[tf.Tensor]]:
        """Latents of this replica, and frame offsets of all replicas, for one discriminator update of this step."""
        fold_in = tf.random.experimental.stateless_fold_in
        seed = fold_in(fold_in([self.config.train.seed, 0], self.step), update)
        replica = tf.distribute.get_replica_context().replica_id_in_sync_group
        z = sample_latents(num_clips, self.generator.config.z_dim, fold_in(fold_in(seed, LATENTS), replica))
        return z, random_frame_offsets(self.config.model.frame_strides, fold_in(seed, OFFSETS))

    @tf.autograph.experimental.do_not_convert  # nothing here depends on a tensor's value, and tracing is quicker
    def train_step(self, real_videos: Sequence[tf.Tensor]) -> dict[str, tf.Tensor]:
        """One generator update and n_dis discriminator updates; called by `fit` on each replica.

        Both networks' gradients are taken before either of them moves, on the same fakes, as the authors do; with
        n_dis > 1 the generator moves with the first discriminator update.

        Args:
          real_videos: n_dis batches of this replica: level l float32 [n_dis, N_l, T_l, H_l, W_l, 3].
        Returns:
          Scalars, averaged over replicas: losses and mean logits of each level at the first discriminator update, and
          the norms of the gradients, the largest over the updates.
        """
        train = self.config.train
        replica_context = tf.distribute.get_replica_context()
        num_clips = real_videos[0].shape[1] or tf.shape(real_videos[0])[1]
        results: dict[str, tf.Tensor] = {}
        for i in range(train.n_dis):
            z, frame_offsets = self.draw(i, num_clips)
            self.discriminator.update_singular_vectors()
            step, logits = self._losses_and_gradients(
                [level[i] for level in real_videos],
                z,
                frame_offsets,
                train_generator=i == 0,
            )
            norm = tf.linalg.global_norm(step.discriminator_gradients)
            results["discriminator_gradient_norm"] = tf.maximum(norm, results.get("discriminator_gradient_norm", norm))
            if i == 0:
                results.update(step.losses)
                results["generator_gradient_norm"] = tf.linalg.global_norm(step.generator_gradients)
                for name, values in logits.items():
                    for number, level_logits in enumerate(values, start=1):
                        results[f"{name}/level_{number}"] = tf.reduce_mean(level_logits)
                self._apply(self.generator_optimizer, self.generator, step.generator_gradients)
                self.generator.update_moving_statistics()
            self._apply(self.discriminator_optimizer, self.discriminator, step.discriminator_gradients)
        self.step.assign_add(1)
        if self.ema_generator is not self.generator:
            replica_context.merge_call(self._update_average)
        return replica_context.all_reduce(tf.distribute.ReduceOp.MEAN, results)

    @staticmethod
    def _apply(optimizer: Any, network: tf.keras.Model, gradients: Sequence[tf.Tensor]) -> None:
        """Optimisers add gradients up over replicas; ours are means."""
        replicas = tf.distribute.get_replica_context().num_replicas_in_sync
        means = gradients if replicas == 1 else [gradient / replicas for gradient in gradients]
        optimizer.apply_gradients(zip(means, network.trainable_variables))

    def _update_average(self, strategy: tf.distribute.Strategy) -> None:
        """Moves the averaged generator; early on with a shorter memory, (1 + t) / (10 + t), as TensorFlow's."""
        step = tf.cast(tf.convert_to_tensor(self.step), tf.float32)
        decay = tf.minimum(self.config.train.ema_decay, (1.0 + step) / (10.0 + step))
        for average, variable in zip(self.ema_generator.variables, self.generator.variables):
            strategy.extended.update(average, lambda a, v: a.assign(a + (1.0 - decay) * (v - a)), args=(variable,))
