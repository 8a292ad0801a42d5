"""Runs that are taken up again, alone and on two replicas; what may not change in between."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
import textwrap
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from tests.conftest import ROOT, tiny_config
from tests.data_sets import write_data_set
from tests.test_tganv2 import batch, run_step
from tganv2_tf.errors import ConfigError
from tganv2_tf.training.checkpoints import check_run, checkpoint_manager, load_generator, record_config
from tganv2_tf.training.loop import make_model, reason


def state(model):
    """Everything that a run must not lose."""
    optimizers = [*model.generator_optimizer.variables, *model.discriminator_optimizer.variables]
    networks = [model.generator, model.discriminator, model.ema_generator]
    return [v.numpy() for v in [model.step, *optimizers, *(v for network in networks for v in network.variables)]]


def test_a_restored_run_goes_on_as_if_it_had_never_stopped(tmp_path):
    config = tiny_config(model_dir=str(tmp_path), seed=1)
    data = batch(config)
    model = make_model(config)
    for _ in range(2):
        run_step(model, data)
    checkpoint_manager(model).save(2)
    restored = make_model(dataclasses.replace(config, train=dataclasses.replace(config.train, seed=2)))
    manager = checkpoint_manager(restored)
    manager.checkpoint.restore(manager.latest_checkpoint).assert_existing_objects_matched()
    for a, b in zip(state(model), state(restored)):
        np.testing.assert_array_equal(a, b)
    restored.config = config
    run_step(model, data)
    run_step(restored, data)
    for a, b in zip(state(model), state(restored)):
        np.testing.assert_allclose(a, b, atol=1e-6)


def test_the_flags_rate_wins_over_the_checkpoints(tmp_path):
    config = tiny_config(model_dir=str(tmp_path), learning_rate_decay="none", generator_learning_rate=1e-3)
    model = make_model(config)
    run_step(model, batch(config))
    checkpoint_manager(model).save(1)
    for decay, expected in (("none", 1e-5), ("linear", 1e-5 * 3 / 4)):
        changes: dict[str, Any] = {"generator_learning_rate": 1e-5, "learning_rate_decay": decay}
        again = make_model(tiny_config(model_dir=str(tmp_path), **changes))
        manager = checkpoint_manager(again)
        manager.checkpoint.restore(manager.latest_checkpoint).assert_existing_objects_matched()
        run_step(again, batch(config))
        assert float(again.generator_optimizer.learning_rate) == pytest.approx(expected)


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


def test_the_loop_runs_and_resumes_on_two_replicas(tmp_path):
    write_data_set(tmp_path / "data", [8] * 12)
    script = f"""
        import sys
        import tensorflow as tf
        cpu = tf.config.list_physical_devices("CPU")[0]
        tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
        from absl import logging
        logging.set_verbosity(logging.INFO)
        from tests.conftest import tiny_config
        from tganv2_tf.training import loop
        assert loop.make_strategy().num_replicas_in_sync == 2
        data = {{"data_dir": {str(tmp_path / "data")!r}}}
        every = {{"log_every_steps": 1, "preview_every_steps": 1, "num_previews": 2}}
        where = {{"data": data, "model_dir": {str(tmp_path / "run")!r}}}
        config = tiny_config(**where, train_steps=int(sys.argv[1]), n_dis=2, **every)
        sys.exit(loop.train(config))
    """
    for steps in (1, 2):
        command = [sys.executable, "-c", textwrap.dedent(script), str(steps)]
        result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
        assert result.returncode == 0, result.stderr
        generator, _, step = load_generator(str(tmp_path / "run"))
        assert step == steps
        assert all(np.isfinite(weight).all() for weight in generator.get_weights())
    assert "Going on from step 1" in result.stderr


def test_reason_finds_the_line_that_says_what_happened():
    where = "Graph execution error:\n\nDetected at node X defined at:\n  File a.py\n"
    message = f"{where}corrupted record at 244\n\t [[{{{{node Y}}}}]]"
    assert reason(tf.errors.DataLossError(None, None, message)) == "corrupted record at 244"
