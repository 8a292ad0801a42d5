"""Activation checkpointing: recomputes functions in the backward pass instead of storing activations."""

from __future__ import annotations

from typing import Any, Callable

import tensorflow as tf


def checkpoint_activations(function: Callable[..., tf.Tensor], *inputs: tf.Tensor) -> tf.Tensor:
    """Returns function(*inputs), storing only the inputs for the backward pass.

    Unlike `tf.recompute_grad`, the result can be differentiated twice.

    Args:
      function: A function whose only differentiated inputs are its arguments and trainable variables.
      inputs: Floating-point tensors.
    """

    @tf.custom_gradient
    def outer(*inputs: tf.Tensor) -> tuple[tf.Tensor, Callable[..., Any]]:
        def gradient(grad_output: tf.Tensor, variables: list[tf.Variable] | None = None) -> Any:
            # Otherwise TensorFlow would merge the recomputation with the forward pass and keep its activations.
            with tf.control_dependencies([grad_output]):
                again = [tf.identity(tensor) for tensor in inputs]
            with tf.GradientTape() as tape:
                tape.watch(again)
                outputs = function(*again)
            input_grads, variable_grads = tape.gradient(outputs, (again, variables or []), grad_output)
            return input_grads if variables is None else (input_grads, variable_grads)

        return function(*inputs), gradient

    return outer(*inputs)
