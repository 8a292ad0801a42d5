"""Training loop of a classifier, with exact resumption and early stopping."""

from __future__ import annotations

import collections
import contextlib
import math
import pathlib
import signal
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow as tf
from absl import logging
from tqdm import tqdm

from tganv2_tf.data.clips import normalize
from tganv2_tf.errors import UserError
from tganv2_tf.evaluation.c3d import C3D
from tganv2_tf.training.classifiers.examination import BestWeights, ClipEvaluator

BAR_STEPS = 50  # window of the progress bar's mean loss and accuracy


class Trainer:
    """Trains a network. Its complete state can be saved after any update.

    Attributes:
      network: the trained network.
      step: updates so far.
      validation: evaluation on held-out clips.
      best: the weights with the best validation result.
    """

    def __init__(
        self,
        network: C3D,
        optimizer: tf.keras.optimizers.Optimizer,
        seed: int,
        validation: ClipEvaluator,
        validate_every: int,
        patience: int,
    ) -> None:
        """Creates the state variables.

        Args:
          network: the network to train.
          optimizer: optimizer of its weights.
          seed: seed of the dropout.
          validation: evaluation on held-out clips.
          validate_every: updates between two validations; there is always one after the last update.
          patience: stop after this many validations without a higher accuracy; 0 = no early stopping.
        """
        self.network, self.optimizer, self.seed = network, optimizer, seed
        self.validation, self.validate_every, self.patience = validation, validate_every, patience
        self.step = tf.Variable(0, dtype=tf.int64)
        self.best = BestWeights(network)
        optimizer.build(network.trainable_variables)

    @property
    def has_ended(self) -> bool:
        """Whether early stopping applies: the validation accuracy has not risen for `patience` validations."""
        return bool(0 < self.patience <= self.best.waited.numpy())

    @tf.function(autograph=False)
    def update(self, clips: tf.Tensor, labels: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Updates on uint8 clips [N, 16, H, W, 3], int64 labels [N]; returns cross entropy and accuracy, float32 []."""
        seed = tf.stack([self.seed, self.step])
        with tf.GradientTape() as tape:
            logits = self.network(normalize(clips), dropout_seed=seed)["fc8"]
            loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits))
        self.optimizer.minimize(loss, self.network.trainable_variables, tape)
        self.step.assign_add(1)
        return loss, tf.reduce_mean(tf.cast(tf.argmax(logits, 1) == labels, tf.float32))

    def run(self, batches: tf.data.Dataset, steps: int, folder: pathlib.Path, save_every: int) -> int:
        """Trains from the checkpoint in `folder`, or else from initial weights fitted to the first batch.

        The checkpoint covers network, optimizer, data iterator and validation: an interruption does not change results.

        Args:
          batches: endless batches, uint8 [N, 16, H, W, 3] and int64 [N].
          steps: maximum number of updates in total.
          folder: folder of the checkpoints; one is also written at the end.
          save_every: updates between two checkpoints; 0 = only the last one.
        Returns:
          The signal (SIGTERM or SIGINT) that stopped the training, or 0.
        Raises:
          UserError: the checkpoint is damaged or cannot be saved, or the loss is not finite.
          tf.errors.OpError: data are damaged, or memory is short.
        """
        iterator = iter(batches)
        state = tf.train.Checkpoint(
            network=self.network, optimizer=self.optimizer, step=self.step, best=self.best, iterator=iterator
        )
        manager = tf.train.CheckpointManager(state, str(folder), max_to_keep=1, step_counter=self.step)
        if manager.latest_checkpoint:
            _restore(state, manager.latest_checkpoint)
            logging.info("Resuming from step %d.", self.step.numpy())
        else:
            self.network.fit_to(normalize(next(iterator)[0]))
        recent: collections.deque[tuple[float, float]] = collections.deque(maxlen=BAR_STEPS)
        first, held_out = int(self.step.numpy()), ""
        interval = 0.5 if sys.stderr.isatty() else 30  # seconds; rarely if not a terminal, to keep log files small
        bar = tqdm(total=steps, initial=first, unit="step", mininterval=interval, maxinterval=interval)
        with _signals() as received, bar:
            for step in range(first + 1, steps + 1):
                if self.has_ended:
                    break
                loss, accuracy = (float(value) for value in self.update(*next(iterator)))
                if not math.isfinite(loss):
                    raise UserError(f"step {step}: the loss is {loss}; lower --learning_rate and remove {folder}")
                recent.append((loss, accuracy))
                if step % self.validate_every == 0 or step == steps:
                    held_out = f", held out {self.best.update(step, self.validation).accuracy:.1%}"
                means = np.mean(recent, axis=0)
                bar.set_postfix_str(f"loss {means[0]:.3f}, accuracy {means[1]:.1%}{held_out}", refresh=False)
                bar.update()
                stopped_by = received[0] if received else 0
                is_due = save_every > 0 and step % save_every == 0
                if is_due or step == steps or self.has_ended or stopped_by:
                    try:
                        manager.save(step)
                    except tf.errors.OpError as error:
                        raise UserError(f"{folder}: step {step} cannot be saved: {error.message}") from error
                if stopped_by:
                    return stopped_by
        return 0


@contextlib.contextmanager
def _signals() -> Iterator[list[int]]:
    """Collects the first SIGTERM or SIGINT instead of ending the process; a second one ends it."""
    received: list[int] = []

    def record(number: int, frame: Any) -> None:
        received.append(number)
        restore_handlers()

    def restore_handlers() -> None:
        for each, handler in handlers.items():
            signal.signal(each, handler)

    handlers = {number: signal.signal(number, record) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield received
    finally:
        restore_handlers()


def _restore(state: tf.train.Checkpoint, path: str) -> None:
    try:
        state.restore(path).assert_existing_objects_matched()
    except (tf.errors.OpError, AssertionError, ValueError, IndexError) as error:  # IndexError: a truncated file
        reason = " ".join(str(error).split())[:300]
        raise UserError(f"{path}: cannot be read: {reason}; remove its folder to restart") from error
