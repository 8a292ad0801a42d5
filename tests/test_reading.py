"""Input shards of several workers, and damaged records: reported, or skipped and counted."""

from __future__ import annotations

import collections
import itertools
import pathlib
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from absl import logging

from tests.conftest import tiny_config
from tests.data_sets import encode_frame, flip_byte, read_records, rewrite, write_data_set
from tganv2_tf.data import pipeline, reading
from tganv2_tf.data.checks import load_manifest
from tganv2_tf.data.damage import UNREADABLE, cause_of_error, find_damage
from tganv2_tf.data.manifest import Manifest
from tganv2_tf.data.records import encode_record
from tganv2_tf.errors import ConfigError, UserError

SHARDS = ["test-train-00000-of-00002.tfrecord", "test-train-00001-of-00002.tfrecord"]


def _numbers(records: tf.data.Dataset) -> list[tuple[str, int]]:
    return [(pathlib.Path(path.decode()).name, int(number)) for path, number, _ in records.as_numpy_iterator()]


@pytest.mark.parametrize(
    ("num_shards", "num_pipelines", "sizes"),
    [
        (5, 2, [5, 5]),  # uneven shards would differ in rate: every second record instead
        (10, 2, [5, 5]),
        (5, 5, [2, 2, 2, 2, 2]),
        (1, 3, [4, 3, 3]),  # fewer shards than workers: every third record
        (3, 4, [3, 3, 2, 2]),  # shards of 4, 3 and 3 records, dealt across their ends
    ],
)
def test_shares_are_disjoint_and_together_everything(
    tmp_path: pathlib.Path, num_shards: int, num_pipelines: int, sizes: list[int]
) -> None:
    manifest = write_data_set(tmp_path, [4] * 10, num_shards=num_shards)
    shares = [
        reading.RecordPartition.of(manifest, str(tmp_path), num_pipelines, index) for index in range(num_pipelines)
    ]
    read = [_numbers(share.read()) for share in shares]
    assert [len(of_one) for of_one in read] == sizes
    everything = {(shard.file, number) for shard in manifest.shards for number in range(shard.num_records)}
    assert len(everything) == 10 and sorted(itertools.chain(*read)) == sorted(everything)
    assert [share.num_records for share in shares] == sizes
    if num_shards % num_pipelines == 0:
        files = [{name for name, _ in of_one} for of_one in read]
        assert sum(map(len, files)) == num_shards, "no shard is read by two"
    endless = shares[1].read_endlessly(3)
    epochs = _numbers(endless.take(4 * sizes[1]))
    for start in range(0, len(epochs), sizes[1]):
        assert sorted(epochs[start : start + sizes[1]]) == sorted(read[1]), "each once an epoch"
    for start in (1, sizes[1], 2 * sizes[1] - 1):
        assert _numbers(shares[1].read_endlessly(3, first_record=start).take(4)) == epochs[start : start + 4]


@pytest.mark.parametrize("lengths", [[1], [4], [1, 1, 1], [2, 3], [5, 1, 3], [3, 3, 2, 2], [0, 2, 2]])
def test_every_position_of_an_epoch_is_found(lengths: list[int]) -> None:
    turns = [(lane, turn) for turn in range(max(lengths)) for lane, length in enumerate(lengths) if turn < length]
    for record in range(len(turns)):
        rounds, rest = reading._resume_offset(lengths, record)
        assert [each for each in turns if each[1] >= rounds][rest:] == turns[record:]


def test_going_on_in_the_midst_of_an_epoch_reads_no_shard_that_is_done(tmp_path: pathlib.Path) -> None:
    manifest = write_data_set(tmp_path, [4] * 40, num_shards=20)
    share = reading.RecordPartition.of(manifest, str(tmp_path))
    epoch = _numbers(share.read_endlessly(3).take(40))
    # Eight shards are interleaved: after 16 of these two records each, 12 shards are still unread.
    assert [len(set(epoch[start : start + 8])) for start in (0, 8)] == [8, 8]
    assert {name for name, _ in epoch[:8]} == {name for name, _ in epoch[8:16]}
    for name in {name for name, _ in epoch[:16]}:
        (tmp_path / name).unlink()
    assert _numbers(share.read_endlessly(3, first_record=16).take(24)) == epoch[16:]
    with pytest.raises(tf.errors.NotFoundError):
        _numbers(share.read_endlessly(3, first_record=15).take(1))


def test_a_shard_with_fewer_records_than_the_manifest_says_is_an_error(tmp_path: pathlib.Path) -> None:
    manifest = write_data_set(tmp_path, [4] * 10)
    rewrite(tmp_path, SHARDS[0], read_records(tmp_path / SHARDS[0])[:-1])
    share = reading.RecordPartition.of(manifest, str(tmp_path))
    with pytest.raises(tf.errors.InvalidArgumentError, match=f"{SHARDS[0]}: it ends early"):
        list(share.read())
    assert sum(len(record) == 0 for _, _, record in share.read(tolerant=True).as_numpy_iterator()) == 1


def test_many_shards_are_dealt_out_whole_even_where_some_get_one_more(tmp_path: pathlib.Path) -> None:
    manifest = write_data_set(tmp_path, [4] * 33, num_shards=33)
    shares = [reading.RecordPartition.of(manifest, str(tmp_path), 2, index) for index in range(2)]
    assert [len(share.files) for share in shares] == [17, 16]
    with pytest.raises(ConfigError, match="33 records are too few for 34 workers"):
        reading.RecordPartition.of(manifest, str(tmp_path), 34, 0)


def test_lost_records_are_empty_strings(tmp_path: pathlib.Path) -> None:
    manifest = write_data_set(tmp_path, [4] * 10)
    flip_byte(tmp_path / SHARDS[0], record=3)
    (tmp_path / SHARDS[1]).unlink()
    share = reading.RecordPartition.of(manifest, str(tmp_path))
    lengths = collections.defaultdict(list)
    for path, _, record in share.read(tolerant=True).as_numpy_iterator():
        lengths[pathlib.Path(path.decode()).name].append(len(record) > 0)
    assert lengths == {SHARDS[0]: [True] * 3 + [False] * 2, SHARDS[1]: [False] * 5}
    with pytest.raises(tf.errors.OpError):
        list(share.read())


def _bad_frames(folder: pathlib.Path, frames: list[bytes]) -> None:
    """Replaces the frames of record 1 of the second shard."""
    record = encode_record(frames, video_id="video3", height=16, width=16)
    records = read_records(folder / SHARDS[1])
    rewrite(folder, SHARDS[1], [records[0], record, *records[2:]])


GOOD = encode_frame(np.zeros((16, 16, 3), np.uint8))
DAMAGE = {
    "a byte": (lambda folder: flip_byte(folder / SHARDS[0], record=2), 0, 2, UNREADABLE),
    "another file": (
        lambda folder: rewrite(folder, SHARDS[0], [b"not a record", *read_records(folder / SHARDS[0])[1:]]),
        0,
        0,
        "is damaged: not a video record: ",
    ),
    "no picture": (
        lambda folder: _bad_frames(folder, [GOOD, b"x"] * 4),
        1,
        1,
        "is damaged: frame 1 cannot be decoded: ",
    ),
    "half a picture": (
        lambda folder: _bad_frames(folder, [GOOD] * 7 + [GOOD[:-30]]),
        1,
        1,
        "is damaged: frame 7 cannot be decoded: ",
    ),
    "another size": (
        lambda folder: _bad_frames(folder, [encode_frame(np.zeros((16, 18, 3), np.uint8))] * 8),
        1,
        1,
        "is damaged: frame 0 has 18x16 pixels, but those of the data set have 16x16",
    ),
}


def _training(
    folder: pathlib.Path, count: int, seed: int = 0, num_pipelines: int = 1, worker: int = 0, **data: Any
) -> Any:
    """Returns the videos of the clips in the first batches of four, in order."""
    config = tiny_config(data={"data_dir": str(folder), "flip": False, "shuffle_buffer": 2, **data})
    manifest = load_manifest(config.model, config.data)
    how = (4, 1, seed, pipeline.START, num_pipelines, worker)
    dataset = pipeline.training_dataset(manifest, config.model, config.data, *how)
    return [int(v) for (first, _), _, _ in dataset.take(count) for v in np.rint((first[0, :, 0, 0, 0, 0] + 1) * 12.75)]


@pytest.mark.parametrize("num_shards", [1, 4])
def test_workers_see_different_clips_and_together_all(tmp_path: pathlib.Path, num_shards: int) -> None:
    write_data_set(tmp_path, [5] * 12, num_shards=num_shards)
    # Three workers, every third record: the four shards contain videos 0, 4, 8, 1, 5, 9, 2, ... in this order.
    dealt = (
        [{i, i + 3, i + 6, i + 9} for i in range(3)]
        if num_shards == 1
        else [set(range(4 * i, 4 * i + 4)) for i in range(3)]
    )
    assert [set(_training(tmp_path, 15, num_pipelines=3, worker=worker)) for worker in range(3)] == dealt


def test_workers_of_one_order_draw_differently(tmp_path: pathlib.Path) -> None:
    # Records of the same lengths in shards of the same size: only the seeds can make a difference.
    write_data_set(tmp_path, [5] * 16, num_shards=2)
    first, second = (_training(tmp_path, 10, num_pipelines=2, worker=worker, shuffle_buffer=4) for worker in range(2))
    assert {v % 2 for v in first} == {0} and {v % 2 for v in second} == {1}
    assert [v // 2 for v in first] != [v // 2 for v in second]


def test_a_share_without_a_long_video_is_refused(tmp_path: pathlib.Path) -> None:
    write_data_set(tmp_path, [4, 3, 4, 3])
    assert set(_training(tmp_path, 3, num_pipelines=2)) == {0, 2}
    with pytest.raises(ConfigError, match="the 4 frames that a clip spans; the longest has 3"):
        _training(tmp_path, 1, num_pipelines=2, worker=1)


def test_tolerance_changes_nothing_where_nothing_is_damaged(tmp_path: pathlib.Path) -> None:
    write_data_set(tmp_path, [5, 3, 6, 7, 8, 9])
    strict, tolerant = (
        _training(tmp_path, 12, windows_per_record=2, skip_corrupt_records=skip) for skip in (False, True)
    )
    assert strict == tolerant


@pytest.mark.parametrize("kind", DAMAGE)
def test_damage_is_found_and_named(tmp_path: pathlib.Path, kind: str) -> None:
    damage, shard, number, fault = DAMAGE[kind]
    write_data_set(tmp_path, [8] * 10)
    damage(tmp_path)
    found = find_damage(Manifest.load(tmp_path), str(tmp_path))
    assert found is not None and found.startswith(f"{tmp_path / SHARDS[shard]}: record {number} {fault}")


@pytest.mark.parametrize("kind", ["a byte", "no picture"])
def test_a_run_that_ends_at_damage_names_it(tmp_path: pathlib.Path, kind: str) -> None:
    damage, shard, number, fault = DAMAGE[kind]
    write_data_set(tmp_path, [8] * 10)
    damage(tmp_path)
    with pytest.raises((tf.errors.DataLossError, tf.errors.InvalidArgumentError)) as caught:
        _training(tmp_path, 50)
    data = tiny_config(data={"data_dir": str(tmp_path)}).data
    line = cause_of_error(caught.value, Manifest.load(tmp_path), data)
    assert line is not None and line.startswith(f"{tmp_path / SHARDS[shard]}: record {number} {fault}")
    assert line.endswith(", or skip such records with --skip_corrupt_records") and "\n" not in line


def test_damage_in_the_first_record_ends_a_run_before_it_begins(tmp_path: pathlib.Path) -> None:
    write_data_set(tmp_path, [8] * 10)
    DAMAGE["another file"][0](tmp_path)
    with pytest.raises(UserError, match=f"^{tmp_path / SHARDS[0]}: record 0 is damaged: not a video record: "):
        _training(tmp_path, 1)


def test_what_is_not_of_the_data_is_left_to_others(tmp_path: pathlib.Path) -> None:
    manifest = write_data_set(tmp_path, [8])
    data = tiny_config(data={"data_dir": str(tmp_path)}).data
    for error in (tf.errors.InvalidArgumentError, tf.errors.ResourceExhaustedError):
        assert cause_of_error(error(None, None, "shapes differ"), manifest, data) is None


@pytest.mark.parametrize(("kind", "count"), zip(DAMAGE, (2, 1, 1, 2, 1)))
def test_damaged_records_are_left_out_named_and_counted(
    tmp_path: pathlib.Path, kind: str, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    damage, shard, number, _ = DAMAGE[kind]
    write_data_set(tmp_path, [8] * 10)
    damage(tmp_path)
    logged: list[str] = []
    monkeypatch.setattr(logging, "warning", lambda text, *words: logged.append(text % words))
    seen = collections.Counter(_training(tmp_path, 30, windows_per_record=count, skip_corrupt_records=True))
    lost = [2, 3, 4] if kind == "a byte" else [number]  # of video 2 * record + shard
    assert [line.split(" ")[:3] for line in sorted(logged)] == [
        [f"{tmp_path / SHARDS[shard]}:", "record", str(record)] for record in lost
    ]
    assert sorted(line.split("so far: ")[1] for line in logged) == [f"{index + 1}." for index in range(len(lost))]
    if kind == "half a picture":  # of a video with black frames: only its last window is lost
        assert 0 < seen[0] - seen[2] < 2 * seen[2]
    expected = set(range(10)) - {2 * record + shard for record in lost}
    assert set(seen) == expected
    # 120 clips among `expected`, equally often except for those in the shuffle buffer.
    others = [seen[video] for video in expected if video]
    assert max(others) - min(others) <= 4 * count


def test_truncated_and_missing_shards_are_left_out(tmp_path: pathlib.Path) -> None:
    write_data_set(tmp_path, [8] * 12, num_shards=3)
    paths = sorted(tmp_path.glob("*.tfrecord"))
    paths[0].unlink()
    paths[1].write_bytes(paths[1].read_bytes()[:-5])  # the last record, video 10
    assert set(_training(tmp_path, 20, skip_corrupt_records=True)) == {1, 4, 7, 2, 5, 8, 11}
    with pytest.raises(UserError, match="No such file or directory, but"):
        _training(tmp_path, 1)


def test_nothing_but_damage_ends_the_run_with_one_line(tmp_path: pathlib.Path) -> None:
    write_data_set(tmp_path, [8] * 6)
    for file in SHARDS:
        bad = [encode_record([b"x"] * 8, video_id=f"{file}{index}", height=16, width=16) for index in range(3)]
        rewrite(tmp_path, file, bad)
    with pytest.raises(tf.errors.OpError) as caught:
        _training(tmp_path, 1, skip_corrupt_records=True)
    data = tiny_config(data={"data_dir": str(tmp_path), "skip_corrupt_records": True}).data
    line = cause_of_error(caught.value, Manifest.load(tmp_path), data)
    assert line is not None and line.startswith(f"{tmp_path}: only damaged records are left; copy the data set again")
    for file in SHARDS:
        flip_byte(tmp_path / file, record=0)
    with pytest.raises(UserError, match=f"^{tmp_path}: no record can be read; copy"):
        _training(tmp_path, 1, skip_corrupt_records=True)
