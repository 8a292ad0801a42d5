"""Convolutions of frames and videos, each in the fastest of several equivalent forms.

The networks are defined with zero-padded 3x3 and 3x3x3 convolutions, followed by average pooling or preceded by
nearest-neighbour upsampling. This module alone chooses the form that is computed. Timings: `docs/performance.md`.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Sequence
from typing import Callable

import numpy as np
import tensorflow as tf

from tganv2_tf.models.activation_checkpointing import checkpoint_activations

# Small maps are convolved as a matrix product of patches. Reading the weights dominates there: a matrix product reads
# them once, whereas a convolution reorders them at each call. Patches are used if the number of output channels is at
# least this factor times the number of positions. Keys: number of axes. The factor is larger for 2D because a batch has
# more frames than videos, so reading the weights matters less.
MATMUL_CHANNELS_PER_POSITION = {2: 16, 3: 4}
# From this many input channels, gradients of pooled kernels are matrix products: oneDNN is slower at stride 2.
MIN_CHANNELS_FOR_MATMUL = 64


def convolve(inputs: tf.Tensor, kernel: tf.Tensor, pool: Sequence[bool] | None = None) -> tf.Tensor:
    """Convolves at stride 1 with zero padding, then averages pairs along the pooled axes.

    Averaging commutes with the convolution. It is applied to the inputs at every position, and the convolution has
    stride 2. With three pooled axes this needs an eighth of the multiplications.

    Args:
      inputs: [N, H, W, C] or [N, T, H, W, C], with static lengths.
      kernel: [3, 3, C, C'] or [3, 3, 3, C, C'], optionally without its `unused_taps`; or one tap along all axes.
      pool: For each axis, whether it is halved; its length must then be even. None pools no axis.
    Returns:
      [N, H', W', C'] or [N, T', H', W', C'].
    """
    lengths = inputs.shape[1:-1].as_list()
    pool = [False] * len(lengths) if pool is None else list(pool)
    if set(kernel.shape[:-2]) == {1}:
        if len(lengths) == 2 and not any(pool):  # TensorFlow fuses a convolution with a bias that follows it
            return tf.nn.conv2d(inputs, kernel, 1, "VALID")
        outputs = tf.matmul(tf.reshape(inputs, [-1, kernel.shape[-2]]), tf.reshape(kernel, kernel.shape[-2:]))
        return average_pairs(tf.reshape(outputs, [-1, *lengths, kernel.shape[-1]]), pool, pool)
    kernel = crop(kernel, unused_taps(kernel, lengths))
    channels, positions = kernel.shape[-1], math.prod(lengths)
    if MATMUL_CHANNELS_PER_POSITION[len(lengths)] * positions <= channels:
        patches = inputs if positions == 1 else _patches(inputs, pool)
        outputs = _skinny_matmul(
            tf.reshape(patches, [-1, math.prod(kernel.shape[:-1])]), tf.reshape(kernel, [-1, channels])
        )
        halved = [length // 2 if pooled else length for length, pooled in zip(lengths, pool)]
        return tf.reshape(outputs, [-1, *halved, channels])
    if lengths[0] == 2 and len(lengths) == 3:
        form = functools.partial(_two_frames, pool=pool)
        # The merged frames are as large as the inputs and cheap to recompute.
        return checkpoint_activations(form, inputs, kernel) if any(pool) else form(inputs, kernel)
    return _convolution(inputs, kernel, pool)


def scale_and_shift(inputs: tf.Tensor, scale: tf.Tensor, shift: tf.Tensor) -> tf.Tensor:
    """Computes inputs * scale + shift per channel: [M, H, W, C], [C], [C] -> [M, H, W, C].

    As a depthwise convolution, which TensorFlow fuses with a following ReLU into a single pass over memory. oneDNN's
    batch norm is as fast with AVX-512, but takes 13 times as long without.
    """
    kernel = scale[tf.newaxis, tf.newaxis, :, tf.newaxis]
    return tf.nn.bias_add(tf.nn.depthwise_conv2d(inputs, kernel, [1, 1, 1, 1], "VALID"), shift)


def unused_taps(kernel: tf.Tensor, lengths: Sequence[int]) -> list[int]:
    """Returns, for each kernel axis, how many taps at each end meet only padding in inputs of these lengths."""
    return [*(int(length == 1 and taps == 3) for length, taps in zip(lengths, kernel.shape)), 0, 0]


def crop(tensor: tf.Tensor, margins: Sequence[int]) -> tf.Tensor:
    """Crops each axis by a margin at both ends, e.g. a kernel's `unused_taps`."""
    if not any(margins):
        return tensor
    # -1: the whole axis, whose length may be unknown
    return tf.slice(tensor, margins, [length - 2 * cut if cut else -1 for length, cut in zip(tensor.shape, margins)])


def _two_frames(inputs: tf.Tensor, kernel: tf.Tensor, pool: Sequence[bool]) -> tf.Tensor:
    """Convolves two frames as one with twice the channels: [N, 2, H, W, C] -> [N, 2 or 1, H', W', C'].

    This skips taps in the padding and makes kernel gradients several times faster at the largest resolutions, where
    clips have two frames.
    """
    *_, height, width, channels = inputs.shape
    merged = tf.reshape(tf.transpose(inputs, [0, 2, 3, 1, 4]), [-1, height, width, 2 * channels])
    before, same, after = tf.unstack(kernel)
    if pool[0]:
        both = tf.concat([0.5 * (same + before), 0.5 * (same + after)], 2)
        return convolve(merged, both, pool[1:])[:, tf.newaxis]
    first, second = tf.concat([same, after], 2), tf.concat([before, same], 2)
    outputs = convolve(merged, tf.concat([first, second], 3), pool[1:])
    outputs = tf.reshape(outputs, [-1, *outputs.shape[1:3], 2, kernel.shape[-1]])
    return tf.transpose(outputs, [0, 3, 1, 2, 4])


def _convolution(inputs: tf.Tensor, kernel: tf.Tensor, pool: Sequence[bool]) -> tf.Tensor:
    """Uses TensorFlow's convolution; along pooled axes, at stride 2 on averaged inputs."""
    if len(pool) == 3 and inputs.shape[1] == 1:
        return _convolution(inputs[:, 0], kernel[0], pool[1:])[:, tf.newaxis]
    if any(pool):
        return _halved(inputs, kernel, pool)
    return (tf.nn.conv2d if len(pool) == 2 else tf.nn.conv3d)(inputs, kernel, [1] * (len(pool) + 2), "SAME")


def _halved(inputs: tf.Tensor, kernel: tf.Tensor, pool: Sequence[bool]) -> tf.Tensor:
    """Convolves averaged pairs at stride 2: [N, *lengths, C] -> [N, *halved lengths, C'].

    The averages, which are as large as the inputs, are recomputed in the backward pass.
    """

    @tf.custom_gradient
    def halved(inputs: tf.Tensor, kernel: tf.Tensor) -> tuple[tf.Tensor, Callable[[tf.Tensor], tuple]]:
        def gradient(grad_output: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            return _halved_adjoint(grad_output, kernel, pool), _kernel_gradient(inputs, grad_output, kernel.shape, pool)

        convolution = tf.nn.conv2d if len(pool) == 2 else tf.nn.conv3d
        return convolution(_padded_averages(inputs, kernel.shape, pool), kernel, _strides(pool), "VALID"), gradient

    return halved(inputs, kernel)


def _halved_adjoint(grad_output: tf.Tensor, kernel: tf.Tensor, pool: Sequence[bool]) -> tf.Tensor:
    """Computes the adjoint of `_halved`: [N, *halved lengths, C'] -> [N, *lengths, C]."""

    @tf.custom_gradient
    def adjoint(grad_output: tf.Tensor, kernel: tf.Tensor) -> tuple[tf.Tensor, Callable[[tf.Tensor], tuple]]:
        def gradient(second_grad: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            return _halved(second_grad, kernel, pool), _kernel_gradient(second_grad, grad_output, kernel.shape, pool)

        lengths = grad_output.shape[1:-1].as_list()
        output_lengths = [2 * n + 1 if pooled else n + taps - 1 for n, pooled, taps in zip(lengths, pool, kernel.shape)]
        shape = [grad_output.shape[0] or tf.shape(grad_output)[0], *output_lengths, kernel.shape[-2]]
        transposed = tf.nn.conv2d_transpose if len(pool) == 2 else tf.nn.conv3d_transpose
        means = average_pairs(transposed(grad_output, kernel, shape, _strides(pool), "VALID"), pool)
        zeros = [0, *(int(taps == 3 and not pooled) for taps, pooled in zip(kernel.shape, pool)), 0]
        return crop(means, zeros), gradient

    return adjoint(grad_output, kernel)


def _kernel_gradient(
    inputs: tf.Tensor, grad_output: tf.Tensor, shape: tf.TensorShape, pool: Sequence[bool]
) -> tf.Tensor:
    """Computes the gradient of `_halved` with respect to its kernel of shape `shape`."""

    @tf.custom_gradient
    def kernel_grad(inputs: tf.Tensor, grad_output: tf.Tensor) -> tuple[tf.Tensor, Callable[[tf.Tensor], tuple]]:
        with tf.control_dependencies([grad_output]):  # prevents reuse of the forward pass's averages
            inputs = tf.identity(inputs)
        if shape[-2] >= MIN_CHANNELS_FOR_MATMUL:
            outputs = _kernel_gradient_by_matmul(inputs, grad_output, shape, pool)
        else:
            backprop = tf.raw_ops.Conv2DBackpropFilter if len(pool) == 2 else tf.raw_ops.Conv3DBackpropFilterV2
            options = {"filter_sizes": shape, "strides": _strides(pool), "padding": "VALID"}
            outputs = backprop(input=_padded_averages(inputs, shape, pool), out_backprop=grad_output, **options)
        return outputs, lambda second_grad: (
            _halved_adjoint(grad_output, second_grad, pool),
            _halved(inputs, second_grad, pool),
        )

    return kernel_grad(inputs, grad_output)


def _kernel_gradient_by_matmul(
    inputs: tf.Tensor, grad_output: tf.Tensor, shape: tf.TensorShape, pool: Sequence[bool]
) -> tf.Tensor:
    """Computes `_kernel_gradient` as one matrix product per tap.

    At stride 2 a tap meets either the even or the odd positions of an axis. Only their averages are computed, by
    pooling at stride 2, so the matrix products read contiguous memory.
    """
    lengths, rows = grad_output.shape[1:-1].as_list(), tf.reshape(grad_output, [-1, shape[-1]])
    means: dict[tuple[bool, ...], tf.Tensor] = {}  # key: per axis, whether the inputs are padded
    products = []
    for taps in itertools.product(*map(range, shape[:-2])):
        padded = tuple(count == 3 and not (pooled and tap == 1) for tap, count, pooled in zip(taps, shape, pool))
        if padded not in means:
            zeros = [[0, 0], *([int(needed)] * 2 for needed in padded), [0, 0]]
            means[padded] = average_pairs(tf.pad(inputs, zeros) if any(padded) else inputs, pool, pool)
        start = [tap // 2 if pooled else tap for tap, pooled in zip(taps, pool)]
        tap_inputs = tf.slice(means[padded], [0, *start, 0], [-1, *lengths, -1])
        products.append(tf.matmul(tf.reshape(tap_inputs, [-1, shape[-2]]), rows, transpose_a=True))
    return tf.reshape(tf.stack(products), shape)


def _padded_averages(inputs: tf.Tensor, kernel_shape: tf.TensorShape, pool: Sequence[bool]) -> tf.Tensor:
    """Zero-pads the inputs and averages pairs at all positions."""
    zeros = [[taps // 2] * 2 for taps in kernel_shape[:-2]]
    return average_pairs(tf.pad(inputs, [[0, 0], *zeros, [0, 0]]), pool)


def _strides(pool: Sequence[bool]) -> list[int]:
    return [1, *(2 if pooled else 1 for pooled in pool), 1]


def average_pairs(inputs: tf.Tensor, axes: Sequence[bool], strides: Sequence[bool] | None = None) -> tf.Tensor:
    """Averages pairs of neighbours along some axes.

    Args:
      inputs: [N, H, W, C] or [N, T, H, W, C].
      axes: For each axis, whether to average along it.
      strides: For each axis, whether the stride is 2 instead of 1; None is 1 for all axes.
    Returns:
      The averages. An averaged axis is shorter by one, or halved with stride 2.
    """
    if not any(axes):
        return inputs
    window, pool_strides = _strides(axes), _strides(strides or [False] * len(axes))
    average = tf.nn.avg_pool2d if len(axes) == 2 else tf.nn.avg_pool3d
    if inputs.dtype == tf.float16:  # TensorFlow has no 3D pooling in float16 on CPUs
        return tf.cast(average(tf.cast(inputs, tf.float32), window, pool_strides, "VALID"), tf.float16)
    return average(inputs, window, pool_strides, "VALID")


@functools.cache
def _patch_matrix(lengths: tuple[int, ...], pool: tuple[bool, ...]) -> np.ndarray:
    """Returns the matrix that maps positions to patches: [output positions * taps, input positions]."""
    matrix = np.ones([1, 1, 1], np.float32)  # output positions, taps, input positions
    for length, pooled in zip(lengths, pool):
        taps = [0] if length == 1 else [-1, 0, 1]
        axis = np.stack([np.eye(length, k=tap, dtype=np.float32) for tap in taps], axis=1)
        if pooled:
            axis = axis.reshape(length // 2, 2, len(taps), length).mean(1)
        shape = [a * b for a, b in zip(matrix.shape, axis.shape)]
        matrix = np.einsum("abc,def->adbecf", matrix, axis).reshape(shape)
    return matrix.reshape(-1, matrix.shape[-1])


def _patches(inputs: tf.Tensor, pool: Sequence[bool]) -> tf.Tensor:
    """Extracts patches, averaged along pooled axes: [N, *lengths, C] -> [N, positions * taps, C]."""
    *lengths, channels = inputs.shape[1:].as_list()
    matrix = _patch_matrix(tuple(lengths), tuple(pool))
    return _constant_matmul(matrix, tf.reshape(inputs, [-1, matrix.shape[1], channels]))


def _constant_matmul(matrix: np.ndarray, values: tf.Tensor) -> tf.Tensor:
    """Multiplies values [N, K, C] by a constant matrix, without the broadcasting logic of TensorFlow's gradient."""

    @tf.custom_gradient
    def mixed(values: tf.Tensor) -> tuple[tf.Tensor, Callable[[tf.Tensor], tf.Tensor]]:
        return tf.matmul(tf.constant(matrix, values.dtype), values), lambda grad_output: _constant_matmul(
            matrix.T, grad_output
        )

    return mixed(values)


@tf.custom_gradient
def _skinny_matmul(patches: tf.Tensor, matrix: tf.Tensor) -> tuple[tf.Tensor, Callable[[tf.Tensor], tuple]]:
    """Multiplies [M, K] by [K, C'] for small M. TensorFlow's gradient would first reorder the large matrix."""

    def gradient(grad_output: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        patches_grad = tf.transpose(tf.matmul(matrix, grad_output, transpose_b=True))
        return patches_grad, tf.matmul(patches, grad_output, transpose_a=True)

    return tf.matmul(patches, matrix), gradient


def kernel_gradient(inputs: tf.Tensor, grad_output: tf.Tensor) -> tf.Tensor:
    """Computes the gradient of a 3x3 convolution of small maps with respect to its kernel, as one matrix product.

    Args:
      inputs: [N, H, W, C].
      grad_output: [N, H, W, C'].
    Returns:
      [3, 3, C, C'].
    """
    kernel = tf.zeros([3, 3, inputs.shape[-1], grad_output.shape[-1]], inputs.dtype)
    with tf.GradientTape() as tape:
        tape.watch(kernel)
        outputs = convolve(inputs, kernel)
    return tape.gradient(outputs, kernel, grad_output)


def upsample_convolve(inputs: tf.Tensor, kernel: tf.Tensor, axes: Sequence[bool] | None = None) -> tf.Tensor:
    """Upsamples by 2 (nearest neighbour), then convolves with zero padding.

    Upsampling inserts zeros between pixels and sums pairs. The sum commutes with the convolution and is applied after
    it. The rest is a transposed convolution at stride 2, with a quarter of the multiplications, or an eighth with three
    axes, and no upsampled tensor.

    Args:
      inputs: [M, H, W, C] or [N, T, H, W, C].
      kernel: [3, 3, C, C'] or [3, 3, 3, C, C'].
      axes: For each axis, whether it is upsampled. None upsamples all.
    Returns:
      [M, 2H, 2W, C'] or [N, T or 2T, H or 2H, W or 2W, C'].
    """
    num = len(inputs.shape) - 2
    axes = [True] * num if axes is None else list(axes)
    flipped = tf.transpose(tf.reverse(kernel, range(num)), [*range(num), num + 1, num])
    return _halved_adjoint(inputs, 2.0 ** sum(axes) * flipped, axes)  # exact, and cheaper than scaling the outputs


@tf.custom_gradient
def upsample(inputs: tf.Tensor) -> tuple[tf.Tensor, Callable[[tf.Tensor], tf.Tensor]]:
    """Upsamples by 2 (nearest neighbour): [M, H, W, C] -> [M, 2H, 2W, C]."""
    _, height, width, channels = inputs.shape
    doubled = tf.tile(inputs[:, :, tf.newaxis, :, tf.newaxis], [1, 1, 2, 1, 2, 1])

    def gradient(grad_output: tf.Tensor) -> tf.Tensor:
        # Sums of 2x2 pixels. TensorFlow's gradient, a reduction over axes of length 2, is many times slower.
        return 4.0 * tf.nn.avg_pool2d(grad_output, 2, 2, "VALID")

    return tf.reshape(doubled, [-1, 2 * height, 2 * width, channels]), gradient


@tf.custom_gradient
def relu(inputs: tf.Tensor) -> tuple[tf.Tensor, Callable[[tf.Tensor], tf.Tensor]]:
    """Computes max(x, 0), treating its derivative as a constant in second derivatives.

    TensorFlow's ReLU returns explicit zeros as second derivative and propagates them through the whole network.
    """
    outputs = tf.nn.relu(inputs)

    def gradient(grad_output: tf.Tensor) -> tf.Tensor:
        return tf.raw_ops.ReluGrad(gradients=grad_output, features=tf.stop_gradient(outputs))

    return outputs, gradient
