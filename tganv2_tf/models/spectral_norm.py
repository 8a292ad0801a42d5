"""Spectral normalisation (Miyato et al., arXiv 1802.05957) of 3D convolutions and linear layers.

`update_singular_vectors` runs one power iteration before each discriminator update. Until the next update, every call
divides by the same estimate sigma = v^T W u and is differentiated through it. The stored weight is not overwritten.
The wrappers of Keras and TensorFlow Addons iterate at every call and overwrite the kernel, which is wrong if a network
is called on reals and on fakes in one step.

A layer uses its own `effective_weights` or weights passed by the caller. A training step normalises every kernel once
and passes the result to all calls.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Callable, NamedTuple

import tensorflow as tf
from tensorflow.keras import layers

from tganv2_tf.models.convolutions import convolve, crop, unused_taps


class LayerWeights(NamedTuple):
    """Kernel and bias used by a layer.

    Attributes:
      kernel: W / sigma(W), or W without spectral normalisation. The last axis is the output channels C'.
      bias: [C'], or one bias per sample, [N, C'].
    """

    kernel: tf.Tensor
    bias: tf.Tensor


class SpectralLayer(layers.Layer):
    """Base of layers whose kernel is divided by its largest singular value (arXiv 1802.05957, section 2.1).

    Attributes:
      spectral_norm: Whether to normalise the kernel.
    """

    def __init__(self, spectral_norm: bool, initializer: tf.keras.initializers.Initializer, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.spectral_norm, self.initializer = spectral_norm, initializer

    def add_kernel(self, shape: list[int]) -> None:
        """Creates `kernel`, `bias` and, with spectral normalisation, the singular vectors.

        `left` and `right` are u and v of Miyato et al. Checkpoints use the names `left` and `right`.
        """
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
        """Runs one power iteration. Replicas have equal weights and vectors, so their results are equal."""
        if self.spectral_norm:
            matrix = self._matrix()
            right = tf.math.l2_normalize(tf.linalg.matvec(matrix, self.left))
            left = tf.math.l2_normalize(tf.linalg.matvec(matrix, right, transpose_a=True))
            self.right.assign(right)
            self.left.assign(left)

    def sigma(self) -> tf.Tensor:
        """Estimates the largest singular value, float32 scalar; differentiable with respect to the kernel."""
        return tf.tensordot(tf.linalg.matvec(self._matrix(), self.left), self.right, 1)

    def effective_weights(self, lengths: Sequence[int] | None = None) -> LayerWeights:
        """Returns W / sigma(W), or W without spectral normalisation, and the bias; float32, differentiable.

        Args:
          lengths: T, H, W of the inputs, or () for a linear layer. If passed, taps that meet only padding are cropped,
            and the gradient of W / sigma(W) needs fewer passes over memory.
        """
        kernel, bias = tf.convert_to_tensor(self.kernel), tf.convert_to_tensor(self.bias)
        if lengths is None:
            return LayerWeights(kernel / self.sigma() if self.spectral_norm else kernel, bias)
        unused = unused_taps(kernel, lengths)
        if not self.spectral_norm:
            return LayerWeights(crop(kernel, unused), bias)
        u, v = tf.identity(self.left), tf.identity(self.right)
        return LayerWeights(_normalized(kernel, 1.0 / self.sigma(), u, v, unused), bias)

    def _cast_weights(self, weights: LayerWeights | None) -> Sequence[tf.Tensor]:
        weights = self.effective_weights() if weights is None else weights
        return [tf.cast(weight, self.compute_dtype) for weight in weights]


def _normalized(kernel: tf.Tensor, scale: tf.Tensor, u: tf.Tensor, v: tf.Tensor, unused: Sequence[int]) -> tf.Tensor:
    """Computes K = W / sigma(W) without unused taps; scale = 1 / sigma(W).

    With W as a matrix [inputs, outputs], sigma = v^T W u and dW = (dK - <dK, K> v u^T) / sigma. Automatic
    differentiation needs more passes over memory.
    """

    @tf.custom_gradient
    def normalized(
        kernel: tf.Tensor, scale: tf.Tensor, u: tf.Tensor, v: tf.Tensor
    ) -> tuple[tf.Tensor, Callable[[tf.Tensor], tuple]]:
        def gradient(grad_output: tf.Tensor) -> tuple[tf.Tensor, None, None, None]:
            kernel_grad = scale * grad_output
            # Uses W, not K, so that K need not be kept in memory.
            sigma_grad = scale * tf.reduce_sum(kernel_grad * crop(kernel, unused))
            through_sigma = tf.reshape((sigma_grad * v)[:, tf.newaxis] * u, kernel.shape)
            if any(unused):
                kernel_grad = tf.pad(kernel_grad, [[cut, cut] for cut in unused])
            return kernel_grad - through_sigma, None, None, None

        return scale * crop(kernel, unused), gradient

    return normalized(kernel, scale, u, v)


def _add_bias(outputs: tf.Tensor, bias: tf.Tensor) -> tf.Tensor:
    """Adds a bias, [C], or one bias per sample, [N, C]."""
    return tf.nn.bias_add(outputs, bias) if bias.shape.rank == 1 else _add_rows(outputs, bias)


def _broadcast_rows(rows: tf.Tensor, rank: int) -> tf.Tensor:
    """[N, C] -> [N, 1, ..., 1, C]."""
    return tf.reshape(rows, [-1, *[1] * (rank - 2), rows.shape[-1]])


@tf.custom_gradient
def _add_rows(outputs: tf.Tensor, rows: tf.Tensor) -> tuple[tf.Tensor, Callable[[tf.Tensor], tuple]]:
    """Adds [N, C] to [N, ..., C]. TensorFlow's second derivative would create a tensor of the outputs' size."""

    @tf.custom_gradient
    def gradient(grad_output: tf.Tensor) -> tuple[tuple[tf.Tensor, tf.Tensor], Callable[..., tf.Tensor]]:
        row_grads = tf.reduce_sum(grad_output, list(range(1, grad_output.shape.rank - 1)))
        return (tf.identity(grad_output), row_grads), lambda a, b: a + _broadcast_rows(b, a.shape.rank)

    return outputs + _broadcast_rows(rows, outputs.shape.rank), gradient


class SpectralConv3D(SpectralLayer):
    """3D convolution with a spectral-normalised cubic kernel, zero padding and stride 1."""

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

    def call(
        self, inputs: tf.Tensor, pool: Sequence[bool] | None = None, weights: LayerWeights | None = None
    ) -> tf.Tensor:
        """[N, T, H, W, C] -> [N, T', H', W', channels].

        Args:
          inputs: Videos or features.
          pool: Which of T, H, W to halve by averaging pairs; these lengths must be even.
          weights: Used instead of the layer's `effective_weights`.
        """
        kernel, bias = self._cast_weights(weights)
        return _add_bias(convolve(inputs, kernel, pool), bias)


class SpectralDense(SpectralLayer):
    """Linear layer with a spectral-normalised kernel."""

    def __init__(
        self, units: int, initializer: tf.keras.initializers.Initializer, spectral_norm: bool = True, **kwargs: Any
    ) -> None:
        super().__init__(spectral_norm, initializer, **kwargs)
        self.units = units

    def build(self, input_shape: tf.TensorShape) -> None:
        self.add_kernel([input_shape[-1], self.units])

    def call(self, inputs: tf.Tensor, weights: LayerWeights | None = None) -> tf.Tensor:
        """[N, C] -> [N, units]. `weights` replace the layer's `effective_weights`."""
        kernel, bias = self._cast_weights(weights)
        return _add_bias(tf.matmul(inputs, kernel), bias)
