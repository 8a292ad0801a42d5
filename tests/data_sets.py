"""Small data sets for tests, written with the contract's own functions."""

from __future__ import annotations

import io
import pathlib

import imageio.v3 as iio
import numpy as np
import tensorflow as tf

from tganv2_tf.data.records import Manifest, Shard, checksum, encode_record, shard_name


def encode_frame(frame: np.ndarray, encoding: str = "png") -> bytes:
    """uint8 [H, W, 3] -> the bytes of a PNG (lossless) or JPEG file."""
    buffer = io.BytesIO()
    iio.imwrite(buffer, frame, extension=f".{encoding}")
    return buffer.getvalue()


def write_data_set(
    folder: pathlib.Path, lengths: list[int], *, height: int = 16, width: int = 16, num_shards: int = 2
) -> Manifest:
    """Writes one video a length; each pixel of frame t of video v holds (10 * v, t, column)."""
    folder.mkdir(parents=True, exist_ok=True)
    shards = []
    for index in range(num_shards):
        file = shard_name("test", "train", index, num_shards)
        chosen = range(index, len(lengths), num_shards)
        with tf.io.TFRecordWriter(str(folder / file)) as writer:
            for video in chosen:
                frames = np.empty((lengths[video], height, width, 3), np.uint8)
                frames[..., 0] = 10 * video
                frames[..., 1] = np.arange(lengths[video])[:, None, None]
                frames[..., 2] = np.arange(width)
                encoded = [encode_frame(frame) for frame in frames]
                writer.write(encode_record(encoded, video_id=f"video{video}", height=height, width=width))
        total = sum(lengths[video] for video in chosen)
        size = (folder / file).stat().st_size
        shards.append(Shard(file, size, checksum(folder / file), len(chosen), len(chosen), total))
    manifest = Manifest("test", "train", height, width, [], {}, shards)
    manifest.save(folder)
    return manifest
