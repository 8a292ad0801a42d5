"""Adam as a single operation, compared with Keras' implementation."""

import numpy as np
import pytest
import tensorflow as tf

from tganv2_tf.models.optimizers import Adam


@pytest.mark.parametrize("beta_1", [0.0, 0.9])
def test_updates_and_moments_are_those_of_keras(beta_1):
    rng = np.random.default_rng(0)
    start, gradients = rng.normal(size=(3, 4)), rng.normal(size=(5, 3, 4)) * 10.0 ** rng.uniform(-9, 1, size=(3, 4))
    schedule = tf.keras.optimizers.schedules.PolynomialDecay(1e-2, 5, 0.0)
    found = []
    for kind in (Adam, tf.keras.optimizers.Adam):
        variable, optimizer = (
            tf.Variable(start, dtype=tf.float32),
            kind(schedule, beta_1, 0.99, 8e-8, global_clipnorm=2.0),
        )
        optimizer.build([variable])
        for gradient in gradients:
            optimizer.apply_gradients([(tf.constant(gradient, tf.float32), variable)])
        found.append([variable.numpy(), *(v.numpy() for v in optimizer.variables)])
    assert [v.shape for v in found[0]] == [v.shape for v in found[1]]
    for ours, theirs in zip(*found):
        np.testing.assert_allclose(ours, theirs, rtol=2e-5)
    assert np.abs(found[0][0] - start).min() > 1e-3, "all have moved"
