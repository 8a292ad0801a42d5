"""Frames of video files and arrays, cropped and resized as those of the real videos were."""

from __future__ import annotations

import dataclasses

import numpy as np
import tensorflow as tf
from absl import logging

from tganv2_tf.data.manifest import Manifest
from tganv2_tf.data.pipeline import augment
from tganv2_tf.errors import VideoError
from tganv2_tf.geometry import fit, resize_square

FACES = "faces"
CROPS_SEED = 0  # the same crops in all evaluations


@dataclasses.dataclass(frozen=True)
class Framing:
    """What training does to the frames of a data set.

    Attributes:
      resolution: R, height and width of the clips, in pixels.
      geometry: one of `geometry.GEOMETRIES`, or `FACES`, squares around a face that was detected or given.
    """

    resolution: int
    geometry: str

    def __str__(self) -> str:
        return f"{self.resolution} pixels, {self.geometry}"

    @classmethod
    def of(cls, manifest: Manifest) -> Framing:
        """That of a data set; one that `data_prep` has not made is known by the shape of its frames."""
        options = manifest.options
        if options.get("face_box") or "box" in options:
            return cls(manifest.height, FACES)
        return cls(
            manifest.height, options.get("geometry", "paper" if manifest.width == manifest.height else "official")
        )

    @classmethod
    def of_folder(cls, folder: str) -> Framing | None:
        """That of the data set in a folder; None without a folder. Raises UserError if there is no data set in it."""
        return cls.of(Manifest.read(folder)) if folder else None

    def warn_of_another(self, other: Framing, clips_dir: str) -> None:
        """Warns if the shards in `clips_dir` were prepared otherwise."""
        if other != self:
            text = "--clips_dir=%s: its frames (%s) were prepared otherwise than the real ones (%s); scores show it."
            logging.warning(text, clips_dir, other, self)

    def fitted(self, video: np.ndarray, number: int) -> np.ndarray:
        """Crops and resizes a video; square frames, as generators make them, count as cropped already.

        Args:
          video: uint8 [T, H, W, 3], of any size.
          number: of the video, which decides where `official` frames are cropped.
        Returns:
          uint8 [T, R, R, 3].
        Raises:
          VideoError: the frames are not square, and no crop is known because those of the data set show faces.
        """
        height, width = video.shape[1:3]
        if height == width:
            return video if height == self.resolution else np.stack([resize_square(f, self.resolution) for f in video])
        if self.geometry == FACES:
            raise VideoError(
                f"its frames have {width}x{height} pixels, and the real videos are square crops of faces; prepare it "
                "with data_prep as those were, and score the shards with --clips_dir"
            )
        frames = np.stack([fit(frame, self.geometry, self.resolution) for frame in video])
        return augment(tf.constant(frames), self.resolution, False, tf.constant([CROPS_SEED, number])).numpy()
