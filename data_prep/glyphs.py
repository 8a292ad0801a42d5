"""Moving, bouncing digits and letters of thin strokes; a class is a glyph, such as `Digit7` or `LetterK`.

The glyph moves at a constant speed and bounces off the sides of the centre square, which it never leaves. Its colour,
size, proportions, slant, thickness, direction and speed vary, and so does the dark background.
"""

from __future__ import annotations

import cv2
import numpy as np

from data_prep import drawing

# Strokes, separated by commas, of points on a grid of 5 columns and 7 rows: `46` is column 4 from the left, row 6 from
# the top. I and O are omitted: in these strokes they would look like 1 and 0.
DIGITS = {
    "0": "10 30 41 45 36 16 05 01 10",
    "1": "11 20 26",
    "2": "01 10 30 41 42 06 46",
    "3": "01 10 30 41 42 33 13,33 44 45 36 16 05",
    "4": "36 30 04 44",
    "5": "40 00 03 33 44 45 36 06",
    "6": "41 30 10 01 05 16 36 45 44 33 03",
    "7": "00 40 16",
    "8": "10 30 41 42 33 13 02 01 10,13 04 05 16 36 45 44 33",
    "9": "43 13 02 01 10 30 41 45 36 16 05",
}
LETTERS = {
    "A": "06 02 20 42 46,04 44",
    "B": "00 30 41 42 33 03,33 44 45 36 06 00",
    "C": "41 30 10 01 05 16 36 45",
    "D": "00 20 42 44 26 06 00",
    "E": "40 00 06 46,03 33",
    "F": "40 00 06,03 33",
    "G": "41 30 10 01 05 16 36 45 43 23",
    "H": "00 06,40 46,03 43",
    "J": "40 45 36 16 05",
    "K": "00 06,40 03 46",
    "L": "00 06 46",
    "M": "06 00 23 40 46",
    "N": "06 00 46 40",
    "P": "06 00 30 41 42 33 03",
    "Q": "10 30 41 45 36 16 05 01 10,24 46",
    "R": "06 00 30 41 42 33 03,23 46",
    "S": "41 30 10 01 02 13 33 44 45 36 16 05",
    "T": "00 40,20 26",
    "U": "00 05 16 36 45 40",
    "V": "00 26 40",
    "W": "00 16 23 36 40",
    "X": "00 46,40 06",
    "Y": "00 23 40,23 26",
    "Z": "00 40 06 46",
}
CLASSES = (*(f"Digit{name}" for name in DIGITS), *(f"Letter{name}" for name in LETTERS))
STROKES = dict(zip(CLASSES, (*DIGITS.values(), *LETTERS.values())))
# Lengths are in sides of the centre square, the part that the geometry `paper` keeps.
HEIGHT = (0.30, 0.48)
WIDTH = (0.55, 0.75)  # in heights
SLANT = (-0.25, 0.25)  # to the right, in heights
THICKNESS = (0.02, 0.035)
SPEED = (0.015, 0.035)  # per frame


def render(
    class_name: str, group: int, clip: int, *, num_frames: int, height: int, width: int, seed: int
) -> np.ndarray:
    """Renders one video; the same arguments give the same pixels.

    Args:
      class_name: One of `CLASSES`.
      group: Group number from 1. Videos of a group and class share their slant, hue and kind of background.
      clip: Number within the group, from 1.
      num_frames: Number of frames of the video.
      height: Height of the frames in pixels.
      width: Width of the frames in pixels.
      seed: Random seed.
    Returns:
      uint8 [num_frames, height, width, 3], RGB.
    """
    streams = drawing.Streams.of(seed, CLASSES.index(class_name), group, clip)
    scene = drawing.Scene.draw(streams, group, height, width)
    clip_rng = streams.clip_rng
    side = min(height, width)
    rows = clip_rng.uniform(*HEIGHT) * side
    columns = clip_rng.uniform(*WIDTH) * rows
    thickness = clip_rng.uniform(*THICKNESS) * side
    drawn = strokes(class_name, columns, rows, streams.group_rng.uniform(*SLANT))
    points = np.concatenate(drawn)
    least, most = points.min(0) - thickness / 2, points.max(0) + thickness / 2
    room = side - (most - least)
    start, angle = clip_rng.uniform(size=2) * room, clip_rng.uniform(0, 2 * np.pi)
    step = clip_rng.uniform(*SPEED) * side * np.array([np.cos(angle), np.sin(angle)])
    corner = (np.array([width, height]) - side) / 2 - least
    frames = np.empty((num_frames, height, width, 3), np.uint8)
    for t in range(num_frames):
        place = corner + bounce(start + step * t, room)
        frames[t] = scene.frame(coverage([stroke + place for stroke in drawn], thickness, height, width))
    return frames


def strokes(class_name: str, width: float, height: float, slant: float) -> list[np.ndarray]:
    """Returns the strokes of a slanted glyph, each float64 [points, 2] of (x, y) with y pointing down.

    Args:
      class_name: One of `CLASSES`.
      width: Width of the grid, in the unit of the result. Most glyphs fill it; some, such as 1, do not.
      height: Height of the grid.
      slant: Shift of the grid's top to the right of its bottom, in heights.
    """
    drawn = []
    for text in STROKES[class_name].split(","):
        x, y = np.array([[int(digit) for digit in point] for point in text.split()], float).T / [[4], [6]]
        drawn.append(np.stack([x * width + (1 - y) * slant * height, y * height], axis=1))
    return drawn


def bounce(position: np.ndarray, room: np.ndarray) -> np.ndarray:
    """Reflects `position` at both ends of the interval from 0 to `room`."""
    return room - np.abs(room - position % (2 * room))


def coverage(lines: list[np.ndarray], thickness: float, height: int, width: int) -> np.ndarray:
    """Computes the fraction of each pixel that the strokes cover: float [height, width] in [0, 1].

    Points are (x, y) in pixels from the corner.
    """
    fine = max(1, round(thickness * drawing.SUPERSAMPLING))
    points = [drawing.fixed_position(line).astype(np.int32) for line in lines]

    def paint(canvas: np.ndarray) -> None:
        cv2.polylines(canvas, points, False, (255,), fine, cv2.LINE_AA, drawing.SUBPIXEL_BITS)

    return drawing.coverage(paint, height, width)
