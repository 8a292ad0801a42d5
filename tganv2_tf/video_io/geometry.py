"""Frame geometry: the frame size of a data set, and cropping and resizing to it."""

from __future__ import annotations

import functools
import math

import cv2
import numpy as np

GEOMETRIES = ("paper", "official")
MAX_PERIOD = 16  # pixels


def frame_size(geometry: str, resolution: int) -> tuple[int, int]:
    """Returns height and width in pixels of the frames that `fit` returns."""
    return resolution, resolution if geometry == "paper" else round(resolution * 4 / 3)


def fit(frame: np.ndarray, geometry: str, resolution: int) -> np.ndarray:
    """Crops and resizes a frame to the size of the data set.

    Args:
      frame: uint8 [height, width, 3], of any size.
      geometry: `paper` keeps the centre square (240x240 of UCF101's 320x240; section 4 of the paper); `official` keeps
        the whole frame, resized to 4:3 as in the authors' code; training crops squares from it.
      resolution: R, in pixels.
    Returns:
      uint8 [R, R, 3] for `paper`, [R, round(4R / 3), 3] for `official`.
    """
    height, width = frame_size(geometry, resolution)
    if geometry == "official":
        return cv2.resize(frame, (width, height), interpolation=cv2.INTER_CUBIC)
    return resize_square(centre_square(frame), resolution)


def resize_square(square: np.ndarray, resolution: int) -> np.ndarray:
    """Resizes uint8 [s, s, 3] to uint8 [resolution, resolution, 3]."""
    side = square.shape[0]
    divisor = math.gcd(side, resolution)
    if divisor < resolution < side <= MAX_PERIOD * divisor:
        return _averaged(square, resolution, divisor)
    # Area averaging avoids aliasing when shrinking, but looks blocky when enlarging.
    interpolation = cv2.INTER_AREA if side >= resolution else cv2.INTER_CUBIC
    return cv2.resize(square, (resolution, resolution), interpolation=interpolation)


def _averaged(square: np.ndarray, resolution: int, divisor: int) -> np.ndarray:
    """Computes OpenCV's INTER_AREA in less than half its time, if the side is not a multiple of the resolution.

    The side consists of `divisor` groups of pixels, each resized to the same number of parts: 5 pixels to 4 parts for
    240 to 192. Sums of integers below 2^24 are exact in float32, in any order; only the last step rounds.
    """
    side = square.shape[0]
    pixels, parts = side // divisor, resolution // divisor
    weights = _overlaps(pixels, parts)
    down = weights @ square.astype(np.float32).reshape(divisor, pixels, side * 3)
    turned = cv2.transpose(down.reshape(resolution, side, 3))
    across = weights @ turned.reshape(divisor, pixels, resolution * 3)
    means = cv2.convertScaleAbs(across.reshape(resolution, resolution * 3), alpha=1 / pixels**2)
    return cv2.transpose(means.reshape(resolution, resolution, 3))


@functools.lru_cache
def _overlaps(pixels: int, parts: int) -> np.ndarray:
    """Returns the overlap of each pixel with each part if a line of pixels is split into equal parts, [parts, pixels].

    Lengths are integers, in units in which a pixel has length `parts` and a part has length `pixels`.
    """
    part, pixel = np.arange(parts)[:, np.newaxis], np.arange(pixels)
    overlaps = np.minimum((part + 1) * pixels, (pixel + 1) * parts) - np.maximum(part * pixels, pixel * parts)
    return np.maximum(overlaps, 0).astype(np.float32)


def centre_square(frame: np.ndarray) -> np.ndarray:
    """Crops the largest centre square: [height, width, 3] -> [s, s, 3] with s = min(height, width)."""
    height, width = frame.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return frame[top : top + side, left : left + side]
