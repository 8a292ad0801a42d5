"""Names of classes in messages: quoted, as they may hold commas; and what tells two lists of them apart."""

from __future__ import annotations

from collections.abc import Sequence

MOST = 10  # of 101 classes, for example, a line names the first ones


def quoted(names: Sequence[str], most: int | None = None) -> str:
    """`'a', 'b, c'`; if there are more than `most` names, the first ones and how many follow."""
    shown = ", ".join(map(repr, names[:most]))
    return shown if most is None or len(names) <= most else f"{shown} and {len(names) - most} more"


def difference(names: Sequence[str], others: Sequence[str], where: str, elsewhere: str) -> str:
    """How two lists of classes differ, each in the order of its labels; empty if they are equal.

    Args:
      names: of the first list.
      others: of the second one.
      where: what has the first list, as in `only in WHERE: 'a'`.
      elsewhere: what has the second one.
    """
    lists = ((where, names, others), (elsewhere, others, names))
    only = [(place, [name for name in own if name not in other]) for place, own, other in lists]
    if any(missing for _, missing in only):
        return "; ".join(f"only in {place}: {quoted(missing, MOST)}" for place, missing in only if missing)
    for label, (name, other) in enumerate(zip(names, others)):
        if name != other:
            return f"label {label} is {name!r} in {where} and {other!r} in {elsewhere}"
    return ""
