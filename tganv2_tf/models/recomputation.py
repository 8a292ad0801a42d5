"""Functions that are computed a second time for their gradient, so that what they make on the way is not kept."""

from __future__ import annotations

from typing import Any, Callable

import tensorflow as tf


def recomputed(function: Callable[..., tf.Tensor], *inputs: tf.Tensor) -> tf.Tensor:
    """function(*inputs), of which only the inputs are kept.

    Unlike `tf.recompute_grad` it can be differentiated twice.

    Args:
      function: depends on nothing that is differentiated but its inputs and trainable variables.
      inputs: floats.
    """

    @tf.custom_gradient
    def outer(*inputs: tf.Tensor) -> tuple[tf.Tensor, Callable[..., Any]]:
        def gradient(upstream: tf.Tensor, variables: list[tf.Variable] | None = None) -> Any:
            # Else it would be one with the first computation, and kept.
            with tf.control_dependencies([upstream]):
                again = [tf.identity(tensor) for tensor in inputs]
            with tf.GradientTape() as tape:
                tape.watch(again)
                outputs = function(*again)
            of_inputs, of_variables = tape.gradient(outputs, (again, variables or []), upstream)
            return of_inputs if variables is None else (of_inputs, of_variables)

        return function(*inputs), gradient

    return outer(*inputs)
