"""Bounding boxes of faces in each frame, and square crops that contain them.

A box is (left, top, right, bottom) in pixels, with right and bottom exclusive. A frame without a face has four NaNs.
A square is (left, top, side) in pixels. Both are float64 with one row per frame.
"""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Iterable, Sequence

import cv2
import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from tganv2_tf.video_io.decoding import VideoError

NO_BOX = (math.nan,) * 4

# Masks are white outside the face. Compression and colour conversion make white darker by less than this.
MASK_NOISE = 32
MIN_MASK_AREA = 1e-3  # smaller regions, as a fraction of the frame, are noise
OFFICIAL_THRESHOLD = 5

HALF_WINDOW = 7  # frames before and after the smoothed one; the window is half a second long

CASCADE = "haarcascade_frontalface_alt.xml"  # the one of OpenCV's four frontal cascades with the fewest false positives
TILTS = (0, 25, -25)  # degrees; the cascade detects upright faces only
DETECT_EVERY = 5  # frames
DETECT_SIDE = 240  # pixels, shorter side of the image in which faces are detected
MIN_FACE_SIZE = DETECT_SIDE // 8  # pixels in that image
MIN_FRACTION_WITH_FACE = 0.25  # of the inspected frames must show the face; fewer may be false positives


def mask_box(mask: np.ndarray) -> tuple[float, ...]:
    """Returns the box of the largest non-white region of a uint8 [height, width, 3] mask, or `NO_BOX`."""
    face = _face_pixels(mask)
    regions = cv2.connectedComponentsWithStats(face)[2][1:]  # the first one is the white background
    if not len(regions):
        return NO_BOX
    left, top, width, height, area = regions[regions[:, cv2.CC_STAT_AREA].argmax()].astype(float)
    return (left, top, left + width, top + height) if area >= MIN_MASK_AREA * face.size else NO_BOX


def official_mask_box(mask: np.ndarray) -> tuple[float, ...]:
    """Returns the box of a uint8 [height, width, 3] mask by the rule of the authors' code, or `NO_BOX`.

    The box spans the columns and rows in which the mean of 255 - mask, summed over the colours, exceeds 5, except the
    last column and the last row. Unlike in the authors' code, near-white pixels count as white: many files contain
    (251, 253, 250) for white, for which the box would be the whole frame.
    """
    inverted = cv2.bitwise_not(mask)
    darkness = cv2.bitwise_and(inverted, inverted, mask=_face_pixels(mask))
    ends = []
    for axis, length in enumerate(mask.shape[:2]):  # the sum over rows has one value per column
        sums = cv2.reduce(darkness, axis, cv2.REDUCE_SUM, dtype=cv2.CV_32S).sum(axis=-1).ravel()
        inside = np.flatnonzero(sums > OFFICIAL_THRESHOLD * length)
        if inside.size < 2:
            return NO_BOX
        ends.append((float(inside[0]), float(inside[-1])))
    (left, right), (top, bottom) = ends
    return left, top, right, bottom


def fills_frame(box: Sequence[float], shape: Sequence[int]) -> bool:
    """Returns whether a box touches all four borders of a frame of (height, width) `shape`; False for `NO_BOX`."""
    left, top, right, bottom = box
    # The official rule excludes the last column and the last row.
    return left <= 0 and top <= 0 and right >= shape[1] - 1 and bottom >= shape[0] - 1


def _face_pixels(mask: np.ndarray) -> np.ndarray:
    """uint8 [height, width, 3] -> uint8 [height, width]: 0 where the mask is white (up to noise), else 255."""
    return cv2.bitwise_not(cv2.inRange(mask, (255 - MASK_NOISE,) * 3, (255,) * 3))


def interpolated(boxes: np.ndarray) -> np.ndarray:
    """Fills rows without a box by linear interpolation in time; at both ends, with the nearest box.

    Raises:
      VideoError: No row has a box.
    """
    times, there = np.arange(len(boxes)), _rows_with_box(boxes)
    return np.stack([np.interp(times, there, column[there]) for column in boxes.T], axis=-1)


def nearest(boxes: np.ndarray) -> np.ndarray:
    """Fills rows without a box with the nearest box in time; with the earlier one if two are equally near.

    Raises:
      VideoError: No row has a box.
    """
    there = _rows_with_box(boxes)
    index = np.interp(np.arange(len(boxes)), there, np.arange(there.size))
    return boxes[there[np.ceil(index - 0.5).astype(int)]]


def _rows_with_box(boxes: np.ndarray) -> np.ndarray:
    there = np.flatnonzero(~np.isnan(boxes[:, 0]))
    if not there.size:
        raise VideoError("there is no face in any of its frames")
    return there


def squares(boxes: np.ndarray) -> np.ndarray:
    """Returns squares with the centres and the longer sides of the boxes: [T, 4] -> [T, 3]."""
    side = (boxes[:, 2:] - boxes[:, :2]).max(axis=-1, keepdims=True)
    return np.hstack([(boxes[:, :2] + boxes[:, 2:] - side) / 2, side])


def smooth_squares(boxes: np.ndarray) -> np.ndarray:
    """Returns squares that move smoothly and contain every box completely: [T, 4] -> [T, 3].

    The centre is the moving average of the boxes' centres. Half the side is the distance to the farthest edge of the
    box, after a moving maximum and then a moving average; it is never smaller than that distance.
    """
    centres = _windows((boxes[:, :2] + boxes[:, 2:]) / 2).mean(axis=-1)
    reach = np.maximum(centres - boxes[:, :2], boxes[:, 2:] - centres).max(axis=-1)
    half = _windows(_windows(reach).max(axis=-1)).mean(axis=-1)[:, None]
    return np.hstack([centres - half, 2 * half])


def _windows(values: np.ndarray) -> np.ndarray:
    """Returns sliding windows over time, [T, ...] -> [T, ..., window], with edge padding at both ends."""
    padding = [(HALF_WINDOW, HALF_WINDOW)] + [(0, 0)] * (values.ndim - 1)
    return sliding_window_view(np.pad(values, padding, mode="edge"), 2 * HALF_WINDOW + 1, axis=0)


def crop(frame: np.ndarray, square: np.ndarray, margin: float = 0.0) -> np.ndarray:
    """Cuts a square out of a frame.

    A square that extends beyond the frame is moved into it, so that no padding is needed. Only a square larger than the
    frame is padded, by repeating the edge pixels. The margin never makes a square larger than the frame.

    Args:
      frame: uint8 [height, width, 3].
      square: Left, top and side in pixels.
      margin: Widens the square on each side, as a fraction of its side.
    Returns:
      uint8 [s, s, 3], where s is at least the side and at least 1.
    """
    height, width = frame.shape[:2]
    left, top, side = (float(value) for value in square)
    wide = min(side * (1 + 2 * margin), max(side, min(height, width)))
    size = max(1, math.ceil(round(wide, 3)))
    x = _moved_inside(left - (wide - side) / 2, size, width)
    y = _moved_inside(top - (wide - side) / 2, size, height)
    inside = frame[max(y, 0) : y + size, max(x, 0) : x + size]
    above, before = max(-y, 0), max(-x, 0)
    below, after = size - above - inside.shape[0], size - before - inside.shape[1]
    if above or below or before or after:
        return cv2.copyMakeBorder(inside, above, below, before, after, cv2.BORDER_REPLICATE)
    return inside


def _moved_inside(start: float, size: int, length: int) -> int:
    if size > length:
        return -((size - length) // 2)
    return min(max(math.floor(start + 0.5), 0), length - size)


def detect_boxes(frames: Iterable[np.ndarray]) -> np.ndarray:
    """Detects the main face of a video: the one with the largest total area among those often visible.

    Only every `DETECT_EVERY`-th frame is inspected; the others have no box.

    Args:
      frames: uint8 [height, width, 3], RGB.
    Returns:
      float64 [T, 4].
    Raises:
      VideoError: No face was found, or in too few frames.
    """
    tracks: list[dict[int, np.ndarray]] = []
    length = 0
    for time, frame in enumerate(frames):
        length = time + 1
        if time % DETECT_EVERY:
            continue
        for box in find_faces(frame):
            track = next((track for track in tracks if _is_near(box, track[max(track)])), None)
            if track is None:
                tracks.append({time: box})
            else:
                track.setdefault(time, box)
    num_inspected = -(-length // DETECT_EVERY)
    frequent = [track for track in tracks if len(track) >= MIN_FRACTION_WITH_FACE * num_inspected]
    if not frequent:
        most = max(map(len, tracks), default=0)
        raise VideoError(f"a face was found in only {most} of the {num_inspected} inspected frames")
    main = max(frequent, key=lambda track: sum((box[2] - box[0]) ** 2 for box in track.values()))
    boxes = np.full((length, 4), math.nan)
    boxes[list(main)] = list(main.values())
    return boxes


def _is_near(box: np.ndarray, other: np.ndarray) -> bool:
    """Returns whether the centres of two boxes are closer than the width of the wider one."""
    distance = np.abs((box[:2] + box[2:]) - (other[:2] + other[2:])).max() / 2
    return bool(distance < max(box[2] - box[0], other[2] - other[0]))


def find_faces(frame: np.ndarray) -> np.ndarray:
    """Detects frontal faces with OpenCV's Haar cascade, in heads tilted by up to about 40 degrees.

    Args:
      frame: uint8 [height, width, 3], RGB.
    Returns:
      float64 [N, 4], squares from the eyebrows to the mouth. Those of tilted faces may extend beyond the frame.
    """
    scale = DETECT_SIDE / min(frame.shape[:2])
    grey = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)
    grey = cv2.equalizeHist(cv2.resize(grey, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA))
    height, width = grey.shape
    for tilt in TILTS:
        turn = cv2.getRotationMatrix2D((width / 2, height / 2), tilt, 1)
        upright = cv2.warpAffine(grey, turn, (width, height))
        faces = np.array(
            _cascade().detectMultiScale(upright, 1.1, minNeighbors=4, minSize=(MIN_FACE_SIZE, MIN_FACE_SIZE))
        )
        if len(faces):
            half = faces[:, 2:] / 2
            centres = cv2.transform((faces[:, :2] + half)[None], cv2.invertAffineTransform(turn))[0]
            return np.hstack([centres - half, centres + half]) / scale
    return np.empty((0, 4))


@functools.lru_cache(maxsize=1)
def _cascade() -> cv2.CascadeClassifier:
    from cv2.data import haarcascades  # missing in some builds of OpenCV, and not needed for masks

    return cv2.CascadeClassifier(os.path.join(haarcascades, CASCADE))
