"""Class names in messages: quoting (they may contain commas), and the difference of two lists."""

from __future__ import annotations

from collections.abc import Sequence

MAX_LISTED = 10  # maximum number of classes listed in a message


def quoted(names: Sequence[str], most: int | None = None) -> str:
    """Formats names as `'a', 'b, c'`; of more than `most` names, only the first ones and the number of others."""
    shown = ", ".join(map(repr, names[:most]))
    return shown if most is None or len(names) <= most else f"{shown} and {len(names) - most} more"


def difference(names: Sequence[str], others: Sequence[str], where: str, elsewhere: str) -> str:
    """Describes how two lists of classes, in the order of their labels, differ; empty if they are equal.

    Args:
      names: the first list.
      others: the second list.
      where: name of the owner of the first list, as in `only in WHERE: 'a'`.
      elsewhere: name of the owner of the second list.
    """
    lists = ((where, names, others), (elsewhere, others, names))
    only = [(place, [name for name in own if name not in other]) for place, own, other in lists]
    if any(missing for _, missing in only):
        return "; ".join(f"only in {place}: {quoted(missing, MAX_LISTED)}" for place, missing in only if missing)
    for label, (name, other) in enumerate(zip(names, others)):
        if name != other:
            return f"label {label} is {name!r} in {where} and {other!r} in {elsewhere}"
    return ""
