"""Concurrent processes that can be killed: commands, or scripts of tests, that train together.

Like `tests.forking`, whose server runs one command after the other, but each `start` returns at once.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from typing import NoReturn

from tests import forking

ROOT = forking.ROOT
NEW_NETWORK = 0x40000000  # CLONE_NEWNET of <sched.h>


class Worker:
    """One of the processes.

    Attributes:
      pid: Process id.
      folder: Separate folder with its output in `stdout` and `stderr`, and its exit status.
    """

    def __init__(self, pid: int, folder: pathlib.Path) -> None:
        self.pid, self.folder = pid, folder

    @property
    def returncode(self) -> int | None:
        """Exit status, negative for a signal, as in `subprocess`; None while it runs."""
        status = self.folder / "status"
        return int(status.read_text()) if status.exists() else None

    @property
    def stderr(self) -> str:
        return (self.folder / "stderr").read_text()

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)


class Server:
    """Has imported TensorFlow, and forks a process per request."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.folder, self.workers = folder, list[Worker]()
        command = [sys.executable, "-m", "tests.worker_processes"]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, cwd=ROOT, stdin=pipe, stdout=pipe, text=True)

    def start(self, *argv: str, env: dict[str, str], namespace: str = "") -> Worker:
        """Starts `python -m argv` with additional environment variables, in the network of that name."""
        folder = self.folder / f"process{len(self.workers)}"
        folder.mkdir()
        left_out = ("TF_CONFIG", "TF_CPP_MIN_LOG_LEVEL", "SLURM_")
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(left_out)}
        outputs = [str(folder / name) for name in ("stdout", "stderr")]
        command = {"argv": argv, "environment": {**inherited, **env}, "folder": str(ROOT), "outputs": outputs}
        assert self.process.stdin is not None and self.process.stdout is not None
        request = {"status": str(folder / "status"), "namespace": namespace, "command": command}
        print(json.dumps(request), file=self.process.stdin, flush=True)
        self.workers.append(Worker(int(self.process.stdout.readline()), folder))
        return self.workers[-1]

    def wait(self, workers: list[Worker], seconds: float = 280) -> None:
        """Waits until all have ended; fails if they do not."""
        deadline = time.monotonic() + seconds
        while any(worker.returncode is None for worker in workers):
            assert time.monotonic() < deadline, [worker.stderr for worker in workers]
            time.sleep(0.02)

    def close(self) -> None:
        for worker in self.workers:
            if worker.returncode is None:
                worker.kill()
        self.process.communicate(timeout=60)


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def tf_configs(addresses: list[str]) -> list[dict[str, str]]:
    """Returns the environment of each worker."""
    tasks = [{"type": "worker", "index": index} for index in range(len(addresses))]
    return [{"TF_CONFIG": json.dumps({"cluster": {"worker": addresses}, "task": task})} for task in tasks]


def on_loopback(count: int) -> list[dict[str, str]]:
    return tf_configs([f"127.0.0.1:{port}" for port in free_ports(count)])


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)


def why_no_namespaces() -> str:
    """Returns why this machine cannot create network namespaces; empty if it can."""
    if not shutil.which("ip"):
        return "there is no `ip` (iproute2)"
    with contextlib.suppress(OSError, subprocess.CalledProcessError), networks(2):
        return ""
    return "no network namespaces without root's rights"


@contextlib.contextmanager
def networks(count: int) -> Iterator[tuple[str, list[str]]]:
    """Machines at a switch: isolated networks that reach only each other.

    Machine i is 192.0.2.(i + 1), addresses that RFC 5737 reserves for examples; its port at the switch is `port{i}`.

    Yields:
      The switch, and the machines.
    """
    name = f"tganv2-{os.getpid()}-{time.monotonic_ns() % 1000000}"
    switch, machines = f"{name}-switch", [f"{name}-{index}" for index in range(count)]
    try:
        ip("netns", "add", switch)
        ip("-n", switch, "link", "add", "bridge", "type", "bridge")
        ip("-n", switch, "link", "set", "bridge", "up")
        for index, machine in enumerate(machines):
            ip("netns", "add", machine)
            ends = ["type", "veth", "peer", "name", "eth0", "netns", machine]
            ip("-n", switch, "link", "add", f"port{index}", *ends)
            ip("-n", switch, "link", "set", f"port{index}", "master", "bridge", "up")
            ip("-n", machine, "address", "add", f"192.0.2.{index + 1}/24", "dev", "eth0")
            for device in ("lo", "eth0"):
                ip("-n", machine, "link", "set", device, "up")
        yield switch, machines
    finally:
        for namespace in (switch, *machines):
            subprocess.run(["ip", "netns", "delete", namespace], check=False, capture_output=True)


def _enter(namespace: str) -> None:
    descriptor = os.open(f"/run/netns/{namespace}", os.O_RDONLY)
    if ctypes.CDLL(None, use_errno=True).setns(descriptor, NEW_NETWORK):
        raise OSError(ctypes.get_errno(), f"cannot enter {namespace}")


def _serve() -> None:
    for line in sys.stdin:
        if not os.fork():
            _keep(**json.loads(line))
    with contextlib.suppress(ChildProcessError):
        while True:
            os.wait()


def _keep(status: str, namespace: str, command: dict) -> NoReturn:
    """Starts a worker, prints its process id, and writes its exit status when it has ended."""
    worker = os.fork()
    if not worker:
        if namespace:
            _enter(namespace)
        forking._become(**command)
    print(worker, flush=True)
    code = os.waitstatus_to_exitcode(os.waitpid(worker, 0)[1])
    with tempfile.NamedTemporaryFile("w", dir=os.path.dirname(status), delete=False) as file:
        file.write(str(code))
    os.replace(file.name, status)
    os._exit(0)


if __name__ == "__main__":
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"  # as `quiet` sets it; TensorFlow reads it once
    import tensorflow as tf

    tf.keras.Model  # noqa: B018 (Keras is imported when it is first touched)
    gc.freeze()
    _serve()
