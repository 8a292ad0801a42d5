"""Folders of images as videos: order, orientation, kinds of images, and damage."""

from __future__ import annotations

import os
import pathlib
import re

import numpy as np
import pytest
from PIL import Image

from tganv2_tf.errors import UserError, VideoError
from tganv2_tf.evaluation import projection, samples
from tganv2_tf.video_io.decoding import claimed_num_frames, open_video
from tganv2_tf.video_io.folders import find_videos, frame_paths

RED, GREEN, BLUE, WHITE = (200, 0, 0), (0, 200, 0), (0, 0, 200), (200, 200, 200)


def write(path: pathlib.Path, grey: int = 0, size: tuple[int, int] = (16, 16)) -> None:
    """Writes an image of a single grey, `size` wide and high."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (grey,) * 3).save(path)


def write_frames(folder: pathlib.Path, greys: range, name: str = "frame_{}.png") -> pathlib.Path:
    """Writes frames numbered from 1 without leading zeros."""
    for number, grey in enumerate(greys, start=1):
        write(folder / name.format(number), grey)
    return folder


def greys(folder: pathlib.Path) -> list[int]:
    """Returns the grey of each frame."""
    return [int(frame[0, 0, 0]) for frame in open_video(folder).frames]


def test_frames_are_in_the_order_of_their_numbers(tmp_path: pathlib.Path) -> None:
    assert greys(write_frames(tmp_path / "a", range(1, 13))) == list(range(1, 13))
    names = [
        "2-a10.jpg",
        "2-a9.jpg",
        "10-a1.jpg",
        "1.jpg",
        "01.jpg",
        "a.JPEG",
        "b1.webp",
        "b01.png",
        "no1.txt",
        ".1.jpg",
    ]
    for name in names:
        (tmp_path / name).touch()
    expected = ["01.jpg", "1.jpg", "2-a9.jpg", "2-a10.jpg", "10-a1.jpg", "a.JPEG", "b01.png", "b1.webp"]
    assert [os.path.basename(path) for path in frame_paths(tmp_path)] == expected


@pytest.mark.parametrize("orientation", range(1, 9))
def test_frames_are_upright(tmp_path: pathlib.Path, orientation: int) -> None:
    # Red, green / blue, white as displayed. Sides of the stored 0th row and column by TIFF 6.0, "Orientation":
    # 1 top, left; 2 top, right; 3 bottom, right; 4 bottom, left; 5 left, top; 6 right, top; 7 right, bottom;
    # 8 left, bottom.
    shown = np.array([[RED, GREEN], [BLUE, WHITE]], np.uint8).repeat(32, axis=0).repeat(16, axis=1)
    stored = {
        1: shown,
        2: shown[:, ::-1],
        3: shown[::-1, ::-1],
        4: shown[::-1],
        5: shown.transpose(1, 0, 2),
        6: shown.transpose(1, 0, 2)[::-1],
        7: shown.transpose(1, 0, 2)[::-1, ::-1],
        8: shown.transpose(1, 0, 2)[:, ::-1],
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(np.ascontiguousarray(stored)).save(tmp_path / "1.jpg", exif=exif, quality=100, subsampling=0)
    (frame,) = open_video(tmp_path).frames
    assert frame.shape == (64, 32, 3) and np.abs(frame.astype(int) - shown).max() <= 4


@pytest.mark.parametrize(
    ("mode", "value", "expected"),
    [
        ("L", 7, (7, 7, 7)),
        ("I;16", 7 * 256 + 255, (7, 7, 7)),
        ("RGBA", (1, 2, 3, 0), (1, 2, 3)),
        ("LA", (9, 0), (9, 9, 9)),
        ("1", 1, (255, 255, 255)),
    ],
)
def test_images_of_all_kinds_are_rgb(
    tmp_path: pathlib.Path, mode: str, value: int | tuple[int, ...], expected: tuple[int, ...]
) -> None:
    Image.new(mode, (4, 2), value).save(tmp_path / "1.png")
    (frame,) = open_video(tmp_path).frames
    assert frame.dtype == np.uint8
    np.testing.assert_array_equal(frame, np.broadcast_to(np.array(expected), (2, 4, 3)))


def test_palettes_and_webp(tmp_path: pathlib.Path) -> None:
    image = Image.new("RGB", (4, 2), BLUE)
    image.quantize(2).save(tmp_path / "1.png")
    image.save(tmp_path / "2.webp", lossless=True)
    for frame in open_video(tmp_path).frames:
        np.testing.assert_array_equal(frame, np.broadcast_to(np.array(BLUE), (2, 4, 3)))


def test_damaged_frames_are_left_out_and_told(tmp_path: pathlib.Path) -> None:
    write_frames(tmp_path, range(10, 60, 10), "{}.jpg")
    whole = (tmp_path / "2.jpg").read_bytes()
    (tmp_path / "2.jpg").write_bytes(whole[: len(whole) * 3 // 4])
    (tmp_path / "4.jpg").write_bytes(b"no image")
    opened = open_video(tmp_path)
    assert not opened.damage.reason
    assert [int(frame[0, 0, 0]) for frame in opened.frames] == [10, 30, 50]
    damage = opened.damage
    assert (damage.header_frames, damage.num_frames, damage.bad_packets) == (5, 3, 2)
    told = r"damaged: 3 of its 5 images can be read; first unreadable image: 2\.jpg: .*[Tt]runcated.*"
    assert re.fullmatch(told, damage.reason)


@pytest.mark.parametrize("kind", ["empty", "not an image", "pipe", "folder", "lost link", "gif", "png cut off"])
def test_what_no_image_is(tmp_path: pathlib.Path, kind: str) -> None:
    path = tmp_path / "1.png"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "lost link":
        path.symlink_to(tmp_path / "nowhere.png")
    elif kind == "gif":  # Pillow has several kinds
        Image.new("P", (4, 4)).save(path, "GIF")
    elif kind == "png cut off":
        write(path, 9, (64, 64))
        path.write_bytes(path.read_bytes()[:-40])
    else:
        path.write_bytes(b"" if kind == "empty" else b"not an image")
    with pytest.raises(VideoError, match=r"^none of its frames can be decoded; 1\.png: [^\n/]+$"):
        list(open_video(tmp_path).frames)


def test_what_no_folder_of_frames_is(tmp_path: pathlib.Path) -> None:
    with pytest.raises(VideoError, match="the folder has no images in it"):
        open_video(tmp_path)
    with pytest.raises(VideoError, match="the file is missing"):
        open_video(tmp_path / "nowhere")
    write_frames(tmp_path, range(3))
    assert open_video(tmp_path).fps == 0 and claimed_num_frames(tmp_path) == 3
    with pytest.raises(VideoError, match="a folder of frames has no frame rate"):
        open_video(tmp_path, fps=25)


def test_frames_are_read_one_at_a_time(tmp_path: pathlib.Path) -> None:
    frames = open_video(write_frames(tmp_path, range(10, 13))).frames
    next(frames)
    (tmp_path / "frame_3.png").unlink()
    assert len(list(frames)) == 1


def test_which_folders_are_videos(tmp_path: pathlib.Path) -> None:
    files = [
        *("cover.jpg", "a/x.mp4", "a/x.png"),  # above and next to a video file
        *("b/1.png", "b/2.png", "b/times.txt", "b/.hidden.png"),
        *("c/deep/1.JPG", "c/deep/masks/1.png"),
        *("d/.jpg", ".e/1.jpg", "f/readme.txt"),
    ]
    for file in files:
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).touch()
    found = find_videos(tmp_path)
    relative = [[os.path.relpath(path, tmp_path) for path in paths] for paths in found]
    assert relative == [
        ["a/x.mp4"],
        ["b", "c/deep", "c/deep/masks"],
        ["b/times.txt", "f/readme.txt", "cover.jpg", "a/x.png"],
    ]
    assert found.videos == [*found.files, *found.frame_folders]
    (tmp_path / "a" / "x.mp4").unlink()
    assert find_videos(tmp_path).frame_folders[:2] == [str(tmp_path), str(tmp_path / "a")]


def test_other_commands_read_them_too(tmp_path: pathlib.Path) -> None:
    write_frames(tmp_path / "b", range(20))
    write_frames(tmp_path / "a", range(100, 116), "{}.jpg")
    clip = projection.read_clip(tmp_path / "b", 3, 8, first_frame=8, frame_step=2)
    assert clip.shape == (3, 8, 8, 3) and clip[:, 0, 0, 0].tolist() == [8, 10, 12]
    paths = samples.list_videos(str(tmp_path))
    assert paths == [tmp_path / "a", tmp_path / "b"]
    (batch,) = samples.folder_batches(paths, 2, "paper")
    expected = np.stack([np.arange(100, 116), np.arange(16)])
    np.testing.assert_allclose((batch[:, :, 0, 0, 0] + 1) * 127.5, expected, atol=1e-4)
    write(tmp_path / "b" / "frame_4.png", size=(8, 16))
    with pytest.raises(UserError, match="b: its frames differ in size; remove it"):
        list(samples.folder_batches(paths, 2, "paper"))
