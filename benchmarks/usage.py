"""What a process takes of its machine over time, as Linux tells it under /proc, and whether it grows."""

from __future__ import annotations

import contextlib
import os
import pathlib
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Callable

import numpy as np

WARM_UP = 1 / 3  # of the time
MIN_GROWTH, MIN_BYTES = 0.05, 20e6
Series = dict[str, list[float]]


def usage(pid: int) -> dict[str, float]:
    """Of a process now: `rss`, resident memory in bytes; `files`, open file handles; `threads`.

    Raises:
      OSError: there is no such process.
    """
    process = pathlib.Path("/proc", str(pid))
    fields = dict(line.split(":", 1) for line in (process / "status").read_text().splitlines())
    rss = 1024 * int(fields["VmRSS"].split()[0]) if "VmRSS" in fields else 0  # nothing once it has ended
    return {"rss": rss, "files": len(os.listdir(process / "fd")), "threads": int(fields["Threads"])}


def size_of(folder: str | os.PathLike[str]) -> dict[str, float]:
    """`count` and `bytes` of all files below a folder; those that go meanwhile do not count."""
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
      pid: of the process.
      more: name -> what else is measured.
      seconds: between measurements.
    Yields:
      What `usage` and `more` say, over `time` in seconds; it grows until the block ends, or the process does.
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
    """The least-squares slope of the values over the last two thirds of the time, in their unit a second.

    Args:
      times: in seconds, rising.
      values: as many.
    """
    x, y = np.array(times), np.array(values)
    late = x >= x[0] + WARM_UP * (x[-1] - x[0])
    return float(np.polyfit(x[late] - x[-1], y[late], 1)[0])


def grows(times: list[float], rss: list[float]) -> float:
    """By how many bytes memory grows over the last two thirds of the time, by its slope.

    0 where that is within what comes and goes: less than a twentieth of it, or than 20 MB.
    """
    growth = slope(times, rss) * (1 - WARM_UP) * (times[-1] - times[0])
    return growth if growth > max(MIN_BYTES, MIN_GROWTH * float(np.mean(rss))) else 0.0
