"""Manifests: round trips, and error messages for damage."""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import subprocess
import sys
from typing import Any

import pytest

from tganv2_tf.data.manifest import UNFINISHED_DIR, Manifest, Shard, Skipped, checksum, shard_name
from tganv2_tf.errors import UserError


def _manifest(folder: pathlib.Path) -> Manifest:
    shards = []
    for index, text in enumerate((b"0123456789", b"abc")):
        name = shard_name("ucf101", "train", index, 2)
        (folder / name).write_bytes(text)
        digest = checksum(folder / name)
        shards.append(Shard(name, len(text), digest, index + 1, index + 2, 100 + index))
    skipped = [Skipped("v_YoYo_g01_c01", "the file is missing")]
    return Manifest("ucf101", "train", 192, 192, ["Archery", "YoYo"], {"fold": 1}, shards, skipped)


def _saved(folder: pathlib.Path, **changes: object) -> pathlib.Path:
    """Makes a folder whose manifest.json has some fields changed; None removes a field."""
    _manifest(folder).save(folder)
    path = folder / "manifest.json"
    loaded = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({key: value for key, value in loaded.items() if value is not None}))
    return path


def _load_error(folder: pathlib.Path) -> str:
    with pytest.raises(UserError) as caught:
        Manifest.load(folder)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_shard_name() -> None:
    assert shard_name("ucf101", "train", 7, 64) == "ucf101-train-00007-of-00064.tfrecord"


def test_checksum_is_sha256(tmp_path: pathlib.Path) -> None:
    # The digest of "abc" is from FIPS 180-2, appendix B.1.
    (tmp_path / "file").write_bytes(b"abc")
    digest = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert checksum(tmp_path / "file") == f"sha256:{digest}"


def test_manifest_round_trip(tmp_path: pathlib.Path) -> None:
    manifest = _manifest(tmp_path)
    manifest.save(tmp_path)
    assert Manifest.load(tmp_path) == manifest
    assert Manifest.load(str(tmp_path)) == manifest
    written = json.loads((tmp_path / "manifest.json").read_text())
    # 1 + 2 videos, 2 + 3 records, 100 + 101 frames in two shards, as `_manifest` makes them.
    counts = {key: written[key] for key in ("num_videos", "num_records", "num_frames", "num_shards")}
    assert counts == {"num_videos": 3, "num_records": 5, "num_frames": 201, "num_shards": 2}
    assert set(written["shards"][0]) >= {"file", "bytes", "checksum", "num_videos", "num_frames"}
    assert manifest.shard_paths(tmp_path)[1] == str(tmp_path / "ucf101-train-00001-of-00002.tfrecord")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        ["manifest.json", *(shard.file for shard in manifest.shards)]
    )


def test_data_sets_of_older_versions_are_read(tmp_path: pathlib.Path) -> None:
    names = ("damaged", "frame_rates", "videos_per_class", "sources")
    _saved(tmp_path, **dict.fromkeys(names))
    manifest = Manifest.load(tmp_path)
    assert not any(getattr(manifest, name) for name in names) and manifest.empty_classes == ""


@pytest.mark.parametrize(
    ("counts", "line"),
    [
        ([1, 1, 1, 1, 1], ""),
        ([1, 0, 1, 1, 1], "1 of 5 classes has no video: 'b, c'"),
        ([0, 0, 0, 1, 1], "3 of 5 classes have no video: 'a', 'b, c', 'd'"),
        ([0, 0, 0, 0, 0], "5 of 5 classes have no video: 'a', 'b, c', 'd' and 2 more"),
    ],
)
def test_classes_without_a_video_are_named(tmp_path: pathlib.Path, counts: list[int], line: str) -> None:
    labels = ["a", "b, c", "d", "e", "f\n"]
    dataclasses.replace(_manifest(tmp_path), labels=labels, videos_per_class=counts).save(tmp_path)
    assert Manifest.load(tmp_path).empty_classes == line


def test_failed_save_leaves_the_old_manifest(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _manifest(tmp_path).save(tmp_path)
    before = sorted((path.name, path.read_bytes()) for path in tmp_path.iterdir())

    def no_space(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(OSError, match="No space"):
        _manifest(tmp_path).save(tmp_path)
    assert sorted((path.name, path.read_bytes()) for path in tmp_path.iterdir()) == before


def test_missing_folder_and_manifest_say_how_to_make_one(tmp_path: pathlib.Path) -> None:
    missing = tmp_path / "data"
    assert "no such folder; `python -m tganv2_tf` lists the data_prep commands" in _load_error(missing)
    with pytest.raises(UserError, match=f"make one with: python -m data_prep.x --output_dir={tmp_path}"):
        Manifest.load(tmp_path, "x")
    assert "no manifest.json in it" in _load_error(tmp_path)


def test_unfinished_preparation_is_told_from_a_foreign_folder(tmp_path: pathlib.Path) -> None:
    (tmp_path / UNFINISHED_DIR).mkdir()
    assert "not finished" in _load_error(tmp_path)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"labels": None}, "labels is missing"),
        ({"format": 99}, "format is 99"),
        ({"height": "192"}, "height is '192'"),
        ({"height": True}, "height is True"),
        ({"width": -1}, "width is -1"),
        ({"labels": ["Archery", 3]}, "labels"),
        ({"shards": []}, "no shards"),
        ({"shards": [{"file": "a"}]}, "shards[0].bytes is missing"),
        ({"shards": ["a"]}, "shards[0] is not"),
        ({"skipped": [{"video": "a"}]}, "skipped[0].reason is missing"),
        ({"videos_per_class": [1]}, "videos_per_class has 1 values"),
        ({"videos_per_class": ["1", "2"]}, "videos_per_class has values of the wrong type"),
        ({"sources": [1]}, "sources has values of the wrong type"),
        ({"num_videos": 4}, "num_videos is 4, but the shards add up to 3"),
        ({"num_shards": 3}, "num_shards is 3"),
    ],
)
def test_wrong_manifest_names_the_field(tmp_path: pathlib.Path, changes: dict[str, object], named: str) -> None:
    path = _saved(tmp_path, **changes)
    message = _load_error(tmp_path)
    assert named in message and str(path) in message


@pytest.mark.parametrize("text", ["", "{", "[]", "\xff\xfe"])
def test_unreadable_manifest(tmp_path: pathlib.Path, text: str) -> None:
    (tmp_path / "manifest.json").write_bytes(text.encode("latin-1"))
    assert "cannot be read" in _load_error(tmp_path)


@pytest.mark.parametrize("changed", [{"width": 10**30}, {"height": 0}, {"labels": ["\ud800"]}])
def test_values_that_nothing_could_work_with(tmp_path: pathlib.Path, changed: dict[str, Any]) -> None:
    path = _saved(tmp_path)
    path.write_text(json.dumps({**json.loads(path.read_text()), **changed}))
    error = _load_error(tmp_path)
    assert "manifest.json: cannot be read: " in error and "\n" not in error


@pytest.mark.parametrize(
    "name", ["../other.tfrecord", "/etc/passwd", "sub/a.tfrecord", "..\\a.tfrecord", "..", "", "a\0b", "a\nb"]
)
def test_shards_outside_the_folder_are_refused(tmp_path: pathlib.Path, name: str) -> None:
    shards = json.loads(_saved(tmp_path).read_text())["shards"]
    shards[1]["file"] = name
    _saved(tmp_path, shards=shards)
    assert "not a bare file name" in _load_error(tmp_path)


def test_missing_and_truncated_shards_are_named(tmp_path: pathlib.Path) -> None:
    _manifest(tmp_path).save(tmp_path)
    shard = tmp_path / "ucf101-train-00001-of-00002.tfrecord"
    shard.write_bytes(b"ab")
    message = _load_error(tmp_path)
    assert str(shard) in message and "2 bytes" in message and "says 3" in message
    shard.unlink()
    message = _load_error(tmp_path)
    assert str(shard) in message and "No such file" in message


def test_reading_alone_does_not_look_at_the_shards(tmp_path: pathlib.Path) -> None:
    manifest = _manifest(tmp_path)
    manifest.save(tmp_path)
    first, second = manifest.shards
    (tmp_path / first.file).unlink()
    (tmp_path / second.file).write_bytes(b"ab")
    assert Manifest.read(tmp_path) == manifest
    assert first.fault(tmp_path) == "No such file or directory, but manifest.json lists it"
    assert second.fault(tmp_path) == "2 bytes, but manifest.json says 3: damaged"
    (tmp_path / second.file).write_bytes(b"abc")
    assert second.fault(tmp_path) is None


def test_manifests_are_read_without_tensorflow() -> None:
    code = "import sys; from tganv2_tf.data import manifest, records; sys.exit('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
