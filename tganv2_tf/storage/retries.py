"""Retries after temporary errors of servers and networks."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Optional, TypeVar, Union

from absl import logging

Path = Union[str, "os.PathLike[str]"]
T = TypeVar("T")
AsOSError = Callable[[Exception, str], Optional[OSError]]

BACK_OFF = (1.0, 2.0, 4.0, 8.0, 16.0, 16.0)  # seconds before each new attempt
TEMPORARY_STATUSES = {408, 429, 500, 502, 503, 504}


class ServerError(OSError):
    """A possibly temporary error of a server or the network. Raised to callers after all attempts have failed."""


def with_retries(path: Path, function: Callable[[], T], as_os_error: AsOSError) -> T:
    """Calls a function, returns its result, and retries it after `ServerError`s, with the pauses of `BACK_OFF`.

    Args:
      path: path that the function reads or writes, for log messages.
      function: called without arguments.
      as_os_error: maps an error and the path to the OSError to raise instead; None = raise the error unchanged.
    """
    pauses = iter(BACK_OFF)
    while True:
        try:
            return function()
        except Exception as error:
            known = as_os_error(error, os.fspath(path))
            if known is None:
                raise
            pause = next(pauses, None) if isinstance(known, ServerError) else None
            if pause is None:
                raise known from error
        logging.warning("%s: %s; retrying in %g s", path, known.strerror, pause)
        time.sleep(pause)


def is_transient(error: BaseException) -> bool:
    """Returns whether it is a `ServerError`, or TensorFlow's error for one that was raised in a tf.data function."""
    return isinstance(error, ServerError) or f"{ServerError.__name__}: " in str(error)
