"""Runs tasks on a Ray cluster, with the same functions as on one machine.

Ray only places tasks and repeats those of lost nodes. Seeds and files belong to the task, so results do not depend on
the nodes or their number. Tasks may run twice: they write to unique temporary names, and rename.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import importlib.util
import itertools
import math
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from absl import logging

from tganv2_tf.errors import ConfigError, UserError
from tganv2_tf.options import option, require
from tganv2_tf.runtime import lanes

ATTEMPTS = 10  # per task, if nodes or processes are lost
CONNECT_SECONDS = 10
POLL_SECONDS = 1.0
CODE = ("tganv2_tf", "data_prep")
# Help of --ray_address.
ADDRESS_HELP = (
    "address of a cluster that contains this machine: auto, or HOST:6379 if there are several; none = RAY_ADDRESS, or "
    "a new cluster on this machine"
)
# Otherwise TensorFlow would reserve the whole GPU, which tasks may share.
ENVIRONMENT = {"TF_FORCE_GPU_ALLOW_GROWTH": "true"}


@dataclasses.dataclass(frozen=True)
class RunnerOptions:
    """Where to compute."""

    runner: str = option("local = on this machine; ray = on a Ray cluster", "local", ("local", "ray"))
    ray_address: str = option(ADDRESS_HELP, "")
    cpus_per_task: float = option("processors that Ray reserves per task", 1.0)
    gpus_per_task: float = option("GPUs that Ray reserves per task; 0.5 = two tasks share one", 0.0)

    def __post_init__(self) -> None:
        require(self.cpus_per_task > 0, "cpus_per_task", self.cpus_per_task, "a number above 0")
        require(self.gpus_per_task >= 0, "gpus_per_task", self.gpus_per_task, "a number of at least 0")
        others = {"ray_address": "", "cpus_per_task": 1.0, "gpus_per_task": 0.0}
        for name, default in others.items():
            value = getattr(self, name)
            require(self.runner == "ray" or value == default, name, value, "with --runner=ray only")


LOCAL = RunnerOptions()


@contextlib.contextmanager
def connected(address: str = "") -> Iterator[None]:
    """Connects this process to a Ray cluster as its driver, and uploads the code of these packages.

    Args:
      address: as in `RunnerOptions`.
    Raises:
      ConfigError: Ray is not installed.
      UserError: there is no cluster at the address, or it has other versions of Ray or Python.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # no telemetry without consent
    os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", ".")  # else Ray prints pages for each lost node
    os.environ.setdefault("RAY_task_oom_retries", str(ATTEMPTS))  # else Ray retries forever
    try:
        import ray
    except ImportError as error:
        raise ConfigError(f"Ray cannot be imported ({error}); {lanes.install_command('ray')}") from error
    where = address or os.environ.get("RAY_ADDRESS") or "a new cluster on this machine"
    host, _, port = where.rpartition(":")
    if host and port.isdigit():  # Ray itself would retry for 15 minutes
        try:
            socket.create_connection((host.rpartition("/")[2], int(port)), CONNECT_SECONDS).close()
        except (OSError, OverflowError, UnicodeError) as error:
            raise UserError(f"--ray_address={address}: nothing answers at {where}: {error}") from error
    modules = {name: importlib.util.find_spec(name) for name in CODE}
    folders = [os.path.dirname(spec.origin) for spec in modules.values() if spec and spec.origin]
    given_address = address or os.environ.get("RAY_ADDRESS")
    if not given_address:
        # Ray Train asks the dashboard whether the driver is alive, and aborts its workers if not. The new cluster has
        # no dashboard, and Ray would ask that of another cluster on this machine.
        os.environ.setdefault("RAY_API_SERVER_ADDRESS", "http://127.0.0.1:9")
    try:
        with _sigterm_interrupts():
            ray.init(
                # Without an address, Ray would join any cluster it finds on this machine.
                address=given_address or "local",
                runtime_env={
                    "py_modules": folders,
                    "excludes": ["__pycache__"],
                    "env_vars": ENVIRONMENT,
                    "worker_process_setup_hook": "tganv2_tf.cli.tensorflow_import.install",
                },
                log_to_driver=False,
                logging_level="ERROR",
                **({} if given_address else {"include_dashboard": False}),
            )
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        if isinstance(error, ConnectionError):
            reason += "; if it requires a token, copy its ~/.ray/auth_token to this machine and set RAY_AUTH_MODE=token"
        raise UserError(f"--ray_address={address}: cannot use {where}: {reason}") from error
    try:
        with _sigterm_interrupts():
            yield
    finally:
        ray.shutdown()


def absolute_path(path: str) -> str:
    """Makes a path absolute, for processes with other working directories; keeps addresses and the empty string."""
    if not path or "://" in path:
        return path
    return os.path.abspath(path) + "/" * path.endswith("/")


def run_tasks(
    function: Callable[[Any], Any],
    tasks: Iterable[Any],
    options: RunnerOptions,
    *,
    at_once: int = 0,
    ordered: bool = False,
) -> Iterator[tuple[Any, Any]]:
    """Runs tasks on the connected cluster; those of lost nodes are repeated.

    Args:
      function: called with each task; must be importable on the nodes, with results independent of state.
      tasks: picklable tasks; only a few more than the cluster can run are requested in advance.
      options: resources per task.
      at_once: maximum number of submitted tasks; 0 = twice as many as the cluster can run.
      ordered: yield in the order of the tasks; else as they complete.
    Yields:
      Each task and the function's result.
    Raises:
      UserError: the function raised a UserError or an OSError, or a task was lost too often.
      RuntimeError: the function raised another error; the message is its traceback.
    """
    ray = sys.modules["ray"]
    needs = {"num_cpus": options.cpus_per_task, "num_gpus": options.gpus_per_task}
    # By default, Ray ends a process after each GPU task, which would discard what tasks cache.
    remote = ray.remote(**needs, max_retries=ATTEMPTS, max_calls=0)(_reported)
    monitor = ClusterMonitor({"CPU": options.cpus_per_task, "GPU": options.gpus_per_task})
    left, running = iter(tasks), collections.OrderedDict[Any, Any]()
    while True:
        room = (at_once or 2 * _slots(options, ray.cluster_resources())) - len(running)
        for task in itertools.islice(left, max(0, room)):
            running[remote.remote(function, task)] = task
        if not running:
            return
        awaited = [next(iter(running))] if ordered else list(running)
        while not (done := ray.wait(awaited, num_returns=1, timeout=POLL_SECONDS)[0]):
            monitor.check()
        monitor.check()
        try:
            kind, value = ray.get(done[0])
        except ray.exceptions.RayError as error:
            raise UserError(f"Ray gave up a task: {' '.join(str(error).split())[:300]}") from error
        task = running.pop(done[0])
        if kind == "user_error":
            raise UserError(value)
        if kind == "bug":
            raise RuntimeError(f"in a task:\n{value}")
        yield task, value


class ClusterMonitor:
    """Warns about lost nodes and missing resources, which Ray does not report.

    Attributes:
      needs: resources per piece of work, by name: CPU, GPU.
      pieces: number of pieces that must run at the same time.
    """

    def __init__(self, needs: dict[str, float], pieces: int = 1) -> None:
        self.needs, self.pieces = {name: number for name, number in needs.items() if number}, pieces
        self._nodes, self._waiting, self._checked_at = set[str](), False, -math.inf
        self.check()

    def check(self) -> None:
        """Warns of changes for the worse since the last call, at most once per POLL_SECONDS."""
        if time.monotonic() - self._checked_at < POLL_SECONDS:
            return
        self._checked_at = time.monotonic()
        alive = [node for node in sys.modules["ray"].nodes() if node["Alive"]]
        names = {f"{node['NodeName']} ({node['NodeID'][:8]})" for node in alive}
        if self._nodes - names:
            gone = ", ".join(sorted(self._nodes - names))
            logging.warning("Ray: node %s is lost; others take over its work.", gone)
        self._nodes = names
        room = sum(
            min(math.floor(node["Resources"].get(name, 0) / number) for name, number in self.needs.items())
            for node in alive
        )
        if room < self.pieces and not self._waiting:
            each = " and ".join(f"{number:g} {name}" for name, number in self.needs.items())
            what = f"{self.pieces} times {each}" if self.pieces > 1 else each
            logging.warning("Ray: no resources for %s on the current nodes; waiting for others.", what)
        self._waiting = room < self.pieces


def _slots(options: RunnerOptions, there: dict[str, float]) -> int:
    """Returns the number of tasks that the cluster can run at a time; at least 1, because nodes may join."""
    slots = there.get("CPU", 0) / options.cpus_per_task
    if options.gpus_per_task:
        slots = min(slots, there.get("GPU", 0) / options.gpus_per_task)
    return max(1, math.floor(slots))


def _reported(function: Callable[[Any], Any], task: Any) -> tuple[str, Any]:
    """Runs a task on a node and returns its result or error as data: Ray would wrap errors in pages of text."""
    import traceback

    try:
        return "done", function(task)
    except UserError as error:
        return "user_error", str(error)
    except OSError as error:
        where = f": {error.filename}" if error.filename else ""
        return "user_error", f"{error.strerror or error}{where} (on node {os.uname().nodename})"
    except Exception:  # noqa: BLE001 (raised by the driver)
        return "bug", traceback.format_exc()


@contextlib.contextmanager
def _sigterm_interrupts() -> Iterator[None]:
    """Handles SIGTERM like Ctrl-C, instead of with Ray's handlers, so that the cluster is shut down properly."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = (signal.SIGTERM, signal.SIGINT)
    before = [signal.signal(number, signal.default_int_handler) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before):
            signal.signal(number, handler)
