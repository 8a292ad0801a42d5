"""What is asked for on a command line: which seeds, and which classes."""

from __future__ import annotations

import re
from collections.abc import Sequence

from tganv2_tf.class_names import quoted
from tganv2_tf.errors import ConfigError

MAX_SEEDS = 100_000  # a slip of the pen, such as 0-99999999999, would fill the memory


def parse_seeds(text: str, field: str = "") -> list[int]:
    """`0-3,8` -> [0, 1, 2, 3, 8].

    Args:
      text: numbers and ranges, separated by commas.
      field: what errors name instead of the flag, if the text is of a page.
    Raises:
      ConfigError: anything else.
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
            raise ConfigError(f"{field}: the range {part!r} runs backwards; valid: {last}-{first}")
        if len(seeds) + last - first >= MAX_SEEDS:
            raise ConfigError(f"{field}: too many; valid: up to {MAX_SEEDS}")
        seeds.extend(range(first, last + 1))
    return seeds


def parse_labels(text: str, class_names: Sequence[str]) -> list[int]:
    """`Biking,Diving-Kayaking,7` -> the labels, in the order in which they are written; `all` -> every class.

    Each part is a name, a number, or a range of either. A range of names holds all names from the first to the last in
    natural order, in which `2` comes before `10`. Where a class is named by a number, every number is a name; else
    numbers are labels, from 0. Quotes around a name, single or double, say where it ends; without them the longest
    name counts, whatever commas and dashes it holds.

    Args:
      text: parts, separated by commas.
      class_names: in the order of the labels; none of an unconditional generator.
    Raises:
      ConfigError: no such class; the message lists them.
    """
    if not class_names:
        raise ConfigError(f"--labels={text}: the generator was not trained with classes; leave --labels out")
    count = len(class_names)
    if text.strip() == "all" not in class_names:
        return list(range(count))
    # Each way to name classes, and the order in which it numbers them.
    ways = [(_spellings(class_names), sorted(range(count), key=lambda label: _natural(class_names[label])))]
    if not any(re.fullmatch("[0-9]+", name) for name in class_names):
        ways.append(({str(label): label for label in range(count)}, list(range(count))))
    longest = 1 + 2 * max(name.count(",") for name in class_names)  # parts of a range whose ends hold commas
    parts, labels = text.split(","), []
    while parts:
        for size in range(min(longest, len(parts)), 0, -1):
            found = _labels(",".join(parts[:size]).strip(), ways)
            if found:
                break
        else:
            numbers = f"0 to {count - 1}, " if len(ways) > 1 else ""
            raise ConfigError(
                f"--labels={text}: no class {parts[0].strip()!r}; valid: all, {numbers}{quoted(class_names)}"
            )
        labels += found
        parts = parts[size:]
    return labels


def _spellings(class_names: Sequence[str]) -> dict[str, int]:
    """The label of each class by its name, with and without quotes; a name that has quotes itself comes first."""
    quotes = ("'", '"', "")
    return {quote + name + quote: label for quote in quotes for label, name in enumerate(class_names)}


def _natural(name: str) -> tuple[list[str | int], str]:
    """Sorts names as people do: by the numbers in them, and not by their digits."""
    parts = re.split("([0-9]+)", name)  # text and numbers in turn
    return [int(part) if place % 2 else part for place, part in enumerate(parts)], name


def _labels(part: str, ways: Sequence[tuple[dict[str, int], list[int]]]) -> list[int]:
    """The labels of a name, a number or a range; none if it is not one of them, or one in two ways, or backwards."""
    for known, order in ways:
        if part in known:
            return [known[part]]
        ends = [(part[: dash.start()].strip(), part[dash.end() :].strip()) for dash in re.finditer("-", part)]
        ranges = [(order.index(known[a]), order.index(known[b])) for a, b in ends if a in known and b in known]
        if len(ranges) == 1:
            return order[ranges[0][0] : ranges[0][1] + 1]
    return []
