"""Adam, each weight's update as one operation."""

from __future__ import annotations

import tensorflow as tf


class Adam(tf.keras.optimizers.Adam):
    """Keras' Adam (Kingma & Ba, 2015), with its variables and its numbers, by TensorFlow's own kernel.

    Keras writes the update out in a dozen operations. Each of them goes once through the memory of all weights, which
    without a GPU, whose compiler joins them, takes several times as long.
    """

    def update_step(self, gradient: tf.Tensor, variable: tf.Variable) -> None:
        """Moves one variable; called by `apply_gradients`, with dense gradients, on each device that has it."""
        index = self._index_dict[self._var_key(variable)]
        updates = tf.cast(self.iterations + 1, tf.float32)
        tf.raw_ops.ResourceApplyAdam(
            var=variable.handle,
            m=self._momentums[index].handle,
            v=self._velocities[index].handle,
            beta1_power=tf.pow(self.beta_1, updates),
            beta2_power=tf.pow(self.beta_2, updates),
            lr=tf.cast(self.learning_rate, tf.float32),
            beta1=self.beta_1,
            beta2=self.beta_2,
            epsilon=self.epsilon,
            grad=gradient,
        )
