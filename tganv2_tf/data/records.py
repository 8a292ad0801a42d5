"""The record, the contract between `data_prep` and training: a video or, of a long video, a segment.

It is one `tf.train.SequenceExample` with the frames as JPEG or PNG files. TensorFlow is imported only where records are
encoded, parsed or decoded.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import tensorflow as tf

NO_LABEL = -1
_SEGMENT = re.compile(r"#\d{4,}$")


def encode_record(
    frames: Sequence[bytes],
    *,
    video_id: str,
    label: int = NO_LABEL,
    label_name: str = "",
    height: int,
    width: int,
    fps: float = 0.0,
) -> bytes:
    """Serializes one video; the same arguments give the same bytes.

    Args:
      frames: one JPEG or PNG file a frame, RGB, in order of time.
      video_id: unique in the data set; a segment of a long video ends in `#0001`, `#0002`, ...
      label: number of the class from 0, or `NO_LABEL`.
      label_name: name of the class, or nothing.
      height: of the frames, in pixels.
      width: of the frames, in pixels.
      fps: frames a second of the source; 0 where it is unknown.
    Returns:
      A serialized `tf.train.SequenceExample`.
    """
    import tensorflow as tf

    def of_bytes(value: bytes) -> tf.train.Feature:
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))

    def of_int(value: int) -> tf.train.Feature:
        return tf.train.Feature(int64_list=tf.train.Int64List(value=[value]))

    context = {
        "video_id": of_bytes(video_id.encode()),
        "label": of_int(label),
        "label_name": of_bytes(label_name.encode()),
        "num_frames": of_int(len(frames)),
        "height": of_int(height),
        "width": of_int(width),
        "fps": tf.train.Feature(float_list=tf.train.FloatList(value=[fps])),
    }
    example = tf.train.SequenceExample(
        context=tf.train.Features(feature=context),
        feature_lists=tf.train.FeatureLists(
            feature_list={"frames": tf.train.FeatureList(feature=[of_bytes(frame) for frame in frames])}
        ),
    )
    return example.SerializeToString(deterministic=True)  # the order of a protobuf map is otherwise left open


def parse_record(serialized: tf.Tensor) -> dict[str, tf.Tensor]:
    """Reads what `encode_record` wrote, eagerly or inside tf.data; the frames stay encoded.

    Args:
      serialized: string, scalar.
    Returns:
      `video_id` string [], `label` int64 [], `label_name` string [], `num_frames` int64 [], `height` int64 [], `width`
      int64 [], `fps` float32 [], `frames` string [num_frames].
    Raises:
      tf.errors.InvalidArgumentError: not such a record, or a field is missing.
    """
    import tensorflow as tf

    context, sequences = tf.io.parse_single_sequence_example(
        serialized,
        context_features={
            "video_id": tf.io.FixedLenFeature([], tf.string),
            "label": tf.io.FixedLenFeature([], tf.int64),
            "label_name": tf.io.FixedLenFeature([], tf.string),
            "num_frames": tf.io.FixedLenFeature([], tf.int64),
            "height": tf.io.FixedLenFeature([], tf.int64),
            "width": tf.io.FixedLenFeature([], tf.int64),
            "fps": tf.io.FixedLenFeature([], tf.float32),
        },
        sequence_features={"frames": tf.io.FixedLenSequenceFeature([], tf.string)},
    )
    return {**context, **sequences}


def decode_frame(encoded: tf.Tensor) -> tf.Tensor:
    """A JPEG or PNG file, string [], -> uint8 [height, width, 3].

    Raises:
      tf.errors.InvalidArgumentError: it is neither, or damaged.
    """
    import tensorflow as tf

    # Exact, so that a data set means the same pixels everywhere. The op reads PNG as well, whatever its name.
    return tf.io.decode_jpeg(encoded, 3, dct_method="INTEGER_ACCURATE")


def segment_id(video_id: str, number: int) -> str:
    """The id of segment `number`, from 1, of a long video: `v_YoYo_g01_c01#0001`."""
    return f"{video_id}#{number:04d}"


def source_video(record_id: str) -> str:
    """The id of the video that a record comes from: its own, without the number of a segment."""
    return _SEGMENT.sub("", record_id)
