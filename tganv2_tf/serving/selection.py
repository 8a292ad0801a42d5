"""What is asked for on a command line: which seeds, and which classes."""

from __future__ import annotations

import re
from collections.abc import Sequence

from tganv2_tf.errors import ConfigError

MAX_SEEDS = 100_000  # a slip of the pen, such as 0-99999999999, would fill the memory


def parse_seeds(text: str) -> list[int]:
    """`0-3,8` -> [0, 1, 2, 3, 8].

    Raises:
      ConfigError: anything else.
    """
    seeds: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d+)(?:-(\d+))?\s*", part, re.ASCII)
        if not match:
            raise ConfigError(
                f"--seeds={text}: {part!r} is neither a number nor a range; valid: for example 0-15 or 3,7,12"
            )
        first, last = int(match[1]), int(match[2] or match[1])
        if last >= 2**63:
            raise ConfigError(f"--seeds={text}: {last} is too large; valid: below 2^63")
        if last < first:
            raise ConfigError(f"--seeds={text}: the range {part!r} runs backwards; valid: {last}-{first}")
        if len(seeds) + last - first >= MAX_SEEDS:
            raise ConfigError(f"--seeds={text}: too many; valid: up to {MAX_SEEDS}")
        seeds.extend(range(first, last + 1))
    return seeds


def parse_labels(text: str, class_names: Sequence[str]) -> list[int]:
    """`Biking,0-2,7` -> the labels, in the order in which they are written; `all` -> every class.

    Args:
      text: names of classes, numbers or ranges of numbers, separated by commas. A name may itself hold commas, or look
        like a number; names come first.
      class_names: in the order of the labels; none of an unconditional generator.
    Raises:
      ConfigError: no such class; the message lists them.
    """
    if not class_names:
        raise ConfigError(f"--labels={text}: the generator was not trained with classes; leave --labels out")
    by_name = {name: label for label, name in enumerate(class_names)}
    if text.strip() in by_name:
        return [by_name[text.strip()]]
    if text.strip() == "all":
        return list(range(len(class_names)))
    labels: list[int] = []
    for part in text.split(","):
        name = part.strip()
        match = re.fullmatch(r"(\d+)(?:-(\d+))?", name, re.ASCII)
        if name in by_name:
            labels.append(by_name[name])
        elif match and int(match[1]) <= int(match[2] or match[1]) < len(class_names):
            labels.extend(range(int(match[1]), int(match[2] or match[1]) + 1))
        else:
            raise ConfigError(
                f"--labels={text}: no class {name!r}; valid: all, 0 to {len(class_names) - 1}, {', '.join(class_names)}"
            )
    return labels
