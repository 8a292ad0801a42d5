"""Data types for a video that is being decoded: its frames and its damage."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np


@dataclasses.dataclass
class Damage:
    """Damage of a video, complete once all frames have been read.

    Attributes:
      header_frames: number of frames according to the file's header or duration; 0 if unknown.
      num_frames: number of decoded frames.
      bad_packets: number of packets that could not be read or decoded without errors.
      incomplete: whether the video ends earlier than its header states.
    """

    header_frames: int = 0
    num_frames: int = 0
    bad_packets: int = 0
    incomplete: bool = False

    @property
    def reason(self) -> str:
        """One-line description of the damage; empty if there is none."""
        if not self.bad_packets and not self.incomplete:
            return ""
        expected = f" of the {self.header_frames} that its header states" if self.header_frames else ""
        errors = f", {self.bad_packets} packets with errors" if self.bad_packets else ""
        return f"damaged: {self.num_frames} frames{expected} were decoded{errors}"


class VideoFrames(NamedTuple):
    """A video being decoded.

    Attributes:
      fps: frames per second; 0 if unknown.
      frames: iterator of RGB frames, uint8 [height, width, 3]. Raises VideoError if nothing can be decoded.
      damage: complete when `frames` is exhausted.
    """

    fps: float
    frames: Iterator[np.ndarray]
    damage: Damage = Damage()
