"""Frames for a data set: brought to its size, encoded as JPEG or PNG."""

from __future__ import annotations

import cv2
import numpy as np

from tganv2_tf.decoding import VideoError, centre_square, resize_square

GEOMETRIES = ("paper", "official")
ENCODINGS = ("jpeg", "png")


def frame_size(geometry: str, resolution: int) -> tuple[int, int]:
    """Height and width of the frames that `fit` makes, in pixels."""
    return resolution, resolution if geometry == "paper" else round(resolution * 4 / 3)


def fit(frame: np.ndarray, geometry: str, resolution: int) -> np.ndarray:
    """Brings a frame to the size of the data set.

    Args:
      frame: uint8 [height, width, 3], of any size.
      geometry: `paper` keeps the centre square (240x240 of UCF101's 320x240; section 4 of the paper); `official` keeps
        the whole frame, squeezed to 4:3 as the authors' code does, so that training can crop squares out of it.
      resolution: R, in pixels.
    Returns:
      uint8 [R, R, 3] for `paper`, [R, round(4R / 3), 3] for `official`.
    """
    height, width = frame_size(geometry, resolution)
    if geometry == "official":
        return cv2.resize(frame, (width, height), interpolation=cv2.INTER_CUBIC)
    return resize_square(centre_square(frame), resolution)


def encode_frame(frame: np.ndarray, encoding: str, jpeg_quality: int) -> bytes:
    """Encodes uint8 [height, width, 3] RGB as a JPEG or PNG file.

    JPEG keeps colour at full resolution (4:4:4): with the usual 4:2:0 a 32-pixel frame would have 16 pixels of colour.
    On UCF101 at 192 pixels that costs a sixth more bytes.
    """
    bgr = cv2.cvtColor(frame, cv2.COLOR_RGB2BGR)
    if encoding == "png":
        ok, encoded = cv2.imencode(".png", bgr)
    else:
        sampling = [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
        ok, encoded = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, jpeg_quality, *sampling])
    if not ok:
        raise VideoError(f"a frame of {frame.shape[1]}x{frame.shape[0]} pixels cannot be encoded as {encoding}")
    return encoded.tobytes()
