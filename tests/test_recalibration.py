"""Recomputed batch-norm statistics."""

from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from tests.conftest import TINY_MODEL, tiny_config
from tganv2_tf.config import ModelConfig
from tganv2_tf.models.generator import Generator
from tganv2_tf.models.recalibration import recalibrate


@pytest.mark.parametrize("classes", [{}, {"conditional": True, "num_classes": 3}], ids=["plain", "conditional"])
def test_statistics_become_those_of_the_features(classes):
    model: dict[str, Any] = {**TINY_MODEL, **classes}
    tf.keras.utils.set_random_seed(0)
    generator = Generator(ModelConfig(**model))
    for norm in generator.batch_norms:
        norm.moving_mean.assign(tf.fill(norm.moving_mean.shape, 7.0))
    before = [weight.numpy() for weight in generator.trainable_variables]
    recalibrate(generator, num_batches=8, seed=3)
    assert all((a == b.numpy()).all() for a, b in zip(before, generator.trainable_variables))
    # By hand, for the first norm, whose inputs are all frames of the recurrence.
    z = tf.random.stateless_uniform([2000, 4], [1, 2], -1, 1)
    labels = tf.range(2000) % 3 if classes else None
    features = generator.unroll(generator.initial_features(z, labels), 4)[0].numpy()
    first = generator.generator_levels[0].blocks[0].norm1
    np.testing.assert_allclose(first.moving_mean, features.mean((0, 1, 2, 3)), atol=0.02)
    np.testing.assert_allclose(first.moving_variance, features.var((0, 1, 2, 3)), rtol=0.15)
    # With them, inference normalizes as training does on a large batch.
    training = generator.pyramid(z[:512], frame_offsets=[0], labels=None if labels is None else labels[:512])[0]
    inference = generator(z[:512], level=1, labels=None if labels is None else labels[:512])
    assert np.abs(training - inference).mean() < 0.05


def test_a_seed_gives_the_same_statistics():
    generator = Generator(tiny_config().model)
    results = []
    for seed in (1, 1, 2):
        recalibrate(generator, 2, seed, batch_size=8)
        results.append([norm.moving_variance.numpy() for norm in generator.batch_norms])
    assert all((a == b).all() for a, b in zip(results[0], results[1]))
    assert any((a != b).any() for a, b in zip(results[0], results[2]))
