"""Activation checkpointing: functions that are computed again in the backward pass, instead of storing activations."""

from __future__ import annotations

from typing import Any, Callable

import tensorflow as tf


def checkpoint_activations(function: Callable[..., tf.Tensor], *inputs: tf.Tensor) -> tf.Tensor:
    """function(*inputs), of which only the inputs are stored for the backward pass.

    Unlike `tf.recompute_grad` it can be differentiated twice.

    Args:
      function: Depends on nothing that is differentiated except its inputs and trainable variables.
      inputs: Floating-point tensors.
    """

    @tf.custom_gradient
    def outer(*inputs: tf.Tensor) -> tuple[tf.Tensor, Callable[..., Any]]:
        def gradient(grad_output: tf.Tensor, variables: list[tf.Variable] | None = None) -> Any:
            # Without this TensorFlow would merge the second computation with the first, and store its activations.
            with tf.control_dependencies([grad_output]):
                again = [tf.identity(tensor) for tensor in inputs]
            with tf.GradientTape() as tape:
                tape.watch(again)
                outputs = function(*again)
            input_grads, variable_grads = tape.gradient(outputs, (again, variables or []), grad_output)
            return input_grads if variables is None else (input_grads, variable_grads)

        return function(*inputs), gradient

    return outer(*inputs)
