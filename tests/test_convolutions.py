"""Every form of a convolution compared with the definition: values, gradients and second-order gradients."""

import numpy as np
import pytest
import tensorflow as tf

from tganv2_tf.models import convolutions
from tganv2_tf.models.convolutions import convolve, relu, scale_and_shift, upsample, upsample_convolve

RNG = np.random.default_rng(0)


def normal(*shape):
    return tf.constant(RNG.normal(size=shape), tf.float32)


def definition(inputs, kernel, pool=None):
    if kernel.shape.rank == 4:
        return tf.nn.conv2d(inputs, kernel, 1, "SAME")
    outputs = tf.nn.conv3d(inputs, kernel, [1] * 5, "SAME")
    if pool is None:
        return outputs
    window = [1, *(2 if pooled else 1 for pooled in pool), 1]
    return tf.nn.avg_pool3d(outputs, window, window, "VALID")


def derivatives(function, inputs, kernel):
    """Returns values, both gradients, and the gradients of a function of the first one, as in the penalty."""
    with tf.GradientTape(persistent=True) as outer:
        outer.watch(kernel)
        with tf.GradientTape(persistent=True) as tape:
            tape.watch([inputs, kernel])
            outputs = function(inputs, kernel)
            total = tf.reduce_sum(outputs**2)
        of_inputs, of_kernel = tape.gradient(total, [inputs, kernel])
        squares = tf.reduce_sum(of_inputs**2)
    return [outputs, of_inputs, of_kernel, outer.gradient(squares, kernel)]


TWO_FRAMES = [(2, 6, 8), (2, 6, 5)]
LARGE = [(4, 6, 8), (3, 5, 8), (1, 6, 8), (1, 1, 1)]
SMALL = [(2, 2, 2), (1, 3, 3), (1, 1, 2), (4, 3, 1)]


@pytest.mark.parametrize("graph", [False, True], ids=["eager", "graph"])
@pytest.mark.parametrize("pools", [False, True], ids=["", "pooled"])
@pytest.mark.parametrize(
    ("lengths", "channels"),
    [*((lengths, 3) for lengths in TWO_FRAMES + LARGE + SMALL), *((lengths, 150) for lengths in SMALL)],
)
def test_convolution_and_pooling_are_the_two_steps(lengths, channels, pools, graph):
    pool = tuple(length % 2 == 0 for length in lengths) if pools else None
    inputs, kernel = normal(2, *lengths, 2), normal(3, 3, 3, 2, channels)
    ours = lambda x, k: derivatives(lambda x, k: convolve(x, k, pool), x, k)  # noqa: E731
    found = (tf.function(ours) if graph else ours)(inputs, kernel)
    expected = derivatives(lambda x, k: definition(x, k, pool), inputs, kernel)
    for one, other in zip(found, expected):
        np.testing.assert_allclose(one, other, atol=2e-6 * np.abs(other).max())


@pytest.mark.parametrize(("size", "channels"), [(4, 3), (3, 150), (1, 20)])
def test_convolution_of_frames(size, channels):
    inputs, kernel = normal(2, size, size, 2), normal(3, 3, 2, channels)
    for one, other in zip(derivatives(convolve, inputs, kernel), derivatives(definition, inputs, kernel)):
        np.testing.assert_allclose(one, other, atol=2e-6 * np.abs(other).max())


@pytest.mark.parametrize("graph", [False, True], ids=["eager", "graph"])
@pytest.mark.parametrize("lengths", [(4, 6, 8), (2, 6, 8), (3, 4, 6), (1, 6, 4)])
def test_gradients_of_pooled_kernels_by_products(lengths, graph, monkeypatch):
    pool = tuple(length % 2 == 0 for length in lengths)
    inputs, kernel = normal(2, *lengths, 2), normal(3, 3, 3, 2, 3)
    expected = derivatives(lambda x, k: definition(x, k, pool), inputs, kernel)
    monkeypatch.setattr(convolutions, "MIN_CHANNELS_FOR_MATMUL", 1)
    ours = lambda x, k: derivatives(lambda x, k: convolve(x, k, pool), x, k)  # noqa: E731
    for one, other in zip((tf.function(ours) if graph else ours)(inputs, kernel), expected):
        np.testing.assert_allclose(one, other, atol=2e-6 * np.abs(other).max())


def test_gradients_of_pooled_kernels_are_products_where_there_are_many_channels():
    def gradient(x, k):
        return tf.gradients(convolve(x, k, (False, True, True)), k)

    def operations(channels):
        graph = tf.function(gradient).get_concrete_function(normal(1, 4, 4, 4, channels), normal(3, 3, 3, channels, 8))
        return [op.type for op in graph.graph.get_operations()]

    assert operations(64).count("MatMul") == 27
    assert "Conv3DBackpropFilterV2" not in operations(64)
    assert "MatMul" not in operations(32)
    assert operations(32).count("Conv3DBackpropFilterV2") == 1


def test_small_maps_with_many_channels_take_no_convolution():
    graph = tf.function(lambda x, k: convolve(x, k)).get_concrete_function(
        normal(2, 2, 2, 2, 2), normal(3, 3, 3, 2, 40)
    )
    types = {op.type for op in graph.graph.get_operations()}
    assert "MatMul" in types
    assert not {name for name in types if "Conv" in name}


@pytest.mark.parametrize("products", [False, True])
@pytest.mark.parametrize("size", [1, 2, 5])
def test_upsampling_and_convolution_are_the_two_steps(size, products, monkeypatch):
    monkeypatch.setattr(convolutions, "MIN_CHANNELS_FOR_MATMUL", 1 if products else 64)
    inputs, kernel = normal(2, size, size, 3), normal(3, 3, 3, 4)
    expected = derivatives(lambda x, k: definition(upsample(x), k), inputs, kernel)
    for one, other in zip(derivatives(upsample_convolve, inputs, kernel), expected):
        np.testing.assert_allclose(one, other, atol=2e-6 * np.abs(other).max())


@pytest.mark.parametrize("frames", [1, 2])
def test_upsampling_and_convolution_of_clips(frames):
    inputs, kernel = normal(2, 3, 2, 5, 3), normal(3, 3, 3, 3, 4)

    def two_steps(x, k):
        enlarged = tf.repeat(tf.repeat(tf.repeat(x, frames, axis=1), 2, axis=2), 2, axis=3)
        return tf.nn.conv3d(enlarged, k, [1] * 5, "SAME")

    axes = [frames == 2, True, True]
    expected = derivatives(two_steps, inputs, kernel)
    ours = lambda x, k: derivatives(lambda x, k: upsample_convolve(x, k, axes), x, k)  # noqa: E731
    any_batch = [tf.TensorSpec([None, *inputs.shape[1:]]), tf.TensorSpec(kernel.shape)]
    for one, other in zip(tf.function(ours, any_batch)(inputs, kernel), expected):
        np.testing.assert_allclose(one, other, atol=2e-6 * np.abs(other).max())


def test_scale_and_shift_of_channels():
    inputs, scale, shift = normal(2, 3, 4, 5), normal(5), normal(5)
    with tf.GradientTape(persistent=True) as tape:
        tape.watch([inputs, scale, shift])
        pairs = scale_and_shift(inputs, scale, shift) ** 2, (inputs * scale + shift) ** 2
    np.testing.assert_allclose(*pairs, rtol=1e-5)
    for one, other in zip(*(tape.gradient(each, [inputs, scale, shift]) for each in pairs)):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


def test_relu_has_the_derivative_of_its_mask_and_no_second_one():
    x = tf.constant([-2.0, -0.5, 0.5, 3.0])
    with tf.GradientTape() as outer:
        outer.watch(x)
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = relu(x)
        slope = tape.gradient(y, x, tf.constant([5.0, 5.0, 5.0, 7.0]))
    np.testing.assert_array_equal(y, [0, 0, 0.5, 3])
    np.testing.assert_array_equal(slope, [0, 0, 5, 7])
    assert outer.gradient(slope, x) is None
