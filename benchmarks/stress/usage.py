"""Monitors the resources of a process over time with Linux's /proc, and detects growth."""

from __future__ import annotations

import contextlib
import os
import pathlib
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Callable

import numpy as np

WARM_UP = 1 / 3  # fraction of the time
MIN_GROWTH, MIN_BYTES = 0.05, 20e6
Series = dict[str, list[float]]


def usage(pid: int) -> dict[str, float]:
    """Returns current values of a process: `rss`, resident memory in bytes; `files`, open file handles; `threads`.

    Raises:
      OSError: There is no such process.
    """
    process = pathlib.Path("/proc", str(pid))
    fields = dict(line.split(":", 1) for line in (process / "status").read_text().splitlines())
    rss = 1024 * int(fields["VmRSS"].split()[0]) if "VmRSS" in fields else 0  # 0 after it has ended
    return {"rss": rss, "files": len(os.listdir(process / "fd")), "threads": int(fields["Threads"])}


def folder_size(folder: str | os.PathLike[str]) -> dict[str, float]:
    """Returns `count` and `bytes` of all files below a folder, ignoring files that are deleted meanwhile."""
    count = total = 0
    for path, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                total += os.stat(os.path.join(path, name)).st_size
                count += 1
    return {"count": count, "bytes": total}


@contextlib.contextmanager
def watch(pid: int, more: Mapping[str, Callable[[], float]] | None = None, seconds: float = 1.0) -> Iterator[Series]:
    """Measures a process while the block runs.

    Args:
      pid: Process id.
      more: Additional measurements by name.
      seconds: Seconds between measurements.
    Yields:
      Values of `usage` and `more` over `time` in seconds; it grows until the block or the process ends.
    """
    series: Series = {name: [] for name in ("time", "rss", "files", "threads", *(more or {}))}
    ended, start = threading.Event(), time.monotonic()

    def measure() -> None:
        while not ended.wait(seconds):
            try:
                row = {
                    "time": time.monotonic() - start,
                    **usage(pid),
                    **{name: f() for name, f in (more or {}).items()},
                }
            except OSError:
                return
            if row["rss"]:
                for name, value in row.items():
                    series[name].append(value)

    thread = threading.Thread(target=measure, daemon=True)
    thread.start()
    try:
        yield series
    finally:
        ended.set()
        thread.join()


def slope(times: list[float], values: list[float]) -> float:
    """Returns the least-squares slope of the values over the last two thirds of the time, per second.

    Args:
      times: Times in seconds, ascending.
      values: One value per time.
    """
    x, y = np.array(times), np.array(values)
    late = x >= x[0] + WARM_UP * (x[-1] - x[0])
    return float(np.polyfit(x[late] - x[-1], y[late], 1)[0])


def memory_growth(times: list[float], rss: list[float]) -> float:
    """Returns the growth of memory in bytes over the last two thirds of the time, by its slope.

    Returns 0 for normal fluctuations: less than a twentieth of the memory, or less than 20 MB.
    """
    growth = slope(times, rss) * (1 - WARM_UP) * (times[-1] - times[0])
    return growth if growth > max(MIN_BYTES, MIN_GROWTH * float(np.mean(rss))) else 0.0
