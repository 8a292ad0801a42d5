"""Round trips of records."""

from __future__ import annotations

import hashlib
import os
import pathlib
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from tests.data_sets import encode_frame
from tganv2_tf.data import records

FRAMES = [b"first", b"second frame", b""]
FIELDS: dict[str, Any] = {
    "video_id": "v_Archery_g01_c02",
    "label": 2,
    "label_name": "Archery",
    "height": 6,
    "width": 8,
    "fps": 29.97,
}


@pytest.mark.parametrize("in_graph", [False, True])
def test_record_round_trip(in_graph: bool) -> None:
    serialized = records.encode_record(FRAMES, **FIELDS)
    if in_graph:
        parsed = next(iter(tf.data.Dataset.from_tensors(serialized).map(records.parse_record)))
    else:
        parsed = records.parse_record(tf.constant(serialized))
    assert set(parsed) == {"video_id", "label", "label_name", "num_frames", "height", "width", "fps", "frames"}
    assert parsed["frames"].numpy().tolist() == FRAMES
    assert parsed["num_frames"].numpy() == 3
    for name in ("video_id", "label_name"):
        assert parsed[name].numpy().decode() == FIELDS[name]
    for name in ("label", "height", "width"):
        assert parsed[name].numpy() == FIELDS[name] and parsed[name].dtype == tf.int64
    assert parsed["fps"].numpy() == np.float32(29.97)


@pytest.mark.parametrize("frames", [[], [b""], FRAMES, [bytes(127), bytes(128), bytes(20_000)] * 150])
@pytest.mark.parametrize("label", [-1, 0, 2, 127, 128, 2**40])
def test_a_record_has_the_bytes_that_tensorflow_writes(frames: list[bytes], label: int, tmp_path: pathlib.Path) -> None:
    fields = {**FIELDS, "label": label, "label_name": "Jürgen" * (label > 0), "fps": 29.97 * (label > 0)}
    serialized = records.encode_record(frames, **fields)
    example = tf.train.SequenceExample.FromString(serialized)
    assert example.SerializeToString(deterministic=True) == serialized
    context = example.context.feature
    assert context["label"].int64_list.value == [label]
    assert context["fps"].float_list.value == [np.float32(fields["fps"])]
    listed = example.feature_lists.feature_list["frames"].feature
    assert [frame.bytes_list.value for frame in listed] == [[frame] for frame in frames]
    with tf.io.TFRecordWriter(str(tmp_path / "theirs")) as writer, open(tmp_path / "ours", "wb") as file:
        for record in (serialized, b"", b"two"):
            writer.write(record)
            records.write_record(file, record)
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()


def test_records_are_written_without_tensorflow(tmp_path: pathlib.Path) -> None:
    code = (
        "import sys; from data_prep import readers, shard_writer; from tganv2_tf.data import records;"
        f"file = open({str(tmp_path / 'shard')!r}, 'wb');"
        f"records.write_record(file, records.encode_record({FRAMES!r}, **{FIELDS!r}));"
        "assert 'tensorflow' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_shapes_known_to_a_pipeline() -> None:
    spec = tf.data.Dataset.from_tensors(b"").map(records.parse_record).element_spec
    assert spec["frames"] == tf.TensorSpec([None], tf.string)
    assert all(spec[name].shape == [] for name in spec if name != "frames")


def test_a_video_without_a_label_has_minus_one() -> None:
    parsed = records.parse_record(records.encode_record(FRAMES, video_id="v", height=6, width=8))
    assert (parsed["label"].numpy(), parsed["label_name"].numpy(), parsed["fps"].numpy()) == (-1, b"", 0)


def test_same_arguments_same_bytes_in_another_process() -> None:
    code = (
        "import hashlib; from tganv2_tf.data import records;"
        f"print(hashlib.sha256(records.encode_record({FRAMES!r}, **{FIELDS!r})).hexdigest())"
    )
    expected = hashlib.sha256(records.encode_record(FRAMES, **FIELDS)).hexdigest()
    environment = {**os.environ, "PYTHONHASHSEED": "1"}
    result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == expected


@pytest.mark.parametrize("damaged", [b"not a record", records.encode_record(FRAMES, **FIELDS)[:-5]])
def test_damaged_record_is_an_error(damaged: bytes) -> None:
    with pytest.raises(tf.errors.InvalidArgumentError):
        records.parse_record(damaged)


@pytest.mark.parametrize("encoding", ["png", "jpeg"])
def test_frames_are_red_where_the_png_or_jpeg_is_red(encoding: str) -> None:
    red = np.zeros((16, 24, 3), np.uint8)
    red[..., 0] = 255
    frame = records.decode_frame(encode_frame(red, encoding))
    assert frame.dtype == tf.uint8
    assert np.abs(frame.numpy().astype(int) - red).max() <= 2
    with pytest.raises(tf.errors.InvalidArgumentError):
        records.decode_frame(encode_frame(red, encoding)[:-40])


def test_ids_of_segments() -> None:
    assert records.segment_id("v_YoYo_g01_c01", 2) == "v_YoYo_g01_c01#0002"
    assert records.segment_id("v", 12345) == "v#12345"
    assert {records.source_video(record) for record in ("v", "v#0001", "v#12345")} == {"v"}
    assert records.source_video("v#1") == "v#1"
    assert records.source_video("a#0001/b.mp4") == "a#0001/b.mp4"
