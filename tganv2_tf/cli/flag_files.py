"""Flag files: one flag per line, comment lines with `#` or `//`, and includes by `--flagfile=NAME`."""

from __future__ import annotations

import pathlib
from collections.abc import Iterator, Sequence

from tganv2_tf.errors import ConfigError

PACKAGE = pathlib.Path(__file__).resolve().parents[1]
# An installed package contains the recipes; in a checkout (or editable installation) they are beside the package.
FLAGS_DIR = PACKAGE / "recipes" if (PACKAGE / "recipes").is_dir() else PACKAGE.parent / "flags"
FLAG = ("--flagfile", "-flagfile")


def expand(argv: Sequence[str], including: tuple[pathlib.Path, ...] = ()) -> Iterator[tuple[str, str]]:
    """Replaces each `--flagfile=NAME` in place by the lines of that file.

    A file is searched for in the working folder, beside the including file, and among the recipes.

    Args:
      argv: the arguments of a command, or the lines of a flag file.
      including: the chain of including flag files, outermost first.
    Yields:
      Pairs of an argument and the flag file that contains it (empty for the command line).
    Raises:
      ConfigError: a file does not exist, is not text, or includes itself. The message is one line and names the file
        with the faulty line.
    """
    source = str(including[-1]) if including else ""
    arguments = iter(argv)
    for argument in arguments:
        flag, equals, name = argument.partition("=")
        if flag not in FLAG:
            yield argument, source
            continue
        if not equals:
            name = next(arguments, "")
        try:
            if not name:
                raise ConfigError("--flagfile: the name of the file is missing")
            path = _find(name, including)
            lines = _lines(path)
        except ConfigError as error:
            raise ConfigError(f"{source}: {error}" if source else str(error)) from error
        yield from expand(lines, (*including, path))


def _find(name: str, including: tuple[pathlib.Path, ...]) -> pathlib.Path:
    path = pathlib.Path(name).expanduser()
    places = [path]
    if not path.is_absolute():
        places += [including[-1].parent / path] if including else []
        places += [FLAGS_DIR / path] if path.parent == pathlib.Path(".") else []
    found = next((place for place in places if place.is_file()), None)
    if found is None:
        known = ", ".join(sorted(recipe.name for recipe in FLAGS_DIR.glob("*.flags"))) or "none"
        raise ConfigError(f"--flagfile={name}: no such file; recipes in {FLAGS_DIR}: {known}")
    for number, file in enumerate(including):
        if file.samefile(found):
            cycle = " -> ".join(map(str, (*including[number:], found)))
            raise ConfigError(f"--flagfile={name}: flag files include each other: {cycle}")
    return found


def _lines(path: pathlib.Path) -> list[str]:
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except UnicodeDecodeError as error:
        raise ConfigError(f"--flagfile={path}: not a text file") from error
    return [line for line in lines if line and not line.startswith(("#", "//"))]
