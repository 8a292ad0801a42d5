"""TGAN's training: Wasserstein GAN with clipping of singular values (Saito, Matsumoto & Saito, arXiv 1611.06624)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import tensorflow as tf

from tganv2_tf.config import Config
from tganv2_tf.models.adversary import Adversary
from tganv2_tf.models.latents import sample_latents
from tganv2_tf.models.optimizers import RMSprop, rate_schedule
from tganv2_tf.systems.tgan.networks import Discriminator, Generator

MINIMUM_GAMMA = 0.01  # of a discriminator's batch norm, in running standard deviations


def clip_singular_values(kernel: tf.Tensor) -> tf.Tensor:
    """Sets singular values above 1 to 1 (section 3.3, "singular value clipping").

    They are those of the matrix [taps * input channels, output channels]. The eigenvectors of its smaller Gram matrix
    are computed instead of its singular value decomposition. Smaller singular values do not change.

    Args:
      kernel: float32 [..., output channels].
    """
    matrix = tf.reshape(kernel, [-1, kernel.shape[-1]])
    squares, vectors = tf.linalg.eigh(tf.matmul(matrix, matrix, transpose_a=True))
    excess = 1.0 - tf.math.rsqrt(tf.maximum(squares, 1.0))  # 0 up to a singular value of 1
    clipped = matrix - tf.matmul(tf.matmul(matrix, vectors) * excess, vectors, transpose_b=True)
    return tf.reshape(clipped, kernel.shape)


class Model(Adversary):
    """TGAN. Both networks are updated at the same time, from gradients on the same generated clips."""

    NETWORKS: ClassVar[Mapping[str, Any]] = {"generator": Generator, "discriminator": Discriminator}
    generator: Generator
    discriminator: Discriminator

    @classmethod
    def make_optimizers(cls, config: Config) -> tuple[tf.keras.optimizers.Optimizer, ...]:
        train, model = config.train, config.model
        return tuple(
            RMSprop(
                rate_schedule(train, rate),
                model.rmsprop_decay,
                epsilon=model.rmsprop_epsilon,
                global_clipnorm=train.gradient_clip_norm or None,
            )
            for rate in (train.generator_learning_rate, train.discriminator_learning_rate)
        )

    def losses_and_gradients(
        self, real: tf.Tensor, z: tf.Tensor
    ) -> tuple[dict[str, tf.Tensor], dict[str, list[tf.Tensor]]]:
        """Computes losses, mean scores and the gradients of both networks.

        Args:
          real: float32 [N, 16, H, W, 3].
          z: float32 [N, z_dim].
        Returns:
          Scalars by name, and gradients by network.
        """
        with tf.GradientTape(persistent=True) as tape:
            fake_scores = self.discriminator(self.generator(z, training=True), training=True)
            real_scores = self.discriminator(real, training=True)
            means = {"real_score": tf.reduce_mean(real_scores), "fake_score": tf.reduce_mean(fake_scores)}
            losses = {
                "generator_loss": -means["fake_score"],
                "discriminator_loss": means["fake_score"] - means["real_score"],
            }
        gradients = {
            name: tape.gradient(losses[f"{name}_loss"], network.trainable_variables)
            for name, network in self.networks.items()
        }
        return {**losses, **means}, gradients

    def update(self, real_videos: Sequence[tf.Tensor], labels: tf.Tensor) -> dict[str, tf.Tensor]:
        real = real_videos[0][0]
        context = tf.distribute.get_replica_context()
        seed = tf.random.experimental.stateless_fold_in(self.seed_of_update(0), context.replica_id_in_sync_group)
        z = sample_latents(real.shape[0] or tf.shape(real)[0], self.config.model.latent, seed)
        results, gradients = self.losses_and_gradients(real, z)
        for name, values in gradients.items():
            self.apply_gradients(name, values)
            results[f"{name}_gradient_norm"] = tf.linalg.global_norm(values)
        context.merge_call(self._clip)
        return results

    def _clip(self, strategy: tf.distribute.Strategy) -> None:
        """Clips singular values and the scales of batch norms of the discriminator, every `clip_every_steps`."""
        due = (tf.convert_to_tensor(self.step) + 1) % self.config.model.clip_every_steps == 0

        def update(variable: tf.Variable, clip: Any, *arguments: tf.Tensor) -> None:
            value = tf.convert_to_tensor(variable)
            variable.assign(tf.cond(due, lambda: clip(value, *arguments), lambda: value))

        def clip_gamma(gamma: tf.Tensor, variance: tf.Tensor) -> tf.Tensor:
            deviation = tf.sqrt(variance)
            return tf.clip_by_value(gamma, MINIMUM_GAMMA * deviation, deviation)

        network = self.discriminator
        for convolution in (*network.convolutions, network.to_score):
            strategy.extended.update(convolution.kernel, update, args=(clip_singular_values,))
        for norm in network.norms:
            variance = tf.convert_to_tensor(norm.moving_variance)
            strategy.extended.update(norm.gamma, update, args=(clip_gamma, variance))

    def traced_gradients(self, real_videos: Sequence[tf.Tensor]) -> list[tuple[list[tf.Tensor], float]]:
        (real,) = real_videos
        z = tf.compat.v1.placeholder(tf.float32, [real.shape[0], self.config.model.z_dim])
        _, gradients = self.losses_and_gradients(real, z)
        return [([gradient for values in gradients.values() for gradient in values], 1)]
