"""Findings, and how numbers are written in them."""

from __future__ import annotations

from typing import NamedTuple

OK, NOTE, PROBLEM = "OK", "NOTE", "PROBLEM"


class Finding(NamedTuple):
    """One line of the report: severity (OK, NOTE or PROBLEM), subject, and finding with advice."""

    level: str
    subject: str
    text: str

    def __str__(self) -> str:
        return f"{self.level:<8}{self.subject}: {self.text}"


def format_bytes(size: float) -> str:
    """Formats bytes: `1.5 GiB`, `12 MiB`."""
    return f"{size / 2**30:,.1f} GiB" if size >= 2**30 else f"{size / 2**20:.0f} MiB"


def format_duration(seconds: float) -> str:
    """Formats seconds: `0.25 s`, `3.5 minutes`, `7 hours`, `12 days`."""
    for size, unit in ((86400, "days"), (3600, "hours"), (60, "minutes")):
        if seconds >= 2 * size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.2g} s"
