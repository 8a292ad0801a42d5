"""TGANv2 as a Keras model: one training step of generator, discriminators and averaged generator."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import tensorflow as tf

from tganv2_tf.config import Config
from tganv2_tf.models.augmentation import augment
from tganv2_tf.models.discriminator import Discriminator
from tganv2_tf.models.generator import Generator
from tganv2_tf.models.latents import sample_latents
from tganv2_tf.models.scoring import LOSSES, total_scores
from tganv2_tf.subsampling import random_frame_offsets

# What the numbers of a step are drawn from: (seed, restarts) folded with the step and one of these, so that a resumed
# run repeats them.
LATENTS, OFFSETS, AUGMENTATION = 0, 1, 2


class Step(NamedTuple):
    """What one replica's batch gives.

    Attributes:
      losses: scalars: `generator_loss`, `discriminator_loss` (without the penalty) and `r1_penalty`.
      mean_logits: scalars: `real_logits/level_1` and so on.
      generator_gradients: d generator_loss / d G, in the order of its trainable variables; empty where it is not asked.
      discriminator_gradients: d (discriminator_loss + r1_penalty) / d D, likewise.
    """

    losses: dict[str, tf.Tensor]
    mean_logits: dict[str, tf.Tensor]
    generator_gradients: list[tf.Tensor]
    discriminator_gradients: list[tf.Tensor]


class Draws(NamedTuple):
    """The random numbers of one discriminator update on one replica.

    Attributes:
      z: float32 [N_1, z_dim].
      frame_offsets: b_t of each subsampling layer, int32 scalars; the same on all replicas.
      augmentation_seed: int32 [2].
    """

    z: tf.Tensor
    frame_offsets: list[tf.Tensor]
    augmentation_seed: tf.Tensor


def scales_losses(optimizer: Any) -> bool:
    """Whether losses are to be multiplied while they are differentiated: float16 has no room for small gradients."""
    return isinstance(optimizer, tf.keras.mixed_precision.LossScaleOptimizer)


def scaled(loss: tf.Tensor, optimizer: Any) -> tf.Tensor:
    """The loss that is to be differentiated."""
    return optimizer.get_scaled_loss(loss) if scales_losses(optimizer) else loss


def unscaled(gradients: list[tf.Tensor], optimizer: Any) -> list[tf.Tensor]:
    """The gradients of a loss, from those of its `scaled`."""
    return optimizer.get_unscaled_gradients(gradients) if scales_losses(optimizer) else gradients


def _part_of(tensor: tf.Tensor, part: int, parts: int) -> tf.Tensor:
    """One of several equal parts along the first axis."""
    if parts == 1:
        return tensor
    size = (tensor.shape[0] or tf.shape(tensor)[0]) // parts
    return tensor[part * size : (part + 1) * size]


def _folded(seed: tf.Tensor | None, part: int) -> tf.Tensor | None:
    return None if seed is None else tf.random.experimental.stateless_fold_in(seed, part)


class TGANv2(tf.keras.Model):
    """The adversarial pair, trained by `fit`.

    The batches that `fit` draws are pyramids of real clips with a leading axis of n_dis, level l
    float32 [n_dis, N_l, T_l, H_l, W_l, 3], their labels, int64 [n_dis, N_1], and how far the data set went for them,
    int64 [num_pipelines]; in a conditional model fakes have the labels of the real clips. All means are over the
    replica's own batch, and gradients are averaged over replicas, so that nothing depends on how many of them share the
    global batch.

    Attributes:
      generator, discriminator: the networks.
      ema_generator: exponential moving average of the generator, batch-norm statistics included; the generator
        itself where `ema_decay` is 0.
      config: the run.
      step: int64, generator updates so far.
      data_position: int64 [num_pipelines], the sums of what the batches say.
      restarts: int64, how often the run began again at a checkpoint after losses that were not finite, each time with
        other random numbers.
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
        self.generator, self.discriminator, self.config = generator, discriminator, config
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
        """Sets the optimisers; the losses are the config's."""
        super().compile(**kwargs)
        self.generator_optimizer = generator_optimizer
        self.discriminator_optimizer = discriminator_optimizer
        generator_optimizer.build(self.generator.trainable_variables)
        discriminator_optimizer.build(self.discriminator.trainable_variables)

    def r1_penalty(
        self, real_videos: Sequence[tf.Tensor], labels: tf.Tensor | None = None
    ) -> tuple[list[tf.Tensor], tf.Tensor]:
        """Logits of real clips and r1_weight / N_1 * sum_l sum_n |d D_l / d x_l|^2 (Mescheder et al., 2018).

        The sum over levels and the missing 1/2 are those of the authors' code; the division by the replica's N_1 makes
        it independent of the number of replicas.
        """
        # The root of the loss scale, since what is differentiated twice is multiplied by both.
        scales = scales_losses(self.discriminator_optimizer)
        scale = tf.sqrt(self.discriminator_optimizer.loss_scale) if scales else 1.0
        with tf.GradientTape() as tape:
            tape.watch(real_videos)
            logits = self.discriminator(real_videos, labels)
            total = scale * tf.add_n([tf.reduce_sum(level) for level in logits])
        gradients = tape.gradient(total, real_videos)
        squares = tf.add_n([tf.reduce_sum(tf.square(gradient / scale)) for gradient in gradients])
        return logits, self.config.train.r1_weight * squares / tf.cast(tf.shape(logits[0])[0], tf.float32)

    def _lazy_penalty(
        self, real_videos: Sequence[tf.Tensor], labels: tf.Tensor | None
    ) -> tuple[tf.Tensor, list[tf.Tensor]]:
        """The latest penalty, and its gradients: every `r1_every_steps` steps, as many times as strong, else zeros.

        (Karras et al., 2020.) It has a pass of D of its own, since a graph leaves out only what is inside a branch.
        """
        every, variables = self.config.train.r1_every_steps, self.discriminator.trainable_variables
        optimizer = self.discriminator_optimizer

        def penalty() -> list[tf.Tensor]:
            with tf.GradientTape() as tape:
                value = self.r1_penalty(real_videos, labels)[1]
                loss = scaled(every * value, optimizer)
            # The biases at the end do not act on the penalty.
            gradients = tape.gradient(loss, variables, unconnected_gradients=tf.UnconnectedGradients.ZERO)
            return [value, *unscaled(gradients, optimizer)]

        def none() -> list[tf.Tensor]:
            return [tf.convert_to_tensor(self.latest_penalty), *(tf.zeros_like(variable) for variable in variables)]

        value, *gradients = tf.cond(self.step % every == 0, penalty, none)
        return value, gradients

    def _part(
        self,
        real_videos: Sequence[tf.Tensor],
        z: tf.Tensor,
        frame_offsets: Sequence[int | tf.Tensor] | None,
        labels: tf.Tensor | None,
        augmentation_seed: tf.Tensor | None,
        train_generator: bool,
    ) -> Step:
        """`losses_and_gradients` of clips that are worked through at once."""
        train, model = self.config.train, self.config.model
        loss = LOSSES[train.loss]
        lazy = train.r1_every_steps > 1

        def seen(videos: Sequence[tf.Tensor], whose: int) -> Sequence[tf.Tensor]:
            """What the discriminators see of a pyramid."""
            if augmentation_seed is None or not train.augmentations:
                return videos
            seed = tf.random.experimental.stateless_fold_in(augmentation_seed, whose)
            return augment(videos, train.augmentations, model.batch_strides, seed)

        real_videos = seen(real_videos, 0)
        with tf.GradientTape(persistent=True) as tape:
            if train.r1_weight and not lazy:
                real_logits, r1_penalty = self.r1_penalty(real_videos, labels)
            else:
                real_logits, r1_penalty = self.discriminator(real_videos, labels), tf.constant(0.0)
            fake_videos = self.generator.pyramid(
                z,
                frame_strides=model.frame_strides,
                batch_strides=model.batch_strides,
                frame_offsets=frame_offsets,
                labels=labels,
            )
            if not train_generator:
                fake_videos = [tf.stop_gradient(videos) for videos in fake_videos]
            fake_logits = self.discriminator(seen(fake_videos, 1), labels)
            real_scores = total_scores(real_logits, model.batch_strides, train.score)
            fake_scores = total_scores(fake_logits, model.batch_strides, train.score)
            generator_loss = tf.reduce_mean(loss.generator(fake_scores))
            discriminator_loss = tf.reduce_mean(loss.discriminator(real_scores, fake_scores))
            for_generator = scaled(generator_loss, self.generator_optimizer)
            for_discriminator = scaled(discriminator_loss + r1_penalty, self.discriminator_optimizer)
        generator_gradients = []
        if train_generator:
            gradients = tape.gradient(for_generator, self.generator.trainable_variables)
            gradients = [tf.convert_to_tensor(gradient) for gradient in gradients]  # a table's has only some rows
            generator_gradients = unscaled(gradients, self.generator_optimizer)
        gradients = tape.gradient(for_discriminator, self.discriminator.trainable_variables)
        discriminator_gradients = unscaled(gradients, self.discriminator_optimizer)
        if train.r1_weight and lazy:
            r1_penalty, of_penalty = self._lazy_penalty(real_videos, labels)
            discriminator_gradients = [a + b for a, b in zip(discriminator_gradients, of_penalty)]
        losses = {
            "generator_loss": generator_loss,
            "discriminator_loss": discriminator_loss,
            "r1_penalty": r1_penalty,
        }
        mean_logits = {
            f"{name}/level_{number}": tf.reduce_mean(logits)
            for name, levels in (("real_logits", real_logits), ("fake_logits", fake_logits))
            for number, logits in enumerate(levels, start=1)
        }
        return Step(losses, mean_logits, generator_gradients, discriminator_gradients)

    def losses_and_gradients(
        self,
        real_videos: Sequence[tf.Tensor],
        z: tf.Tensor,
        frame_offsets: Sequence[int | tf.Tensor] | None = None,
        labels: tf.Tensor | None = None,
        augmentation_seed: tf.Tensor | None = None,
        train_generator: bool = True,
    ) -> Step:
        """One step's losses and gradients, without updating a weight.

        With `gradient_accumulation_steps` the batch is worked through in that many parts, one after the other, and all
        results are means over the parts; batch norms see a part at a time.

        Args:
          real_videos: the pyramid's L levels, level l float32 [N_l, T_l, H_l, W_l, 3] in [-1, 1].
          z: float32 [N_1, z_dim] in [-1, 1].
          frame_offsets: b_t of each subsampling layer; drawn anew where it is None.
          labels: int [N_1] of reals and fakes, in a conditional model.
          augmentation_seed: int32 [2], what `diffaugment` is drawn from; without one nothing is augmented.
          train_generator: False leaves its gradients out.
        """
        train = self.config.train
        parts = train.gradient_accumulation_steps
        total: Any = None
        norms, moments = self.generator.batch_norms, []
        for part in range(parts):
            inputs = [_part_of(tensor, part, parts) for tensor in (*real_videos, z)]
            if total is not None:
                # All that follows depends on these, so that two parts are never in memory at once.
                with tf.control_dependencies(tf.nest.flatten(total)):
                    inputs = [tf.identity(tensor) for tensor in inputs]
            step = self._part(
                inputs[:-1],
                inputs[-1],
                frame_offsets,
                None if labels is None else _part_of(labels, part, parts),
                _folded(augmentation_seed, part),
                train_generator,
            )
            moments.append([norm.batch_moments for norm in norms])
            total = step if total is None else tf.nest.map_structure(tf.add, total, step)
        if parts > 1:
            total = tf.nest.map_structure(lambda tensor: tensor / parts, total)
            for norm, of_parts in zip(norms, zip(*moments)):
                norm.batch_moments = tuple(tf.add_n(moment) / parts for moment in zip(*of_parts))
        if train.r1_weight and train.r1_every_steps > 1:
            # Loss scaling lets single penalties overflow; the ones that are shown until the next do not have to.
            value = total.losses["r1_penalty"]
            self.latest_penalty.assign(tf.where(tf.math.is_finite(value), value, self.latest_penalty))
        return total

    def draw(self, update: int, num_clips: int | tf.Tensor) -> Draws:
        """The random numbers of this replica for one discriminator update of this step."""
        fold_in = tf.random.experimental.stateless_fold_in
        run = tf.stack([tf.constant(self.config.train.seed, tf.int64), self.restarts])
        seed = fold_in(fold_in(run, self.step), update)
        replica = tf.distribute.get_replica_context().replica_id_in_sync_group
        return Draws(
            sample_latents(num_clips, self.generator.config.z_dim, fold_in(fold_in(seed, LATENTS), replica)),
            random_frame_offsets(self.config.model.frame_strides, fold_in(seed, OFFSETS)),
            fold_in(fold_in(seed, AUGMENTATION), replica),
        )

    @tf.autograph.experimental.do_not_convert  # nothing here depends on a tensor's value, and tracing is quicker
    def train_step(self, data: tuple[Sequence[tf.Tensor], tf.Tensor, tf.Tensor]) -> dict[str, tf.Tensor]:
        """One generator update and n_dis discriminator updates; called by `fit` on each replica.

        Both networks' gradients are taken before either of them moves, on the same fakes, as the authors do; with
        n_dis > 1 the generator moves with the first discriminator update.

        Args:
          data: n_dis batches of this replica: the levels, level l float32 [n_dis, N_l, T_l, H_l, W_l, 3]; labels, int64
            [n_dis, N_1]; and by how much the data's position moves with them, int64 [num_pipelines].
        Returns:
          Scalars, averaged over replicas: losses and mean logits of each level at the first discriminator update, and
          the norms of the gradients, the largest over the updates.
        """
        real_videos, labels, used = data
        train = self.config.train
        replica_context = tf.distribute.get_replica_context()
        num_clips = real_videos[0].shape[1] or tf.shape(real_videos[0])[1]
        results: dict[str, tf.Tensor] = {}
        for i in range(train.n_dis):
            draws = self.draw(i, num_clips)
            self.discriminator.update_singular_vectors()
            step = self.losses_and_gradients(
                [level[i] for level in real_videos],
                draws.z,
                draws.frame_offsets,
                labels[i] if self.config.model.conditional else None,
                draws.augmentation_seed,
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
        # A tensor of this function's own: the strategy does not know where those are that it is given.
        used = replica_context.all_reduce(tf.distribute.ReduceOp.SUM, tf.identity(used))
        self.data_position.assign_add(used)
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
