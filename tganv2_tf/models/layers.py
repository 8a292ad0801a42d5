"""Layers of the generator and initialisers: batch norm, convolutional LSTM, up block, rendering block.

Axes are N, T, H, W, C. Layers of single frames have batch size M = N * T. Initialisers and constants are those of the
authors' implementation. Each weight has its own initialiser object, because a shared object would initialise several
layers with equal values.
"""

from __future__ import annotations

from typing import Any, Callable, NamedTuple

import tensorflow as tf
from tensorflow.keras import layers

from tganv2_tf.models.convolutions import convolve, kernel_gradient, scale_and_shift, upsample, upsample_convolve

BATCH_NORM_DECAY = 0.9
BATCH_NORM_EPSILON = 2e-5
MODULATION_UNITS = 32  # hidden units of self-modulation (arXiv 1810.01365, section 3)


def lecun_normal() -> tf.keras.initializers.Initializer:
    """Returns an initialiser: normal with variance 1 / fan_in, not truncated."""
    return tf.keras.initializers.VarianceScaling(1.0, "fan_in", "untruncated_normal")


def relu_glorot_uniform() -> tf.keras.initializers.Initializer:
    """Returns an initialiser: Glorot uniform with a gain of sqrt(2)."""
    return tf.keras.initializers.VarianceScaling(2.0, "fan_avg", "uniform")


def glorot_uniform() -> tf.keras.initializers.Initializer:
    """Returns an initialiser: Glorot uniform."""
    return tf.keras.initializers.VarianceScaling(1.0, "fan_avg", "uniform")


def channel_moments(values: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Computes mean and biased variance per channel: [M, H, W, C] -> [C], [C]."""
    return tf.nn.moments(values, [0, 1, 2])


class Condition(NamedTuple):
    """Inputs of batch norms besides the features, per sample or per frame.

    Attributes:
      labels: int [M]; None without classes.
      z: float32 [M, z_dim]; None without self-modulation.
    """

    labels: tf.Tensor | None = None
    z: tf.Tensor | None = None

    def every(self, stride: int) -> Condition:
        """Selects every `stride`-th sample."""
        return Condition(*(None if values is None else values[::stride] for values in self))

    def repeat(self, times: tf.Tensor) -> Condition:
        """Repeats every sample, for its frames."""
        return Condition(*(None if values is None else tf.repeat(values, times, axis=0) for values in self))


UNCONDITIONAL = Condition()


class Modulation(layers.Layer):
    """Maps latents to changes of a norm's scale and shift: self-modulation (Chen et al., arXiv 1810.01365, section 3).

    A network with one hidden layer of `MODULATION_UNITS` ReLUs, float32 under every dtype policy. Its outputs are small
    at first.
    """

    def __init__(self, channels: int, **kwargs: Any) -> None:
        super().__init__(dtype="float32", **kwargs)
        # Preserves the variance: entries of z have variance 1/3, and ReLU halves it.
        first = tf.keras.initializers.VarianceScaling(6.0, "fan_in", "untruncated_normal")
        last = tf.keras.initializers.RandomNormal(stddev=0.1)
        self.hidden = layers.Dense(MODULATION_UNITS, "relu", kernel_initializer=first, name="hidden", dtype="float32")
        self.outputs = layers.Dense(2 * channels, kernel_initializer=last, name="outputs", dtype="float32")

    def call(self, z: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """[M, z_dim] -> two tensors, [M, channels]."""
        scale, shift = tf.split(self.outputs(self.hidden(z)), 2, axis=-1)
        return scale, shift


class BatchNorm(layers.Layer):
    """Batch normalisation over all axes but the last, synchronised across replicas (Ioffe & Szegedy, arXiv 1502.03167).

    With classes, each class has its own scale and shift (conditional batch norm: Dumoulin et al., arXiv 1610.07629).
    All classes share the statistics. With a latent, a small network adds to both (self-modulation: Chen et al., arXiv
    1810.01365, section 3).

    A forward pass changes no variable. In training it stores its moments in `batch_moments`, from which
    `update_moving_statistics` updates the running statistics. The stored variance is unbiased (n / (n - 1)).

    Attributes:
      num_classes: Number of classes; 0 if unconditional.
      self_modulation: Whether scale and shift depend on the latent.
      moments: Function that computes the moments. It may be replaced, e.g. by that of `tganv2_tf.interop.chainer`,
        which rounds as the authors' code does.
    """

    def __init__(self, num_classes: int = 0, self_modulation: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.num_classes, self.self_modulation = num_classes, self_modulation
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
        if self.self_modulation:
            self.modulation = Modulation(input_shape[-1], name="modulation")
        self.moving_mean = statistic("moving_mean", "zeros")
        self.moving_variance = statistic("moving_variance", "ones")
        self.batch_moments: tuple[tf.Tensor, ...] = ()

    def _scale_and_shift(self, condition: Condition) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns gamma and beta, float32 [C], or with a condition per sample, [M, 1, 1, C]."""
        if (condition.labels is None) == bool(self.num_classes) or (condition.z is None) == self.self_modulation:
            raise ValueError(
                f"{self.name} has {self.num_classes} classes, self-modulation {self.self_modulation}; got {condition}"
            )
        gamma, beta = tf.convert_to_tensor(self.gamma), tf.convert_to_tensor(self.beta)
        if condition.labels is not None:
            gamma, beta = tf.gather(gamma, condition.labels), tf.gather(beta, condition.labels)
        if condition.z is not None:
            scale, shift = self.modulation(condition.z)
            gamma, beta = gamma * (1.0 + scale), beta + shift
        if gamma.shape.rank == 1:
            return gamma, beta
        return gamma[:, tf.newaxis, tf.newaxis], beta[:, tf.newaxis, tf.newaxis]

    def call(self, inputs: tf.Tensor, training: bool = False, condition: Condition = UNCONDITIONAL) -> tf.Tensor:
        """[M, H, W, C] -> the same shape and dtype."""
        gamma, beta = self._scale_and_shift(condition)
        if not training:
            mean, variance = tf.convert_to_tensor(self.moving_mean), tf.convert_to_tensor(self.moving_variance)
            scale = gamma * tf.math.rsqrt(variance + BATCH_NORM_EPSILON)
            shift = beta - mean * scale
            if gamma.shape.rank == 1 and inputs.dtype == tf.float32:
                return scale_and_shift(inputs, scale, shift)
            return tf.cast(tf.cast(inputs, tf.float32) * scale + shift, inputs.dtype)
        values = tf.cast(inputs, tf.float32)
        mean, variance = self.moments(values)
        replica_context = tf.distribute.get_replica_context()
        replicas = 1 if replica_context is None else replica_context.num_replicas_in_sync
        if replicas > 1:
            # In two steps, because E[x^2] - E[x]^2 is inaccurate if the mean is large.
            own_mean = mean
            mean = replica_context.all_reduce(tf.distribute.ReduceOp.MEAN, mean)
            variance = replica_context.all_reduce(tf.distribute.ReduceOp.MEAN, variance + tf.square(own_mean - mean))
        count = float(replicas) * tf.reduce_prod(tf.cast(tf.shape(values)[:-1], tf.float32))
        self.batch_moments = (mean, variance * count / tf.maximum(count - 1.0, 1.0))
        outputs = tf.nn.batch_normalization(values, mean, variance, beta, gamma, BATCH_NORM_EPSILON)
        return tf.cast(outputs, inputs.dtype)

    def update_moving_statistics(self) -> None:
        """Updates the running statistics with the moments of the latest training pass."""
        for moving, moment in zip((self.moving_mean, self.moving_variance), self.batch_moments):
            moving.assign(BATCH_NORM_DECAY * moving + (1 - BATCH_NORM_DECAY) * moment)


class ConvLSTM(layers.Layer):
    """Convolutional LSTM (Shi et al., arXiv 1506.04214) with 3x3 kernels and no peepholes; gate order i, f, o, c.

    The input is one map at the first frame and zero at all later frames, where only the bias of the input convolution
    acts. The number of frames is therefore arbitrary. The input of a stacked layer is every frame of the layer below.

    Attributes:
      channels: C of input, state and output.
      forget_bias: Initial bias of the forget gate. With 0, as in the authors' code, the gate halves the cell at every
        frame at first, so little of the latent's information reaches frame T. A positive bias keeps more of it.
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

    @staticmethod
    def _step(gates: tf.Tensor, cell: tf.Tensor | None) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns hidden and cell state, given the gates [N, H, W, 4C] and the previous cell (None is zero)."""
        i, f, o, c = tf.split(gates, 4, axis=-1)
        driven = tf.sigmoid(i) * tf.tanh(c)
        cell = driven if cell is None else tf.sigmoid(f) * cell + driven
        return tf.sigmoid(o) * tf.tanh(cell), cell

    def _unroll(
        self, hidden: tf.Tensor, cell: tf.Tensor, driven: tf.Tensor, kernel: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Computes the hidden states of the frames after a given state, and the last cell.

        The kernel of a full-size model takes 151 MB. TensorFlow would accumulate its gradient once per frame; the
        custom gradient computes it once for all frames.

        Args:
          hidden, cell: Initial state, [N, H, W, C] each.
          driven: Contribution of the input to each frame's gates, [T, N, H, W, 4C].
          kernel: The recurrent kernel.
        Returns:
          Hidden states [T, N, H, W, C] and last cell [N, H, W, C].
        """

        @tf.custom_gradient
        def unroll(hidden: tf.Tensor, cell: tf.Tensor, driven: tf.Tensor, kernel: tf.Tensor) -> tuple:
            states = [hidden, cell, driven]
            with tf.GradientTape(persistent=True) as tape:  # a graph may request the gradient more than once
                tape.watch(states)
                previous_hidden = []
                for share in tf.unstack(driven):
                    previous_hidden.append(hidden)
                    hidden, cell = self._step(convolve(hidden, kernel) + share, cell)
                outputs = [tf.stack([*previous_hidden[1:], hidden]), cell]

            def gradient(*grad_outputs: tf.Tensor) -> list[tf.Tensor]:
                state_grads = tape.gradient(outputs, states, list(grad_outputs))
                frames, gates = tf.concat(previous_hidden, 0), state_grads[-1]
                return [*state_grads, kernel_gradient(frames, tf.reshape(gates, [-1, *gates.shape[2:]]))]

            return outputs, gradient

        return unroll(hidden, cell, driven, kernel)

    def call(
        self, inputs: tf.Tensor | None, num_frames: int | tf.Tensor, state: tf.Tensor | None = None
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Unrolls the recurrence.

        Args:
          inputs: [N, H, W, C], the input of the first frame; [N, T, H, W, C], one input per frame; or None, no input,
            when continuing from a state.
          num_frames: T. A Python integer unrolls the graph, a tensor creates a loop.
          state: Hidden and cell after the previous frame, [2, N, H, W, C]; None is zero.
        Returns:
          Hidden states [N, T, H, W, C], and the state after the last frame.
        """
        kernel, bias = tf.convert_to_tensor(self.recurrent_kernel), tf.convert_to_tensor(self.bias)
        frames = None  # contribution of the input to the gates, [N, T, H, W, 4C]
        if inputs is None:
            first = bias
        else:
            driven = convolve(tf.reshape(inputs, [-1, *inputs.shape[-3:]]), self.input_kernel) + bias
            if inputs.shape.rank == 5:
                frames = tf.reshape(driven, [-1, num_frames, *driven.shape[1:]])
            first = driven if frames is None else frames[:, 0]
        if state is None:  # zero state: skips forget gate and recurrence
            hidden, cell = self._step(first, None)
        else:
            hidden, cell = self._step(convolve(state[0], kernel) + first, state[1])
        if isinstance(num_frames, int):
            outputs = hidden[tf.newaxis]
            if num_frames > 1:
                shape = [num_frames - 1, hidden.shape[0] or tf.shape(hidden)[0], *hidden.shape[1:3], bias.shape[0]]
                rest = (
                    tf.zeros(shape, bias.dtype) + bias
                    if frames is None
                    else tf.transpose(frames[:, 1:], [1, 0, 2, 3, 4])
                )
                later, cell = self._unroll(hidden, cell, rest, kernel)
                outputs = tf.concat([outputs, later], 0)
                hidden = later[-1]
            return tf.transpose(outputs, [1, 0, 2, 3, 4]), tf.stack([hidden, cell])

        def body(t: tf.Tensor, hidden: tf.Tensor, cell: tf.Tensor, collected: tf.TensorArray) -> tuple:
            hidden, cell = self._step(convolve(hidden, kernel) + (bias if frames is None else frames[:, t]), cell)
            return t + 1, hidden, cell, collected.write(t, hidden)

        collected = tf.TensorArray(hidden.dtype, size=num_frames, element_shape=hidden.shape).write(0, hidden)
        _, hidden, cell, collected = tf.while_loop(lambda t, *_: t < num_frames, body, (1, hidden, cell, collected))
        return tf.transpose(collected.stack(), [1, 0, 2, 3, 4]), tf.stack([hidden, cell])


class Conv2D(layers.Layer):
    """2D convolution of frames with zero padding and stride 1."""

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
        """[M, H, W, C] -> [M, H, W, channels], or [M, 2H, 2W, channels] if the input is `upsampled` first."""
        kernel = tf.convert_to_tensor(self.kernel)
        outputs = upsample_convolve(inputs, kernel) if upsampled else convolve(inputs, kernel)
        return tf.nn.bias_add(outputs, self.bias)


class UpBlock(layers.Layer):
    """Residual block of the generator that doubles the resolution (arXiv 1811.09245, section on the architecture).

    BN-ReLU-upsample-conv3-BN-ReLU-conv3, plus a shortcut. The shortcut's 1x1 convolution commutes with upsampling and
    is computed before it, at a quarter of the cost.
    """

    def __init__(self, channels: int, num_classes: int = 0, self_modulation: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.norm1 = BatchNorm(num_classes, self_modulation, name="norm1")
        self.conv1 = Conv2D(channels, 3, relu_glorot_uniform(), name="conv1")
        self.norm2 = BatchNorm(num_classes, self_modulation, name="norm2")
        self.conv2 = Conv2D(channels, 3, relu_glorot_uniform(), name="conv2")
        self.shortcut = Conv2D(channels, 1, glorot_uniform(), name="shortcut")

    def call(self, inputs: tf.Tensor, training: bool = False, condition: Condition = UNCONDITIONAL) -> tf.Tensor:
        """[M, H, W, C] -> [M, 2H, 2W, channels]."""
        hidden = self.conv1(tf.nn.relu(self.norm1(inputs, training=training, condition=condition)), upsampled=True)
        hidden = self.conv2(tf.nn.relu(self.norm2(hidden, training=training, condition=condition)))
        return hidden + upsample(self.shortcut(inputs))


class RenderingBlock(layers.Layer):
    """Rendering block g^R (arXiv 1811.09245, Figure 2): BN-ReLU-conv3-tanh, from features to frames in [-1, 1]."""

    def __init__(self, num_classes: int = 0, self_modulation: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.norm = BatchNorm(num_classes, self_modulation, name="norm")
        self.conv = Conv2D(3, 3, lecun_normal(), name="conv")

    def call(self, inputs: tf.Tensor, training: bool = False, condition: Condition = UNCONDITIONAL) -> tf.Tensor:
        """[M, H, W, C] -> float32 [M, H, W, 3] under every dtype policy."""
        normalized = self.norm(inputs, training=training, condition=condition)
        return tf.tanh(tf.cast(self.conv(tf.nn.relu(normalized)), tf.float32))
