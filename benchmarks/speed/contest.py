"""Times several implementations in turns, each in a separate process, on a machine whose speed varies.

Only ratios within a round are compared, so that other load on the machine affects both sides.
"""

from __future__ import annotations

import concurrent.futures
import multiprocessing
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any, Callable

from benchmarks.speed import rows
from benchmarks.speed.rows import Row
from tganv2_tf.errors import UserError

_work: Callable[[], object]  # of this process's candidate


def peak_bytes() -> int:
    """Returns the peak memory of this process so far."""
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def run_seconds(module: str, *arguments: str) -> float:
    """Returns the run time of `python -m MODULE ARGUMENTS`. Raises UserError, with its last line on stderr, if it
    fails.
    """
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "-m", module, *arguments], capture_output=True, text=True)
    if done.returncode:
        raise UserError(f"{module}: {(done.stderr.strip().splitlines() or ['failed'])[-1]}")
    return time.perf_counter() - start


def _prepare(make: Callable[..., Callable[[], object]], arguments: Sequence[Any]) -> int:
    global _work
    _work = make(*arguments)
    return peak_bytes()


def _run() -> tuple[float, int]:
    start = time.perf_counter()
    _work()
    return time.perf_counter() - start, peak_bytes()


def in_new_process(function: Callable[..., Any], *arguments: Any) -> Any:
    """Calls the function in a fresh interpreter that shares nothing with this one, and returns its result."""
    with concurrent.futures.ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


class Candidate:
    """A process that repeats one workload. A context manager that ends the process.

    Args:
      name: Name in the table.
      make: Function at the top level of a module. Called in the process with `arguments`, it returns the workload.
      arguments: Picklable arguments of `make`.
    Attributes:
      seconds: Duration of each round.
      warm_up_seconds: Duration of the first call, which traces graphs and is not a round.
      before, peak: Peak memory in bytes before the first call, and in total.
    """

    def __init__(self, name: str, make: Callable[..., Callable[[], object]], *arguments: Any) -> None:
        self.name, self.seconds = name, list[float]()
        self._pool = concurrent.futures.ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))
        self.peak = self.before = self._wait(_prepare, make, arguments)
        self.warm_up_seconds, self.peak = self._wait(_run)

    def _wait(self, function: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return self._pool.submit(function, *arguments).result()
        except concurrent.futures.process.BrokenProcessPool as error:
            raise UserError(f"{self.name}: its process died; possibly out of memory") from error

    def run(self) -> None:
        """Runs one round."""
        seconds, self.peak = self._wait(_run)
        self.seconds.append(seconds)

    def __enter__(self) -> Candidate:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown()


def interleaved_timing(candidates: Sequence[Candidate], rounds: int) -> None:
    """Runs the candidates in turns."""
    for _ in range(rounds):
        for candidate in candidates:
            candidate.run()


def compared(what: str, ours: Candidate, baseline: Candidate, videos: int = 0) -> list[Row]:
    """Returns rows of time (or of videos per second, if a round makes `videos`) and of peak memory."""
    own, theirs = ours.seconds, baseline.seconds
    if videos:
        own, theirs = ([videos / seconds for seconds in rounds] for rounds in (own, theirs))
    memory = [[each.peak / 1e6] for each in (ours, baseline)]
    return [
        rows.compared(what, "videos/s" if videos else "s", own, theirs, less_is_better=not videos),
        rows.compared(f"{what}, peak memory", "MB", memory[0], memory[1], less_is_better=True),
    ]
