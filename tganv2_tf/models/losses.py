"""Adversarial losses as pure functions of scores.

Each loss consists of functions for the generator and for the discriminators, which return one value per score.
`total_scores` computes scores from the levels' logits; `mean_losses` averages the losses.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Callable, NamedTuple

import tensorflow as tf


def non_saturating_generator_loss(fake_scores: tf.Tensor) -> tf.Tensor:
    """-ln sigmoid(D(G(z))) (Goodfellow et al., arXiv 1406.2661, section 3)."""
    return tf.nn.softplus(-fake_scores)


def logistic_real_loss(real_scores: tf.Tensor) -> tf.Tensor:
    """-ln sigmoid(D(x))."""
    return tf.nn.softplus(-real_scores)


def logistic_fake_loss(fake_scores: tf.Tensor) -> tf.Tensor:
    """-ln(1 - sigmoid(D(G(z))))."""
    return tf.nn.softplus(fake_scores)


def minimax_generator_loss(fake_scores: tf.Tensor) -> tf.Tensor:
    """ln(1 - sigmoid(D(G(z)))) (arXiv 1811.09245, equation (1)). Its gradient vanishes if D is confident."""
    return -tf.nn.softplus(fake_scores)


def hinge_generator_loss(fake_scores: tf.Tensor) -> tf.Tensor:
    """-D(G(z)), as in Geometric GAN (Lim & Ye, arXiv 1705.02894)."""
    return -fake_scores


def hinge_real_loss(real_scores: tf.Tensor) -> tf.Tensor:
    """max(0, 1 - D(x))."""
    return tf.nn.relu(1.0 - real_scores)


def hinge_fake_loss(fake_scores: tf.Tensor) -> tf.Tensor:
    """max(0, 1 + D(G(z)))."""
    return tf.nn.relu(1.0 + fake_scores)


class Loss(NamedTuple):
    """An adversarial loss; the functions above cite the papers.

    Attributes:
      generator: Loss of the generator, a function of fake scores.
      real: Loss of the discriminators on real scores.
      fake: Loss of the discriminators on fake scores, which is added to that on real scores.
      relativistic: Whether `generator` and `real` are functions of the differences between the scores of real and
        generated clips, sample by sample, and `fake` is not used.
    """

    generator: Callable[[tf.Tensor], tf.Tensor]
    real: Callable[[tf.Tensor], tf.Tensor]
    fake: Callable[[tf.Tensor], tf.Tensor]
    relativistic: bool = False


LOSSES = {
    "non_saturating": Loss(non_saturating_generator_loss, logistic_real_loss, logistic_fake_loss),
    "minimax": Loss(minimax_generator_loss, logistic_real_loss, logistic_fake_loss),
    "hinge": Loss(hinge_generator_loss, hinge_real_loss, hinge_fake_loss),
    # softplus(D(x) - D(G(z))) and softplus(D(G(z)) - D(x)): Jolicoeur-Martineau, arXiv 1807.00734, section 4.1; with
    # penalties on both kinds of clips: Huang et al., arXiv 2501.05441, section 2.
    "relativistic": Loss(logistic_fake_loss, logistic_real_loss, tf.zeros_like, relativistic=True),
}


def total_scores(logits: Sequence[tf.Tensor], batch_strides: Sequence[int], score: str) -> tf.Tensor:
    """Computes the scores whose losses are averaged.

    Args:
      logits: L tensors, level l of shape [N_l].
      batch_strides: s_n of each subsampling layer. Sample i of level l + 1 is sample s_n * i of level l.
      score: `sum` sums the levels of each sample, D' = sigmoid(sum_l D_l) (paper). If a sample was removed from deeper
        levels, its sum runs over the remaining levels. `separate` keeps every logit (authors' code).
    Returns:
      float32 [N_1] for `sum`, [sum_l N_l] for `separate`.
    """
    if score == "separate":
        return tf.concat(logits, 0)
    total = logits[-1]
    for level_logits, stride in zip(reversed(logits[:-1]), reversed(batch_strides)):
        if stride > 1:
            # [N_l+1] -> [N_l]: zeros for the samples that were removed.
            total = tf.pad(total[:, tf.newaxis], [[0, 0], [0, stride - 1]])
            total = tf.reshape(total, [-1])[: tf.shape(level_logits)[0]]
        total = level_logits + total
    return total


def mean_loss(
    loss: Callable[[tf.Tensor], tf.Tensor], logits: Sequence[tf.Tensor], batch_strides: Sequence[int], score: str
) -> tf.Tensor:
    """Returns the mean loss of the `total_scores` of the levels' logits, float32 scalar."""
    return tf.reduce_mean(loss(total_scores(logits, batch_strides, score)))


def mean_losses(
    loss: Loss,
    real_logits: Sequence[tf.Tensor],
    fake_logits: Sequence[tf.Tensor],
    batch_strides: Sequence[int],
    score: str,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns the mean losses of the generator and of the discriminators, float32 scalars."""
    if loss.relativistic:
        differences = [real - fake for real, fake in zip(real_logits, fake_logits)]
        return tuple(mean_loss(part, differences, batch_strides, score) for part in (loss.generator, loss.real))
    generator_loss = mean_loss(loss.generator, fake_logits, batch_strides, score)
    real_loss = mean_loss(loss.real, real_logits, batch_strides, score)
    return generator_loss, real_loss + mean_loss(loss.fake, fake_logits, batch_strides, score)
