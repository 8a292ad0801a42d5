"""Spectral normalisation (Miyato et al., 2018) of 3D convolutions and linear layers.

sigma(W) is estimated by one power iteration per discriminator update: `update_singular_vectors` runs it, once, before
the update, and every call of the layer until the next one divides by the same sigma = u^T W v, through which the
gradient flows. The stored weight is never overwritten. Keras' and TensorFlow Addons' wrappers iterate at every call and
overwrite the kernel, which is wrong where a network is called on reals and on fakes in one step.
"""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Callable

import tensorflow as tf
from tensorflow.keras import layers

from tganv2_tf.models.convolutions import convolve, unused_taps, without

# By the layers' identities; a strategy's replicas, which share the layers, are threads with a context each.
_given: contextvars.ContextVar[Mapping[int, Sequence[tf.Tensor]] | None] = contextvars.ContextVar("given", default=None)


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

    def normalized_kernel(self, lengths: Sequence[int] | None = None) -> tf.Tensor:
        """W / sigma(W), or W, float32.

        Args:
          lengths: of the inputs that it is for, T, H, W; taps that meet only padding there are left out.
        """
        kernel = tf.convert_to_tensor(self.kernel)
        unused = [0] * kernel.shape.rank if lengths is None else unused_taps(kernel, lengths)
        if not self.spectral_norm:
            return without(unused, kernel)
        return _normalized(kernel, 1.0 / self.sigma(), tf.identity(self.left), tf.identity(self.right), unused)

    def weights_in_use(self) -> Sequence[tf.Tensor]:
        """The normalised kernel and the bias in the dtype that the layer computes in, or what stands in their place."""
        weights = (_given.get() or {}).get(id(self)) or (self.normalized_kernel(), self.bias)
        return [tf.cast(weight, self.compute_dtype) for weight in weights]


def _normalized(
    kernel: tf.Tensor, scale: tf.Tensor, left: tf.Tensor, right: tf.Tensor, unused: Sequence[int]
) -> tf.Tensor:
    """K = W / sigma(W), without unused taps, where scale is 1 / sigma(W).

    sigma = u^T W v, so that dW = (dK - <dK, K> v u^T) / sigma. By its parts it would take more passes over memory.
    """

    @tf.custom_gradient
    def normalized(
        kernel: tf.Tensor, scale: tf.Tensor, left: tf.Tensor, right: tf.Tensor
    ) -> tuple[tf.Tensor, Callable[[tf.Tensor], tuple]]:
        def gradient(upstream: tf.Tensor) -> tuple[tf.Tensor, None, None, None]:
            upstream = scale * upstream
            share = scale * tf.reduce_sum(upstream * without(unused, kernel))  # W is there; K may be so no more
            of_sigma = tf.reshape((share * right)[:, tf.newaxis] * left, kernel.shape)
            if any(unused):
                upstream = tf.pad(upstream, [[cut, cut] for cut in unused])
            return upstream - of_sigma, None, None, None

        return scale * without(unused, kernel), gradient

    return normalized(kernel, scale, left, right)


@contextlib.contextmanager
def given_weights(
    layers: Sequence[SpectralLayer], kernels: Sequence[tf.Tensor], biases: Sequence[tf.Tensor]
) -> Iterator[None]:
    """In its block, calls of the layers use these normalised kernels and biases, so that those of a step share them."""
    token = _given.set({id(layer): weights for layer, *weights in zip(layers, kernels, biases)})
    try:
        yield
    finally:
        _given.reset(token)


def _add_bias(outputs: tf.Tensor, bias: tf.Tensor, scale: tf.Tensor | None) -> tf.Tensor:
    """Adds a bias, times each sample's scale, float32 [N], where there is one."""
    if scale is None:
        return tf.nn.bias_add(outputs, bias)
    return _add_rows(outputs, tf.cast(scale, outputs.dtype)[:, tf.newaxis] * bias)


def _everywhere(rows: tf.Tensor, rank: int) -> tf.Tensor:
    """[N, C] -> [N, 1, ..., 1, C]."""
    return tf.reshape(rows, [-1, *[1] * (rank - 2), rows.shape[-1]])


@tf.custom_gradient
def _add_rows(outputs: tf.Tensor, rows: tf.Tensor) -> tuple[tf.Tensor, Callable[[tf.Tensor], tuple]]:
    """[N, ..., C] plus [N, C]. TensorFlow's second derivative of it would make a tensor as large as the outputs."""

    @tf.custom_gradient
    def gradient(upstream: tf.Tensor) -> tuple[tuple[tf.Tensor, tf.Tensor], Callable[..., tf.Tensor]]:
        of_rows = tf.reduce_sum(upstream, list(range(1, upstream.shape.rank - 1)))
        return (tf.identity(upstream), of_rows), lambda a, b: a + _everywhere(b, a.shape.rank)

    return outputs + _everywhere(rows, outputs.shape.rank), gradient


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
        self, inputs: tf.Tensor, pool: Sequence[bool] | None = None, bias_scale: tf.Tensor | None = None
    ) -> tf.Tensor:
        """[N, T, H, W, C] -> [N, T, H, W, channels].

        Args:
          inputs: a video or its features.
          pool: which of T, H, W to halve by means of pairs; these lengths are even.
          bias_scale: float32 [N], what each sample's bias is multiplied by.
        """
        kernel, bias = self.weights_in_use()
        return _add_bias(convolve(inputs, kernel, pool), bias, bias_scale)


class SpectralDense(SpectralLayer):
    """Linear layer."""

    def __init__(
        self, units: int, initializer: tf.keras.initializers.Initializer, spectral_norm: bool = True, **kwargs: Any
    ) -> None:
        super().__init__(spectral_norm, initializer, **kwargs)
        self.units = units

    def build(self, input_shape: tf.TensorShape) -> None:
        self.add_kernel([input_shape[-1], self.units])

    def call(self, inputs: tf.Tensor, bias_scale: tf.Tensor | None = None) -> tf.Tensor:
        """[N, C] -> [N, units]; each sample's bias is multiplied by its `bias_scale`, float32 [N]."""
        kernel, bias = self.weights_in_use()
        return _add_bias(tf.matmul(inputs, kernel), bias, bias_scale)
