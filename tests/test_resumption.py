"""Exact resumption: runs that stop, fail or find damage end bit-identical to an uninterrupted run."""

from __future__ import annotations

import os
import pathlib
import random
import shutil
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from absl import logging

from tests.conftest import TINY_FLAGS, tiny_config
from tests.data_sets import write_data_set
from tests.forking import fork_command
from tests.test_tganv2 import batch, run_step
from tganv2_tf.errors import UserError
from tganv2_tf.runs import checkpoints_in, latest_checkpoint
from tganv2_tf.storage import files
from tganv2_tf.training import callbacks, loop
from tganv2_tf.training.checkpoints import CheckpointFolder
from tganv2_tf.training.loop import make_model

# A model of one level, whose steps are faster.
ONE_LEVEL = ["--frame_strides=", "--batch_strides=", "--up_channels=4,4,4", "--discriminator_channels=4"]


def tensors(prefix: str) -> dict[str, bytes]:
    """Returns the bytes of every value in a checkpoint."""
    reader = tf.train.load_checkpoint(prefix)
    names = [name for name in reader.get_variable_to_shape_map() if name.endswith("VARIABLE_VALUE")]
    return {name: np.asarray(reader.get_tensor(name)).tobytes() for name in names}


@pytest.fixture
def eagerly() -> Any:
    """Runs steps eagerly: tracing takes longer than a few steps."""
    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)


@pytest.mark.parametrize(
    "how",
    [
        ["--n_dis=2", "--r1_every_steps=2", "--windows_per_record=2", "--learning_rate_decay=linear"],
        ["--conditional", "--diffaugment=color,translation,cutout", "--nospectral_norm", *ONE_LEVEL],
        ["--replicas=2", "--skip_corrupt_records", "--r1_weight=0", *ONE_LEVEL],
    ],
)
def test_a_run_that_is_taken_up_ends_with_the_same_bits(tmp_path: pathlib.Path, how: list[str]) -> None:
    write_data_set(tmp_path / "data", [8, 3, 5, 9, 4, 8, 2, 6], labels=("a", "b", "c"), num_shards=3)
    replicas, options = ([how[0]], how[1:]) if how[0].startswith("--replicas") else ([], how)
    command = ["tests.quickly", *replicas, "tganv2_tf.train", *TINY_FLAGS, f"--data_dir={tmp_path}/data", *options]
    command += ["--global_batch_size=4", "--shuffle_buffer=5", "--train_steps=2", "--checkpoint_every_steps=1"]
    command += ["--preview_every_steps=0", "--log_every_steps=1", "--deterministic"]
    whole, taken_up = tmp_path / "whole", tmp_path / "taken_up"
    result = fork_command(*command, f"--model_dir={whole}")
    assert result.returncode == 0, result.stderr
    # As if it had been killed after its first step: later files do not exist.
    shutil.copytree(whole, taken_up)
    for file in taken_up.glob("checkpoints/ckpt-2.*"):
        file.unlink()
    result = fork_command(*command, f"--model_dir={taken_up}")
    assert result.returncode == 0, result.stderr
    assert "Resuming from step 1" in result.stderr
    expected, found = (tensors(f"{folder}/checkpoints/ckpt-2") for folder in (whole, taken_up))
    assert len(expected) > 100
    assert found == expected
    assert tensors(f"{whole}/checkpoints/ckpt-1") != expected, "steps change something"


@pytest.fixture(scope="module")
def two_checkpoints(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, pathlib.Path]:
    """A tiny model, and a folder with its checkpoints of the first and the second step."""
    folder = tmp_path_factory.mktemp("run")
    model = make_model(tiny_config(model_dir=str(folder)))
    for step in (1, 2):
        run_step(model, batch(model.config))
        CheckpointFolder(model).save(step)
    return model, folder


def test_a_damaged_checkpoint_is_noticed_and_passed_over(
    two_checkpoints: tuple[Any, pathlib.Path], tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, source = two_checkpoints
    draw = random.Random(0)
    said: list[str] = []
    monkeypatch.setattr(logging, "warning", lambda text, *words: said.append(text % words))
    shutil.copytree(source / "checkpoints", tmp_path, dirs_exist_ok=True)
    checkpoints = CheckpointFolder(model, str(tmp_path))
    assert checkpoints.restore_newest() == f"{tmp_path}/ckpt-2" and not said
    second = [variable.numpy() for variable in model.variables]
    for attempt in range(24):
        file = tmp_path / ("ckpt-2.index" if attempt % 4 == 0 else "ckpt-2.data-00000-of-00001")
        content = bytearray(file.read_bytes())
        position = draw.randrange(len(content))
        if attempt % 3 == 0:
            file.write_bytes(content[:position])
        else:
            content[position] ^= 1 << draw.randrange(8)
            file.write_bytes(content)
        said.clear()
        restored = checkpoints.restore_newest()
        if restored == f"{tmp_path}/ckpt-1":
            assert len(said) == 1 and said[0].startswith(f"{tmp_path}/ckpt-2: the checkpoint cannot be read: ")
            assert int(model.step.numpy()) == 1
        else:  # a byte that is never read
            for variable, value in zip(model.variables, second):
                np.testing.assert_array_equal(variable.numpy(), value)
        shutil.copyfile(source / "checkpoints" / file.name, file)
        assert attempt % 3 or restored == f"{tmp_path}/ckpt-1", "what is cut is never whole"
    for file in tmp_path.glob("ckpt-*.index"):
        file.write_bytes(b"")
    with pytest.raises(UserError, match=f"^{tmp_path}: none of its 2 checkpoints can be read"):
        checkpoints.restore_newest()


def test_a_checkpoint_with_numbers_that_are_not_finite_is_no_good_one(
    two_checkpoints: tuple[Any, pathlib.Path], tmp_path: pathlib.Path
) -> None:
    model, source = two_checkpoints
    shutil.copytree(source / "checkpoints", tmp_path, dirs_exist_ok=True)
    checkpoints = CheckpointFolder(model, str(tmp_path))
    variable = model.discriminator.trainable_variables[-1]
    variable.assign(variable * np.nan)
    checkpoints.save(3)
    assert checkpoints.restore_newest() == f"{tmp_path}/ckpt-2"


def test_an_old_checkpoint_goes_only_when_the_new_one_is_on_the_disk(
    two_checkpoints: tuple[Any, pathlib.Path], tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, source = two_checkpoints
    shutil.copytree(source / "checkpoints", tmp_path, dirs_exist_ok=True)
    (tmp_path / "ckpt-9.index").touch()  # damaged: the run returned to an earlier one
    (tmp_path / "ckpt-3_temp").mkdir()
    (tmp_path / "ckpt-3.data-00000-of-00001").write_bytes(b"half of a checkpoint")
    happened: list[tuple[str, str]] = []
    fsync, remove = os.fsync, os.remove

    def watched_fsync(descriptor: Any) -> None:
        number = descriptor if isinstance(descriptor, int) else descriptor.fileno()
        happened.append(("sync", os.path.basename(os.readlink(f"/proc/self/fd/{number}"))))
        fsync(descriptor)

    def watched_remove(path: Any, **how: Any) -> None:
        happened.append(("remove", os.path.basename(path)))
        remove(path, **how)

    monkeypatch.setattr(os, "fsync", watched_fsync)
    monkeypatch.setattr(os, "remove", watched_remove)
    checkpoints = CheckpointFolder(model, str(tmp_path))
    checkpoints.keep = 1
    write, in_the_end, names = checkpoints._write, os.replace, list[str]()

    def watched_write(prefix: tf.Tensor) -> None:
        write(prefix)
        assert "ckpt-4.index" not in os.listdir(tmp_path), "a kill would leave part of a checkpoint with its name"

    def watched_replace(source: Any, target: Any) -> None:
        names.append(os.path.basename(target))
        in_the_end(source, target)

    monkeypatch.setattr(checkpoints, "_write", watched_write)
    monkeypatch.setattr(os, "replace", watched_replace)
    checkpoints.save(4)
    assert names[:2] == ["ckpt-4.data-00000-of-00001", "ckpt-4.index"]
    synced = [happened.index(("sync", name)) for name in ("ckpt-4.data-00000-of-00001", "ckpt-4.index", tmp_path.name)]
    gone = [happened.index(("remove", f"ckpt-{step}.index")) for step in (1, 2)]
    assert max(synced) < min(gone)
    assert checkpoints_in(str(tmp_path)) == [f"{tmp_path}/ckpt-4"]
    assert sorted(os.listdir(tmp_path)) == ["checkpoint", "ckpt-4.data-00000-of-00001", "ckpt-4.index"]
    assert tf.train.latest_checkpoint(str(tmp_path)) == f"{tmp_path}/ckpt-4"


def test_a_checkpoint_of_other_workers_begins_a_new_order_of_the_data(
    two_checkpoints: tuple[Any, pathlib.Path], tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, _ = two_checkpoints
    said: list[str] = []
    monkeypatch.setattr(logging, "warning", lambda text, *words: said.append(text % words))
    CheckpointFolder(model).restore_newest()
    assert model.data_position.numpy().tolist() == [8], "two steps of four clips"
    kept = model.data_position
    model.data_position = tf.Variable([0, 0], dtype=tf.int64)
    CheckpointFolder(model).restore_newest()
    assert model.data_position.numpy().tolist() == [4, 4]
    assert "the order of the data changes" in said[0]
    model.data_position = kept


def failing(run: Any, step: int, times: int, error: Exception) -> Any:
    """Returns an `on_step_end` of a callback that raises an error at a step, a given number of times."""
    left = [times]

    def on_step_end(self: Any, at: int, logs: dict[str, Any]) -> None:
        if at == step and left[0]:
            left[0] -= 1
            raise error
        run(self, at, logs)

    return on_step_end


def one_run(folder: pathlib.Path, name: str, **train: Any) -> dict[str, bytes]:
    """The last checkpoint of a run of three steps."""
    config = tiny_config(
        {"frame_strides": (), "batch_strides": (), "up_channels": (4, 4, 4), "discriminator_channels": (4,)},
        data={"data_dir": str(folder / "data"), "shuffle_buffer": 5},
        model_dir=str(folder / name),
        distribution="one_device",
        train_steps=3,
        checkpoint_every_steps=2,
        preview_every_steps=0,
        r1_weight=0.0,
        **train,
    )
    assert loop.train(config) == 0
    return tensors(str(folder / name / "checkpoints" / "ckpt-3"))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[pathlib.Path, dict[str, bytes]]:
    """A folder with data, and the last checkpoint of a run on these."""
    folder = tmp_path_factory.mktemp("undisturbed")
    write_data_set(folder / "data", [8] * 6)
    tf.config.run_functions_eagerly(True)
    try:
        return folder, one_run(folder, "undisturbed")
    finally:
        tf.config.run_functions_eagerly(False)


def test_losses_that_are_not_finite_send_a_run_back_with_other_random_numbers(
    undisturbed: tuple[pathlib.Path, dict[str, bytes]], monkeypatch: pytest.MonkeyPatch, eagerly: None
) -> None:
    folder, expected = undisturbed
    error = callbacks.NotFiniteError("step 3: generator_loss=nan is not finite")
    check = callbacks.StopOnNonFinite.on_step_end
    monkeypatch.setattr(callbacks.StopOnNonFinite, "on_step_end", failing(check, 3, 2, error))
    with pytest.raises(UserError, match="step 3: generator_loss=nan"):
        one_run(folder, "disturbed", max_restarts=1)
    monkeypatch.setattr(callbacks.StopOnNonFinite, "on_step_end", failing(check, 3, 2, error))
    found = one_run(folder, "again", max_restarts=2)
    restarts = "restarts/.ATTRIBUTES/VARIABLE_VALUE"
    assert (int.from_bytes(expected[restarts], "little"), int.from_bytes(found[restarts], "little")) == (0, 2)
    assert found.keys() == expected.keys()
    assert sum(found[name] != expected[name] for name in found) > 30
    newest = latest_checkpoint(folder / "disturbed")
    assert newest == f"{folder}/disturbed/checkpoints/ckpt-2", "nothing later was saved"


def test_data_that_are_away_for_a_moment_change_nothing(
    undisturbed: tuple[pathlib.Path, dict[str, bytes]], monkeypatch: pytest.MonkeyPatch, eagerly: None
) -> None:
    folder, expected = undisturbed
    monkeypatch.setattr(loop.storage.retries, "BACK_OFF", (0.0, 0.0))
    monkeypatch.setattr(loop.storage, "is_remote", lambda path: str(path).endswith("data"))
    monkeypatch.setattr(loop.storage, "is_transient", lambda error: "503" in str(error))
    run = callbacks.StopOnNonFinite.on_step_end
    away = tf.errors.UnavailableError(None, None, "503 Slow Down")
    monkeypatch.setattr(callbacks.StopOnNonFinite, "on_step_end", failing(run, 1, 2, away))
    assert one_run(folder, "for a moment") == expected
    monkeypatch.setattr(callbacks.StopOnNonFinite, "on_step_end", failing(run, 1, 3, away))
    with pytest.raises(UserError, match="the run ended at step 1: "):
        one_run(folder, "for good")


def test_two_trainings_do_not_write_to_one_folder(tmp_path: pathlib.Path) -> None:
    write_data_set(tmp_path / "data", [8] * 6)
    config = tiny_config(data={"data_dir": str(tmp_path / "data")}, model_dir=str(tmp_path))
    with (
        files.locked(tmp_path / loop.LOCK, "a test"),
        pytest.raises(UserError, match=r"^--model_dir=.*: another process"),
    ):
        loop.train(config)
