"""Folders of image files, one a frame -> the frames of a video. Many data sets are published so."""

from __future__ import annotations

import dataclasses
import os
import struct
import warnings
from collections.abc import Iterator, Sequence

import numpy as np
from PIL import Image, ImageOps

from tganv2_tf.errors import VideoError
from tganv2_tf.folders import frame_paths
from tganv2_tf.storage import Path
from tganv2_tf.video_frames import Damage, VideoFrames

FORMATS = ("JPEG", "PNG", "WEBP")  # Pillow would take a file for any of its forty, whatever its name
# What Pillow raises for damaged files.
DECODE_ERRORS = (OSError, ValueError, SyntaxError, TypeError, LookupError, struct.error, Image.DecompressionBombError)


@dataclasses.dataclass
class LostImages(Damage):
    """Images of a folder that cannot be read; `header_frames` is the number of all images.

    Attributes:
      first: name of the first one, and what is wrong with it; empty if there is none.
    """

    first: str = ""

    @property
    def reason(self) -> str:
        """What is wrong, in one line; empty if nothing is."""
        read = f"damaged: {self.num_frames} of its {self.header_frames} images can be read"
        return f"{read}; the first that cannot: {self.first}" if self.first else ""


def open_frames(folder: Path) -> VideoFrames:
    """The images of a folder as a video, whose rate is unknown.

    Images are turned upright as their EXIF orientation says. Grey has three equal channels; transparency is dropped.
    Images that cannot be read are left out and are damage.

    Raises:
      VideoError: no images, or a folder that cannot be read.
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
        raise VideoError(f"no frame of it can be decoded; {damage.first}")


def _read(path: str) -> np.ndarray:
    """uint8 [height, width, 3], RGB. Raises one of DECODE_ERRORS."""
    if not os.path.isfile(path):  # a pipe would be waited for
        raise OSError("not a file")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of damaged EXIF, and of very many pixels
        with Image.open(path, formats=FORMATS) as image:
            upright = ImageOps.exif_transpose(image)
            if upright.mode.startswith("I;16"):  # grey of 16 bits, which Pillow would clip to 8
                return np.repeat((np.asarray(upright) >> 8).astype(np.uint8)[..., np.newaxis], 3, axis=-1)
            return np.asarray(upright.convert("RGB"))


def _one_line(error: Exception) -> str:
    """An error without the path, which Pillow repeats."""
    if isinstance(error, Image.UnidentifiedImageError):
        return "not an image"
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(reason.split()) or type(error).__name__
