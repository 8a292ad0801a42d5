"""VGAN's training (Vondrick, Pirsiavash & Torralba, arXiv 1609.02612), as in the authors' code."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import tensorflow as tf

from tganv2_tf.config import Config
from tganv2_tf.models.adversary import Adversary
from tganv2_tf.models.latents import sample_latents
from tganv2_tf.models.optimizers import make_adam
from tganv2_tf.systems.vgan.networks import Discriminator, Generator

REAL, FAKE = 0, 1  # columns of the logits


def cross_entropy(logits: tf.Tensor, column: int) -> tf.Tensor:
    """Returns the mean cross-entropy of logits [N, 2], if all samples are of the class `column`."""
    return -tf.reduce_mean(tf.nn.log_softmax(logits)[:, column])


class ForwardPass(NamedTuple):
    """Results of both networks on one batch, before any update.

    Attributes:
      tape: Persistent tape of everything below.
      losses: Scalars by name.
      clips: Generated clips, [N, T, H, W, 3].
      activations: Those of the discriminator on the generated clips, the logits last.
    """

    tape: tf.GradientTape
    losses: dict[str, tf.Tensor]
    clips: tf.Tensor
    activations: list[tf.Tensor]


class Model(Adversary):
    """VGAN. The discriminator is updated first, then the generator, by the same generated clips."""

    NETWORKS: ClassVar[Mapping[str, Any]] = {"generator": Generator, "discriminator": Discriminator}
    generator: Generator
    discriminator: Discriminator

    @classmethod
    def make_optimizers(cls, config: Config) -> tuple[tf.keras.optimizers.Optimizer, ...]:
        train = config.train
        rates = train.generator_learning_rate, train.discriminator_learning_rate
        return tuple(make_adam(train, rate) for rate in rates)

    def forward(self, real: tf.Tensor, z: tf.Tensor) -> ForwardPass:
        """Computes the losses.

        Args:
          real: float32 [N, T, H, W, 3].
          z: float32 [N, z_dim].
        """
        with tf.GradientTape(persistent=True) as tape:
            clips, mask = self.generator.clips_and_mask(z, training=True)
            real_logits = self.discriminator(real, training=True)
            activations = self.discriminator.activations(clips, training=True)
            fake_logits = activations[-1][:, 0, 0, 0]
            losses = {
                "generator_loss": cross_entropy(fake_logits, REAL),
                "mask_penalty": self.config.model.mask_weight * tf.reduce_mean(mask),
                "discriminator_loss": cross_entropy(real_logits, REAL) + cross_entropy(fake_logits, FAKE),
            }
            losses["penalized_generator_loss"] = losses["generator_loss"] + losses["mask_penalty"]
        return ForwardPass(tape, losses, clips, activations)

    def discriminator_gradients(self, step: ForwardPass) -> list[tf.Tensor]:
        """Returns the gradients of the discriminator's loss."""
        return step.tape.gradient(step.losses["discriminator_loss"], self.discriminator.trainable_variables)

    def generator_gradients(self, step: ForwardPass) -> list[tf.Tensor]:
        """Returns the gradients of the generator's loss, through the discriminator's weights of before their update."""
        return step.tape.gradient(step.losses["penalized_generator_loss"], self.generator.trainable_variables)

    def generator_gradients_through_updated_weights(self, step: ForwardPass) -> list[tf.Tensor]:
        """Returns the gradients that the authors' code computes, after the discriminator's update.

        It passes the gradient of the former logits back through the new weights, with the former activations.
        """
        variables, logits = self.generator.trainable_variables, step.activations[-1]
        of_logits = step.tape.gradient(step.losses["generator_loss"], logits)[:, 0, 0, 0]
        of_clips = self.discriminator.gradient_of_clips(step.activations, of_logits)
        adversarial = step.tape.gradient(step.clips, variables, of_clips)
        of_mask = step.tape.gradient(step.losses["mask_penalty"], variables, unconnected_gradients="zero")
        return [a + b for a, b in zip(adversarial, of_mask)]

    def update(self, real_videos: Sequence[tf.Tensor], labels: tf.Tensor) -> dict[str, tf.Tensor]:
        real = real_videos[0][0]
        context = tf.distribute.get_replica_context()
        seed = tf.random.experimental.stateless_fold_in(self.seed_of_update(0), context.replica_id_in_sync_group)
        z = sample_latents(real.shape[0] or tf.shape(real)[0], self.config.model.latent, seed)
        step = self.forward(real, z)
        gradients = {"discriminator": self.discriminator_gradients(step)}
        if self.config.model.gradients_through_updated_weights:
            self.apply_gradients("discriminator", gradients["discriminator"])
            gradients["generator"] = self.generator_gradients_through_updated_weights(step)
        else:
            gradients["generator"] = self.generator_gradients(step)
            self.apply_gradients("discriminator", gradients["discriminator"])
        self.apply_gradients("generator", gradients["generator"])
        norms = {f"{name}_gradient_norm": tf.linalg.global_norm(values) for name, values in gradients.items()}
        return {name: step.losses[name] for name in ("generator_loss", "mask_penalty", "discriminator_loss")} | norms

    def traced_gradients(self, real_videos: Sequence[tf.Tensor]) -> list[tuple[list[tf.Tensor], float]]:
        (real,) = real_videos
        step = self.forward(real, tf.compat.v1.placeholder(tf.float32, [real.shape[0], self.config.model.z_dim]))
        return [([*self.discriminator_gradients(step), *self.generator_gradients(step)], 1)]
