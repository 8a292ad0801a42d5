"""Parses the seeds and classes given on a command line."""

from __future__ import annotations

import re
from collections.abc import Sequence

from tganv2_tf.data.class_names import quoted
from tganv2_tf.errors import ConfigError

MAX_SEEDS = 100_000  # a typo such as 0-99999999999 would fill the memory


def parse_seeds(text: str, field: str = "") -> list[int]:
    """Parses seeds: `0-3,8` -> [0, 1, 2, 3, 8].

    Args:
      text: comma-separated numbers and ranges.
      field: name used in errors instead of the flag, for text from a web page.
    Raises:
      ConfigError: the text is invalid.
    """
    field = field or f"--seeds={text}"
    seeds: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d+)(?:-(\d+))?\s*", part, re.ASCII)
        if not match:
            raise ConfigError(f"{field}: {part!r} is neither a number nor a range; valid: for example 0-15 or 3,7,12")
        first, last = int(match[1]), int(match[2] or match[1])
        if last >= 2**63:
            raise ConfigError(f"{field}: {last} is too large; valid: below 2^63")
        if last < first:
            raise ConfigError(f"{field}: the range {part!r} is reversed; valid: {last}-{first}")
        if len(seeds) + last - first >= MAX_SEEDS:
            raise ConfigError(f"{field}: too many; valid: up to {MAX_SEEDS}")
        seeds.extend(range(first, last + 1))
    return seeds


def parse_labels(text: str, class_names: Sequence[str]) -> list[int]:
    """Parses classes: `Biking,Diving-Kayaking,7` -> labels in the given order; `all` -> all classes.

    Each part is a name, a number, or a range of either. A range of names contains all names from the first to the last
    in natural order (`2` before `10`). If any class name is a number, all numbers are names; otherwise numbers are
    labels, from 0. Names may be quoted, with single or double quotes; unquoted, the longest match counts, including
    commas and dashes in the name.

    Args:
      text: comma-separated parts.
      class_names: in the order of the labels; empty for an unconditional generator.
    Raises:
      ConfigError: a class does not exist; the message lists them.
    """
    if not class_names:
        raise ConfigError(f"--labels={text}: the generator was not trained with classes; omit --labels")
    count = len(class_names)
    if text.strip() == "all" not in class_names:
        return list(range(count))
    # Each way to name classes, with its order of the labels.
    schemes = [(_spellings(class_names), sorted(range(count), key=lambda label: _natural(class_names[label])))]
    if not any(re.fullmatch("[0-9]+", name) for name in class_names):
        schemes.append(({str(label): label for label in range(count)}, list(range(count))))
    longest = 1 + 2 * max(name.count(",") for name in class_names)  # parts of a range whose ends hold commas
    parts, labels = text.split(","), []
    while parts:
        for size in range(min(longest, len(parts)), 0, -1):
            found = _labels(",".join(parts[:size]).strip(), schemes)
            if found:
                break
        else:
            numbers = f"0 to {count - 1}, " if len(schemes) > 1 else ""
            raise ConfigError(
                f"--labels={text}: no class {parts[0].strip()!r}; valid: all, {numbers}{quoted(class_names)}"
            )
        labels += found
        parts = parts[size:]
    return labels


def _spellings(class_names: Sequence[str]) -> dict[str, int]:
    """Maps names, with and without quotes, to labels; a name that itself contains quotes takes precedence."""
    quotes = ("'", '"', "")
    return {quote + name + quote: label for quote in quotes for label, name in enumerate(class_names)}


def _natural(name: str) -> tuple[list[str | int], str]:
    """Sort key for natural order: numbers in names are compared by value."""
    parts = re.split("([0-9]+)", name)  # text and numbers in turn
    return [int(part) if place % 2 else part for place, part in enumerate(parts)], name


def _labels(part: str, schemes: Sequence[tuple[dict[str, int], list[int]]]) -> list[int]:
    """Returns the labels of a name, number or range; empty if it is unknown, ambiguous or in reverse order."""
    for known, order in schemes:
        if part in known:
            return [known[part]]
        ends = [(part[: dash.start()].strip(), part[dash.end() :].strip()) for dash in re.finditer("-", part)]
        ranges = [(order.index(known[a]), order.index(known[b])) for a, b in ends if a in known and b in known]
        if len(ranges) == 1:
            return order[ranges[0][0] : ranges[0][1] + 1]
    return []
