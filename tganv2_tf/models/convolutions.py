"""Convolutions of frames and of videos, each in the cheapest of the forms that give the same values.

The networks are defined with 3x3 and 3x3x3 convolutions, zero padding, means of pairs after them and nearest upsampling
before them. What is computed instead, and why, stands here and nowhere else; `docs/performance.md` has the times.
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

# Small maps are convolved by a matrix product of their patches. There the weights are what takes time, and a product
# reads them once, where a convolution brings them into an order of its own at each call. Patches pay where channels out
# are so many times as many as positions, by the number of axes: a batch has more single frames than videos, so that
# their weights matter less.
CHANNELS_PER_POSITION = {2: 16, 3: 4}
# From so many input channels on, gradients of pooled kernels are matrix products: at stride 2 oneDNN's own take longer.
CHANNELS_FOR_PRODUCTS = 64


def convolve(inputs: tf.Tensor, kernel: tf.Tensor, pool: Sequence[bool] | None = None) -> tf.Tensor:
    """Convolution at stride 1 with zero padding, and then, along some axes, the mean of pairs.

    The mean of pairs commutes with the convolution: it is taken of the inputs, at every position, and the kernel moves
    by two. That is an eighth of the multiplications where three axes are pooled.

    Args:
      inputs: [N, H, W, C] or [N, T, H, W, C], with static lengths.
      kernel: three taps an axis, [3, 3, C, C'] or [3, 3, 3, C, C'], or one along all, or cropped by its `unused_taps`.
      pool: for each axis whether it is halved; its length is then even. None pools nothing.
    Returns:
      [N, H', W', C'] or [N, T', H', W', C'].
    """
    lengths = inputs.shape[1:-1].as_list()
    pool = [False] * len(lengths) if pool is None else list(pool)
    if set(kernel.shape[:-2]) == {1}:
        outputs = tf.matmul(tf.reshape(inputs, [-1, kernel.shape[-2]]), tf.reshape(kernel, kernel.shape[-2:]))
        return mean_of_pairs(tf.reshape(outputs, [-1, *lengths, kernel.shape[-1]]), pool, pool)
    kernel = crop(kernel, unused_taps(kernel, lengths))
    channels, positions = kernel.shape[-1], math.prod(lengths)
    if CHANNELS_PER_POSITION[len(lengths)] * positions <= channels:
        patches = inputs if positions == 1 else _patches(inputs, pool)
        outputs = _product(tf.reshape(patches, [-1, math.prod(kernel.shape[:-1])]), tf.reshape(kernel, [-1, channels]))
        halved = [length // 2 if pooled else length for length, pooled in zip(lengths, pool)]
        return tf.reshape(outputs, [-1, *halved, channels])
    if lengths[0] == 2 and len(lengths) == 3:
        form = functools.partial(_two_frames, pool=pool)
        # The frames side by side are as large as the inputs, and cheap to make again for the gradient.
        return checkpoint_activations(form, inputs, kernel) if any(pool) else form(inputs, kernel)
    return _convolution(inputs, kernel, pool)


def unused_taps(kernel: tf.Tensor, lengths: Sequence[int]) -> list[int]:
    """For each axis of a kernel, how many taps at each end meet only padding, in inputs of these lengths."""
    return [*(int(length == 1 and taps == 3) for length, taps in zip(lengths, kernel.shape)), 0, 0]


def crop(tensor: tf.Tensor, margins: Sequence[int]) -> tf.Tensor:
    """Cuts a margin off both ends of each axis, such as a kernel's `unused_taps`."""
    if not any(margins):
        return tensor
    return tf.slice(tensor, margins, [length - 2 * cut for length, cut in zip(tensor.shape, margins)])


def _two_frames(inputs: tf.Tensor, kernel: tf.Tensor, pool: Sequence[bool]) -> tf.Tensor:
    """Two frames are one with twice the channels: [N, 2, H, W, C] -> [N, 2 or 1, H', W', C'], without taps in padding.

    At the largest sizes, where clips have two frames, this makes the gradients of kernels several times as fast.
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
    """By TensorFlow's convolution, at stride 2 of means where it is pooled."""
    if len(pool) == 3 and inputs.shape[1] == 1:
        return _convolution(inputs[:, 0], kernel[0], pool[1:])[:, tf.newaxis]
    if any(pool):
        return _halved(inputs, kernel, pool)
    return (tf.nn.conv2d if len(pool) == 2 else tf.nn.conv3d)(inputs, kernel, [1] * (len(pool) + 2), "SAME")


def _halved(inputs: tf.Tensor, kernel: tf.Tensor, pool: Sequence[bool]) -> tf.Tensor:
    """Convolution at stride 2 of the means of pairs: [N, *lengths, C] -> [N, *halved lengths, C'].

    The means are as large as the inputs. They are not kept for the gradient.
    """

    @tf.custom_gradient
    def halved(inputs: tf.Tensor, kernel: tf.Tensor) -> tuple[tf.Tensor, Callable[[tf.Tensor], tuple]]:
        def gradient(upstream: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            return _spread(upstream, kernel, pool), _kernel_gradient(inputs, upstream, kernel.shape, pool)

        convolution = tf.nn.conv2d if len(pool) == 2 else tf.nn.conv3d
        return convolution(_means(inputs, kernel.shape, pool), kernel, _strides(pool), "VALID"), gradient

    return halved(inputs, kernel)


def _spread(upstream: tf.Tensor, kernel: tf.Tensor, pool: Sequence[bool]) -> tf.Tensor:
    """The adjoint of `_halved`: [N, *halved lengths, C'] -> [N, *lengths, C]."""

    @tf.custom_gradient
    def spread(upstream: tf.Tensor, kernel: tf.Tensor) -> tuple[tf.Tensor, Callable[[tf.Tensor], tuple]]:
        def gradient(above: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            return _halved(above, kernel, pool), _kernel_gradient(above, upstream, kernel.shape, pool)

        lengths = upstream.shape[1:-1].as_list()
        reach = [2 * n + 1 if pooled else n + taps - 1 for n, pooled, taps in zip(lengths, pool, kernel.shape)]
        shape = [upstream.shape[0] or tf.shape(upstream)[0], *reach, kernel.shape[-2]]
        transposed = tf.nn.conv2d_transpose if len(pool) == 2 else tf.nn.conv3d_transpose
        means = mean_of_pairs(transposed(upstream, kernel, shape, _strides(pool), "VALID"), pool)
        zeros = [0, *(int(taps == 3 and not pooled) for taps, pooled in zip(kernel.shape, pool)), 0]
        return crop(means, zeros), gradient

    return spread(upstream, kernel)


def _kernel_gradient(inputs: tf.Tensor, upstream: tf.Tensor, shape: tf.TensorShape, pool: Sequence[bool]) -> tf.Tensor:
    """The gradient of `_halved` with respect to its kernel, of this shape."""

    @tf.custom_gradient
    def of_kernel(inputs: tf.Tensor, upstream: tf.Tensor) -> tuple[tf.Tensor, Callable[[tf.Tensor], tuple]]:
        with tf.control_dependencies([upstream]):  # else the means would be those of the forward pass, and kept
            inputs = tf.identity(inputs)
        if shape[-2] >= CHANNELS_FOR_PRODUCTS:
            outputs = _products(inputs, upstream, shape, pool)
        else:
            backprop = tf.raw_ops.Conv2DBackpropFilter if len(pool) == 2 else tf.raw_ops.Conv3DBackpropFilterV2
            options = {"filter_sizes": shape, "strides": _strides(pool), "padding": "VALID"}
            outputs = backprop(input=_means(inputs, shape, pool), out_backprop=upstream, **options)
        return outputs, lambda above: (_spread(upstream, above, pool), _halved(inputs, above, pool))

    return of_kernel(inputs, upstream)


def _products(inputs: tf.Tensor, upstream: tf.Tensor, shape: tf.TensorShape, pool: Sequence[bool]) -> tf.Tensor:
    """`_kernel_gradient` as one matrix product for each tap.

    A tap of a convolution at stride 2 meets either the even or the odd positions of an axis. The means of these alone
    are pooled at stride 2, and products read them without gaps.
    """
    lengths, rows = upstream.shape[1:-1].as_list(), tf.reshape(upstream, [-1, shape[-1]])
    means: dict[tuple[bool, ...], tf.Tensor] = {}  # by whether they begin at the first position or before it
    products = []
    for taps in itertools.product(*map(range, shape[:-2])):
        padded = tuple(count == 3 and not (pooled and tap == 1) for tap, count, pooled in zip(taps, shape, pool))
        if padded not in means:
            zeros = [[0, 0], *([int(needed)] * 2 for needed in padded), [0, 0]]
            means[padded] = mean_of_pairs(tf.pad(inputs, zeros) if any(padded) else inputs, pool, pool)
        start = [tap // 2 if pooled else tap for tap, pooled in zip(taps, pool)]
        met = tf.slice(means[padded], [0, *start, 0], [-1, *lengths, -1])
        products.append(tf.matmul(tf.reshape(met, [-1, shape[-2]]), rows, transpose_a=True))
    return tf.reshape(tf.stack(products), shape)


def _means(inputs: tf.Tensor, kernel_shape: tf.TensorShape, pool: Sequence[bool]) -> tf.Tensor:
    """What a kernel meets: means of pairs at all positions, with the zeros around them."""
    zeros = [[taps // 2] * 2 for taps in kernel_shape[:-2]]
    return mean_of_pairs(tf.pad(inputs, [[0, 0], *zeros, [0, 0]]), pool)


def _strides(pool: Sequence[bool]) -> list[int]:
    return [1, *(2 if pooled else 1 for pooled in pool), 1]


def mean_of_pairs(inputs: tf.Tensor, axes: Sequence[bool], strides: Sequence[bool] | None = None) -> tf.Tensor:
    """Means of neighbours along some axes.

    Args:
      inputs: [N, H, W, C] or [N, T, H, W, C].
      axes: for each axis whether means are taken along it.
      strides: for each axis whether every second one is left out; None leaves none out.
    Returns:
      Along such an axis one less than the inputs, or half as many.
    """
    if not any(axes):
        return inputs
    window, moves = _strides(axes), _strides(strides or [False] * len(axes))
    average = tf.nn.avg_pool2d if len(axes) == 2 else tf.nn.avg_pool3d
    if inputs.dtype == tf.float16:  # of which TensorFlow has no 3D pooling on CPUs
        return tf.cast(average(tf.cast(inputs, tf.float32), window, moves, "VALID"), tf.float16)
    return average(inputs, window, moves, "VALID")


@functools.cache
def _patch_matrix(lengths: tuple[int, ...], pool: tuple[bool, ...]) -> np.ndarray:
    """What makes patches of positions: [positions out * taps, positions in]."""
    matrix = np.ones([1, 1, 1], np.float32)  # positions out, taps, positions in
    for length, pooled in zip(lengths, pool):
        taps = [0] if length == 1 else [-1, 0, 1]
        axis = np.stack([np.eye(length, k=tap, dtype=np.float32) for tap in taps], axis=1)
        if pooled:
            axis = axis.reshape(length // 2, 2, len(taps), length).mean(1)
        shape = [a * b for a, b in zip(matrix.shape, axis.shape)]
        matrix = np.einsum("abc,def->adbecf", matrix, axis).reshape(shape)
    return matrix.reshape(-1, matrix.shape[-1])


def _patches(inputs: tf.Tensor, pool: Sequence[bool]) -> tf.Tensor:
    """[N, *lengths, C] -> [N, positions * taps, C]: what an output sees, the mean of two where it is pooled."""
    *lengths, channels = inputs.shape[1:].as_list()
    matrix = _patch_matrix(tuple(lengths), tuple(pool))
    return _mixed(matrix, tf.reshape(inputs, [-1, matrix.shape[1], channels]))


def _mixed(matrix: np.ndarray, values: tf.Tensor) -> tf.Tensor:
    """A constant matrix times each of [N, K, C]. TensorFlow's gradient would look for axes to add up, at each step."""

    @tf.custom_gradient
    def mixed(values: tf.Tensor) -> tuple[tf.Tensor, Callable[[tf.Tensor], tf.Tensor]]:
        return tf.matmul(tf.constant(matrix, values.dtype), values), lambda upstream: _mixed(matrix.T, upstream)

    return mixed(values)


@tf.custom_gradient
def _product(patches: tf.Tensor, matrix: tf.Tensor) -> tuple[tf.Tensor, Callable[[tf.Tensor], tuple]]:
    """A product with few rows, [M, K] and [K, C']; to go back through it TensorFlow would bring the matrix in order."""

    def gradient(upstream: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        of_patches = tf.transpose(tf.matmul(matrix, upstream, transpose_b=True))
        return of_patches, tf.matmul(patches, upstream, transpose_a=True)

    return tf.matmul(patches, matrix), gradient


def kernel_gradient(inputs: tf.Tensor, upstream: tf.Tensor) -> tf.Tensor:
    """The gradient of a 3x3 convolution of small maps with respect to its kernel, as one matrix product.

    Args:
      inputs: [N, H, W, C].
      upstream: [N, H, W, C'].
    Returns:
      [3, 3, C, C'].
    """
    kernel = tf.zeros([3, 3, inputs.shape[-1], upstream.shape[-1]], inputs.dtype)
    with tf.GradientTape() as tape:
        tape.watch(kernel)
        outputs = convolve(inputs, kernel)
    return tape.gradient(outputs, kernel, upstream)


def upsample_convolve(inputs: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
    """Nearest upsampling by 2, then a 3x3 convolution with zero padding.

    Upsampling puts zeros between the pixels and adds up pairs. The adding commutes with the convolution and comes after
    it; the rest is a transposed convolution at stride 2: a quarter of the multiplications, no upsampled tensor.

    Args:
      inputs: [M, H, W, C].
      kernel: [3, 3, C, C'].
    Returns:
      [M, 2H, 2W, C'].
    """
    flipped = tf.transpose(tf.reverse(kernel, [0, 1]), [0, 1, 3, 2])
    return 4.0 * _spread(inputs, flipped, [True, True])


@tf.custom_gradient
def upsample(inputs: tf.Tensor) -> tuple[tf.Tensor, Callable[[tf.Tensor], tf.Tensor]]:
    """Nearest neighbour, factor 2: [M, H, W, C] -> [M, 2H, 2W, C]."""
    _, height, width, channels = inputs.shape
    doubled = tf.tile(inputs[:, :, tf.newaxis, :, tf.newaxis], [1, 1, 2, 1, 2, 1])

    def gradient(upstream: tf.Tensor) -> tf.Tensor:
        # The sum over each 2x2 pixels; TensorFlow's own, a reduction over axes of length 2, is many times slower.
        return 4.0 * tf.nn.avg_pool2d(upstream, 2, 2, "VALID")

    return tf.reshape(doubled, [-1, 2 * height, 2 * width, channels]), gradient


@tf.custom_gradient
def relu(inputs: tf.Tensor) -> tuple[tf.Tensor, Callable[[tf.Tensor], tf.Tensor]]:
    """max(x, 0), whose derivative is constant as far as second derivatives go.

    TensorFlow's own has a second derivative of explicit zeros, and walks them back through the whole network.
    """
    outputs = tf.nn.relu(inputs)

    def gradient(upstream: tf.Tensor) -> tf.Tensor:
        return tf.raw_ops.ReluGrad(gradients=upstream, features=tf.stop_gradient(outputs))

    return outputs, gradient
