"""Small data sets for tests, written with the package's own functions."""

from __future__ import annotations

import dataclasses
import io
import pathlib
from collections.abc import Sequence

import imageio.v3 as iio
import numpy as np
import tensorflow as tf

from tganv2_tf.data.manifest import Manifest, Shard, checksum, shard_name
from tganv2_tf.data.records import encode_record


def encode_frame(frame: np.ndarray, encoding: str = "png") -> bytes:
    """uint8 [H, W, 3] -> the bytes of a PNG (lossless) or JPEG file."""
    buffer = io.BytesIO()
    iio.imwrite(buffer, frame, extension=f".{encoding}")
    return buffer.getvalue()


def write_data_set(
    folder: pathlib.Path,
    lengths: list[int],
    *,
    height: int = 16,
    width: int = 16,
    num_shards: int = 2,
    labels: Sequence[str] = (),
) -> Manifest:
    """Writes one video per length; each pixel of frame t of video v is (10 * v, t, column).

    With `labels`, video v has label v % len(labels).
    """
    folder.mkdir(parents=True, exist_ok=True)
    shards = []
    for index in range(num_shards):
        file = shard_name("test", "train", index, num_shards)
        chosen = range(index, len(lengths), num_shards)
        with tf.io.TFRecordWriter(str(folder / file)) as writer:
            for video in chosen:
                frames = np.empty((lengths[video], height, width, 3), np.uint8)
                frames[..., 0] = 10 * video % 256
                frames[..., 1] = np.arange(lengths[video])[:, None, None]
                frames[..., 2] = np.arange(width)
                encoded = [encode_frame(frame) for frame in frames]
                label = video % len(labels) if labels else -1
                name = labels[label] if labels else ""
                writer.write(
                    encode_record(
                        encoded, video_id=f"video{video}", label=label, label_name=name, height=height, width=width
                    )
                )
        total = sum(lengths[video] for video in chosen)
        size = (folder / file).stat().st_size
        shards.append(Shard(file, size, checksum(folder / file), len(chosen), len(chosen), total))
    manifest = Manifest("test", "train", height, width, list(labels), {}, shards)
    manifest.save(folder)
    return manifest


def read_records(path: pathlib.Path | str) -> list[bytes]:
    """Returns the serialized records of a shard."""
    return list(tf.data.TFRecordDataset(str(path)).as_numpy_iterator())


def rewrite(folder: pathlib.Path, file: str, records: list[bytes]) -> None:
    """Rewrites a shard and updates its size and checksum in the manifest, but not its counts."""
    path = folder / file
    with tf.io.TFRecordWriter(str(path)) as writer:
        for record in records:
            writer.write(record)
    manifest = Manifest.read(folder)
    shards = [
        dataclasses.replace(shard, bytes=path.stat().st_size, checksum=checksum(path)) if shard.file == file else shard
        for shard in manifest.shards
    ]
    dataclasses.replace(manifest, shards=shards).save(folder)


def flip_byte(path: pathlib.Path, record: int) -> None:
    """Flips a bit in the middle of a record, so that its checksum in the TFRecord framing is wrong."""
    before = read_records(path)
    # Framing.from_manifest a record: length and its checksum, 12 bytes; the record; its checksum, 4 bytes.
    position = sum(16 + len(other) for other in before[:record]) + 12 + len(before[record]) // 2
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)
