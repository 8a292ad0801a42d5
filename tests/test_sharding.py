"""Shards: their content, their dependence on videos and options only, and the state after failures.

`read` generates the videos of these tests; the path of a video contains its instructions.
"""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import pathlib
import time
from collections.abc import Callable, Iterable, Iterator
from typing import IO, Any

import numpy as np
import pytest
import tensorflow as tf

from data_prep import planning, shard_writer, sharding, sources
from data_prep.data_set import DataSet
from data_prep.options import ShardingOptions
from data_prep.shard_writer import Video
from tganv2_tf.data import records
from tganv2_tf.data.manifest import Manifest, checksum, shard_name
from tganv2_tf.errors import ConfigError, UserError, VideoError
from tganv2_tf.video_io.video_frames import VideoFrames

HEIGHT, WIDTH = 8, 12


def read(video: Video) -> VideoFrames:
    """Path `20`: 20 frames, frame t of grey 5 t; `30 bad`: an error after 30; `broken`, `exit`, `hang`: as named."""
    if video.path == "broken":
        raise VideoError("it is broken")
    if video.path == "exit":
        os._exit(5)
    if video.path == "hang":
        time.sleep(600)
    if video.path.endswith(".count"):  # the file contains the number of frames
        return read(dataclasses.replace(video, path=pathlib.Path(video.path).read_text()))
    count, _, trouble = video.path.partition(" ")

    def frames() -> Iterator[np.ndarray]:
        for t in range(int(count)):
            yield np.full((HEIGHT, WIDTH, 3), 5 * t % 256, np.uint8)
        if trouble:
            raise OSError(5, "Input/output error")

    return VideoFrames(25.0, frames())


def _data_set(paths: Iterable[str], missing: tuple[str, ...] = (), **options: Any) -> DataSet:
    videos = [Video(f"v{index:03d}", path, index % 3, "abc"[index % 3]) for index, path in enumerate(paths)]
    return DataSet("made_up", "train", HEIGHT, WIDTH, ["a", "b", "c"], videos, missing, read, options)


def _options(folder: pathlib.Path, **changes: Any) -> ShardingOptions:
    return ShardingOptions(**{"output_dir": str(folder), "encoding": "png", "num_workers": 1, **changes})


@pytest.fixture
def inline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs tasks in this process; the workers have separate tests."""

    def run(
        function: Callable[[Any, Any], Any],
        tasks: Iterable[Any],
        *,
        on_done: Callable[[Any, Any], None],
        on_begin: Callable[[Any, Any], None] = lambda task, item: None,
        **_: Any,
    ) -> None:
        for task in tasks:

            def announce(item: str | None, task: Any = task) -> None:
                if item is not None:
                    on_begin(task, item)

            on_done(task, function(task, announce))

    for module in (planning, sharding):
        monkeypatch.setattr(module, "run_supervised", run)


def _records(folder: pathlib.Path) -> list[dict[str, Any]]:
    paths = Manifest.load(folder).shard_paths(folder)
    return [
        {name: value.numpy() for name, value in records.parse_record(record).items()}
        for record in tf.data.TFRecordDataset(paths)
    ]


def _bytes(folder: pathlib.Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def _times(folder: pathlib.Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in folder.glob("*.tfrecord")}


def _names(count: int) -> set[str]:
    return {shard_name("made_up", "train", index, count) for index in range(count)}


def test_order_is_shuffled_and_depends_on_ids_and_seed_alone() -> None:
    videos = [Video(name, "x") for name in "abcdefgh"]
    order = "".join(video.id for video in planning.shuffled(videos, 0))
    assert order == "eghbfacd"  # pinned: it must not change with Python, NumPy or the machine
    assert "".join(video.id for video in planning.shuffled(videos[::-1], 0)) == order
    assert "".join(video.id for video in planning.shuffled(videos, 1)) != order


@pytest.mark.parametrize(
    ("num_videos", "mib_a_video", "expected"),
    [
        (9537, 3.0, 224),  # 28,611 MiB in shards of 128
        (384, 0.01, 8),  # small: eight, for several workers
        (40, 0.01, 2),  # but at least 16 videos in each
        (15, 0.0, 1),
        (1, 0.0, 1),
        (3, 1024.0, 3),  # no shard without a video
    ],
)
def test_number_of_shards(num_videos: int, mib_a_video: float, expected: int) -> None:
    assert planning.num_shards(num_videos, mib_a_video * 2**20, 128) == expected


@pytest.mark.parametrize(
    ("num_frames", "expected"),
    [
        (3, ["012"]),
        (6, ["012345"]),
        (7, ["012345", "456"]),  # min 3: neighbours share two frames
        (10, ["012345", "456789"]),
        (11, ["012345", "456789", "89A"]),
    ],
)
def test_segments_by_hand(num_frames: int, expected: list[str]) -> None:
    frames = [character.encode() for character in "0123456789ABCDEF"[:num_frames]]
    cut = list(shard_writer.segments(frames, 3, 6))
    assert [b"".join(segment.frames).decode() for segment in cut] == expected
    assert [segment.whole for segment in cut] == [len(expected) == 1] * (len(cut) - 1) + [len(expected) == 1]


@pytest.mark.parametrize("min_frames", [1, 2, 16])
def test_no_window_is_lost_between_segments(min_frames: int) -> None:
    for num_frames in range(min_frames, 150):
        frames = [bytes([t]) for t in range(num_frames)]
        cut = [b"".join(segment.frames) for segment in shard_writer.segments(frames, min_frames, 40)]
        assert all(min_frames <= len(segment) <= 40 for segment in cut)
        whole = b"".join(frames)
        for start in range(num_frames - min_frames + 1):
            assert any(whole[start : start + min_frames] in segment for segment in cut)


def test_too_short_for_a_segment() -> None:
    with pytest.raises(VideoError, match="15 frames, fewer than --min_frames=16"):
        list(shard_writer.segments([b""] * 15, 16, 40))


def test_shards_hold_every_video_once(inline: None, tmp_path: pathlib.Path) -> None:
    data_set = _data_set([str(16 + index) for index in range(40)], geometry="paper")
    assert sharding.prepare(data_set, _options(tmp_path)) == 0
    manifest = Manifest.load(tmp_path)
    assert set(_bytes(tmp_path)) == {"manifest.json"} | _names(2)  # 40 videos: two shards; nothing else remains
    assert manifest.num_videos == manifest.num_records == 40 and [s.num_videos for s in manifest.shards] == [20, 20]
    assert manifest.num_frames == sum(16 + index for index in range(40))
    assert (manifest.height, manifest.width, manifest.labels) == (HEIGHT, WIDTH, ["a", "b", "c"])
    assert manifest.options["geometry"] == "paper" and manifest.options["encoding"] == "png"
    assert manifest.skipped == []
    for shard in manifest.shards:
        assert checksum(tmp_path / shard.file) == shard.checksum
    found = {record["video_id"].decode(): record for record in _records(tmp_path)}
    assert set(found) == {video.id for video in data_set.videos}
    for index, video in enumerate(data_set.videos):
        record = found[video.id]
        assert record["num_frames"] == len(record["frames"]) == 16 + index
        assert (record["label"], record["label_name"].decode()) == (video.label, video.label_name)
        assert (record["height"], record["width"], record["fps"]) == (HEIGHT, WIDTH, 25)
    last = tf.io.decode_png(found["v039"]["frames"][54]).numpy()
    np.testing.assert_array_equal(last, np.full((HEIGHT, WIDTH, 3), 5 * 54 % 256))


def test_long_videos_become_segments(inline: None, tmp_path: pathlib.Path) -> None:
    sharding.prepare(_data_set(["20", "100"]), _options(tmp_path, max_record_frames=40))
    # Starts are 40 - 15 = 25 apart: 0..39, 25..64, 50..89, 75..99.
    lengths = {record["video_id"].decode(): int(record["num_frames"]) for record in _records(tmp_path)}
    assert lengths == {"v000": 20, "v001#0001": 40, "v001#0002": 40, "v001#0003": 40, "v001#0004": 25}
    manifest = Manifest.load(tmp_path)
    assert (manifest.num_videos, manifest.num_records, manifest.num_frames) == (2, 5, 165)


def test_skipped_videos_are_reported_with_reasons(
    inline: None, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data_set = _data_set(["20", "broken", "3", "20", "100 bad"], missing=("v999",))
    assert sharding.prepare(data_set, _options(tmp_path, max_record_frames=40)) == 0
    expected = {
        "v001": "it is broken",
        "v002": "it has 3 frames, fewer than --min_frames=16",
        "v004": "[Errno 5] Input/output error",
        "v999": "the file is missing",
    }
    manifest = Manifest.load(tmp_path)
    assert {skip.video: skip.reason for skip in manifest.skipped} == expected
    # v004 failed after three of its segments were written: the shard was rewritten without them.
    assert {record["video_id"].decode() for record in _records(tmp_path)} == {"v000", "v003"}
    assert (manifest.num_videos, manifest.num_records, manifest.num_frames) == (2, 2, 40)
    output = capsys.readouterr().out
    assert all(f"{video}: {reason}" in output for video, reason in expected.items())


def test_too_many_failures_keep_shards_and_report(inline: None, tmp_path: pathlib.Path) -> None:
    folder, repaired = tmp_path / "data", tmp_path / "repaired.count"
    repaired.write_text("3")
    paths = ["20"] * 64
    order = [int(video.id[1:]) for video in planning.shuffled(_data_set(paths).videos, 0)]
    failing = sorted([order[0], order[5], order[16], order[17]])  # all in the first two of four shards of 16
    for index in failing:
        paths[index] = "broken"
    paths[failing[1]] = str(repaired)
    names, data_set = [f"v{index:03d}" for index in failing], _data_set(paths)
    with pytest.raises(UserError, match=r"^4 videos are skipped, more than --max_failures=3; .*skipped.json lists "):
        sharding.prepare(data_set, _options(folder, max_failures=3))
    assert not (folder / "manifest.json").exists()
    listed = json.loads((folder / ".unfinished" / "skipped.json").read_text())
    assert [skip["video"] for skip in listed] == names
    before = _times(folder)
    assert set(before) == _names(4)

    repaired.write_text("20")
    assert sharding.prepare(data_set, _options(folder, max_failures=3)) == 0
    manifest = Manifest.load(folder)
    assert manifest.num_videos == 61 and [skip.video for skip in manifest.skipped] == [names[0], *names[2:]]
    kept = {name for name, modified in _times(folder).items() if modified == before[name]}
    assert kept == {"made_up-train-00002-of-00004.tfrecord", "made_up-train-00003-of-00004.tfrecord"}


def test_classes_without_a_video_are_named(
    inline: None, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def warnings(paths: list[str], folder: str) -> list[str]:
        sharding.prepare(_data_set(paths), _options(tmp_path / folder))
        return [line for line in capsys.readouterr().out.splitlines() if line.startswith("warning: ")]

    assert warnings(["20", "20", "20"], "all") == []
    assert warnings(["20", "20", "broken", "20"], "skipped") == ["warning: 1 of 3 classes has no video: 'c'"]
    assert warnings(["20"], "one") == ["warning: 2 of 3 classes have no video: 'b', 'c'"]
    found = {name: Manifest.load(tmp_path / name).videos_per_class for name in ("all", "skipped", "one")}
    assert found == {"all": [1, 1, 1], "skipped": [2, 1, 0], "one": [1, 0, 0]}


def test_too_many_missing_videos_end_before_any_work(tmp_path: pathlib.Path) -> None:
    folder = tmp_path / "data"
    data_set = _data_set(["20"], missing=tuple(f"m{index}" for index in range(11)))
    with pytest.raises(UserError, match=r"^11 of 12 videos are missing, e.g. m0; check --video_dir, or allow"):
        sharding.prepare(data_set, _options(folder))
    assert not folder.exists()


def test_too_many_failures_among_the_first_videos_end_before_any_work(inline: None, tmp_path: pathlib.Path) -> None:
    data_set = _data_set(["20"] * 16 + ["broken"] * 48)
    failing = [video.id for video in planning.shuffled(data_set.videos, 0)[:16] if video.path == "broken"]
    told = f"{len(failing)} of the first 16 videos cannot be used, more than --max_failures=3, e.g. "
    with pytest.raises(UserError) as caught:
        sharding.prepare(data_set, _options(tmp_path, max_failures=3))
    assert len(failing) > 3 and str(caught.value) == f"{told}{failing[0]}: it is broken"
    assert not _times(tmp_path)
    # As many as allowed do not stop the preparation; short videos are found later.
    assert sharding.prepare(data_set, _options(tmp_path, max_failures=48)) == 0
    with pytest.raises(UserError, match=r"^64 videos are skipped|^none of the videos"):
        sharding.prepare(_data_set(["3"] * 64), _options(tmp_path / "short", max_failures=3))


@pytest.mark.parametrize("paths", [[], ["broken", "3"]])
def test_nothing_prepared_is_an_error(inline: None, tmp_path: pathlib.Path, paths: list[str]) -> None:
    with pytest.raises(UserError, match=r"no videos to prepare|none of the videos could be prepared"):
        sharding.prepare(_data_set(paths), _options(tmp_path / "data"))
    assert not (tmp_path / "data" / "manifest.json").exists()


def test_second_run_of_a_finished_set_touches_nothing(
    inline: None, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data_set = _data_set(["20"] * 3)
    sharding.prepare(data_set, _options(tmp_path))
    before = {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert sharding.prepare(data_set, _options(tmp_path, num_workers=2, max_failures=0, video_timeout=3.0)) == 0
    assert "already complete" in capsys.readouterr().out
    assert {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == before


def _prepare_half(data_set: DataSet, options: ShardingOptions, monkeypatch: pytest.MonkeyPatch) -> None:
    """Interrupts with Ctrl-C when the third of four shards begins."""
    original, calls = shard_writer._write_temporary, []

    def interrupted(*arguments: Any) -> Any:
        calls.append(1)
        if len(calls) == 3:
            pathlib.Path(arguments[0].temporary).write_text("half")
            raise KeyboardInterrupt
        return original(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(shard_writer, "_write_temporary", interrupted)
        assert sharding.prepare(data_set, options) == 130


def test_an_interrupted_run_goes_on_where_it_stopped(
    inline: None, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data_set, folder = _data_set(["20"] * 64), tmp_path / "data"
    _prepare_half(data_set, _options(folder), monkeypatch)
    assert "finished shards are kept" in capsys.readouterr().err.splitlines()[-1]
    finished = _times(folder)
    assert len(finished) == 2 and not list(folder.rglob("*.tmp"))
    (folder / ".unfinished" / "stale.tfrecord.tmp").write_text("of a killed run")
    with pytest.raises(UserError, match="not finished"):
        Manifest.load(folder)
    # A different estimate must not change the number of shards of an unfinished run.
    monkeypatch.setattr(sharding, "num_shards", lambda *_: 7)
    original = planning.shuffled
    stale: list[pathlib.Path] = []

    def shuffled(*arguments: Any) -> list[Video]:
        stale.extend(folder.rglob("*.tmp"))
        return original(*arguments)

    monkeypatch.setattr(sharding, "shuffled", shuffled)
    assert sharding.prepare(data_set, _options(folder)) == 0
    assert {name: _times(folder)[name] for name in finished} == finished
    assert set(_bytes(folder)) == {"manifest.json"} | _names(4)
    assert not stale  # removed before any work


def test_resumed_and_uninterrupted_runs_give_the_same_bytes(
    inline: None, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data_set = _data_set(["20"] * 64)
    _prepare_half(data_set, _options(tmp_path / "a"), monkeypatch)
    sharding.prepare(data_set, _options(tmp_path / "a"))
    sharding.prepare(data_set, _options(tmp_path / "b"))
    assert _bytes(tmp_path / "a") == _bytes(tmp_path / "b")


def test_a_finished_shard_that_was_damaged_is_made_again(
    inline: None, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data_set = _data_set(["20"] * 64)
    _prepare_half(data_set, _options(tmp_path), monkeypatch)
    names = sorted(_times(tmp_path))
    (tmp_path / names[0]).write_bytes(b"short")
    (tmp_path / names[1]).unlink()
    assert sharding.prepare(data_set, _options(tmp_path)) == 0
    assert Manifest.load(tmp_path).num_videos == 64


def _damage(path: pathlib.Path, how: str) -> None:
    """Damages that a power cut may cause in unsynced files, and some that must not matter."""
    if how == "lost":
        path.unlink()
    else:
        whole = path.read_bytes()
        path.write_bytes({"cut off": whole[: len(whole) // 2], "empty": b"", "zeros": bytes(len(whole))}[how])


@pytest.mark.parametrize("how", ["cut off", "empty", "zeros", "lost"])
def test_no_file_of_an_unfinished_preparation_must_be_sound(
    inline: None, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    data_set = _data_set(["20"] * 64)
    sharding.prepare(data_set, _options(tmp_path / "whole"))
    first = "made_up-train-00000-of-00004.tfrecord"
    for file in (first, ".unfinished/shard-00001.json", ".unfinished/plan.json"):
        folder = tmp_path / file.rpartition("/")[2]
        _prepare_half(data_set, _options(folder), monkeypatch)
        before = _times(folder)
        _damage(folder / file, how)
        assert sharding.prepare(data_set, _options(folder)) == 0
        assert _bytes(folder) == _bytes(tmp_path / "whole")
        kept = {name for name in before if _times(folder)[name] == before[name]}
        assert len(kept) == (0 if "plan" in file else 1), "nothing else is made again"


def test_what_was_made_by_a_lost_plan_is_not_taken_for_ours(
    inline: None, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data_set = _data_set(["20"] * 64)
    _prepare_half(data_set, _options(tmp_path / "a"), monkeypatch)
    (tmp_path / "a" / ".unfinished" / "plan.json").unlink()
    with monkeypatch.context() as patch:
        patch.setattr(sharding, "num_shards", lambda *_: 3)
        assert sharding.prepare(data_set, _options(tmp_path / "a", seed=1)) == 0
        sharding.prepare(data_set, _options(tmp_path / "b", seed=1))
    assert _bytes(tmp_path / "a") == _bytes(tmp_path / "b") and set(_times(tmp_path / "a")) == _names(3)


def test_a_kill_while_the_manifest_is_written_leaves_nothing(
    inline: None, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _prepare_half(_data_set(["20"] * 64), _options(tmp_path), monkeypatch)
    (tmp_path / ".manifest.123.json").write_text("{")  # named as by `files.atomic_file`
    assert sharding.prepare(_data_set(["20"] * 64), _options(tmp_path)) == 0
    assert set(_bytes(tmp_path)) == {"manifest.json"} | _names(4)


def test_names_are_given_to_what_is_safe_on_the_disk(
    inline: None, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    happened: list[tuple[str, int]] = []
    fsync, replace = os.fsync, os.replace

    def noted_fsync(descriptor: int) -> None:
        happened.append(("safe", os.fstat(descriptor).st_ino))
        fsync(descriptor)

    def noted_replace(source: Any, target: Any) -> None:
        happened.append((pathlib.Path(target).name, os.stat(source).st_ino))
        replace(source, target)

    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(os, "replace", noted_replace)
    sharding.prepare(_data_set(["20"] * 2), _options(tmp_path))
    named = [(place, name, inode) for place, (name, inode) in enumerate(happened) if name != "safe"]
    shard = "made_up-train-00000-of-00001.tfrecord"
    assert [name for _, name, _ in named] == ["plan.json", shard, "shard-00000.json", "manifest.json"]
    for place, name, inode in named:
        assert ("safe", inode) in happened[:place], name
        if name in (shard, "manifest.json"):
            assert happened[place + 1] == ("safe", tmp_path.stat().st_ino), "and so is its name"


@pytest.mark.parametrize("name", ["plan.json", "made_up-train-00001", "shard-00001.json", "manifest.json"])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS])
def test_a_disk_that_is_full_or_read_only_at_any_file(
    inline: None, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, name: str, number: int
) -> None:
    data_set, replace = _data_set(["20"] * 32), os.replace

    def fails(source: Any, target: Any) -> None:
        if pathlib.Path(target).name.startswith(name):
            raise OSError(number, os.strerror(number), str(target))
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", fails)
        with pytest.raises(UserError) as caught:
            sharding.prepare(data_set, _options(tmp_path / "a"))
    assert f"{os.strerror(number)}; fix this and run the same command again" in str(caught.value)
    assert "\n" not in str(caught.value) and not (tmp_path / "a" / "manifest.json").exists()
    for folder in "ab":
        assert sharding.prepare(data_set, _options(tmp_path / folder)) == 0
    assert _bytes(tmp_path / "a") == _bytes(tmp_path / "b")


def test_videos_that_changed_since_the_end_are_named(
    inline: None, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    video, mask, folder = tmp_path / "a.count", tmp_path / "mask", tmp_path / "data"
    video.write_text("20")
    mask.write_text("")
    for path in (video, mask):
        os.utime(path, (0, 0))
    data_set = _data_set([str(video)])
    data_set = dataclasses.replace(data_set, videos=[dataclasses.replace(data_set.videos[0], mask=str(mask))])
    sharding.prepare(data_set, _options(folder))
    before = _bytes(folder)
    for changed in (None, video, mask):
        for path in (video, mask):
            os.utime(path, (0, 2**33 if path == changed else 0))
        capsys.readouterr()
        assert sharding.prepare(data_set, _options(folder)) == 0
        since = "; but 1 videos have changed since, e.g. v000: delete the folder first" if changed else ""
        assert capsys.readouterr().out == f"{folder}: already complete, nothing to do{since}\n"
    assert _bytes(folder) == before


def _without_states(folder: pathlib.Path) -> None:
    """Converts a data set to that of an older version, which did not record the states of the videos' files."""
    path = folder / "manifest.json"
    loaded = json.loads(path.read_text())
    assert loaded.pop("sources") and loaded.pop("videos_per_class")
    path.write_text(json.dumps(loaded))


def test_videos_that_were_replaced_by_older_files_are_named(
    inline: None, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Like `cp -p` and `rsync -t`: the new file keeps its modification time."""
    folder, paths = tmp_path / "data", []
    for index in range(40):
        paths.append(tmp_path / f"{index}.count")
        paths[-1].write_text("20")
        os.utime(paths[-1], (0, 10**9))
    data_set = _data_set(map(str, paths))
    sharding.prepare(data_set, _options(folder))
    states = Manifest.load(folder).sources
    assert [len(each) for each in states] == [8 * 20, 8 * 20] and len(set("".join(states))) <= 16

    def said() -> str:
        capsys.readouterr()
        assert sharding.prepare(data_set, _options(folder)) == 0
        return capsys.readouterr().out.removeprefix(f"{folder}: already complete, nothing to do").rstrip("\n")

    assert said() == ""
    os.utime(paths[7], (0, 10**9 - 1))
    assert said() == "; but 1 videos have changed since, e.g. v007: delete the folder first"
    paths[30].write_text("2")  # shorter, with the same modification time
    os.utime(paths[30], (0, 10**9))
    assert said().startswith("; but 2 videos have changed since, e.g. v0")
    _without_states(folder)
    assert said() == ""
    os.utime(paths[7], (0, 2**33))
    assert said() == "; but 1 videos have changed since, e.g. v007: delete the folder first"


def test_a_changed_frame_is_a_changed_video(tmp_path: pathlib.Path) -> None:
    for name in ("1.png", "2.png"):
        (tmp_path / name).write_text("as it was")
        os.utime(tmp_path / name, (0, 10**9))
    (tmp_path / "notes.txt").touch()
    states = [sources.state(Video("v", str(tmp_path)))]
    for change in (
        lambda: (tmp_path / "notes.txt").unlink(),
        lambda: os.utime(tmp_path / "1.png", (0, 10**9 - 1)),
        lambda: (tmp_path / "2.png").rename(tmp_path / "3.png"),
        lambda: (tmp_path / "3.png").unlink(),
    ):
        change()
        states.append(sources.state(Video("v", str(tmp_path))))
    assert states[0] == states[1] and len(set(states)) == 4


def test_a_changed_mask_is_a_changed_video(tmp_path: pathlib.Path) -> None:
    for name in ("video", "mask"):
        (tmp_path / name).write_text("as it was")
    video = Video("v", str(tmp_path / "video"), mask=str(tmp_path / "mask"))
    before = sources.state(video)
    (tmp_path / "mask").write_text("changed")
    assert sources.state(video) != before
    (tmp_path / "mask").unlink()
    assert sources.state(video) == "missing"


def test_shards_whose_videos_changed_are_made_again_and_no_others(
    inline: None, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, paths = tmp_path / "data", []
    for index in range(64):
        path = tmp_path / f"{index}.count"
        path.write_text("20")
        paths.append(str(path))
    data_set = _data_set(paths)
    _prepare_half(data_set, _options(folder), monkeypatch)
    before = _times(folder)
    first, second = sorted(before)
    changed = planning.shuffled(data_set.videos, 0)[3]  # of the first shard
    pathlib.Path(changed.path).write_text("30")
    assert sharding.prepare(data_set, _options(folder)) == 0
    after = _times(folder)
    assert after[first] > before[first] and after[second] == before[second]
    assert Manifest.load(folder).shards[0].num_frames == 15 * 20 + 30
    lengths = {record["video_id"].decode(): record["num_frames"] for record in _records(folder)}
    assert lengths.pop(changed.id) == 30 and set(lengths.values()) == {20}


def test_videos_named_like_segments_are_refused(tmp_path: pathlib.Path) -> None:
    data_set = _data_set(["20"])
    named = dataclasses.replace(data_set, videos=[Video("v#0001", "20")])
    with pytest.raises(UserError, match=r"^v#0001: the name of a video must not end like"):
        sharding.prepare(named, _options(tmp_path / "data"))
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("finished", [False, True])
def test_other_options_are_refused_by_name(
    inline: None, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, finished: bool
) -> None:
    data_set = _data_set(["20"] * 64, resolution=64)
    if finished:
        sharding.prepare(data_set, _options(tmp_path))
    else:
        _prepare_half(data_set, _options(tmp_path), monkeypatch)
    before = _times(tmp_path)
    fewer = dataclasses.replace(data_set, videos=data_set.videos[1:])
    for other, options, named in [
        (data_set, _options(tmp_path, jpeg_quality=80, seed=2), "--jpeg_quality=92 (now 80), --seed=0 (now 2); choose"),
        (_data_set(["20"] * 64, resolution=128), _options(tmp_path), "made with --resolution=64 (now 128);"),
        (dataclasses.replace(data_set, name="other"), _options(tmp_path), "made with data_set=made_up (now other);"),
        (fewer, _options(tmp_path), "made with videos=64 with digest "),
    ]:
        with pytest.raises(UserError) as caught:
            sharding.prepare(other, options)
        assert named in str(caught.value) and str(tmp_path) in str(caught.value)
    assert _times(tmp_path) == before


def test_disk_full_leaves_nothing_half_written(
    inline: None, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data_set, written = _data_set(["20"] * 64), []
    original = shard_writer.write_record

    def write(file: IO[bytes], record: bytes) -> None:
        written.append(record)
        if len(written) == 40:  # in the third of four shards of 16
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        original(file, record)

    with monkeypatch.context() as patch:
        patch.setattr(shard_writer, "write_record", write)
        with pytest.raises(UserError) as caught:
            sharding.prepare(data_set, _options(tmp_path))
    third = str(tmp_path / "made_up-train-00002-of-00004.tfrecord")
    assert str(caught.value).startswith(f"{third}: cannot be written: No space left on device; fix this and run")
    finished = _times(tmp_path)
    assert set(finished) == {f"made_up-train-0000{index}-of-00004.tfrecord" for index in (0, 1)}
    assert not list(tmp_path.rglob("*.tmp"))
    sharding.prepare(data_set, _options(tmp_path))
    assert {name: _times(tmp_path)[name] for name in finished} == finished


def test_a_worker_takes_its_half_shard_along(tmp_path: pathlib.Path) -> None:
    options = _options(tmp_path)
    task = shard_writer.ShardTask(
        index=0,
        file=str(tmp_path / "final"),
        temporary=str(tmp_path / "final.tmp"),
        videos=(Video("v0", "20"), Video("v1", "20")),
        reader=read,
        encoding=options.encoding,
        jpeg_quality=options.jpeg_quality,
        min_frames=options.min_frames,
        max_record_frames=options.max_record_frames,
    )

    def parent_is_gone(item: str | None) -> None:
        if item == "v1":
            assert (tmp_path / "final.tmp").exists()
            raise BrokenPipeError(32, "Broken pipe")

    with pytest.raises(UserError, match="Broken pipe"):
        shard_writer.write_shard(task, parent_is_gone)
    assert list(tmp_path.iterdir()) == []
    announced: list[str | None] = []
    report = shard_writer.write_shard(task, announced.append)
    assert announced == ["v0", "v0", "v1", "v1", None]  # at the start, and after each record
    assert (report.shard.file, report.shard.num_videos, report.skipped) == ("final", 2, ())


def test_a_report_that_cannot_be_written_is_one_line(
    inline: None, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_space(path: pathlib.Path, text: str) -> None:
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(sharding, "write_atomically", no_space)
    with pytest.raises(UserError, match=f"^--output_dir={tmp_path}: No space left on device; fix this"):
        sharding.prepare(_data_set(["20"]), _options(tmp_path))


def test_foreign_folders_are_refused(inline: None, tmp_path: pathlib.Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    for target in (tmp_path, tmp_path / "thesis.tex"):
        with pytest.raises(UserError, match="already exists with other contents; choose a new or empty folder"):
            sharding.prepare(_data_set(["20"]), _options(target))
    with pytest.raises(UserError, match=r"^--output_dir=.*Not a directory; choose a writable folder"):
        sharding.prepare(_data_set(["20"]), _options(tmp_path / "thesis.tex" / "data"))
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.skipif(os.getuid() == 0, reason="root may write anywhere")
def test_folders_without_permission(tmp_path: pathlib.Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(UserError, match="Permission denied; choose a writable folder"):
        sharding.prepare(_data_set(["20"]), _options(tmp_path / "data"))


def test_two_runs_do_not_share_a_folder(inline: None, tmp_path: pathlib.Path) -> None:
    fcntl = pytest.importorskip("fcntl")
    (tmp_path / ".unfinished").mkdir()
    with open(tmp_path / ".unfinished" / "lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(UserError, match="another process on this machine is writing to it"):
            sharding.prepare(_data_set(["20"]), _options(tmp_path))
    assert sharding.prepare(_data_set(["20"]), _options(tmp_path)) == 0


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"jpeg_quality": 0}, "--jpeg_quality=0: valid: 1 to 100"),
        ({"shard_mib": 0}, "--shard_mib=0"),
        ({"num_workers": -1}, "--num_workers=-1"),
        ({"video_timeout": 0.0}, "--video_timeout=0.0"),
        ({"max_record_frames": 31}, "--max_record_frames=31: valid: at least 32, twice --min_frames"),
        ({"output_dir": ""}, "--output_dir="),
    ],
)
def test_options_that_cannot_work(tmp_path: pathlib.Path, changes: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError) as caught:
        _options(tmp_path, **changes)
    assert named in str(caught.value)


def test_videos_that_kill_or_hang_their_worker_are_skipped(
    tmp_path: pathlib.Path, request: pytest.FixtureRequest
) -> None:
    paths = ["20"] * 30 + ["broken", "exit", "20", "hang", "20"]
    assert sharding.prepare(_data_set(paths), _options(tmp_path / "a", num_workers=2, video_timeout=4.0)) == 0
    manifest = Manifest.load(tmp_path / "a")
    assert manifest.num_videos == 32
    assert {skip.video: skip.reason for skip in manifest.skipped} == {
        "v030": "it is broken",
        "v031": "the worker process ended with code 5",
        "v033": "it took longer than 4 s (--video_timeout)",
    }

    # The rest of their shards is the same as if these videos were merely broken, in one process.
    request.getfixturevalue("inline")
    harmless = ["broken" if path in ("exit", "hang") else path for path in paths]
    sharding.prepare(_data_set(harmless), _options(tmp_path / "b"))
    a, b = _bytes(tmp_path / "a"), _bytes(tmp_path / "b")
    assert all(a[name] == b[name] for name in _names(2))
