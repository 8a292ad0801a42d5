"""Command lines: option dataclasses become absl flags, flags become instances, errors become one line.

A command declares its options as frozen dataclasses whose fields are created by `tganv2_tf.options.option`. `run`
defines one absl flag per field, reads `--flagfile` and the command line (later values win), builds the instances, which
validate themselves, and calls the command. There are no global flags: each call parses into its own `FlagValues`.
"""

from __future__ import annotations

import dataclasses
import difflib
import logging as std_logging
import os
import re
import shutil
import sys
import textwrap
import traceback
import typing
from collections.abc import Sequence
from typing import Any, Callable

from absl import flags, logging

from tganv2_tf.cli import flag_files, quiet, tensorflow_import
from tganv2_tf.errors import ConfigError, UserError
from tganv2_tf.options import Variants
from tganv2_tf.runtime import lanes
from tganv2_tf.storage import files

OWN_PACKAGES = ("tganv2_tf", "data_prep", "benchmarks")
USAGE = (
    "Usage: python -m {} [--name=value ...]. Switches are --name and --noname. --flagfile=FILE reads flags from a "
    "file, or from a recipe of the package; later values win."
)
INT_TUPLE = tuple[int, ...]
OptionType = typing.Union[type, Variants]
VALID = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "text",
    INT_TUPLE: "whole numbers separated by commas, or empty for none",
}


class _IntTupleParser(flags.ArgumentParser):
    """Parses `2,2,2` to (2, 2, 2), and the empty string to ()."""

    def parse(self, argument: Any) -> tuple[int, ...]:
        if isinstance(argument, (tuple, list)):
            return tuple(argument)
        return tuple(int(part) for part in argument.split(",") if part.strip())

    def flag_type(self) -> str:
        return "comma separated integers"


class _IntTupleSerializer(flags.ArgumentSerializer):
    def serialize(self, value: tuple[int, ...]) -> str:
        return ",".join(map(str, value))


def _define(values: flags.FlagValues, field: dataclasses.Field, kind: Any) -> None:
    default = None if field.default is dataclasses.MISSING else field.default
    choices = field.metadata.get("choices")
    text = field.metadata["help"]
    if choices:
        flags.DEFINE_enum(field.name, default, choices, text, flag_values=values)
    elif kind is bool:
        flags.DEFINE_boolean(field.name, default, text, flag_values=values)
    elif kind is int:
        flags.DEFINE_integer(field.name, default, text, flag_values=values)
    elif kind is float:
        flags.DEFINE_float(field.name, default, text, flag_values=values)
    elif kind is str:
        flags.DEFINE_string(field.name, default, text, flag_values=values)
    elif kind == INT_TUPLE:
        flags.DEFINE(_IntTupleParser(), field.name, default, text, flag_values=values, serializer=_IntTupleSerializer())
    else:
        raise TypeError(f"{field.name}: no flag for the type {kind}")


def _define_all(values: flags.FlagValues, option_types: Sequence[OptionType]) -> dict[str, Any]:
    """Defines the flags of all fields, of variants too; returns their types by name."""
    kinds: dict[str, Any] = {}
    for option_type in plain_types(option_types):
        hints = typing.get_type_hints(option_type)
        for field in dataclasses.fields(option_type):
            if field.name not in kinds:  # variants share fields
                kinds[field.name] = hints[field.name]
                _define(values, field, hints[field.name])
    for variants in option_types:
        if isinstance(variants, Variants):
            kinds[variants.flag] = str
            flags.DEFINE_enum(variants.flag, *_selection(variants), variants.help, flag_values=values)
    return kinds


def plain_types(option_types: Sequence[OptionType]) -> list[type]:
    """Returns the option dataclasses, with all classes of variants in their place."""
    listed = [list(each.classes.values()) if isinstance(each, Variants) else [each] for each in option_types]
    return [option_type for types in listed for option_type in types]


def _selection(variants: Variants) -> tuple[str, list[str]]:
    """Returns the default and the choices of the flag that selects a variant."""
    return next(iter(variants.classes)), list(variants.classes)


def _selected(values: flags.FlagValues, variants: Variants) -> type:
    """Returns the selected class. Raises ConfigError if a flag is set that only other classes have."""
    name = values[variants.flag].value
    own = {field.name for field in dataclasses.fields(variants.classes[name])}
    for other, option_type in variants.classes.items():
        for field in dataclasses.fields(option_type):
            if field.name not in own and values[field.name].present:
                raise ConfigError(f"--{field.name} is a setting of --{variants.flag}={other}; {name} does not have it")
    return variants.classes[name]


def parse(argv: Sequence[str], *option_types: OptionType) -> list[Any]:
    """Builds one instance of every option dataclass from a command line.

    Args:
      argv: the arguments, without the program's name.
      *option_types: frozen dataclasses whose fields are created by `options.option`, or `Variants` of such.
    Returns:
      The instances, in the order of `option_types`.
    Raises:
      ConfigError: a flag is unknown, unreadable, missing, or rejected by the dataclass; the message names the flag and
        what is valid.
    """
    values = flags.FlagValues()
    kinds = _define_all(values, option_types)
    expanded = list(flag_files.expand(argv))
    try:
        rest = values(["", *(argument for argument, _ in expanded)])[1:]
    except flags.IllegalFlagValueError as error:
        message = str(error)
        name = message.partition("--")[2].partition("=")[0]
        known = kinds.get(name)
        valid = "" if known is None or "should be one of" in message else f"; valid: {VALID[known]}"
        raise ConfigError(f"{_origin(name, expanded)}{message}{valid}") from error
    except flags.UnrecognizedFlagError as error:
        switches = [f"no{name}" for name, kind in kinds.items() if kind is bool]
        unknown = _unknown(error.flagname, [*kinds, *switches])
        raise ConfigError(f"{_origin(error.flagname, expanded)}{unknown}") from error
    except (flags.Error, ValueError) as error:  # absl has a bare ValueError for --noflag=value
        raise ConfigError(" ".join(str(error).split())) from error
    if rest:
        where = _origin(rest[0], expanded)
        raise ConfigError(f"{where}unexpected argument {rest[0]!r}: options are written --name=value")
    selected = [_selected(values, each) if isinstance(each, Variants) else each for each in option_types]
    other_defaults = {name: value for each in selected for name, value in getattr(each, "DEFAULTS", {}).items()}
    instances = []
    for option_type in selected:
        chosen = {}
        for field in dataclasses.fields(option_type):
            default = None if field.default is dataclasses.MISSING else field.default
            chosen[field.name] = _chosen(values[field.name], other_defaults.get(field.name, default))
        for name, value in chosen.items():
            if value is None:
                raise ConfigError(f"--{name} is missing: {values[name].help}")
        instances.append(option_type(**chosen))
    return instances


def _chosen(flag: flags.Flag, default: Any) -> Any:
    """Returns a flag's value or the default. Expands `~` if the user set it: shells do not expand it after `=`."""
    if not flag.present:
        return default
    return os.path.expanduser(flag.value) if isinstance(flag.value, str) else flag.value


def _origin(name: str, expanded: Sequence[tuple[str, str]]) -> str:
    """Returns `FILE: ` if a flag or positional argument was last set in a flag file; else the empty string."""
    files = [file for argument, file in expanded if argument.lstrip("-").partition("=")[0] == name.partition("=")[0]]
    return f"{files[-1]}: " if files and files[-1] else ""


def _unknown(name: str, known: Sequence[str]) -> str:
    """Returns the error message for an unknown flag."""
    near = difflib.get_close_matches(name, [*known, "flagfile", "help"], 1)
    return f"--{name}: no such flag; " + (f"did you mean --{near[0]}?" if near else "--help lists all")


def table(rows: Sequence[tuple[str, str]], second: int) -> list[str]:
    """Formats two columns, the second starting at character `second`, wrapped to the terminal's width."""
    width, lines = _terminal_width(), []
    for first, text in rows:
        wrapped = textwrap.wrap(text, width - second, break_on_hyphens=False) or [""]
        lines += [f"  {first:<{second - 2}}{wrapped[0]}", *(" " * second + line for line in wrapped[1:])]
    return lines


def _terminal_width() -> int:
    return min(max(shutil.get_terminal_size((100, 24)).columns, 60), 120)


def _meaning(field: dataclasses.Field) -> str:
    """Returns a flag's help with its choices and default."""
    default, choices = field.default, field.metadata.get("choices")
    notes = ["|".join(choices)] if choices else []
    if default is dataclasses.MISSING:
        notes.append("required")
    elif default not in ("", ()):
        shown = ",".join(map(str, default)) if isinstance(default, tuple) else str(default)
        notes.append(f"default {shown.lower() if isinstance(default, bool) else shown}")
    return field.metadata["help"] + (f" ({'; '.join(notes)})" if notes else "")


def _filled(paragraph: str) -> str:
    """Wraps a paragraph to the terminal's width, unless it has indented lines."""
    if any(line.startswith(" ") for line in paragraph.splitlines()):
        return paragraph
    return textwrap.fill(" ".join(paragraph.split()), _terminal_width(), break_on_hyphens=False)


def help_text(command: str, summary: str, option_types: Sequence[OptionType]) -> str:
    """Returns the output of `--help`: a summary, examples, and the flags in groups.

    Each option dataclass is a group; the first line of its docstring is the title. A field with `group` in its metadata
    starts a new group.

    Args:
      command: module name, as after `python -m`.
      summary: the module's docstring. Paragraphs with lines that begin with `python -m` are examples.
      option_types: the option dataclasses.
    """
    first, *others = re.split(r"\n\s*\n", summary.strip())
    examples = [paragraph for paragraph in others if re.search(r"^ *python -m ", paragraph, re.MULTILINE)]
    lines = [_filled(first)]
    if examples:
        lines += ["", "Examples", *textwrap.indent("\n".join(examples), "  ").splitlines()]
    for paragraph in others:
        if paragraph not in examples:
            lines += ["", _filled(paragraph)]
    lines += ["", _filled(USAGE.format(command))]
    groups: dict[str, list[tuple[str, str]]] = {}
    for variants in option_types:
        if isinstance(variants, Variants) and len(variants.classes) > 1:
            default, names = _selection(variants)
            meaning = f"{variants.help} ({'|'.join(names)}; default {default})"
            groups.setdefault(variants.flag.capitalize(), []).append((f"--{variants.flag}", meaning))
    for option_type in plain_types(option_types):
        group = (option_type.__doc__ or option_type.__name__).strip().splitlines()[0].rstrip(".")
        for field in dataclasses.fields(option_type):
            group = field.metadata.get("group") or group
            groups.setdefault(group, []).append((f"--{field.name}", _meaning(field)))
    second = max(len(name) for rows in groups.values() for name, _ in rows) + 4
    for title, rows in groups.items():
        lines += ["", _filled(title), *table(rows, second)]
    return "\n".join(lines)


def run(
    main: Callable[..., int | None],
    option_types: Sequence[OptionType],
    command: str,
    summary: str,
    argv: Sequence[str] | None = None,
) -> int:
    """Runs a command. Returns main's exit status, or 1 for `UserError` or `OSError`, 2 for wrong flags, 130 for Ctrl-C.

    Args:
      main: called with one instance of each option dataclass.
      option_types: the option dataclasses.
      command: module name, as after `python -m`.
      summary: shown by `--help`.
      argv: the arguments; None = those of the process.
    """
    return _status_of(main, option_types, command, summary, sys.argv[1:] if argv is None else list(argv))


def _check_destinations(options: Sequence[Any]) -> None:
    """Raises UserError if an output of the command cannot be written."""
    for instance in options:
        for field in dataclasses.fields(instance):
            path, kind = getattr(instance, field.name), field.metadata["destination"]
            if path and kind:
                is_folder = kind == "folder" or path.endswith("/")
                files.check_destination(path, f"--{field.name}={path}", is_folder=is_folder)


def _status_of(
    main: Callable[..., int | None], option_types: Sequence[OptionType], command: str, summary: str, argv: Sequence[str]
) -> int:
    """Runs a command and reports its errors; see `run`."""
    program = command.rpartition(".")[2]
    try:
        if any(argument in ("--help", "-help", "-h", "--helpfull", "--helpshort") for argument in argv):
            print(help_text(command, summary, option_types))
            status = 0
        else:
            quiet.install()
            tensorflow_import.install()
            flags.FLAGS.mark_as_parsed()  # required by absl's logging; there are no global flags
            logging.use_absl_handler()
            logging.set_verbosity(logging.INFO)
            std_logging.getLogger("tensorflow").setLevel(std_logging.WARNING)
            options = parse(argv, *option_types)
            _check_destinations(options)
            status = main(*options) or 0
        sys.stdout.flush()  # raises BrokenPipeError here if the reader is gone (`... | head`)
        return status
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        print(f"{program}: interrupted", file=sys.stderr)
        return 130
    except (UserError, OSError) as error:
        if os.environ.get("TGANV2_TRACEBACK"):
            traceback.print_exc()
        message = str(error)
        if isinstance(error, OSError) and error.strerror:
            message = error.strerror + (f": {error.filename}" if error.filename else "")
        print(f"{program}: {message}", file=sys.stderr)
        return 2 if isinstance(error, ConfigError) else 1
    except ImportError as error:
        if (error.name or "").partition(".")[0] in OWN_PACKAGES:  # a bug
            raise
        if os.environ.get("TGANV2_TRACEBACK"):
            traceback.print_exc()
        # TensorFlow's message contains a traceback; the reason precedes its last paragraph.
        reasons = re.findall(r"^ImportError: (.+)", str(error), re.MULTILINE) or str(error).splitlines()
        reason = reasons[-1] if reasons else type(error).__name__
        print(f"{program}: {reason}; to install missing packages: {lanes.install_command()}", file=sys.stderr)
        return 1
