"""Writes the TensorBoard events of a run."""

from __future__ import annotations

import contextlib
import pathlib
import tempfile
from types import TracebackType

import tensorflow as tf
from absl import logging

from tganv2_tf import storage
from tganv2_tf.runs import EVENTS_DIR

QUEUE = {"max_queue": 10**6, "flush_millis": 10**9}  # for buckets: events are written only by `flush`


class EventWriter:
    """Writes the events of a run to a local folder or a bucket.

    For a bucket, TensorFlow writes to a temporary folder, and `flush` uploads changed files. tensorflow-io is not used:
    after a failed flush, its next flush replaces the file with an empty one and reports success. Each start of a run
    writes new event files and keeps earlier ones. The writer is a context manager; it flushes and closes on exit.

    Attributes:
      folder: Local folder of events and profiles.
    """

    def __init__(self, model_dir: str) -> None:
        """
        Args:
          model_dir: Folder of the run; if empty, no events are written.
        Raises:
          tf.errors.OpError: The local folder cannot be written.
        """
        self._stack = contextlib.ExitStack()
        self._target = self.folder = storage.join(model_dir, EVENTS_DIR) if model_dir else ""
        self._uploaded: dict[str, tuple[int, int]] = {}  # sizes and times of files
        queue = {}
        if storage.is_remote(self._target):
            self.folder = self._stack.enter_context(tempfile.TemporaryDirectory(prefix="tganv2_tf-events-"))
            queue = QUEUE
        if model_dir:
            self._writer = tf.summary.create_file_writer(self.folder, **queue)
        else:
            self._writer = tf.summary.create_noop_writer()

    def as_default(self, step: int | None = None) -> contextlib.AbstractContextManager[tf.summary.SummaryWriter]:
        """See `tf.summary.SummaryWriter.as_default`."""
        return self._writer.as_default(step)

    def flush(self) -> None:
        """Writes all events and, for a bucket, uploads changed files.

        Raises:
          OSError, tf.errors.OpError: The events cannot be written.
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
