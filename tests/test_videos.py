"""Grids, strips and files that other programs read."""

import imageio.v3 as iio
import numpy as np
import pytest

from tganv2_tf import videos
from tganv2_tf.errors import UserError


def gradient(num=1, frames=4, size=16):
    """uint8 videos that get brighter from frame to frame; each has another hue."""
    levels = np.linspace(40, 200, frames).astype(np.uint8)
    made = np.zeros((num, frames, size, size, 3), np.uint8)
    for i in range(num):
        made[i, ..., i % 3] = levels[:, None, None]
    return made


def test_bytes_by_hand():
    # round((x + 1) * 127.5): -1 -> 0, 0 -> 127.5 -> 128 (to even), 1 -> 255; beyond is clipped.
    np.testing.assert_array_equal(videos.to_uint8(np.array([-1.5, -1, 0, 1, 2.0])), [0, 0, 128, 255, 255])
    every = np.arange(256)
    np.testing.assert_array_equal(videos.to_uint8(every / 127.5 - 1), every)


def test_grid_places_videos_row_by_row():
    five = np.arange(1, 6, dtype=np.uint8)[:, None, None, None, None] * np.ones((5, 2, 3, 4, 3), np.uint8)
    canvas = videos.grid(five, border=1)
    assert canvas.shape == (2, 3 * 2 + 1, 4 * 3 + 2, 3)
    assert [canvas[0, 0, x, 0] for x in (0, 5, 10)] == [1, 2, 3]
    assert [canvas[0, 4, x, 0] for x in (0, 5, 10)] == [4, 5, 0]
    assert canvas[0, 3].max() == 0, "the border is black"
    assert videos.grid(five, columns=5).shape == (2, 3, 4 * 5 + 8, 3)


def test_strip_shows_evenly_spaced_frames():
    rows = videos.strip(gradient(2, frames=9), num_frames=3, border=0)
    assert rows.shape == (32, 48, 3)
    assert rows[0, 0, 0] == 40
    assert rows[0, 47, 0] == 200
    assert rows[16, 0, 1] == 40


def test_enlarge_repeats_pixels():
    small = np.arange(4, dtype=np.uint8).reshape(1, 2, 2, 1) * np.ones(3, np.uint8)
    np.testing.assert_array_equal(videos.enlarge(small, 2)[0, :, :, 0], [[0, 0, 1, 1]] * 2 + [[2, 2, 3, 3]] * 2)


@pytest.mark.parametrize("suffix", [".gif", ".mp4"])
def test_files_hold_all_frames_at_their_rate(tmp_path, suffix):
    path = tmp_path / "new folder" / f"video{suffix}"
    video = gradient(frames=8, size=32)[0]
    videos.write_video(path, video, 10)
    read = iio.imread(path, plugin="pillow" if suffix == ".gif" else "FFMPEG")
    assert read.shape == video.shape
    assert np.abs(read.astype(int) - video)[..., 0].mean() < 8
    assert (np.diff(read[..., 0].mean((1, 2)).astype(int)) > 10).all(), "the frames are in order"
    if suffix == ".gif":
        assert iio.immeta(path, plugin="pillow")["duration"] == 100
    else:
        metadata = iio.immeta(path, plugin="FFMPEG")
        assert (metadata["codec"], metadata["fps"]) == ("h264", 10)
    assert [p.name for p in path.parent.iterdir()] == [path.name], "nothing else is left"


def test_odd_sizes_become_mp4(tmp_path):
    path = tmp_path / "odd.mp4"
    videos.write_video(path, gradient(size=17)[0], 5)
    assert iio.imread(path, plugin="FFMPEG").shape[1:3] == (18, 18)


def test_png_is_a_strip(tmp_path):
    videos.write_video(tmp_path / "strip.png", gradient(frames=3)[0], 5)
    assert iio.imread(tmp_path / "strip.png").shape == (16, 3 * 16 + 4, 3)


def test_a_failed_write_leaves_nothing(tmp_path, monkeypatch):
    def fail(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(videos.iio, "imwrite", fail)
    for name in ("a.gif", "a.mp4", "a.png"):
        with pytest.raises(OSError, match="No space left"):
            videos.write_video(tmp_path / name, gradient()[0], 5)
    assert list(tmp_path.iterdir()) == []


def test_other_suffixes_are_refused():
    with pytest.raises(UserError, match=r"x\.avi: cannot write \.avi; valid: \.gif, \.mp4, \.png"):
        videos.check_suffix("x.avi")
