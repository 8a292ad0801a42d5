"""TGANv2 as a Keras model: one training step of generator, discriminators and averaged generator."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Callable, NamedTuple

import tensorflow as tf

from tganv2_tf.config import Config
from tganv2_tf.models.augmentation import augment
from tganv2_tf.models.discriminator import Discriminator
from tganv2_tf.models.generator import Generator
from tganv2_tf.models.latents import sample_latents
from tganv2_tf.models.scoring import LOSSES, mean_loss
from tganv2_tf.models.spectral_norm import given_weights
from tganv2_tf.subsampling import random_frame_offsets

# What the numbers of a step are drawn from: (seed, restarts) folded with the step and one of these, so that a resumed
# run repeats them.
LATENTS, OFFSETS, AUGMENTATION = 0, 1, 2
# Below it a slope of the discriminators' loss by a logit counts as nothing: weights have 8 digits.
TINY = 1e-20


def _move(average: tf.Variable, variable: tf.Variable, share: tf.Tensor) -> None:
    """Moves an average by a share of its distance, with one pass over its memory and one over a difference."""
    tf.raw_ops.ResourceApplyGradientDescent(var=average.handle, alpha=share, delta=average - variable)


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


def _times(videos: tf.Tensor, factors: tf.Tensor) -> tf.Tensor:
    """[N, T, H, W, C] times a factor a sample, [N]."""
    return videos * tf.reshape(factors, [-1, 1, 1, 1, 1])


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
        self.distribute_reduction_method = "first"  # fit would add up over replicas what are means over them already
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

    def _real_part(
        self, videos: Sequence[tf.Tensor], labels: tf.Tensor | None, weights: Sequence[tf.Tensor], penalty: float
    ) -> list[Any]:
        """What real clips give the discriminators: loss, logits, r1_penalty, gradients by `weights`.

        The penalty is r1_weight / N_1 * sum_l sum_n |d D_l / d x_l|^2 (Mescheder et al., 2018). The sum over levels and
        the missing 1/2 are those of the authors' code; the division by the replica's N_1 makes it independent of the
        number of replicas.

        With it, the gradients of loss and penalty are one: D is linear around each clip, and, with a number a sample
        that its biases are multiplied by, homogeneous. So its logits are <x, dD/dx> + dD/d(number): both losses are
        functions of these slopes, and their gradients go back through them at once. That makes four passes (forward,
        slopes, and two for the kernels), where the gradients of each loss for itself take six.

        Args:
          videos: the levels as D sees them.
          labels: of the clips, in a conditional model.
          weights: D's kernels, normalised, and biases.
          penalty: by how much r1_weight is multiplied; 0 for no penalty, and three passes.
        """
        train, strides = self.config.train, self.config.model.batch_strides
        optimizer = self.discriminator_optimizer

        def loss_of(logits: list[tf.Tensor]) -> tuple[tf.Tensor, list[tf.Tensor]]:
            return mean_loss(LOSSES[train.loss].real, logits, strides, train.score)

        if not penalty:
            with tf.GradientTape() as tape:
                tape.watch(weights)
                logits = self.discriminator(videos, labels)
            loss, upstream = loss_of(logits)
            gradients = tape.gradient(logits, weights, [scaled(slope, optimizer) for slope in upstream])
            return [loss, logits, tf.constant(0.0), gradients]
        # The root of the loss scale, as these slopes are multiplied by it a second time.
        scale = tf.sqrt(optimizer.loss_scale) if scales_losses(optimizer) else 1.0
        ones = [tf.ones(tf.shape(level)[:1]) for level in videos]
        with tf.GradientTape() as tape:
            tape.watch(weights)
            with tf.GradientTape() as inner:
                inner.watch([videos, ones])
                logits = self.discriminator(videos, labels, ones)
            slopes = inner.gradient(logits, [*videos, *ones], [scale * one for one in ones])
        loss, upstream = loss_of(logits)
        of_videos = [slope / scale for slope in slopes[: len(videos)]]
        weight = train.r1_weight / tf.cast(tf.shape(logits[0])[0], tf.float32)
        r1_penalty = weight * tf.add_n([tf.reduce_sum(tf.square(slope)) for slope in of_videos])
        directions = [
            _times(level, change) + 2.0 * penalty * weight * slope
            for level, change, slope in zip(videos, upstream, of_videos)
        ]
        gradients = tape.gradient(slopes, weights, [scale * direction for direction in (*directions, *upstream)])
        return [loss, logits, r1_penalty, gradients]

    def _fake_part(
        self,
        z: tf.Tensor,
        frame_offsets: Sequence[int | tf.Tensor] | None,
        labels: tf.Tensor | None,
        weights: Sequence[tf.Tensor],
        seen: Callable[[Sequence[tf.Tensor]], Sequence[tf.Tensor]],
        train_generator: bool,
    ) -> tuple[list[tf.Tensor], list[tf.Tensor], list[tf.Tensor], list[tf.Tensor]]:
        """What fakes give both networks: their losses, logits, the generator's gradients and those by `weights`.

        D mixes no samples, so that the gradients of both losses go back through it as one, which differ by a factor a
        sample. Float16 has no room for that factor.
        """
        train, model = self.config.train, self.config.model
        with tf.GradientTape() as generation:
            fake_videos = self.generator.pyramid(
                z,
                frame_strides=model.frame_strides,
                batch_strides=model.batch_strides,
                frame_offsets=frame_offsets,
                labels=labels,
                recompute=train.recompute,
            )
            videos = seen(fake_videos)
        with tf.GradientTape(persistent=True) as tape:
            tape.watch([weights, videos])
            logits = self.discriminator(videos, labels, recompute=train.recompute)
        loss = LOSSES[train.loss]
        losses, (for_generator, for_discriminator) = zip(
            *(mean_loss(function, logits, model.batch_strides, train.score) for function in (loss.generator, loss.fake))
        )
        for_generator = [scaled(slope, self.generator_optimizer) for slope in for_generator]
        for_discriminator = [scaled(slope, self.discriminator_optimizer) for slope in for_discriminator]
        of_generator: list[tf.Tensor] = []
        if not train_generator:
            of_weights = tape.gradient(logits, weights, for_discriminator)
        else:
            if scales_losses(self.discriminator_optimizer):
                of_weights = tape.gradient(logits, weights, for_discriminator)
                of_videos = tape.gradient(logits, videos, for_generator)
            else:
                # Where D is so sure of a fake that its own gradient vanishes, the factor would have no bounds.
                shared = [tf.where(tf.abs(slope) < TINY, TINY, slope) for slope in for_discriminator]
                of_weights, of_videos = tape.gradient(logits, (weights, videos), shared)
                of_videos = [
                    _times(slope, wanted / there) for slope, wanted, there in zip(of_videos, for_generator, shared)
                ]
            of_generator = generation.gradient(videos, self.generator.trainable_variables, of_videos)
            of_generator = [tf.convert_to_tensor(gradient) for gradient in of_generator]  # a table's has only some rows
        return list(losses), logits, of_generator, of_weights

    def _part(
        self,
        real_videos: Sequence[tf.Tensor],
        z: tf.Tensor,
        frame_offsets: Sequence[int | tf.Tensor] | None,
        labels: tf.Tensor | None,
        augmentation_seed: tf.Tensor | None,
        train_generator: bool,
        weights: Sequence[tf.Tensor],
    ) -> Step:
        """`losses_and_gradients` of clips that are worked through at once; those of D are by `weights`."""
        train, model = self.config.train, self.config.model

        def seen(videos: Sequence[tf.Tensor], whose: int) -> Sequence[tf.Tensor]:
            """What the discriminators see of a pyramid."""
            if augmentation_seed is None or not train.augmentations:
                return videos
            seed = tf.random.experimental.stateless_fold_in(augmentation_seed, whose)
            return augment(videos, train.augmentations, model.batch_strides, seed)

        every = train.r1_every_steps if train.r1_weight else 0
        reals = seen(real_videos, 0)

        def with_penalty() -> list[Any]:
            return self._real_part(reals, labels, weights, float(every))

        def without() -> list[Any]:
            loss, logits, _, gradients = self._real_part(reals, labels, weights, 0.0)
            return [loss, logits, tf.convert_to_tensor(self.latest_penalty), gradients]

        if every > 1:  # as many times as strong (Karras et al., 2020)
            real = tf.cond(self.step % every == 0, with_penalty, without)
        else:
            real = self._real_part(reals, labels, weights, float(every))
        real_loss, real_logits, r1_penalty, of_reals = real
        with tf.control_dependencies(of_reals):  # so that only one of the two parts is in memory
            z = tf.identity(z)
        (generator_loss, fake_loss), fake_logits, of_generator, of_fakes = self._fake_part(
            z, frame_offsets, labels, weights, lambda videos: seen(videos, 1), train_generator
        )
        losses = {
            "generator_loss": generator_loss,
            "discriminator_loss": real_loss + fake_loss,
            "r1_penalty": r1_penalty,
        }
        mean_logits = {
            f"{name}/level_{number}": tf.reduce_mean(logits)
            for name, levels in (("real_logits", real_logits), ("fake_logits", fake_logits))
            for number, logits in enumerate(levels, start=1)
        }
        of_discriminator = [tf.cast(a, tf.float32) + tf.cast(b, tf.float32) for a, b in zip(of_reals, of_fakes)]
        return Step(losses, mean_logits, of_generator, of_discriminator)

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
        # Every kernel is normalised once a step, and the gradient by what comes of it goes back through that once. In
        # the deep blocks of short levels most taps meet only padding: those are not even made.
        layers = self.discriminator.weight_layers
        lengths = self.discriminator.input_lengths([level.shape[1:4] for level in real_videos])
        with tf.GradientTape() as normalization:
            kernels = [layer.normalized_kernel(lengths.get(layer)) for layer in layers]
        in_use = [tf.cast(kernel, layer.compute_dtype) for kernel, layer in zip(kernels, layers)]
        biases = [tf.convert_to_tensor(layer.bias) for layer in layers]
        for part in range(parts):
            inputs = [_part_of(tensor, part, parts) for tensor in (*real_videos, z)]
            if total is not None:
                # All that follows depends on these, so that two parts are never in memory at once.
                with tf.control_dependencies(tf.nest.flatten(total)):
                    inputs = [tf.identity(tensor) for tensor in inputs]
            with given_weights(layers, in_use, biases):
                step = self._part(
                    inputs[:-1],
                    inputs[-1],
                    frame_offsets,
                    None if labels is None else _part_of(labels, part, parts),
                    _folded(augmentation_seed, part),
                    train_generator,
                    [*in_use, *biases],
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
        of_kernels = total.discriminator_gradients[: len(kernels)]
        of_kernels = normalization.gradient(kernels, [layer.kernel for layer in layers], of_kernels)
        by_variable = {layer.kernel.ref(): gradient for layer, gradient in zip(layers, of_kernels)}
        of_biases = total.discriminator_gradients[len(kernels) :]
        by_variable |= {layer.bias.ref(): gradient for layer, gradient in zip(layers, of_biases)}
        of_discriminator = [by_variable[variable.ref()] for variable in self.discriminator.trainable_variables]
        return total._replace(
            generator_gradients=unscaled(total.generator_gradients, self.generator_optimizer),
            discriminator_gradients=unscaled(of_discriminator, self.discriminator_optimizer),
        )

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
            strategy.extended.update(average, _move, args=(variable, 1.0 - decay))
