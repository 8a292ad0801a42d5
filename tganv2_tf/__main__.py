"""Lists and runs the commands: `tganv2 train` is `python -m tganv2_tf.train`.

python -m tganv2_tf
"""

from __future__ import annotations

import ast
import difflib
import os
import pathlib
import runpy
import sys
from collections.abc import Sequence

from tganv2_tf import cli

ROOT = pathlib.Path(__file__).resolve().parent.parent
# Folders with commands, and their titles. Missing folders (e.g. benchmarks in an installed package) are skipped.
GROUPS = {
    "tganv2_tf": "Train, generate, score, serve",
    "data_prep": "Prepare videos for training",
    "benchmarks": "Measure the method",
}


def commands(folder: str) -> dict[str, str]:
    """Maps the module name of each command in a folder to the first line of its docstring.

    A command is a module that calls `cli.run` as a script. Modules are parsed, not imported.
    """
    found = {}
    for path in sorted((ROOT / folder).rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        if path != pathlib.Path(__file__).resolve() and "sys.exit(cli.run(" in text:
            name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            found[name] = (ast.get_docstring(ast.parse(text)) or "").partition("\n")[0]
    return found


def listing() -> str:
    """Returns a list of all commands, one per line."""
    groups = {title: commands(folder) for folder, title in GROUPS.items()}
    second = max(len(name) for group in groups.values() for name in group) + 4
    lines = ["TGANv2, a generative adversarial network for videos. Run: tganv2 COMMAND, or python -m COMMAND; --help"]
    for title, group in groups.items():
        if group:
            lines += ["", title, *cli.table(list(group.items()), second)]
    lines += [
        "",
        "tganv2 also accepts the last part of a name: tganv2 train --help shows the flags of tganv2_tf.train.",
    ]
    return "\n".join(lines)


def find(name: str) -> str:
    """Returns the module of a command, given its full name or the last part of it.

    Raises:
      LookupError: there is no such command, or several; the message says what is valid.
    """
    known = [command for folder in GROUPS for command in commands(folder)]
    if name in known:
        return name
    matches = [command for command in known if command.rpartition(".")[2] == name]
    if len(matches) == 1:
        return matches[0]
    if matches:
        raise LookupError(f"{name} is the last part of several commands: {', '.join(matches)}")
    short = [command.rpartition(".")[2] for command in known]
    near = difflib.get_close_matches(name, [*short, *known], 1)
    advice = f"did you mean {near[0]}?" if near else "run tganv2 without arguments for a list"
    raise LookupError(f"{name!r} is not a command; {advice}")


def main(argv: Sequence[str]) -> int:
    """Lists the commands, or runs one in this process as `python -m` would.

    Returns:
      The exit status: 0 for the list, 2 for an unknown command. A command itself raises SystemExit.
    """
    if not argv or argv[0] in ("--help", "-h"):
        print(listing())
        return 0
    try:
        module = find(argv[0])
    except LookupError as error:
        print(f"tganv2: {error.args[0]}", file=sys.stderr)
        return 2
    if str(ROOT) not in sys.path:
        sys.path.append(str(ROOT))  # an editable installation does not include the benchmarks
    sys.argv = [module, *argv[1:]]  # runpy replaces the first by the file's path
    runpy.run_module(module, run_name="__main__", alter_sys=True)
    return 0


def console() -> int:
    """Entry point of the console command `tganv2`."""
    try:
        status = main(sys.argv[1:])
        sys.stdout.flush()
        return status
    except BrokenPipeError:  # `tganv2 | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


if __name__ == "__main__":
    sys.exit(console())
