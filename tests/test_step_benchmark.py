"""The benchmarks against PyTorch and a plain graph at a tiny size: rejected comparisons, and the report."""

from __future__ import annotations

import json

import numpy as np
import pytest

from benchmarks.speed import implementations, step
from benchmarks.speed.implementations import errors, narrowed, random_inputs
from tests.conftest import TINY_FLAGS, tiny_config
from tganv2_tf.config import ModelConfig
from tganv2_tf.errors import ConfigError, UserError

pytestmark = pytest.mark.slow


@pytest.fixture
def recipe(tmp_path):
    """A flagfile of two levels, 16 pixels and 4 frames."""
    path = tmp_path / "tiny.flags"
    path.write_text("\n".join([*TINY_FLAGS, "--distribution=one_device"]))
    return path


@pytest.fixture
def tensorflow_here(monkeypatch):
    """Saves processes: only PyTorch needs a separate one, as TensorFlow is already in this one."""
    in_new_process = implementations.in_new_process

    def run(function, *arguments):
        return in_new_process(function, *arguments) if "torch" in function.__name__ else function(*arguments)

    monkeypatch.setattr(implementations, "in_new_process", run)


def test_errors_are_relative_and_see_what_is_missing_or_not_finite():
    expected = {"generator_loss": np.array(2.0), "gradient level0/l3/W": np.array([3.0, 4.0])}
    expected |= {"gradient fc/W": np.array([0.0, 100.0]), "gradient fc/b": np.array([1e-6])}
    found = {**expected, "generator_loss": np.array(2.5), "gradient level0/l3/W": np.array([3.0, 4.5])}
    found["gradient fc/b"] = np.array([2e-6])
    # A bias that is tiny compared with the largest gradient of its network, 100, is measured relative to 1 % of that.
    assert errors(found, expected) == pytest.approx(
        {"generator_loss": 0.25, "gradient level0/l3/W": 0.1, "gradient fc/W": 0.0, "gradient fc/b": 1e-6}
    )
    assert errors({**expected, "gradient fc/W": np.array([0.0, np.nan])}, expected)["gradient fc/W"] == np.inf
    with pytest.raises(ValueError, match=r"not found: .*gradient fc/b"):
        errors({name: value for name, value in expected.items() if name != "gradient fc/b"}, expected)
    with pytest.raises(ValueError, match="all are 0"):
        errors(expected, {**expected, "generator_loss": np.array(0.0)})


def test_narrowed_keeps_four_channels_where_there_are_as_many():
    model = narrowed(ModelConfig(), 16)
    assert (model.lstm_channels, model.up_channels) == (64, (32, 16, 8, 4, 4, 4))
    assert model.discriminator_channels == (4, 8, 16, 32, 64)
    assert narrowed(tiny_config({"lstm_channels": 2}).model, 16).lstm_channels == 2


def test_command_refuses_what_cannot_be_compared(recipe):
    for names in ("ours", "plain,torch", "ours,ours", "ours,jax"):
        with pytest.raises(ConfigError, match="--implementations="):
            step.Command(implementations=names)
    command = step.Command(str(recipe), clips=4, frame_strides=(4,), batch_strides=(1,), dtype="bfloat16")
    config = command.config
    *_, recomputing = step.candidate("recompute", config)
    assert recomputing.train.recompute and not config.train.recompute
    assert (config.train.global_batch_size, config.train.mixed_precision) == (4, "mixed_bfloat16")
    assert [level.frames for level in config.model.pyramid.levels] == [4, 1]
    assert [level.shape for level in random_inputs(config)[0]] == [(4, 4, 8, 8, 3), (4, 1, 16, 16, 3)]


def test_nothing_is_timed_that_is_not_the_same(monkeypatch):
    losses = dict.fromkeys(implementations.LOSSES, np.array(1.0))
    weights = {"gradient fc/W": np.ones(100), "gradient level0/l3/W": np.ones(1)}
    found = np.full(100, 1.0049)

    def run(function, config, path, *mode):
        assert config.train.mixed_precision == "float32"
        if function is implementations.torch_results:
            return {**losses, **weights, "gradient fc/W": found}
        return np.savez(path, **losses, **weights)

    monkeypatch.setattr(implementations, "in_new_process", run)
    config = tiny_config(mixed_precision="mixed_bfloat16")
    assert implementations.check_torch(config) == pytest.approx(4.9e-3)
    found = np.ones(100) + 1e-2 * (np.arange(100) == 0) * 5.1
    with pytest.raises(UserError, match=r"torch differs from ours: gradient fc/W has a relative error of 5.1e-03"):
        implementations.check_torch(config)


@pytest.mark.usefixtures("tensorflow_here")
@pytest.mark.parametrize("name", ["torch", "torch_compile"])
def test_pytorch_computes_the_same(name):
    pytest.importorskip("torch")
    config = tiny_config({"up_channels": (6, 5, 4, 3)}, distribution="one_device")
    assert implementations.check_torch(config, implementations.COMPILE_MODES[name]) < 1e-4


def test_step_against_the_definition(tmp_path, capsys):
    recipe, output = tmp_path / "one_level.flags", tmp_path / "step.json"
    flags = ["--resolution=8", "--num_frames=2", "--up_channels=4,4,4", "--r1_weight=0", "--distribution=one_device"]
    recipe.write_text("\n".join([*TINY_FLAGS, *flags]))
    command = step.Command(
        str(recipe), "ours,plain", clips=2, frame_strides=(), batch_strides=(), rounds=2, output=str(output)
    )
    assert step.main(command) == 0
    printed = capsys.readouterr().out
    time, memory = json.loads(output.read_text())["rows"]
    assert (time["what"], time["unit"]) == ("step, 8 px, 2 clips, float32, against plain", "s")
    assert 0 < time["ratio_min"] <= time["ratio"] <= time["ratio_max"]
    assert (memory["what"], memory["unit"]) == (f"{time['what']}, peak memory", "MB")
    assert f"| {time['what']} |" in printed
