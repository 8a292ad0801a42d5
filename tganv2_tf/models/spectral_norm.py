"""Spectral normalisation (Miyato et al., 2018) of 3D convolutions and linear layers.

sigma(W) is estimated by one power iteration per discriminator update: `update_singular_vectors` runs it, once, before
the update, and every call of the layer until the next one divides by the same sigma = v^T W u, through which the
gradient flows. The stored weight is never overwritten. Keras' and TensorFlow Addons' wrappers iterate at every call and
overwrite the kernel, which is wrong if a network is called on reals and on fakes in one step.

A layer computes with its own `effective_weights`, or with those that its caller passes: a training step normalises
every kernel once, and passes the results to all calls.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Callable, NamedTuple

import tensorflow as tf
from tensorflow.keras import layers

from tganv2_tf.models.convolutions import convolve, crop, unused_taps


class LayerWeights(NamedTuple):
    """The kernel and the bias with which a layer computes, which a caller may pass to it.

    Attributes:
      kernel: W / sigma(W), or W without spectral normalisation; the outputs C' are the last axis.
      bias: [C'], or a separate one for each sample, [N, C'].
    """

    kernel: tf.Tensor
    bias: tf.Tensor


class SpectralLayer(layers.Layer):
    """A layer with one kernel whose last axis is the outputs, divided by its largest singular value.

    Attributes:
      spectral_norm: False leaves the kernel as it is.
    """

    def __init__(self, spectral_norm: bool, initializer: tf.keras.initializers.Initializer, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.spectral_norm, self.initializer = spectral_norm, initializer

    def add_kernel(self, shape: list[int]) -> None:
        """Makes `kernel`, `bias` and, with spectral normalisation, the singular vectors.

        `left` and `right` are u and v of Miyato et al.; checkpoints know them by these names.
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

    def effective_weights(self, lengths: Sequence[int] | None = None) -> LayerWeights:
        """W / sigma(W), or W without spectral normalisation, and the bias; float32, differentiable.

        Args:
          lengths: T, H, W of the inputs, or () for a linear layer. If given, taps that meet only padding are cropped,
            and the gradient of W / sigma(W) takes fewer passes over memory.
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
    """K = W / sigma(W), without unused taps, with scale = 1 / sigma(W).

    sigma = v^T W u, with W as a matrix [inputs, outputs], so that dW = (dK - <dK, K> v u^T) / sigma. Automatic
    differentiation takes more passes over memory.
    """

    @tf.custom_gradient
    def normalized(
        kernel: tf.Tensor, scale: tf.Tensor, u: tf.Tensor, v: tf.Tensor
    ) -> tuple[tf.Tensor, Callable[[tf.Tensor], tuple]]:
        def gradient(grad_output: tf.Tensor) -> tuple[tf.Tensor, None, None, None]:
            kernel_grad = scale * grad_output
            # Of W, not of K: K may already have been freed.
            sigma_grad = scale * tf.reduce_sum(kernel_grad * crop(kernel, unused))
            through_sigma = tf.reshape((sigma_grad * v)[:, tf.newaxis] * u, kernel.shape)
            if any(unused):
                kernel_grad = tf.pad(kernel_grad, [[cut, cut] for cut in unused])
            return kernel_grad - through_sigma, None, None, None

        return scale * crop(kernel, unused), gradient

    return normalized(kernel, scale, u, v)


def _add_bias(outputs: tf.Tensor, bias: tf.Tensor) -> tf.Tensor:
    """Adds a bias, [C], or one for each sample, [N, C]."""
    return tf.nn.bias_add(outputs, bias) if bias.shape.rank == 1 else _add_rows(outputs, bias)


def _broadcast_rows(rows: tf.Tensor, rank: int) -> tf.Tensor:
    """[N, C] -> [N, 1, ..., 1, C]."""
    return tf.reshape(rows, [-1, *[1] * (rank - 2), rows.shape[-1]])


@tf.custom_gradient
def _add_rows(outputs: tf.Tensor, rows: tf.Tensor) -> tuple[tf.Tensor, Callable[[tf.Tensor], tuple]]:
    """[N, ..., C] plus [N, C]. TensorFlow's second derivative of it would make a tensor as large as the outputs."""

    @tf.custom_gradient
    def gradient(grad_output: tf.Tensor) -> tuple[tuple[tf.Tensor, tf.Tensor], Callable[..., tf.Tensor]]:
        row_grads = tf.reduce_sum(grad_output, list(range(1, grad_output.shape.rank - 1)))
        return (tf.identity(grad_output), row_grads), lambda a, b: a + _broadcast_rows(b, a.shape.rank)

    return outputs + _broadcast_rows(rows, outputs.shape.rank), gradient


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

    def call(
        self, inputs: tf.Tensor, pool: Sequence[bool] | None = None, weights: LayerWeights | None = None
    ) -> tf.Tensor:
        """[N, T, H, W, C] -> [N, T', H', W', channels].

        Args:
          inputs: A video or its features.
          pool: Which of T, H, W to halve by means of pairs; these lengths are even.
          weights: Computed with instead of the layer's own `effective_weights`.
        """
        kernel, bias = self._cast_weights(weights)
        return _add_bias(convolve(inputs, kernel, pool), bias)


class SpectralDense(SpectralLayer):
    """Linear layer."""

    def __init__(
        self, units: int, initializer: tf.keras.initializers.Initializer, spectral_norm: bool = True, **kwargs: Any
    ) -> None:
        super().__init__(spectral_norm, initializer, **kwargs)
        self.units = units

    def build(self, input_shape: tf.TensorShape) -> None:
        self.add_kernel([input_shape[-1], self.units])

    def call(self, inputs: tf.Tensor, weights: LayerWeights | None = None) -> tf.Tensor:
        """[N, C] -> [N, units]; computed with `weights` instead of the layer's own `effective_weights`, if given."""
        kernel, bias = self._cast_weights(weights)
        return _add_bias(tf.matmul(inputs, kernel), bias)
