"""Decoding, geometry and encoding of single videos."""

from __future__ import annotations

import itertools
import pathlib

import cv2
import numpy as np
import pytest
import tensorflow as tf

from data_prep import video
from data_prep.moving_shapes import write_video
from tganv2_tf.video_io.decoding import VideoError, open_video
from tganv2_tf.video_io.geometry import fit

SHARED = pathlib.Path(__file__).resolve().parents[2] / "shared" / "data"
RED = (255, 0, 0)


def _solid(colour: tuple[int, int, int], num_frames: int = 20, height: int = 48, width: int = 64) -> np.ndarray:
    return np.broadcast_to(np.array(colour, np.uint8), (num_frames, height, width, 3)).copy()


def _frames(path: pathlib.Path) -> list[np.ndarray]:
    return list(open_video(path).frames)


def _psnr(a: np.ndarray, b: np.ndarray) -> float:
    return 10 * np.log10(255**2 / np.mean((a.astype(float) - b.astype(float)) ** 2))


@pytest.mark.parametrize(("height", "width"), [(48, 64), (37, 51), (16, 17)])
def test_all_frames_in_order_and_size(tmp_path: pathlib.Path, height: int, width: int) -> None:
    frames = _solid((0, 0, 0), 20, height, width)
    frames += (10 * np.arange(20, dtype=np.uint8))[:, None, None, None]  # frame t has grey level 10 t
    write_video(tmp_path / "a.avi", frames)
    fps, frames_read, damage = open_video(tmp_path / "a.avi")
    decoded = np.stack(list(frames_read))
    assert damage.reason == "" and damage.num_frames == 20
    assert fps == 25
    assert decoded.shape == (20, height, width, 3) and decoded.dtype == np.uint8
    np.testing.assert_allclose(decoded.mean((1, 2, 3)), 10 * np.arange(20), atol=2)


def test_red_stays_red_from_file_to_record(tmp_path: pathlib.Path) -> None:
    write_video(tmp_path / "a.avi", _solid(RED))
    frame = _frames(tmp_path / "a.avi")[0]
    np.testing.assert_allclose(frame.reshape(-1, 3), np.broadcast_to(RED, (48 * 64, 3)), atol=4)
    for encoding in video.ENCODINGS:
        decoded = tf.io.decode_image(video.encode_frame(frame, encoding, 95)).numpy()
        np.testing.assert_allclose(decoded.reshape(-1, 3), np.broadcast_to(RED, (48 * 64, 3)), atol=6)


def test_a_wrong_number_of_frames_in_the_header_changes_nothing(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "a.avi"
    write_video(path, _solid(RED))
    honest = path.read_bytes()
    stream = honest.index(b"strh") + 8 + 32  # dwLength of AVISTREAMHEADER
    for claimed in (3, 2**31 - 1):
        for offset in (48, stream):  # 48: dwTotalFrames of AVIMAINHEADER
            assert honest[offset : offset + 4] == (20).to_bytes(4, "little")
            path.write_bytes(honest[:offset] + claimed.to_bytes(4, "little") + honest[offset + 4 :])
            assert len(_frames(path)) == 20


def test_a_truncated_video_has_what_can_be_decoded(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "a.avi"
    write_video(path, np.random.default_rng(0).integers(0, 255, (20, 48, 64, 3), np.uint8))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert 5 <= len(_frames(path)) <= 11


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "missing"),
        (b"", "empty"),
        (b"no video at all" * 100, "cannot be opened"),
        (b"header", "none of its frames"),
    ],
)
def test_unusable_files(tmp_path: pathlib.Path, content: bytes | None, reason: str) -> None:
    path = tmp_path / "v_A_g01_c01.avi"
    if content == b"header":
        write_video(path, _solid(RED))
        whole = path.read_bytes()
        path.write_bytes(whole[: whole.index(b"movi") + 4])
    elif content is not None:
        path.write_bytes(content)
    with pytest.raises(VideoError, match=reason):
        _frames(path)


def test_broken_files_leave_the_terminal_alone(tmp_path: pathlib.Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.mp4").write_bytes(b"\0\0\0\x18ftypmp42" + bytes(200))
    with pytest.raises(VideoError):
        _frames(tmp_path / "a.mp4")
    assert capfd.readouterr() == ("", "")


def test_videos_stream(tmp_path: pathlib.Path) -> None:
    write_video(tmp_path / "a.avi", _solid(RED))
    frames = open_video(tmp_path / "a.avi").frames
    assert len(list(itertools.islice(frames, 3))) == 3
    frames.close()  # type: ignore[attr-defined]
    assert list(frames) == []


def test_jpeg_is_close_and_png_exact() -> None:
    # Slow changes of brightness, and hard edges of colour, which 4:2:0 would smear, giving only 30 dB.
    frame = np.full((64, 64, 3), 90, np.uint8)
    frame[..., 0] = np.linspace(60, 190, 64)
    frame[..., 1] = np.linspace(60, 190, 64)[:, None]
    frame[20:41, 21:42] = RED
    jpeg = tf.io.decode_jpeg(video.encode_frame(frame, "jpeg", 95)).numpy()
    png = tf.io.decode_png(video.encode_frame(frame, "png", 95)).numpy()
    assert _psnr(jpeg, frame) > 40
    np.testing.assert_array_equal(png, frame)
    sizes = [len(video.encode_frame(frame, "jpeg", quality)) for quality in (50, 80, 95)]
    assert sizes == sorted(sizes) and sizes[0] < sizes[2]


@pytest.mark.skipif(not (SHARED / "ucf101").is_dir(), reason="needs the two videos of UCF101 in ../shared/data")
@pytest.mark.parametrize(
    ("name", "num_frames", "fps"), [("v_ApplyEyeMakeup_g01_c01", 164, 25.0), ("v_BaseballPitch_g01_c01", 107, 29.97)]
)
def test_real_ucf101(name: str, num_frames: int, fps: float) -> None:
    opened = open_video(SHARED / "ucf101" / f"{name}.avi")
    frames = list(opened.frames)
    assert opened.fps == pytest.approx(fps, abs=0.01)
    assert len(frames) == num_frames and all(frame.shape == (240, 320, 3) for frame in frames)
    fitted = fit(frames[50], "paper", 192)
    reference = cv2.resize(frames[50][:, 40:280], (192, 192), interpolation=cv2.INTER_AREA)
    np.testing.assert_array_equal(fitted, reference)
    decoded = tf.io.decode_jpeg(video.encode_frame(fitted, "jpeg", 95)).numpy()
    assert _psnr(decoded, fitted) > 38
