"""Folders of videos of any kind: search, splits, and the command end to end."""

from __future__ import annotations

import functools
import json
import os
import pathlib
import sys
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from data_prep import face_boxes, video_folder
from data_prep.faceforensics import FaceForensicsOptions
from data_prep.ucf101 import Ucf101Options
from data_prep.video_folder import VideoFolderOptions
from tests import faces
from tests.conftest import run_command
from tests.data_sets import write_data_set
from tests.forking import fork_command
from tests.test_frame_folders import write, write_frames
from tganv2_tf.config import ModelConfig
from tganv2_tf.data import records
from tganv2_tf.data.manifest import Manifest
from tganv2_tf.errors import ConfigError, UserError
from tganv2_tf.video_io.decoding import VideoError, open_video

FACE_VIDEO = pathlib.Path(__file__).resolve().parents[2] / "shared" / "data" / "videos" / "carphone_pristine.mp4"
FILES = [
    "top.MP4",
    "sports/tennis/a.mov",
    "sports/tennis/a.mkv",
    "sports/tennis/b.WebM",
    "sports/golf/a.avi",
    "music/a.mpg",
]


def _touch(folder: pathlib.Path, *names: str) -> pathlib.Path:
    """Creates files with these names; only names matter if nothing is decoded."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return folder


def _options(folder: pathlib.Path, **changes: Any) -> VideoFolderOptions:
    return VideoFolderOptions(**{"video_dir": str(folder), **changes})


def _ids(folder: pathlib.Path, **changes: Any) -> set[str]:
    return {video.id for video in video_folder.data_set(_options(folder, **changes)).videos}


def test_folders_are_labels_and_paths_are_ids(tmp_path: pathlib.Path) -> None:
    data_set = video_folder.data_set(_options(_touch(tmp_path, *FILES)))
    assert data_set.labels == ["music", "sports/golf", "sports/tennis"]
    assert {video.id: (video.label, video.label_name) for video in data_set.videos} == {
        "top.MP4": (records.NO_LABEL, ""),
        "sports/tennis/a.mov": (2, "sports/tennis"),
        "sports/tennis/a.mkv": (2, "sports/tennis"),
        "sports/tennis/b.WebM": (2, "sports/tennis"),
        "sports/golf/a.avi": (1, "sports/golf"),
        "music/a.mpg": (0, "music"),
    }
    assert {os.path.relpath(video.path, tmp_path) for video in data_set.videos} == set(FILES)
    # The same numbers in each split, even if a split has no video of a label.
    options = [_options(tmp_path, split=split, test_fraction=0.5, split_seed=1) for split in ("train", "test")]
    splits = [video_folder.data_set(each) for each in options]
    assert splits[0].labels == splits[1].labels == data_set.labels
    assert sum(len(split.videos) for split in splits) == len(FILES)


def test_without_folders_there_are_no_labels(tmp_path: pathlib.Path) -> None:
    data_set = video_folder.data_set(_options(_touch(tmp_path, "a.mp4", "b.mp4")))
    assert data_set.labels == [] and {video.label for video in data_set.videos} == {records.NO_LABEL}


def test_what_is_no_video_is_counted_and_what_is_hidden_is_not(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _touch(
        tmp_path, "a/a.mp4", "a/notes.txt", "a/mp4", "b.mp4.part", ".DS_Store", "a/._a.mp4", ".trash/b.mp4", "b/.c.mp4"
    )
    assert _ids(tmp_path) == {"a/a.mp4"}
    assert capsys.readouterr().out == (
        f"{tmp_path}: 1 of 1 videos for --split=all; files of other kinds: 3, e.g. b.mp4.part\n"
    )
    (tmp_path / "b.mp4.part").unlink()
    (tmp_path / "a" / "notes.txt").unlink()
    (tmp_path / "a" / "mp4").unlink()
    _ids(tmp_path)
    assert capsys.readouterr().out == f"{tmp_path}: 1 of 1 videos for --split=all\n"


def test_links_are_followed_but_never_in_circles(tmp_path: pathlib.Path) -> None:
    elsewhere = _touch(tmp_path / "elsewhere", "c.mp4")
    folder = _touch(tmp_path / "videos", "a/a.mp4", "a/deep/b.mp4")
    (folder / "a" / "deep" / "loop").symlink_to(folder / "a")
    (folder / "all").symlink_to(folder)
    (folder / "linked").symlink_to(elsewhere)
    (folder / "file.mp4").symlink_to(elsewhere / "c.mp4")
    (folder / "lost.mp4").symlink_to(tmp_path / "nowhere.mp4")
    assert _ids(folder) == {"a/a.mp4", "a/deep/b.mp4", "linked/c.mp4", "file.mp4", "lost.mp4"}


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere names of files are always texts")
def test_names_that_are_not_utf8(tmp_path: pathlib.Path) -> None:
    name = b"caf\xe9.avi"
    faces.write_lossy(tmp_path / "a.avi", [faces.BACKGROUND] * 3)
    os.rename(tmp_path / "a.avi", os.fsencode(tmp_path) + b"/" + name)
    data_set = video_folder.data_set(_options(tmp_path))
    (video,) = data_set.videos
    assert video.id == "caf\\xe9.avi" and os.fsencode(video.path).endswith(name)
    with pytest.raises(VideoError, match="not valid UTF-8; rename it"):  # instead of a crash
        data_set.reader(video)


def test_a_video_stays_in_its_split(tmp_path: pathlib.Path) -> None:
    names = [f"{number % 7}/{number}.mp4" for number in range(300)]
    _touch(tmp_path, *names[:200])
    before = {split: _ids(tmp_path, split=split, test_fraction=0.2) for split in ("train", "test")}
    assert before["train"] | before["test"] == set(names[:200]) and not before["train"] & before["test"]
    assert 40 - 3 * 5.7 < len(before["test"]) < 40 + 3 * 5.7  # the standard deviation is sqrt(200 * 0.2 * 0.8)
    _touch(tmp_path, *names[200:])
    (tmp_path / names[0]).unlink()
    after = {split: _ids(tmp_path, split=split, test_fraction=0.2) for split in ("train", "test")}
    for split in ("train", "test"):
        assert after[split] & set(names[1:200]) == before[split] - {names[0]}
    # A larger test fraction only moves videos from train to test; another seed gives another split.
    assert after["test"] < _ids(tmp_path, split="test", test_fraction=0.4)
    assert len(_ids(tmp_path, split="test", test_fraction=0.2, split_seed=1) & after["test"]) < 0.5 * len(after["test"])
    assert _ids(tmp_path, split="test", test_fraction=1.0) == _ids(tmp_path)
    # Pinned, as it must be the same on every machine and in every version.
    chosen = [video_folder.is_test_video(f"{number}.mp4", 0.5, 0) for number in range(8)]
    assert chosen == [False, True, False, True, False, False, True, True]


def test_wrong_input_is_named(tmp_path: pathlib.Path) -> None:
    def error(**changes: Any) -> str:
        with pytest.raises(UserError) as caught:
            video_folder.data_set(_options(tmp_path, **changes))
        assert "\n" not in str(caught.value)
        return str(caught.value)

    assert error(video_dir=str(tmp_path / "x")) == f"--video_dir={tmp_path / 'x'}: no such folder"
    assert error() == f"--video_dir={tmp_path}: no videos in it or below"
    _touch(tmp_path, "a.mp4")
    assert error(split="test", test_fraction=0.0).startswith("--split=test: none of the 1 videos are in it; try")
    for changes in ({"test_fraction": 1.5}, {"face_margin": -1.0}, {"resolution": 0}, {"video_dir": ""}):
        with pytest.raises(ConfigError, match=f"--{next(iter(changes))}="):
            _options(tmp_path, **changes)
    with pytest.raises(ConfigError, match="--geometry=official: --face_box makes squares"):
        _options(tmp_path, geometry="official", face_box=True)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_a_folder_that_cannot_be_read_is_no_empty_folder(tmp_path: pathlib.Path) -> None:
    _touch(tmp_path, "a/a.mp4", "b/b.mp4")
    (tmp_path / "b").chmod(0)
    try:
        with pytest.raises(PermissionError):
            video_folder.data_set(_options(tmp_path))
    finally:
        (tmp_path / "b").chmod(0o700)


SPLIT = ["train/golf/a.mp4", "train/golf/deep/b.mp4", "train/tennis/c.mp4", "test/tennis/d.mp4", "test/tennis/e/1.jpg"]


def _classes(folder: pathlib.Path, **changes: Any) -> dict[str, tuple[int, str]]:
    """Returns number and name of each video's class."""
    data_set = video_folder.data_set(_options(folder, **changes))
    assert all(video.label == -1 or data_set.labels[video.label] == video.label_name for video in data_set.videos)
    return {video.id: (video.label, video.label_name) for video in data_set.videos}


def test_classes_are_folders_of_a_level(tmp_path: pathlib.Path) -> None:
    _touch(tmp_path, *SPLIT)
    assert _classes(tmp_path, class_level=2) == {
        "train/golf/a.mp4": (0, "golf"),
        "train/golf/deep/b.mp4": (0, "golf"),
        "train/tennis/c.mp4": (1, "tennis"),
        "test/tennis/d.mp4": (1, "tennis"),
        "test/tennis/e": (1, "tennis"),
    }
    assert {name for _, name in _classes(tmp_path, class_level=1).values()} == {"train", "test"}
    assert _classes(tmp_path / "train")["golf/deep/b.mp4"] == (1, "golf/deep")
    _touch(tmp_path, "train/f.mp4")
    with pytest.raises(ConfigError, match=r"^--class_level=2: train/f\.mp4 lies above that level; move it, or lower"):
        _classes(tmp_path, class_level=2)
    with pytest.raises(ConfigError, match="--class_level=-1: valid: a whole number of at least 0"):
        _options(tmp_path, class_level=-1)


def test_a_list_of_classes_fixes_their_numbers(tmp_path: pathlib.Path) -> None:
    folder = _touch(tmp_path / "root", *SPLIT, "test/top.mp4")
    listed = tmp_path / "classes.txt"
    listed.write_text("\ufefftennis\r\n\r\nrowing \r\ngolf\r\n")
    train = _classes(folder / "train", class_level=1, classes=str(listed))
    assert train["golf/a.mp4"] == (2, "golf") and train["tennis/c.mp4"] == (0, "tennis")
    test = _classes(folder / "test", classes=str(listed))
    assert test == {"tennis/d.mp4": (0, "tennis"), "tennis/e": (0, "tennis"), "top.mp4": (records.NO_LABEL, "")}
    listed.write_text("golf\n")
    with pytest.raises(UserError) as caught:
        _classes(folder / "test", classes=str(listed))
    assert str(caught.value) == f"--classes={listed}: 'tennis', the class of tennis/d.mp4, is not in it"
    for content, told in (
        (b"\n", "there are no classes in it"),
        (b"a\nb\na", "'a' is listed 2 times"),
        (b"\xff", "text"),
    ):
        listed.write_bytes(content)
        with pytest.raises(UserError, match=f"^--classes={listed}: .*{told}"):
            _classes(folder / "test", classes=str(listed))
    with pytest.raises(UserError, match=r"^--classes=nowhere: No such file"):
        _classes(folder / "test", classes="nowhere")


def test_classes_come_from_a_prepared_data_set_and_are_recorded(tmp_path: pathlib.Path) -> None:
    folder = _touch(tmp_path / "root", *SPLIT)
    write_data_set(tmp_path / "data", [8], labels=["tennis", "golf"])
    options = _options(folder / "test", class_level=1, classes=str(tmp_path / "data"))
    fixed, free = video_folder.data_set(options), video_folder.data_set(_options(folder / "test"))
    assert fixed.labels == ["tennis", "golf"] and free.labels == ["tennis"]
    assert fixed.options["class_level"] == 1 and fixed.options["classes"].startswith("2 with digest ")
    assert not {"class_level", "classes"} & free.options.keys(), "as in data sets of older versions"
    write_data_set(tmp_path / "other", [8], labels=["tennis", "golf", "rowing"])
    options = _options(folder / "test", class_level=1, classes=str(tmp_path / "other"))
    assert video_folder.data_set(options).options["classes"] != fixed.options["classes"]


def test_folders_of_frames_are_videos(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    _touch(tmp_path, "sky/clip#1/1.jpg", "sky/clip#1/2.jpg", "sky/x.mp4", "sky/clip#1/notes.txt")
    options = _options(tmp_path)
    assert {video.id: video.label_name for video in video_folder.data_set(options).videos} == {
        "sky/x.mp4": "sky",
        "sky/clip#1": "sky",
    }
    assert capsys.readouterr().out == (
        f"{tmp_path}: 2 of 2 videos for --split=all; folders of frames: 1; files of other kinds: 1, e.g. "
        "sky/clip#1/notes.txt\n"
    )
    with pytest.raises(ConfigError) as caught:
        video_folder.data_set(_options(tmp_path, fps=25.0))
    clip = tmp_path / "sky" / "clip#1"
    assert str(caught.value) == f"--fps=25: {clip} is a folder of frames, which has no frame rate; omit --fps"


@pytest.mark.parametrize("resolution", [65, 4, 100, 8200])
def test_sizes_that_no_recipe_can_train_are_refused(resolution: int) -> None:
    told = f"^--resolution={resolution}: valid: a multiple of 8 up to 8192; no recipe can train on others$"
    for make in (
        functools.partial(VideoFolderOptions, video_dir="videos"),
        functools.partial(Ucf101Options, video_dir="videos", split="all"),
        functools.partial(FaceForensicsOptions, root="root"),
    ):
        assert make(resolution=8) and make(resolution=8192) and make(resolution=104)
        with pytest.raises(ConfigError, match=told):
            make(resolution=resolution)


def test_these_sizes_are_those_of_recipes() -> None:
    one_level = functools.partial(ModelConfig, frame_strides=(), batch_strides=(), up_channels=(4, 4, 4))
    for resolution in (8, 104, 8192):
        assert one_level(resolution=resolution).pyramid.num_levels == 1
    for resolution in (65, 4, 100):
        with pytest.raises(ConfigError, match=f"--resolution={resolution} cannot be reached"):
            one_level(resolution=resolution)


def _command(video_dir: pathlib.Path, output_dir: pathlib.Path, *more: str, true: bool = False) -> Any:
    size = ["--resolution=32", "--min_frames=8", "--encoding=png"]
    arguments = ["data_prep.video_folder", f"--video_dir={video_dir}", f"--output_dir={output_dir}", *size, *more]
    return run_command(*arguments) if true else fork_command("tests.quickly", *arguments)


def _records(folder: pathlib.Path) -> dict[str, tuple[Any, np.ndarray]]:
    """Returns the records with their frames, uint8 [T, H, W, 3], by id."""
    paths = Manifest.load(folder).shard_paths(folder)
    found = {}
    for record in tf.data.TFRecordDataset(paths).map(records.parse_record):
        frames = np.stack([tf.io.decode_png(frame).numpy() for frame in record["frames"].numpy()])
        found[record["video_id"].numpy().decode()] = (record, frames)
    return found


def _moving_face(tilt: float = 0.0) -> list[np.ndarray]:
    """Draws 24 frames of a face that moves from (50, 60) to (96, 60)."""
    return [faces.draw_face(50 + 2 * t, 60, 25, tilt=tilt, nose=False) for t in range(24)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """Videos of several containers and codecs, and a broken one."""
    folder = tmp_path_factory.mktemp("videos")
    faces.write_lossy(folder / "upright" / "a.mp4", _moving_face())
    faces.write_lossy(folder / "upright" / "a.avi", _moving_face(), "MJPG", fps=15)
    faces.write_lossy(folder / "tilted" / "more" / "a.mkv", _moving_face(tilt=25))
    faces.write_lossy(folder / "empty.MOV", [faces.BACKGROUND] * 24)
    (folder / "upright" / "broken.mp4").write_bytes(b"no video")
    (folder / "list.txt").write_text("a.mp4")
    return folder


def test_command_on_containers_of_several_kinds(folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    output = {workers: tmp_path / f"{workers}" for workers in (1, 2)}
    for workers, data in output.items():
        result = _command(folder, data, f"--num_workers={workers}", true=workers == 2)
        assert result.returncode == 0, result.stderr
    first, second = ({path.name: path.read_bytes() for path in data.iterdir()} for data in output.values())
    assert first == second
    lines = result.stdout.splitlines()
    assert lines[0] == f"{folder}: 5 of 5 videos for --split=all; files of other kinds: 1, e.g. list.txt"
    assert "  upright/broken.mp4: it cannot be opened as a video" in lines
    manifest = json.loads((output[1] / "manifest.json").read_text())
    assert (manifest["num_videos"], manifest["height"], manifest["width"]) == (4, 32, 32)
    assert manifest["labels"] == ["tilted/more", "upright"]
    assert manifest["options"]["face_box"] is False and manifest["options"]["split_seed"] == 0
    found = _records(output[1])
    assert {name: (int(record["label"]), len(frames)) for name, (record, frames) in found.items()} == {
        "upright/a.mp4": (1, 24),
        "upright/a.avi": (1, 24),
        "tilted/more/a.mkv": (0, 24),
        "empty.MOV": (records.NO_LABEL, 24),
    }
    assert float(found["upright/a.avi"][0]["fps"]) == pytest.approx(15)
    # The same pictures from two encoders; the centre square is not the face.
    a, b = (found[f"upright/a.{extension}"][1].astype(float) for extension in ("mp4", "avi"))
    assert 0 < np.abs(a - b).mean() < 8

    wide = _command(folder, tmp_path / "wide", "--geometry=official", "--num_workers=1")
    assert wide.returncode == 0, wide.stderr
    assert _records(tmp_path / "wide")["upright/a.mp4"][1].shape == (24, 32, 43, 3)


def test_command_crops_faces(folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    result = _command(folder, tmp_path / "data", "--face_box", "--num_workers=2")
    assert result.returncode == 0, result.stderr
    assert "  empty.MOV: a face was found in only 0 of the 5 inspected frames" in result.stdout.splitlines()
    found = _records(tmp_path / "data")
    assert set(found) == {"upright/a.mp4", "upright/a.avi", "tilted/more/a.mkv"}
    for _, frames in found.values():
        assert frames.shape == (24, 32, 32, 3)
        skin = np.abs(frames.astype(int) - faces.SKIN).sum(axis=-1) < 90
        for picture in skin[[3, 12, 20]]:
            rows, columns = np.nonzero(picture)
            # The whole face is visible and centred: 1.6 radii of the 1.6 times 2.1 of the square.
            assert rows.mean() == pytest.approx(15.5, abs=4) and columns.mean() == pytest.approx(15.5, abs=3)
            assert 0.3 * 32 < np.ptp(columns) < 0.6 * 32 and columns.min() > 0 and columns.max() < 31


def test_command_on_folders_of_frames(tmp_path: pathlib.Path) -> None:
    folder, data = tmp_path / "videos", tmp_path / "data"
    for clip, greys in (("sky/long", range(1, 13)), ("sky/short", range(5)), ("sea/sizes", range(100, 110))):
        write_frames(folder / clip, greys)
    write(folder / "sea" / "sizes" / "frame_3.png", 200, (64, 40))
    (folder / "sky" / "long" / "frame_5.png").write_bytes(b"no image")
    result = _command(folder, data, "--num_workers=1")
    assert result.returncode == 0, result.stderr
    told = [
        f"{folder}: 3 of 3 videos for --split=all; folders of frames: 3",
        "1 of 3 videos are skipped:",
        "  sky/short: it has 5 frames, fewer than --min_frames=8",
        "1 of 3 videos are damaged; only their decodable frames are in the data set:",
        "  sky/long: damaged: 11 of its 12 images can be read; first unreadable image: frame_5.png: not an image",
    ]
    assert result.stdout.splitlines()[:5] == told
    found = _records(data)
    assert {name: (record["label_name"].numpy(), float(record["fps"])) for name, (record, _) in found.items()} == {
        "sky/long": (b"sky", 0.0),
        "sea/sizes": (b"sea", 0.0),
    }
    assert found["sky/long"][1].shape == (11, 32, 32, 3)
    assert found["sky/long"][1][:, 0, 0, 0].tolist() == [1, 2, 3, 4, *range(6, 13)]
    assert found["sea/sizes"][1][:, 9, 9, 1].tolist() == [100, 101, 200, *range(103, 110)]
    manifest = Manifest.load(data)
    assert manifest.frame_rates == {"0": 2} and manifest.damaged[0].header_frames == 12
    assert manifest.videos_per_class == [1, 1]

    assert _command(folder, data).stdout.endswith(f"{data}: already complete, nothing to do\n")
    write(folder / "sky" / "long" / "frame_5.png", 5)
    said = _command(folder, data).stdout
    assert said.endswith("nothing to do; but 1 videos have changed since, e.g. sky/long: delete the folder first\n")


def test_wrong_commands_end_in_one_line(folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    for arguments, code, line in [
        ([], 2, "video_folder: --video_dir is missing"),
        (["--video_dir=/nowhere"], 1, "video_folder: --video_dir=/nowhere: no such folder"),
        ([f"--video_dir={folder}", "--split=half"], 2, "video_folder: flag --split=half: value should be one of"),
        (
            [f"--video_dir={folder}", "--split=test", "--test_fraction=0"],
            1,
            "video_folder: --split=test: none of the 5",
        ),
    ]:
        result = fork_command("data_prep.video_folder", *arguments, f"--output_dir={tmp_path / 'data'}")
        assert (result.returncode, result.stdout) == (code, "")
        assert result.stderr.count("\n") == 1 and result.stderr.startswith(line), result.stderr


@pytest.mark.skipif(not FACE_VIDEO.is_file(), reason="needs the video of a face in ../shared/data/videos")
def test_a_real_face_is_held_in_the_middle(tmp_path: pathlib.Path) -> None:
    (tmp_path / "face.mp4").symlink_to(FACE_VIDEO)
    data_set = video_folder.data_set(_options(tmp_path, face_box=True, resolution=96))
    crops = np.stack(list(data_set.reader(data_set.videos[0]).frames))
    assert crops.shape == (120, 96, 96, 3)
    # The detector finds the face also in frames between those that the preparation inspected.
    found = [face_boxes.find_faces(crop) for crop in crops[2::5]]
    boxes = np.array([each[0] for each in found if len(each)])
    assert len(boxes) >= 20
    np.testing.assert_allclose((boxes[:, :2] + boxes[:, 2:]) / 2, 48, atol=10)
    assert (boxes[:, :2] > 8).all() and (boxes[:, 2:] < 88).all()
    # The head moves more in the whole frame than in the crop.
    whole = np.array(
        [each[0] for each in map(face_boxes.find_faces, list(open_video(FACE_VIDEO).frames)[2::5]) if len(each)]
    )
    assert np.ptp(whole[:, 0]) > 25 and np.ptp(boxes[:, 0]) < 0.6 * np.ptp(whole[:, 0]) * 96 / 96
