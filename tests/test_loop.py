"""Settings that may or may not change when a run is resumed, and error messages."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from tests.conftest import ONE_LEVEL, SHALLOW, tiny_config
from tests.data_sets import write_data_set
from tests.test_tganv2 import batch, run_step
from tganv2_tf.errors import ConfigError
from tganv2_tf.runs import record_config
from tganv2_tf.training import loop
from tganv2_tf.training.checkpoints import CheckpointFolder
from tganv2_tf.training.compatibility import check_run
from tganv2_tf.training.loop import make_model, reason


def test_the_flags_rate_wins_over_the_checkpoints(tmp_path):
    small: dict[str, Any] = {"model": ONE_LEVEL, "r1_weight": 0.0, "model_dir": str(tmp_path)}
    config = tiny_config(**small, learning_rate_decay="none", generator_learning_rate=1e-3)
    model = make_model(config)
    run_step(model, batch(config))
    CheckpointFolder(model).save(1)
    for decay, expected in (("none", 1e-5), ("linear", 1e-5 * 3 / 4)):
        changes: dict[str, Any] = {"generator_learning_rate": 1e-5, "learning_rate_decay": decay}
        again = make_model(tiny_config(**small, **changes))
        manager = CheckpointFolder(again)
        manager.restore_newest()
        run_step(again, batch(config))
        assert float(again.generator_optimizer.learning_rate) == pytest.approx(expected)


def test_a_run_is_resumed_with_other_gradients(tmp_path):
    config = tiny_config(SHALLOW, model_dir=str(tmp_path), r1_weight=1.0)
    model = make_model(config)
    run_step(model, batch(config))
    CheckpointFolder(model).save(1)
    record_config(config)
    plain = dataclasses.replace(config, train=dataclasses.replace(config.train, gradients="plain"))
    assert check_run(plain) == ["--gradients=plain (the run has fast)"]
    again = make_model(plain)
    CheckpointFolder(again).restore_newest()
    results = [run_step(each, batch(config)) for each in (model, again)]
    for name, value in results[0].items():
        np.testing.assert_allclose(results[1][name], value, rtol=1e-3, atol=1e-5, err_msg=name)


@pytest.mark.parametrize(
    ("model", "train", "message"),
    [
        ({"z_dim": 5}, {}, r"--z_dim=5 \(the run has 4\)"),
        ({}, {"n_dis": 2}, r"--n_dis=2 \(the run has 1\)"),
        ({}, {"ema_decay": 0.0}, r"--ema_decay=0.0 \(the run has 0.999\)"),
    ],
)
def test_what_may_not_change_is_refused_by_name(tmp_path, model, train, message):
    config = tiny_config(model_dir=str(tmp_path))
    check_run(config)
    record_config(config)
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "ckpt-1.index").touch()
    (tmp_path / "checkpoints" / "checkpoint").write_text('model_checkpoint_path: "ckpt-1"\n')
    check_run(tiny_config(model_dir=str(tmp_path), train_steps=99, seed=5))
    with pytest.raises(ConfigError, match=message):
        check_run(tiny_config(model=model, model_dir=str(tmp_path), **train))


@pytest.mark.parametrize("conditional", [True, False])
def test_classes_without_a_video_are_named_before_training(tmp_path, monkeypatch, caplog, conditional):
    manifest = write_data_set(tmp_path / "data", [8, 8], labels=("a", "b"))
    dataclasses.replace(manifest, labels=["a", "b", "c"], videos_per_class=[1, 1, 0]).save(tmp_path / "data")
    data = {"data_dir": str(tmp_path / "data")}
    config = tiny_config(model={"conditional": conditional}, data=data, model_dir=str(tmp_path / "run"))
    line = f"{tmp_path / 'data'}: 1 of 3 classes has no video: 'c'; the model learns nothing about them."
    expected = [("WARNING", line)] * conditional

    def told():
        found = [(record.levelname, record.getMessage()) for record in caplog.records if "no video" in record.message]
        caplog.clear()
        return found

    loop.train(config, dry_run=True)
    assert told() == expected
    monkeypatch.setattr(loop, "make_model", lambda config: pytest.fail("it is told before"))
    with pytest.raises(pytest.fail.Exception):
        loop.train(config)
    assert told() == expected


def test_reason_finds_the_line_that_says_what_happened():
    where = "Graph execution error:\n\nDetected at node X defined at:\n  File a.py\n"
    message = f"{where}corrupted record at 244\n\t [[{{{{node Y}}}}]]"
    assert reason(tf.errors.DataLossError(None, None, message)) == "corrupted record at 244"
