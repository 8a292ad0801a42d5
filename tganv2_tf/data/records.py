"""The record format shared by `data_prep` and training. A record is a video, or a segment of a long video.

A record is a `tf.train.SequenceExample` with frames as JPEG or PNG files, stored in a TFRecord file. Writing does not
use TensorFlow, because importing it would cost each worker process of a preparation seconds and hundreds of megabytes.
TensorFlow is imported only to parse and decode records.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Sequence
from typing import IO, TYPE_CHECKING

import google_crc32c

if TYPE_CHECKING:
    import tensorflow as tf

NO_LABEL = -1
_SEGMENT = re.compile(r"#\d{4,}$")
_CLIP_OF_GROUP = re.compile(r"(v_.+_g\d+)_c\d+", re.IGNORECASE)  # UCF101's names


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
    """Serializes one video deterministically.

    Args:
      frames: One JPEG or PNG file per frame, RGB, in temporal order.
      video_id: Id that is unique in the data set. Ids of segments of long videos end in `#0001`, `#0002`, ...
      label: Index of the class from 0, or `NO_LABEL`.
      label_name: Name of the class, or an empty string.
      height: Height of the frames, in pixels.
      width: Width of the frames, in pixels.
      fps: Frames per second of the source; 0 if unknown.
    Returns:
      A serialized `tf.train.SequenceExample`.
    """
    # A map is a sequence of entries in any order. This is the order of protobuf's deterministic serialization in C.
    context = {
        "fps": _field(2, _field(1, struct.pack("<f", fps))),
        "height": _int_feature(height),
        "label_name": _bytes_feature(label_name.encode()),
        "label": _int_feature(label),
        "num_frames": _int_feature(len(frames)),
        "video_id": _bytes_feature(video_id.encode()),
        "width": _int_feature(width),
    }
    features = b"".join(_field(1, _entry(name, feature)) for name, feature in context.items())
    feature_list = b"".join(_field(1, _bytes_feature(frame)) for frame in frames)
    return _field(1, features) + _field(2, _field(1, _entry("frames", feature_list)))


def write_record(file: IO[bytes], serialized: bytes) -> None:
    """Appends a record to a TFRecord file: its length and its content, each followed by its checksum.

    Raises:
      OSError: The file cannot be written, e.g. because the disk is full.
    """
    length = struct.pack("<Q", len(serialized))
    for part in (length, serialized):
        file.write(part)
        file.write(struct.pack("<I", _masked_checksum(part)))


def _masked_checksum(data: bytes) -> int:
    """Returns the masked CRC-32C of the TFRecord format: rotated by 15 bits, plus a constant."""
    checksum = google_crc32c.value(data)
    return ((checksum >> 15 | checksum << 17) + 0xA282EAD8) & 0xFFFFFFFF


def _varint(value: int) -> bytes:
    """Encodes an integer as protobuf varint: seven bits per byte, lowest first."""
    value &= 2**64 - 1  # two's complement of 64 bits for negative values
    encoded = bytearray()
    while value > 127:
        encoded.append(value & 127 | 128)
        value >>= 7
    return bytes([*encoded, value])


def _field(number: int, content: bytes) -> bytes:
    """Encodes a length-delimited protobuf field: bytes, text, packed numbers or another message."""
    return bytes([number << 3 | 2]) + _varint(len(content)) + content


def _entry(key: str, value: bytes) -> bytes:
    return _field(1, key.encode()) + _field(2, value)


def _bytes_feature(value: bytes) -> bytes:
    """Encodes a `tf.train.Feature` with a `BytesList` of one value (field 2: `FloatList`, field 3: `Int64List`)."""
    return _field(1, _field(1, value))


def _int_feature(value: int) -> bytes:
    return _field(3, _field(1, _varint(value)))


def parse_record(serialized: tf.Tensor) -> dict[str, tf.Tensor]:
    """Parses the output of `encode_record`, eagerly or inside tf.data, without decoding frames.

    Args:
      serialized: Scalar string.
    Returns:
      `video_id` string [], `label` int64 [], `label_name` string [], `num_frames` int64 [], `height` int64 [], `width`
      int64 [], `fps` float32 [], `frames` string [num_frames].
    Raises:
      tf.errors.InvalidArgumentError: The string is not a valid record, or a field is missing.
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
    """Decodes a JPEG or PNG file: string [] -> uint8 [height, width, 3].

    Raises:
      tf.errors.InvalidArgumentError: The file is neither, or is damaged.
    """
    import tensorflow as tf

    # An exact DCT, so that pixels are equal on all machines. Despite its name the op also decodes PNG.
    return tf.io.decode_jpeg(encoded, 3, dct_method="INTEGER_ACCURATE")


def segment_id(video_id: str, number: int) -> str:
    """Returns the id of segment `number` (from 1) of a long video, e.g. `v_YoYo_g01_c01#0001`."""
    return f"{video_id}#{number:04d}"


def source_video(record_id: str) -> str:
    """Returns the id of a record's source video: the record's id without the segment number."""
    return _SEGMENT.sub("", record_id)


def source_group(record_id: str) -> str:
    """Returns the UCF101 group of a record, e.g. `v_YoYo_g01` for `v_YoYo_g01_c02`; for other videos, their id."""
    video_id = source_video(record_id)
    match = _CLIP_OF_GROUP.fullmatch(video_id)
    return match[1] if match else video_id
