"""Layers compared with plain definitions, written with other operations."""

import numpy as np
import pytest
import tensorflow as tf

from tganv2_tf.models import layers
from tganv2_tf.models.convolutions import upsample

RNG = np.random.default_rng(0)


def normal(*shape):
    return tf.constant(RNG.normal(size=shape), tf.float32)


def test_batch_norm_normalises_and_keeps_unbiased_moments():
    norm = layers.BatchNorm()
    x = normal(6, 2, 2, 3) * 3.0 + 1.0
    y = norm(x, training=True).numpy()
    np.testing.assert_allclose(y.mean((0, 1, 2)), 0, atol=1e-5)
    np.testing.assert_allclose(y.std((0, 1, 2)), 1, atol=1e-4)
    np.testing.assert_array_equal(norm.moving_mean, 0)  # a forward pass does not change it
    norm.update_moving_statistics()
    flat = x.numpy().reshape(-1, 3)
    np.testing.assert_allclose(norm.moving_mean, 0.1 * flat.mean(0), rtol=1e-4)
    np.testing.assert_allclose(norm.moving_variance, 0.9 + 0.1 * flat.var(0, ddof=1), rtol=1e-4)


def test_batch_norm_in_inference_uses_the_running_statistics():
    norm = layers.BatchNorm()
    x = normal(2, 2, 2, 1)
    norm(x)
    norm.moving_mean.assign([2.0])
    norm.moving_variance.assign([4.0])
    norm.gamma.assign([3.0])
    norm.beta.assign([1.0])
    np.testing.assert_allclose(norm(x), (x - 2) / np.sqrt(4 + 2e-5) * 3 + 1, rtol=1e-5)


def test_batch_norm_over_two_replicas_is_that_of_the_whole_batch(two_replicas):
    strategy = two_replicas
    x = normal(8, 2, 2, 3)
    with strategy.scope():
        norm = layers.BatchNorm()
        norm.build(x.shape)
    halves = strategy.experimental_distribute_values_from_function(
        lambda context: x[4 * context.replica_id_in_sync_group :][:4]
    )

    def step(part):
        y = norm(part, training=True)
        norm.update_moving_statistics()
        return y

    outputs = tf.function(lambda: strategy.run(step, (halves,)))()
    outputs = tf.concat(strategy.experimental_local_results(outputs), 0)
    alone = layers.BatchNorm()
    np.testing.assert_allclose(outputs, alone(x, training=True), atol=1e-5)
    alone.update_moving_statistics()
    np.testing.assert_allclose(norm.moving_variance.numpy(), alone.moving_variance, rtol=1e-5)


@pytest.mark.parametrize("training", [False, True])
def test_conditional_batch_norm_scales_and_shifts_by_class(training):
    norm, plain = layers.BatchNorm(num_classes=3), layers.BatchNorm()
    inputs, labels = normal(4, 3, 3, 2), tf.constant([2, 0, 2, 1])
    norm(inputs, condition=layers.Condition(labels))
    plain(inputs)
    for statistic in ("moving_mean", "moving_variance"):
        value = RNG.uniform(0.5, 2, size=2)
        getattr(norm, statistic).assign(value)
        getattr(plain, statistic).assign(value)
    norm.gamma.assign(RNG.normal(size=(3, 2)))
    norm.beta.assign(RNG.normal(size=(3, 2)))
    normalized = plain(inputs, training=training).numpy()  # scale 1, shift 0
    gamma, beta = (weights.numpy()[[2, 0, 2, 1]][:, None, None] for weights in (norm.gamma, norm.beta))
    expected = gamma * normalized + beta
    np.testing.assert_allclose(norm(inputs, training=training, condition=layers.Condition(labels)), expected, atol=1e-5)
    for layer, wrong in ((norm, None), (plain, labels)):
        with pytest.raises(ValueError, match="classes, self-modulation"):
            layer(inputs, condition=layers.Condition(wrong))


@pytest.mark.parametrize("training", [False, True])
def test_self_modulation_scales_and_shifts_by_a_network_of_the_latent(training):
    norm, plain = layers.BatchNorm(self_modulation=True), layers.BatchNorm()
    inputs, z = normal(4, 3, 3, 2), normal(4, 5)
    norm(inputs, condition=layers.Condition(z=z))
    norm.gamma.assign([2.0, 3.0])
    norm.beta.assign([-1.0, 1.0])
    first, first_bias, last, last_bias = (
        RNG.normal(size=variable.shape).astype(np.float32) for variable in norm.modulation.trainable_variables
    )
    assert first.shape == (5, layers.MODULATION_UNITS) and last.shape == (layers.MODULATION_UNITS, 4)
    norm.modulation.set_weights([first, first_bias, last, last_bias])
    changes = np.maximum(z @ first + first_bias, 0) @ last + last_bias
    gamma, beta = np.array([2.0, 3.0]) * (1 + changes[:, :2]), np.array([-1.0, 1.0]) + changes[:, 2:]
    expected = gamma[:, None, None] * plain(inputs, training=training).numpy() + beta[:, None, None]
    np.testing.assert_allclose(
        norm(inputs, training=training, condition=layers.Condition(z=z)), expected, rtol=1e-4, atol=1e-4
    )
    with pytest.raises(ValueError, match="self-modulation True"):
        norm(inputs)


def lstm_by_definition(lstm, inputs):
    """Convolves the input of every frame; gates in the order i, f, o, c; inputs: a list of one map per frame."""
    sigmoid = lambda v: 1 / (1 + np.exp(-v))  # noqa: E731
    hidden = cell = np.zeros(inputs[0].shape, np.float32)
    frames = []
    for x in inputs:
        gates = (
            tf.nn.conv2d(x, lstm.input_kernel, 1, "SAME")
            + lstm.bias
            + tf.nn.conv2d(tf.constant(hidden), lstm.recurrent_kernel, 1, "SAME")
        ).numpy()
        i, f, o, c = np.split(gates, 4, axis=-1)
        cell = sigmoid(f) * cell + sigmoid(i) * np.tanh(c)
        hidden = (sigmoid(o) * np.tanh(cell)).astype(np.float32)
        frames.append(hidden)
    return np.stack(frames, 1)


@pytest.mark.parametrize("size", [1, 3])
def test_conv_lstm_is_driven_by_its_first_frame(size):
    lstm = layers.ConvLSTM(5)
    first = normal(2, size, size, 5)
    lstm(first, 1)
    lstm.bias.assign(RNG.normal(size=20))
    expected = lstm_by_definition(lstm, [first, *[tf.zeros_like(first)] * 3])
    np.testing.assert_allclose(lstm(first, 4)[0], expected, atol=1e-5)
    looped = tf.function(lambda t: lstm(first, t)[0])
    np.testing.assert_allclose(looped(tf.constant(4)), expected, atol=1e-5)


@pytest.mark.parametrize("num_frames", [3, tf.constant(3)], ids=["unrolled", "looped"])
def test_conv_lstm_goes_on_from_its_state(num_frames):
    lstm = layers.ConvLSTM(5)
    first = normal(2, 2, 2, 5)
    lstm(first, 1)
    lstm.bias.assign(RNG.normal(size=20))
    whole, last = lstm(first, 5)
    begun, state = lstm(first, 2)
    rest, after = lstm(None, num_frames, state)
    np.testing.assert_allclose(tf.concat([begun, rest], 1), whole, atol=1e-6)
    np.testing.assert_allclose(after, last, atol=1e-6)
    # A layer on top of another receives that one's frames.
    upper, frames = layers.ConvLSTM(5), normal(2, 5, 2, 2, 5)
    whole, _ = upper(frames, 5)
    _, state = upper(frames[:, :2], 2)
    np.testing.assert_allclose(upper(frames[:, 2:], num_frames, state)[0], whole[:, 2:], atol=1e-6)


def test_conv_lstm_on_top_of_another_takes_every_frame():
    lstm = layers.ConvLSTM(3)
    frames = normal(2, 4, 2, 2, 3)
    lstm(frames, 4)
    lstm.bias.assign(RNG.normal(size=12))
    expected = lstm_by_definition(lstm, list(tf.unstack(frames, axis=1)))
    np.testing.assert_allclose(lstm(frames, 4)[0], expected, atol=1e-5)


def test_forget_bias_is_in_the_forget_gate_only():
    lstm = layers.ConvLSTM(2, forget_bias=3.0)
    lstm(normal(1, 1, 1, 2), 1)
    np.testing.assert_array_equal(lstm.bias, [0, 0, 3, 3, 0, 0, 0, 0])


def test_upsample_repeats_pixels_and_its_gradient_adds_them():
    x = normal(2, 3, 3, 2)
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = upsample(x)
    np.testing.assert_array_equal(y, x.numpy().repeat(2, 1).repeat(2, 2))
    upstream = normal(2, 6, 6, 2)
    expected = upstream.numpy().reshape(2, 3, 2, 3, 2, 2).sum((2, 4))
    np.testing.assert_allclose(tape.gradient(y, x, upstream), expected, rtol=1e-5)


def test_initial_scales():
    # Variances: LeCun 1 / fan_in; Glorot uniform 2 / (fan_in + fan_out), twice that with the gain of sqrt(2).
    shape, fan_in, fan_out = [3, 3, 64, 96], 9 * 64, 9 * 96
    for initializer, variance in [
        (layers.lecun_normal(), 1 / fan_in),
        (layers.glorot_uniform(), 2 / (fan_in + fan_out)),
        (layers.relu_glorot_uniform(), 4 / (fan_in + fan_out)),
    ]:
        assert np.var(initializer(shape)) == pytest.approx(variance, rel=0.05)
    assert np.abs(layers.lecun_normal()(shape)).max() > 3.5 / np.sqrt(fan_in), "not truncated"


@pytest.mark.parametrize("size", [2, 9])
@pytest.mark.parametrize("per_frame", [False, True])
def test_gradients_of_the_recurrence_are_those_of_its_definition(size, per_frame):
    lstm = layers.ConvLSTM(4)
    inputs = normal(2, 5, size, size, 4) if per_frame else normal(2, size, size, 4)
    lstm(inputs, 5)
    lstm.bias.assign(RNG.normal(size=16))
    upstream = normal(2, 5, size, size, 4)

    def by_definition(inputs):
        hidden = cell = tf.zeros([2, size, size, 4])
        frames = []
        for t in range(5):
            x = inputs[:, t] if per_frame else inputs if t == 0 else tf.zeros_like(inputs)
            gates = lstm.bias + tf.nn.conv2d(x, lstm.input_kernel, 1, "SAME")
            i, f, o, c = tf.split(gates + tf.nn.conv2d(hidden, lstm.recurrent_kernel, 1, "SAME"), 4, -1)
            cell = tf.sigmoid(f) * cell + tf.sigmoid(i) * tf.tanh(c)
            hidden = tf.sigmoid(o) * tf.tanh(cell)
            frames.append(hidden)
        return tf.stack(frames, 1)

    def gradients(function):
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            outputs = function(inputs)
        return tape.gradient(outputs, [inputs, *lstm.trainable_variables], upstream)

    for ours, expected in zip(gradients(lambda x: lstm(x, 5)[0]), gradients(by_definition)):
        np.testing.assert_allclose(ours, expected, atol=1e-5 * np.abs(expected).max())
