"""A generator for inference alone: batch norms are folded into the convolutions before them.

By running statistics a batch norm is an affine map of each channel. One that follows a convolution directly is a part
of it: the kernel is scaled, and the bias scaled and shifted. Of the generator's norms these are the second ones of the
up blocks; the others stand behind sums that the shortcuts read as well, and those of classes differ by sample.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from tganv2_tf.models.generator import Generator
from tganv2_tf.models.layers import BATCH_NORM_EPSILON


def _unchanged(inputs: tf.Tensor, **_: Any) -> tf.Tensor:
    """In the place of a norm that has been folded."""
    return inputs


def folded(generator: Generator) -> Generator:
    """A copy that gives the same videos up to rounding, without the norms that can be folded.

    It is for inference, and for no checkpoint: it lacks the norms' weights. A conditional generator is returned as it
    is.
    """
    if generator.config.conditional:
        return generator
    copy: Any = Generator(generator.config)
    copy.set_weights(generator.get_weights())
    for level in copy.generator_levels:
        for block in level.blocks:
            norm, convolution = block.norm2, block.conv1
            scale = norm.gamma * tf.math.rsqrt(norm.moving_variance + BATCH_NORM_EPSILON)
            convolution.kernel.assign(convolution.kernel * scale)  # the last axis is the outputs
            convolution.bias.assign(norm.beta + (convolution.bias - norm.moving_mean) * scale)
            block.norm2 = _unchanged
    return copy
