"""Reads folders of images, one per frame, as videos. Many data sets are published in this form."""

from __future__ import annotations

import dataclasses
import os
import struct
import warnings
from collections.abc import Iterator, Sequence

import numpy as np
from PIL import Image, ImageOps

from tganv2_tf.errors import VideoError
from tganv2_tf.storage import Path
from tganv2_tf.video_io.folders import frame_paths
from tganv2_tf.video_io.video_frames import Damage, VideoFrames

FORMATS = ("JPEG", "PNG", "WEBP")  # Pillow would try all of its forty formats, regardless of the file name
# Exceptions that Pillow raises for damaged files.
DECODE_ERRORS = (OSError, ValueError, SyntaxError, TypeError, LookupError, struct.error, Image.DecompressionBombError)


@dataclasses.dataclass
class LostImages(Damage):
    """Unreadable images of a folder; `header_frames` is the number of all images.

    Attributes:
      first: name and error of the first unreadable image; empty if there is none.
    """

    first: str = ""

    @property
    def reason(self) -> str:
        """One-line description of the damage; empty if there is none."""
        read = f"damaged: {self.num_frames} of its {self.header_frames} images can be read"
        return f"{read}; first unreadable image: {self.first}" if self.first else ""


def open_frames(folder: Path) -> VideoFrames:
    """Opens the images of a folder as a video with unknown frame rate.

    Images are rotated by their EXIF orientation. Grey becomes three equal channels; transparency is dropped. Unreadable
    images are skipped and reported as damage.

    Raises:
      VideoError: the folder has no images or cannot be read.
    """
    try:
        paths = frame_paths(folder)
    except OSError as error:
        raise VideoError(f"the folder cannot be read: {error.strerror}") from error
    if not paths:
        raise VideoError("the folder has no images in it")
    damage = LostImages(header_frames=len(paths))
    return VideoFrames(0.0, _frames(paths, damage), damage)


def _frames(paths: Sequence[str], damage: LostImages) -> Iterator[np.ndarray]:
    for path in paths:
        try:
            frame = _read(path)
        except DECODE_ERRORS as error:
            damage.bad_packets += 1
            damage.first = damage.first or f"{os.path.basename(path)}: {_one_line(error)}"
            continue
        damage.num_frames += 1
        yield frame
    if not damage.num_frames:
        raise VideoError(f"none of its frames can be decoded; {damage.first}")


def _read(path: str) -> np.ndarray:
    """Reads an image as RGB, uint8 [height, width, 3]. Raises one of DECODE_ERRORS."""
    if not os.path.isfile(path):  # reading a pipe would block
        raise OSError("not a file")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about damaged EXIF and very large images
        with Image.open(path, formats=FORMATS) as image:
            upright = ImageOps.exif_transpose(image)
            if upright.mode.startswith("I;16"):  # 16-bit grey, which Pillow would clip to 8 bits
                return np.repeat((np.asarray(upright) >> 8).astype(np.uint8)[..., np.newaxis], 3, axis=-1)
            return np.asarray(upright.convert("RGB"))


def _one_line(error: Exception) -> str:
    """Formats an error in one line, without the path that Pillow includes."""
    if isinstance(error, Image.UnidentifiedImageError):
        return "not an image"
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(reason.split()) or type(error).__name__
