"""End to end through the real commands, at tiny sizes: videos -> shards -> training -> samples, SavedModel."""

from __future__ import annotations

import json
import pathlib
import re
import shlex
import signal
import subprocess
import sys
import textwrap
import time
from typing import Any

import imageio.v3 as iio
import numpy as np
import pytest
import tensorflow as tf

from tests.conftest import ROOT, TINY_FLAGS, run_command
from tests.data_sets import write_data_set
from tests.forking import fork_command
from tganv2_tf import cli
from tganv2_tf.__main__ import GROUPS, commands
from tganv2_tf.config import Config, DataConfig, EvalConfig, ModelConfig, TrainConfig
from tganv2_tf.pretrained import load_generator
from tganv2_tf.runs import Run

PARTS = (ModelConfig, DataConfig, TrainConfig, EvalConfig)
MODEL = TINY_FLAGS
# One level without the penalty: its graph is built in half the time, for tests that need no more; after RUN.
SMALL = ["--frame_strides=", "--batch_strides=", "--up_channels=4,4,4", "--discriminator_channels=4", "--r1_weight=0"]
SMALL += ["--preview_every_steps=0"]
RUN = ["--global_batch_size=4", "--log_every_steps=1", "--preview_every_steps=2", "--num_previews=2"]


def succeed(module: str, *arguments: str, run: Any = fork_command) -> str:
    result = run(module, *arguments)
    assert result.returncode == 0, result.stderr
    return result.stdout


def step_by_step(*arguments: str) -> subprocess.CompletedProcess[str]:
    """`fork_command` without graphs, for few steps."""
    return fork_command("tests.quickly", *arguments)


def fail(module: str, *arguments: str, status: int, run: Any = fork_command) -> str:
    """Runs a command with invalid input; returns its one-line error."""
    result = run(module, *arguments)
    assert result.returncode == status, result.stderr
    assert "Traceback" not in result.stderr
    lines = [line for line in result.stderr.splitlines() if line.startswith(module.split(".")[-1] + ": ")]
    assert len(lines) == 1, result.stderr
    return lines[0]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    return tmp_path_factory.mktemp("line")


@pytest.fixture(scope="module")
def data_dir(folder: pathlib.Path) -> str:
    """Rendered videos, prepared as UCF101."""
    shapes, data = folder / "shapes", folder / "data"
    few = ["--videos_per_class=2", "--num_frames=8"]
    succeed("data_prep.moving_shapes", f"--output_dir={shapes}", *few, run=run_command)
    lists = shapes / "ucfTrainTestlist"
    size = ["--resolution=16", "--min_frames=4", "--num_workers=1"]
    folders = [f"--video_dir={shapes}/videos", f"--split_dir={lists}", f"--output_dir={data}"]
    succeed("data_prep.ucf101", *folders, *size, run=run_command)
    return str(data)


@pytest.fixture(scope="module")
def run(folder: pathlib.Path, data_dir: str) -> str:
    """A run of three steps with its checkpoints, events and config."""
    model_dir = folder / "run"
    where = [f"--data_dir={data_dir}", f"--model_dir={model_dir}", "--checkpoint_every_steps=2"]
    result = run_command("tganv2_tf.train", *MODEL, *RUN, *where, "--train_steps=3")
    assert result.returncode == 0, result.stderr
    assert "3/3" in result.stderr, "the progress bar"
    for noise in ("Unable to register", "TensorFlow Addons", "TF-TRT", "cpu_feature_guard"):
        assert noise not in result.stderr
    return str(model_dir)


@pytest.fixture(scope="module")
def saved_model(folder: pathlib.Path, run: str) -> str:
    succeed("tganv2_tf.export", f"--model_dir={run}", f"--output_dir={folder}/saved/tiny", run=run_command)
    return f"{folder}/saved/tiny/1"


def test_a_run_leaves_config_checkpoints_and_events(run: str) -> None:
    folder = pathlib.Path(run)
    assert Run.open(run).config.model.resolution == 16
    assert sorted(p.name for p in (folder / "checkpoints").glob("*.index")) == ["ckpt-2.index", "ckpt-3.index"]
    tags: dict[str, list[int]] = {}
    contents = {}
    for path in (folder / "events").iterdir():
        for event in tf.compat.v1.train.summary_iterator(str(path)):
            for value in event.summary.value:
                tags.setdefault(value.tag, []).append(event.step)
                contents[value.tag] = value.tensor
    assert tags["train/generator_loss"] == [1, 2, 3]
    for tag in ("discriminator_loss", "r1_penalty", "real_logits/level_1", "fake_logits/level_2", "clips_per_second"):
        assert f"train/{tag}" in tags
    assert {"train/generator_learning_rate", "train/spectral_norm/level_1_max", "config"} <= set(tags)
    assert tags["samples/level_1"] == tags["samples/level_2"] == [2, 3]
    width, height, gif = contents["samples/level_2"].string_val
    frames = iio.imread(gif, extension=".gif", plugin="pillow")
    assert frames.shape == (4, int(height), int(width), 3)
    assert '"resolution": 16' in contents["config"].string_val[0].decode()


def test_the_same_command_goes_on_and_a_finished_run_is_left_alone(data_dir: str, tmp_path: pathlib.Path) -> None:
    where = [f"--data_dir={data_dir}", f"--model_dir={tmp_path}/run"]
    arguments = [*MODEL, *RUN, *SMALL, *where, "--learning_rate_decay=none"]
    succeed("tests.quickly", "tganv2_tf.train", *arguments, "--train_steps=1")
    first = load_generator(Run.open(f"{tmp_path}/run"))[0].get_weights()
    result = fork_command("tests.quickly", "tganv2_tf.train", *arguments, "--train_steps=2")
    assert result.returncode == 0, result.stderr
    assert "Resuming from step 1" in result.stderr
    assert "2/2" in result.stderr
    generator, step = load_generator(Run.open(f"{tmp_path}/run"))
    assert step == 2
    assert any((a != b).any() for a, b in zip(first, generator.get_weights()))
    result = fork_command("tganv2_tf.train", *arguments, "--train_steps=2")
    assert result.returncode == 0
    assert "nothing to do" in result.stderr


def test_another_model_in_the_same_folder_is_refused_by_name(run: str, data_dir: str) -> None:
    where = [f"--data_dir={data_dir}", f"--model_dir={run}"]
    line = fail("tganv2_tf.train", *MODEL, *RUN, *where, "--train_steps=9", "--z_dim=5", status=2)
    assert "--z_dim=5 (the run has 4)" in line
    assert Run.open(run).config.model.z_dim == 4


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_ends(number: signal.Signals, data_dir: str, tmp_path: pathlib.Path) -> None:
    """One of them during steps in a graph, which takes longer to build than it is needed."""
    where = [f"--data_dir={data_dir}", f"--model_dir={tmp_path}", "--train_steps=100000"]
    module = ["tganv2_tf.train"] if number == signal.SIGTERM else ["tests.quickly", "tganv2_tf.train"]
    command = [sys.executable, "-m", *module, *MODEL, *RUN, *SMALL, *where]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 200
        while not any(b"train/generator_loss" in p.read_bytes() for p in tmp_path.glob("events/*")):
            assert process.poll() is None, process.stderr.read() if process.stderr else ""
            assert time.monotonic() < deadline
            time.sleep(0.2)
        process.send_signal(number)
        _, errors = process.communicate(timeout=100)
    assert process.returncode == 128 + number, errors
    assert "Traceback" not in errors
    _, step = load_generator(Run.open(str(tmp_path)))
    assert f"Stopped at step {step} and saved" in errors


def test_a_loss_that_is_not_finite_stops_the_run_naming_the_step(data_dir: str, tmp_path: pathlib.Path) -> None:
    where = [f"--data_dir={data_dir}", f"--model_dir={tmp_path}", "--train_steps=50", "--nospectral_norm"]
    how = [*where, "--discriminator_learning_rate=1e30"]
    line = fail("tganv2_tf.train", *MODEL, *RUN, *SMALL, *how, status=1, run=step_by_step)
    assert "step " in line
    assert "is not finite" in line


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["--resolution=191"], 2, "--resolution=191 .* multiple of 64"),
        (["--resolutoin=192"], 2, "--resolutoin: no such flag; did you mean --resolution?"),
        (["--frame_strides=3,3,3"], 2, "--num_frames=16 .* --frame_strides=3,3,3; valid: a multiple of 27"),
        (["--global_batch_size=12"], 2, "--global_batch_size=12"),
        (["--flagfile=ucf.flags", "--data_dir=/nowhere", "--model_dir=/tmp/never"], 1, "/nowhere: no such folder"),
        (["--flagfile=ucf.flags", "--model_dir=/tmp/never"], 2, "--data_dir is missing"),
        (["--flagfile=ucf.flags", "--data_dir=x"], 2, "--model_dir is missing"),
    ],
)
def test_what_cannot_work_is_one_line(arguments: list[str], status: int, message: str) -> None:
    assert re.search(message, fail("tganv2_tf.train", *arguments, status=status))


def test_a_damaged_record_ends_training_with_one_line(tmp_path: pathlib.Path) -> None:
    write_data_set(tmp_path / "data", [8] * 8, num_shards=1)
    shard = next((tmp_path / "data").glob("*.tfrecord"))
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 255
    shard.write_bytes(content)
    where = [f"--data_dir={tmp_path}/data", f"--model_dir={tmp_path}/run"]
    how = ["--train_steps=50", "--shuffle_buffer=2"]
    line = fail("tganv2_tf.train", *MODEL, *RUN, *SMALL, *where, *how, status=1)
    assert re.search(rf"{shard.name}: record \d cannot be read", line)
    skipping = [f"--model_dir={tmp_path}/skip", "--train_steps=2", "--skip_corrupt_records"]
    result = fork_command("tests.quickly", "tganv2_tf.train", *MODEL, *RUN, *SMALL, where[0], *skipping)
    assert result.returncode == 0, result.stderr
    assert re.search(rf"{shard.name}: record \d .*; skipped\.", result.stderr)


def test_dry_run_shows_the_levels_of_the_papers_recipe() -> None:
    result = fork_command("tganv2_tf.train", "--flagfile=ucf.flags", "--dry_run")
    assert result.returncode == 0, result.stderr
    rows = [line.split()[:4] for line in result.stdout.splitlines() if line.strip()[:2] in ("1 ", "2 ", "3 ", "4 ")]
    # Paper, Table 1 and Figure 2.
    assert rows == [
        ["1", "24x24", "16", "64"],
        ["2", "48x48", "8", "32"],
        ["3", "96x96", "4", "16"],
        ["4", "192x192", "2", "8"],
    ]
    head, _, settings = result.stdout.partition("settings other than the defaults (--print_config shows all):\n")
    assert head.startswith("level ") and "devices: " in head.splitlines()[-1]
    assert "NO GPU FOUND" in result.stderr
    recipe = Config(*cli.parse(["--flagfile=ucf.flags"], *PARTS))
    assert recipe != Config() and Config(*cli.parse(shlex.split(settings), *PARTS)) == recipe
    assert "--global_batch_size" not in settings, "64 is the default"


def test_all_settings_are_printed_as_a_runs_config() -> None:
    result = fork_command("tganv2_tf.train", "--flagfile=ucf.flags", "--seed=3", "--print_config")
    assert result.returncode == 0, result.stderr
    config = Config(*cli.parse(["--flagfile=ucf.flags", "--seed=3"], *PARTS))
    assert result.stdout == config.to_json() and config.train.seed == 3


def test_generate_writes_files_of_any_length(run: str, tmp_path: pathlib.Path) -> None:
    options = ["--layout=single", "--level=1", "--scale=2", "--num_frames=40", f"--output={tmp_path}/v.mp4"]
    out = succeed("tganv2_tf.generate", f"--model_dir={run}", "--seeds=3,7", *options, run=run_command)
    assert out == f"2 videos: {tmp_path}/v-seed*.mp4\n"
    for seed in (3, 7):
        assert iio.imread(tmp_path / f"v-seed{seed}.mp4", plugin="FFMPEG").shape == (40, 16, 16, 3)


def test_a_seed_gives_the_same_video_from_a_run_and_from_its_saved_model(
    run: str, saved_model: str, tmp_path: pathlib.Path
) -> None:
    made: list[np.ndarray] = []
    for source in (f"--model_dir={run}", f"--saved_model={saved_model}"):
        path = tmp_path / "samples.npz"
        batch_size = 1 + len(made)
        succeed("tganv2_tf.generate", source, "--seeds=5,2", f"--batch_size={batch_size}", f"--output={path}")
        with np.load(path, allow_pickle=False) as arrays:
            assert arrays["seeds"].tolist() == [5, 2]
            made.append(arrays["videos"].astype(int))
    assert made[0].shape == (2, 4, 16, 16, 3)
    assert np.abs(made[0] - made[1]).max() <= 1
    assert np.abs(made[0][0] - made[0][1]).max() > 1, "two seeds, two videos"


def test_the_saved_model_needs_only_tensorflow_and_equals_the_generator(run: str, saved_model: str) -> None:
    generator, _ = load_generator(Run.open(run))
    z = tf.random.stateless_uniform([3, 4], [0, 1], -1, 1)
    script = f"""
        import json, sys
        import numpy as np, tensorflow as tf
        model = tf.saved_model.load({saved_model!r})
        z = tf.random.stateless_uniform([3, 4], [0, 1], -1, 1)
        s = model.signatures
        def generate(seed, num_videos):
            numbers = {{"num_videos": tf.constant(num_videos), "num_frames": tf.constant(7)}}
            return s["generate"](seed=tf.constant(seed, tf.int64), **numbers)["videos"].numpy().tolist()
        out = {{
            "float": s["generate_float"](z=z)["videos"].numpy().tolist(),
            "default": s["serving_default"](z=z)["videos"].numpy().tolist(),
            "level1": list(s["preview"](z=z, level=tf.constant(1))["videos"].shape),
            "long": generate(3, 2),
            "one": generate(4, 1),
            "ours": [name for name in sys.modules if name.startswith("tganv2_tf")],
        }}
        print(json.dumps(out))
    """
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], cwd="/", capture_output=True, text=True, timeout=200
    )
    assert result.returncode == 0, result.stderr
    out = json.loads(result.stdout)
    assert out["ours"] == []
    expected = generator(z).numpy()
    np.testing.assert_allclose(out["float"], expected, atol=1e-5)
    assert np.abs(np.array(out["default"]) - np.rint((expected + 1) * 127.5)).max() <= 1
    assert out["level1"] == [3, 4, 8, 8, 3]
    assert np.array(out["long"]).shape == (2, 7, 16, 16, 3)
    assert np.abs(np.array(out["long"])[1] - np.array(out["one"])[0]).max() <= 1, "a video belongs to its seed"


@pytest.mark.parametrize(
    ("signature", "inputs"),
    [("serving_default", "z=[[0.5, 0, -0.5, 1], [0, 0, 0, 0]]"), ("generate", "seed=3;num_videos=2;num_frames=6")],
)
def test_saved_model_cli_runs_it(saved_model: str, tmp_path: pathlib.Path, signature: str, inputs: str) -> None:
    """The module that the console script `saved_model_cli` calls."""
    options = ["--tag_set", "serve", "--signature_def", signature, "--input_exprs", inputs, "--outdir", str(tmp_path)]
    result = fork_command("tensorflow.python.tools.saved_model_cli", "run", "--dir", saved_model, *options)
    assert result.returncode == 0, result.stderr
    videos = np.load(tmp_path / "videos.npy", allow_pickle=False)
    assert videos.dtype == np.uint8
    assert videos.shape == (2, 6 if signature == "generate" else 4, 16, 16, 3)


def test_versions_count_up_and_are_never_overwritten(run: str, saved_model: str) -> None:
    name = str(pathlib.Path(saved_model).parent)
    line = fail("tganv2_tf.export", f"--model_dir={run}", f"--output_dir={name}", "--version=1", status=1)
    assert "already exists" in line
    assert succeed("tganv2_tf.export", f"--model_dir={run}", f"--output_dir={name}").startswith(f"{name}/2")


@pytest.mark.parametrize(
    ("module", "arguments", "status", "message"),
    [
        ("tganv2_tf.generate", ["--output=x.gif"], 2, "specify exactly one of --model_dir and --saved_model"),
        ("tganv2_tf.generate", ["--output=x.gif", "--model_dir=/nowhere"], 1, "/nowhere: no such folder"),
        ("tganv2_tf.generate", ["--output=x.gif", "--saved_model=/nowhere"], 1, "no SavedModel found"),
        ("tganv2_tf.export", ["--model_dir=/nowhere", "--output_dir=/tmp/never"], 1, "/nowhere: no such folder"),
        ("tganv2_tf.export", ["--model_dir=/nowhere"], 2, "--output_dir is missing"),
    ],
)
def test_wrong_input_of_generate_and_export_is_one_line(
    module: str, arguments: list[str], status: int, message: str
) -> None:
    assert message in fail(module, *arguments, status=status)


def test_help_of_every_command_needs_no_tensorflow() -> None:
    modules = [name for folder in GROUPS for name in commands(folder)]
    # All in one process, so that each import is done only once.
    code = f"""if 1:
        import runpy, sys
        sys.argv = ["x", "--help"]
        for module in {modules}:
            try:
                runpy.run_module(module, run_name="__main__")
            except SystemExit as end:
                assert end.code == 0, module
            assert "tensorflow" not in sys.modules, module
    """
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr
    for module in modules:
        assert f"Usage: python -m {module} " in " ".join(result.stdout.split())
