"""Reads shards eagerly, one record at a time, and describes damage.

TensorFlow is imported only when needed.
"""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Iterable, Iterator
from typing import IO, TYPE_CHECKING, Any

from tganv2_tf.data.records import decode_frame, parse_record

if TYPE_CHECKING:
    import numpy as np
    import tensorflow as tf


FRAMING_HEAD, FRAMING_TAIL = 12, 4  # bytes before and after each record of a TFRecord file: length and checksums


class DamagedError(Exception):
    """The data are damaged. The message describes the damage, without a file name."""


def read_shard(path: str) -> Iterator[bytes]:
    """Yields the serialized records of a shard.

    Raises:
      DamagedError: The file is truncated or a checksum is wrong. TFRecord cannot find the next record then.
    """
    import tensorflow as tf

    try:
        yield from tf.data.TFRecordDataset(path).as_numpy_iterator()
    except tf.errors.OpError as error:
        raise DamagedError(f"{_reason(error)}; the rest of the file cannot be read") from error


def read_record(serialized: bytes) -> dict[str, Any]:
    """Returns the fields of `parse_record` as NumPy values.

    Raises:
      DamagedError: The bytes are not a valid record.
    """
    import tensorflow as tf

    try:
        return {name: value.numpy() for name, value in parse_record(tf.constant(serialized)).items()}
    except tf.errors.OpError as error:
        raise DamagedError(f"not a video record: {_reason(error)}") from error


def read_lengths(path: str) -> list[tuple[str, int]]:
    """Returns `video_id` and number of frames of each record of a local shard, without reading frames.

    Raises:
      DamagedError: The file is truncated, or contains invalid records.
      OSError: The file cannot be read.
    """
    import tensorflow as tf

    contexts, size = [], os.path.getsize(path)
    try:
        with open(path, "rb") as file:
            while framing := file.read(FRAMING_HEAD):
                (length,) = struct.unpack_from("<Q", framing)
                end = file.tell() + length + FRAMING_TAIL
                if end > size:
                    raise ValueError("truncated")
                contexts.append(_context(file, length))
                file.seek(end)
        # A context with its tag has the wire format of a `tf.train.Example`.
        fields = {"video_id": tf.string, "num_frames": tf.int64}
        features = {name: tf.io.FixedLenFeature([], kind) for name, kind in fields.items()}
        parsed = tf.io.parse_example(tf.constant(contexts, tf.string), features)
    except (struct.error, ValueError, tf.errors.OpError) as error:
        raise DamagedError("not a complete shard of videos") from error
    ids = [video_id.decode() for video_id in parsed["video_id"].numpy()]
    return list(zip(ids, parsed["num_frames"].numpy().tolist()))


def _context(file: IO[bytes], record_bytes: int) -> bytes:
    """Reads the first field of a record: its tag, its length as varint, and its content."""
    start, length, shift, part = file.tell(), 0, 0, 128
    file.seek(1, os.SEEK_CUR)
    while part > 127:
        (part,) = file.read(1)  # ValueError at the end of the file
        length |= (part & 127) << shift
        shift += 7
    size = file.tell() + length - start
    if size > record_bytes:
        raise ValueError("longer than its record")
    file.seek(start)
    return file.read(size)


def read_frames(encoded: Iterable[bytes], height: int, width: int) -> Iterator[np.ndarray]:
    """Yields decoded frames, each uint8 [height, width, 3].

    Raises:
      DamagedError: A frame cannot be decoded or has another size. The message has its index, from 0.
    """
    import tensorflow as tf

    for number, frame in enumerate(encoded):
        try:
            decoded = decode_frame(frame).numpy()
        except tf.errors.OpError as error:
            raise DamagedError(f"frame {number} cannot be decoded: {_reason(error)}") from error
        if decoded.shape != (height, width, 3):
            size = f"{decoded.shape[1]}x{decoded.shape[0]}"
            raise DamagedError(f"frame {number} has {size} pixels, but those of the data set have {width}x{height}")
        yield decoded


def _reason(error: tf.errors.OpError) -> str:
    """Returns TensorFlow's error message without function names."""
    return " ".join(re.sub(r"\{\{function_node .*?\}\}|\[Op:.*", "", error.message, flags=re.DOTALL).split()).rstrip(
        "."
    )
