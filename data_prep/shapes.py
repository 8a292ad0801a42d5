"""Coloured shapes that move steadily in one direction; a class is a shape and a direction, such as `CircleLeft`.

The shape moves at a constant speed through the centre of the frame. Its colour, size and speed vary, and so does the
dark background.
"""

from __future__ import annotations

import itertools

import cv2
import numpy as np

from data_prep import drawing

# Corners in radii of the shape. Sizes look alike, so that shapes differ only by their outline. A circle has no corners.
SHAPES = {
    "Circle": (),
    "Square": ((-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)),
    "Triangle": ((0.0, -1.2), (1.15, 0.8), (-1.15, 0.8)),
}
DIRECTIONS = {"Left": (-1, 0), "Right": (1, 0), "Up": (0, -1), "Down": (0, 1)}  # x to the right, y down
CLASSES = tuple(sorted(shape + direction for shape, direction in itertools.product(SHAPES, DIRECTIONS)))
# Lengths are in sides of the centre square, the part that the geometry `paper` keeps.
RADIUS = (0.24, 0.32)
TRAVEL = (0.30, 0.42)  # within 16 frames
MAX_PATH = 0.87  # the centre of the shape stays inside the square
SIDEWAYS = 0.12


def render(
    class_name: str, group: int, clip: int, *, num_frames: int, height: int, width: int, seed: int
) -> np.ndarray:
    """Renders one video; the same arguments give the same pixels.

    Args:
      class_name: One of `CLASSES`.
      group: Group number from 1. Videos of a group and class share their hue and kind of background.
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
    radius = clip_rng.uniform(*RADIUS) * side
    speed = min(clip_rng.uniform(*TRAVEL) / 15, MAX_PATH / (num_frames - 1)) * side  # pixels per frame
    sideways = clip_rng.uniform(-SIDEWAYS, SIDEWAYS) * side
    shape, direction = _split_class(class_name)
    dx, dy = DIRECTIONS[direction]
    frames = np.empty((num_frames, height, width, 3), np.uint8)
    for t in range(num_frames):
        way = speed * (t - (num_frames - 1) / 2)  # the path is centred in the frame
        centre = (width / 2 + way * dx + sideways * dy, height / 2 + way * dy + sideways * dx)
        frames[t] = scene.frame(coverage(shape, centre, radius, height, width))
    return frames


def _split_class(class_name: str) -> tuple[str, str]:
    shape = next(shape for shape in SHAPES if class_name.startswith(shape))
    return shape, class_name[len(shape) :]


def coverage(shape: str, centre: tuple[float, float], radius: float, height: int, width: int) -> np.ndarray:
    """Computes the fraction of each pixel that the shape covers: float [height, width] in [0, 1].

    `centre` is (x, y) in pixels from the corner.
    """
    middle = drawing.fixed_position(centre)

    def paint(canvas: np.ndarray) -> None:
        if shape == "Circle":
            size = int(drawing.fixed_point(radius))
            cv2.circle(canvas, middle.tolist(), size, (255,), cv2.FILLED, cv2.LINE_AA, drawing.SUBPIXEL_BITS)
        else:
            corners = (middle + drawing.fixed_point(np.multiply(SHAPES[shape], radius))).astype(np.int32)
            cv2.fillConvexPoly(canvas, corners, (255,), cv2.LINE_AA, drawing.SUBPIXEL_BITS)

    return drawing.coverage(paint, height, width)
