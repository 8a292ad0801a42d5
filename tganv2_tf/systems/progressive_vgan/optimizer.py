"""Adam whose state is reset when a phase begins, with the learning rates of the phases."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from tganv2_tf.config import Config
from tganv2_tf.models.optimizers import Adam, rate_schedule
from tganv2_tf.systems.progressive_vgan.schedule import Phase, schedule


def first_step_at(found: Sequence[Phase], step: tf.Tensor) -> tf.Tensor:
    """Returns the first step of the phase of a step, int64 []."""
    first_steps = tf.constant([phase.first_step for phase in found], tf.int64)
    return tf.reduce_max(tf.where(first_steps <= step, first_steps, 0))


class PhaseRates(tf.keras.optimizers.schedules.LearningRateSchedule):
    """The rate of `rate_schedule`, times a factor at 128x128 pixels."""

    def __init__(self, config: Config, rate: float) -> None:
        self.base = rate_schedule(config.train, rate)
        self.phases = schedule(config)
        model = config.model
        self.factors = [model.rate_factor_at_128 if model.size(p.level)[1] == 128 else 1.0 for p in self.phases]

    def __call__(self, step: Any) -> tf.Tensor:
        first_steps = tf.constant([phase.first_step for phase in self.phases], tf.int64)
        index = tf.reduce_sum(tf.cast(first_steps <= tf.cast(step, tf.int64), tf.int32)) - 1
        return self.base(step) * tf.gather(tf.constant(self.factors), index)


class PhaseAdam(Adam):
    """Adam with one update per step. `iterations` counts all updates; the bias correction those of the phase.

    `reset` must be called before the first update of a phase.
    """

    def __init__(self, config: Config, rate: float) -> None:
        train = config.train
        super().__init__(
            PhaseRates(config, rate),
            train.adam_beta1,
            train.adam_beta2,
            train.adam_epsilon,
            global_clipnorm=train.gradient_clip_norm or None,
        )
        self.phases = schedule(config)

    def num_updates(self) -> tf.Tensor:
        done = tf.cast(self.iterations, tf.int64)
        return done + 1 - first_step_at(self.phases, done)

    def reset(self) -> None:
        """Sets both moments of all gradients to 0."""
        for moment in (*self._momentums, *self._velocities):
            moment.assign(tf.zeros_like(moment))
