"""Supervised workers: crashes, hangs and errors in real processes. An item is an instruction to the worker."""

from __future__ import annotations

import dataclasses
import errno
import multiprocessing
import os
import pathlib
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import pytest

from data_prep import workers
from tganv2_tf.errors import UserError


@dataclasses.dataclass(frozen=True)
class Task:
    items: tuple[str, ...]
    lost: tuple[tuple[str, str], ...] = ()


def act(task: Task, announce: Callable[[str | None], None]) -> tuple[list[str], int]:
    """Executes the items; returns the remaining ones and the worker's process id."""
    assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    for item in task.items:
        announce(item)
        if item == "exit":
            os._exit(7)
        elif item == "segfault":
            os.kill(os.getpid(), signal.SIGSEGV)
        elif item == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        elif item.startswith("killed once"):
            marker = pathlib.Path(item.partition(" at ")[2])
            if not marker.exists():
                marker.touch()
                os.kill(os.getpid(), signal.SIGKILL)
        elif item == "hang":
            time.sleep(600)
        elif item == "slow":
            for _ in range(6):
                time.sleep(0.5)
                announce(item)
        elif item == "disk full":
            raise OSError(errno.ENOSPC, "No space left on device", "shard")
        elif item == "refuse":
            raise UserError("one clear line")
        elif item == "end of file":
            raise EOFError("of a file that the function reads")
        elif item == "bug":
            raise ZeroDivisionError("a bug")
    announce(None)
    for item in task.items:
        marker = pathlib.Path(item.partition("hang late once at ")[2])
        if item.startswith("hang late") and not marker.exists():
            marker.touch()
            time.sleep(600)
    if "die late" in task.items:
        os._exit(3)
    return list(task.items), os.getpid()


def _run(
    tasks: list[Task], num_workers: int = 2, item_timeout: float = 60.0, pool: workers.WorkerPool | None = None
) -> tuple[dict[tuple[str, ...], Task], list[str], set[int]]:
    """Returns finished tasks by their completed items, the announced items, and the workers' process ids."""
    done: dict[tuple[str, ...], Task] = {}
    begun: list[str] = []
    pids: set[int] = set()

    def on_done(task: Task, result: tuple[list[str], int]) -> None:
        done[tuple(result[0])] = task
        pids.add(result[1])

    def on_lost(task: Task, item: str, reason: str) -> Task:
        left = tuple(other for other in task.items if other != item)
        return Task(left, (*task.lost, (item, reason)))

    def on_begin(task: Task, item: str) -> None:
        begun.append(item)

    workers.run_supervised(
        act,
        tasks,
        num_workers=num_workers,
        item_timeout=item_timeout,
        on_done=on_done,
        on_lost=on_lost,
        on_begin=on_begin,
        pool=pool,
    )
    return done, begun, pids


def test_a_pool_keeps_its_workers_from_call_to_call() -> None:
    with workers.WorkerPool() as pool:
        first = _run([Task(("a",))], 1, pool=pool)[2]
        second = _run([Task(("b",)), Task(("c",))], 2, pool=pool)[2]
        assert first <= second and len(pool.workers) == 2
        assert len(multiprocessing.active_children()) == 2
        with pytest.raises(RuntimeError, match="in a worker"):
            _run([Task(("bug",))], 1, pool=pool)
        third = _run([Task(("d",))], 1, pool=pool)[2]
        assert third <= second, "an error of a task ends no worker"
    assert not multiprocessing.active_children()


def test_all_tasks_are_done_by_no_more_workers_than_asked() -> None:
    tasks = [Task((f"{index}a", f"{index}b")) for index in range(7)]
    done, begun, pids = _run(tasks)
    assert set(done) == {task.items for task in tasks} and all(not task.lost for task in done.values())
    assert sorted(begun) == sorted(item for task in tasks for item in task.items)
    assert 1 <= len(pids) <= 2 and os.getpid() not in pids
    assert not multiprocessing.active_children()


def test_no_tasks_no_workers() -> None:
    assert _run([]) == ({}, [], set())


def test_a_crash_costs_its_item_and_nothing_else() -> None:
    tasks = [Task(("a", "exit", "b")), Task(("c", "segfault", "kill", "d")), Task(("e",))]
    done, begun, _ = _run(tasks)
    assert set(done) == {("a", "b"), ("c", "d"), ("e",)}
    assert done["a", "b"].lost == (("exit", "the worker process ended with code 7"),)
    assert dict(done["c", "d"].lost) == {
        "segfault": "the worker process was killed by SIGSEGV",
        "kill": "the worker process was killed by SIGKILL (out of memory?)",
    }
    assert begun.count("a") == 2  # again, because the shard is rewritten


def test_what_was_out_of_memory_once_is_tried_again(tmp_path: pathlib.Path) -> None:
    items = ("a", f"killed once at {tmp_path / 'marker'}", "b")
    done, begun, pids = _run([Task(items)])
    assert done[items].lost == () and begun.count(items[1]) == 2 and len(pids) == 1


def test_a_hang_after_the_last_item_repeats_the_task(monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> None:
    monkeypatch.setattr(workers, "OUTSIDE_SECONDS", 8.0)
    task = Task(("a", f"hang late once at {tmp_path / 'marker'}"))
    done, _, _ = _run([task])
    assert done[task.items].lost == () and (tmp_path / "marker").exists()


def test_a_hang_ends_at_the_time_limit() -> None:
    start = time.monotonic()
    done, _, _ = _run([Task(("a", "hang", "b"))], item_timeout=1.5)
    assert done["a", "b"].lost == (("hang", "it took longer than 1.5 s (--video_timeout)"),)
    assert time.monotonic() - start < 30


def test_headway_renews_the_time_limit() -> None:
    # Three seconds in total, but never more than half a second without an announcement.
    done, _, _ = _run([Task(("slow",))], item_timeout=2.0)
    assert done[("slow",)].lost == ()


@pytest.mark.parametrize(
    ("item", "error", "message"),
    [
        ("disk full", UserError, "^No space left on device: shard$"),
        ("refuse", UserError, "^one clear line$"),
        ("bug", RuntimeError, "ZeroDivisionError: a bug"),
    ],
)
def test_errors_end_the_run(item: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        _run([Task((item,)), Task(("hang",))])
    assert not multiprocessing.active_children()


def test_dying_at_no_item_is_not_tried_for_ever() -> None:
    with pytest.raises(
        UserError, match="ended with code 3, 3 times, outside of any video; try a smaller --num_workers"
    ):
        _run([Task(("die late",))])


def _children(pid: int) -> list[int]:
    text = pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(word) for word in text.split()]


def _alive(pid: int) -> bool:
    try:
        state = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


SCRIPT = """
import sys
sys.path.insert(0, {tests!r})
import test_workers
if __name__ == "__main__":
    try:
        test_workers._run([test_workers.Task(("hang",)), test_workers.Task(("slow", "hang"))], item_timeout=60)
    except KeyboardInterrupt:
        sys.exit(130)
"""


@pytest.mark.skipif(not pathlib.Path("/proc/self/stat").exists(), reason="looks at processes in /proc")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_workers_go_with_their_parent(tmp_path: pathlib.Path, number: signal.Signals) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.format(tests=str(pathlib.Path(__file__).parent)))
    root = pathlib.Path(__file__).parents[1]
    parent = subprocess.Popen(
        [sys.executable, str(script)], env={**os.environ, "PYTHONPATH": str(root)}, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 30
    while len(_children(parent.pid)) < 3 and time.monotonic() < deadline:  # two workers and multiprocessing's tracker
        time.sleep(0.05)
    children = _children(parent.pid)
    assert len(children) >= 3
    time.sleep(1.0)
    for pid in [*children, parent.pid] if number == signal.SIGINT else [parent.pid]:  # Ctrl-C reaches the whole group
        os.kill(pid, number)
    stderr: Any = parent.communicate(timeout=30)[1]
    assert parent.returncode == (-signal.SIGKILL if number == signal.SIGKILL else 130)
    assert stderr == ""
    deadline = time.monotonic() + 30
    while any(map(_alive, children)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(map(_alive, children))


def test_an_end_of_file_in_the_function_is_an_error_of_the_function() -> None:
    with pytest.raises(RuntimeError, match="EOFError: of a file that the function reads"):
        _run([Task(("end of file",))])
