"""Folds batch norms into the preceding convolutions, for inference.

With running statistics, batch norm is an affine map per channel. If it directly follows a convolution, it can be
replaced by a scaled kernel and a scaled and shifted bias. In the generator this holds for the second norm of each up
block. The other norms follow sums that the shortcuts also read; conditional and self-modulated norms differ by sample.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from tganv2_tf.models.generator import Generator
from tganv2_tf.models.layers import BATCH_NORM_EPSILON


def _unchanged(inputs: tf.Tensor, **_: Any) -> tf.Tensor:
    """Replaces a folded norm."""
    return inputs


def fold_batch_norms(generator: tf.keras.Model) -> tf.keras.Model:
    """Returns a copy of TGANv2's generator with folded norms. It renders the same videos, up to rounding.

    The copy is for inference only: checkpoints do not fit it, because it lacks the norms' weights. A conditional
    generator, one with self-modulation, or that of another system, is returned unchanged.
    """
    if not isinstance(generator, Generator) or generator.config.conditional or generator.config.self_modulation:
        return generator
    copy: Any = Generator(generator.config)
    copy.set_weights(generator.get_weights())
    for level in copy.generator_levels:
        for block in level.blocks:
            norm, convolution = block.norm2, block.conv1
            scale = norm.gamma * tf.math.rsqrt(norm.moving_variance + BATCH_NORM_EPSILON)
            convolution.kernel.assign(convolution.kernel * scale)  # the last axis is the output channels
            convolution.bias.assign(norm.beta + (convolution.bias - norm.moving_mean) * scale)
            block.norm2 = _unchanged
    return copy
