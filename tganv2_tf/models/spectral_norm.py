"""Spectral normalisation (Miyato et al., 2018) of 3D convolutions and linear layers.

sigma(W) is estimated by one power iteration per discriminator update: `update_singular_vectors` runs it, once, before
the update, and every call of the layer until the next one divides by the same sigma = u^T W v, through which the
gradient flows. The stored weight is never overwritten. Keras' and TensorFlow Addons' wrappers iterate at every call and
overwrite the kernel, which is wrong where a network is called on reals and on fakes in one step.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tensorflow as tf
from tensorflow.keras import layers


class SpectralLayer(layers.Layer):
    """A layer with one kernel whose last axis is the outputs, divided by its largest singular value.

    Attributes:
      spectral_norm: False leaves the kernel as it is.
    """

    def __init__(self, spectral_norm: bool, initializer: tf.keras.initializers.Initializer, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.spectral_norm, self.initializer = spectral_norm, initializer

    def add_kernel(self, shape: list[int]) -> None:
        """Makes `kernel`, `bias` and, where it is normalised, the singular vectors."""
        self.kernel = self.add_weight("kernel", shape, tf.float32, self.initializer, experimental_autocast=False)
        self.bias = self.add_weight("bias", shape[-1:], tf.float32, "zeros", experimental_autocast=False)
        if self.spectral_norm:
            fan_in = tf.TensorShape(shape[:-1]).num_elements()
            self.left = self._singular_vector("left_singular_vector", shape[-1])
            self.right = self._singular_vector("right_singular_vector", fan_in)

    def _singular_vector(self, name: str, size: int) -> tf.Variable:
        return self.add_weight(
            name,
            [size],
            tf.float32,
            lambda shape, dtype: tf.math.l2_normalize(tf.random.normal(shape, dtype=dtype)),
            trainable=False,
            synchronization=tf.VariableSynchronization.ON_READ,
            aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA,
            experimental_autocast=False,
        )

    def _matrix(self) -> tf.Tensor:
        return tf.reshape(self.kernel, [-1, self.kernel.shape[-1]])

    def update_singular_vectors(self) -> None:
        """One power iteration. Every replica runs it on the same weights and vectors, so all of them agree."""
        if self.spectral_norm:
            matrix = self._matrix()
            right = tf.math.l2_normalize(tf.linalg.matvec(matrix, self.left))
            left = tf.math.l2_normalize(tf.linalg.matvec(matrix, right, transpose_a=True))
            self.right.assign(right)
            self.left.assign(left)

    def sigma(self) -> tf.Tensor:
        """The estimate of the largest singular value, float32 scalar; differentiable with respect to the kernel."""
        return tf.tensordot(tf.linalg.matvec(self._matrix(), self.left), self.right, 1)

    def normalized_kernel(self) -> tf.Tensor:
        """W / sigma(W), or W, in the dtype that the layer computes in."""
        kernel = tf.convert_to_tensor(self.kernel)
        if self.spectral_norm:
            kernel = kernel / self.sigma()
        return tf.cast(kernel, self.compute_dtype)


def conv3d(inputs: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
    """3D convolution with zero padding; along axes of length 1 only the kernel's middle tap meets more than padding."""
    middle = kernel.shape[0] // 2
    taps = [slice(middle, middle + 1) if length == 1 else slice(None) for length in inputs.shape[1:4]]
    kernel = kernel[tuple(taps)]
    if kernel.shape[0] == 1 and inputs.shape[1] == 1:
        return tf.nn.conv2d(inputs[:, 0], kernel[0], 1, "SAME")[:, tf.newaxis]
    return tf.nn.conv3d(inputs, kernel, [1] * 5, "SAME")


def conv3d_pool(inputs: tf.Tensor, kernel: tf.Tensor, pool: Sequence[bool]) -> tf.Tensor:
    """3x3x3 convolution followed by the mean of pairs along some axes, as one strided convolution.

    The mean of pairs of the outputs is an output of the kernel averaged with itself shifted by one: 4 taps at stride 2
    instead of 3 taps at stride 1, which for three axes is 64 / 8 instead of 27 multiplications an input voxel.

    Args:
      inputs: [N, T, H, W, C].
      kernel: [3, 3, 3, C, C'].
      pool: for T, H, W: whether the axis is pooled; its length is then even.
    """
    strides = [1, 1, 1, 1, 1]
    for axis, (pooled, length) in enumerate(zip(pool, inputs.shape[1:4])):
        if pooled:
            before, after = ([[1, 0] if i == axis else [0, 0] for i in range(5)] for _ in range(2))
            after[axis] = [0, 1]
            kernel = 0.5 * (tf.pad(kernel, before) + tf.pad(kernel, after))
            strides[axis + 1] = 2
        elif length == 1:
            kernel = tf.gather(kernel, [1], axis=axis)
    if inputs.shape[1] == 1:
        return tf.nn.conv2d(inputs[:, 0], kernel[0], strides[2:4], "SAME")[:, tf.newaxis]
    return tf.nn.conv3d(inputs, kernel, strides, "SAME")


class SpectralConv3D(SpectralLayer):
    """3D convolution with a cubic kernel, zero padding, stride 1."""

    def __init__(
        self,
        channels: int,
        kernel_size: int,
        initializer: tf.keras.initializers.Initializer,
        spectral_norm: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(spectral_norm, initializer, **kwargs)
        self.channels, self.kernel_size = channels, kernel_size

    def build(self, input_shape: tf.TensorShape) -> None:
        self.add_kernel([self.kernel_size] * 3 + [input_shape[-1], self.channels])

    def call(self, inputs: tf.Tensor, pool: Sequence[bool] | None = None) -> tf.Tensor:
        """[N, T, H, W, C] -> [N, T, H, W, channels].

        Args:
          inputs: a video or its features.
          pool: which of T, H, W to halve by means of pairs; these lengths are even.
        """
        kernel = self.normalized_kernel()
        if pool is not None and any(pool) and self.kernel_size == 3:
            outputs = conv3d_pool(inputs, kernel, pool)
        else:
            outputs = conv3d(inputs, kernel)
        return outputs + tf.cast(self.bias, outputs.dtype)


class SpectralDense(SpectralLayer):
    """Linear layer."""

    def __init__(
        self, units: int, initializer: tf.keras.initializers.Initializer, spectral_norm: bool = True, **kwargs: Any
    ) -> None:
        super().__init__(spectral_norm, initializer, **kwargs)
        self.units = units

    def build(self, input_shape: tf.TensorShape) -> None:
        self.add_kernel([input_shape[-1], self.units])

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """[N, C] -> [N, units]."""
        outputs = tf.matmul(inputs, self.normalized_kernel())
        return outputs + tf.cast(self.bias, outputs.dtype)
