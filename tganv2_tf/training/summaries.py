"""A run's events, and its row in TensorBoard's HParams table, where the runs of one `--logdir` are compared."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pathlib
import tempfile
from collections.abc import Mapping
from types import TracebackType

import tensorflow as tf
from absl import logging
from tensorboard.plugins.hparams import api as hparams_api
from tensorboard.plugins.hparams import api_pb2, summary

from tganv2_tf import storage
from tganv2_tf.config import Config
from tganv2_tf.evaluation.protocol import Score, write_summaries
from tganv2_tf.training.checkpoints import EVENTS_DIR, run_folder

QUEUE = {"max_queue": 10**6, "flush_millis": 10**9}  # for buckets: nothing is written but by `flush`
HPARAMS_SUFFIX = ".hparams"
# What changes neither the networks nor their training.
NOT_COMPARED = {
    "data_prep",
    "model_dir",
    "log_every_steps",
    "preview_every_steps",
    "checkpoint_every_steps",
    "keep_checkpoints",
    "keep_checkpoint_every_steps",
    "eval_every_steps",
    "best_score",
    "num_previews",
    "profile_steps",
    "deterministic",
    "max_restarts",
}


def hparams(config: Config) -> dict[str, bool | int | float | str]:
    """The settings that tell one run from another: flags by name, written as on the command line."""
    settings = {}
    for part in (config.model, config.data, config.train):
        for field in dataclasses.fields(part):
            value = getattr(part, field.name)
            if field.name not in NOT_COMPARED:
                settings[field.name] = ",".join(map(str, value)) if isinstance(value, tuple) else value
    return settings


class EventWriter:
    """Writes the events of a run, in a local folder or a bucket.

    For a bucket, TensorFlow writes to a temporary folder, and `flush` uploads the files that have changed. TensorFlow
    could write to the bucket itself by tensorflow-io. But after one failed flush, that replaces the file with an empty
    one at the next, and reports success. Each start of a run has its own event files, so earlier ones stay. The writer
    is a context manager: at the end of its block it flushes and closes.

    Attributes:
      folder: where TensorFlow writes events and profiles.
    """

    def __init__(self, model_dir: str, suffix: str | None = None) -> None:
        """
        Args:
          model_dir: the run; if it is empty, nothing is written.
          suffix: of the file's name.
        Raises:
          tf.errors.OpError: the local folder cannot be written.
        """
        self._stack = contextlib.ExitStack()
        self._target = self.folder = storage.join(model_dir, EVENTS_DIR) if model_dir else ""
        self._uploaded: dict[str, tuple[int, int]] = {}  # sizes and times of files
        queue = {}
        if storage.is_remote(self._target):
            self.folder = self._stack.enter_context(tempfile.TemporaryDirectory(prefix="tganv2_tf-events-"))
            queue = QUEUE
        if model_dir:
            self._writer = tf.summary.create_file_writer(self.folder, filename_suffix=suffix, **queue)
        else:
            self._writer = tf.summary.create_noop_writer()

    def as_default(self, step: int | None = None) -> contextlib.AbstractContextManager[tf.summary.SummaryWriter]:
        """See `tf.summary.SummaryWriter.as_default`."""
        return self._writer.as_default(step)

    def flush(self) -> None:
        """Writes all events, and uploads what has changed in the temporary folder, if there is one.

        Raises:
          OSError, tf.errors.OpError: they cannot be written.
        """
        self._writer.flush()
        if self.folder == self._target:
            return
        for file in sorted(path for path in pathlib.Path(self.folder).rglob("*") if path.is_file()):
            name, now = file.relative_to(self.folder).as_posix(), file.stat()
            state = (now.st_size, now.st_mtime_ns)
            if self._uploaded.get(name) != state:
                storage.copy(file, storage.join(self._target, *name.split("/")))
                self._uploaded[name] = state

    def __enter__(self) -> EventWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            self.flush()
            self._writer.close()
        except (OSError, tf.errors.OpError) as fault:
            if error is None:
                raise
            logging.warning("%s: the last events cannot be written: %s", self._target, fault)
        finally:
            self._stack.close()


def record_hparams(config: Config) -> None:
    """Writes the run's row with the settings of `config`, in the place of the row that a run taken up again has.

    TensorBoard believes the first row that it finds in a run's events, so this one has a file of its own, which is
    written anew, as `config.json` is. To be called before the run's other events are begun: TensorBoard may read files
    in the order of their names, which begin with the time, and never go back to an earlier one.

    No columns are laid down for the table: TensorBoard then offers all settings, those first in which the runs differ,
    and the last values of all scalars, those of `eval/` first, whoever writes them. It merges rows of one name and cuts
    off the end of a long one: a row is named after the run's whole path, its own folder first.
    """
    parent, name = os.path.split(config.train.model_dir.rstrip("/"))
    folder = storage.join(config.train.model_dir, EVENTS_DIR)
    earlier = [file for file in storage.names(folder) if file.endswith(HPARAMS_SUFFIX)]
    with EventWriter(config.train.model_dir, HPARAMS_SUFFIX) as writer, writer.as_default():
        hparams_api.hparams(hparams(config), trial_id=f"{name} in {parent or '.'}")
    for file in earlier:
        storage.remove(storage.join(folder, file))


def show_scores(model_dir: str, scores: Mapping[str, Score], step: int) -> None:
    """Adds scores to the events of a run, or warns that it cannot: their report is written already."""
    try:
        with EventWriter(run_folder(model_dir)) as writer:
            write_summaries(writer, scores, step)
    except (OSError, tf.errors.OpError) as error:
        logging.warning("%s: the scores are not shown in TensorBoard: %s", model_dir, str(error).splitlines()[0])


def record_success() -> None:
    """Says in the run's row, through the default writer, that the run has come to its end."""
    ended = summary.session_end_pb(api_pb2.STATUS_SUCCESS)
    tf.summary.experimental.write_raw_pb(ended.SerializeToString(), step=0)
