"""Grids, strips and files for other programs."""

import imageio.v3 as iio
import numpy as np
import pytest

from tganv2_tf.errors import UserError
from tganv2_tf.video_io import encoding, videos
from tganv2_tf.video_io.captions import captioned


def gradient(num=1, frames=4, size=16):
    """Returns uint8 videos that get brighter from frame to frame, each with another hue."""
    levels = np.linspace(40, 200, frames).astype(np.uint8)
    made = np.zeros((num, frames, size, size, 3), np.uint8)
    for i in range(num):
        made[i, ..., i % 3] = levels[:, None, None]
    return made


def test_bytes_by_hand():
    # round((x + 1) * 127.5): -1 -> 0, 0 -> 127.5 -> 128 (to even), 1 -> 255; values outside are clipped.
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


def test_the_middle_frame_stands_for_a_video_alone():
    assert videos.shown_frames(16, 1).tolist() == [7]
    assert videos.shown_frames(1, 1).tolist() == [0]
    assert videos.shown_frames(15, 8).tolist() == [0, 2, 4, 6, 8, 10, 12, 14]
    assert videos.shown_frames(3, 8).tolist() == [0, 1, 2]


@pytest.mark.parametrize("resample", ["bicubic", "lanczos"])
def test_enlarging_smoothly(resample):
    """A ramp of 20 per pixel becomes one of 5 per pixel; a flat colour stays flat."""
    ramp = np.zeros((2, 3, 6, 8, 3), np.uint8) + np.array([0, 0, 77], np.uint8)
    ramp[..., 0] = 20 * np.arange(8)
    ramp[1, 2, ..., 1] = 200
    large = videos.enlarge(ramp, 4, resample)
    assert large.shape == (2, 3, 24, 32, 3)
    inner = large[..., 12:20, 0].astype(int)  # far from the borders
    np.testing.assert_allclose(inner, np.broadcast_to(20 * (np.arange(12, 20) - 1.5) / 4, inner.shape), atol=1)
    assert (large[..., 2] == 77).all()
    assert (large[1, 2, ..., 1] == 200).all() and not large[0, ..., 1].any(), "each frame in its place"


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


def test_equal_frames_are_all_in_a_gif(tmp_path):
    videos.write_video(tmp_path / "still.gif", np.repeat(gradient(frames=1), 5, axis=1)[0], 50)
    read = iio.imread(tmp_path / "still.gif", plugin="pillow")
    assert read.shape == (5, 16, 16, 3)
    assert np.abs(read.astype(int) - gradient(frames=1)[0]).max() <= 4
    assert iio.immeta(tmp_path / "still.gif", plugin="pillow")["duration"] == 20
    assert iio.immeta(tmp_path / "still.gif", plugin="pillow")["loop"] == 0, "repeats indefinitely"


def written(path, made, parts, **options):
    """Writes videos in chunks of the given numbers of frames."""
    with videos.open_writer(path, made.shape[1], 10, **options) as write:
        for part in np.split(made, np.cumsum(parts)[:-1], axis=1):
            write(part)
    return path


def test_parts_make_the_same_files_as_a_whole(tmp_path):
    made = np.random.default_rng(0).integers(0, 256, (5, 9, 16, 16, 3), np.uint8)
    for name in ("a.gif", "a.mp4", "a.png", "a.npz"):
        whole, parts = (written(tmp_path / f"{number}{name}", made, p) for number, p in enumerate([[9], [4, 4, 1]]))
        if name == "a.npz":  # contains the time
            whole, parts = (np.load(path, allow_pickle=False)["videos"] for path in (whole, parts))
            np.testing.assert_array_equal(whole, parts)
        else:
            assert whole.read_bytes() == parts.read_bytes(), name


def test_an_archive_holds_every_video_in_its_place(tmp_path):
    made = np.random.default_rng(0).integers(0, 256, (3, 5, 4, 6, 3), np.uint8)
    arrays = {"seeds": np.array([7, 1, 2]), "names": np.array(["a", "b", "ü"])}
    with np.load(written(tmp_path / "a.npz", made, [2, 2, 1], arrays=arrays), allow_pickle=False) as read:
        assert set(read) == {"videos", "seeds", "names"}
        np.testing.assert_array_equal(read["videos"], made)
        assert read["seeds"].tolist() == [7, 1, 2] and read["names"].tolist() == ["a", "b", "ü"]
    assert [path.name for path in tmp_path.iterdir()] == ["a.npz"]


def test_a_folder_of_frames(tmp_path):
    made = np.random.default_rng(0).integers(0, 256, (3, 5, 4, 6, 3), np.uint8)
    folder = f"{tmp_path}/new/frames/"
    written(folder, made, [2, 3], columns=3)
    names = sorted(path.name for path in (tmp_path / "new" / "frames").iterdir())
    assert names == [f"frame-0000{t}.png" for t in range(5)]
    frames = np.stack([iio.imread(tmp_path / "new" / "frames" / name) for name in names])
    np.testing.assert_array_equal(frames, videos.grid(made, 3))
    with pytest.raises(UserError, match="frames already exists; choose another name, or delete it"):
        written(folder, made, [5])
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["frames"]


def test_pictures_show_strips_or_the_middle(tmp_path):
    made = gradient(4, frames=9)
    strips = iio.imread(written(tmp_path / "strips.png", made, [4, 4, 1]))
    np.testing.assert_array_equal(strips, videos.strip(made))
    middle = iio.imread(written(tmp_path / "middle.png", made, [4, 4, 1], shown=1, columns=4))
    np.testing.assert_array_equal(middle, videos.grid(made[:, 4:5], 4)[0])


def test_captions_are_below_rows_of_strips_and_below_videos_of_grids(tmp_path):
    made, texts = gradient(4, frames=9), ["a", "b", "c", "d"]
    below = captioned(made, texts).shape[2] - 16
    strips = iio.imread(written(tmp_path / "strips.png", made, [9], captions=texts))
    assert strips.shape == (4 * (16 + below) + 6, 8 * 16 + 14, 3)
    for number, video in enumerate(made):
        row = strips[number * (16 + below + 2) :]
        np.testing.assert_array_equal(row[:16], videos.strip(video[np.newaxis]))
        assert row[16 : 16 + below].any() and not row[16 + below : 18 + below].any()
    expected = videos.grid(captioned(made[:, 4:5], texts), 2)[0]
    middle = iio.imread(written(tmp_path / "middle.png", made, [9], shown=1, columns=2, captions=texts))
    np.testing.assert_array_equal(middle, expected)
    written(f"{tmp_path}/frames/", made, [4, 5], columns=2, captions=texts)
    np.testing.assert_array_equal(iio.imread(tmp_path / "frames" / "frame-00004.png"), expected)


NAMES = ("a.gif", "a.mp4", "a.png", "a.npz", "a/")


@pytest.mark.parametrize("name", NAMES)
def test_what_is_interrupted_leaves_nothing(tmp_path, name):
    def interrupted():
        with videos.open_writer(f"{tmp_path}/{name}", 8, 10) as write:
            write(gradient())
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_leaves_nothing(tmp_path, monkeypatch):
    def fail(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(videos.iio, "imwrite", fail)
    for name in ("a.png", "a/"):
        with pytest.raises(OSError, match="No space left"):
            videos.write_video(f"{tmp_path}/{name}", gradient()[0], 5)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("says", "error", "message"),
    [
        ("[out#0/mp4 @ 0x1] Error writing trailer: No space left on device", OSError, "No space left on device.*a.mp4"),
        ("some codec\nis broken", UserError, r"a\.mp4: ffmpeg ended with status 3: is broken"),
    ],
)
@pytest.mark.parametrize("reads", [True, False])
def test_ffmpegs_failures_are_seen(tmp_path, monkeypatch, reads, says, error, message):
    """ffmpeg fails at the end, or earlier, so that frames can no longer be written."""
    script = tmp_path / "ffmpeg"
    script.write_text(f"#!/bin/sh\n{'cat > /dev/null' if reads else ''}\nprintf '%s' '{says}' >&2\nexit 3\n")
    script.chmod(0o755)
    monkeypatch.setattr(encoding, "get_ffmpeg_exe", lambda: str(script))
    handed = []

    def write_all():
        with videos.open_writer(tmp_path / "a.mp4", 400, 10) as write:
            for part in range(100):
                write(gradient(size=64))
                handed.append(part)

    with pytest.raises(error, match=message):
        write_all()
    assert (len(handed) == 100) == reads, "a long video ends where ffmpeg does"
    assert [path.name for path in tmp_path.iterdir()] == ["ffmpeg"]


def test_other_suffixes_are_refused():
    message = (
        r"x\.avi: cannot write \.avi; valid: \.gif, \.mp4, \.png, \.npz, or a folder of frames, whose name ends with /"
    )
    with pytest.raises(UserError, match=message):
        videos.check_suffix("x.avi")
    with pytest.raises(UserError, match="frames: cannot write a file without a suffix"):
        videos.check_suffix("frames")
    assert videos.check_suffix("x.GIF") == ".gif"
    assert videos.check_suffix("frames/") == ""
