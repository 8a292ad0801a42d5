"""ProgressiveVGAN's training (Acharya, Huang, Paudel & Van Gool, arXiv 1810.02419), as in the authors' code.

Where this differs from their code:

- Upscaling and downscaling are separate from convolutions. Their fused form pads the kernel of levels that keep the
  frames on the wrong axes.
- A fading level's real clips are mixed with their averages over the same factors by which the level enlarges generated
  clips. Theirs are also averaged over pairs of frames where the level keeps the frames, so reals would lose motion.
- The orthogonal directions of sliced Wasserstein are orthogonal from the beginning, and made so after each update. The
  order in their graph is undefined, and signs of columns may change.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import tensorflow as tf

from tganv2_tf.config import Config
from tganv2_tf.models.adversary import Adversary, _move_average
from tganv2_tf.models.latents import sample_latents
from tganv2_tf.systems.progressive_vgan.networks import Discriminator, Generator
from tganv2_tf.systems.progressive_vgan.objective import (
    Mixing,
    discriminator_terms,
    generator_loss,
    orthogonalized,
    tangent,
)
from tganv2_tf.systems.progressive_vgan.optimizer import PhaseAdam
from tganv2_tf.systems.progressive_vgan.scaling import averaged, copied, mixed, reduced_reals
from tganv2_tf.systems.progressive_vgan.schedule import check_replicas, phase_at, schedule, table

DISCRIMINATOR_UPDATE, GENERATOR_UPDATE = 0, 1  # of a step, for `Adversary.seed_of_update`
LATENTS, CLIP_MIXING, FEATURE_MIXING = 0, 1, 2  # random numbers of an update


class Model(Adversary):
    """ProgressiveVGAN. The discriminator is updated first, then the generator, each with its own generated clips.

    A step's graph is that of its phase: `begin_phase` must be called before the first step, and at each border.

    Attributes:
      phases: All phases of the run.
      phase: The current phase.
    """

    NETWORKS: ClassVar[Mapping[str, Any]] = {"generator": Generator, "discriminator": Discriminator}
    generator: Generator
    discriminator: Discriminator

    def __init__(
        self, networks: dict[str, tf.keras.Model], config: Config, num_pipelines: int = 1, **kwargs: Any
    ) -> None:
        check_replicas(config.model, tf.distribute.get_strategy().num_replicas_in_sync)
        super().__init__(networks, config, num_pipelines, **kwargs)
        self.phases = schedule(config)
        self.phase = self.phases[0]

    @classmethod
    def make_optimizers(cls, config: Config) -> tuple[tf.keras.optimizers.Optimizer, ...]:
        rates = config.train.generator_learning_rate, config.train.discriminator_learning_rate
        return tuple(PhaseAdam(config, rate) for rate in rates)

    @classmethod
    def describe(cls, config: Config) -> Iterator[str]:
        yield from super().describe(config)
        yield from table(config)

    @property
    def global_batch_size(self) -> int:
        return self.phase.batch_size

    def begin_phase(self, step: int) -> int:
        """Selects the phase of a step, whose graph and batch size hold until the returned step.

        Adam is reset if the step is the first of its phase. As that depends on nothing else, a resumed run does the
        same.
        """
        phase = phase_at(self.phases, step)
        if phase != self.phase:
            self.phase, self.train_function = phase, None  # Keras then traces a new graph
        if step == phase.first_step:
            for optimizer in self.optimizers.values():
                optimizer.reset()
        return self.config.train.train_steps if phase.last_step is None else phase.last_step

    def old_share(self) -> tf.Tensor | None:
        """Returns the share of the level before in the current step, float32 []; None if no level is fading in."""
        phase = self.phase
        if not phase.fading:
            return None
        shown = phase.first_clip - phase.border + (self.step - phase.first_step) * phase.batch_size
        return 1.0 - tf.cast(shown, tf.float32) / float(self.config.model.fading_clips)

    def lod(self) -> tf.Tensor:
        """Returns the lod of the current step, float32 [], see `schedule.py`."""
        whole, old_share = float(self.config.model.last_level - self.phase.level), self.old_share()
        return tf.constant(whole) if old_share is None else whole + old_share

    def real_clips(self, clips: tf.Tensor) -> tf.Tensor:
        """Reduces real clips to the level of the phase, and mixes them with those of the level before.

        Args:
          clips: float32 [N, T, H, W, 3] at full size.
        """
        model, level, old_share = self.config.model, self.phase.level, self.old_share()
        clips = reduced_reals(clips, model.size(level), self.config.data.normalization)
        if old_share is None:
            return clips
        factors = model.factors(level)
        return mixed(clips, copied(averaged(clips, factors), factors), old_share)

    def discriminator_losses_and_gradients(
        self, real: tf.Tensor, z: tf.Tensor, mixing: Mixing
    ) -> tuple[dict[str, tf.Tensor], list[tf.Tensor]]:
        """Computes terms and scores of each clip, see `discriminator_terms`, and the gradients of the mean loss.

        Args:
          real: float32 [N, T, H, W, 3] at the size of the phase's level.
          z: float32 [N, z_dim].
          mixing: Random numbers.
        """
        level, old_share, network = self.phase.level, self.old_share(), self.discriminator
        fake = self.generator.clips_of_level(z, level, old_share)
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(network.trainable_variables)
            terms, scores = discriminator_terms(network, real, fake, mixing, level, old_share)
            loss = tf.add_n([tf.reduce_mean(term) for term in terms.values()])
        # Layers of other levels are not used. Adam does not change a weight whose gradients have been 0 since a reset.
        gradients = tape.gradient(loss, network.trainable_variables, unconnected_gradients="zero")
        return {**terms, "real_score": scores["real"], "fake_score": scores["fake"]}, gradients

    def generator_losses_and_gradients(self, z: tf.Tensor) -> tuple[tf.Tensor, list[tf.Tensor]]:
        """Computes the loss of each clip, [N], and the gradients of its mean, given z, float32 [N, z_dim]."""
        level, old_share, network = self.phase.level, self.old_share(), self.generator
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(network.trainable_variables)
            clips = network.clips_of_level(z, level, old_share)
            scores = self.discriminator.scores(self.discriminator.features(clips, level, old_share))
            losses = generator_loss(scores, self.config.model)
            loss = tf.reduce_mean(losses)
        return losses, tape.gradient(loss, network.trainable_variables, unconnected_gradients="zero")

    def on_manifold(self, gradients: Sequence[tf.Tensor]) -> list[tf.Tensor]:
        """Returns the discriminator's gradients, with that of the orthogonal directions projected, if there are any."""
        projection = self.discriminator.projection
        directions = None if projection is None else projection.directions
        return [
            tangent(tf.convert_to_tensor(variable), gradient) if variable is directions else gradient
            for variable, gradient in zip(self.discriminator.trainable_variables, gradients)
        ]

    def _seeds(self, update: int) -> list[tf.Tensor]:
        """Returns this replica's seeds of an update."""
        fold_in = tf.random.experimental.stateless_fold_in
        replica = tf.distribute.get_replica_context().replica_id_in_sync_group
        seed = fold_in(self.seed_of_update(update), replica)
        return [fold_in(seed, kind) for kind in (LATENTS, CLIP_MIXING, FEATURE_MIXING)]

    def update(self, real_videos: Sequence[tf.Tensor], labels: tf.Tensor) -> dict[str, tf.Tensor]:
        real, context = self.real_clips(real_videos[0][0]), tf.distribute.get_replica_context()
        count, latent = real.shape[0] or tf.shape(real)[0], self.config.model.latent
        self.generator.lod.assign(self.lod())
        seeds = self._seeds(DISCRIMINATOR_UPDATE)
        mixing = Mixing(*(tf.random.stateless_uniform([count], seed) for seed in seeds[1:]))
        terms, gradients = self.discriminator_losses_and_gradients(
            real, sample_latents(count, latent, seeds[0]), mixing
        )
        results = {name: tf.reduce_mean(values) for name, values in terms.items()}
        scores = {name: results.pop(name) for name in ("real_score", "fake_score")}
        results = {"discriminator_loss": tf.add_n(list(results.values())), **results, **scores}
        results["discriminator_gradient_norm"] = tf.linalg.global_norm(gradients)
        self.apply_gradients("discriminator", self.on_manifold(gradients))
        if self.discriminator.projection is not None:
            context.merge_call(self._orthogonalize, args=(self.discriminator.projection.directions,))
        if self.ema_generator is not self.generator:
            context.merge_call(self._average_before_update)
        losses, gradients = self.generator_losses_and_gradients(
            sample_latents(count, latent, self._seeds(GENERATOR_UPDATE)[0])
        )
        results["generator_loss"] = tf.reduce_mean(losses)
        results["generator_gradient_norm"] = tf.linalg.global_norm(gradients)
        self.apply_gradients("generator", gradients)
        return results

    def _orthogonalize(self, strategy: tf.distribute.Strategy, directions: tf.Variable) -> None:
        """Makes the directions orthogonal again."""

        def assign(variable: tf.Variable) -> None:
            variable.assign(orthogonalized(tf.convert_to_tensor(variable)))

        strategy.extended.update(directions, assign)

    def _average_before_update(self, strategy: tf.distribute.Strategy) -> None:
        """Updates `ema_generator` with constant decay, along with the discriminator, before the generator moves."""
        rate = tf.constant(1.0 - self.config.train.ema_decay)
        pairs = zip(self.ema_generator.trainable_variables, self.generator.trainable_variables)
        for average, variable in pairs:
            strategy.extended.update(average, _move_average, args=(variable, rate))

        def copy(variable: tf.Variable, value: tf.Tensor) -> None:
            variable.assign(value)

        strategy.extended.update(self.ema_generator.lod, copy, args=(tf.convert_to_tensor(self.generator.lod),))

    def _update_average(self, strategy: tf.distribute.Strategy) -> None:
        """Does nothing: see `_average_before_update`."""

    def scalars(self) -> dict[str, tf.Tensor]:
        """Returns the lod of the latest step."""
        return {"lod": tf.convert_to_tensor(self.generator.lod)}

    def traced_gradients(self, real_videos: Sequence[tf.Tensor]) -> list[tuple[list[tf.Tensor], float]]:
        """Traces a step of each phase, with its share of the batch and of the run's steps; the last phase first."""
        (real,), last_step = real_videos, self.config.train.train_steps
        groups = []
        for phase in reversed(self.phases):
            end = last_step if phase.last_step is None else min(phase.last_step, last_step)
            if end > phase.first_step:
                self.phase = phase
                count = max(1, real.shape[0] * phase.batch_size // self.config.train.global_batch_size)
                z = tf.compat.v1.placeholder(tf.float32, [count, self.config.model.z_dim])
                mixing = Mixing(*(tf.compat.v1.placeholder(tf.float32, [count]) for _ in range(2)))
                clips = self.real_clips(real[:count])
                _, of_discriminator = self.discriminator_losses_and_gradients(clips, z, mixing)
                _, of_generator = self.generator_losses_and_gradients(z)
                groups.append(([*of_discriminator, *of_generator], (end - phase.first_step) / last_step))
        return groups
