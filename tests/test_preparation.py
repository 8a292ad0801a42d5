"""Properties of all preparations, through a real command: encodings, full disks, unwritable folders."""

from __future__ import annotations

import io
import pathlib
import shutil
import subprocess
import sys
from typing import Any

import pytest
from PIL import Image

from data_prep import moving_shapes
from tests.conftest import ROOT
from tests.data_sets import read_records
from tests.forking import fork_command
from tganv2_tf.data.manifest import Manifest
from tganv2_tf.data.records import parse_record


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """12 videos of 48 frames in the layout of UCF101."""
    folder = tmp_path_factory.mktemp("videos") / "shapes"
    options = moving_shapes.MovingShapesOptions(str(folder), videos_per_class=1, num_frames=48)
    moving_shapes.main(options)
    return folder / "videos"


def _arguments(videos: pathlib.Path, output_dir: object, *more: str) -> list[str]:
    return [f"--video_dir={videos}", f"--output_dir={output_dir}", "--split=all", "--num_workers=1", *more]


def _prepare(videos: pathlib.Path, folder: pathlib.Path, *more: str) -> list[dict[str, Any]]:
    result = fork_command("tests.quickly", "data_prep.ucf101", *_arguments(videos, folder, *more))
    assert result.returncode == 0, result.stderr
    serialized = [record for path in Manifest.load(folder).shard_paths(folder) for record in read_records(path)]
    return [{name: value.numpy() for name, value in parse_record(record).items()} for record in serialized]


def test_png_and_segments(videos: pathlib.Path, tmp_path: pathlib.Path) -> None:
    records = _prepare(videos, tmp_path, "--encoding=png", "--max_record_frames=32", "--resolution=32")
    # Neighbours share 15 frames, one less than --min_frames: 0..31 and 17..47.
    assert [(record["video_id"][-5:], record["num_frames"]) for record in records] == [
        (b"#0001", 32),
        (b"#0002", 31),
    ] * 12
    for record in records:
        assert all(frame.startswith(b"\x89PNG\r\n\x1a\n") for frame in record["frames"])
    first, second = (record["frames"] for record in records[:2])
    assert first[17:].tolist() == second[:15].tolist()


def test_jpeg_quality(videos: pathlib.Path, tmp_path: pathlib.Path) -> None:
    records = _prepare(videos, tmp_path, "--jpeg_quality=80", "--resolution=32")
    assert len(records) == 12 and all(len(record["frames"]) == 48 for record in records)
    for record in records:
        image = Image.open(io.BytesIO(record["frames"][0]))
        # The first entry of the table in annex K of the JPEG standard, 16, times (200 - 2 * 80) / 100.
        assert image.format == "JPEG" and image.quantization[0][0] == 6
    assert Manifest.load(tmp_path).options["jpeg_quality"] == 80


@pytest.mark.skipif(shutil.which("unshare") is None, reason="makes a small file system of its own, with unshare")
def test_a_full_disk_is_one_line_and_more_room_is_all_it_needs(videos: pathlib.Path, tmp_path: pathlib.Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    data = disk / "data"
    prepare = " ".join(
        [sys.executable, "-m data_prep.ucf101"]
        + _arguments(videos, data, "--encoding=png", "--resolution=96", "--shard_mib=1")
    )
    script = f"""
        mount -t tmpfs -o size=3m tmpfs {disk} || exit 99
        {prepare}
        echo "status $?"
        (cd {data} && find . -type f | sort)
        stat -c "%n %y" {data}/*.tfrecord > {tmp_path}/before
        mount -o remount,size=64m {disk} || exit 99
        {prepare} || exit 1
        stat -c "%n %y" {data}/*.tfrecord > {tmp_path}/after
        {sys.executable} -m data_prep.verify --data_dir={data}
    """
    command = ["unshare", "--map-root-user", "--mount", "sh", "-c", script]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=200, check=False)
    if result.returncode == 99 or result.stderr.startswith("unshare: "):
        pytest.skip("no file system may be mounted here")
    assert result.returncode == 0 and result.stdout.endswith("no faults\n"), result.stderr
    errors = [line for line in result.stderr.splitlines() if line.startswith("ucf101: ") and "%|" not in line]
    assert len(errors) == 1 and "Traceback" not in result.stderr
    assert "No space left on device; fix this and run the same command again; finished shards are kept" in errors[0]
    after_failure = result.stdout.partition("status 1\n")[2].partition("data: resuming")[0].splitlines()
    finished = [line for line in after_failure if line.endswith(".tfrecord")]
    sidecars = [line for line in after_failure if line.startswith("./.unfinished/shard-")]
    assert len(finished) == len(sidecars) >= 1
    others = set(after_failure) - {*finished, *sidecars, after_failure[-1]}
    assert others == {"./.unfinished/lock", "./.unfinished/plan.json"}, "no manifest, nothing half-written"
    before, after = ((tmp_path / name).read_text().splitlines() for name in ("before", "after"))
    assert len(before) == len(finished) and set(before) < set(after), "what was finished is not made again"


@pytest.mark.parametrize("target", ["/proc/data", "{file}", "{file}/data"])
def test_folders_that_cannot_be_written_are_one_line(videos: pathlib.Path, tmp_path: pathlib.Path, target: str) -> None:
    file = tmp_path / "file"
    file.write_text("mine")
    target = target.format(file=file)
    for module, arguments in (
        ("data_prep.ucf101", _arguments(videos, target)),
        ("data_prep.moving_shapes", [f"--output_dir={target}", "--videos_per_class=1"]),
    ):
        result = fork_command(module, *arguments)
        assert result.returncode == 1 and result.stdout == "" and result.stderr.count("\n") == 1, result.stderr
        assert result.stderr.startswith(f"{module.partition('.')[2]}: ") and target in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["file"] and file.read_text() == "mine"
