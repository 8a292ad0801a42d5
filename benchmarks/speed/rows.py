"""Results of benchmarks: rows of a table, whose relevant figures are ratios within one run."""

from __future__ import annotations

import dataclasses
import datetime
import json
import os
import platform
import statistics
import sys
from collections.abc import Sequence

from tganv2_tf.runtime.machine import installed_version, memory, num_cpus, processor
from tganv2_tf.storage.files import write_atomically


@dataclasses.dataclass(frozen=True)
class Row:
    """One result.

    Attributes:
      what: Name of the measured quantity.
      unit: Unit of `ours` and `baseline`.
      ours: Median over the rounds.
      baseline: Median of the baseline over the rounds; None without a baseline.
      ratio: Median, minimum and maximum over the rounds of the factor by which ours is better.
    """

    what: str
    unit: str
    ours: float
    baseline: float | None = None
    ratio: float | None = None
    ratio_min: float | None = None
    ratio_max: float | None = None


def compared(what: str, unit: str, ours: Sequence[float], baseline: Sequence[float], less_is_better: bool) -> Row:
    """Returns the row of several rounds, in each of which both were measured, one after the other."""
    pairs = zip(baseline, ours) if less_is_better else zip(ours, baseline)
    ratios = [better / worse for better, worse in pairs]
    medians = statistics.median(ours), statistics.median(baseline)
    return Row(what, unit, *medians, statistics.median(ratios), min(ratios), max(ratios))


def markdown(rows: Sequence[Row]) -> str:
    """Returns the rows as a table."""
    lines = ["| what | unit | ours | baseline | ratio | range |", "|---|---|---|---|---|---|"]
    for row in rows:
        spread = "" if row.ratio_min is None else f"{row.ratio_min:.3g} to {row.ratio_max:.3g}"
        numbers = ["" if value is None else f"{value:.4g}" for value in (row.ours, row.baseline, row.ratio)]
        lines.append(f"| {' | '.join([row.what, row.unit, *numbers, spread])} |")
    return "\n".join(lines)


def machine() -> str:
    """Describes processor and instruction sets, memory, versions, and load in one line."""
    total = memory()
    versions = {name: installed_version(name) for name in ("tensorflow", "torch", "opencv-python")}
    return (
        f"{num_cpus()} cores ({processor()}), "
        f"{0 if total is None else total.total / 2**30:.0f} GiB, Python {platform.python_version()}, "
        + ", ".join(f"{name} {version}" for name, version in versions.items() if version)
        + f"; load {os.getloadavg()[0]:.1f} at the end; {datetime.date.today()}"
    )


def report(module: str, rows: Sequence[Row], output: str) -> None:
    """Prints the machine and the table.

    Args:
      module: Full name of the benchmark's module.
      rows: Rows of the table.
      output: JSON file to which the rows and the command that repeats them are written; empty = none.
    """
    print(f"{machine()}\n")
    print(markdown(rows))
    if output:
        flags = [flag for flag in sys.argv[1:] if not flag.startswith("--output=")]
        command = " ".join(["python", "-m", module, *flags])
        content = {
            "name": module.rpartition(".")[2],
            "command": command,
            "machine": machine(),
            "rows": [dataclasses.asdict(row) for row in rows],
        }
        write_atomically(output, json.dumps(content, indent=2) + "\n")
