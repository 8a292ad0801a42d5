"""Limits and validation of the explorer's requests. Clients can send values that the page's controls cannot.

Imports no TensorFlow, because the limits are flags.
"""

from __future__ import annotations

import dataclasses
import re
from typing import Any

from tganv2_tf.errors import UserError
from tganv2_tf.options import option, require

MAX_STEPS = 15  # from seed to seed
MAX_FPS = 30
MAX_TEXT = 1000  # characters, e.g. of a list of seeds
MAX_SEED = 2**63 - 1


@dataclasses.dataclass(frozen=True)
class Limits:
    """Limits; larger requests are rejected."""

    max_videos: int = option("maximum videos per request", 64)
    max_frames: int = option("maximum frames per video; 0 = eight times those in training", 0)
    max_megabytes: int = option("maximum size of the uncompressed frames per request, in 10^6 bytes", 256)
    max_waiting: int = option("maximum waiting requests; they are processed one at a time", 64)
    max_connections: int = option("maximum simultaneous connections; a browser opens up to six", 512)
    max_request_kilobytes: int = option("maximum size of a request body, in 10^3 bytes", 64)

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            least = 0 if field.name == "max_frames" else 1
            value = getattr(self, field.name)
            require(value >= least, field.name, value, f"a whole number of at least {least}")

    def check_size(self, num_videos: int, num_frames: int, size: int) -> None:
        """Raises UserError if there are too many videos, or too many bytes at `size` x `size` pixels."""
        if num_videos > self.max_videos:
            raise UserError(f"{num_videos} videos are too many at once; valid: up to {self.max_videos}")
        megabytes = num_videos * num_frames * size * size * 3 / 1e6
        if megabytes > self.max_megabytes:
            raise UserError(
                f"{num_videos} videos of {num_frames} frames of {size}x{size} pixels are {megabytes:,.0f} MB; valid: "
                f"up to {self.max_megabytes} MB; request fewer videos or frames"
            )


def whole(name: str, value: Any, least: int, most: int) -> int:
    """Validates an integer from `least` to `most`; JSON may contain it as 3.0.

    Raises:
      UserError: the value is invalid.
    """
    return int(number(name, value, least, most, whole=True))


def number(name: str, value: Any, least: float, most: float, whole: bool = False) -> float:
    """Validates a number from `least` to `most`.

    Raises:
      UserError: the value is invalid.
    """
    valid = isinstance(value, (int, float)) and least <= value <= most
    if not valid or (whole and value != int(value)):
        kind = "a whole number" if whole else "a number"
        raise UserError(f"{name}: {str(value)[:40]!r} is not valid; valid: {kind} from {least} to {most}")
    return value


def choice(name: str, value: Any, choices: tuple[str, ...]) -> str:
    """Validates one of several choices.

    Raises:
      UserError: the value is invalid.
    """
    if not (isinstance(value, str) and value in choices):
        raise UserError(f"{name}: {str(value)[:40]!r} is not valid; valid: {', '.join(choices)}")
    return value


def text(name: str, value: Any) -> str:
    """Validates a text of up to MAX_TEXT characters.

    Raises:
      UserError: the value is not a text, or too long.
    """
    if not isinstance(value, str) or len(value) > MAX_TEXT:
        raise UserError(f"{name}: valid: text of up to {MAX_TEXT} characters")
    return value


def one_seed(name: str, value: Any) -> int:
    """Parses a text that contains one seed.

    Raises:
      UserError: the value is invalid.
    """
    written = text(name, value).strip()
    return whole(name, int(written) if re.fullmatch("[0-9]+", written) else written, 0, MAX_SEED)
