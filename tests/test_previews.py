"""Previews in TensorBoard, with real clips next to them; they do not affect training."""

from __future__ import annotations

import dataclasses
import io
import pathlib
from collections.abc import Iterator
from typing import Any

import imageio.v3 as iio
import numpy as np
import pytest
import tensorflow as tf

from tests.conftest import tiny_config
from tests.data_sets import write_data_set
from tests.test_resumption import tensors
from tganv2_tf.config import Config
from tganv2_tf.data.manifest import Manifest
from tganv2_tf.training import loop, previews


@pytest.fixture(scope="module", autouse=True)
def without_graphs() -> Iterator[None]:
    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)


def config_of(folder: pathlib.Path, name: str, **train: Any) -> Config:
    data = {"data_dir": str(folder / "data"), "shuffle_buffer": 4}
    shown = {"num_previews": 2, "distribution": "one_device", "r1_weight": 0.0}
    model = {"frame_strides": (), "batch_strides": (), "up_channels": (4, 4, 4), "discriminator_channels": (4,)}
    return tiny_config(model, data, model_dir=str(folder / name), **{**shown, **train})


def events_of(run: pathlib.Path) -> list[tuple[int, str, Any]]:
    return [
        (event.step, value.tag, value.tensor)
        for path in sorted(run.glob("events/*.v2"))
        for event in tf.compat.v1.train.summary_iterator(str(path))
        for value in event.summary.value
    ]


def test_real_clips_are_beside_the_first_previews_and_change_nothing(
    tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_data_set(tmp_path / "data", [8, 3, 8, 9, 7, 8], num_shards=2)
    often = {f"{what}_every_steps": 1 for what in ("log", "preview", "checkpoint")}
    for steps in (2, 3):  # the second time it resumes at step 2
        assert loop.train(config_of(tmp_path, "often", train_steps=steps, learning_rate_decay="none", **often)) == 0
    never = dict.fromkeys(often, 0)
    assert loop.train(config_of(tmp_path, "never", train_steps=3, learning_rate_decay="none", **never)) == 0

    too_short = "1 of 6 videos are shorter than the 4 frames of a clip and are never used."
    assert sum(too_short in record.getMessage() for record in caplog.records) == 3, "each start says it"

    shown = events_of(tmp_path / "often")
    assert [step for step, tag, _ in shown if tag == "samples/level_1"] == [1, 2, 3]
    ((step, real),) = ((step, tensor) for step, tag, tensor in shown if tag == "samples/real")
    assert step == 1
    gif = iio.imread(io.BytesIO(real.string_val[2]), extension=".gif", plugin="pillow")
    assert gif.shape == (4, 16, 2 * 16 + 2, 3), "two clips of all frames, in full resolution"
    numbers = set()
    for clip in (gif[:, :, :16].astype(int), gif[:, :, 18:].astype(int)):
        (number,) = np.unique(clip[..., 0])
        numbers.add(int(number))
        np.testing.assert_array_equal(clip[1:, ..., 1] - clip[:-1, ..., 1], 1)
        columns = clip[0, 0, :, 2].tolist()
        assert columns in (list(range(16)), list(range(15, -1, -1))), "mirrored, or not"
    assert len(numbers) == 2 and numbers <= {0, 20, 30, 40, 50}, "of two videos, none of which is the short one"

    tags = {tag for _, tag, _ in events_of(tmp_path / "never")}
    assert "config" in tags and not any(tag.startswith(("train/", "samples/")) for tag in tags)
    assert [path.name for path in (tmp_path / "never" / "checkpoints").glob("*.index")] == ["ckpt-3.index"]
    expected, found = (tensors(f"{tmp_path / name}/checkpoints/ckpt-3") for name in ("never", "often"))
    assert len(expected) > 50
    assert found == expected


def test_only_the_first_shards_are_read(tmp_path: pathlib.Path) -> None:
    write_data_set(tmp_path / "data", [8] * 6, num_shards=3)
    manifest = Manifest.load(tmp_path / "data")
    (tmp_path / "data" / manifest.shards[2].file).unlink()
    writer = tf.summary.create_file_writer(str(tmp_path / "run" / "events"))
    with writer.as_default(7):
        previews.show_real_clips(manifest, config_of(tmp_path, "run"), 4)
    writer.close()
    ((step, tag, _),) = events_of(tmp_path / "run")
    assert (step, tag) == (7, "samples/real")


def test_clips_that_cannot_be_read_end_no_run(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = write_data_set(tmp_path / "data", [8])
    config, said = config_of(tmp_path, "run"), []
    monkeypatch.setattr(previews.logging, "warning", lambda text, *words: said.append(text % words))
    for shard in manifest.shards:
        path = tmp_path / "data" / shard.file
        path.write_bytes(path.read_bytes()[:-9])
    previews.show_real_clips(manifest, config, 1)
    skipping = dataclasses.replace(config, data=dataclasses.replace(config.data, skip_corrupt_records=True))
    previews.show_real_clips(manifest, skipping, 1)
    assert len(said) == 2 and all(line.startswith("No real clips are shown beside the previews: ") for line in said)
