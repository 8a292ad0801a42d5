"""Drawn faces and their masks, for the tests of face crops."""

from __future__ import annotations

import pathlib
from collections.abc import Iterable

import cv2
import numpy as np

HEIGHT, WIDTH = 120, 160
SKIN, NOSE, MASK = (224, 180, 150), (30, 90, 220), (90, 200, 40)  # the nose is blue, so that it can be located
BACKGROUND = cv2.resize(
    np.random.default_rng(0).integers(60, 120, (6, 8, 3), np.uint8), (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC
)


def draw_face(x: float, y: float, radius: float, *, tilt: float = 0.0, nose: bool = True) -> np.ndarray:
    """Draws a face of width 1.6 and height 2.2 radii centred at (x, y): uint8 [HEIGHT, WIDTH, 3], RGB.

    Face detectors recognize it without its blue nose. `tilt` rotates it clockwise, in degrees.
    """
    frame = BACKGROUND.copy()

    def ellipse(u: float, v: float, width: float, height: float, colour: tuple[int, ...]) -> None:
        # OpenCV takes fixed-point numbers, counted from the centre of the first pixel.
        turn = np.deg2rad(tilt)
        along = u * np.cos(turn) - v * np.sin(turn), u * np.sin(turn) + v * np.cos(turn)
        centre = [round((value - 0.5 + radius * part) * 16) for value, part in zip((x, y), along)]
        axes = [max(8, round(part * radius * 16)) for part in (width, height)]
        cv2.ellipse(frame, centre, axes, tilt, 0, 360, colour, cv2.FILLED, cv2.LINE_AA, 4)

    ellipse(0, -0.25, 0.95, 1.1, (60, 40, 30))  # hair
    ellipse(0, 0, 0.8, 1.1, SKIN)
    for side in (-1, 1):
        ellipse(side * 0.35, -0.2, 0.26, 0.14, (150, 105, 85))
        ellipse(side * 0.35, -0.2, 0.2, 0.09, (245, 240, 235))
        ellipse(side * 0.35, -0.2, 0.09, 0.09, (40, 30, 25))
        ellipse(side * 0.36, -0.42, 0.26, 0.05, (70, 45, 35))
    ellipse(0, 0.15, 0.1, 0.3, (238, 200, 172))
    ellipse(0, 0.36, 0.15, 0.06, (165, 115, 95))
    ellipse(0, 0.62, 0.32, 0.09, (150, 60, 60))
    if nose:
        ellipse(0, 0, 0.25, 0.25, NOSE)
    return frame


def draw_mask(box: Iterable[float] | None) -> np.ndarray:
    """Draws the mask of a face: white, with a coloured ellipse in the box (left, top, right, bottom), if any."""
    mask = np.full((HEIGHT, WIDTH, 3), 255, np.uint8)
    if box is not None:
        left, top, right, bottom = box
        y, x = np.mgrid[:HEIGHT, :WIDTH] + 0.5
        inside = ((2 * x - left - right) / (right - left)) ** 2 + ((2 * y - top - bottom) / (bottom - top)) ** 2 <= 1
        mask[inside] = MASK
    return mask


def face_box(x: float, y: float, radius: float) -> tuple[float, float, float, float]:
    """Returns left, top, right and bottom of the upright face of `draw_face`."""
    return x - 0.8 * radius, y - 1.1 * radius, x + 0.8 * radius, y + 1.1 * radius


def find_nose(frame: np.ndarray) -> tuple[float, float]:
    """Returns the centre (x, y) of the blue nose in pixels from the corner of the frame; NaN if it is not visible."""
    values = frame.astype(int)
    rows, columns = np.nonzero((values[..., 2] > 150) & (values[..., 0] < 110))
    return (columns.mean() + 0.5, rows.mean() + 0.5) if len(rows) else (np.nan, np.nan)


def write_lossy(path: pathlib.Path, frames: Iterable[np.ndarray], codec: str = "mp4v", fps: float = 30.0) -> None:
    """Writes uint8 [T, H, W, 3] RGB with a lossy encoder of OpenCV, which also changes white."""
    path.parent.mkdir(parents=True, exist_ok=True)
    frames = list(frames)
    size = frames[0].shape[1], frames[0].shape[0]
    writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*codec), fps, size)
    assert writer.isOpened(), path
    for frame in frames:
        writer.write(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
    writer.release()
