"""Lists the commands.

python -m tganv2_tf
"""

from __future__ import annotations

import ast
import difflib
import pathlib
import sys
from collections.abc import Sequence

from tganv2_tf import cli_flags

ROOT = pathlib.Path(__file__).resolve().parent.parent
# Folders with commands, and what they are for; those that are not there are left out, as benchmarks of an installation.
GROUPS = {
    "tganv2_tf": "Train, generate, score, serve",
    "data_prep": "Prepare videos for training",
    "benchmarks": "Measure the method",
}


def commands(folder: str) -> dict[str, str]:
    """What stands after `python -m` -> the first line of the module's docstring, of all commands under a folder.

    A command is a module that hands itself to `cli_flags.run`; it is read, not imported.
    """
    found = {}
    for path in sorted((ROOT / folder).rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        if path != pathlib.Path(__file__).resolve() and "sys.exit(cli_flags.run(" in text:
            name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            found[name] = (ast.get_docstring(ast.parse(text)) or "").partition("\n")[0]
    return found


def listing() -> str:
    """All commands, a line each."""
    groups = {title: commands(folder) for folder, title in GROUPS.items()}
    second = max(len(name) for group in groups.values() for name in group) + 4
    lines = ["TGANv2, a generative adversarial network for videos. python -m COMMAND --help tells more of each."]
    for title, group in groups.items():
        if group:
            lines += ["", title, *cli_flags.table(list(group.items()), second)]
    return "\n".join(lines)


def main(argv: Sequence[str]) -> int:
    """Prints the list. Returns 2, and says what is meant, where there are arguments."""
    if not argv or argv[0] in ("--help", "-h"):
        print(listing())
        return 0
    known = [name for folder in GROUPS for name in commands(folder)]
    short = {name.rpartition(".")[2]: name for name in known}
    near = difflib.get_close_matches(argv[0], [*short, *known], 1)
    advice = (
        f"did you mean python -m {short.get(near[0], near[0])}?" if near else "it takes none, and lists the commands"
    )
    print(f"tganv2_tf: unexpected argument {argv[0]!r}: {advice}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
