"""Where the face is in each frame, and the squares that hold it.

A box is (left, top, right, bottom) in pixels, right and bottom not included; that of a frame without a face is four
NaNs. A square is (left, top, side) in pixels. Both are float64, one row a frame.
"""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Iterable, Sequence

import cv2
import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from tganv2_tf.decoding import VideoError

NO_BOX = (math.nan,) * 4

# Masks are white where there is no face; compression and the conversion of colours make it darker, by less than this.
MASK_NOISE = 32
LEAST_MASK = 1e-3  # smaller regions, as a share of the frame, are noise
OFFICIAL_THRESHOLD = 5

HALF_WINDOW = 7  # frames before and after the one that is smoothed, half a second in all

CASCADE = "haarcascade_frontalface_alt.xml"  # of OpenCV's four the one with the fewest false alarms
TILTS = (0, 25, -25)  # degrees; the cascade knows upright faces only
DETECT_EVERY = 5  # frames
DETECT_SIDE = 240  # pixels, shorter side of the picture in which faces are sought
LEAST_FACE = DETECT_SIDE // 8  # pixels in it
LEAST_SHARE = 0.25  # of the pictures must show the face; in fewer it may be a false alarm


def mask_box(mask: np.ndarray) -> tuple[float, ...]:
    """Box of the largest region that is not white: uint8 [height, width, 3] -> a box, or `NO_BOX`."""
    face = _face_pixels(mask)
    regions = cv2.connectedComponentsWithStats(face)[2][1:]  # the first is the white
    if not len(regions):
        return NO_BOX
    left, top, width, height, area = regions[regions[:, cv2.CC_STAT_AREA].argmax()].astype(float)
    return (left, top, left + width, top + height) if area >= LEAST_MASK * face.size else NO_BOX


def official_mask_box(mask: np.ndarray) -> tuple[float, ...]:
    """Box by the rule of the authors' code: uint8 [height, width, 3] -> a box, or `NO_BOX`.

    It spans the columns and rows in which the mean of 255 - mask, summed over the colours, exceeds 5; the last column
    and the last row are left out. Other than there, white counts as nothing even if it is not quite white: many files
    give (251, 253, 250) for it, and the box would be the whole frame.
    """
    inverted = cv2.bitwise_not(mask)
    darkness = cv2.bitwise_and(inverted, inverted, mask=_face_pixels(mask))
    ends = []
    for axis, length in enumerate(mask.shape[:2]):  # a sum over rows belongs to a column
        sums = cv2.reduce(darkness, axis, cv2.REDUCE_SUM, dtype=cv2.CV_32S).sum(axis=-1).ravel()
        inside = np.flatnonzero(sums > OFFICIAL_THRESHOLD * length)
        if inside.size < 2:
            return NO_BOX
        ends.append((float(inside[0]), float(inside[-1])))
    (left, right), (top, bottom) = ends
    return left, top, right, bottom


def fills_frame(box: Sequence[float], shape: Sequence[int]) -> bool:
    """Whether a box touches all four borders of a frame of height and width `shape`; never, if it is `NO_BOX`."""
    left, top, right, bottom = box
    # The official rule leaves out the last column and the last row.
    return left <= 0 and top <= 0 and right >= shape[1] - 1 and bottom >= shape[0] - 1


def _face_pixels(mask: np.ndarray) -> np.ndarray:
    """uint8 [height, width, 3] -> uint8 [height, width], 0 where the mask is white but for noise, else 255."""
    return cv2.bitwise_not(cv2.inRange(mask, (255 - MASK_NOISE,) * 3, (255,) * 3))


def interpolated(boxes: np.ndarray) -> np.ndarray:
    """Fills rows without a box linearly between the boxes before and after, at the ends with the nearest.

    Raises:
      VideoError: no row has a box.
    """
    times, there = np.arange(len(boxes)), _there(boxes)
    return np.stack([np.interp(times, there, column[there]) for column in boxes.T], axis=-1)


def nearest(boxes: np.ndarray) -> np.ndarray:
    """Fills rows without a box with the nearest box in time, the earlier one of two.

    Raises:
      VideoError: no row has a box.
    """
    there = _there(boxes)
    index = np.interp(np.arange(len(boxes)), there, np.arange(there.size))
    return boxes[there[np.ceil(index - 0.5).astype(int)]]


def _there(boxes: np.ndarray) -> np.ndarray:
    there = np.flatnonzero(~np.isnan(boxes[:, 0]))
    if not there.size:
        raise VideoError("there is no face in any of its frames")
    return there


def squares(boxes: np.ndarray) -> np.ndarray:
    """Squares about the centres of boxes, as large as their longer sides: [T, 4] -> [T, 3]."""
    side = (boxes[:, 2:] - boxes[:, :2]).max(axis=-1, keepdims=True)
    return np.hstack([(boxes[:, :2] + boxes[:, 2:] - side) / 2, side])


def smooth_squares(boxes: np.ndarray) -> np.ndarray:
    """Squares that follow the boxes calmly, and yet hold each of them whole: [T, 4] -> [T, 3].

    The centre is the moving average of the boxes' centres. Half the side is what reaches the farthest edge of a box:
    its moving maximum, then the moving average of that, which nowhere falls below what it began with.
    """
    centres = _windows((boxes[:, :2] + boxes[:, 2:]) / 2).mean(axis=-1)
    reach = np.maximum(centres - boxes[:, :2], boxes[:, 2:] - centres).max(axis=-1)
    half = _windows(_windows(reach).max(axis=-1)).mean(axis=-1)[:, None]
    return np.hstack([centres - half, 2 * half])


def _windows(values: np.ndarray) -> np.ndarray:
    """[T, ...] -> [T, ..., window]; before the first and after the last frame all stays as it is there."""
    padding = [(HALF_WINDOW, HALF_WINDOW)] + [(0, 0)] * (values.ndim - 1)
    return sliding_window_view(np.pad(values, padding, mode="edge"), 2 * HALF_WINDOW + 1, axis=0)


def crop(frame: np.ndarray, square: np.ndarray, margin: float = 0.0) -> np.ndarray:
    """Cuts a square out of a frame.

    A square that leaves the frame is moved into it, so that no pixels are made up. Only one that is larger than the
    frame gets a border, which repeats the pixels of the edge. The margin does not make it larger than the frame.

    Args:
      frame: uint8 [height, width, 3].
      square: left, top and side in pixels.
      margin: widens the square on each side, as a share of its side.
    Returns:
      uint8 [s, s, 3], s at least the side and at least 1.
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
    """Boxes of the main face of a video: of those that are often in view the one of the largest area in all.

    Only every `DETECT_EVERY`-th frame is looked at; the others have no box.

    Args:
      frames: uint8 [height, width, 3], RGB.
    Returns:
      float64 [T, 4].
    Raises:
      VideoError: no face, or too seldom.
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
    looks = -(-length // DETECT_EVERY)
    often = [track for track in tracks if len(track) >= LEAST_SHARE * looks]
    if not often:
        most = max(map(len, tracks), default=0)
        raise VideoError(f"a face was found in {most} of the {looks} frames looked at, which is too few")
    main = max(often, key=lambda track: sum((box[2] - box[0]) ** 2 for box in track.values()))
    boxes = np.full((length, 4), math.nan)
    boxes[list(main)] = list(main.values())
    return boxes


def _is_near(box: np.ndarray, other: np.ndarray) -> bool:
    """Whether the centre of each box lies in the other's neighbourhood."""
    distance = np.abs((box[:2] + box[2:]) - (other[:2] + other[2:])).max() / 2
    return bool(distance < max(box[2] - box[0], other[2] - other[0]))


def find_faces(frame: np.ndarray) -> np.ndarray:
    """Boxes of the frontal faces in a picture, by OpenCV's Haar cascade; heads may be tilted by some 40 degrees.

    Args:
      frame: uint8 [height, width, 3], RGB.
    Returns:
      float64 [N, 4], squares from the brows to the mouth; in a tilted picture they may reach beyond it.
    """
    scale = DETECT_SIDE / min(frame.shape[:2])
    grey = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)
    grey = cv2.equalizeHist(cv2.resize(grey, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA))
    height, width = grey.shape
    for tilt in TILTS:
        turn = cv2.getRotationMatrix2D((width / 2, height / 2), tilt, 1)
        upright = cv2.warpAffine(grey, turn, (width, height))
        faces = np.array(_cascade().detectMultiScale(upright, 1.1, minNeighbors=4, minSize=(LEAST_FACE, LEAST_FACE)))
        if len(faces):
            half = faces[:, 2:] / 2
            centres = cv2.transform((faces[:, :2] + half)[None], cv2.invertAffineTransform(turn))[0]
            return np.hstack([centres - half, centres + half]) / scale
    return np.empty((0, 4))


@functools.lru_cache(maxsize=1)
def _cascade() -> cv2.CascadeClassifier:
    from cv2.data import haarcascades  # not in every build of OpenCV, and not needed for masks

    return cv2.CascadeClassifier(os.path.join(haarcascades, CASCADE))
