"""Fields of option dataclasses, and the check of their values."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from tganv2_tf.errors import ConfigError


def option(
    help: str,
    default: Any = dataclasses.MISSING,
    choices: tuple[str, ...] = (),
    group: str = "",
    destination: str = "",
    system: str = "",
) -> Any:
    """Defines a dataclass field that is also a flag.

    Args:
      help: One line with the meaning and units.
      default: Default value; a flag without one is required.
      choices: Valid values of a text flag.
      group: Heading in `--help` for this field and the following ones; empty keeps the previous heading.
      destination: `file` or `folder` if the flag names the output of the command. `cli.run` then checks that it
        can be written before the command starts.
      system: The only system (`--system`) that has this setting; empty if all have it.
    """
    metadata = {"help": help, "choices": choices, "group": group, "destination": destination, "system": system}
    return dataclasses.field(default=default, metadata=metadata)


def require(condition: bool, name: str, value: Any, valid: str) -> None:
    """Raises ConfigError with the flag's name, its value and the valid values if `condition` is false."""
    if not condition:
        shown = ",".join(map(str, value)) if isinstance(value, tuple) else value
        raise ConfigError(f"--{name}={shown}: valid: {valid}")


@dataclasses.dataclass(frozen=True)
class Variants:
    """Option dataclasses of which a flag selects one. The command receives an instance of the selected class.

    Classes may share fields of equal type. A flag that only other classes have is an error. A class may have an
    attribute `DEFAULTS`, a mapping with other defaults for flags of the command's other option classes.

    Attributes:
      flag: Name of the flag.
      help: Its meaning.
      classes: The classes by value of the flag; the first is the default.
    """

    flag: str
    help: str
    classes: Mapping[str, type]
