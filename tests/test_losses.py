"""Losses and scores, compared with values derived by hand."""

import math

import numpy as np
import pytest
import tensorflow as tf

from tganv2_tf.models.losses import LOSSES, mean_losses, total_scores

LOG2 = math.log(2)


def test_logistic_losses_by_hand():
    loss = LOSSES["non_saturating"]
    # softplus(0) = ln 2; softplus(-ln 3) = ln(1 + 1/3); softplus(ln 3) = ln 4.
    np.testing.assert_allclose(loss.generator(tf.constant([0.0, math.log(3)])), [LOG2, math.log(4 / 3)], rtol=1e-5)
    np.testing.assert_allclose(loss.real(tf.constant([0.0, math.log(3)])), [LOG2, math.log(4 / 3)], rtol=1e-5)
    np.testing.assert_allclose(loss.fake(tf.constant([0.0, math.log(3)])), [LOG2, math.log(4)], rtol=1e-5)


def test_minimax_is_the_negated_share_of_the_discriminator():
    fake = tf.constant([-1.0, 0.0, 2.0])
    # ln(1 - sigmoid(y)) = -softplus(y)
    np.testing.assert_allclose(
        LOSSES["minimax"].generator(fake), np.log(1 - 1 / (1 + np.exp(-fake.numpy()))), rtol=1e-5
    )


def test_hinge_losses_by_hand():
    loss = LOSSES["hinge"]
    np.testing.assert_allclose(loss.real(tf.constant([2.0, 0.5])), [0, 0.5])
    np.testing.assert_allclose(loss.fake(tf.constant([-3.0, 0.5])), [0, 1.5])
    np.testing.assert_allclose(loss.generator(tf.constant([0.7])), [-0.7])


@pytest.mark.parametrize("name", sorted(LOSSES))
def test_generators_and_discriminators_pull_in_opposite_directions(name):
    score = tf.constant([0.3])
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(score)
        generator, discriminator = mean_losses(LOSSES[name], [tf.zeros(1)], [score], (), "sum")
    assert float(tape.gradient(generator, score)[0]) < 0 < float(tape.gradient(discriminator, score)[0])


def test_sum_adds_the_levels_in_which_a_sample_survives():
    logits = [tf.constant([1.0, 2.0, 3.0, 4.0]), tf.constant([10.0, 20.0]), tf.constant([100.0])]
    # Strides 2, 2: sample 0 is in all levels, sample 2 in two, samples 1 and 3 in one.
    np.testing.assert_allclose(total_scores(logits, (2, 2), "sum"), [111, 2, 23, 4])


def test_sum_without_batch_reduction_and_with_a_ragged_end():
    np.testing.assert_allclose(total_scores([tf.constant([1.0, 2.0]), tf.constant([3.0, 4.0])], (1,), "sum"), [4, 6])
    odd = [tf.constant([1.0, 2.0, 3.0]), tf.constant([10.0, 20.0])]  # [::2] of three samples
    np.testing.assert_allclose(total_scores(odd, (2,), "sum"), [11, 2, 23])


def test_separate_keeps_every_logit():
    logits = [tf.constant([1.0, 2.0]), tf.constant([3.0])]
    np.testing.assert_allclose(total_scores(logits, (2,), "separate"), [1, 2, 3])


def test_relativistic_losses_are_of_differences_of_scores():
    loss = LOSSES["relativistic"]
    real, fake = [tf.constant([math.log(3), 0.0])], [tf.constant([0.0, math.log(3)])]
    # Differences log 3 and -log 3; softplus(-log 3) = log(4 / 3), softplus(log 3) = log 4.
    generator_loss, discriminator_loss = mean_losses(loss, real, fake, (), "sum")
    expected = (math.log(4) + math.log(4 / 3)) / 2
    assert float(generator_loss) == pytest.approx(expected) and float(discriminator_loss) == pytest.approx(expected)
    generator_loss, discriminator_loss = mean_losses(loss, [real[0][:1]], [fake[0][:1]], (), "separate")
    assert float(generator_loss) == pytest.approx(math.log(4))
    assert float(discriminator_loss) == pytest.approx(math.log(4 / 3))
