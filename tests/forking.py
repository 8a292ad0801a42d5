"""Runs the real commands without the import time of TensorFlow: a server process that has imported it forks for each.

`fork_command` works like `tests.conftest.run_command` except for the start of the process. It does not cover what a
command does before or to that import, such as the log messages that `quiet.install` suppresses. Tests of this, and one
test per command, use `run_command`.
"""

from __future__ import annotations

import atexit
import functools
import gc
import json
import os
import pathlib
import runpy
import signal
import subprocess
import sys
import tempfile
import threading
import traceback

ROOT = pathlib.Path(__file__).resolve().parent.parent
TIMEOUT = 300  # seconds


def fork_command(
    module: str, *arguments: str, env: dict[str, str] | None = None, cwd: str | os.PathLike[str] = ROOT
) -> subprocess.CompletedProcess[str]:
    """Runs `python -m module arguments` in a fork of the server.

    Args:
      module: The command, or any module that is run as a script, or the file of a script.
      *arguments: Arguments of the command.
      env: Environment; None = the one of this process.
      cwd: Working directory.
    """
    environment = {name: value for name, value in (env or os.environ).items() if name != "TF_CPP_MIN_LOG_LEVEL"}
    with tempfile.TemporaryDirectory() as folder:
        outputs = [os.path.join(folder, name) for name in ("stdout", "stderr")]
        request = {"argv": [module, *arguments], "environment": environment, "folder": str(cwd), "outputs": outputs}
        server = _server()
        assert server.stdin is not None and server.stdout is not None
        print(json.dumps(request), file=server.stdin, flush=True)
        status = json.loads(server.stdout.readline())
        said = [pathlib.Path(path).read_text() for path in outputs]
    return subprocess.CompletedProcess([module, *arguments], status, *said)


@functools.cache
def _server() -> subprocess.Popen[str]:
    """This file as a separate process, one per pytest worker; it ends when its input is closed."""
    command = [sys.executable, "-m", "tests.forking"]
    return subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def _serve() -> None:
    """Reads one request per line; answers with the exit status, negative for a signal, as in `subprocess`."""
    for line in sys.stdin:
        child = os.fork()
        if not child:
            _become(**json.loads(line))
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


def _become(argv: list[str], environment: dict[str, str], folder: str, outputs: list[str]) -> None:
    """Runs the command in this process and exits.

    As in Python, threads are joined and exit handlers are called. But memory is not released: this takes a second with
    TensorFlow, because it would copy all memory shared with the server.
    """
    signal.alarm(TIMEOUT)  # kills the process
    for descriptor, path in enumerate([os.devnull, *outputs]):
        file = os.open(path, os.O_RDWR | os.O_CREAT)
        os.dup2(file, descriptor)
        os.close(file)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    sys.argv = argv
    status: object = 0
    try:
        if argv[0].endswith(".py"):
            runpy.run_path(argv[0], run_name="__main__")
        else:
            runpy.run_module(argv[0], run_name="__main__", alter_sys=True)
    except SystemExit as end:
        status = end.code or 0
    except BaseException:  # noqa: BLE001 (where Python itself would end)
        traceback.print_exc()
        status = 1
    for thread in threading.enumerate():
        if not thread.daemon and thread is not threading.current_thread():
            thread.join()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status if isinstance(status, int) else 1)


if __name__ == "__main__":
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"  # as `quiet` sets it; TensorFlow reads it once
    import av  # noqa: F401 (as the next ones: most commands import them)
    import cv2  # noqa: F401
    import scipy.linalg  # noqa: F401
    import tensorflow as tf

    tf.keras.Model  # noqa: B018 (Keras is imported when it is first touched)
    gc.freeze()  # a child's garbage collector would copy all memory shared with this process
    _serve()
