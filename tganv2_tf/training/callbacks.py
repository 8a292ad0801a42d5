"""Keras callbacks of training: scalars, checkpoints, scores, progress bar, and the check for non-finite losses."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import itertools
import math
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import tensorflow as tf
from absl import logging

from tganv2_tf import lanes, storage
from tganv2_tf.config import Config
from tganv2_tf.data.manifest import Manifest, checksums
from tganv2_tf.errors import UserError
from tganv2_tf.evaluation import protocol, validity
from tganv2_tf.evaluation.networks import Answers, describe, load_c3d_network, warn_of_doubtful
from tganv2_tf.evaluation.samples import NUM_FRAMES, batch_of_generator
from tganv2_tf.events import EventWriter
from tganv2_tf.files import write_atomically
from tganv2_tf.models.recalibration import recalibrate
from tganv2_tf.models.tganv2 import TGANv2
from tganv2_tf.runs import CHECKPOINT_DIR, files_of
from tganv2_tf.training.checkpoints import CheckpointFolder
from tganv2_tf.training.distribution import any_worker, gatherer, is_loss_of_worker, num_workers, worker_number
from tganv2_tf.training.hparams import record_success
from tganv2_tf.training.snapshots import best_score, keep_best, keep_for_ever

LOSS_SCALE_HALVINGS = 15  # from Keras' first loss scale, 2^15, to 1
EVAL_SCORES = ("inception_score", "c3d_fid")
BAR_FORMAT = "{desc} {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}, {rate_fmt}]"
BAR_LOSSES = {"generator_loss": "G", "discriminator_loss": "D", "r1_penalty": "R1"}


class StepCallback(tf.keras.callbacks.Callback):
    """Base of callbacks that use the step of the run.

    Attributes:
      model: The TGANv2, set by Keras.
    """

    model: TGANv2

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
        self.in_a_row = 0

    def on_step_end(self, step: int, logs: dict[str, Any]) -> None:
        wrong = [f"{name}={float(value)}" for name, value in logs.items() if not math.isfinite(value)]
        self.in_a_row = self.in_a_row + 1 if wrong else 0
        if self.in_a_row > self.patience:
            raise NotFiniteError(
                f"step {step}: {wrong[0]} is not finite; the run stops and keeps its last checkpoint; "
                "lower the learning rates or raise --r1_weight, and run the command again"
            )


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
        clips = (step - self.last_step) * self.config.train.global_batch_size
        with self.writer.as_default(step):
            for name, value in logs.items():
                tf.summary.scalar(f"train/{name}", value)
            for network in ("generator", "discriminator"):
                optimizer = getattr(self.model, f"{network}_optimizer")
                tf.summary.scalar(f"train/{network}_learning_rate", optimizer.learning_rate)
            tf.summary.scalar("train/clips_per_second", clips / (now - self.last_time))
            for number, network in enumerate(self.model.discriminator.level_discriminators, start=1):
                norms = [layer.sigma() for layer in network.submodules if getattr(layer, "spectral_norm", False)]
                if norms:
                    tf.summary.scalar(f"train/spectral_norm/level_{number}_max", tf.reduce_max(norms))
                    tf.summary.scalar(f"train/spectral_norm/level_{number}_mean", tf.reduce_mean(norms))
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
        self.writer, self.active, self.steps_at_once = writer, False, config.train.steps_per_execution
        self.first, self.last = config.train.profile_steps or (0, 0)

    def on_train_batch_begin(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        if not self.active and self.step < self.last and self.step + self.steps_at_once >= self.first:
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
        self.on_any_worker = any_worker(self.model.distribute_strategy)
        if threading.current_thread() is threading.main_thread():  # signals need the main thread; with Ray see `Tell`
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
        if self.on_any_worker(stopped is not None):
            self.stopped_by = stopped = stopped or signal.SIGTERM
        if train.is_due(step, train.checkpoint_every_steps) or step == train.train_steps or stopped:
            try:
                path = self.folder.save(step)
                kept = train.keep_checkpoint_every_steps
                if self.chief and kept and step % kept == 0:
                    keep_for_ever(path)
            except (tf.errors.OpError, OSError) as error:
                if isinstance(error, tf.errors.OpError) and is_loss_of_worker(error):
                    raise  # unchanged, because Keras drops __cause__, by which the loop recognises it
                message = error.message if isinstance(error, tf.errors.OpError) else error
                raise UserError(f"{train.model_dir}: step {step} cannot be saved: {message}") from error
        if stopped:
            logging.info("Stopped at step %d and saved; the same command goes on from there.", step)
            self.model.stop_training = True

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        self.restore_handlers()


class Tell(StepCallback):
    """Reports each step to the driver process, which may return a stop signal. Must precede `SaveCheckpoints`."""

    def __init__(self, tell: Callable[[int, dict[str, Any]], int | None], saving: SaveCheckpoints) -> None:
        super().__init__()
        self.tell, self.saving = tell, saving

    def on_step_end(self, step: int, logs: dict[str, Any]) -> None:
        self.saving.stopped_by = self.tell(step, logs) or self.saving.stopped_by


class Evaluations(StepCallback):
    """Scores the averaged generator every `eval_every_steps`, and keeps the best checkpoint in `best/`.

    Must follow `SaveCheckpoints`, which saves at each of these steps. The classifier is loaded and features of real
    clips are computed before training begins, so errors in them are raised at once.
    """

    def __init__(
        self,
        writer: EventWriter,
        config: Config,
        manifest: Manifest,
        chief: bool,
    ) -> None:
        super().__init__()
        self.writer, self.config, self.chief = writer, config, chief
        self.networks = {"c3d": load_c3d_network(config.eval)}
        labels = self.networks["c3d"].labels
        if chief:
            warn_of_doubtful(self.networks)
        self.class_names = manifest.labels if config.model.conditional else []
        self.scores = (*EVAL_SCORES, "class_accuracy") if config.model.conditional else EVAL_SCORES
        if config.model.conditional:
            validity.classifier_columns(self.class_names, labels)  # raises errors before real clips are read
        self.real = {"c3d": protocol.real_features(self.networks["c3d"], manifest, config.data, config.eval)}
        self.described = protocol.describe_protocol(self.networks, config.data, manifest, config.eval)
        if chief:
            few = validity.too_few(self.scores, config.eval.num_samples, self.real)
            for text in (*validity.other_classes(manifest.labels, labels), *few):
                logging.warning("%s", text)
        self.protocol = protocol.digest([self.scores, config.train.seed, self.described])
        self.best = best_score(config.train.model_dir, config.train.best_score, self.protocol)

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        super().on_train_begin(logs)
        self.sample = tf.function(
            lambda z, labels: self.model.ema_generator(z, num_frames=NUM_FRAMES, labels=labels),
            autograph=False,
            reduce_retracing=True,
        )
        self.gather = gatherer(self.model.distribute_strategy)
        # If the run was stopped after saving but before scoring, score now. All workers take part if any of them does
        # not see the report, since a shared folder may be out of date.
        missing = self.step > 0 and not storage.exists(self._report(self.step))
        if any_worker(self.model.distribute_strategy)(missing):
            self.on_step_end(self.step, {})

    @contextlib.contextmanager
    def _recalibrated(self) -> Iterator[None]:
        """Recalibrates the averaged generator's statistics within the block and restores them afterwards."""
        generator, num_batches = self.model.ema_generator, self.config.eval.recalibration_batches
        if not num_batches:
            yield
            return
        kept = [variable.numpy() for variable in generator.non_trainable_variables]
        recalibrate(generator, num_batches, self.config.train.seed)
        try:
            yield
        finally:
            for variable, value in zip(generator.non_trainable_variables, kept):
                variable.assign(value)

    def _answers(self) -> Iterator[Answers]:
        """Yields the classifier's outputs, batch by batch. Workers process consecutive batches in parallel."""
        config, model, strategy = self.config, self.config.model, self.model.distribute_strategy
        own, size = worker_number(strategy), config.eval.eval_batch_size
        for first in itertools.count(0, num_workers(strategy)):
            videos = batch_of_generator(
                self.sample, model.z_dim, config.train.seed, first + own, size, model.num_classes
            )
            features, probabilities = describe(videos, ["c3d"], self.networks)["c3d"]
            assert probabilities is not None
            both = self.gather(np.concatenate([features, probabilities], axis=1))
            for of_worker in both:
                yield {"c3d": (of_worker[:, : features.shape[1]], of_worker[:, features.shape[1] :])}

    def _report(self, step: int) -> str:
        return protocol.report_path(self.config.train.model_dir, step, self.protocol)

    def on_step_end(self, step: int, logs: dict[str, Any]) -> None:
        train, config = self.config.train, self.config.eval
        if not train.is_due(step, train.eval_every_steps) or self.model.stop_training:
            return
        with self._recalibrated():
            scores = protocol.score_answers(
                self.scores,
                self._answers(),
                self.networks["c3d"].labels,
                self.real,
                config,
                progress=False,
                class_names=self.class_names,
            )
        value = scores[train.best_score].mean
        lower_is_better = train.best_score == "c3d_fid"
        is_best = self.best is None or (value < self.best if lower_is_better else value > self.best)
        shown = ", ".join(f"{name} {score.mean:.3f}" for name, score in scores.items() if name in self.scores)
        logging.info("Step %d: %s%s.", step, shown, ", the best so far" if is_best else "")
        protocol.write_summaries(self.writer, scores, step)
        self.writer.flush()
        if is_best:
            self.best = value
        if self.chief:
            checkpoint = storage.join(train.model_dir, CHECKPOINT_DIR, f"ckpt-{step}")
            generated = {"model_dir": train.model_dir, "step": step, "seed": train.seed}
            generated |= {"checkpoint": checksums(files_of(checkpoint)), "config": dataclasses.asdict(self.config)}
            try:
                if is_best:
                    keep_best(checkpoint, train.best_score, value, self.protocol)
                # Last, because the report marks the step as scored.
                write_atomically(self._report(step), protocol.report(scores, generated, self.described, config))
            except OSError as error:
                raise UserError(f"{train.model_dir}: the scores of step {step} cannot be kept: {error}") from error


def progress_bar(first_step: int, train_steps: int) -> tf.keras.callbacks.Callback:
    """Returns a progress bar of the whole run's steps, with the latest losses, the rate and the remaining time."""

    class ProgressBar(lanes.progress_bar_class()):  # type: ignore[misc]
        def _initialize_progbar(self, hook: str, epoch: int | None, logs: dict[str, Any] | None = None) -> None:
            with contextlib.redirect_stdout(io.StringIO()):  # the original prints `Epoch 1/1`
                super()._initialize_progbar(hook, epoch, logs)
            if hook == "train_epoch":
                self.total_steps = self.epoch_progress_tqdm.total = train_steps
                # tqdm computes the rate from the steps since `initial` and since `last_print_n`.
                self.epoch_progress_tqdm.initial = self.epoch_progress_tqdm.n = first_step
                self.epoch_progress_tqdm.last_print_n = first_step
                self.epoch_progress_tqdm.refresh()

        def format_metrics(self, logs: dict[str, Any] | None = None, factor: float = 1) -> str:
            return shown_losses(self.latest)

        def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
            self.latest = logs or {}
            self._update_progbar({})

        def _clean_up_progbar(self, hook: str, logs: dict[str, Any]) -> None:
            if hook == "train_epoch":  # the original fills the bar even if the run was stopped
                self.epoch_progress_tqdm.update(self.steps_to_update)
                self.close()

        def close(self) -> None:
            """Closes the bar. Must also be called after an error, when Keras calls no callbacks."""
            if self.epoch_progress_tqdm is not None:
                self.epoch_progress_tqdm.close()

    bar = ProgressBar(epoch_bar_format=BAR_FORMAT, show_overall_progress=False)
    bar.update_interval = bar_interval()
    return bar


def shown_losses(logs: Mapping[str, float]) -> str:
    """Formats the losses of a step for the progress bar."""
    return " ".join(f"{short} {logs[name]:.3f}" for name, short in BAR_LOSSES.items())


def bar_interval() -> float:
    """Returns the seconds between two updates of the bar; longer for log files, to keep them small."""
    return 0.5 if sys.stderr.isatty() else 30.0
