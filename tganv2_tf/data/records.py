"""The record, the contract between `data_prep` and training: a video or, of a long video, a segment.

It is one `tf.train.SequenceExample` with the frames as JPEG or PNG files, in a TFRecord file. Both are written without
TensorFlow, whose import would cost each worker process of a preparation seconds and hundreds of megabytes; it is
imported only where records are parsed or decoded.
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
    # A map is written as its entries. Protobuf leaves their order open; this one is of its deterministic form, in C.
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
    """Appends a record to a TFRecord file: its length, what it holds, and after each of them its checksum.

    Raises:
      OSError: a full disk, for one.
    """
    length = struct.pack("<Q", len(serialized))
    for part in (length, serialized):
        file.write(part)
        file.write(struct.pack("<I", _masked_checksum(part)))


def _masked_checksum(data: bytes) -> int:
    """CRC-32C, turned by 15 bits and shifted by a constant, as the format asks for."""
    checksum = google_crc32c.value(data)
    return ((checksum >> 15 | checksum << 17) + 0xA282EAD8) & 0xFFFFFFFF


def _varint(value: int) -> bytes:
    """A whole number in protobuf's form: seven bits a byte, the lowest first."""
    value &= 2**64 - 1  # negative ones are those of 64 bits
    encoded = bytearray()
    while value > 127:
        encoded.append(value & 127 | 128)
        value >>= 7
    return bytes([*encoded, value])


def _field(number: int, content: bytes) -> bytes:
    """A field of a protobuf message that holds bytes, a text, packed numbers or another message."""
    return bytes([number << 3 | 2]) + _varint(len(content)) + content


def _entry(key: str, value: bytes) -> bytes:
    return _field(1, key.encode()) + _field(2, value)


def _bytes_feature(value: bytes) -> bytes:
    """`tf.train.Feature` with a `BytesList` of one value; fields 2 and 3 are a `FloatList` and an `Int64List`."""
    return _field(1, _field(1, value))


def _int_feature(value: int) -> bytes:
    return _field(3, _field(1, _varint(value)))


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


def source_group(record_id: str) -> str:
    """What videos of one take share: `v_YoYo_g01`, UCF101's group, of `v_YoYo_g01_c02`; else the video's own id."""
    video_id = source_video(record_id)
    match = _CLIP_OF_GROUP.fullmatch(video_id)
    return match[1] if match else video_id
