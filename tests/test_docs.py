"""The documentation: runs every command on every page, and compares quoted messages with the program's.

The commands of a page run in order in a separate folder, with minimal versions of what the page expects its reader to
have (`BROUGHT`). Smaller sizes (`SMALL`) are appended as later flags, which take precedence; nothing is removed from a
command. `ELSEWHERE` lists commands that cannot run here, with the reason.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
import re
import runpy
import shlex
import shutil
import subprocess
import sys
import unittest.mock
from collections.abc import Callable

import numpy as np
import pytest
import tensorflow as tf

from data_prep import moving_shapes
from data_prep.moving_shapes import write_video
from tests import faces
from tests.conftest import ONE_LEVEL, ROOT, tiny_config
from tests.data_sets import flip_byte, write_data_set
from tests.forking import fork_command
from tests.small_runs import write_demo_generator, write_run
from tests.test_i3d import means, save_module
from tests.test_systems import TINY
from tganv2_tf import __main__, cli
from tganv2_tf.config import MODEL_OPTIONS, Config, DataConfig, EvalConfig, ModelConfig, TrainConfig
from tganv2_tf.data.damage import cause_of_error
from tganv2_tf.data.manifest import UNFINISHED_DIR, Manifest, shard_name
from tganv2_tf.errors import UserError
from tganv2_tf.evaluation import metrics, validity
from tganv2_tf.evaluation.c3d import C3D, C3DConfig
from tganv2_tf.evaluation.classifier import save_classifier
from tganv2_tf.evaluation.real_features import RealStatistics
from tganv2_tf.explorer import server
from tganv2_tf.interop import chainer
from tganv2_tf.models.generator import Generator
from tganv2_tf.runs import record_config
from tganv2_tf.runtime import lanes
from tganv2_tf.training import callbacks, distribution, loop

PAGES = sorted(path.relative_to(ROOT).as_posix() for path in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")])
BLOCK = re.compile(r"^( *)```(\w*)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
NUM_FRAMES = 18  # of the reader's videos: a clip of 16 for the classifier, plus two

MODEL = [
    *("--resolution=16", "--num_frames=2", "--z_dim=2", "--lstm_channels=2", "--frame_strides=", "--batch_strides="),
    *("--up_channels=2,2,2", "--discriminator_channels=2"),
]
TRAINING = [
    *("--global_batch_size=2", "--train_steps=1", "--log_every_steps=1", "--preview_every_steps=0", "--num_previews=2"),
    *("--checkpoint_every_steps=1", "--keep_checkpoint_every_steps=1", "--shuffle_buffer=4"),
]
PREPARATION = ["--resolution=16", "--num_workers=1"]
SMALL = {
    "data_prep.moving_shapes": ["--videos_per_class=5", f"--num_frames={NUM_FRAMES}", "--height=16", "--width=24"],
    "data_prep.ucf101": PREPARATION,
    "data_prep.faceforensics": PREPARATION,
    "data_prep.video_folder": [*PREPARATION, "--test_fraction=0.5", "--min_frames=2"],
    "data_prep.verify": ["--num_decoded=1"],
    "tganv2_tf.train": [*MODEL, *TRAINING],
    "tganv2_tf.doctor": [*MODEL, *TRAINING],
    "tganv2_tf.generate": ["--num_frames=4"],
    "tganv2_tf.project": ["--candidates=2", "--restarts=2", "--steps=1"],
    "tganv2_tf.export": [],
    "tganv2_tf.evaluate": [
        *("--num_samples=6", "--repetitions=1", "--real_passes=4", "--eval_batch_size=16", "--cache_dir=cache"),
    ],
    "tganv2_tf.train_classifier": ["--steps=1", "--batch_size=16"],
    "tganv2_tf.import_chainer": [],
    "tganv2_tf": [],
}
# Snapshots of a small run have other names.
RENAMED = {"ckpt-10000": "ckpt-1"}
# The authors' C3D is a download; a small network in the project's own format replaces it.
STAND_IN = ["--classifier=conv3d_deepnetA_ucf.npz", "--c3d_mean="]
# These flags name the outputs of a command.
OUTPUTS = {
    **dict.fromkeys(("data_prep.moving_shapes", "data_prep.ucf101", "data_prep.faceforensics"), "output_dir"),
    **dict.fromkeys(("data_prep.video_folder", "tganv2_tf.export"), "output_dir"),
    **dict.fromkeys(("tganv2_tf.generate", "tganv2_tf.project", "tganv2_tf.train_classifier"), "output"),
    **dict.fromkeys(("tganv2_tf.train", "tganv2_tf.import_chainer"), "model_dir"),
    "tganv2_tf.evaluate": "output",
    "data_prep.verify": "contact_sheet",
}
GRAPHS = ("tganv2_tf.export", "tganv2_tf.generate", "tganv2_tf.doctor")  # build graphs even under tests.quickly


@dataclasses.dataclass(frozen=True)
class Command:
    """One command of a page.

    Attributes:
      text: The command as on the page, in one line.
      module: The module that `python -m` runs; empty for other commands.
      arguments: Arguments of the module, or all words of another command.
      environment: Variables set before the command.
    """

    text: str
    module: str
    arguments: list[str]
    environment: dict[str, str]

    @classmethod
    def parse(cls, text: str) -> Command:
        words, environment = shlex.split(text, comments=True), {}
        while words and re.match(r"[A-Z_]+=", words[0]):
            name, _, environment[name] = words.pop(0).partition("=")
        while words and words[:2] != ["python", "-m"] and words[0] == "srun":
            words = words[words.index("python") :]
        if words[:2] == ["python", "-m"]:
            return cls(text, words[2], words[3:], environment)
        if words[:1] == ["tganv2"]:
            return cls(text, __main__.find(words[1]) if words[1:] else "tganv2_tf", words[2:], environment)
        return cls(text, "", words, environment)

    @property
    def flags(self) -> dict[str, str]:
        return dict(word[2:].split("=", 1) for word in self.arguments if word.startswith("--") and "=" in word)


def blocks(page: str, language: str) -> list[str]:
    """Returns the fenced blocks of a page in a language, without the indentation of surrounding lists."""
    found = []
    for indent, of, content in BLOCK.findall((ROOT / page).read_text()):
        if of == language:
            found.append("".join(line[len(indent) :] for line in content.splitlines(keepends=True)))
    return found


def commands(page: str) -> list[Command]:
    """Returns the commands of a page in order, without comments and empty lines."""
    lines = [line for block in blocks(page, "bash") for line in block.replace("\\\n", " ").splitlines()]
    return [Command.parse(" ".join(line.split())) for line in lines if shlex.split(line, comments=True)]


def understood(command: Command) -> None:
    """Checks that the flags of a command exist and have valid values, and that its options can be instantiated."""

    def parse(main, option_types, command_name, summary, argv=None):
        cli.parse(sys.argv[1:] if argv is None else argv, *option_types)
        return 0

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cli, "run", parse)
        patch.setattr(sys, "argv", [command.module, *command.arguments])
        with pytest.raises(SystemExit) as end:
            runpy.run_module(command.module, run_name="__main__")
    assert end.value.code == 0, command.text


def workers_are_named(command: Command) -> None:
    """Checks the flags, and that TF_CONFIG, if the command sets it, describes the workers."""
    understood(command)
    if command.environment:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("TF_CONFIG", command.environment["TF_CONFIG"])
            resolver = distribution.cluster_resolver()
            assert resolver.cluster_spec().num_tasks("worker") == 2, command.text
            assert (resolver.task_type, resolver.task_id) == ("worker", 0), command.text


def file_is_there(command: Command) -> None:
    for word in command.arguments:
        if word.endswith(".txt"):
            assert (ROOT / word).is_file(), command.text


def target_exists(command: Command) -> None:
    """Checks with `make -n` that the target exists."""
    result = subprocess.run(
        ["make", "-n", *command.arguments[1:]], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert result.returncode == 0, result.stderr


def nothing_else(command: Command) -> None:
    """Checks nothing: the command cannot be checked here."""


ELSEWHERE: list[tuple[str, str, Callable[[Command], None]]] = [
    (
        r"make bench\b",
        "hours; its parts in small: tests/test_step_benchmark.py, tests/test_speed_benchmarks.py",
        target_exists,
    ),
    (
        r"make (demo|test|slow-tests)\b",
        "minutes; .ci/run runs the tests, and each command of the demo runs here",
        target_exists,
    ),
    (r"pip install\b", "changes the environment", file_is_there),
    (r"(unrar|unzip|7z)\b", "the archives of UCF101 are downloads of 6.5 GB", nothing_else),
    (r"\S*tensorboard --logdir", "a server; tests/test_tensorboard.py opens it", nothing_else),
    (r"docker\b", "there is none here; docs/serving.md says so", nothing_else),
    (r"(curl|python examples/serving/client.py)\b", "asks a server; tests/test_serving_client.py does", nothing_else),
    (r"saved_model_cli\b", "tests/test_commands.py runs it", nothing_else),
    (r"python -m tganv2_tf\.explore\b", "a server; tests/test_explore.py opens it", understood),
    (r"(TF_CONFIG=|srun\b)", "waits for others; tests/test_training_commands.py has two workers", workers_are_named),
    (r"python -m benchmarks\.paper\.cost\b", "a minute; tests/test_cost.py", understood),
    (
        r"([A-Z_]+=\S+ )*python -m benchmarks\.speed\."
        r"(bench|gpu|step|inference|levels|evaluation|input_pipeline|preparation|startup|race)\b",
        "minutes; in small: tests/test_step_benchmark.py, tests/test_speed_benchmarks.py, tests/test_race.py",
        understood,
    ),
    (
        r"python -m benchmarks\.stress\.(crash|crash_preparation|fuzz|load|soak|determinism|storage)\b",
        "minutes; in small: tests/test_fault_benchmarks.py, tests/test_load.py, tests/test_resumption.py",
        understood,
    ),
    (r"python -m \S+ .*=s3://", "in a bucket; tests/test_storage.py has one", understood),
    (r"python -m \S+ .*--runner=ray", "on a Ray cluster; tests/test_ray.py has one", understood),
    (r"python -m \S+ .*--distribution=ray", "on a Ray cluster; tests/test_ray_training.py has one", understood),
    (
        r"(RAY_AUTH_MODE=token )?(ray|kubectl|sbatch)\b",
        "tests/ray_nodes.py makes a cluster of Ray's; of the others there is none",
        nothing_else,
    ),
    (r"python -m benchmarks\.scaling\.", "minutes; in small: tests/test_scaling.py", understood),
    (r"export \w+=", "variables of the shell", nothing_else),
    (r"python -m \S+ .*=ablation/", "the record of an hour's run, which benchmarks.paper.ablation writes", understood),
    (r"python -m benchmarks\.paper\.table2\b", "hours; in small: tests/test_table2.py", understood),
]

# What a page expects its reader to have, in addition to the outputs of its own commands.
BROUGHT = {
    "README.md": ["examples", "UCF-101", "ucfTrainTestlist", "conv3d_deepnetA_ucf.npz", "VIDEOS"],
    "docs/conditional.md": [],
    "docs/evaluation.md": ["runs/ucf101", "data/ucf101/train", "conv3d_deepnetA_ucf.npz"],
    "docs/faceforensics.md": ["FaceForensics_compressed", "INTERVIEWS", "conv3d_deepnetA_ucf.npz", "i3d-kinetics-400"],
    "docs/distributed.md": ["data/ucf101/train"],
    "docs/own_videos.md": ["VIDEOS", "ROOT"],
    "docs/serving.md": ["demo/run"],
    "docs/python_api.md": ["examples", "demo/run", "demo/data/train", "demo/classifier.npz"],
    "docs/troubleshooting.md": ["data/own/train"],
    "docs/table2.md": ["UCF-101", "ucfTrainTestlist", "conv3d_deepnetA_ucf.npz"],
    "docs/ucf101.md": ["UCF-101", "ucfTrainTestlist", "conv3d_deepnetA_ucf.npz", "gen_iter_82000.npz"],
}


@pytest.fixture(scope="module")
def brought(tmp_path_factory):
    """A folder with minimal versions of everything that some page expects.

    tests/test_package.py generates videos with the demo generator itself.
    """
    folder = tmp_path_factory.mktemp("brought")
    write_demo_generator(folder / "examples" / "demo_generator")
    rendered = moving_shapes.MovingShapesOptions("unused", num_frames=NUM_FRAMES, height=16, width=24)
    lists: dict[str, list[str]] = {"train": [], "test": []}
    names = ("CircleLeft", "SquareUp")
    for name in names:
        for group in range(1, 5):
            file = f"{name}/{moving_shapes.video_name(name, group, 1)}"
            for path in (folder / "UCF-101" / file, folder / "VIDEOS" / name / f"{group}.avi"):
                path.parent.mkdir(parents=True, exist_ok=True)
                write_video(path, moving_shapes.render(name, group, 1, rendered))
            lists["test" if group == 1 else "train"].append(file)
    (folder / "ROOT").mkdir()
    for split in lists:
        (folder / "ROOT" / split).symlink_to(folder / "VIDEOS")
    (folder / "ucfTrainTestlist").mkdir()
    (folder / "ucfTrainTestlist" / "classInd.txt").write_text("1 CircleLeft\n2 SquareUp\n")
    for split, files in lists.items():
        (folder / "ucfTrainTestlist" / f"{split}list01.txt").write_text("\n".join(files))
    face = [faces.draw_face(60 + t, 60, 30, nose=False) for t in range(NUM_FRAMES)]
    mask = [faces.draw_mask(faces.face_box(60 + t, 60, 30)) for t in range(NUM_FRAMES)]
    for number in range(2):
        faces.write_lossy(folder / "INTERVIEWS" / f"{number}.avi", face)
        for kind, frames in (("original", face), ("mask", mask)):
            faces.write_lossy(folder / "FaceForensics_compressed" / "train" / kind / f"{number}.avi", frames)
    write_data_set(folder / "data" / "ucf101" / "train", [NUM_FRAMES] * 4, num_shards=1)
    write_data_set(folder / "data" / "own" / "train", [NUM_FRAMES] * 4, num_shards=1)
    shape = C3DConfig(side=8, channels=(2,) * 8, units=(8, 8), num_classes=2)
    described = {"format": 1, "shape": dataclasses.asdict(shape), "labels": [], "recipe": {}}
    save_classifier(C3D(shape), described, folder / "conv3d_deepnetA_ucf.npz")
    (folder / "demo" / "data").mkdir(parents=True)
    (folder / "demo" / "data" / "train").symlink_to(folder / "data" / "own" / "train")
    (folder / "demo" / "classifier.npz").symlink_to(folder / "conv3d_deepnetA_ucf.npz")
    save_module(folder / "i3d-kinetics-400", lambda video: {"default": means(video)})
    config = tiny_config(ONE_LEVEL)
    chainer.save_generator(Generator(config.model), folder / "gen_iter_82000.npz")
    write_run(config, folder / "demo" / "run")
    (folder / "runs").mkdir()
    (folder / "runs" / "ucf101").symlink_to(folder / "demo" / "run")
    return folder


def shrunk(command: Command) -> list[str]:
    """Returns the arguments on the page, followed by smaller sizes."""
    arguments = command.arguments
    for name, other in RENAMED.items():
        arguments = [argument.replace(name, other) for argument in arguments]
    if command.module == "tganv2_tf.evaluate" and "c3d_mean" in command.flags:
        arguments = [*arguments, *STAND_IN]
    small, recipe = SMALL[command.module], command.flags.get("flagfile", "")
    if command.module == "tganv2_tf.train" and recipe:
        model, *_ = cli.parse([f"--flagfile={recipe}"], MODEL_OPTIONS, DataConfig, TrainConfig, EvalConfig)
        small = small if model.system == "tganv2" else [*TINY[model.system], *TRAINING]
    return [*arguments, *small]


def outputs_of(command: Command, folder: pathlib.Path) -> list[pathlib.Path]:
    """Returns the outputs that a command promises, relative to its folder; fails if one is not there."""
    promised = command.flags.get(OUTPUTS.get(command.module, ""), "")
    if not promised or "--dry_run" in command.arguments:
        return []
    path = pathlib.Path(promised)
    pattern = f"{path.stem}-seed*{path.suffix}" if command.flags.get("layout") == "single" else path.name
    found = [output.relative_to(folder) for output in (folder / path.parent).glob(pattern)]
    assert found, f"{command.text}: no {promised}"
    return found


class Kept:
    """Outputs of commands that have succeeded on a page, for the same commands on other pages."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.folder, self.numbers = folder, dict[tuple[str, ...], int]()

    def run(self, command: Command, folder: pathlib.Path) -> None:
        """Runs a command in a folder, or copies its outputs if it has run on inputs of the same names.

        `tganv2 train` and `python -m tganv2_tf.train` are the same command. The variables before a command are not
        compared: they choose among GPUs and threads, of which the tests have one kind.
        """
        inputs = [value for name, value in command.flags.items() if name != OUTPUTS.get(command.module)]
        key = (command.module, *command.arguments, *(value for value in inputs if (folder / value).exists()))
        if key in self.numbers:
            self._copy(command, self.folder / str(self.numbers[key]), folder)
        else:
            run(command, folder)
            self.numbers[key] = len(self.numbers)
            self._copy(command, folder, self.folder / str(self.numbers[key]))

    @staticmethod
    def _copy(command: Command, source: pathlib.Path, target: pathlib.Path) -> None:
        for output in outputs_of(command, source):
            if (source / output).is_dir():
                shutil.copytree(source / output, target / output, dirs_exist_ok=True)
            else:
                (target / output).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(source / output, target / output)


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Kept:
    return Kept(tmp_path_factory.mktemp("kept"))


def run(command: Command, folder: pathlib.Path) -> None:
    """Runs a command in a folder; checks that it succeeds."""
    module = [command.module] if command.module in GRAPHS else ["tests.quickly", command.module]
    environment = {**os.environ, **command.environment, "CUDA_VISIBLE_DEVICES": "-1"}
    result = fork_command(*module, *shrunk(command), env=environment, cwd=folder)
    status = (0, 1) if command.module == "tganv2_tf.doctor" else (0,)  # 1: something does not fit
    assert result.returncode in status, f"{command.text}\n{result.stdout}\n{result.stderr}"


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES)
def test_every_command_of_a_page_runs(page, brought, kept, tmp_path):
    for name in BROUGHT.get(page, []):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).symlink_to(brought / name)
    for command in commands(page):
        for pattern, _, check in ELSEWHERE:
            if re.match(pattern, command.text):
                check(command)
                break
        else:
            assert command.module in SMALL, f"{page}: nothing says how to test {command.text!r}"
            kept.run(command, tmp_path)
    for block in blocks(page, "python"):
        (tmp_path / "script.py").write_text(block)
        result = fork_command("script.py", cwd=tmp_path)
        assert result.returncode == 0 and result.stdout, f"{page}: {result.stderr}"


def test_what_runs_elsewhere_is_on_some_page():
    texts = [command.text for page in PAGES for command in commands(page)]
    for pattern, reason, _ in ELSEWHERE:
        assert any(re.match(pattern, text) for text in texts), (pattern, reason)
        for file in re.findall(r"tests/\w+\.py", reason):
            assert (ROOT / file).is_file(), file


@pytest.mark.parametrize("page", PAGES)
def test_links_and_recipes_lead_somewhere(page):
    text = (ROOT / page).read_text()
    for target in re.findall(r"(?:\]\(|src=\")([^)\"#]+)", text):
        assert "://" in target or ((ROOT / page).parent / target).exists(), f"{page}: {target}"
    for name in re.findall(r"\b(\w+\.flags)\b", text):
        assert (ROOT / "flags" / name).is_file(), f"{page}: {name}"
    assert "{{" not in text, f"{page}: a number that nobody has filled in"


# Errors whose messages docs/troubleshooting.md quotes.
TRAIN = "tganv2_tf.train --model_dir=runs/own"
QUICK = "--frame_strides= --batch_strides= --up_channels=2,2,2 --discriminator_channels=2"  # networks of one level
WRONG = [
    "tganv2_tf.train --flagfile=own_videos.flags --resolution=100",
    "tganv2_tf.train --flagfile=ucf.flags --global_batch_size=12",
    "tganv2_tf.train --flagfile=ucf.flags --data_dir=data/ucf101/train --model_dir=runs/ucf101",
    f"{TRAIN} --flagfile=own_videos.flags --data_dir=data/own/train",
    f"{TRAIN} --flagfile=demo.flags --data_dir=data/own/train --frame_step=4",
    f"{TRAIN} --flagfile=demo.flags --data_dir=data/half/train",
    f"{TRAIN} --flagfile=demo.flags --data_dir=data/damaged/train",
    f"{TRAIN} --flagfile=demo.flags --data_dir=data/own/train --conditional",
    f"{TRAIN} --flagfile=demo.flags --data_dir=data/own/train --init_from=runs/other {QUICK}",
    f"{TRAIN} --flagfile=demo.flags --data_dir=data/own/train --distribution=multi_worker",
    "tganv2_tf.train --flagfile=demo.flags --data_dir=data/own/train --z_dim=128 --model_dir=demo/run",
    "tganv2_tf.train --flagfile=demo_conditional.flags --num_classes=0 --data_dir=data/classes/train "
    "--model_dir=demo/classes",
    "tganv2_tf.generate --model_dir=demo/fresh --output=samples.gif",
    "data_prep.ucf101 --video_dir=videos --split=all --output_dir=data/ucf101/train",
    "data_prep.moving_shapes --output_dir=data/own/train",
]


@pytest.fixture(scope="module")
def troubled(tmp_path_factory):
    """A folder with deliberate faults."""
    folder = tmp_path_factory.mktemp("troubled")
    (folder / "videos").mkdir()
    (folder / "data" / "half" / "train" / UNFINISHED_DIR).mkdir(parents=True)
    for name in ("own", "damaged"):
        data = folder / "data" / name / "train"
        manifest = write_data_set(data, [NUM_FRAMES] * 8, height=32, width=32, num_shards=1)
        file = shard_name("video_folder", "train", 0, 1)
        (data / manifest.shards[0].file).rename(data / file)
        dataclasses.replace(manifest, shards=[dataclasses.replace(manifest.shards[0], file=file)]).save(data)
    os.truncate(folder / "data" / "damaged" / "train" / file, 10_000)
    config = Config(*cli.parse(["--flagfile=demo.flags"], ModelConfig, DataConfig, TrainConfig, EvalConfig))
    for name in ("run", "fresh"):
        record_config(config, folder=str(folder / "demo" / name))
    data = folder / "data" / "classes" / "train"
    write_data_set(data, [NUM_FRAMES] * 2, height=32, width=32, labels=("biking", "diving"))
    conditional = dataclasses.replace(config, model=dataclasses.replace(config.model, conditional=True, num_classes=2))
    record_config(conditional, ("archery", "biking"), str(folder / "demo" / "classes"))
    for name in ("run", "classes"):
        tf.train.CheckpointManager(tf.train.Checkpoint(), str(folder / "demo" / name / "checkpoints"), 1).save()
    return folder


@pytest.mark.slow
def test_what_troubleshooting_quotes_is_what_is_said(troubled, monkeypatch):
    said = []
    for text in WRONG:
        module, *arguments = text.split()
        result = fork_command(module, *arguments, cwd=troubled)
        program = module.rpartition(".")[2]
        assert result.returncode, text
        said += [line for line in result.stderr.splitlines() if line.startswith(f"{program}: ")]
    assert len(said) == len(WRONG), said

    monkeypatch.chdir(troubled)
    said += [f"train: {line}" for line in (not_finite(), out_of_memory(), damaged_record())]
    said += [*doubtful_scores(), f"explore: {no_gradio(monkeypatch)}", no_gpu(monkeypatch)]
    said += re.findall(r"make: OpenCV [^\"]*", (ROOT / "Makefile").read_text())
    lines = [line for block in blocks("docs/troubleshooting.md", "text") for line in block.splitlines()]
    if lanes.is_by_choice():  # the page has the commands of a Python's default lane
        lines = [line.replace("-c constraints.txt", "-c constraints-current.txt") for line in lines]
    assert sorted(lines) == sorted(said)


def no_gpu(monkeypatch):
    """The warning about a large recipe on a CPU."""
    warned = []
    monkeypatch.setattr(distribution.logging, "warning", lambda text, *values: warned.append(text % values))
    distribution.warn_without_gpu(Config())
    return warned[0]


def not_finite():
    with pytest.raises(callbacks.NotFiniteError) as found:
        callbacks.StopOnNonFinite(Config()).on_step_end(1234, {"discriminator_loss": float("nan")})
    return str(loop.with_advice(found.value))


def out_of_memory():
    """The error when Keras' `fit` fails as on a GPU with too little memory."""
    reason = "OOM when allocating tensor with shape[64,512,16,24,24] and type float on device:GPU:0 by GPU_0_bfc"
    model = unittest.mock.MagicMock()
    model.step.numpy.return_value, model.begin_phase.return_value = 0, 1
    model.fit.side_effect = tf.errors.ResourceExhaustedError(None, None, reason)
    with pytest.raises(UserError) as error:
        loop._Run(Config(), model, unittest.mock.MagicMock(), unittest.mock.MagicMock(), chief=False).train()
    return str(error.value)


def doubtful_scores():
    """The warnings about few videos, and about videos of other classes."""
    moments = metrics.Moments()
    moments.mean, moments.count = np.zeros(4096), 4096
    yield from validity.other_classes(["archery", "biking"], ["archery", "diving"])
    yield from validity.too_few(["c3d_fid"], 1000, {"c3d": RealStatistics(moments, np.zeros([0, 4096]))})


def damaged_record():
    """The error for a wrong record checksum, which tf.data reports without the file name."""
    data = DataConfig(data_dir="data/own/train")
    manifest = Manifest.read(data.data_dir)
    flip_byte(pathlib.Path(data.data_dir) / manifest.shards[0].file, 3)
    found = cause_of_error(tf.errors.DataLossError(None, None, "corrupted record at 12345"), manifest, data)
    assert found is not None
    return found


def no_gradio(monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)  # as if it were not installed
    with pytest.raises(UserError) as error:
        server.load_gradio()
    return str(error.value)
