"""What may change in a run that is taken up again, and what may not; what is said of errors."""

from __future__ import annotations

from typing import Any

import pytest
import tensorflow as tf

from tests.conftest import tiny_config
from tests.test_tganv2 import batch, run_step
from tganv2_tf.errors import ConfigError
from tganv2_tf.training.checkpoints import CheckpointFolder, check_run, record_config
from tganv2_tf.training.loop import make_model, reason


def test_the_flags_rate_wins_over_the_checkpoints(tmp_path):
    config = tiny_config(model_dir=str(tmp_path), learning_rate_decay="none", generator_learning_rate=1e-3)
    model = make_model(config)
    run_step(model, batch(config))
    CheckpointFolder(model).save(1)
    for decay, expected in (("none", 1e-5), ("linear", 1e-5 * 3 / 4)):
        changes: dict[str, Any] = {"generator_learning_rate": 1e-5, "learning_rate_decay": decay}
        again = make_model(tiny_config(model_dir=str(tmp_path), **changes))
        manager = CheckpointFolder(again)
        manager.restore_newest()
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


def test_reason_finds_the_line_that_says_what_happened():
    where = "Graph execution error:\n\nDetected at node X defined at:\n  File a.py\n"
    message = f"{where}corrupted record at 244\n\t [[{{{{node Y}}}}]]"
    assert reason(tf.errors.DataLossError(None, None, message)) == "corrupted record at 244"
