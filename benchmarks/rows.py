"""What benchmarks measured: rows of a table, of which every figure that counts is a ratio within one run."""

from __future__ import annotations

import dataclasses
import datetime
import json
import os
import platform
import statistics
import sys
from collections.abc import Sequence

from tganv2_tf.files import write_atomically
from tganv2_tf.machine import installed_version, memory, num_cpus, processor


@dataclasses.dataclass(frozen=True)
class Row:
    """One figure.

    Attributes:
      what: it is of.
      unit: of `ours` and `baseline`.
      ours: the median over the rounds.
      baseline: what it is held against, likewise; None where there is nothing.
      ratio: how many times better ours is, the median over the rounds, and the least and the largest.
    """

    what: str
    unit: str
    ours: float
    baseline: float | None = None
    ratio: float | None = None
    ratio_min: float | None = None
    ratio_max: float | None = None


def compared(what: str, unit: str, ours: Sequence[float], baseline: Sequence[float], less_is_better: bool) -> Row:
    """The row of several rounds, in each of which both were measured, one after the other."""
    pairs = zip(baseline, ours) if less_is_better else zip(ours, baseline)
    ratios = [better / worse for better, worse in pairs]
    medians = statistics.median(ours), statistics.median(baseline)
    return Row(what, unit, *medians, statistics.median(ratios), min(ratios), max(ratios))


def markdown(rows: Sequence[Row]) -> str:
    """The rows as a table."""
    lines = ["| what | unit | ours | baseline | ratio | least to largest |", "|---|---|---|---|---|---|"]
    for row in rows:
        spread = "" if row.ratio_min is None else f"{row.ratio_min:.3g} to {row.ratio_max:.3g}"
        numbers = ["" if value is None else f"{value:.4g}" for value in (row.ours, row.baseline, row.ratio)]
        lines.append(f"| {' | '.join([row.what, row.unit, *numbers, spread])} |")
    return "\n".join(lines)


def machine() -> str:
    """Processor and its instructions, memory, versions, and the load, in one line."""
    total = memory()
    versions = {name: installed_version(name) for name in ("tensorflow", "torch", "opencv-python")}
    return (
        f"{num_cpus()} cores ({processor()}), "
        f"{0 if total is None else total.total / 2**30:.0f} GiB, Python {platform.python_version()}, "
        + ", ".join(f"{name} {version}" for name, version in versions.items() if version)
        + f"; load {os.getloadavg()[0]:.1f} at the end; {datetime.date.today()}"
    )


def report(name: str, rows: Sequence[Row], output: str) -> None:
    """Prints the machine and the table.

    Args:
      name: of the benchmark's module.
      rows: of the table.
      output: a JSON file for the rows as well, with the command that repeats them; empty writes none.
    """
    print(f"{machine()}\n")
    print(markdown(rows))
    if output:
        flags = [flag for flag in sys.argv[1:] if not flag.startswith("--output=")]
        command = " ".join(["python", "-m", f"benchmarks.{name}", *flags])
        content = {
            "name": name,
            "command": command,
            "machine": machine(),
            "rows": [dataclasses.asdict(row) for row in rows],
        }
        write_atomically(output, json.dumps(content, indent=2) + "\n")
