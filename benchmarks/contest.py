"""Implementations of one thing, each in a process of its own, timed in turns on a machine whose speed varies.

Only ratios within a round are compared: what else the machine does meets both sides of them.
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

from benchmarks import rows
from benchmarks.rows import Row
from tganv2_tf.errors import UserError

_work: Callable[[], object]  # of a contestant's process


def peak_bytes() -> int:
    """The most memory that this process has had so far."""
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def seconds_of(module: str, *arguments: str) -> float:
    """How long `python -m MODULE ARGUMENTS` takes. Raises UserError, with the last line of its stderr, if it fails."""
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
    """What the function returns in a fresh interpreter, which shares nothing with this one."""
    with concurrent.futures.ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


class Contestant:
    """A process that does one piece of work, over and over; it ends with the block.

    Args:
      name: in the table.
      make: a function of a module's top level; in the process it makes, of the arguments, the function that works.
      arguments: that can be pickled.
    Attributes:
      seconds: of each round.
      warm_up_seconds: of the first piece of work, in which graphs are made; it is no round.
      before, peak: bytes of memory at most, before the first piece of work and in all.
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
            raise UserError(f"{self.name}: its process has died; too little memory?") from error

    def run(self) -> None:
        """One round."""
        seconds, self.peak = self._wait(_run)
        self.seconds.append(seconds)

    def __enter__(self) -> Contestant:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown()


def race(contestants: Sequence[Contestant], rounds: int) -> None:
    """Rounds of all, in turns."""
    for _ in range(rounds):
        for contestant in contestants:
            contestant.run()


def compared(what: str, ours: Contestant, baseline: Contestant, videos: int = 0) -> list[Row]:
    """Rows of time, or, where a round makes `videos`, of videos a second, and of peak memory."""
    own, theirs = ours.seconds, baseline.seconds
    if videos:
        own, theirs = ([videos / seconds for seconds in rounds] for rounds in (own, theirs))
    memory = [[each.peak / 1e6] for each in (ours, baseline)]
    return [
        rows.compared(what, "videos/s" if videos else "s", own, theirs, less_is_better=not videos),
        rows.compared(f"{what}, peak memory", "MB", memory[0], memory[1], less_is_better=True),
    ]
