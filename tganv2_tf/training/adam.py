"""Adam with one TensorFlow operation per weight."""

from __future__ import annotations

import tensorflow as tf


class Adam(tf.keras.optimizers.Adam):
    """Keras' Adam (Kingma & Ba, arXiv 1412.6980), with equal variables and results, computed by TensorFlow's kernel.

    Keras composes the update of a dozen operations, each of which passes over all weights. On CPUs, where no compiler
    fuses them, that takes several times as long.
    """

    def update_step(self, gradient: tf.Tensor, variable: tf.Variable) -> None:
        """Updates one variable; called by `apply_gradients` with dense gradients on each device of the variable."""
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
