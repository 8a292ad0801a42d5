"""From shards to batches: windows, frames, pixels and their order."""

import collections
import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from tests.conftest import tiny_config
from tests.data_sets import encode_frame, flip_byte, write_data_set
from tganv2_tf.data import pipeline
from tganv2_tf.data.checks import load_manifest
from tganv2_tf.data.clips import cut_windows, decode_clip, normalize
from tganv2_tf.data.labelled import labelled_clips
from tganv2_tf.data.pipeline import START, StreamPosition
from tganv2_tf.data.reading import RecordPartition
from tganv2_tf.errors import ConfigError, UserError


def elements(config, count, batch_size=4, n_dis=1, seed=0, first=START):
    """Returns the first elements as lists of numpy levels, and the slots used."""
    manifest = load_manifest(config.model, config.data)
    dataset = pipeline.training_dataset(manifest, config.model, config.data, batch_size, n_dis, seed, first)
    return [([level.numpy() for level in levels], int(used[0])) for levels, _, used in dataset.take(count)]


def batches(*args, **kwargs):
    """Returns the levels of `elements`."""
    return [levels for levels, _ in elements(*args, **kwargs)]


def pixels(level):
    """Converts float [-1, 1] to the stored bytes."""
    return np.rint((level + 1) * 127.5).astype(int)


@pytest.fixture
def config(tmp_path):
    write_data_set(tmp_path, [9, 4, 12, 7, 4, 30, 5])
    return tiny_config(data={"data_dir": str(tmp_path), "flip": False, "shuffle_buffer": 4})


def test_normalisation_by_hand():
    values = tf.constant([0, 128, 255], tf.uint8)
    np.testing.assert_allclose(normalize(values), [-1, 128 / 127.5 - 1, 1], atol=1e-6)
    np.testing.assert_allclose(normalize(values, "official"), [-1, 0, 127 / 128])


def test_batches_are_pyramids_of_windows(config):
    for first, second in batches(config, 10, n_dis=2):
        assert first.shape == (2, 4, 4, 8, 8, 3)
        assert second.shape == (2, 2, 2, 16, 16, 3)
        video, time = pixels(first)[..., 0, 0, 0], pixels(first)[..., 0, 0, 1]
        assert (video == video[:, :, :1]).all(), "a clip comes from one video"
        assert (np.diff(time, axis=-1) == 1).all(), "of consecutive frames"
        deeper = pixels(second)[..., 0, 0, 1]
        assert (pixels(second)[..., 0, 0, 0] == video[:, ::2, :2]).all(), "the second level has every second clip"
        assert ((deeper - time[:, ::2, :1] - [0, 2]) >= 0).all()
        assert ((deeper - time[:, ::2, :1] - [0, 2]) <= 1).all(), "and every second frame, from the first or second on"


def test_every_start_that_fits_is_drawn_and_no_other(tmp_path):
    write_data_set(tmp_path, [7], num_shards=1)
    config = tiny_config(data={"data_dir": str(tmp_path), "frame_step": 2, "shuffle_buffer": 1})
    windows = [pixels(level[0])[0, :, :, 0, 0, 1] for level in batches(config, 10)]
    starts = collections.Counter(np.concatenate(windows)[:, 0].tolist())
    # A window of 4 frames, 2 apart, spans 7: only start 0 fits, and a video exactly as long as the window is used.
    assert set(starts) == {0}
    assert (np.concatenate(windows) == [0, 2, 4, 6]).all()
    config = tiny_config(data={"data_dir": str(tmp_path), "shuffle_buffer": 1})
    windows = np.concatenate([pixels(level[0])[0, :, :, 0, 0, 1] for level in batches(config, 30)])
    starts = collections.Counter(windows[:, 0].tolist())
    assert set(starts) == {0, 1, 2, 3}
    assert min(starts.values()) > 15, "about a quarter of 120 each"


def test_each_video_once_an_epoch_and_short_ones_never(tmp_path):
    write_data_set(tmp_path, [4, 3, 4, 4, 4, 4, 4, 4, 4])
    config = tiny_config(data={"data_dir": str(tmp_path), "flip": False, "shuffle_buffer": 3})
    seen = [v for level in batches(config, 16) for v in (pixels(level[0])[0, :, 0, 0, 0, 0] // 10).tolist()]
    counts = collections.Counter(seen)
    assert 1 not in counts
    # 64 draws of 8 videos: 8 epochs, except those still in the shuffle buffer and in the read-ahead of the shards.
    assert all(abs(count - 8) <= 1 for count in counts.values()), counts
    assert seen[:8] != seen[8:16], "another order every epoch"


def test_flipping_mirrors_about_half_of_the_clips(config):
    flipping = tiny_config(data={"data_dir": config.data.data_dir, "shuffle_buffer": 4})
    columns = np.concatenate([pixels(levels[1])[0, :, 0, 0, :, 2] for levels in batches(flipping, 30)])
    mirrored = (columns == np.arange(16)[::-1]).all(1)
    straight = (columns == np.arange(16)).all(1)
    assert (mirrored | straight).all()
    assert 0.3 < mirrored.mean() < 0.7
    assert (pixels(batches(config, 1)[0][1])[0, :, 0, 0, :, 2] == np.arange(16)).all()


def test_wide_frames_are_cropped_within_the_authors_margins(tmp_path):
    write_data_set(tmp_path, [4], height=64, width=80, num_shards=1)
    config = tiny_config(
        model={"resolution": 64, "up_channels": (4, 4, 4, 4)},
        data={"data_dir": str(tmp_path), "flip": False, "shuffle_buffer": 1},
    )
    lefts = np.concatenate([pixels(levels[1])[0, :, 0, 0, 0, 2] for levels in batches(config, 60)])
    # 16 pixels: a margin of 1 on either side leaves 1..15, like 4..60 of the authors' 64.
    assert set(lefts) == set(range(1, 16))


def test_a_seed_gives_the_same_batches_and_another_other_ones(config):
    first, again, other = (batches(config, 3, seed=seed) for seed in (1, 1, 2))
    for a, b in zip(first, again):
        for x, y in zip(a, b):
            np.testing.assert_array_equal(x, y)
    assert any((a[0] != b[0]).any() for a, b in zip(first, other))


@pytest.mark.parametrize(("windows", "skip_corrupt_records"), [(1, False), (3, True)])
def test_a_data_set_from_the_middle_gives_what_one_from_the_beginning_gives_from_there_on(
    tmp_path, windows, skip_corrupt_records
):
    # Of 23 records in three shards some are too short, and one is damaged if that is allowed.
    write_data_set(tmp_path, [4, 9, 3, 5, 2, 8, 4, 1, 7, 6, 4, 12, 5, 3, 4, 4, 9, 4, 6, 4, 5, 4, 3], num_shards=3)
    if skip_corrupt_records:
        flip_byte(tmp_path / "test-train-00001-of-00003.tfrecord", 4)
    data = {"shuffle_buffer": 10, "windows_per_record": windows, "skip_corrupt_records": skip_corrupt_records}
    config = tiny_config(data={"data_dir": str(tmp_path), **data})
    all_at_once = elements(config, 20, n_dis=2)
    slot = 0
    for batch, (_, used) in enumerate(all_at_once):
        if batch in (1, 8, 15):
            again = elements(config, 3, n_dis=2, first=StreamPosition(batch, slot))
            for (expected, slots), (found, used_again) in zip(all_at_once[batch : batch + 3], again):
                assert slots == used_again
                for a, b in zip(expected, found):
                    np.testing.assert_array_equal(a, b)
        slot += used
    assert slot > 20 * 8, "slots of records that are too short or damaged are passed over"


def test_only_the_frames_of_the_window_are_decoded(tmp_path):
    # Frames outside the window are not valid images.
    good = encode_frame(np.zeros((16, 16, 3), np.uint8))
    frames = tf.constant([b"not an image"] * 3 + [good] * 4 + [b"not an image"] * 3)
    clip = decode_clip(frames[3:7], 4, 16, 16)
    assert clip.shape == (4, 16, 16, 3)
    windows = cut_windows(tf.constant([str(i).encode() for i in range(10)]), 4, 4, 2, tf.constant([0, 0]))
    numbers = windows.numpy().astype(int)
    assert (np.diff(numbers) == 2).all() and sorted(numbers[:, 0]) == [0, 1, 2, 3]
    assert cut_windows(frames, 3, 4, 3, tf.constant([0, 0])).shape == (3, 4), "10 frames are one window of 10"
    assert cut_windows(frames[:9], 3, 4, 3, tf.constant([0, 0])).shape == (0, 4), "9 are none"


def starts_in(level):
    """Returns the first frames of the clips of a video whose frames are numbered in green."""
    return pixels(level)[0, :, 0, 0, 0, 1].tolist()


def test_several_windows_of_a_record_have_different_starts(tmp_path):
    write_data_set(tmp_path, [8], num_shards=1)
    for count in (2, 5, 7):
        config = tiny_config(data={"data_dir": str(tmp_path), "shuffle_buffer": 1, "windows_per_record": count})
        starts = np.concatenate([starts_in(level[0]) for level in batches(config, 7 * count)])
        for of_one in starts.reshape(-1, count):
            # A video of 8 frames has 5 windows of 4: none is repeated while others remain.
            assert len(set(of_one)) == min(count, 5)
        assert set(starts) == {0, 1, 2, 3, 4}
        assert len({tuple(of_one) for of_one in starts.reshape(-1, count)}) > 5, "others in each epoch"


def test_an_epoch_has_so_many_windows_of_each_record_and_the_buffer_parts_them(tmp_path):
    write_data_set(tmp_path, [9] * 8 + [3])
    config = tiny_config(data={"data_dir": str(tmp_path), "shuffle_buffer": 24, "windows_per_record": 3})
    seen = [v for level in batches(config, 36) for v in (pixels(level[0])[0, :, 0, 0, 0, 0] // 10).tolist()]
    counts = collections.Counter(seen)
    # 144 clips are 6 epochs of 3 clips of 8 videos; 24 more are in the buffer, the ninth video is too short.
    assert set(counts) == set(range(8)) and all(abs(count - 18) <= 6 for count in counts.values()), counts
    neighbours = sum(a == b for a, b in zip(seen, seen[1:])) / len(seen)
    assert neighbours < 0.35, "unshuffled, two of three clips would follow one of their own video"


def test_the_blocks_that_are_shuffled_hold_windows_and_no_whole_records(config):
    share = RecordPartition.of(load_manifest(config.model, config.data), config.data.data_dir)
    for count in (1, 3):
        data = dataclasses.replace(config.data, windows_per_record=count)
        slots = pipeline._slot_stream(share, config.model, data, np.arange(3), 0)
        assert slots.element_spec[-1] == tf.TensorSpec([4], tf.string)
        assert {len(frames) for *_, frames in slots.take(20).as_numpy_iterator()} == {4}


@pytest.mark.parametrize("tolerant", [False, True])
def test_labels_are_those_of_the_clips(tmp_path, tolerant):
    write_data_set(tmp_path, [6, 9, 5, 30, 7, 8, 9], labels=["a", "b", "c"])
    config = tiny_config(data={"data_dir": str(tmp_path), "shuffle_buffer": 4, "skip_corrupt_records": tolerant})
    manifest = load_manifest(config.model, config.data)
    dataset = pipeline.training_dataset(manifest, config.model, config.data, 4, 2, 0)
    seen = set()
    for (first, _), labels, _ in dataset.take(6):
        videos = pixels(first.numpy())[:, :, 0, 0, 0, 0] // 10  # [n_dis, N_1]
        np.testing.assert_array_equal(labels, videos % 3)  # as write_data_set labels them
        seen |= set(labels.numpy().ravel())
    assert seen == {0, 1, 2}


def test_conditional_models_need_labels(tmp_path):
    write_data_set(tmp_path / "labelled", [6, 9], labels=["a", "b"])
    write_data_set(tmp_path / "plain", [6, 9])
    for folder, model, message in (
        ("plain", {"conditional": True}, "--conditional: the videos in .* have fewer than two classes"),
        ("labelled", {"conditional": True, "num_classes": 3}, "--num_classes=3: .* has 2 classes; valid: 2 or 0"),
    ):
        config = tiny_config(model=model, data={"data_dir": str(tmp_path / folder)})
        with pytest.raises(ConfigError, match=message):
            load_manifest(config.model, config.data)


def test_a_record_without_a_label_ends_a_conditional_run(tmp_path):
    write_data_set(tmp_path, [6], num_shards=1)  # its label is -1
    config = tiny_config(model={"conditional": True, "num_classes": 2}, data={"data_dir": str(tmp_path)})
    manifest = pipeline.Manifest.load(tmp_path)
    dataset = pipeline.training_dataset(manifest, config.model, config.data, 4, 1, 0)
    with pytest.raises(tf.errors.InvalidArgumentError, match="record 0 has a label that is not in the manifest"):
        next(iter(dataset))


@pytest.mark.parametrize(
    ("model", "data", "message"),
    [
        ({}, {"data_dir": ""}, "--data_dir is missing"),
        ({"resolution": 32}, {}, "--resolution=32: the frames .* have 16x16 pixels; valid: 16"),
        ({}, {"frame_step": 20}, "no video in .* has the 61 frames"),
    ],
)
def test_data_that_do_not_fit_are_refused(config, model, data, message):
    changed = tiny_config(model=model, data={"data_dir": config.data.data_dir, **data})
    with pytest.raises(ConfigError, match=message):
        load_manifest(changed.model, changed.data)


def test_a_damaged_shard_is_an_error(config, tmp_path):
    shard = next(tmp_path.glob("*.tfrecord"))
    content = bytearray(shard.read_bytes())
    content[len(content) // 3] ^= 1
    shard.write_bytes(content)
    with pytest.raises((UserError, tf.errors.DataLossError)):
        batches(config, 30)
    shard.write_bytes(content[:-5])
    with pytest.raises(UserError, match=shard.name):
        load_manifest(config.model, config.data)


def labelled(config, seed=0, count=None, num_frames=4, **kwargs):
    manifest = load_manifest(config.model, config.data)
    clips = labelled_clips(manifest, config.data, num_frames, 16, seed, **kwargs)
    return [(clip.numpy(), int(label)) for clip, label in (clips.take(count) if count else clips)]


def test_labelled_clips_of_one_pass(tmp_path):
    write_data_set(tmp_path, [9, 4, 3, 12, 7], labels=("a", "b"))
    data = {"data_dir": str(tmp_path), "flip": False, "windows_per_record": 2}
    clips = labelled(tiny_config(data=data))
    videos = collections.Counter(int(clip[0, 0, 0, 0]) // 10 for clip, _ in clips)
    assert videos == {0: 2, 1: 2, 3: 2, 4: 2}, "two windows a record, none of the one that is too short"
    for clip, label in clips:
        assert clip.dtype == np.uint8 and clip.shape == (4, 16, 16, 3)
        assert label == int(clip[0, 0, 0, 0]) // 10 % 2
        assert (np.diff(clip[:, 0, 0, 1].astype(int)) == 1).all()
        assert (clip[0, 0, :, 2] == np.arange(16)).all(), "not mirrored"


def test_labelled_clips_are_those_of_the_seed_and_each_pass_has_its_own(tmp_path):
    write_data_set(tmp_path, [30, 40, 50, 60], labels=("a", "b"))
    config = tiny_config(data={"data_dir": str(tmp_path), "flip": True})
    starts = [[int(clip[0, 0, 0, 1]) for clip, _ in labelled(config, seed)] for seed in (0, 0, 1)]
    assert starts[0] == starts[1] != starts[2]
    clips = [clip for clip, _ in labelled(config, 0, count=32, endless=True)]
    endless = [int(clip[0, 0, 0, 1]) for clip in clips[:8]]
    assert sorted(endless[:4]) != sorted(endless[4:])
    mirrored = [bool(clip[0, 0, 0, 2] == 15) for clip in clips]
    assert 4 < sum(mirrored) < 28
