"""Scored video files and arrays: cropped and resized like the real videos."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from data_prep.moving_shapes import write_video
from tests.data_sets import write_data_set
from tests.forking import fork_command
from tganv2_tf.config import DataConfig
from tganv2_tf.data.manifest import Manifest
from tganv2_tf.errors import UserError, VideoError
from tganv2_tf.evaluation import samples
from tganv2_tf.evaluation.framing import FACES, Framing
from tganv2_tf.video_io.geometry import fit


@pytest.mark.parametrize("geometry", ["paper", "official"])
def test_files_are_the_clips_that_shards_of_them_give(tmp_path, geometry):
    draw = np.random.default_rng(0)
    (tmp_path / "videos").mkdir()
    for number in range(3):
        write_video(tmp_path / "videos" / f"{number}.avi", draw.integers(0, 256, (16, 48, 64, 3), np.uint8))
    flags = [f"--video_dir={tmp_path / 'videos'}", f"--output_dir={tmp_path / 'data'}", "--resolution=16"]
    flags += [f"--geometry={geometry}", "--encoding=png", "--num_workers=1"]
    result = fork_command("data_prep.video_folder", *flags)
    assert result.returncode == 0, result.stderr
    manifest = Manifest.load(tmp_path / "data")
    framing = Framing.from_manifest(manifest)
    assert framing == Framing(16, geometry)

    data = DataConfig(str(tmp_path / "data"), flip=False)
    paths = samples.list_videos(str(tmp_path / "videos"))
    found = np.concatenate(list(samples.folder_batches(paths, 2, "paper", framing)))
    assert found.shape == (3, 16, 16, 16, 3)
    if geometry == "paper":
        real = next(samples.shard_batches(manifest, data, 0, 3)).numpy()
        by_first_pixel = [sorted(clips.tolist(), key=lambda clip: clip[0][0][0]) for clips in (found, real)]
        np.testing.assert_array_equal(*by_first_pixel)
    else:  # 16x21 pixels, from which the crop is taken
        again = np.concatenate(list(samples.folder_batches(paths, 3, "paper", framing)))
        np.testing.assert_array_equal(found, again, "whatever the batch size")
        for path, clip in zip(paths, found):
            whole = [fit(frame, "official", 16) for frame in samples._first_frames(path)]
            crops = np.stack([np.stack(whole)[:, :, left : left + 16] for left in range(6)])
            assert (crops == np.rint((clip + 1) * 127.5)).all(axis=(1, 2, 3, 4)).sum() == 1


def test_square_frames_are_taken_as_cropped_already():
    video = np.random.default_rng(0).integers(0, 256, (16, 32, 32, 3), np.uint8)
    halved = video.reshape(16, 16, 2, 16, 2, 3).mean(axis=(2, 4))
    for geometry in ("paper", "official", FACES):
        assert np.abs(Framing(16, geometry).fitted(video, 0) - halved).max() <= 0.5
        assert Framing(32, geometry).fitted(video, 0) is video


def test_arrays_are_cropped_too():
    video = np.zeros((1, 16, 4, 6, 3), np.uint8)
    video[:, :, :, 1:5] = 255  # the centre square
    batch = next(samples.array_batches(video, 4, "paper", Framing(4, "paper")))
    np.testing.assert_array_equal(batch, np.ones((1, 16, 4, 4, 3)))


def test_faces_cannot_be_cropped_here(tmp_path):
    with pytest.raises(VideoError, match="6x4 pixels, but the real videos are square face crops"):
        Framing(4, FACES).fitted(np.zeros((16, 4, 6, 3), np.uint8), 0)
    write_video(tmp_path / "a.avi", np.zeros((16, 16, 32, 3), np.uint8))
    with pytest.raises(UserError, match=r"a\.avi: frames of 32x16 pixels.*--clips_dir"):
        list(samples.folder_batches([tmp_path / "a.avi"], 4, "paper", Framing(4, FACES)))
    with pytest.raises(UserError, match=r"^videos\[0\]: frames of 6x4 pixels"):
        list(samples.array_batches(np.zeros((1, 16, 4, 6, 3), np.uint8), 4, "paper", Framing(4, FACES)))


def test_what_manifests_say(tmp_path):
    made = write_data_set(tmp_path, [16])
    for options, expected in (
        ({"geometry": "official"}, "official"),
        ({"geometry": "paper", "face_box": False, "face_margin": 0.3}, "paper"),
        ({"geometry": "paper", "face_box": True, "face_margin": 0.3}, FACES),
        ({"box": "smoothed"}, FACES),
        ({}, "paper"),
    ):
        assert Framing.from_manifest(dataclasses.replace(made, options=options)) == Framing(16, expected)
    assert Framing.from_manifest(dataclasses.replace(made, width=21)) == Framing(16, "official"), "of another program"


def test_frames_of_which_no_crop_is_known_are_told_once(tmp_path, caplog):
    videos = np.zeros((3, 16, 16, 32, 3), np.uint8)
    assert next(samples.array_batches(videos, 4, "paper")).shape == (3, 16, 16, 32, 3)
    assert [record.message for record in caplog.records] == [
        "videos[0]: 32x16 pixels are squeezed to a square; set --data_dir to crop them like the real videos."
    ]
