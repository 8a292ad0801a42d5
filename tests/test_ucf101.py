"""UCF101: lists and archives in circulation, and the command end to end."""

from __future__ import annotations

import os
import pathlib
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from data_prep import moving_shapes, ucf101
from data_prep.shapes import CLASSES
from data_prep.ucf101 import Ucf101Options
from tganv2_tf.data import records
from tganv2_tf.data.manifest import Manifest, checksum
from tganv2_tf.errors import ConfigError, UserError

ROOT = pathlib.Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared" / "data" / "ucf101"
needs_ucf101 = pytest.mark.skipif(not SHARED.is_dir(), reason="needs UCF101's lists and two videos in ../shared/data")

TRAIN = ["v_YoYo_g08_c01", "v_Archery_g08_c01", "v_HandStandPushups_g09_c02"]
TEST = ["v_Archery_g01_c01", "v_YoYo_g01_c01"]
NUMBERS = {"Archery": 1, "HandStandPushups": 2, "YoYo": 3}


def _class(video_id: str) -> str:
    return video_id.split("_")[1]


def _archive(folder: pathlib.Path, nested: bool = True, ids: list[str] | None = None) -> pathlib.Path:
    """Creates files with names of videos; only names matter if nothing is decoded."""
    for video_id in TRAIN + TEST if ids is None else ids:
        path = folder / (_class(video_id) if nested else "") / f"{video_id}.avi"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return folder


def _lists(
    folder: pathlib.Path, end: str = "\r\n", labels: bool = True, nested: bool = True, class_ind: bool = True
) -> pathlib.Path:
    folder.mkdir(exist_ok=True)
    for name, ids in (("trainlist01.txt", TRAIN), ("testlist01.txt", TEST)):
        folders = [f"{_class(video_id)}/" if nested else "" for video_id in ids]
        columns = [f" {NUMBERS[_class(video_id)]}" if labels else "" for video_id in ids]
        lines = [f"{a}{video_id}.avi{b}{end}" for a, video_id, b in zip(folders, ids, columns)]
        (folder / name).write_bytes("".join(lines).encode())
    if class_ind:
        rows = [f"{number} {name}" for name, number in NUMBERS.items()]
        (folder / "classInd.txt").write_bytes("".join(row + end for row in rows).encode())
    return folder


def _options(video_dir: pathlib.Path, split_dir: pathlib.Path | str, **changes: Any) -> Ucf101Options:
    return Ucf101Options(video_dir=str(video_dir), split_dir=str(split_dir), **changes)


def _labelled(data_set: Any) -> dict[str, tuple[int, str]]:
    return {video.id: (video.label, video.label_name) for video in data_set.videos}


@pytest.mark.parametrize("end", ["\r\n", "\n"])
@pytest.mark.parametrize("labels", [True, False])
@pytest.mark.parametrize("nested", [True, False])
def test_lists_and_archives_in_every_shape(tmp_path: pathlib.Path, end: str, labels: bool, nested: bool) -> None:
    videos, lists = _archive(tmp_path / "videos", not nested), _lists(tmp_path / "lists", end, labels, nested)
    train = ucf101.data_set(_options(videos, lists))
    # 0-based numbers of classInd.txt.
    assert _labelled(train) == {
        "v_YoYo_g08_c01": (2, "YoYo"),
        "v_Archery_g08_c01": (0, "Archery"),
        "v_HandStandPushups_g09_c02": (1, "HandStandPushups"),
    }
    assert train.labels == ["Archery", "HandStandPushups", "YoYo"] and train.missing == []
    assert all(pathlib.Path(video.path).is_file() for video in train.videos)
    assert (train.split, train.height, train.width) == ("train", 192, 192)
    test = ucf101.data_set(_options(videos, lists, split="test", geometry="official"))
    assert _labelled(test) == {"v_Archery_g01_c01": (0, "Archery"), "v_YoYo_g01_c01": (2, "YoYo")}
    assert (test.height, test.width) == (192, 256)
    both = ucf101.data_set(_options(videos, lists, split="all"))
    assert set(_labelled(both)) == set(TRAIN + TEST)


def test_class_ind_decides_and_without_it_the_alphabet(tmp_path: pathlib.Path) -> None:
    videos, lists = _archive(tmp_path / "videos"), _lists(tmp_path / "lists", class_ind=False)
    # The test list has no HandStandPushups, but a class has the same number in both splits.
    for split, video_id in (("train", "v_YoYo_g08_c01"), ("test", "v_YoYo_g01_c01")):
        assert _labelled(ucf101.data_set(_options(videos, lists, split=split)))[video_id] == (2, "YoYo")
    (lists / "classInd.txt").write_bytes(b"1 YoYo\r\n2 HandStandPushups\r\n3 Archery\r\n")
    data_set = ucf101.data_set(_options(videos, lists))
    assert _labelled(data_set)["v_YoYo_g08_c01"] == (0, "YoYo")
    assert data_set.labels == ["YoYo", "HandStandPushups", "Archery"]


def test_capitals_may_differ_between_lists_and_archive(tmp_path: pathlib.Path) -> None:
    ids = [video_id.replace("HandStand", "Handstand") for video_id in TRAIN + TEST]
    videos = _archive(tmp_path / "videos", ids=ids)
    (videos / "YoYo" / "v_YoYo_g08_c01.avi").rename(videos / "YoYo" / "v_YoYo_g08_c01.AVI")
    data_set = ucf101.data_set(_options(videos, _lists(tmp_path / "lists")))
    assert data_set.missing == []
    assert _labelled(data_set)["v_HandStandPushups_g09_c02"] == (1, "HandStandPushups")


def test_containers_need_not_be_those_of_the_lists(tmp_path: pathlib.Path) -> None:
    videos, lists = _archive(tmp_path / "videos"), _lists(tmp_path / "lists")
    for video_id, extension in zip(TRAIN, ("mp4", "WebM", "mkv")):
        path = videos / _class(video_id) / f"{video_id}.avi"
        path.rename(path.with_suffix(f".{extension}"))
    train = ucf101.data_set(_options(videos, lists))
    assert _labelled(train) == {
        "v_YoYo_g08_c01": (2, "YoYo"),
        "v_Archery_g08_c01": (0, "Archery"),
        "v_HandStandPushups_g09_c02": (1, "HandStandPushups"),
    }
    assert train.missing == [] and {os.path.splitext(v.path)[1] for v in train.videos} == {".mp4", ".WebM", ".mkv"}
    assert set(_labelled(ucf101.data_set(_options(videos, "", split="all")))) == set(TRAIN + TEST)
    (videos / "YoYo" / "v_YoYo_g08_c01.mp4").rename(videos / "YoYo" / "v_YoYo_g08_c01.txt")
    assert ucf101.data_set(_options(videos, lists)).missing == ["v_YoYo_g08_c01"]
    # The lists of a copy may be adapted to its files.
    (lists / "testlist01.txt").write_text("Archery/v_Archery_g01_c01.mp4\nYoYo/v_YoYo_g01_c01.webm\n")
    assert set(_labelled(ucf101.data_set(_options(videos, lists, split="test")))) == set(TEST)
    (videos / "v_Archery_g01_c01.mp4").touch()
    error = _error(_options(videos, lists))
    assert error.startswith("two videos have the same name, keep one of them: ")
    assert all(str(videos / name) in error for name in ("v_Archery_g01_c01.mp4", "Archery/v_Archery_g01_c01.avi"))


def test_without_lists(tmp_path: pathlib.Path) -> None:
    videos = _archive(tmp_path / "videos", nested=False)
    for name in ("._v_YoYo_g08_c01.avi", "v_YoYo_g08_c01.avi.part", "notes.txt", "movie.avi"):
        (videos / name).touch()
    data_set = ucf101.data_set(_options(videos, "", split="all"))
    assert set(_labelled(data_set)) == set(TRAIN + TEST) and data_set.labels == sorted(NUMBERS)
    with pytest.raises(ConfigError, match="--split=train needs the lists in --split_dir; without lists: --split=all"):
        _options(videos, "")


def test_the_other_list_may_be_missing(tmp_path: pathlib.Path) -> None:
    videos, lists = _archive(tmp_path / "videos"), _lists(tmp_path / "lists", class_ind=False)
    (lists / "trainlist01.txt").unlink()
    test = ucf101.data_set(_options(videos, lists, split="test"))
    assert _labelled(test) == {"v_Archery_g01_c01": (0, "Archery"), "v_YoYo_g01_c01": (1, "YoYo")}
    for split in ("train", "all"):
        assert "--fold=1: no trainlist01.txt in" in _error(_options(videos, lists, split=split))


def test_missing_videos_and_repeated_lines(tmp_path: pathlib.Path) -> None:
    lists = _lists(tmp_path / "lists")
    with open(lists / "trainlist01.txt", "ab") as file:
        file.write(b"YoYo/v_YoYo_g08_c01.avi 3\r\n\r\n")
    data_set = ucf101.data_set(_options(_archive(tmp_path / "videos", ids=TRAIN[:1]), lists))
    assert [video.id for video in data_set.videos] == TRAIN[:1] and data_set.missing == TRAIN[1:]


def _error(options: Ucf101Options) -> str:
    with pytest.raises(UserError) as caught:
        ucf101.data_set(options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_wrong_input_is_named(tmp_path: pathlib.Path) -> None:
    videos, lists = _archive(tmp_path / "videos"), _lists(tmp_path / "lists")
    nowhere, empty = tmp_path / "nowhere", tmp_path / "empty"
    empty.mkdir()
    assert _error(_options(nowhere, lists)) == f"--video_dir={nowhere}: no such folder"
    assert _error(_options(videos, nowhere)) == f"--split_dir={nowhere}: no such folder"
    assert f"--video_dir={empty}: no UCF101 videos" in _error(_options(empty, lists))
    message = _error(_options(videos, lists, fold=4))
    assert message.startswith("--fold=4: no trainlist04.txt in") and "there: testlist01.txt, trainlist01.txt" in message
    assert "lists there: none" in _error(_options(videos, empty))
    (lists / "classInd.txt").write_bytes(b"1 YoYo\r\n2 Archery\r\n")
    assert "the class HandStandPushups is not in it" in _error(_options(videos, lists))
    for wrong in (b"YoYo 1\r\n", b"1 YoYo\r\n3 Archery\r\n", b"", b"1\r\n"):
        (lists / "classInd.txt").write_bytes(wrong)
        assert "numbered from 1" in _error(_options(videos, lists))
    (lists / "trainlist01.txt").write_bytes(b"YoYo/v_YoYo_g08_c01.avi 3\r\n\r\nYoYo/movie.avi 3\r\n")
    assert "trainlist01.txt, line 3: no name of a UCF101 video" in _error(_options(videos, lists))
    (lists / "trainlist01.txt").write_bytes(b"\r\n")
    assert _error(_options(videos, lists)) == f"{lists / 'trainlist01.txt'}: no videos listed"
    (lists / "trainlist01.txt").write_bytes(b"\xff\xfe\x00")
    assert "not a text file" in _error(_options(videos, lists))
    _archive(videos, nested=False, ids=TRAIN[:1])
    assert "two videos have the same name" in _error(_options(videos, lists))


@pytest.mark.parametrize(
    ("changes", "named"),
    [({"fold": 0}, "--fold=0"), ({"resolution": 0}, "--resolution=0"), ({"video_dir": ""}, "--video_dir=")],
)
def test_options_that_cannot_work(changes: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Ucf101Options(**{"video_dir": "videos", "split": "all", **changes})
    assert named in str(caught.value)


@needs_ucf101
@pytest.mark.parametrize(("fold", "train", "test"), [(1, 9537, 3783), (2, 9586, 3734), (3, 9624, 3696)])
def test_real_lists(fold: int, train: int, test: int) -> None:
    # The numbers of videos are those of the THUMOS'13 splits.
    lists = SHARED / "ucfTrainTestlist"
    for split, expected in (("train", train), ("test", test), ("all", 13320)):
        data_set = ucf101.data_set(_options(SHARED, lists, split=split, fold=fold))
        assert len(data_set.videos) + len(data_set.missing) == expected
        assert len(data_set.labels) == 101 and data_set.labels[0] == "ApplyEyeMakeup" and data_set.labels[100] == "YoYo"


def _command(*arguments: str, **keywords: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "data_prep.ucf101", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120, **keywords)


@needs_ucf101
def test_command_on_real_videos(tmp_path: pathlib.Path) -> None:
    lists = f"--split_dir={SHARED / 'ucfTrainTestlist'}"
    folders = (f"--video_dir={SHARED}", f"--output_dir={tmp_path / 'data'}")
    result = _command(*folders, lists, "--split=test")
    assert result.returncode == 1 and result.stdout == "" and not (tmp_path / "data").exists()
    assert result.stderr == (
        "ucf101: 3781 of 3783 videos are missing, e.g. v_ApplyEyeMakeup_g01_c02; "
        "check --video_dir, or allow as many with --max_failures\n"
    )
    result = _command(*folders, "--split=all", "--num_workers=1")
    assert result.returncode == 0, result.stderr
    assert "2 videos, 271 frames of 192x192, 1 shards" in result.stdout
    manifest = Manifest.load(tmp_path / "data")
    assert manifest.labels == ["ApplyEyeMakeup", "BaseballPitch"]
    found = {}
    for record in tf.data.TFRecordDataset(manifest.shard_paths(tmp_path / "data")).map(records.parse_record):
        found[record["video_id"].numpy().decode()] = record
        assert tf.io.decode_jpeg(record["frames"][-1]).shape == (192, 192, 3)
    assert {name: int(record["num_frames"]) for name, record in found.items()} == {
        "v_ApplyEyeMakeup_g01_c01": 164,
        "v_BaseballPitch_g01_c01": 107,
    }
    result = _command(*folders, "--split=all", "--resolution=64")
    assert result.returncode == 1 and result.stderr.count("\n") == 1
    assert "was made with --resolution=192 (now 64); choose another folder, or delete this one" in result.stderr


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """24 videos in the layout of UCF101: one group per class, an empty test list."""
    folder = tmp_path_factory.mktemp("shapes") / "shapes"
    moving_shapes.main(moving_shapes.MovingShapesOptions(str(folder), videos_per_class=2, test_fraction=0.0))
    return folder


def _arguments(shapes: pathlib.Path, output_dir: pathlib.Path, num_workers: int) -> list[str]:
    # PNG at 128 pixels in shards of 1 MiB: about ten shards, each some tenths of a second of work.
    return [
        f"--video_dir={shapes / 'videos'}",
        f"--split_dir={shapes / 'ucfTrainTestlist'}",
        f"--output_dir={output_dir}",
        "--resolution=128",
        "--encoding=png",
        "--shard_mib=1",
        f"--num_workers={num_workers}",
    ]


@pytest.fixture(scope="module")
def prepared(shapes: pathlib.Path, tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("prepared") / "data"
    result = _command(*_arguments(shapes, folder, num_workers=2))
    assert result.returncode == 0, result.stderr
    return folder


def _bytes(folder: pathlib.Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_command_prepares_what_was_rendered(shapes: pathlib.Path, prepared: pathlib.Path) -> None:
    manifest = Manifest.load(prepared)
    assert (manifest.num_videos, manifest.num_frames, manifest.labels) == (24, 24 * 32, list(CLASSES))
    assert manifest.num_shards >= 6 and all(shard.bytes < 2.5 * 2**20 for shard in manifest.shards)
    assert all(checksum(prepared / shard.file) == shard.checksum for shard in manifest.shards)
    options = moving_shapes.MovingShapesOptions("unused", videos_per_class=2)
    for record in tf.data.TFRecordDataset(manifest.shard_paths(prepared)).map(records.parse_record):
        _, name, group, clip = record["video_id"].numpy().decode().split("_")
        assert record["label_name"].numpy().decode() == name == CLASSES[int(record["label"])]
        drawn = moving_shapes.render(name, int(group[1:]), int(clip[1:]), options)[7, :, 12:84].astype(float)
        stored = tf.io.decode_png(record["frames"][7])
        shrunk = tf.image.resize(tf.cast(stored, tf.float32), [72, 72], method="area").numpy()
        assert np.abs(shrunk - drawn).mean() < 4  # equal frames and colours, after Motion JPEG and two resizings


def test_classes_without_a_video_are_named(shapes: pathlib.Path, tmp_path: pathlib.Path) -> None:
    """Two of twelve classes exist, with lists of those two; classInd.txt has all."""
    lists = tmp_path / "lists"
    lists.mkdir()
    there = [CLASSES[3], CLASSES[7]]
    for name in ("trainlist01.txt", "testlist01.txt"):
        lines = (shapes / "ucfTrainTestlist" / name).read_text().splitlines(keepends=True)
        (lists / name).write_text("".join(line for line in lines if line.partition("/")[0] in there))
    shutil.copy(shapes / "ucfTrainTestlist" / "classInd.txt", lists)
    flags = [f"--video_dir={shapes / 'videos'}", f"--split_dir={lists}", "--resolution=8", "--num_workers=1"]
    result = _command(*flags, f"--output_dir={tmp_path / 'data'}")
    assert result.returncode == 0, result.stderr
    absent = [name for name in CLASSES if name not in there]
    shown = ", ".join(map(repr, absent[:3]))
    line = f"10 of 12 classes have no video: {shown} and 7 more"
    assert result.stdout.splitlines()[0] == f"warning: {line}" and result.stdout.count("no video") == 1
    manifest = Manifest.load(tmp_path / "data")
    assert manifest.videos_per_class == [0, 0, 0, 2, 0, 0, 0, 2, 0, 0, 0, 0] and manifest.empty_classes == line


def test_interrupted_command_goes_on_and_gives_the_same_bytes(
    shapes: pathlib.Path, prepared: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    folder = tmp_path / "data"
    arguments = _arguments(shapes, folder, num_workers=1)

    def stop(number: signal.Signals, finished: int) -> tuple[int, str]:
        """Sends a signal to the command and its workers after a given number of finished shards."""
        process = subprocess.Popen(
            [sys.executable, "-m", "data_prep.ucf101", *arguments],
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        deadline = time.monotonic() + 60
        while len(list(folder.glob(".unfinished/shard-*.json"))) < finished and time.monotonic() < deadline:
            time.sleep(0.01)
        if number == signal.SIGINT:
            os.killpg(process.pid, number)  # as the terminal does
        else:
            os.kill(process.pid, number)
        stderr = process.communicate(timeout=60)[1]
        return process.returncode, stderr

    for _ in range(5):
        code, stderr = stop(signal.SIGINT, finished=2)
        if code != 0:
            break
        shutil.rmtree(folder)  # on a busy machine the signal may come after the end
    assert code == 130 and "Traceback" not in stderr
    assert (
        stderr.splitlines()[-1] == "ucf101: interrupted; finished shards are kept, run the same command again to resume"
    )
    assert not (folder / "manifest.json").exists() and not list(folder.rglob("*.tmp"))
    times = {path.name: path.stat().st_mtime_ns for path in folder.glob("*.tfrecord")}
    sidecars = len(list(folder.glob(".unfinished/shard-*.json")))
    assert 2 <= sidecars < Manifest.load(prepared).num_shards

    code, _ = stop(signal.SIGKILL, finished=sidecars + 1)
    assert code in (-signal.SIGKILL, 0)
    assert (folder / "manifest.json").exists() == (code == 0)
    result = _command(*arguments)
    assert result.returncode == 0, result.stderr
    assert code == 0 or re.search(r"resuming, \d+ of \d+ shards are finished", result.stdout)
    assert {name: (folder / name).stat().st_mtime_ns for name in times} == times
    assert _bytes(folder) == _bytes(prepared)  # made by two workers, without interruption


def test_disk_full_is_one_line(shapes: pathlib.Path, tmp_path: pathlib.Path) -> None:
    def limit_file_size() -> None:  # a file size limit fails like a full disk
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))

    folder = tmp_path / "data"
    result = _command(*_arguments(shapes, folder, num_workers=1), preexec_fn=limit_file_size)
    assert result.returncode == 1 and "Traceback" not in result.stderr
    assert re.fullmatch(
        rf"ucf101: {folder}/ucf101-train-\d+-of-\d+.tfrecord: cannot be written: .*File too large; fix this and run "
        "the same command again; finished shards are kept",
        result.stderr.splitlines()[-1],
    )
    assert not list(folder.glob("*.tfrecord")) and not list(folder.rglob("*.tmp"))


@pytest.mark.parametrize(
    ("arguments", "code", "line"),
    [
        ([], 2, "ucf101: --video_dir is missing"),
        (["--video_dir=/nowhere", "--output_dir=x", "--split=all"], 1, "ucf101: --video_dir=/nowhere: no such folder"),
        (["--video_dir=v", "--output_dir=x", "--split=half"], 2, "ucf101: flag --split=half: value should be one of"),
    ],
)
def test_wrong_commands_end_in_one_line(arguments: list[str], code: int, line: str) -> None:
    result = _command(*arguments)
    assert result.returncode == code and result.stdout == ""
    assert result.stderr.count("\n") == 1 and result.stderr.startswith(line)


def test_help_does_not_wait_for_tensorflow() -> None:
    code = (
        "import runpy, sys; sys.argv = ['ucf101', '--help']\n"
        "try: runpy.run_module('data_prep.ucf101', run_name='__main__')\n"
        "except SystemExit as error: sys.exit(error.code or 'tensorflow' in sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0 and "--max_failures" in result.stdout
