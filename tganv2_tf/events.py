"""The events of a run, which TensorBoard shows."""

from __future__ import annotations

import contextlib
import pathlib
import tempfile
from types import TracebackType

import tensorflow as tf
from absl import logging

from tganv2_tf import storage
from tganv2_tf.runs import EVENTS_DIR

QUEUE = {"max_queue": 10**6, "flush_millis": 10**9}  # for buckets: nothing is written but by `flush`


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
