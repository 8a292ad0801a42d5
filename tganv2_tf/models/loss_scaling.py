"""Loss scaling, which float16 needs: without it small gradients underflow."""

from __future__ import annotations

from typing import Any, NamedTuple

import tensorflow as tf


class LossScales(NamedTuple):
    """The factors by which the networks' losses are multiplied while they are differentiated, float32 scalars.

    None means that the network's optimiser uses no loss scaling.
    """

    generator: tf.Tensor | None = None
    discriminator: tf.Tensor | None = None


def uses_loss_scaling(optimizer: Any) -> bool:
    """Whether gradients of scaled losses are expected by `unscale_gradients`."""
    return isinstance(optimizer, tf.keras.mixed_precision.LossScaleOptimizer)


def loss_scale(optimizer: Any) -> tf.Tensor | None:
    """The optimiser's current scale, or None if it uses none."""
    # The scale of a loss of 1: Keras warns of optimisers that have not been asked for a scaled loss.
    return optimizer.get_scaled_loss(tf.constant(1.0)) if uses_loss_scaling(optimizer) else None


def scale_loss(value: tf.Tensor, scale: tf.Tensor | None) -> tf.Tensor:
    """A loss, or its gradient, times the scale."""
    return value if scale is None else value * tf.cast(scale, value.dtype)


def unscale_gradients(gradients: list[tf.Tensor], optimizer: Any) -> list[tf.Tensor]:
    """The gradients of a loss, from those of the scaled loss."""
    return optimizer.get_unscaled_gradients(gradients) if uses_loss_scaling(optimizer) else gradients
