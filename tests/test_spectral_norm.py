"""Spectral normalization compared with NumPy's SVD, and its gradient with finite differences."""

import numpy as np
import pytest
import tensorflow as tf

from tganv2_tf.models.layers import glorot_uniform
from tganv2_tf.models.spectral_norm import LayerWeights, SpectralConv3D, SpectralDense


def dense(units=5, inputs=7):
    layer = SpectralDense(units, glorot_uniform())
    layer(tf.zeros([1, inputs]))
    return layer


def converge(layer, iterations=200):
    for _ in range(iterations):
        layer.update_singular_vectors()


def test_sigma_converges_to_the_largest_singular_value():
    tf.keras.utils.set_random_seed(0)  # the convergence depends on the ratio of the two largest singular values
    conv = SpectralConv3D(6, 3, glorot_uniform())
    conv(tf.zeros([1, 2, 4, 4, 3]))
    converge(conv)
    largest = np.linalg.svd(conv.kernel.numpy().reshape(-1, 6), compute_uv=False)[0]
    assert float(conv.sigma()) == pytest.approx(largest, rel=1e-4)
    normalized = np.linalg.svd(conv.effective_weights().kernel.numpy().reshape(-1, 6), compute_uv=False)[0]
    assert normalized == pytest.approx(1, rel=1e-4)


def test_taps_that_meet_only_padding_are_left_out_of_the_kernel_and_not_of_sigma():
    conv = SpectralConv3D(6, 3, glorot_uniform())
    conv(tf.zeros([1, 2, 4, 4, 3]))
    converge(conv, 5)
    upstream = np.random.default_rng(0).normal(size=(1, 3, 1, 3, 6)).astype(np.float32)

    def value_and_gradient(kernel):
        with tf.GradientTape() as tape:
            value = kernel()
            loss = tf.reduce_sum(value * upstream)
        return value, tape.gradient(loss, conv.kernel)

    found = value_and_gradient(lambda: conv.effective_weights((1, 2, 1)).kernel)
    expected = value_and_gradient(lambda: (conv.kernel / conv.sigma())[1:2, :, 1:2])
    for ours, theirs in zip(found, expected):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)


def test_weights_of_a_call_replace_the_layers_own():
    layer, conv = dense(2, 3), SpectralConv3D(2, 1, glorot_uniform())
    x = tf.constant([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
    kernel = tf.constant([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
    np.testing.assert_allclose(layer(x, weights=LayerWeights(kernel, tf.constant([10.0, 20.0]))), [[14, 22], [20, 25]])
    per_sample = LayerWeights(kernel, tf.constant([[10.0, 20.0], [30.0, 40.0]]))
    np.testing.assert_allclose(layer(x, weights=per_sample), [[14, 22], [40, 45]])
    videos = tf.tile(x[:, tf.newaxis, tf.newaxis, tf.newaxis], [1, 2, 2, 2, 1])
    outputs = conv(videos, weights=per_sample._replace(kernel=kernel[tf.newaxis, tf.newaxis, tf.newaxis]))
    np.testing.assert_allclose(outputs, np.tile(np.reshape([[14, 22], [40, 45]], [2, 1, 1, 1, 2]), [1, 2, 2, 2, 1]))


def test_one_update_is_one_power_iteration():
    layer = dense()
    w, left = layer.kernel.numpy(), layer.left.numpy()
    layer.update_singular_vectors()
    right = w @ left / np.linalg.norm(w @ left)
    np.testing.assert_allclose(layer.right, right, atol=1e-6)
    np.testing.assert_allclose(layer.left, w.T @ right / np.linalg.norm(w.T @ right), atol=1e-6)


def test_calls_change_nothing():
    layer = dense()
    converge(layer, 3)
    before = [weight.numpy() for weight in layer.weights]
    x = tf.ones([2, 7])
    np.testing.assert_array_equal(layer(x), layer(x))
    for weight, value in zip(layer.weights, before):
        np.testing.assert_array_equal(weight, value)


def test_the_gradient_flows_through_sigma():
    layer = dense(3, 4)
    converge(layer, 5)
    rng = np.random.default_rng(1)
    x, upstream = rng.normal(size=(2, 4)), rng.normal(size=(2, 3))
    u, v, w = layer.left.numpy().astype(float), layer.right.numpy().astype(float), layer.kernel.numpy().astype(float)

    def objective(kernel):
        return np.sum(x @ (kernel / (v @ kernel @ u)) * upstream)

    with tf.GradientTape() as tape:
        value = tf.reduce_sum(layer(tf.constant(x, tf.float32)) * tf.constant(upstream, tf.float32))
    gradient = tape.gradient(value, layer.kernel).numpy()
    numeric = np.zeros_like(w)
    for index in np.ndindex(*w.shape):
        shifted = [w.copy(), w.copy()]
        shifted[0][index] += 1e-6
        shifted[1][index] -= 1e-6
        numeric[index] = (objective(shifted[0]) - objective(shifted[1])) / 2e-6
    np.testing.assert_allclose(gradient, numeric, atol=1e-4 * np.abs(numeric).max())


def test_replicas_agree_on_the_singular_vectors(two_replicas):
    with two_replicas.scope():
        layer = dense()
    tf.function(lambda: two_replicas.run(layer.update_singular_vectors))()
    first, second = (v.numpy() for v in two_replicas.experimental_local_results(layer.left))
    np.testing.assert_array_equal(first, second)


def test_without_normalisation_the_kernel_is_itself():
    layer = SpectralDense(2, glorot_uniform(), spectral_norm=False)
    x = tf.ones([1, 3])
    np.testing.assert_allclose(layer(x), x @ layer.kernel, rtol=1e-6)
    assert len(layer.weights) == 2
