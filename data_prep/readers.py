"""Readers that the workers call for each video: they decode it to frames in the size of the data set.

All readers stream. Face crops depend on the whole video, so face readers decode it twice.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import cv2
import numpy as np

from data_prep import face_boxes
from data_prep.shard_writer import Video
from tganv2_tf.video_io.decoding import VideoError, open_video
from tganv2_tf.video_io.geometry import fit, resize_square
from tganv2_tf.video_io.video_frames import VideoFrames

BOX_RULES = ("smoothed", "official")
# Masks of FaceForensics are white outside the face, those of FaceForensics++ inside it.
MASK_KINDS = ("faceforensics", "faceforensics++")
# Encoders may drop or repeat a frame at the end. A larger difference means that the two do not belong together.
MAX_LENGTH_DIFFERENCE = 2
MAX_SHAPE_DIFFERENCE = 0.02


def read_resized(video: Video, geometry: str, resolution: int, fps: float = 0.0) -> VideoFrames:
    """Reads frames as one of `geometry.GEOMETRIES`, at `fps` frames per second if not 0. Raises VideoError."""
    opened = open_video(video.path, fps)
    return opened._replace(frames=(fit(frame, geometry, resolution) for frame in opened.frames))


def read_detected_face(video: Video, margin: float, resolution: int, fps: float = 0.0) -> VideoFrames:
    """Crops the main face, found by a detector, to frames of [resolution, resolution, 3]. Raises VideoError."""
    boxes = face_boxes.interpolated(face_boxes.detect_boxes(open_video(video.path, fps).frames))
    squares = face_boxes.smooth_squares(boxes)
    opened = open_video(video.path, fps)
    # Frames first: zip() must exhaust them, because their damage is complete only then.
    crops = (face_boxes.crop(frame, square, margin) for frame, square in zip(opened.frames, squares))
    return opened._replace(frames=(resize_square(crop, resolution) for crop in crops))


def read_masked_face(
    video: Video, box_rule: str, margin: float, resolution: int, fps: float = 0.0, mask_kind: str = MASK_KINDS[0]
) -> VideoFrames:
    """Crops the face that a mask video shows to frames of [resolution, resolution, 3].

    Args:
      video: The video, with the path of its mask video.
      box_rule: `smoothed` follows the face without jitter and interpolates where masks are empty. `official` uses one
        square per frame, as the authors' code does, and that of the nearest frame where masks are empty.
      margin: Widens the square on each side, as a fraction of its side.
      resolution: Side of the result in pixels.
      fps: Frames per second to resample both videos to; 0 = no resampling.
      mask_kind: Which part of the masks is white, one of `MASK_KINDS`.
    Raises:
      VideoError: One of the videos cannot be read, the mask video is damaged, the videos do not belong together, no
        mask shows a face, or most masks show a face as large as the frame, i.e. they are of the other kind.
    """
    try:
        masks = open_video(video.mask, fps)
        squares, mask_shape = _mask_squares(masks.frames, box_rule, mask_kind)
        if masks.damage.reason:  # its frames would not match those of the video
            raise VideoError(masks.damage.reason)
    except VideoError as error:
        raise VideoError(f"mask video: {error}") from error
    opened = open_video(video.path, fps)
    crops = _masked_faces(opened.frames, squares, mask_shape, margin)
    resize = _resize_official if box_rule == "official" else resize_square
    return opened._replace(frames=(resize(crop, resolution) for crop in crops))


def _mask_squares(masks: Iterable[np.ndarray], box_rule: str, mask_kind: str) -> tuple[np.ndarray, tuple[int, ...]]:
    """Returns the squares [T, 3] of the masks in pixels, and the height and width of the masks."""
    official = box_rule == "official"
    find = face_boxes.official_mask_box if official else face_boxes.mask_box
    found: list[tuple[float, ...]] = []
    shape: tuple[int, ...] = ()
    filled = 0
    for mask in masks:
        shape = mask.shape[:2]
        found.append(find(mask if mask_kind == MASK_KINDS[0] else cv2.bitwise_not(mask)))
        filled += face_boxes.fills_frame(found[-1], shape)
    if filled > len(found) / 2:
        (other,) = {*MASK_KINDS} - {mask_kind}
        raise VideoError(
            f"the face touches all four borders in {filled} of {len(found)} frames, as in masks of the other kind: "
            f"--mask_kind={other}"
        )
    boxes = np.array(found)
    if official:
        return face_boxes.squares(face_boxes.nearest(boxes)), shape
    return face_boxes.smooth_squares(face_boxes.interpolated(boxes)), shape


def _masked_faces(
    frames: Iterable[np.ndarray], squares: np.ndarray, mask_shape: tuple[int, ...], margin: float
) -> Iterator[np.ndarray]:
    count = 0
    for count, frame in enumerate(frames, start=1):
        if count > len(squares):
            continue
        down, across = frame.shape[0] / mask_shape[0], frame.shape[1] / mask_shape[1]
        if abs(down / across - 1) > MAX_SHAPE_DIFFERENCE:
            sizes = [f"{width}x{height}" for height, width in (frame.shape[:2], mask_shape)]
            raise VideoError(
                f"its frames have {sizes[0]} pixels, those of its mask video {sizes[1]}: different aspect ratios"
            )
        yield face_boxes.crop(frame, squares[count - 1] * (across, down, max(across, down)), margin)
    if abs(count - len(squares)) > MAX_LENGTH_DIFFERENCE:
        raise VideoError(f"it has {count} frames, but its mask video has {len(squares)}")


def _resize_official(square: np.ndarray, resolution: int) -> np.ndarray:
    return cv2.resize(square, (resolution, resolution), interpolation=cv2.INTER_CUBIC)
