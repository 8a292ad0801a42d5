"""Configs reject invalid values and survive a JSON round trip."""

import dataclasses
import json
from typing import Any

import pytest

from tests.conftest import tiny_config
from tganv2_tf.config import Config, DataConfig, EvalConfig, ModelConfig, TrainConfig
from tganv2_tf.errors import ConfigError


def test_defaults_are_the_papers_model():
    config = Config()
    assert config.model.pyramid.num_levels == 4
    assert config.model.up_channels == (512, 256, 128, 64, 32, 32)
    assert [level.batch_size(config.train.global_batch_size) for level in config.model.pyramid.levels] == [
        64,
        32,
        16,
        8,
    ]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ModelConfig(up_channels=(4, 4)), "--up_channels=4,4: valid: 6 positive numbers"),
        (lambda: ModelConfig(z_dim=0), "--z_dim=0"),
        (lambda: ModelConfig(discriminator_channels=()), "--discriminator_channels="),
        (lambda: TrainConfig(ema_decay=1.0), "--ema_decay=1.0"),
        (lambda: TrainConfig(n_dis=0), "--n_dis=0"),
        (
            lambda: TrainConfig(gradients="plain", mixed_precision="mixed_float16"),
            "--gradients=plain: valid: fast with --mixed_precision=mixed_float16",
        ),
        (lambda: DataConfig(frame_step=0), "--frame_step=0"),
        (lambda: TrainConfig(jit_compile=True), "--jit_compile=true: valid: with --distribution=one_device only"),
        (
            lambda: TrainConfig(
                steps_per_execution=8, log_every_steps=8, preview_every_steps=8, checkpoint_every_steps=9
            ),
            "--checkpoint_every_steps=9: valid: a multiple of --steps_per_execution=8",
        ),
        (
            lambda: TrainConfig(checkpoint_every_steps=100, keep_checkpoint_every_steps=150),
            "--keep_checkpoint_every_steps=150: valid: a multiple of --checkpoint_every_steps=100",
        ),
        (
            lambda: TrainConfig(checkpoint_every_steps=100, eval_every_steps=150),
            "--eval_every_steps=150: valid: a multiple of --checkpoint_every_steps=100",
        ),
        (
            lambda: Config(train=TrainConfig(eval_every_steps=1000)),
            "--eval_every_steps=1000: valid: 0 without --classifier",
        ),
        (
            lambda: TrainConfig(checkpoint_every_steps=0, keep_checkpoint_every_steps=150),
            "--keep_checkpoint_every_steps=150: valid: 0 with --checkpoint_every_steps=0",
        ),
        (lambda: TrainConfig(preview_every_steps=-1), "--preview_every_steps=-1: valid: a number of at least 0"),
        (lambda: EvalConfig(num_samples=5), "--num_samples=5: valid: a whole number of at least 6"),
        (lambda: EvalConfig(repetitions=0), "--repetitions=0"),
        (lambda: EvalConfig(c3d_mean="mean2.npz"), "--c3d_mean=mean2.npz: valid: with --classifier only"),
        (lambda: TrainConfig(profile_steps=(5,)), "--profile_steps=5: valid: two numbers FIRST,LAST"),
        (lambda: TrainConfig(profile_steps=(9, 11), train_steps=10), "--profile_steps=9,11: .* to --train_steps=10"),
        (lambda: Config(train=TrainConfig(global_batch_size=20)), "--global_batch_size=20: valid: a multiple of 8"),
    ],
)
def test_values_that_cannot_work_are_refused_by_name(make, message):
    with pytest.raises(ConfigError, match=message):
        make()


def test_every_interval_may_be_0():
    names = [field.name for field in dataclasses.fields(TrainConfig) if field.name.endswith("_every_steps")]
    assert len(names) == 6
    zeros: dict[str, Any] = dict.fromkeys(names, 0)
    never = TrainConfig(train_steps=4, **zeros)
    assert not any(never.is_due(step, never.preview_every_steps) for step in range(1, 5))


def test_what_is_done_at_intervals_is_done_after_the_last_step_too():
    train = TrainConfig(train_steps=5)
    assert [step for step in range(1, 6) if train.is_due(step, 2)] == [2, 4, 5]


def test_json_round_trip():
    config = tiny_config(loss="hinge")
    assert Config.from_json(config.to_json()) == config


def test_runs_from_before_there_were_scores_are_read():
    config = tiny_config()
    old = json.loads(config.to_json())
    del old["eval"], old["train"]["eval_every_steps"], old["train"]["best_score"]
    assert Config.from_json(json.dumps(old)) == config


def test_runs_from_before_gradients_could_be_chosen_have_fast_ones():
    old = json.loads(tiny_config().to_json())
    del old["train"]["gradients"]
    assert Config.from_json(json.dumps(old)).train.gradients == "fast"


@pytest.mark.parametrize("text", ["", "[]", '{"model": {}}', tiny_config().to_json().replace("z_dim", "zdim")])
def test_damaged_json_is_refused(text):
    with pytest.raises(ConfigError, match=r"config\.json cannot be read"):
        Config.from_json(text)


def test_every_field_says_what_it_means():
    for part in (ModelConfig, DataConfig, TrainConfig, EvalConfig):
        for field in dataclasses.fields(part):
            assert len(field.metadata["help"]) > 10, field.name
