"""Loss scaling for float16, in which small gradients would underflow."""

from __future__ import annotations

from typing import Any, NamedTuple

import tensorflow as tf


class LossScales(NamedTuple):
    """Loss scales of the two networks, float32 scalars; None if the network's optimiser does not use loss scaling."""

    generator: tf.Tensor | None = None
    discriminator: tf.Tensor | None = None


def uses_loss_scaling(optimizer: Any) -> bool:
    """Returns whether the optimiser uses loss scaling."""
    return isinstance(optimizer, tf.keras.mixed_precision.LossScaleOptimizer)


def loss_scale(optimizer: Any) -> tf.Tensor | None:
    """Returns the optimiser's current loss scale, or None if it uses none."""
    # By scaling a loss of 1, because Keras warns if an optimiser has never scaled a loss.
    return optimizer.get_scaled_loss(tf.constant(1.0)) if uses_loss_scaling(optimizer) else None


def scale_loss(value: tf.Tensor, scale: tf.Tensor | None) -> tf.Tensor:
    """Multiplies a loss, or its gradient, by the scale."""
    return value if scale is None else value * tf.cast(scale, value.dtype)


def unscale_gradients(gradients: list[tf.Tensor], optimizer: Any) -> list[tf.Tensor]:
    """Returns the gradients of a loss, given those of the scaled loss."""
    return optimizer.get_unscaled_gradients(gradients) if uses_loss_scaling(optimizer) else gradients
