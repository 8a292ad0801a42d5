"""Keeps TensorFlow's known start-up noise off the terminal, and nothing else.

The noise of C++ is written straight to file descriptor 2, partly with level E (a second "cuDNN factory") and partly in
the middle of a run ("remapper failed"), so no log level separates it from what matters. `install` therefore puts a pipe
in the place of descriptor 2 and a small process behind it, this very file run as a script, that passes on all but the
lines of `NOISE`. A process and not a thread, because what a dying TensorFlow says last (a failed check, an illegal
instruction while it is imported) has to arrive although nothing of this process runs any more. Python's own
`sys.stderr` keeps writing to the terminal directly: tracebacks, logs and progress bars neither wait nor lose `isatty`.

Children inherit the pipe, so that worker processes are as quiet. `TF_CPP_MIN_LOG_LEVEL=0` in the environment turns all
of this off.
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
LOG_NOISE = "Sharding callback duration"  # TensorFlow 2.21, at level I, for every checkpoint
_LEVEL = "TF_CPP_MIN_LOG_LEVEL"
_MARK = "TGANV2_QUIET_PIPE"  # which pipe is the filter's: children that inherit it need no filter of their own
_UNFINISHED_SECONDS = 0.05  # how long the first part of a line waits for the rest
_EXIT_SECONDS = 0.2


def install() -> None:
    """Filters this process's descriptor 2 from now on; to be called before TensorFlow is imported.

    Does nothing the second time, in a child whose descriptor 2 is filtered already, and where `sys.stderr` is closed or
    something else has taken its place (a notebook, a test's capture).
    """
    if os.environ.get(_LEVEL) == "0":
        return
    os.environ.setdefault(_LEVEL, "1")  # no level I: oneDNN, cudart, CPU features, NUMA nodes
    for message in PYTHON_NOISE:
        warnings.filterwarnings("ignore", message=message, category=UserWarning)
    from absl import logging  # here, for this file is a script of the standard library too

    logging.get_absl_logger().addFilter(_is_no_noise)
    stream = sys.__stderr__
    if stream is None or stream is not sys.stderr or os.environ.get(_MARK) == _identity(2):
        return
    stream.flush()
    terminal = os.dup(2)
    source, sink = os.pipe()
    command = [sys.executable, "-I", "-S", __file__]  # without site packages: 20 ms
    process = subprocess.Popen(command, stdin=source, stdout=terminal, stderr=terminal)
    os.close(source)
    os.dup2(sink, 2)
    os.close(sink)
    os.environ[_MARK] = _identity(2)
    sys.stderr = sys.__stderr__ = os.fdopen(  # type: ignore[misc]
        terminal, "w", buffering=1, encoding=stream.encoding, errors=stream.errors
    )
    logging.get_absl_handler().python_handler.setStream(sys.stderr)  # it took hold of the old one when imported
    atexit.register(_finish, os.getpid(), terminal, process)


def _is_no_noise(record: std_logging.LogRecord) -> bool:
    return not str(record.msg).startswith(LOG_NOISE)


def _identity(descriptor: int) -> str:
    status = os.fstat(descriptor)
    return f"{status.st_dev}:{status.st_ino}"


def _finish(owner: int, terminal: int, process: subprocess.Popen[bytes]) -> None:
    """At a normal exit: gives descriptor 2 back and lets the filter finish before the shell's prompt appears."""
    if os.getpid() != owner:  # a forked child
        return
    os.dup2(terminal, 2)
    with contextlib.suppress(subprocess.TimeoutExpired):  # a child that lives on holds the pipe, and may
        process.wait(_EXIT_SECONDS)


def _pump(source: int, sink: int) -> None:
    """Copies lines without `NOISE` until the last writer is gone. Part of a line is passed on when no rest comes."""
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
    with contextlib.suppress(OSError):  # the terminal is gone: go on emptying the pipe, or the writers would stop
        while data:
            data = data[os.write(sink, data) :]


if __name__ == "__main__":
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, signal.SIG_IGN)  # Ctrl-C: the run may save itself and speak; the end is the pipe's
    _pump(0, 1)
