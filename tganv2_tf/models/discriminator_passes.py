"""One pass of a pyramid through the discriminators, from which gradients follow once the losses are known.

`fast_gradients.py` states the properties of discriminators that these passes require.
"""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf

from tganv2_tf.config import Config
from tganv2_tf.models.discriminator import Discriminator, LevelWeights
from tganv2_tf.models.loss_scaling import scale_loss
from tganv2_tf.models.objective import r1_penalty

# Lower bound of |d loss / d logit|. It is far below float32 precision and keeps the ratio of two derivatives finite.
MIN_SLOPE = 1e-20
Gradients = tuple[list[LevelWeights], list[tf.Tensor]]


def _scale_samples(videos: tf.Tensor, factors: tf.Tensor) -> tf.Tensor:
    """Multiplies videos [N, T, H, W, C] by one factor per sample, [N]."""
    return videos * tf.reshape(factors, [-1, 1, 1, 1, 1])


def _scale_biases(weights: LevelWeights, gains: tf.Tensor) -> LevelWeights:
    """Replaces each bias (weight of rank 1) by one bias per sample, [N, C]: b_n times the bias."""
    return tf.nest.map_structure(
        lambda weight: weight if weight.shape.rank > 1 else tf.cast(gains, weight.dtype)[:, tf.newaxis] * weight,
        weights,
    )


def input_gradients(
    discriminator: Discriminator,
    videos: Sequence[tf.Tensor],
    labels: tf.Tensor | None,
    weights: Sequence[LevelWeights],
    scale: float | tf.Tensor = 1.0,
) -> tuple[list[tf.Tensor], list[tf.Tensor]]:
    """Returns the logits, and `scale` times their gradients: dD_l/dx_l of all levels, then dD_l/db_l, [N_l]."""
    gains = [tf.ones(tf.shape(level)[:1]) for level in videos]
    with tf.GradientTape() as tape:
        tape.watch([videos, gains])
        scaled_weights = [_scale_biases(level, gain) for level, gain in zip(weights, gains)]
        logits = discriminator(videos, labels, weights=scaled_weights)
    return logits, tape.gradient(logits, [*videos, *gains], [scale * gain for gain in gains])


class PlainPass:
    """A pass without a penalty.

    Attributes:
      logits: L tensors [N_l].
      penalty: 0.
    """

    def __init__(
        self,
        discriminator: Discriminator,
        videos: Sequence[tf.Tensor],
        labels: tf.Tensor | None,
        weights: Sequence[LevelWeights],
        recompute: bool,
        loss_scale: tf.Tensor | None,
    ) -> None:
        self.videos, self.weights, self.loss_scale, self.penalty = videos, weights, loss_scale, tf.constant(0.0)
        with tf.GradientTape(persistent=True) as self.tape:
            self.tape.watch([weights, videos])
            self.logits = discriminator(videos, labels, weights=weights, recompute=recompute)

    def gradients(
        self, for_discriminator: Sequence[tf.Tensor], for_generator: Sequence[tf.Tensor] | None = None
    ) -> Gradients:
        """Computes gradients given the derivatives of the losses with respect to the logits.

        Args:
          for_discriminator: Derivatives of the discriminators' loss, L tensors [N_l].
          for_generator: Derivatives of the generator's loss, times its loss scale; None if not needed.
        Returns:
          The gradients of the weights, times the discriminators' loss scale, and those of the clips; [] if not needed.
        """
        cotangents = [scale_loss(slope, self.loss_scale) for slope in for_discriminator]
        if for_generator is None:
            return self.tape.gradient(self.logits, self.weights, cotangents), []
        if self.loss_scale is not None:  # the ratio of the two slopes may overflow in float16
            weight_grads = self.tape.gradient(self.logits, self.weights, cotangents)
            return weight_grads, self.tape.gradient(self.logits, self.videos, for_generator)
        shared = [tf.where(tf.abs(slope) < MIN_SLOPE, MIN_SLOPE, slope) for slope in cotangents]
        weight_grads, video_grads = self.tape.gradient(self.logits, (self.weights, self.videos), shared)
        return weight_grads, [
            _scale_samples(gradient, wanted / passed)
            for gradient, wanted, passed in zip(video_grads, for_generator, shared)
        ]


class PenalizedPass:
    """A pass with the penalty on the input gradients.

    Attributes:
      logits: L tensors [N_l].
      penalty: The penalty, float32 scalar.
    """

    def __init__(
        self,
        discriminator: Discriminator,
        videos: Sequence[tf.Tensor],
        labels: tf.Tensor | None,
        weights: Sequence[LevelWeights],
        config: Config,
        r1_factor: float,
        loss_scale: tf.Tensor | None,
    ) -> None:
        self.videos, self.weights = videos, weights
        # The square root of the loss scale, because these gradients are scaled twice.
        self.scale = 1.0 if loss_scale is None else tf.sqrt(loss_scale)
        with tf.GradientTape() as self.tape:
            self.tape.watch(weights)
            self.logits, self.scaled = input_gradients(discriminator, videos, labels, weights, self.scale)
        self.input_gradients = [gradient / self.scale for gradient in self.scaled[: len(videos)]]
        num_clips, level_weights = tf.shape(self.logits[0])[0], config.r1_weights
        self.penalty = r1_penalty(self.input_gradients, num_clips, level_weights)
        self.penalty_slopes = [2.0 * r1_factor * (weight / tf.cast(num_clips, tf.float32)) for weight in level_weights]

    def gradients(
        self, for_discriminator: Sequence[tf.Tensor], for_generator: Sequence[tf.Tensor] | None = None
    ) -> Gradients:
        """Like `PlainPass.gradients`; those of the weights include the penalty."""
        # d (loss + r1_factor * penalty) / d (dD/dx), with the logits as functions of dD/dx and dD/db.
        video_cotangents = [
            _scale_samples(level, cotangent) + slope * gradient
            for level, cotangent, slope, gradient in zip(
                self.videos, for_discriminator, self.penalty_slopes, self.input_gradients
            )
        ]
        cotangents = [self.scale * cotangent for cotangent in (*video_cotangents, *for_discriminator)]
        weight_grads = self.tape.gradient(self.scaled, self.weights, cotangents)
        return weight_grads, [_scale_samples(*both) for both in zip(self.input_gradients, for_generator or [])]


def discriminator_pass(
    discriminator: Discriminator,
    videos: Sequence[tf.Tensor],
    labels: tf.Tensor | None,
    weights: Sequence[LevelWeights],
    config: Config,
    r1_factor: float,
    loss_scale: tf.Tensor | None,
    recompute: bool = False,
) -> PenalizedPass | PlainPass:
    """Returns a pass with the penalty, or without one if `r1_factor` is 0; only the latter can recompute."""
    arguments = discriminator, videos, labels, weights
    if r1_factor:
        return PenalizedPass(*arguments, config, r1_factor, loss_scale)
    return PlainPass(*arguments, recompute, loss_scale)
