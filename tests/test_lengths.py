"""Videos that are too short for a clip: they are counted and reported before training."""

from __future__ import annotations

import dataclasses
import pathlib

import numpy as np
import pytest

from data_prep.moving_shapes import write_video
from tests.conftest import TINY_FLAGS, tiny_config
from tests.data_sets import flip_byte, write_data_set
from tests.forking import fork_command
from tganv2_tf.config import DataConfig
from tganv2_tf.data import lengths
from tganv2_tf.data.inspection import DamagedError, read_lengths
from tganv2_tf.data.manifest import Manifest
from tganv2_tf.diagnosis.data_set import check_lengths
from tganv2_tf.diagnosis.findings import NOTE
from tganv2_tf.errors import ConfigError, UserError
from tganv2_tf.training.description import describe

LENGTHS = [5, 7, 5, 13, 6]  # a clip of four frames with stride three spans ten


def test_a_clip_spans_its_first_frame_and_the_steps_to_its_last() -> None:
    assert lengths.span(16, 1) == 16
    assert lengths.span(16, 3) == 46


def test_lengths_are_read_without_the_frames(tmp_path: pathlib.Path) -> None:
    manifest = write_data_set(tmp_path, LENGTHS, num_shards=1)
    shard = tmp_path / manifest.shards[0].file
    expected = [(f"video{number}", length) for number, length in enumerate(LENGTHS)]
    assert read_lengths(str(shard)) == expected
    flip_byte(shard, 2)  # in its frames
    assert read_lengths(str(shard)) == expected
    whole = shard.read_bytes()
    for content in (whole[:7], whole[:12], whole[:-1], b"no shard " * 20, whole[:12] + bytes(len(whole) - 12)):
        shard.write_bytes(content)
        with pytest.raises(DamagedError):
            read_lengths(str(shard))
    shard.write_bytes(b"")
    assert read_lengths(str(shard)) == []


def test_videos_are_counted_by_their_longest_record(tmp_path: pathlib.Path) -> None:
    made = write_data_set(tmp_path, LENGTHS, num_shards=2)
    counted = dataclasses.replace(made, longest_records={"5": 2, "6": 1, "7": 1, "13": 1})
    for manifest in (made, counted):
        assert [lengths.count_shorter(manifest, tmp_path, least) for least in (5, 6, 7, 13, 14)] == [0, 2, 3, 4, 5]
    assert lengths.count_shorter(counted, "s3://bucket/nowhere", 6) == 2
    assert lengths.count_shorter(made, "s3://bucket/nowhere", 6) is None
    prepared = dataclasses.replace(made, options={"min_frames": 6})
    assert lengths.count_shorter(prepared, "s3://bucket/nowhere", 6) == 0, "data_prep leaves shorter ones out"
    (tmp_path / made.shards[0].file).unlink()
    assert lengths.count_shorter(made, tmp_path, 6) is None
    said = lengths.describe_too_short(made, DataConfig(str(tmp_path)), 6)
    assert said.startswith(f"{tmp_path}: unknown how many of the 5 videos are shorter than the 6 frames of a clip")


def test_data_prep_records_the_lengths_segments_included(tmp_path: pathlib.Path) -> None:
    (tmp_path / "videos").mkdir()
    for number, length in enumerate((5, 20, 5)):  # 20 frames in segments of 8 frames, which share three
        write_video(tmp_path / "videos" / f"{number}.avi", np.zeros((length, 16, 16, 3), np.uint8))
    flags = [f"--video_dir={tmp_path / 'videos'}", f"--output_dir={tmp_path / 'data'}", "--resolution=16"]
    result = fork_command("data_prep.video_folder", *flags, "--min_frames=4", "--max_record_frames=8")
    assert result.returncode == 0, result.stderr
    manifest = Manifest.load(tmp_path / "data")
    assert manifest.longest_records == {"5": 2, "8": 1} and manifest.num_records > manifest.num_videos
    old = dataclasses.replace(manifest, longest_records={})
    for least in (5, 6, 8, 9):
        count = lengths.count_shorter(manifest, tmp_path / "data", least)
        assert count == lengths.count_shorter(old, tmp_path / "data", least) == {5: 0, 6: 2, 8: 2, 9: 3}[least]


@pytest.mark.parametrize("field", ['"5": true', '"five": 1', '"5": 1.5'])
def test_a_manifest_with_other_lengths_is_refused(tmp_path: pathlib.Path, field: str) -> None:
    write_data_set(tmp_path, [5])
    path = tmp_path / "manifest.json"
    text = path.read_text()
    assert text.count('"longest_records": {}') == 1
    path.write_text(text.replace('"longest_records": {}', f'"longest_records": {{{field}}}'))
    with pytest.raises(UserError, match="the field longest_records"):
        Manifest.read(tmp_path)


def test_what_is_never_used_is_told(tmp_path: pathlib.Path) -> None:
    manifest = write_data_set(tmp_path, LENGTHS)
    said = f"{tmp_path}: 4 of 5 videos are shorter than the 10 frames of a clip and are never used"
    config = tiny_config(data={"data_dir": str(tmp_path), "frame_step": 3})
    assert list(describe(config, ["/cpu:0"], 1))[-2:] == [f"data: 5 videos in {tmp_path}", said]
    (finding,) = check_lengths(config, manifest)
    assert finding == (NOTE, "data", said)
    enough = tiny_config(data={"data_dir": str(tmp_path), "frame_step": 1})
    assert list(describe(enough, ["/cpu:0"], 1))[-1] == f"data: 5 videos in {tmp_path}"
    assert not list(check_lengths(enough, manifest))
    none = tiny_config(data={"data_dir": str(tmp_path), "frame_step": 5})
    with pytest.raises(ConfigError, match=r"no video in .* has the 16 frames that a clip spans; the longest has 13"):
        list(describe(none, ["/cpu:0"], 1))


def test_a_dry_run_shows_the_levels_before_what_is_wrong_with_the_data(tmp_path: pathlib.Path) -> None:
    result = fork_command(
        "tganv2_tf.train", *TINY_FLAGS, "--global_batch_size=4", f"--data_dir={tmp_path}", "--dry_run"
    )
    assert result.returncode == 1
    assert "16x16" in result.stdout and result.stderr.splitlines()[-1].startswith(
        f"train: {tmp_path}: no manifest.json"
    )
