"""Messages for missing data sets: the command that makes one for the recipe in use."""

from __future__ import annotations

import pathlib
import shlex

import pytest

from tests.conftest import ROOT, tiny_config
from tganv2_tf import cli
from tganv2_tf.config import MODEL_OPTIONS, DataConfig, EvalConfig, ModelConfig, TrainConfig
from tganv2_tf.data import advice
from tganv2_tf.data.checks import load_manifest
from tganv2_tf.diagnosis.data_set import check_shards
from tganv2_tf.errors import ConfigError, UserError
from tganv2_tf.runs import record_config
from tganv2_tf.training.compatibility import check_run
from tganv2_tf.training.hparams import hparams

RECIPES = sorted((ROOT / "flags").glob("*.flags"))


def parsed(recipe: str) -> tuple[ModelConfig, DataConfig]:
    argv = [f"--flagfile={recipe}"]
    model, data, _, _ = cli.parse(argv, MODEL_OPTIONS, DataConfig, TrainConfig, EvalConfig)
    return model, data


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.name)
def test_a_recipe_names_the_commands_of_its_header(recipe: pathlib.Path) -> None:
    header = recipe.read_text().split("\n--")[0].replace("\\\n#", "")
    lines = [line.lstrip("# ") for line in header.splitlines()]
    commands = [set(shlex.split(line)) for line in lines if line.startswith(advice.MODULE)]
    model, data = parsed(str(recipe))
    text = advice.how_to_make("DIR", advice.preparation(model, data)).partition("make one with: ")[2]
    found = [shlex.split(part) for part in text.split("&&")]
    assert len(found) == len(commands)
    for words, expected in zip(found, commands):
        missing = set(words) - expected
        assert missing <= {"--output_dir=DIR", f"--resolution={model.resolution}"}, missing
    assert found[-1][-1] == "--output_dir=DIR"


@pytest.mark.parametrize(
    ("recipe", "makes", "prepares"),
    [
        ("own_videos.flags", "video_folder --video_dir=VIDEOS", "video_folder --video_dir={} --split=train"),
        ("faceforensics.flags", "faceforensics --root=FaceForensics_compressed", "faceforensics --root={} "),
        ("official_ucf.flags", "ucf101 --video_dir=UCF-101", "--geometry=official"),
        ("demo.flags", "moving_shapes --output_dir=demo/moving_shapes && ", "ucf101 --video_dir={} "),
        ("", "`python -m tganv2_tf` lists the data_prep commands", "video_folder --video_dir={} --output_dir=SHARDS"),
    ],
)
def test_what_is_said_depends_on_the_recipe(tmp_path: pathlib.Path, recipe: str, makes: str, prepares: str) -> None:
    model, data = parsed(recipe) if recipe else (ModelConfig(), DataConfig())
    (tmp_path / "videos" / "a").mkdir(parents=True)
    (tmp_path / "videos" / "a" / "b.mp4").touch()
    (tmp_path / "empty").mkdir()
    for folder, expected in (
        ("", ["--data_dir is missing", makes]),
        ("none", ["none: no such folder", makes]),
        ("empty", ["no manifest.json in it", makes]),
        ("videos", ["videos: contains videos, but no data set", prepares.format(tmp_path / "videos")]),
    ):
        of_folder = DataConfig(str(tmp_path / folder) if folder else "", data.data_prep)
        with pytest.raises(UserError) as error:
            load_manifest(model, of_folder)
        said = [str(error.value)]
        if folder:
            said.append(check_shards(model, of_folder)[0].text)
        for line in said:
            assert all(part in line for part in expected), line
            assert not recipe or f"--resolution={model.resolution} --output_dir=" in line


def test_the_command_changes_nothing_of_a_run(tmp_path: pathlib.Path) -> None:
    record_config(tiny_config(model_dir=str(tmp_path)))  # as recorded by an older version
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "ckpt-1.index").touch()
    now = tiny_config(data={"data_prep": "video_folder"}, model_dir=str(tmp_path), seed=3)
    assert check_run(now) == ["--seed=3 (the run has 0)"]
    assert "data_prep" not in hparams(now)


def test_a_missing_flag_is_an_error_of_flags() -> None:
    with pytest.raises(ConfigError, match=r"^--data_dir is missing: the folder of the shards; make one with: "):
        advice.require_data_dir(*parsed("own_videos.flags"))
