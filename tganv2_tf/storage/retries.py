"""What is retried: temporary faults of servers and networks."""

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
    """A fault of a server or of the network that may be temporary. Callers see it after all attempts have failed."""


def patiently(path: Path, function: Callable[[], T], as_os_error: AsOSError) -> T:
    """Returns what a function returns. Repeats it while its errors are `ServerError`s, after the pauses of `BACK_OFF`.

    Args:
      path: where the function reads or writes, for the messages.
      function: called without arguments.
      as_os_error: called with an error and the path; returns the OSError to raise instead, or None if the error passes
        unchanged.
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
        logging.warning("%s: %s; trying again in %g s", path, known.strerror, pause)
        time.sleep(pause)


def is_transient(error: BaseException) -> bool:
    """Whether it is a `ServerError`, or TensorFlow's report of one that was raised in a function of a data set."""
    return isinstance(error, ServerError) or f"{ServerError.__name__}: " in str(error)
