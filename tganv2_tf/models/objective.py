"""The training objective as defined in the paper: scores, losses, gradient penalty, and gradients of both networks.

`--gradients=plain` uses this module. `fast_gradients.py` computes the same results in fewer passes through the
networks; `tests/test_gradients.py` compares the two. Paper: Saito & Saito, arXiv 1811.09245.

Equation (1), with the subsampling layers S^G in G' and S^D before D' (section on training with a subsampling layer):

    min_G max_D  E_x[ln D'(S^D(x))] + E_z[ln(1 - D'(G'(z)))]

With L levels (section on multiple subsampling layers), G' renders x'_l = G'_l(z) at each level, S^D makes L levels of a
real clip, and D'(x'_1, ..., x'_L) = sigmoid(sum_l D'_l(x'_l)). Both gradients are computed before any update.
"""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf

from tganv2_tf.config import Config
from tganv2_tf.models.augmentation import diffaugment
from tganv2_tf.models.discriminator import Discriminator
from tganv2_tf.models.generator import Generator
from tganv2_tf.models.losses import LOSSES, mean_losses
from tganv2_tf.models.step import StepGradients, StepInputs, mean_logits

REALS, FAKES = 0, 1  # augmented with different random numbers


def generate(generator: Generator, inputs: StepInputs, config: Config) -> list[tf.Tensor]:
    """Returns all levels x'_l = G'_l(z) = g^R_l(g^A_l(S^G_{l-1}(... S^G_1(g^A_1(z)))))."""
    return generator.pyramid(
        inputs.z,
        frame_strides=config.model.frame_strides,
        batch_strides=config.model.batch_strides,
        frame_offsets=inputs.frame_offsets,
        labels=inputs.labels,
        recompute=config.train.recompute,
    )


def augmented(videos: Sequence[tf.Tensor], stream: int, inputs: StepInputs, config: Config) -> Sequence[tf.Tensor]:
    """Applies DiffAugment (Zhao et al., arXiv 2006.10738) to a pyramid, if enabled."""
    if inputs.augmentation_seed is None or not config.train.augmentations:
        return videos
    seed = tf.random.experimental.stateless_fold_in(inputs.augmentation_seed, stream)
    return diffaugment(videos, config.train.augmentations, config.model.batch_strides, seed)


def r1_penalty(input_gradients: Sequence[tf.Tensor], num_clips: tf.Tensor, weights: Sequence[float]) -> tf.Tensor:
    """Computes 1 / N_1 * sum_l w_l sum_n |d D_l / d x_l|^2 (R1; Mescheder et al., arXiv 1801.04406; not in the paper).

    No factor 1/2, as in the authors' code. N_1 is the (micro)batch size of a replica. On generated clips it is R2.
    """
    squares = [weight * tf.reduce_sum(tf.square(gradient)) for weight, gradient in zip(weights, input_gradients)]
    return tf.add_n(squares) / tf.cast(num_clips, tf.float32)


def logits_and_penalty(
    discriminator: Discriminator, videos: Sequence[tf.Tensor], inputs: StepInputs, config: Config, penalized: bool
) -> tuple[list[tf.Tensor], tf.Tensor]:
    """Returns the logits of a pyramid, and the penalty or 0."""
    with tf.GradientTape() as tape:
        tape.watch(videos)
        logits = discriminator(videos, inputs.labels, recompute=config.train.recompute and not penalized)
    if not penalized:
        return logits, tf.constant(0.0)
    return logits, r1_penalty(tape.gradient(logits, videos), tf.shape(logits[0])[0], config.r1_weights)


def plain_gradients(
    generator: Generator,
    discriminator: Discriminator,
    inputs: StepInputs,
    config: Config,
    r1_factor: float | tf.Tensor,
    train_generator: bool,
) -> StepGradients:
    """Computes the losses and gradients of one batch by automatic differentiation of each loss.

    `r1_factor` multiplies the penalty in the gradients; it is 0 in steps without a penalty (lazy regularization).
    """
    train = config.train
    with tf.GradientTape(persistent=True) as tape:
        reals = augmented(inputs.real_videos, REALS, inputs, config)
        real_logits, r1 = logits_and_penalty(discriminator, reals, inputs, config, penalized=bool(train.r1_weight))
        fakes = augmented(generate(generator, inputs, config), FAKES, inputs, config)
        fake_logits, r2 = logits_and_penalty(discriminator, fakes, inputs, config, penalized=train.penalize_fakes)
        scores = config.model.batch_strides, train.score
        generator_loss, discriminator_loss = mean_losses(LOSSES[train.loss], real_logits, fake_logits, *scores)
        penalized_loss = discriminator_loss + r1_factor * (r1 + r2)
    generator_gradients = tape.gradient(generator_loss, generator.trainable_variables) if train_generator else []
    return StepGradients(
        {"generator_loss": generator_loss, "discriminator_loss": discriminator_loss, "r1_penalty": r1 + r2},
        mean_logits(real_logits, fake_logits),
        [tf.convert_to_tensor(gradient) for gradient in generator_gradients],  # embedding gradients are sparse
        tape.gradient(penalized_loss, discriminator.trainable_variables),
    )
