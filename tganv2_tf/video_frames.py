"""A video while it is being decoded: its frames and, once all of them have been read, its damage."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np


@dataclasses.dataclass
class Damage:
    """What is damaged or missing in a video, known once all of its frames have been read.

    Attributes:
      header_frames: number of frames by the header of the file, or by its length; 0 if it has neither.
      num_frames: frames that were decoded.
      bad_packets: packets that could not be read or decoded, or only with errors.
      incomplete: whether the video ends before its header says.
    """

    header_frames: int = 0
    num_frames: int = 0
    bad_packets: int = 0
    incomplete: bool = False

    @property
    def reason(self) -> str:
        """What is wrong, in one line; empty if nothing is."""
        if not self.bad_packets and not self.incomplete:
            return ""
        expected = f" of the {self.header_frames} that its header promises" if self.header_frames else ""
        errors = f", {self.bad_packets} packets with errors" if self.bad_packets else ""
        return f"damaged: {self.num_frames} frames{expected} were decoded{errors}"


class VideoFrames(NamedTuple):
    """A video being decoded.

    Attributes:
      fps: frames per second; 0 if unknown.
      frames: each uint8 [height, width, 3], RGB. Raises VideoError if nothing can be decoded.
      damage: complete when `frames` is exhausted.
    """

    fps: float
    frames: Iterator[np.ndarray]
    damage: Damage = Damage()
