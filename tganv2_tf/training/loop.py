"""Training of a run, from the config to the last checkpoint."""

from __future__ import annotations

import contextlib
import signal
import tempfile
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf
from absl import logging

from tganv2_tf import storage
from tganv2_tf.config import Config
from tganv2_tf.data.advice import require_folders
from tganv2_tf.data.checks import load_manifest
from tganv2_tf.data.damage import cause_of_error
from tganv2_tf.data.lengths import describe_too_short
from tganv2_tf.data.manifest import Manifest
from tganv2_tf.data.pipeline import StreamPosition, training_dataset
from tganv2_tf.errors import ConfigError, UserError
from tganv2_tf.events import EventWriter
from tganv2_tf.models.adversary import Adversary
from tganv2_tf.runs import CHECKPOINT_DIR, EVENTS_DIR, checkpoints_in, record_config
from tganv2_tf.storage import files
from tganv2_tf.systems import model_class
from tganv2_tf.training import callbacks, previews
from tganv2_tf.training.checkpoints import CheckpointFolder
from tganv2_tf.training.classes import check_classes, warn_of_other_classes
from tganv2_tf.training.compatibility import check_run, check_source, initialize
from tganv2_tf.training.description import describe, warn_of_empty_classes, with_classes
from tganv2_tf.training.distribution import (
    check_half_precision,
    is_chief,
    is_loss_of_worker,
    make_all_gather,
    make_strategy,
    num_workers,
    per_replica_batch_size,
    warn_without_gpu,
)
from tganv2_tf.training.evaluations import Evaluations
from tganv2_tf.training.hparams import record_hparams
from tganv2_tf.training.progress import progress_bar

LOCK = ".lock"


def make_model(config: Config) -> Adversary:
    """Creates the networks and their optimisers, in the scope of the current strategy."""
    tf.keras.utils.set_random_seed(config.train.seed)
    system = model_class(config.system)
    model = system.create(config, num_workers(tf.distribute.get_strategy()))
    model.compile(
        *system.make_optimizers(config),
        jit_compile=config.train.jit_compile,
        steps_per_execution=config.train.steps_per_execution,
    )
    return model


def reason(error: tf.errors.OpError) -> str:
    """Returns the line of TensorFlow's error message that describes the error, without the graph's traceback."""
    context = ("Graph execution error", "Detected at", "File ", "[[", "tf.", "The error could be from a previous")
    lines = [line.strip() for line in error.message.splitlines()]
    return next((line for line in reversed(lines) if line and not line.startswith(context)), lines[0])


def train(
    config: Config,
    dry_run: bool = False,
    strategy: tf.distribute.Strategy | None = None,
    on_step: Callable[[int, dict[str, Any]], int | None] | None = None,
) -> int:
    """Starts or resumes the run in `model_dir`.

    Args:
      config: Configuration of the run.
      dry_run: Only print what would be done.
      strategy: Distribution strategy; None creates that of `config`.
      on_step: Called with each step and its scalars. If it returns a signal number, the run stops as on that signal.
    Returns:
      The exit status: 0, or 128 + the number of the signal that stopped the run.
    Raises:
      UserError: Inputs are invalid, losses are not finite, or a folder cannot be written.
    """
    train = config.train
    strategy = strategy or make_strategy(train.distribution)
    chief = is_chief(strategy)
    per_replica_batch_size(config, strategy.num_replicas_in_sync)  # replicas must be able to share it
    warn_without_gpu(config)
    check_half_precision(config)
    if dry_run:
        for line in describe(config, strategy.extended.worker_devices, num_workers(strategy)):
            print(line)
        return 0
    require_folders(config)
    if not chief:
        logging.set_verbosity(logging.WARNING)  # the chief logs everything
    if train.deterministic:
        tf.config.experimental.enable_op_determinism()
    manifest = load_manifest(config.model, config.data)
    config = with_classes(config, manifest)
    if chief:
        warn_of_empty_classes(config, manifest)
    # Decides whether the run resumes or starts. The order of the steps is important.
    with contextlib.ExitStack() as stack:
        # 1. Lock the run's folder, so that no other process trains the same run.
        if chief:
            storage.make_folder(train.model_dir)  # fails early if it is not writable
            stack.enter_context(files.locked(storage.join(train.model_dir, LOCK), f"--model_dir={train.model_dir}"))
        # 2. Compare classes and settings with those of the checkpoints in the folder; some must not change.
        check_classes(config, manifest.labels)
        changes = check_run(config)
        if train.init_from and not checkpoints_in(storage.join(train.model_dir, CHECKPOINT_DIR)):
            check_source(config)  # before the networks are created, which takes seconds
        # 3. Create networks and optimisers, initialised from the seed, so that their variables can be restored.
        try:
            with strategy.scope():
                model = make_model(config)
        except tf.errors.OpError as error:
            raise UserError(f"the networks cannot be created: {reason(error)}") from error
        logging.info("%d videos in %s.", manifest.num_videos, config.data.data_dir)
        too_short = describe_too_short(manifest, config.data, config.model.num_frames)
        if too_short:
            logging.warning("%s.", too_short)
        # 4. Check that all workers see the same newest checkpoint, because restoring is a collective operation.
        checkpoints = CheckpointFolder(model)
        steps = {int(step) for step in make_all_gather(strategy)(np.array(checkpoints.newest_step()))}
        if len(steps) > 1:
            raise UserError(
                f"--model_dir={train.model_dir}: workers see different checkpoints, of steps {sorted(steps)}; put the "
                "run on a disk that all of them mount, or in a bucket"
            )
        # 5. Always resume from the newest readable checkpoint: networks, optimisers, step and position in the data.
        if checkpoints.restore_newest():
            logging.info("Resuming from step %d.", int(model.step.numpy()))
            for change in changes:
                logging.info("Changed: %s.", change)
        # 6. Without checkpoints, initialise the networks from --init_from, e.g. for fine-tuning; begin at step 0.
        elif train.init_from:
            logging.info("New run, initialised from %s.", initialize(model))
            if chief:
                warn_of_other_classes(config, manifest.labels)
        # 7. Else train from scratch.
        else:
            logging.info("New run.")
        # All workers save, because some variables are means over workers; only the chief's files are kept.
        if not chief:
            checkpoints.folder, checkpoints.keep = stack.enter_context(tempfile.TemporaryDirectory()), 1
        # 8. Train from the model's step and position in the data.
        return _Run(config, model, checkpoints, manifest, chief, on_step).train()


def with_advice(error: callbacks.NotFiniteError) -> UserError:
    """Returns the error that ends a run whose losses are not finite."""
    return UserError(
        f"{error}; the run stops and keeps its last checkpoint; lower the learning rates or raise --r1_weight, and run "
        "the command again"
    )


class _Run:
    """Training in one process, from the model's current step."""

    def __init__(
        self,
        config: Config,
        model: Adversary,
        checkpoints: CheckpointFolder,
        manifest: Manifest,
        chief: bool,
        on_step: Callable[[int, dict[str, Any]], int | None] | None = None,
    ) -> None:
        self.config, self.model, self.checkpoints, self.manifest = config, model, checkpoints, manifest
        self.chief, self.on_step = chief, on_step
        self.events = storage.join(config.train.model_dir, EVENTS_DIR)

    def train(self) -> int:
        """Trains until the last step; returns the exit status."""
        train, first_step = self.config.train, int(self.model.step.numpy())
        if first_step % train.steps_per_execution:
            value = train.steps_per_execution
            raise ConfigError(f"--steps_per_execution={value}: the run is at step {first_step}; valid: a divisor of it")
        try:
            if self.chief and first_step < train.train_steps:
                fps = self.manifest.fps / self.config.data.frame_step
                record_config(self.config, self.manifest.labels, fps=fps)
                record_hparams(self.config)
            with EventWriter(train.model_dir if self.chief else "") as self.writer:
                with self.writer.as_default(first_step):
                    tf.summary.text("config", f"```\n{self.config.to_json()}```")
                return self._train_with_restarts()
        except tf.errors.OpError as error:
            raise UserError(f"{self.events}: cannot be written: {reason(error)}") from error

    def _train_with_restarts(self) -> int:
        """Trains; restores the newest checkpoint after non-finite losses or transient I/O errors, and continues."""
        train, model = self.config.train, self.model
        single_process = num_workers(model.distribute_strategy) == 1  # other workers cannot be notified
        folders = (self.config.data.data_dir, train.model_dir)
        can_restore = single_process and (train.max_restarts or any(map(storage.is_remote, folders)))
        if can_restore and not checkpoints_in(self.checkpoints.folder):
            try:
                self.checkpoints.save(int(model.step.numpy()))
            except tf.errors.OpError as error:
                raise self._user_error(error) from error
        restarts, delays = 0, iter(storage.retries.BACK_OFF)
        while True:
            first_step = int(model.step.numpy())
            try:
                return self._fit(first_step)
            except callbacks.NotFiniteError as error:
                if restarts == train.max_restarts or not single_process:
                    raise with_advice(error) from error
                restarts += 1
                logging.warning("%s. Restart %d of %d, with other random numbers.", error, restarts, train.max_restarts)
                self._restore_newest(model.restarts.numpy() + 1)
            except tf.errors.OpError as error:
                wait = next(delays, None) if can_restore and storage.is_transient(error) else None
                if wait is None:
                    raise self._user_error(error) from error
                step = int(model.step.numpy())
                logging.warning("Step %d: %s. Resuming from the newest checkpoint in %s s.", step, reason(error), wait)
                time.sleep(wait)
                self._restore_newest(model.restarts.numpy())
                if int(model.step.numpy()) > first_step:  # progress since the last error: resets the back-off
                    delays = iter(storage.retries.BACK_OFF)
            logging.info("Resuming from step %d.", int(model.step.numpy()))

    def _restore_newest(self, restarts: int) -> None:
        """Restores the newest checkpoint, but not its number of restarts, which selects the random numbers."""
        self.checkpoints.restore_newest()
        self.model.restarts.assign(restarts)

    def _user_error(self, error: tf.errors.OpError) -> UserError:
        if isinstance(error, tf.errors.ResourceExhaustedError):
            return UserError(f"out of memory: {reason(error)}; lower --global_batch_size")
        if num_workers(self.model.distribute_strategy) > 1 and is_loss_of_worker(error):
            step = int(self.model.step.numpy())
            return UserError(f"the run ended at step {step}: another worker was lost or cannot be reached")
        damage = cause_of_error(error, self.manifest, self.config.data)
        return UserError(damage or f"the run ended at step {int(self.model.step.numpy())}: {reason(error)}")

    def _dataset(self, context: tf.distribute.InputContext) -> tf.data.Dataset:
        """Creates this process's data set, from the model's position in the data."""
        train, pipelines = self.config.train, context.num_input_pipelines
        replicas = context.num_replicas_in_sync // pipelines  # replicas of this pipeline, which take elements in turn
        slot = int(self.model.data_position.numpy()[context.input_pipeline_id])
        return training_dataset(
            self.manifest,
            self.config.model,
            self.config.data,
            self.model.global_batch_size // context.num_replicas_in_sync,
            train.n_dis,
            train.seed,
            StreamPosition(int(self.model.step.numpy()) * replicas, slot),
            pipelines,
            context.input_pipeline_id,
        )

    def _fit(self, first_step: int) -> int:
        """Trains from the model's step to the last step; returns the exit status."""
        train, config, model = self.config.train, self.config, self.model
        evaluations = []
        if train.eval_every_steps:
            evaluations.append(Evaluations(self.writer, config, self.manifest, self.chief))
        if first_step >= train.train_steps:
            for evaluation in evaluations:  # the run may have been stopped before the last evaluation
                evaluation.set_model(model)
                evaluation.on_train_begin()
            logging.info("Step %d of --train_steps=%d is done; nothing to do.", first_step, train.train_steps)
            return 0
        saving = callbacks.SaveCheckpoints(self.checkpoints, config, self.chief)
        profile = callbacks.Profile(self.writer, config)
        worker_callbacks = [
            callbacks.StopOnNonFinite(config),
            callbacks.Scalars(self.writer, config),
            previews.Previews(self.writer, config, self.manifest if self.chief else None),
            *([callbacks.ReportToDriver(self.on_step, saving)] if self.on_step else []),
            saving,
            *evaluations,
        ]
        try:
            step = first_step
            while step < train.train_steps:
                last_step = min(model.begin_phase(step), train.train_steps)
                bar = progress_bar(step, train.train_steps)  # a new one, because the rate changes
                chief_callbacks = [bar, *([profile] if train.profile_steps else [])]
                try:
                    model.fit(
                        model.distribute_strategy.distribute_datasets_from_function(self._dataset),
                        steps_per_epoch=last_step - step,
                        verbose=0,
                        callbacks=[*worker_callbacks, *chief_callbacks] if self.chief else worker_callbacks,
                    )
                finally:
                    bar.close()
                if model.stop_training:
                    break
                step = last_step
        finally:
            saving.restore_handlers()
            profile.stop()
        saving.any_reduce(False)  # waits for the other workers, which would fail if the chief left first
        return 128 + signal.Signals(saving.stopped_by) if saving.stopped_by else 0
