"""Video files -> frames, with OpenCV's FFmpeg; the square in the middle of a frame.

Everything streams: at no time is more than one decoded frame of a video in memory.
"""

from __future__ import annotations

import functools
import math
import os
import re
from collections.abc import Iterator
from typing import NamedTuple

import cv2
import numpy as np

from tganv2_tf import lanes
from tganv2_tf.files import Path

# Broken videos are reported in our own words; FFmpeg and OpenCV would add theirs to the terminal.
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # read when the first video is opened
if "OPENCV_LOG_LEVEL" not in os.environ:
    lanes.silence_opencv()

# Files that are offered as videos: not hidden, in a container that FFmpeg reads.
VIDEO_NAME = re.compile(
    r"[^.].*\.(3g2|3gp|asf|avi|divx|dv|f4v|flv|gif|m2ts|m2v|m4v|mjpe?g|mkv|mov|mp4|mpe?g|mpe|mts|mxf|ogv|qt|ts|vob|webm|"
    r"wmv|y4m)",
    re.IGNORECASE | re.DOTALL,
)


MAX_PERIOD = 16  # pixels
TEXT_BYTES = 64
TEXT = bytes([*b"\t\n\r\f", *range(32, 127)])


class VideoError(Exception):
    """This one video cannot be used; the message is the reason, without its name."""


class VideoFrames(NamedTuple):
    """A video being decoded.

    Attributes:
      fps: frames a second; 0 where it is unknown.
      frames: each uint8 [height, width, 3], RGB. Raises VideoError where nothing can be decoded.
    """

    fps: float
    frames: Iterator[np.ndarray]


def open_video(path: Path) -> VideoFrames:
    """Opens a video file; its frames have the size that they have in the file, turned upright as its metadata say.

    Grey has three equal channels, and transparency is dropped. Each coded frame is one frame, whatever its time. A
    damaged file may end early: what can be decoded before is what it has. The number of frames in its header is not
    asked for, as it is often wrong.

    Raises:
      VideoError: missing, empty, or not a video.
    """
    capture = _capture(path)
    fps = capture.get(cv2.CAP_PROP_FPS)
    return VideoFrames(fps if math.isfinite(fps) and fps > 0 else 0.0, _frames(capture))


def _capture(path: Path) -> cv2.VideoCapture:
    absolute = os.path.realpath(path)
    if not os.path.isfile(absolute):
        raise VideoError("the file is missing")
    if not os.path.getsize(absolute):
        raise VideoError("the file is empty")
    try:
        absolute.encode()
    except UnicodeEncodeError as error:  # OpenCV would crash
        raise VideoError("its name or that of its folder is not valid UTF-8; rename it") from error
    with open(absolute, "rb") as file:
        head = file.read(TEXT_BYTES)
    # FFmpeg would follow a playlist (HLS, ffconcat), whatever its extension, to other files of this machine.
    if not head.translate(None, TEXT) and not head.startswith(b"YUV4MPEG2 "):
        raise VideoError("it cannot be opened as a video")
    # FFmpeg by name, as other backends take a file name with digits for a sequence of pictures; and one thread, as the
    # worker processes share the processors already.
    capture = cv2.VideoCapture(absolute, cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, 1])
    if not capture.isOpened():
        capture.release()
        raise VideoError("it cannot be opened as a video")
    capture.set(cv2.CAP_PROP_ORIENTATION_AUTO, 1)  # films of telephones lie on their side but for their metadata
    return capture


def _frames(capture: cv2.VideoCapture) -> Iterator[np.ndarray]:
    try:
        ok, frame = capture.read()
        if not ok:
            raise VideoError("no frame of it can be decoded")
        while ok:
            yield cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)
            ok, frame = capture.read()
    finally:
        capture.release()


def claimed_num_frames(path: Path) -> int:
    """The number of frames by the header of the file, often wrong; 0 where there is none.

    Raises:
      VideoError: it cannot be opened.
    """
    capture = _capture(path)
    try:
        return max(0, int(capture.get(cv2.CAP_PROP_FRAME_COUNT)))
    finally:
        capture.release()


def resize_square(square: np.ndarray, resolution: int) -> np.ndarray:
    """uint8 [s, s, 3] -> uint8 [resolution, resolution, 3]."""
    side = square.shape[0]
    divisor = math.gcd(side, resolution)
    if divisor < resolution < side <= MAX_PERIOD * divisor:
        return _averaged(square, resolution, divisor)
    # Averaging over areas does not alias when shrinking, but makes blocks when enlarging.
    interpolation = cv2.INTER_AREA if side >= resolution else cv2.INTER_CUBIC
    return cv2.resize(square, (resolution, resolution), interpolation=interpolation)


def _averaged(square: np.ndarray, resolution: int, divisor: int) -> np.ndarray:
    """What OpenCV's INTER_AREA computes, in less than half its time, where the side is no multiple of the resolution.

    The side is `divisor` times some pixels, and the result as often some parts of those: 5 and 4 for 240 to 192. Sums
    of whole numbers below 2^24 are exact in float32, in whatever order they are taken; only the last step rounds.
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
    """How much of each pixel is in each part when a line of them is cut into equal parts: [parts, pixels].

    In units in which a pixel is `parts` long, and a part `pixels`, so that all are whole numbers.
    """
    part, pixel = np.arange(parts)[:, np.newaxis], np.arange(pixels)
    overlaps = np.minimum((part + 1) * pixels, (pixel + 1) * parts) - np.maximum(part * pixels, pixel * parts)
    return np.maximum(overlaps, 0).astype(np.float32)


def centre_square(frame: np.ndarray) -> np.ndarray:
    """The largest square in the middle: [height, width, 3] -> [s, s, 3] with s = min(height, width)."""
    height, width = frame.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return frame[top : top + side, left : left + side]
