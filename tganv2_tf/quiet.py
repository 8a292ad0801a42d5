"""Filters TensorFlow's known harmless log messages from the terminal.

C++ code writes them directly to file descriptor 2, some with level E (a second "cuDNN factory") and some in the middle
of a run ("remapper failed"), so a log level cannot separate them from important messages. `install` therefore replaces
descriptor 2 by a pipe to a small process, this file run as a script, which forwards all lines that do not match
`NOISE`. It is a process, not a thread, so that the last messages of a crashing TensorFlow (a failed check, an illegal
instruction on import) still arrive. Python's `sys.stderr` still writes directly to the terminal: tracebacks, logs and
progress bars are not delayed and keep `isatty`.

Child processes inherit the pipe, and are filtered too. `TF_CPP_MIN_LOG_LEVEL=0` in the environment disables the filter.
"""

from __future__ import annotations

import atexit
import contextlib
import logging as std_logging
import os
import re
import select
import signal
import subprocess
import sys
import warnings

NOISE = re.compile(
    rb"""
    (?: \d{4}-\d\d-\d\d\ \d\d:\d\d:\d\d\.\d+:\ [IWE]\            # a line of TensorFlow's own log; never level F
      | [IWE]0000\ 00:00:\d+\.\d+\ +\d+\                         # the same in TensorFlow 2.21
    ) \S+:\d+\]\ (?:
        Unable\ to\ register\ cu(?:DNN|FFT|BLAS)\ factory:           # the libraries are linked in twice; harmless
      | TF-TRT\ Warning:\ Could\ not\ find\ TensorRT                 # an optional converter that is not used here
      | Input\ of\ GeneratorDatasetOp::Dataset\ will\ not\ be\ optimized  # how a strategy draws its batches
      | remapper\ failed:                                            # a graph stays as it was, without some fusions
      | failed\ call\ to\ cuInit:.*UNKNOWN\ ERROR\ \(303\)             # there is no NVIDIA driver
    )
  | WARNING:\ All\ log\ messages\ before\ absl::InitializeLog\(\)\ is\ called\ are\ written\ to\ STDERR
  | I0000\ 00:00:\d+\.\d+\ +\d+\ \S+:\d+\]                         # level I, which no variable turns off in 2.21
    """,
    re.VERBOSE,
)
PYTHON_NOISE = (
    r"\s*TensorFlow Addons \(TFA\) has ended development",
    r"\s*Tensorflow Addons supports using Python ops for all Tensorflow versions",
)
LOG_NOISE = "Sharding callback duration"  # TensorFlow 2.21 logs it at level I for every checkpoint
_LEVEL = "TF_CPP_MIN_LOG_LEVEL"
_MARK = "TGANV2_QUIET_PIPE"  # identity of the filter's pipe: children that inherit it need no filter
_UNFINISHED_SECONDS = 0.05  # time to wait for the rest of an incomplete line
_EXIT_SECONDS = 0.2


def install() -> None:
    """Starts filtering this process's descriptor 2. Must be called before TensorFlow is imported.

    Does nothing if descriptor 2 is already filtered (a second call, a child process), or if `sys.stderr` is closed or
    replaced (a notebook, a test's capture).
    """
    if os.environ.get(_LEVEL) == "0":
        return
    os.environ.setdefault(_LEVEL, "1")  # no level I: oneDNN, cudart, CPU features, NUMA nodes
    for message in PYTHON_NOISE:
        warnings.filterwarnings("ignore", message=message, category=UserWarning)
    from absl import logging  # here, because this file as a script uses only the standard library

    logging.get_absl_logger().addFilter(_is_no_noise)
    stream = sys.__stderr__
    if stream is None or stream is not sys.stderr or os.environ.get(_MARK) == _identity(2):
        return
    stream.flush()
    terminal = os.dup(2)
    source, sink = os.pipe()
    command = [sys.executable, "-I", "-S", __file__]  # starts in 20 ms without site packages
    process = subprocess.Popen(command, stdin=source, stdout=terminal, stderr=terminal)
    os.close(source)
    os.dup2(sink, 2)
    os.close(sink)
    os.environ[_MARK] = _identity(2)
    sys.stderr = sys.__stderr__ = os.fdopen(  # type: ignore[misc]
        terminal, "w", buffering=1, encoding=stream.encoding, errors=stream.errors
    )
    logging.get_absl_handler().python_handler.setStream(sys.stderr)  # it holds the old stream since its import
    atexit.register(_finish, os.getpid(), terminal, process)


def _is_no_noise(record: std_logging.LogRecord) -> bool:
    return not str(record.msg).startswith(LOG_NOISE)


def _identity(descriptor: int) -> str:
    status = os.fstat(descriptor)
    return f"{status.st_dev}:{status.st_ino}"


def _finish(owner: int, terminal: int, process: subprocess.Popen[bytes]) -> None:
    """At a normal exit: restores descriptor 2 and waits for the filter, so that it finishes before the shell prompt."""
    if os.getpid() != owner:  # a forked child
        return
    os.dup2(terminal, 2)
    with contextlib.suppress(subprocess.TimeoutExpired):  # a child that still runs may keep the pipe open
        process.wait(_EXIT_SECONDS)


def _pump(source: int, sink: int) -> None:
    """Copies lines that do not match `NOISE` until all writers are gone. Forwards incomplete lines after a timeout."""
    pending = b""
    while True:
        waiting = pending and not NOISE.match(pending)
        if waiting and not select.select([source], [], [], _UNFINISHED_SECONDS)[0]:
            _write(sink, pending)
            pending = b""
        chunk = os.read(source, 1 << 16)
        *lines, pending = (pending + chunk).split(b"\n")
        _write(sink, b"".join(line + b"\n" for line in lines if not NOISE.match(line)))
        if not chunk:
            if not NOISE.match(pending):
                _write(sink, pending)
            return


def _write(sink: int, data: bytes) -> None:
    with contextlib.suppress(OSError):  # the terminal is gone: keep reading, or the writers would block
        while data:
            data = data[os.write(sink, data) :]


if __name__ == "__main__":
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, signal.SIG_IGN)  # on Ctrl-C the run still saves and logs; this process ends with the pipe
    _pump(0, 1)
