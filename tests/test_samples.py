"""Sources of scored videos: their frames, numbers and batches."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from data_prep.moving_shapes import write_video
from tests.data_sets import write_data_set
from tganv2_tf.config import DataConfig
from tganv2_tf.data.manifest import Manifest, folder_checksum
from tganv2_tf.errors import ConfigError, UserError
from tganv2_tf.evaluation import samples
from tganv2_tf.models.latents import latents_from_seeds


def test_a_stream_gives_as_many_as_are_asked_for_and_loses_none():
    stream = samples.Rebatcher(iter([tf.range(3), tf.range(3, 6), tf.range(6, 8)]))
    taken = [np.concatenate(list(stream.take(count))).tolist() for count in (2, 2, 3)]
    assert taken == [[0, 1], [2, 3], [4, 5, 6]]
    assert np.concatenate(list(stream.take(5))).tolist() == [7], "the end comes early"
    assert list(stream.take(5)) == []


def first(batches, count):
    return np.concatenate(list(samples.Rebatcher(batches).take(count)))


def test_classes_take_turns_whatever_the_batch_size():
    for size in (2, 5):
        videos = first(samples.generator_batches(lambda z, labels: 0.1 * tf.cast(labels, tf.float32), 4, 7, size, 3), 8)
        np.testing.assert_allclose(videos, [0, 0.1, 0.2, 0, 0.1, 0.2, 0, 0.1], atol=1e-7)


def test_latents_do_not_depend_on_the_batch_size():
    def sample(z, labels):
        assert labels is None
        return 3.0 * z

    one, many = (first(samples.generator_batches(sample, 4, 7, size), 10) for size in (1, 4))
    np.testing.assert_array_equal(one, many)
    expected = latents_from_seeds(tf.constant([(7 << 32) + i for i in range(10)], tf.int64), 4)
    np.testing.assert_array_equal(one, np.clip(3.0 * expected, -1, 1))
    assert (np.abs(one) == 1).any() and (np.abs(one) < 1).any(), "clipped, as the authors do"
    truncated = first(samples.generator_batches(sample, 4, 7, 4, truncation=0.5), 10)
    np.testing.assert_allclose(truncated, np.clip(1.5 * expected, -1, 1), rtol=1e-6)
    other = first(samples.generator_batches(sample, 4, 8, 4), 10)
    assert not np.isin(other[np.abs(other) < 1], one).any(), "another seed has other latents"


def write_grey(path, values, width=16):
    """Returns one grey frame per value."""
    frames = np.broadcast_to(np.array(values, np.uint8)[:, None, None, None], (len(values), 16, width, 3))
    write_video(path, frames)


def test_the_first_frames_of_video_files_in_the_order_of_their_paths(tmp_path):
    (tmp_path / "a").mkdir()
    write_grey(tmp_path / "b.avi", range(100, 120))
    write_grey(tmp_path / "a" / "z.avi", range(16))
    write_grey(tmp_path / "c.avi", range(50, 70), width=32)
    (tmp_path / "notes.txt").write_text("no video")
    paths = samples.list_videos(str(tmp_path))
    assert [path.name for path in paths] == ["z.avi", "b.avi", "c.avi"]
    batches = [batch.numpy() for batch in samples.folder_batches(paths, 8, "paper")]
    assert [batch.shape for batch in batches] == [(2, 16, 16, 16, 3), (1, 16, 16, 32, 3)], "a batch holds one size"
    np.testing.assert_allclose(batches[0][0, :, 0, 0, 0], np.arange(16) / 127.5 - 1, atol=1.5 / 127.5)
    np.testing.assert_allclose(batches[0][1, :, 4, 4, 1], np.arange(100, 116) / 127.5 - 1, atol=1.5 / 127.5)
    official = next(samples.folder_batches(paths, 8, "official")).numpy()
    np.testing.assert_allclose((official * 128 + 128), np.rint((batches[0] + 1) * 127.5), atol=1e-4)
    assert [len(batch) for batch in samples.folder_batches(paths[:2], 1, "paper")] == [1, 1]


def test_folders_are_walked_as_data_prep_walks(tmp_path):
    """Links are followed, also in loops; hidden files and folders, such as a notebook's copies, are ignored."""
    (tmp_path / "elsewhere").mkdir()
    for folder in ("", "a", ".ipynb_checkpoints"):
        (tmp_path / "videos" / folder).mkdir(parents=True, exist_ok=True)
    for name in ("videos/a/a.avi", "videos/.ipynb_checkpoints/a.avi", "videos/.b.avi", "elsewhere/c.avi"):
        (tmp_path / name).touch()
    (tmp_path / "videos" / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "videos" / "a" / "loop").symlink_to(tmp_path / "videos")
    paths = samples.list_videos(str(tmp_path / "videos"))
    assert [str(path.relative_to(tmp_path / "videos")) for path in paths] == ["a/a.avi", "linked/c.avi"]
    before = folder_checksum(tmp_path / "videos", paths)
    (tmp_path / "videos" / ".b.avi").write_bytes(b"not scored")
    assert folder_checksum(tmp_path / "videos", paths) == before
    (tmp_path / "elsewhere" / "c.avi").write_bytes(b"scored")
    assert folder_checksum(tmp_path / "videos", paths) != before


def test_videos_that_cannot_be_scored_are_named(tmp_path):
    with pytest.raises(UserError, match="none: no such folder"):
        samples.list_videos(str(tmp_path / "none"))
    with pytest.raises(UserError, match="no videos in it or below"):
        samples.list_videos(str(tmp_path))
    write_grey(tmp_path / "short.avi", range(15))
    with pytest.raises(UserError, match=r"short\.avi: 15 frames; the scores need 16"):
        list(samples.folder_batches(samples.list_videos(str(tmp_path)), 4, "paper"))
    (tmp_path / "broken.mp4").write_bytes(b"broken")
    with pytest.raises(UserError, match=r"broken\.mp4: it cannot be opened"):
        list(samples.folder_batches(samples.list_videos(str(tmp_path)), 4, "paper"))


def test_real_clips_have_sixteen_frames_of_every_video_before_any_comes_again(tmp_path):
    write_data_set(tmp_path, [20, 16, 15, 30, 18], num_shards=1)
    data = DataConfig(str(tmp_path), flip=False)
    clips = first(samples.shard_batches(Manifest.load(tmp_path), data, 0, 3), 8)
    assert clips.shape == (8, 16, 16, 16, 3)
    values = np.rint((clips[:, :, 0, 0] + 1) * 127.5).astype(int)
    assert (np.diff(values[..., 1], axis=1) == 1).all()
    assert sorted(values[:4, 0, 0]) == sorted(values[4:, 0, 0]) == [0, 10, 30, 40]
    with pytest.raises(ConfigError, match="num_frames=16"):
        next(samples.shard_batches(Manifest.load(tmp_path), DataConfig(str(tmp_path), frame_step=2), 0, 3))
