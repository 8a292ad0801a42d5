"""Ways to train, through the real command: several workers, precision, XLA, fine-tuning, kept checkpoints."""

from __future__ import annotations

import json
import os
import pathlib
import signal
import time
from collections.abc import Iterator
from typing import Any

import imageio.v3 as iio
import numpy as np
import pytest
import tensorflow as tf

from tests.conftest import PRECISIONS
from tests.data_sets import write_data_set
from tests.forking import fork_command
from tests.test_commands import MODEL, RUN, fail, step_by_step
from tests.test_evaluate import write_classifier
from tests.worker_processes import Server, Worker, on_loopback
from tganv2_tf.models.latents import sample_latents
from tganv2_tf.pretrained import load_generator
from tganv2_tf.runs import Run
from tganv2_tf.training.previews import PREVIEWS_SEED
from tganv2_tf.video_io import videos

# One level: graphs of more take longer to build without testing more.
SMALL = ["--frame_strides=", "--batch_strides=", "--up_channels=4,4,4", "--discriminator_channels=4"]


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("data")
    write_data_set(folder, [16] * 16, num_shards=4)
    return str(folder)


def train(data_dir: str, model_dir: pathlib.Path | str, *arguments: str, run: Any = fork_command) -> str:
    """Returns the output of the command."""
    where = [f"--data_dir={data_dir}", f"--model_dir={model_dir}"]
    result = run("tganv2_tf.train", *MODEL, *RUN, *where, *arguments)
    assert result.returncode == 0, result.stderr
    return result.stderr


def checkpoints(folder: pathlib.Path) -> list[str]:
    return sorted(path.name for path in folder.glob("*.index"))


@pytest.mark.slow
def test_one_device_compiled_in_pairs_of_steps_and_profiled(data_dir: str, tmp_path: pathlib.Path) -> None:
    intervals = [f"--{what}_every_steps=2" for what in ("log", "preview", "checkpoint")]
    how = ["--distribution=one_device", "--jit_compile", "--steps_per_execution=2", "--profile_steps=4,4"]
    kept = ["--keep_checkpoint_every_steps=4", "--keep_checkpoints=1"]
    train(data_dir, tmp_path, *how, *intervals, *kept, *SMALL, "--r1_weight=0", "--train_steps=6")  # XLA is slow
    assert load_generator(Run.open(str(tmp_path)))[1] == 6
    assert checkpoints(tmp_path / "checkpoints") == ["ckpt-6.index"]
    assert checkpoints(tmp_path / "snapshots") == ["ckpt-4.index"]
    assert list(tmp_path.glob("events/plugins/profile/*/*.xplane.pb")), "TensorBoard's profile tab reads these"
    steps = [
        event.step
        for path in tmp_path.glob("events/events.*")
        for event in tf.compat.v1.train.summary_iterator(str(path))
        if any(value.tag == "train/generator_loss" for value in event.summary.value)
    ]
    assert steps == [2, 4, 6]


@pytest.mark.parametrize("precision", PRECISIONS[1:])
def test_half_precision_trains_and_resumes(precision: str, data_dir: str, tmp_path: pathlib.Path) -> None:
    how = [*SMALL, f"--mixed_precision={precision}", "--r1_every_steps=2", "--gradient_clip_norm=10", "--loss=hinge"]
    how += ["--preview_every_steps=0"]
    train(data_dir, tmp_path, *how, "--train_steps=2")
    said = train(data_dir, tmp_path, *how, "--train_steps=3", "--global_batch_size=8", run=step_by_step)
    assert "Resuming from step 2" in said
    assert "Changed: --train_steps=3 (the run has 2)" in said
    assert "Changed: --global_batch_size=8 (the run has 4)" in said
    if precision == "mixed_float16":
        where = [f"--data_dir={data_dir}", f"--model_dir={tmp_path}"]
        line = fail("tganv2_tf.train", *MODEL, *RUN, *SMALL, *where, "--train_steps=4", status=2)
        assert "--mixed_precision=float32 (the run has mixed_float16)" in line


def test_fine_tuning_begins_with_the_networks_of_another_run(data_dir: str, tmp_path: pathlib.Path) -> None:
    first = tmp_path / "first"
    every = ["--checkpoint_every_steps=1", "--keep_checkpoint_every_steps=1"]
    small = [*SMALL, "--r1_weight=0", "--preview_every_steps=0"]
    train(data_dir, first, *small, "--train_steps=2", *every, run=step_by_step)
    frozen = [*small, "--generator_learning_rate=0", "--discriminator_learning_rate=0", "--train_steps=1"]
    for source, step in ((first, 2), (first / "snapshots" / "ckpt-1", 1)):
        tuned = tmp_path / f"from{step}"
        said = train(data_dir, tuned, f"--init_from={source}", *frozen, "--num_frames=8", run=step_by_step)
        assert f"New run, initialised from {first}" in said
        reader = tf.train.load_checkpoint(str(first / "snapshots" / f"ckpt-{step}"))
        steps = load_generator(Run.open(str(tuned)))[1]
        assert (Run.open(str(tuned)).config.model.num_frames, steps) == (8, 1)
        after = tf.train.load_checkpoint(str(tuned / "checkpoints" / "ckpt-1"))
        for name in ("generator/to_map/kernel", "discriminator/level_discriminators/0/blocks/0/conv1/kernel"):
            key = f"{name}/.ATTRIBUTES/VARIABLE_VALUE"
            assert (after.get_tensor(key) == reader.get_tensor(key)).all()
        # The average starts with the run's average and moves by 1 - 2 / 11 towards the generator in its first step.
        key = "{}/to_map/kernel/.ATTRIBUTES/VARIABLE_VALUE"
        average, network = (reader.get_tensor(key.format(name)) for name in ("ema_generator", "generator"))
        expected = average + 9 / 11 * (network - average)
        np.testing.assert_allclose(after.get_tensor(key.format("ema_generator")), expected, atol=1e-6)
    where = [f"--data_dir={data_dir}", f"--model_dir={tmp_path}/other", f"--init_from={first}", "--train_steps=1"]
    line = fail("tganv2_tf.train", *MODEL, *SMALL, *RUN, *where, "--lstm_channels=8", status=2)
    assert "its networks have different shapes: --lstm_channels=8 (it has 4)" in line
    line = fail("tganv2_tf.train", *MODEL, *SMALL, *RUN, *where, f"--init_from={tmp_path}", status=2)
    assert f"--init_from={tmp_path}: no checkpoint found" in line
    damaged = first / "checkpoints" / "ckpt-2.data-00000-of-00001"
    os.truncate(damaged, damaged.stat().st_size // 2)
    line = fail("tganv2_tf.train", *MODEL, *SMALL, *RUN, *where, status=1)
    assert "ckpt-2: the checkpoint cannot be read" in line


@pytest.fixture
def server(tmp_path: pathlib.Path) -> Iterator[Server]:
    server = Server(tmp_path)
    try:
        yield server
    finally:
        server.close()


def start_workers(server: Server, data_dir: str, model_dir: pathlib.Path, *arguments: str) -> list[Worker]:
    """Starts two workers; those of tests/test_multi_worker.py that are cut off have graphs."""
    where = [f"--data_dir={data_dir}", f"--model_dir={model_dir}", "--distribution=multi_worker"]
    train = ["tests.quickly", "--only_steps", "tganv2_tf.train", *MODEL, *SMALL, *RUN, "--r1_weight=0"]
    temporary = {"TMPDIR": str(model_dir.parent / "temporary")}
    return [server.start(*train, *where, *arguments, env={**variables, **temporary}) for variables in on_loopback(2)]


@pytest.mark.slow
def test_two_workers_train_one_model_and_only_the_chief_writes(
    server: Server, data_dir: str, tmp_path: pathlib.Path
) -> None:
    run = tmp_path / "run"
    (tmp_path / "temporary").mkdir()
    every = [f"--{what}_every_steps=1" for what in ("checkpoint", "keep_checkpoint")]
    write_classifier(tmp_path / "classifier.npz")
    scored = [f"--classifier={tmp_path / 'classifier.npz'}", "--num_samples=10", "--repetitions=2", "--cache_dir="]
    scored += ["--eval_batch_size=4", "--real_passes=1"]
    shown = ["--num_previews=3", "--eval_every_steps=2"]
    workers = start_workers(server, data_dir, run, "--train_steps=2", *every, *scored, *shown)
    server.wait(workers)
    chief, other = (worker.stderr for worker in workers)
    assert [worker.returncode for worker in workers] == [0, 0], chief + other
    assert "2/2" in chief
    assert "2/2" not in other
    assert load_generator(Run.open(str(run)))[1] == 2
    assert checkpoints(run / "checkpoints") == ["ckpt-1.index", "ckpt-2.index"]
    names = ["best", "checkpoints", "config.json", "evaluations", "events", "snapshots"]
    assert sorted(path.name for path in run.glob("[!.]*")) == names
    assert list((tmp_path / "temporary").iterdir()) == []
    assert sorted(path.suffix for path in run.glob("events/*")) == [".hparams", ".v2"]
    # The samples were divided among them: scores and previews are those of a single process.
    (report,) = run.glob("evaluations/*.json")
    alone = step_by_step("tganv2_tf.evaluate", f"--model_dir={run}", *scored, f"--output={tmp_path / 'alone.json'}")
    assert alone.returncode == 0, alone.stderr
    together, expected = (json.loads(path.read_text())["scores"] for path in (report, tmp_path / "alone.json"))
    for name, score in expected.items():
        np.testing.assert_allclose(together[name]["values"], score["values"], rtol=1e-4)
    config, (generator, _) = Run.open(run).config, load_generator(Run.open(run))
    z = sample_latents(3, config.model.z_dim, tf.constant([config.train.seed, PREVIEWS_SEED]))
    grid = videos.grid(videos.to_uint8(generator(z, level=1).numpy()))
    (event,) = (
        value.tensor.string_val[2]
        for path in run.glob("events/*.v2")
        for event in tf.compat.v1.train.summary_iterator(str(path))
        for value in event.summary.value
        if value.tag == "samples/level_1"
    )
    found, wanted = (iio.imread(content, extension=".gif") for content in (event, videos.gif_bytes(grid, 8.0)))
    np.testing.assert_array_equal(found, wanted)
    # A signal to one worker stops both at the same step; the run resumes from there.
    workers = start_workers(server, data_dir, run, "--train_steps=100000", "--preview_every_steps=0")
    deadline = time.monotonic() + 200
    while (
        len(list(run.glob("events/*.v2"))) < 2
        or b"generator_loss" not in max(run.glob("events/*.v2"), key=os.path.getmtime).read_bytes()
    ):
        assert all(worker.returncode is None for worker in workers)
        assert time.monotonic() < deadline
        time.sleep(0.2)
    os.kill(workers[1].pid, signal.SIGTERM)
    server.wait(workers)
    chief, other = (worker.stderr for worker in workers)
    assert [worker.returncode for worker in workers] == [143, 143], chief + other
    step = load_generator(Run.open(str(run)))[1]
    assert "Resuming from step 2" in chief
    assert f"Stopped at step {step} and saved" in chief


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({}, "TF_CONFIG is not set, nor is this a Slurm step; set it on every worker, or use srun"),
        ({"TF_CONFIG": "{"}, "TF_CONFIG cannot be used"),
        ({"TF_CONFIG": '{"cluster": {"ps": ["a:1"]}}'}, "TF_CONFIG cannot be used"),
        ({"SLURM_PROCID": "0"}, "Slurm's environment cannot be used"),
    ],
)
def test_workers_that_nobody_names_are_an_error(variables: dict[str, str], message: str) -> None:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("TF_CONFIG", "SLURM"))}
    flags = ["--distribution=multi_worker", "--dry_run"]
    result = fork_command("tganv2_tf.train", *MODEL, *RUN, *flags, env={**clean, **variables})
    assert result.returncode == 2, result.stderr
    assert "Traceback" not in result.stderr
    assert f"train: --distribution=multi_worker: {message}" in result.stderr


def test_slurm_says_who_the_workers_are(monkeypatch: pytest.MonkeyPatch) -> None:
    from tganv2_tf.training.distribution import cluster_resolver

    monkeypatch.delenv("TF_CONFIG", raising=False)
    for name, value in {
        "PROCID": "1",
        "STEP_NUM_TASKS": "3",
        "STEP_NODELIST": "node[4-5]",
        "STEP_TASKS_PER_NODE": "2,1",
    }.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    resolver = cluster_resolver()
    assert resolver.cluster_spec().as_dict() == {"worker": ["node4:8888", "node4:8889", "node5:8888"]}
    assert (resolver.task_type, resolver.task_id) == ("worker", 1)
