"""A Ray cluster of several nodes on this machine, each with separate processes that can be killed."""

from __future__ import annotations

import contextlib
import os
import pathlib
import signal
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

needs_ray = pytest.mark.skipif(sys.version_info < (3, 10), reason="there is no such Ray for Python 3.9")

LOST_AFTER = {"initial_delay_ms": 0, "period_ms": 200, "failure_threshold": 3}


class Nodes:
    """Nodes in addition to the head, which runs no tasks.

    Attributes:
      address: Address of the cluster.
    """

    def __init__(self, cluster: Any) -> None:
        self._cluster, self._nodes = cluster, list[Any]()
        self.address: str = cluster.address

    def add(self, num_cpus: int = 1) -> None:
        """Adds a node."""
        self._nodes.append(self._cluster.add_node(num_cpus=num_cpus, object_store_memory=2**27))

    def busy(self, node: int) -> bool:
        """Returns whether a process of the node is running a task."""
        return any("ray::_reported" in title for title in self._titles(node))

    def kill(self, node: int) -> None:
        """Kills all processes of a node at once, like a power failure."""
        self._cluster.remove_node(self._nodes.pop(node), allow_graceful=False)

    def _titles(self, node: int) -> Iterator[str]:
        raylet = self._nodes[node].all_processes["raylet"][0].process.pid
        for pid in children(raylet):
            with contextlib.suppress(OSError):
                yield pathlib.Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()


@contextlib.contextmanager
def nodes(*cpus: int) -> Iterator[Nodes]:
    """Starts a cluster with one node per given number of processors; removes it completely on exit."""
    from ray.cluster_utils import Cluster

    # Lost nodes are detected in a second instead of 15 seconds.
    quickly = {f"health_check_{name}": value for name, value in LOST_AFTER.items()}
    head = {"num_cpus": 0, "object_store_memory": 2**27, "_system_config": quickly}
    try:
        cluster = Cluster(initialize_head=True, head_node_args=head)
    except Exception as error:
        if "timed out during startup" not in str(error):  # Ray waits 30 seconds: too short on a busy, slow machine
            raise
        cluster = Cluster(initialize_head=True, head_node_args=head)
    try:
        made = Nodes(cluster)
        for number in cpus:
            made.add(number)
        yield made
    finally:
        cluster.shutdown()


def children(pid: int) -> list[int]:
    """Returns the processes that a process has started."""
    try:
        tasks = list(pathlib.Path(f"/proc/{pid}/task").iterdir())
        return [int(word) for task in tasks for word in (task / "children").read_text().split()]
    except OSError:
        return []


def wait_until(condition: Callable[[], object], seconds: float = 60.0) -> None:
    """Waits; fails if it takes too long."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it took too long"
        time.sleep(0.05)


def end(pid: int) -> None:
    """Kills a process that may have ended."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
