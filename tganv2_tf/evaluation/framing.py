"""Crops and resizes generated frames in the way the real videos were prepared."""

from __future__ import annotations

import dataclasses

import numpy as np
import tensorflow as tf
from absl import logging

from tganv2_tf.data.clips import random_crop_and_flip
from tganv2_tf.data.manifest import Manifest
from tganv2_tf.errors import VideoError
from tganv2_tf.video_io.geometry import fit, resize_square

FACES = "faces"
CROPS_SEED = 0  # the same crops in all evaluations


@dataclasses.dataclass(frozen=True)
class Framing:
    """How the frames of a data set were cropped and resized.

    Attributes:
      resolution: R, height and width of the clips, in pixels.
      geometry: one of `geometry.GEOMETRIES`, or `FACES` for squares around a detected or given face.
    """

    resolution: int
    geometry: str

    def __str__(self) -> str:
        return f"{self.resolution} pixels, {self.geometry}"

    @classmethod
    def from_manifest(cls, manifest: Manifest) -> Framing:
        """Returns the framing of a data set. If the manifest does not record it, it follows from the frame shape."""
        options = manifest.options
        if options.get("face_box") or "box" in options:
            return cls(manifest.height, FACES)
        return cls(
            manifest.height, options.get("geometry", "paper" if manifest.width == manifest.height else "official")
        )

    @classmethod
    def from_folder(cls, folder: str) -> Framing | None:
        """Returns the framing of a folder's data set; None for "". Raises UserError if it holds no data set."""
        return cls.from_manifest(Manifest.read(folder)) if folder else None

    def warn_if_different(self, other: Framing, clips_dir: str) -> None:
        """Warns if the shards in `clips_dir` were prepared differently."""
        if other != self:
            text = (
                "--clips_dir=%s: frames (%s) were prepared differently from the real ones (%s), which affects scores."
            )
            logging.warning(text, clips_dir, other, self)

    def fitted(self, video: np.ndarray, number: int) -> np.ndarray:
        """Crops and resizes a video. Square frames are only resized.

        Args:
          video: uint8 [T, H, W, 3], of any size.
          number: index of the video, which seeds the random crop of the `official` geometry.
        Returns:
          uint8 [T, R, R, 3].
        Raises:
          VideoError: the frames are not square and the data set shows faces, so that the crop is unknown.
        """
        height, width = video.shape[1:3]
        if height == width:
            return video if height == self.resolution else np.stack([resize_square(f, self.resolution) for f in video])
        if self.geometry == FACES:
            raise VideoError(
                f"frames of {width}x{height} pixels, but the real videos are square face crops; prepare the video in "
                "the same way with data_prep and score the shards with --clips_dir"
            )
        frames = np.stack([fit(frame, self.geometry, self.resolution) for frame in video])
        return random_crop_and_flip(
            tf.constant(frames), self.resolution, False, tf.constant([CROPS_SEED, number])
        ).numpy()
