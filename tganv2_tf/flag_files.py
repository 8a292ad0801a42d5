"""Flag files: a flag a line, comments after `#` or `//`, and further files by `--flagfile=NAME`."""

from __future__ import annotations

import pathlib
from collections.abc import Iterator, Sequence

from tganv2_tf.errors import ConfigError

PACKAGE = pathlib.Path(__file__).resolve().parent
# An installed package has the recipes inside; a checkout, and an editable installation of it, beside it.
FLAGS_DIR = PACKAGE / "recipes" if (PACKAGE / "recipes").is_dir() else PACKAGE.parent / "flags"
FLAG = ("--flagfile", "-flagfile")


def expand(argv: Sequence[str], including: tuple[pathlib.Path, ...] = ()) -> Iterator[tuple[str, str]]:
    """Replaces each `--flagfile=NAME` by the lines of that file, in its place.

    A name is looked for in the working folder, next to the file that includes it, and among the recipes.

    Args:
      argv: the arguments of a command, or the lines of a flag file.
      including: the flag files that lead here, outermost first.
    Yields:
      (argument, flag file that it is from), the latter empty for the command line.
    Raises:
      ConfigError: no such file, one that is not text, or files that include each other. The message is one line and
        names the file with the faulty line.
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
