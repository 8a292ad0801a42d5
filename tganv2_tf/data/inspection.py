"""Reads shards one record at a time, eagerly, and says in words what is wrong with them.

TensorFlow is imported only where it is needed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from tganv2_tf.data.records import decode_frame, parse_record

if TYPE_CHECKING:
    import numpy as np
    import tensorflow as tf


class DamagedError(Exception):
    """Data that are not what they should be; the message says how, without a name."""


def read_shard(path: str) -> Iterator[bytes]:
    """The serialized records of a shard.

    Raises:
      DamagedError: the file breaks off or its checksums are wrong; TFRecord has no way to find the next record.
    """
    import tensorflow as tf

    try:
        yield from tf.data.TFRecordDataset(path).as_numpy_iterator()
    except tf.errors.OpError as error:
        raise DamagedError(f"{_reason(error)}; whatever follows in the file is lost") from error


def read_record(serialized: bytes) -> dict[str, Any]:
    """The fields of `parse_record` as NumPy values.

    Raises:
      DamagedError: it is none of our records.
    """
    import tensorflow as tf

    try:
        return {name: value.numpy() for name, value in parse_record(tf.constant(serialized)).items()}
    except tf.errors.OpError as error:
        raise DamagedError(f"not a record of a video: {_reason(error)}") from error


def read_frames(encoded: Iterable[bytes], height: int, width: int) -> Iterator[np.ndarray]:
    """Decodes frames: each uint8 [height, width, 3].

    Raises:
      DamagedError: one cannot be decoded or has another size; the message has its number, from 0.
    """
    import tensorflow as tf

    for number, frame in enumerate(encoded):
        try:
            decoded = decode_frame(frame).numpy()
        except tf.errors.OpError as error:
            raise DamagedError(f"frame {number} cannot be decoded: {_reason(error)}") from error
        if decoded.shape != (height, width, 3):
            size = f"{decoded.shape[1]}x{decoded.shape[0]}"
            raise DamagedError(f"frame {number} has {size} pixels, those of the data set {width}x{height}")
        yield decoded


def _reason(error: tf.errors.OpError) -> str:
    """TensorFlow's words without the names of its functions."""
    return " ".join(re.sub(r"\{\{function_node .*?\}\}|\[Op:.*", "", error.message, flags=re.DOTALL).split()).rstrip(
        "."
    )
