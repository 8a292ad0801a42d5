"""Keras callbacks of training: scalars, profile, checkpoints, and the check for non-finite losses."""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

import tensorflow as tf
from absl import logging

from tganv2_tf.config import Config
from tganv2_tf.errors import UserError
from tganv2_tf.events import EventWriter
from tganv2_tf.models.adversary import Adversary
from tganv2_tf.training.checkpoints import CheckpointFolder
from tganv2_tf.training.distribution import is_loss_of_worker, make_any_reduce
from tganv2_tf.training.hparams import record_success
from tganv2_tf.training.snapshots import keep_snapshot

LOSS_SCALE_HALVINGS = 15  # from Keras' first loss scale, 2^15, to 1


class StepCallback(tf.keras.callbacks.Callback):
    """Base of callbacks that use the step of the run.

    Attributes:
      model: The model in training, set by Keras.
    """

    model: Adversary

    def on_step_end(self, step: int, logs: dict[str, Any]) -> None:
        """Called with the step's scalars after each generator update, or the last one of each execution."""

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        self.first_step = self.step = int(self.model.step.numpy())

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        self.step = self.first_step + batch + 1  # with steps_per_execution, called only for an execution's last step
        self.on_step_end(self.step, logs or {})


class NotFiniteError(UserError):
    """The losses of a step are not finite."""


class StopOnNonFinite(StepCallback):
    """Raises NotFiniteError if a loss is not finite. Must precede callbacks that save.

    Attributes:
      patience: Number of consecutive non-finite calls that are accepted. Loss scaling skips steps whose gradients
        overflow and halves the scale.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.patience = LOSS_SCALE_HALVINGS if config.train.mixed_precision == "mixed_float16" else 0
        self.consecutive = 0

    def on_step_end(self, step: int, logs: dict[str, Any]) -> None:
        wrong = [f"{name}={float(value)}" for name, value in logs.items() if not math.isfinite(value)]
        self.consecutive = self.consecutive + 1 if wrong else 0
        if self.consecutive > self.patience:
            raise NotFiniteError(f"step {step}: {wrong[0]} is not finite")


class Scalars(StepCallback):
    """Writes TensorBoard scalars: losses, mean logits per level, learning rates, spectral norms, clips per second."""

    def __init__(self, writer: EventWriter, config: Config) -> None:
        super().__init__()
        self.writer, self.config = writer, config

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        super().on_train_begin(logs)
        self.last_time, self.last_step = time.perf_counter(), self.step

    def on_step_end(self, step: int, logs: dict[str, Any]) -> None:
        if not self.config.train.is_due(step, self.config.train.log_every_steps):
            return
        now = time.perf_counter()
        clips = (step - self.last_step) * self.model.global_batch_size
        with self.writer.as_default(step):
            for name, value in logs.items():
                tf.summary.scalar(f"train/{name}", value)
            for network, optimizer in self.model.optimizers.items():
                tf.summary.scalar(f"train/{network}_learning_rate", optimizer.learning_rate)
            tf.summary.scalar("train/clips_per_second", clips / (now - self.last_time))
            for name, value in self.model.scalars().items():
                tf.summary.scalar(f"train/{name}", value)
        self.writer.flush()
        self.last_time, self.last_step = time.perf_counter(), step

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        if self.step == self.config.train.train_steps:
            with self.writer.as_default():
                record_success()


class Profile(StepCallback):
    """Profiles the steps of `profile_steps`, first to last, for TensorBoard's profile tab."""

    def __init__(self, writer: EventWriter, config: Config) -> None:
        super().__init__()
        self.writer, self.active, self.steps_per_execution = writer, False, config.train.steps_per_execution
        self.first, self.last = config.train.profile_steps or (0, 0)

    def on_train_batch_begin(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        if not self.active and self.step < self.last and self.step + self.steps_per_execution >= self.first:
            tf.profiler.experimental.start(self.writer.folder)
            self.active = True

    def on_step_end(self, step: int, logs: dict[str, Any]) -> None:
        if step >= self.last:
            self.stop()

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        self.stop()

    def stop(self) -> None:
        """Writes the profile. Must also be called after an error, when Keras calls no callbacks."""
        if self.active:
            self.active = False
            tf.profiler.experimental.stop()


class SaveCheckpoints(StepCallback):
    """Saves checkpoints every `checkpoint_every_steps`, at the last step, and on SIGTERM and Ctrl-C.

    All workers take part, because some variables are means over replicas. Only the chief's files are kept.

    Attributes:
      stopped_by: The signal that ended the run, or None; SIGTERM if another worker received the signal.
    """

    def __init__(self, folder: CheckpointFolder, config: Config, chief: bool) -> None:
        super().__init__()
        self.folder, self.config, self.chief = folder, config, chief
        self.stopped_by: int | None = None
        self.old_handlers: dict[int, Any] = {}

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        super().on_train_begin(logs)
        self.any_reduce = make_any_reduce(self.model.distribute_strategy)
        # In the main thread only: for Ray see `ReportToDriver`. Handlers may still be set from the previous phase.
        if threading.current_thread() is threading.main_thread() and not self.old_handlers:
            numbers = (signal.SIGTERM, signal.SIGINT)
            self.old_handlers = {number: signal.signal(number, self._stop) for number in numbers}

    def _stop(self, number: int, frame: Any) -> None:
        # The current step is completed first. A second signal ends the process, because the old handlers are restored.
        self.stopped_by = number
        self.restore_handlers()

    def restore_handlers(self) -> None:
        """Restores the signal handlers. Must also be called after an error, when Keras calls no callbacks."""
        for number, handler in self.old_handlers.items():
            signal.signal(number, handler)

    def on_step_end(self, step: int, logs: dict[str, Any]) -> None:
        train, stopped = self.config.train, self.stopped_by  # read once: a signal may come at any moment
        if self.any_reduce(stopped is not None):
            self.stopped_by = stopped = stopped or signal.SIGTERM
        if train.is_due(step, train.checkpoint_every_steps) or step == train.train_steps or stopped:
            try:
                path = self.folder.save(step)
                kept = train.keep_checkpoint_every_steps
                if self.chief and kept and step % kept == 0:
                    keep_snapshot(path)
            except (tf.errors.OpError, OSError) as error:
                if isinstance(error, tf.errors.OpError) and is_loss_of_worker(error):
                    raise  # unchanged, because Keras drops __cause__, by which the loop recognises it
                message = error.message if isinstance(error, tf.errors.OpError) else error
                raise UserError(f"{train.model_dir}: step {step} cannot be saved: {message}") from error
        if stopped:
            logging.info("Stopped at step %d and saved; the same command resumes from there.", step)
            self.model.stop_training = True

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        if self.stopped_by or self.step == self.config.train.train_steps:  # else another phase follows
            self.restore_handlers()


class ReportToDriver(StepCallback):
    """Reports each step to the driver process, which may return a stop signal. Must precede `SaveCheckpoints`."""

    def __init__(self, report: Callable[[int, dict[str, Any]], int | None], saving: SaveCheckpoints) -> None:
        super().__init__()
        self.report, self.saving = report, saving

    def on_step_end(self, step: int, logs: dict[str, Any]) -> None:
        self.saving.stopped_by = self.report(step, logs) or self.saving.stopped_by
