"""Layers of the generator, and initialisers: batch norm, convolutional LSTM, up block, rendering block.

Axes are N, T, H, W, C. What works on single frames takes N * T as its batch. Initialisers and constants are those of
the authors' implementation; each weight has an initialiser object of its own, since an object shared by several layers
would give them equal values.
"""

from __future__ import annotations

from typing import Any, Callable

import tensorflow as tf
from tensorflow.keras import layers

BATCH_NORM_DECAY = 0.9
BATCH_NORM_EPSILON = 2e-5


def lecun_normal() -> tf.keras.initializers.Initializer:
    """Normal with variance 1 / fan_in, not truncated."""
    return tf.keras.initializers.VarianceScaling(1.0, "fan_in", "untruncated_normal")


def relu_glorot_uniform() -> tf.keras.initializers.Initializer:
    """Glorot uniform with a gain of sqrt(2)."""
    return tf.keras.initializers.VarianceScaling(2.0, "fan_avg", "uniform")


def glorot_uniform() -> tf.keras.initializers.Initializer:
    """Glorot uniform."""
    return tf.keras.initializers.VarianceScaling(1.0, "fan_avg", "uniform")


def channel_moments(values: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Mean and biased variance of each channel: [M, H, W, C] -> [C], [C]."""
    return tf.nn.moments(values, [0, 1, 2])


class BatchNorm(layers.Layer):
    """Batch normalisation over all axes but the last, synchronised across replicas.

    With classes, scale and shift are those of the sample's class (conditional batch norm: Dumoulin et al., 2017); the
    statistics are shared by all.

    A forward pass changes no variable: in training it keeps its moments in `batch_moments`, and
    `update_moving_statistics` moves the running statistics there. The variance kept is the unbiased one (n / (n - 1)).

    Attributes:
      num_classes: 0 for an unconditional one.
      moments: what computes them. Other ways to add the same values up go here, such as that of
        `tganv2_tf.interop.chainer`, which rounds as the authors' code does.
    """

    def __init__(self, num_classes: int = 0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.num_classes = num_classes
        self.moments: Callable[[tf.Tensor], tuple[tf.Tensor, tf.Tensor]] = channel_moments

    def build(self, input_shape: tf.TensorShape) -> None:
        def statistic(name: str, initializer: str) -> tf.Variable:
            return self.add_weight(
                name,
                [input_shape[-1]],
                tf.float32,
                initializer,
                trainable=False,
                synchronization=tf.VariableSynchronization.ON_READ,
                aggregation=tf.VariableAggregation.MEAN,
                experimental_autocast=False,
            )

        shape = [self.num_classes, input_shape[-1]] if self.num_classes else [input_shape[-1]]
        self.gamma = self.add_weight("gamma", shape, tf.float32, "ones", experimental_autocast=False)
        self.beta = self.add_weight("beta", shape, tf.float32, "zeros", experimental_autocast=False)
        self.moving_mean = statistic("moving_mean", "zeros")
        self.moving_variance = statistic("moving_variance", "ones")
        self.batch_moments: tuple[tf.Tensor, ...] = ()

    def _scale_and_shift(self, labels: tf.Tensor | None) -> tuple[tf.Tensor, tf.Tensor]:
        """gamma and beta, float32 [C], or, with classes, of each sample, [M, 1, 1, C]."""
        if (labels is None) == bool(self.num_classes):
            raise ValueError(f"{self.name} has {self.num_classes} classes; labels: {labels}")
        if labels is None:
            return tf.convert_to_tensor(self.gamma), tf.convert_to_tensor(self.beta)
        gamma, beta = (tf.gather(weights, labels)[:, tf.newaxis, tf.newaxis] for weights in (self.gamma, self.beta))
        return gamma, beta

    def call(self, inputs: tf.Tensor, training: bool = False, labels: tf.Tensor | None = None) -> tf.Tensor:
        """[M, H, W, C] -> the same shape and dtype; `labels` are integers [M], where there are classes."""
        gamma, beta = self._scale_and_shift(labels)
        if not training:
            mean, variance = tf.convert_to_tensor(self.moving_mean), tf.convert_to_tensor(self.moving_variance)
            if labels is None:
                outputs, _, _ = tf.compat.v1.nn.fused_batch_norm(
                    inputs, gamma, beta, mean, variance, epsilon=BATCH_NORM_EPSILON, is_training=False
                )
                return outputs
            scale = gamma * tf.math.rsqrt(variance + BATCH_NORM_EPSILON)
            return tf.cast(tf.cast(inputs, tf.float32) * scale + (beta - mean * scale), inputs.dtype)
        values = tf.cast(inputs, tf.float32)
        mean, variance = self.moments(values)
        replica_context = tf.distribute.get_replica_context()
        replicas = 1 if replica_context is None else replica_context.num_replicas_in_sync
        if replicas > 1:
            # In two steps, as E[x^2] - E[x]^2 cancels out where the mean is large.
            own_mean = mean
            mean = replica_context.all_reduce(tf.distribute.ReduceOp.MEAN, mean)
            variance = replica_context.all_reduce(tf.distribute.ReduceOp.MEAN, variance + tf.square(own_mean - mean))
        count = float(replicas) * tf.reduce_prod(tf.cast(tf.shape(values)[:-1], tf.float32))
        self.batch_moments = (mean, variance * count / tf.maximum(count - 1.0, 1.0))
        outputs = tf.nn.batch_normalization(values, mean, variance, beta, gamma, BATCH_NORM_EPSILON)
        return tf.cast(outputs, inputs.dtype)

    def update_moving_statistics(self) -> None:
        """Moves the running statistics towards the moments of the latest training pass."""
        for moving, moment in zip((self.moving_mean, self.moving_variance), self.batch_moments):
            moving.assign(BATCH_NORM_DECAY * moving + (1 - BATCH_NORM_DECAY) * moment)


def conv3x3(inputs: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
    """3x3 convolution with zero padding; on a 1x1 map, where eight of the nine taps meet padding, a matrix product."""
    if inputs.shape[1:3] == (1, 1):
        return tf.matmul(inputs[:, 0, 0], kernel[1, 1])[:, tf.newaxis, tf.newaxis]
    return tf.nn.conv2d(inputs, kernel, 1, "SAME")


class ConvLSTM(layers.Layer):
    """Convolutional LSTM (Shi et al., 2015) with 3x3 kernels, without peepholes; gates in the order i, f, o, c.

    It is driven by one map: the input at the first frame, zeros at all later ones, where the input convolution's bias
    still acts; so the number of frames is free. A layer on top of another takes that one's frames instead.

    Attributes:
      channels: C of its input, state and output.
      forget_bias: initial bias of the forget gate. At 0, as in the authors' code, half of the cell is forgotten a
        frame, and what the latent said at first has to survive T - 1 frames; a positive bias lets it from the start.
    """

    def __init__(self, channels: int, forget_bias: float = 0.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.channels, self.forget_bias = channels, forget_bias

    def build(self, input_shape: tf.TensorShape) -> None:
        shape = [3, 3, self.channels, 4 * self.channels]
        self.input_kernel = self.add_weight("input_kernel", shape, initializer=lecun_normal())
        self.recurrent_kernel = self.add_weight("recurrent_kernel", shape, initializer=lecun_normal())
        per_gate = tf.constant([0.0, self.forget_bias, 0.0, 0.0])
        self.bias = self.add_weight(
            "bias",
            [4 * self.channels],
            initializer=lambda shape, dtype: tf.cast(tf.repeat(per_gate, self.channels), dtype),
        )

    def _step(self, driven: tf.Tensor, hidden: tf.Tensor, cell: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """One frame: `driven` is the input convolution's share of the gates, [N, H, W, 4C] or [4C]."""
        gates = conv3x3(hidden, self.recurrent_kernel) + driven
        i, f, o, c = tf.split(gates, 4, axis=-1)
        cell = tf.sigmoid(f) * cell + tf.sigmoid(i) * tf.tanh(c)
        return tf.sigmoid(o) * tf.tanh(cell), cell

    def call(
        self, inputs: tf.Tensor | None, num_frames: int | tf.Tensor, state: tf.Tensor | None = None
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Unrolls the recurrence.

        Args:
          inputs: [N, H, W, C], the map of the first frame; [N, T, H, W, C], one a frame; None on the way, where no
            frame has one.
          num_frames: T; a Python number unrolls the graph, a tensor makes a loop.
          state: [2, N, H, W, C], hidden and cell after the frame before; zeros where it is None.
        Returns:
          [N, T, H, W, C], and the state after the last frame.
        """
        per_frame = False
        first = self.bias
        if inputs is not None and inputs.shape.rank == 5:
            per_frame = True
            shape = tf.shape(inputs)
            driven = conv3x3(tf.reshape(inputs, [-1, *inputs.shape[2:]]), self.input_kernel) + self.bias
            driven = tf.reshape(driven, [shape[0], shape[1], *driven.shape[1:]])
            first = driven[:, 0]
        elif inputs is not None:
            first = conv3x3(inputs, self.input_kernel) + self.bias
        if state is None:
            i, _, o, c = tf.split(first, 4, axis=-1)  # the state is zero: neither forget gate nor recurrence act
            cell = tf.sigmoid(i) * tf.tanh(c)
            hidden = tf.sigmoid(o) * tf.tanh(cell)
        else:
            hidden, cell = self._step(first, state[0], state[1])
        if isinstance(num_frames, int):
            frames = [hidden]
            for t in range(1, num_frames):
                hidden, cell = self._step(driven[:, t] if per_frame else self.bias, hidden, cell)
                frames.append(hidden)
            return tf.stack(frames, axis=1), tf.stack([hidden, cell])

        def body(t: tf.Tensor, hidden: tf.Tensor, cell: tf.Tensor, frames: tf.TensorArray) -> tuple:
            hidden, cell = self._step(driven[:, t] if per_frame else self.bias, hidden, cell)
            return t + 1, hidden, cell, frames.write(t, hidden)

        collected = tf.TensorArray(hidden.dtype, size=num_frames, element_shape=hidden.shape).write(0, hidden)
        _, hidden, cell, collected = tf.while_loop(lambda t, *_: t < num_frames, body, (1, hidden, cell, collected))
        return tf.transpose(collected.stack(), [1, 0, 2, 3, 4]), tf.stack([hidden, cell])


def upsample_conv3x3(inputs: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
    """Nearest upsampling by 2, then a 3x3 convolution: one transposed convolution with 4x4 taps at stride 2.

    Each output pixel sees 2x2 different inputs instead of 3x3 pixels with repetitions: 4/9 of the multiplications, and
    no upsampled tensor in memory.

    Args:
      inputs: [M, H, W, C].
      kernel: [3, 3, C, C'].
    Returns:
      [M, 2H, 2W, C'].
    """
    _, height, width, _ = inputs.shape
    kernel = tf.transpose(kernel[::-1, ::-1], [0, 1, 3, 2])
    for axis in (0, 1):
        before, after = ([[1, 0] if i == axis else [0, 0] for i in range(4)] for _ in range(2))
        after[axis] = [0, 1]
        kernel = tf.pad(kernel, before) + tf.pad(kernel, after)
    shape = [tf.shape(inputs)[0], 2 * height, 2 * width, kernel.shape[2]]
    return tf.nn.conv2d_transpose(inputs, kernel, shape, 2, "SAME")


@tf.custom_gradient
def upsample(inputs: tf.Tensor) -> tuple[tf.Tensor, Callable[[tf.Tensor], tf.Tensor]]:
    """Nearest neighbour, factor 2: [M, H, W, C] -> [M, 2H, 2W, C]."""
    _, height, width, channels = inputs.shape
    doubled = tf.tile(inputs[:, :, tf.newaxis, :, tf.newaxis], [1, 1, 2, 1, 2, 1])

    def gradient(upstream: tf.Tensor) -> tf.Tensor:
        # The sum over each 2x2 pixels; TensorFlow's own, a reduction over axes of length 2, is many times slower.
        return 4.0 * tf.nn.avg_pool2d(upstream, 2, 2, "VALID")

    return tf.reshape(doubled, [-1, 2 * height, 2 * width, channels]), gradient


class Conv2D(layers.Layer):
    """Convolution of frames with zero padding, stride 1."""

    def __init__(
        self, channels: int, kernel_size: int, initializer: tf.keras.initializers.Initializer, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.channels, self.kernel_size, self.initializer = channels, kernel_size, initializer

    def build(self, input_shape: tf.TensorShape) -> None:
        shape = [self.kernel_size, self.kernel_size, input_shape[-1], self.channels]
        self.kernel = self.add_weight("kernel", shape, initializer=self.initializer)
        self.bias = self.add_weight("bias", [self.channels], initializer="zeros")

    def call(self, inputs: tf.Tensor, upsampled: bool = False) -> tf.Tensor:
        """[M, H, W, C] -> [M, H, W, channels], or [M, 2H, 2W, channels] of the input `upsampled` first."""
        if upsampled:
            outputs = upsample_conv3x3(inputs, self.kernel)
        elif self.kernel_size == 3:
            outputs = conv3x3(inputs, self.kernel)
        else:
            outputs = tf.nn.conv2d(inputs, self.kernel, 1, "SAME")
        return tf.nn.bias_add(outputs, self.bias)


class UpBlock(layers.Layer):
    """Residual block of the generator that doubles the resolution.

    BN-ReLU-upsample-conv3-BN-ReLU-conv3, plus the shortcut, whose 1x1 convolution stands before the upsampling, with
    which it commutes, at a quarter of the cost.
    """

    def __init__(self, channels: int, num_classes: int = 0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.norm1 = BatchNorm(num_classes, name="norm1")
        self.conv1 = Conv2D(channels, 3, relu_glorot_uniform(), name="conv1")
        self.norm2 = BatchNorm(num_classes, name="norm2")
        self.conv2 = Conv2D(channels, 3, relu_glorot_uniform(), name="conv2")
        self.shortcut = Conv2D(channels, 1, glorot_uniform(), name="shortcut")

    def call(self, inputs: tf.Tensor, training: bool = False, labels: tf.Tensor | None = None) -> tf.Tensor:
        """[M, H, W, C] -> [M, 2H, 2W, channels]; `labels` [M] where there are classes."""
        hidden = self.conv1(tf.nn.relu(self.norm1(inputs, training=training, labels=labels)), upsampled=True)
        hidden = self.conv2(tf.nn.relu(self.norm2(hidden, training=training, labels=labels)))
        return hidden + upsample(self.shortcut(inputs))


class RenderingBlock(layers.Layer):
    """g^R: BN-ReLU-conv3-tanh, from an abstract map to frames in [-1, 1]."""

    def __init__(self, num_classes: int = 0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.norm = BatchNorm(num_classes, name="norm")
        self.conv = Conv2D(3, 3, lecun_normal(), name="conv")

    def call(self, inputs: tf.Tensor, training: bool = False, labels: tf.Tensor | None = None) -> tf.Tensor:
        """[M, H, W, C], labels [M] where there are classes -> float32 [M, H, W, 3], whatever the layers compute in."""
        normalized = self.norm(inputs, training=training, labels=labels)
        return tf.tanh(tf.cast(self.conv(tf.nn.relu(normalized)), tf.float32))
