"""Numbers of frames, pixels and clips of each level.

Configuration, data, networks and tests use this module. Levels are numbered 1..L as in the paper (arXiv 1811.09245).
Each level doubles the resolution of the previous one. The subsampling layer between two levels keeps every s_t-th frame
of every s_n-th clip (section on the subsampling layers: `h[::s_n, :, b_t::s_t]`).
"""

from __future__ import annotations

import dataclasses
import itertools
import math

from tganv2_tf.errors import ConfigError

FIRST_LEVEL_BLOCKS = 3  # up blocks of level 1; every later level has one


@dataclasses.dataclass(frozen=True)
class Level:
    """One level of the pyramid.

    Attributes:
      number: 1..L.
      frames: Number of frames per clip, T_l.
      size: Height and width in pixels.
      clip_stride: The level keeps every clip_stride-th clip of level 1.
    """

    number: int
    frames: int
    size: int
    clip_stride: int

    def batch_size(self, first_batch_size: int) -> int:
        """Returns N_l, given N_1."""
        return first_batch_size // self.clip_stride


@dataclasses.dataclass(frozen=True)
class PyramidSpec:
    """Sizes of all levels in training.

    Attributes:
      num_frames: Number of frames at level 1, T.
      resolution: Height and width of the last level in pixels.
      frame_strides: s_t of each subsampling layer, L - 1 integers.
      batch_strides: s_n of each subsampling layer, L - 1 integers.

    Raises:
      ConfigError: The strides are invalid, or a size is not divisible as required.
    """

    num_frames: int
    resolution: int
    frame_strides: tuple[int, ...]
    batch_strides: tuple[int, ...]

    def __post_init__(self) -> None:
        text = ",".join(map(str, self.frame_strides))
        if len(self.batch_strides) != len(self.frame_strides):
            raise ConfigError(
                f"--batch_strides={','.join(map(str, self.batch_strides))} has {len(self.batch_strides)} strides and "
                f"--frame_strides={text} has {len(self.frame_strides)}; both need one stride between each two levels"
            )
        for name in ("frame_strides", "batch_strides"):
            strides = getattr(self, name)
            if any(stride < 1 for stride in strides):
                raise ConfigError(f"--{name}={','.join(map(str, strides))}: every stride must be at least 1")
        divisor = math.prod(self.frame_strides)
        if self.num_frames < 1 or self.num_frames % divisor:
            raise ConfigError(
                f"--num_frames={self.num_frames} is not divisible by --frame_strides={text}; "
                f"valid: a multiple of {divisor}"
            )
        if self.resolution < self.scale or self.resolution % self.scale:
            raise ConfigError(
                f"--resolution={self.resolution} cannot be reached in {self.num_up_blocks} doublings "
                f"({self.num_levels} levels); valid: a multiple of {self.scale}"
            )

    @property
    def num_levels(self) -> int:
        """Number of levels, L."""
        return len(self.frame_strides) + 1

    @property
    def num_up_blocks(self) -> int:
        """Number of up blocks of the generator."""
        return self.num_levels - 1 + FIRST_LEVEL_BLOCKS

    @property
    def scale(self) -> int:
        """Pixels of the last level per position of the base map."""
        return 2**self.num_up_blocks

    @property
    def base_size(self) -> int:
        """Height and width of the base map, to which the latent is mapped."""
        return self.resolution // self.scale

    @property
    def levels(self) -> tuple[Level, ...]:
        """The levels in order; `levels[0]` is level 1."""
        frame_strides = itertools.accumulate((1, *self.frame_strides), lambda a, b: a * b)
        clip_strides = itertools.accumulate((1, *self.batch_strides), lambda a, b: a * b)
        return tuple(
            Level(number, self.num_frames // frame_stride, self.resolution >> (self.num_levels - number), clip_stride)
            for number, (frame_stride, clip_stride) in enumerate(zip(frame_strides, clip_strides), start=1)
        )
