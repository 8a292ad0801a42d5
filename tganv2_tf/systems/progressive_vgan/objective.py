"""Losses: Wasserstein with gradient penalty (arXiv 1704.00028), and sliced Wasserstein (arXiv 1706.02631).

Signs differ, as in the authors' code: the generator raises its score with `wgan_gp` and lowers it with `swl`.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import tensorflow as tf

from tganv2_tf.systems.progressive_vgan.config import ModelConfig
from tganv2_tf.systems.progressive_vgan.networks import Discriminator, Projection


class Mixing(NamedTuple):
    """Random numbers of a discriminator update, U(0, 1).

    Attributes:
      clips: Share of the generated clip in each mixed clip, float32 [N].
      features: Share of the generated features in each mixture, float32 [N]; used by `swl` only.
    """

    clips: tf.Tensor
    features: tf.Tensor


def generator_loss(scores: tf.Tensor, config: ModelConfig) -> tf.Tensor:
    """Returns the generator's loss of each generated clip, [N]."""
    return scores if config.objective == "swl" else -scores


def feature_penalty(projection: Projection, features: tf.Tensor, config: ModelConfig) -> tf.Tensor:
    """Returns the penalty of mixed features, [N, F] -> [].

    It is the mean of (q - target)^2 over clips and features. The authors' code calls q the derivative of the
    nonlinearity, but computes it from the values: s p where p > 0, else 0.2 s |p|. The derivative is s where p > 0,
    else 0.2 s.
    """
    projected = projection(features)
    size = tf.abs(projected) if config.feature_penalty_of_value else tf.ones_like(projected)
    values = projection.slope * tf.where(projected > 0.0, size, 0.2 * size)
    return tf.reduce_mean(tf.square(values - config.feature_penalty_target))


def discriminator_terms(
    discriminator: Discriminator,
    real: tf.Tensor,
    fake: tf.Tensor,
    mixing: Mixing,
    level: int,
    old_share: tf.Tensor | None,
) -> tuple[dict[str, tf.Tensor], dict[str, tf.Tensor]]:
    """Computes the discriminator's loss.

    Clips have the size of a level. The penalty is defined by the gradient of full-size clips, of which the network sees
    averages. Its norm is smaller than that of the averages by the root of the number of positions in each average.

    Args:
      discriminator: The network.
      real, fake: float32 [N, *config.size(level), 3].
      mixing: Random numbers.
      level, old_share: See `Discriminator.features`.
    Returns:
      Weighted terms of the loss, the sum of whose means is minimised, and the scores `real` and `fake`. All are [N],
      but the penalty of features is [].
    """
    config = discriminator.config
    features = {
        name: discriminator.features(clips, level, old_share) for name, clips in (("real", real), ("fake", fake))
    }
    scores = {name: discriminator.scores(values) for name, values in features.items()}
    share = mixing.clips[:, tf.newaxis, tf.newaxis, tf.newaxis, tf.newaxis]
    between = real + share * (fake - real)
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(between)
        total = tf.reduce_sum(discriminator.scores(discriminator.features(between, level, old_share)))
    gradient = tape.gradient(total, between)
    copies = math.prod(config.size(config.last_level)) / math.prod(config.size(level))
    square = tf.reduce_sum(tf.square(gradient), [1, 2, 3, 4]) / copies
    if config.objective == "wgan_gp":
        return {
            "distance": scores["fake"] - scores["real"],
            # Without the small number the gradient of the root would be infinite at 0.
            "gradient_penalty": config.wgan_penalty_weight * tf.square(tf.sqrt(square + 1e-30) - 1.0),
            "drift": config.drift_weight * tf.square(scores["real"]),
        }, scores
    weights = mixing.features[:, tf.newaxis]
    mixture = (1.0 - weights) * features["real"] + weights * features["fake"]
    assert discriminator.projection is not None
    penalty = feature_penalty(discriminator.projection, mixture, config)
    return {
        "distance": scores["real"] - scores["fake"],
        # As in the authors' code, the share of the real clip is a factor of the gradient.
        "gradient_penalty": config.swl_penalty_weight * tf.square(1.0 - mixing.clips) * square,
        "feature_penalty": config.feature_penalty_weight * penalty,
    }, scores


def tangent(directions: tf.Tensor, gradient: tf.Tensor) -> tf.Tensor:
    """Projects a gradient to the tangent space of the orthogonal matrices W: g - W (W^T g + g^T W) / 2."""
    product = tf.matmul(directions, gradient, transpose_a=True)
    return gradient - tf.matmul(directions, (product + tf.transpose(product)) / 2.0)


def orthogonalized(directions: tf.Tensor) -> tf.Tensor:
    """Returns Q of the QR decomposition. Signs are such that the diagonal of R is positive, so Q is continuous."""
    q, r = tf.linalg.qr(directions)
    return q * tf.where(tf.linalg.diag_part(r) < 0.0, -1.0, 1.0)
