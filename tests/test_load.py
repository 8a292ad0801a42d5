"""The measurements of the load and soak tests, and their detection of violated guarantees."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys
import time
from typing import Any

import numpy as np
import pytest

from benchmarks.stress import load, soak, usage
from benchmarks.stress.load import Case, RequestError, Tally

MB = 1e6


def test_a_process_is_measured(tmp_path: pathlib.Path) -> None:
    def measured(size: int, files: int) -> dict[str, float]:
        """Measures another process: this one may return memory to the system meanwhile."""
        script = f"held = b'x' * {size}, [open(str(i), 'w') for i in range({files})]; print(flush=True); input()"
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        with subprocess.Popen([sys.executable, "-c", script], cwd=tmp_path, **pipes) as process:
            process.stdout.readline()  # type: ignore[union-attr]
            found = usage.usage(process.pid)
            process.communicate(b"\n")
        return found

    before, during = measured(1, 0), measured(64 * 2**20, 2)
    assert during["rss"] - before["rss"] == pytest.approx(64 * 2**20, rel=0.05)
    assert during["files"] - before["files"] == 2 and during["threads"] >= 1
    with pytest.raises(OSError, match="No such"):
        usage.usage(2**22 + 1)  # beyond Linux's largest process id


def test_files_below_a_folder_are_counted(tmp_path: pathlib.Path) -> None:
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "a").write_bytes(b"12345")
    (tmp_path / "b").write_bytes(b"678")
    assert usage.folder_size(tmp_path) == {"count": 2, "bytes": 8}
    assert usage.folder_size(tmp_path / "nowhere") == {"count": 0, "bytes": 0}


def test_watching_ends_with_the_block() -> None:
    with usage.watch(os.getpid(), {"more": lambda: 7.0}, seconds=0.01) as series:
        while len(series["time"]) < 3:
            time.sleep(0.01)
    seen = len(series["time"])
    time.sleep(0.05)
    assert {len(values) for values in series.values()} == {seen}
    assert series["more"] == [7.0] * seen and series["time"] == sorted(series["time"])


def test_the_slope_is_that_of_the_last_two_thirds() -> None:
    times = [float(t) for t in range(31)]
    # Grows by 100 per second until second 9, then by 2.
    values = [1000.0 + (100 * t if t < 10 else 1000 + 2 * (t - 10)) for t in times]
    assert usage.slope(times, values) == pytest.approx(2.0)
    assert usage.memory_growth(times, [500 * MB + 3 * MB * t for t in times]) == pytest.approx(60 * MB)  # 3 x 20
    assert usage.memory_growth(times, [500 * MB + 1 * MB * t for t in times]) == 0, "20 MB are a twenty-fifth"
    assert usage.memory_growth(times, [10 * MB + 0.9 * MB * t for t in times]) == 0, "18 MB"
    assert usage.memory_growth(times, [10 * MB + 1.1 * MB * t for t in times]) == pytest.approx(22 * MB)
    assert usage.memory_growth(times, [500 * MB - 9 * MB * t for t in times]) == 0


def flat(**changes: Any) -> usage.Series:
    """Thirty measurements of a process that does not grow."""
    times = [float(t) for t in range(30)]
    names = {"rss": 500 * MB, "files": 20.0, "threads": 9.0, "temporary files": 4.0}
    return {"time": times, **{name: [value] * 30 for name, value in names.items()}, **changes}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, ""),
        ({"rss": [500 * MB + 5 * MB * t for t in range(30)]}, "memory grew by 97 MB"),  # 5 x 29 x 2/3
        ({"files": [20.0 + 3 * t for t in range(30)]}, "files grew: at most 62 in the first half of the time, 107 in"),
        ({"temporary files": [4.0 + 2 * t for t in range(30)]}, "temporary files grew: at most 32 in the first half"),
    ],
)
def test_what_grows_under_load_is_told(changes: dict[str, list[float]], message: str) -> None:
    broken = load.violations(Tally(seconds=[0.1]), flat(**changes))
    assert (not broken) if not message else (len(broken) == 1 and broken[0].startswith(message)), broken


def test_wrong_answers_under_load_are_told() -> None:
    right = Case("right", 1)
    digest = load.digest(np.arange(3))
    assert load.check_answer(right, lambda: np.arange(3), digest) == ""
    assert load.check_answer(right, lambda: np.arange(1, 4), digest) == "right: 1: differs from the answer without load"
    assert load.check_answer(Case("disconnects", 1, stays=False), lambda: "", "") == ""

    def refuse() -> None:
        raise RequestError("503: Queue is full")

    assert load.check_answer(right, refuse, digest) == "right: 503: Queue is full"
    assert load.check_answer(Case("over", 1, "Queue is full"), refuse, "") == ""
    assert load.check_answer(Case("over", 1, "valid: up to"), refuse, "") == "over: 503: Queue is full"
    assert load.check_answer(Case("over", 1, "valid: up to"), lambda: "html", "") == "over: 1 was accepted"
    assert load.check_answer(right, lambda: 1 / 0, digest) == "right: ZeroDivisionError: division by zero"
    tally = Tally(seconds=[0.1])
    tally.failures["right: 503: Queue is full"] = 2
    assert load.violations(tally, flat()) == ["2 x right: 503: Queue is full"]
    assert load.violations(Tally(), flat()) == ["no request was answered"]


def test_clients_ask_side_by_side_and_are_counted() -> None:
    calls: list[int] = []

    def ask() -> np.ndarray:
        calls.append(len(calls))
        time.sleep(0.001)
        # One answer in the middle of the load is different.
        return np.array([1 if len(calls) == 40 else 0])

    def refuse() -> None:
        raise RequestError("valid: up to 64")

    cases = [Case("gallery", 1), Case("over a limit", 2, "valid: up to")]
    tally, series = load.run(load.Command(clients=4, seconds=1.0), os.getpid(), cases, [ask, refuse], {})
    assert len(tally.seconds) == len(calls) - 2 > 40, "one was asked alone before, and one was wrong"
    assert tally.failures == {"gallery: 1: differs from the answer without load": 1}
    assert tally.counts["gallery"] == len(calls) - 1
    assert 0.1 < tally.counts["over a limit"] / sum(tally.counts.values()) < 0.35, "a fifth"
    assert len(load.row("explorer", tally, series).split("|")) == len(load.HEADER.splitlines()[0].split("|"))


def course(**changes: Any) -> usage.Series:
    """Thirty measurements of a run without faults."""
    steps = [float(t) for t in range(0, 3000, 100)]
    return flat(
        **{
            "step": steps,
            "checkpoints": [3.0] * 30,
            "checkpoint files": [7.0] * 30,
            "checkpoint bytes": [1e5] * 30,
            "event files": [2.0] * 30,
            "event bytes": [40.0 * step for step in steps],
            **changes,
        }
    )


@pytest.mark.parametrize(
    ("status", "changes", "message"),
    [
        (0, {}, ""),
        (137, {}, "training ended with status 137"),
        (0, {"rss": [500 * MB + 5 * MB * t for t in range(30)]}, "memory grew by 97 MB"),
        (0, {"files": [20.0] * 25 + [21.0] * 5}, "files: 20 at most in the second third, 21 in the last"),
        (0, {"files": [30.0] + [20.0] * 29, "threads": [9.0 - (t > 3) for t in range(30)]}, ""),
        (0, {"threads": [9.0 + t for t in range(30)]}, "threads: 28 at most in the second third, 38 in the last"),
        (0, {"checkpoints": [4.0] * 29 + [3.0]}, ""),
        (0, {"checkpoints": [4.0] * 30}, "4 checkpoints at most, 4 at the end"),
        (0, {"checkpoints": [3.0] * 9 + [5.0] + [3.0] * 20}, "5 checkpoints at most, 3 at the end"),
        (0, {"event files": [2.0] * 29 + [3.0]}, "3 event files"),
        (0, {"event bytes": [(t / 10) ** 2 for t in range(30)]}, "event files grew by"),
    ],
)
def test_what_a_long_run_breaks_is_told(status: int, changes: dict[str, list[float]], message: str) -> None:
    broken = soak.violations(status, course(**changes))
    assert (not broken) if not message else (len(broken) == 1 and broken[0].startswith(message)), broken


def test_the_course_of_a_run_as_a_table() -> None:
    series = course(rss=[500 * MB + MB * t / 29 for t in range(30)])
    text = soak.table(soak.Command(steps=2800), series)
    assert "| 0.5 | 2,900 | 501.0 | 20 | 9 | 3 | 7 | 0.10 | 2 | 0.12 |" in text
    assert "2,800 steps in 0.5 minutes, 10.4 ms per step" in text
    assert "+6.9 MB in 20,000 steps" in text  # a megabyte in 2,900 steps
    assert soak.violations(0, {name: values[:5] for name, values in course().items()}) == [
        "too few measurements; increase --steps"
    ]
