"""Unusual real-world files and videos, prepared by one command: the results, and which are skipped and why."""

from __future__ import annotations

import os
import pathlib
import shutil
import subprocess
import sys
from collections.abc import Iterator

import imageio.v3 as iio
import numpy as np
import pytest
import tensorflow as tf
from imageio_ffmpeg import get_ffmpeg_exe

from tests.data_sets import read_records
from tests.forking import fork_command
from tganv2_tf.data.manifest import Manifest
from tganv2_tf.data.records import parse_record
from tganv2_tf.video_io.decoding import VideoError, claimed_num_frames
from tganv2_tf.video_io.folders import find_videos

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="names of files are not any bytes elsewhere")
SIZE, FRAMES = 32, 10
RED, BLUE = (200, 0, 0), (0, 0, 200)
# The upper left quarter is red.
CORNER = np.full((FRAMES, SIZE, SIZE, 3), BLUE, np.uint8)
CORNER[:, : SIZE // 2, : SIZE // 2] = RED
GREYS = np.full((FRAMES, SIZE, SIZE, 3), 20 * np.arange(FRAMES)[:, None, None, None], np.uint8)
ODD_NAME = "spaces and\nline ends/\u00fc \U0001f600 \x1b[31m.avi"


def _ffmpeg(*arguments: str | pathlib.Path, frames: np.ndarray | None = None) -> None:
    given = None if frames is None else frames.tobytes()
    subprocess.run([get_ffmpeg_exe(), "-v", "error", "-y", *map(str, arguments)], input=given, check=True)


def _encode(path: pathlib.Path, frames: np.ndarray, *options: str) -> pathlib.Path:
    """Writes uint8 [T, H, W, 3 or 4]; lossless unless the options name a codec."""
    height, width, channels = frames.shape[1:]
    pixels = {3: "rgb24", 4: "rgba"}[channels]
    raw = ["-f", "rawvideo", "-pix_fmt", pixels, "-s", f"{width}x{height}", "-r", "25", "-i", "-"]
    _ffmpeg(*raw, *(options or ("-c:v", "ffv1")), path, frames=frames)
    return path


def _write_all(folder: pathlib.Path, elsewhere: pathlib.Path) -> None:
    plain = _encode(folder / "plain.avi", CORNER)
    shutil.copy(plain, folder / "avi inside.mp4")
    (folder / "spaces and\nline ends").mkdir()
    shutil.copy(plain, folder / ODD_NAME)
    shutil.copy(plain, folder / "video.txt")
    shutil.copy(plain, elsewhere / "own.avi")
    (folder / "link.avi").symlink_to(elsewhere / "own.avi")
    (folder / "linked").symlink_to(elsewhere)
    (elsewhere / "back").symlink_to(folder)
    (folder / "loop.avi").symlink_to("loop.avi")
    os.mkfifo(folder / "pipe.avi")
    (folder / "folder.mp4").mkdir()

    h264 = _encode(folder.parent / "h264.mp4", CORNER, "-c:v", "libx264", "-pix_fmt", "yuv420p")
    for turn in (90, 180):  # counter-clockwise
        _ffmpeg("-display_rotation", str(turn), "-i", h264, "-c", "copy", folder / f"turned{turn}.mp4")
    _encode(folder / "grey.mp4", GREYS, "-c:v", "libx264", "-pix_fmt", "gray")
    _encode(folder / "ten bits.mkv", GREYS, "-c:v", "libx264", "-pix_fmt", "yuv420p10le")
    half_clear = np.concatenate([CORNER, np.full((FRAMES, SIZE, SIZE, 1), 255, np.uint8)], axis=-1)
    half_clear[:, :, : SIZE // 2, 3] = 0
    _encode(folder / "alpha.mov", half_clear, "-c:v", "png")
    irregular = "setpts='if(lt(N,5),N,5+(N-5)*10)/25/TB'"  # 5 frames at intervals of 1/25 s, 5 at ten times that
    _encode(folder / "variable.mkv", GREYS, "-vf", irregular, "-fps_mode", "vfr", "-c:v", "ffv1")
    _encode(folder / "odd.avi", CORNER[:, :17, :29])
    _encode(folder / "thin.avi", CORNER[:, :, :1])
    small, large = (
        _encode(folder.parent / f"{side}.ts", CORNER[:, :side, :side], "-c:v", "mpeg2video") for side in (16, 32)
    )
    (folder / "sizes.ts").write_bytes(large.read_bytes() + small.read_bytes())

    _encode(folder / "one.avi", CORNER[:1])
    (folder / "empty.mp4").touch()
    (folder / "text.mp4").write_text("Some text.\n" * 100)
    (folder / "playlist.mp4").write_text("#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nsizes.ts\n#EXT-X-ENDLIST\n")
    (folder / "list.mp4").write_text("ffconcat version 1.0\nfile plain.avi\n")
    (folder / "accent.mp4").write_text("ffconcat version 1.0\n# \u00e9\nfile plain.avi\n", encoding="utf-8")
    (folder / "bytes.mp4").write_bytes(np.random.default_rng(0).bytes(5000))
    iio.imwrite(folder / "picture.mp4", CORNER[0], extension=".png")
    _ffmpeg("-f", "lavfi", "-i", "sine=duration=0.2", folder / "sound.mp4")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[pathlib.Path, list[str]]]:
    """The data set, and the lines that the command printed."""
    folder, elsewhere = tmp_path_factory.mktemp("videos") / "in", tmp_path_factory.mktemp("elsewhere")
    folder.mkdir()
    _write_all(folder, elsewhere)
    data = folder.parent / "data"
    more = [f"--resolution={SIZE}", "--min_frames=4", "--encoding=png", "--max_failures=30", "--num_workers=1"]
    result = fork_command(
        *("tests.quickly", "data_prep.video_folder", f"--video_dir={folder}", f"--output_dir={data}", *more)
    )
    assert result.returncode == 0 and "Traceback" not in result.stderr, result.stderr
    yield data, result.stdout.splitlines()
    (folder / "pipe.avi").unlink()


@pytest.fixture(scope="module")
def videos(prepared: tuple[pathlib.Path, list[str]]) -> dict[str, np.ndarray]:
    """Frames by video id, int [T, SIZE, SIZE, 3]."""
    found = {}
    for path in Manifest.load(prepared[0]).shard_paths(prepared[0]):
        for record in map(parse_record, read_records(path)):
            frames = [tf.io.decode_png(frame).numpy() for frame in record["frames"]]
            found[record["video_id"].numpy().decode()] = np.stack(frames).astype(int)
    return found


def test_what_is_left_out_and_why(prepared: tuple[pathlib.Path, list[str]], videos: dict[str, np.ndarray]) -> None:
    folder, lines = prepared
    no_video, missing = "it cannot be opened as a video", "the file is missing"
    assert {skip.video: skip.reason for skip in Manifest.load(folder).skipped} == {
        "one.avi": "it has 1 frames, fewer than --min_frames=4",
        "picture.mp4": "it has 1 frames, fewer than --min_frames=4",
        "empty.mp4": "the file is empty",
        "text.mp4": no_video,
        "playlist.mp4": no_video,  # must not refer to other files
        "list.mp4": no_video,
        "accent.mp4": no_video,
        "bytes.mp4": no_video,
        "sound.mp4": no_video,
        "loop.avi": missing,
        "pipe.avi": missing,  # must not block
    }
    assert lines[0].endswith(": 25 of 25 videos for --split=all; files of other kinds: 1, e.g. video.txt")
    assert len(videos) == 14


@pytest.mark.parametrize("name", ["plain.avi", "avi inside.mp4", ODD_NAME, "link.avi", "linked/own.avi"])
def test_names_links_and_extensions_change_nothing(videos: dict[str, np.ndarray], name: str) -> None:
    np.testing.assert_array_equal(videos[name], CORNER)


@pytest.mark.parametrize(("name", "turns"), [("turned90.mp4", 1), ("turned180.mp4", 2)])
def test_videos_are_turned_upright(videos: dict[str, np.ndarray], name: str, turns: int) -> None:
    upright = np.rot90(CORNER, turns, (1, 2))  # counter-clockwise
    assert np.abs(videos[name] - upright).mean() < 6  # a lossy encoder; another quarter would give 50 or more


@pytest.mark.parametrize("name", ["grey.mp4", "ten bits.mkv", "variable.mkv"])
def test_each_coded_frame_is_one_grey_frame(videos: dict[str, np.ndarray], name: str) -> None:
    frames = videos[name]
    assert len(frames) == FRAMES
    np.testing.assert_allclose(frames, GREYS, atol=3)
    assert np.ptp(frames, axis=-1).max() <= 3, "three equal channels"


def test_transparency_is_dropped(videos: dict[str, np.ndarray]) -> None:
    np.testing.assert_array_equal(videos["alpha.mov"], CORNER)  # also where it is transparent


def test_any_size_and_sizes_that_change(videos: dict[str, np.ndarray]) -> None:
    odd = videos["odd.avi"]  # the central 17 of 29x17 pixels: red ends at column 16 - 6
    assert odd.shape == (FRAMES, SIZE, SIZE, 3)
    across = (odd[0, 0, :, 0] > 100).sum()
    assert across == pytest.approx(10 / 17 * SIZE, abs=1) and (odd[0, :, 0, 0] > 100).sum() >= 30
    assert videos["thin.avi"].shape == (FRAMES, SIZE, SIZE, 3) and np.ptp(videos["thin.avi"], axis=(1, 2)).max() == 0
    sizes = videos["sizes.ts"]
    assert 2 * FRAMES - 1 <= len(sizes) <= 2 * FRAMES  # a decoder may need the start of a sequence
    assert np.abs(sizes[0] - CORNER[0]).mean() < 6


def test_a_line_for_each_video_whatever_its_name() -> None:
    from data_prep.report import in_one_line

    assert in_one_line("a\nb\x1b[31m \u00fc\U0001f600") == "a\\nb\\x1b[31m \u00fc\U0001f600"


def test_folders_that_lead_in_circles_end(tmp_path: pathlib.Path) -> None:
    # Four links in each of four folders: without loop detection up to 4^40 paths.
    for name in "abcd":
        (tmp_path / name).mkdir()
        (tmp_path / name / "v.avi").touch()
        for number in range(4):
            (tmp_path / name / f"up{number}").symlink_to(tmp_path)
    assert sorted(find_videos(tmp_path).files) == [f"{tmp_path}/{name}/v.avi" for name in "abcd"]


def test_nobody_waits_at_a_pipe_for_its_number_of_frames(tmp_path: pathlib.Path) -> None:
    os.mkfifo(tmp_path / "pipe.avi")
    with pytest.raises(VideoError, match="the file is missing"):
        claimed_num_frames(tmp_path / "pipe.avi")
