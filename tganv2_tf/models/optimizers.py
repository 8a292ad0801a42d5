"""Optimisers, and their settings in a run."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from tganv2_tf.config import TrainConfig


class Adam(tf.keras.optimizers.Adam):
    """Keras' Adam (Kingma & Ba, arXiv 1412.6980), with equal variables and results, computed by TensorFlow's kernel.

    Keras composes the update of a dozen operations, each of which passes over all weights. On CPUs, where no compiler
    fuses them, that takes several times as long.

    Attributes:
      EPSILON_AFTER_CORRECTION: Whether epsilon is added to the root of the bias-corrected second moment, as in the
        paper's Algorithm 1 and in PyTorch. Keras and Torch7 add it before the correction.
    """

    EPSILON_AFTER_CORRECTION = False

    def num_updates(self) -> tf.Tensor:
        """Number of updates for the bias correction, this one included."""
        return self.iterations + 1

    def update_step(self, gradient: tf.Tensor, variable: tf.Variable) -> None:
        """Updates one variable; called by `apply_gradients` with dense gradients on each device of the variable."""
        index = self._index_dict[self._var_key(variable)]
        updates = tf.cast(self.num_updates(), tf.float32)
        beta2_power = tf.pow(self.beta_2, updates)
        # The kernel adds epsilon to the uncorrected root, which is sqrt(1 - beta2^t) times the corrected one.
        scale = tf.sqrt(1.0 - beta2_power) if self.EPSILON_AFTER_CORRECTION else 1.0
        tf.raw_ops.ResourceApplyAdam(
            var=variable.handle,
            m=self._momentums[index].handle,
            v=self._velocities[index].handle,
            beta1_power=tf.pow(self.beta_1, updates),
            beta2_power=beta2_power,
            lr=tf.cast(self.learning_rate, tf.float32),
            beta1=self.beta_1,
            beta2=self.beta_2,
            epsilon=self.epsilon * scale,
            grad=gradient,
        )


class PyTorchAdam(Adam):
    """Adam with epsilon after the bias correction."""

    EPSILON_AFTER_CORRECTION = True


class RMSprop(tf.keras.optimizers.RMSprop):
    """Keras' RMSprop with epsilon outside the root, as in Torch and Chainer: g / (sqrt(mean of g^2) + epsilon)."""

    def update_step(self, gradient: tf.Tensor, variable: tf.Variable) -> None:
        """Updates one variable; called by `apply_gradients` with dense gradients on each device of the variable."""
        squares = self._velocities[self._index_dict[self._var_key(variable)]]
        squares.assign(self.rho * squares + (1.0 - self.rho) * tf.square(gradient))
        variable.assign_sub(tf.cast(self.learning_rate, tf.float32) * gradient / (tf.sqrt(squares) + self.epsilon))


def rate_schedule(train: TrainConfig, learning_rate: float, updates_per_step: int = 1) -> Any:
    """Returns a learning rate that decays linearly to 0 or is constant.

    A constant rate is also a schedule: a number would be saved in checkpoints and override a changed flag.
    """
    last_rate = 0.0 if train.learning_rate_decay == "linear" else learning_rate
    steps = train.train_steps * updates_per_step
    return tf.keras.optimizers.schedules.PolynomialDecay(learning_rate, steps, last_rate)


def make_adam(
    train: TrainConfig, learning_rate: float, updates_per_step: int = 1, kind: type[Adam] = Adam
) -> tf.keras.optimizers.Optimizer:
    """Creates Adam with the settings of a run and the rate of `rate_schedule`."""
    optimizer = kind(
        rate_schedule(train, learning_rate, updates_per_step),
        train.adam_beta1,
        train.adam_beta2,
        train.adam_epsilon,
        global_clipnorm=train.gradient_clip_norm or None,  # applies to the sum over replicas
    )
    if train.mixed_precision == "mixed_float16":
        return tf.keras.mixed_precision.LossScaleOptimizer(optimizer)
    return optimizer
