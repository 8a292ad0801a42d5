"""Colours, backgrounds and antialiased masks for rendering the synthetic data set."""

from __future__ import annotations

import colorsys
from collections.abc import Callable
from typing import Any, NamedTuple

import cv2
import numpy as np

HUES = (0.0, 0.12, 0.33, 0.5, 0.62, 0.85)  # red, yellow, green, cyan, blue, magenta
SUPERSAMPLING = 4
SUBPIXEL_BITS = 4


class Streams(NamedTuple):
    """Random generators shared by the videos of a class, by those of a group, and used by one clip only."""

    class_rng: np.random.Generator
    group_rng: np.random.Generator
    clip_rng: np.random.Generator

    @classmethod
    def of(cls, seed: int, class_index: int, group: int, clip: int) -> Streams:
        numbers = [seed, class_index, group, clip]
        return cls(*(np.random.default_rng(numbers[:count]) for count in (2, 3, 4)))


class Scene(NamedTuple):
    """Colour and background of a video, with values in [0, 1].

    Attributes:
      colour: float64 [3], RGB.
      background: float64 [height, width, 3].
    """

    colour: np.ndarray
    background: np.ndarray

    @classmethod
    def draw(cls, streams: Streams, group: int, height: int, width: int) -> Scene:
        """Draws a bright colour and a dark background; the group determines the hue and the kind of background."""
        class_rng, group_rng, clip_rng = streams
        hue = class_rng.permutation(HUES)[(group - 1) % len(HUES)]  # cycled, so that every class has every colour
        background_hue, horizontal, slope = group_rng.uniform(), group_rng.integers(2), group_rng.integers(2) * 0.12
        colour = _rgb(hue + clip_rng.uniform(-0.02, 0.02), clip_rng.uniform(0.8, 1.0), clip_rng.uniform(0.85, 1.0))
        dark = clip_rng.uniform(0.08, 0.22)
        ramp = np.linspace(-0.5, 0.5, width if horizontal else height)
        values = np.clip(dark + slope * (ramp if horizontal else ramp[:, None]), 0, 1)
        tint = _rgb(background_hue, clip_rng.uniform(0.1, 0.4), 1.0)
        return cls(colour, np.broadcast_to(values[..., None], (height, width, 1)) * tint)

    def frame(self, coverage: np.ndarray) -> np.ndarray:
        """Blends colour and background: `coverage` float [height, width] in [0, 1] -> uint8 [height, width, 3]."""
        share = coverage[..., None]
        mixed: np.ndarray = np.rint(255 * (share * self.colour + (1 - share) * self.background)).astype(np.uint8)
        return mixed


def _rgb(hue: float, saturation: float, value: float) -> np.ndarray:
    return np.array(colorsys.hsv_to_rgb(hue % 1.0, saturation, value))


def fixed_point(pixels: Any) -> Any:
    """Converts lengths in pixels to OpenCV's fixed-point integers on the supersampled canvas of `coverage`."""
    return np.rint(np.multiply(pixels, SUPERSAMPLING * 2**SUBPIXEL_BITS)).astype(int)


def fixed_position(pixels: Any) -> Any:
    """Converts positions, in pixels from the corner of the frame, as `fixed_point` does."""
    # OpenCV's origin is the centre of the first (supersampled) pixel, half a pixel from the corner.
    return fixed_point(pixels) - 2 ** (SUBPIXEL_BITS - 1)


def coverage(paint: Callable[[np.ndarray], Any], height: int, width: int) -> np.ndarray:
    """Computes the painted fraction of each pixel.

    Args:
      paint: Draws with value 255 on a canvas of zeros, uint8 [height * SUPERSAMPLING, width * SUPERSAMPLING].
      height: Height of the result in pixels.
      width: Width of the result in pixels.
    Returns:
      float64 [height, width] in [0, 1].
    """
    canvas = np.zeros((height * SUPERSAMPLING, width * SUPERSAMPLING), np.uint8)
    paint(canvas)
    shrunk: np.ndarray = cv2.resize(canvas, (width, height), interpolation=cv2.INTER_AREA)
    return shrunk.astype(np.float64) / 255
