"""Training on a real Ray cluster of this machine, through the real command, with a killed worker."""

from __future__ import annotations

import os
import pathlib
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from tests import buckets, ray_nodes
from tests.conftest import ROOT, TINY_FLAGS, tiny_config
from tests.data_sets import write_data_set
from tests.worker_processes import Server, on_loopback
from tganv2_tf import cli, storage, train
from tganv2_tf.config import Config, DataConfig, EvalConfig, ModelConfig, TrainConfig
from tganv2_tf.errors import ConfigError, UserError
from tganv2_tf.runs import checkpoint_files, latest_checkpoint, record_config
from tganv2_tf.storage import files
from tganv2_tf.training import ray_training
from tganv2_tf.training.compatibility import check_run
from tganv2_tf.training.ray_training import Cluster

SMALL = ["--frame_strides=", "--batch_strides=", "--up_channels=4,4,4", "--discriminator_channels=4", "--r1_weight=0"]
RUN = ["--global_batch_size=4", "--preview_every_steps=0", "--checkpoint_every_steps=1"]
# Each row of scalars uploads the events, whose names contain the chief's process.
RUN += ["--keep_checkpoint_every_steps=1", "--log_every_steps=1"]
COMMAND = ["tganv2_tf.train", *TINY_FLAGS, *SMALL, *RUN, "--learning_rate_decay=none"]
ON_RAY = ["--distribution=ray", "--cpus_per_worker=0.5"]  # starts a cluster, also on a machine with one processor


@pytest.fixture
def data_dir(tmp_path: pathlib.Path) -> str:
    write_data_set(tmp_path / "data", [8] * 16, num_shards=4)
    return str(tmp_path / "data")


@pytest.fixture
def bucket(data_dir: str) -> Iterator[str]:
    """A bucket with the data set in `data`, for this process and its children."""
    with buckets.bucket("ray-training") as address:
        storage.copy_folder(data_dir, f"{address}/data", "manifest.json")
        yield address


@pytest.fixture
def server(tmp_path: pathlib.Path, bucket: str) -> Iterator[Server]:
    server = Server(tmp_path)
    yield server
    server.close()


class Driver:
    """Runs the command on Ray in a separate session."""

    def __init__(self, folder: pathlib.Path, *arguments: str) -> None:
        self.log = folder / "driver.log"
        inherited = {name: value for name, value in os.environ.items() if name not in ("RAY_ADDRESS", "TF_CONFIG")}
        with open(self.log, "w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", *COMMAND, *ON_RAY, *arguments],
                cwd=ROOT,
                env={
                    **inherited,
                    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
                    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
                },
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    @property
    def said(self) -> str:
        return self.log.read_text()

    def wait_until(self, condition: Callable[[], Any]) -> None:
        def reached() -> object:
            assert self.process.poll() is None, self.said
            return condition()

        try:
            ray_nodes.wait_until(reached, 300)
        except AssertionError as error:
            raise AssertionError(self.said) from error

    def descendants(self) -> list[int]:
        found = [self.process.pid]
        for pid in found:
            found += ray_nodes.children(pid)
        return found

    def close(self) -> None:
        """Ends the remaining processes of the command and its cluster."""
        for pid in self.descendants():
            ray_nodes.end(pid)
        self.process.wait()


def step(model_dir: str) -> int:
    return int((latest_checkpoint(model_dir) or "-0").rpartition("-")[2])


def chiefs(model_dir: str) -> list[int]:
    """Returns the processes that have written events, newest last: file names contain the second and their number."""
    names = [name for name in storage.names(f"{model_dir}/events") if name.endswith(".v2")]
    return [int(name.split(".")[-3]) for name in sorted(names, key=lambda name: int(name.split(".")[3]))]


def copy_checkpoint(prefix: str, folder: pathlib.Path) -> pathlib.Path:
    """Copies it from a bucket; returns the new prefix."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in checkpoint_files(prefix):
        storage.copy(path, str(folder / os.path.basename(path)))
    return folder / os.path.basename(prefix)


def weights(prefix: pathlib.Path) -> dict[str, np.ndarray]:
    reader = tf.train.load_checkpoint(str(prefix))
    names = [name for name in reader.get_variable_to_shape_map() if name.endswith("VARIABLE_VALUE")]
    return {name: reader.get_tensor(name) for name in names}


@pytest.mark.slow
@ray_nodes.needs_ray
def test_a_chief_that_is_killed_costs_nothing_but_time(bucket: str, tmp_path: pathlib.Path, server: Server) -> None:
    """Data and run are in a bucket."""
    run = f"{bucket}/run"
    where = [f"--data_dir={bucket}/data", f"--model_dir={run}"]
    driver = Driver(tmp_path, *where, "--num_workers=2", "--train_steps=100000")
    try:
        driver.wait_until(lambda: step(run) >= 2 and chiefs(run))
        ray_nodes.end(chiefs(run)[-1])
        driver.wait_until(lambda: "Resuming from step" in driver.said)
        resumed = int(re.findall(r"Resuming from step (\d+)\.", driver.said)[-1])
        driver.wait_until(lambda: step(run) >= resumed + 1)
        processes = driver.descendants()
        driver.process.send_signal(signal.SIGINT)
        assert driver.process.wait(60) == 130, driver.said
    finally:
        driver.close()
    said = driver.said
    assert "Traceback" not in said
    assert re.search(r"Ray: lost worker [01, ]+; all workers restart, 1 of 3 \(", said)
    assert resumed >= 2, "it begins at the newest checkpoint"
    last = step(run)
    assert f"Stopped at step {last} and saved" in said
    assert f"] Step {last}: discriminator_gradient_norm" in said, "the metrics of the last step"
    assert len(set(chiefs(run))) == 2, said
    ray_nodes.wait_until(lambda: not any(pathlib.Path(f"/proc/{pid}/cmdline").exists() for pid in processes[1:]))
    # From a checkpoint before the kill, workers named by TF_CONFIG reach the weights that Ray's had after it.
    other = tmp_path / "other"
    copy_checkpoint(f"{run}/snapshots/ckpt-{resumed - 1}", other / "checkpoints")
    storage.copy(f"{run}/config.json", str(other / "config.json"))
    flags = [*COMMAND, where[0], f"--model_dir={other}", f"--train_steps={resumed + 1}"]
    workers = [server.start(*flags, "--distribution=multi_worker", env=task) for task in on_loopback(2)]
    server.wait(workers)
    assert [worker.returncode for worker in workers] == [0, 0], workers[0].stderr
    assert f"Resuming from step {resumed - 1}." in workers[0].stderr
    assert "Changed: --distribution=multi_worker (the run has ray)." in workers[0].stderr
    assert "the order of the data changes" not in workers[0].stderr
    kept = f"snapshots/ckpt-{resumed + 1}"
    found, expected = weights(copy_checkpoint(f"{run}/{kept}", tmp_path / "found")), weights(other / kept)
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-5, atol=1e-6, err_msg=name)


@pytest.mark.slow
@ray_nodes.needs_ray
def test_a_damaged_shard_ends_the_run_with_one_line_and_no_restart(data_dir: str, tmp_path: pathlib.Path) -> None:
    for shard in pathlib.Path(data_dir).glob("*.tfrecord*"):
        content = bytearray(shard.read_bytes())
        content[len(content) // 2] ^= 0xFF
        shard.write_bytes(content)
    driver = Driver(tmp_path, f"--data_dir={data_dir}", f"--model_dir={tmp_path}/run", "--train_steps=9")
    try:
        assert driver.process.wait(120) == 1, driver.said
        assert "train: " in driver.said, driver.said
    finally:
        driver.close()
    # The command's message. A progress bar may be before it on its line, and lines of Ray's workers may follow.
    messages = [line.partition("train: ")[2] for line in driver.said.splitlines() if "train: " in line]
    assert messages and str(data_dir) in messages[-1], driver.said
    assert "Traceback" not in driver.said and "workers restart" not in driver.said


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"num_workers": 0}, "--num_workers=0: valid: a whole number of at least 1"),
        ({"cpus_per_worker": 0.0}, "--cpus_per_worker=0.0: valid: a number above 0"),
        ({"worker_restarts": -1}, "--worker_restarts=-1: valid: a whole number of at least 0"),
        ({"gpus_per_worker": -1}, "--gpus_per_worker=-1: valid"),
    ],
)
def test_clusters_that_cannot_be_are_refused(flags: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}"):
        Cluster(**flags)


def main(*flags: str) -> int:
    """Runs the command in this process."""
    options = (train.Command, ModelConfig, DataConfig, TrainConfig, EvalConfig, Cluster)
    return train.main(*cli.parse([*COMMAND[1:], *flags], *options))


@pytest.mark.parametrize("flag", ["num_workers=2", "ray_address=auto", "gpus_per_worker=1", "worker_restarts=0"])
def test_flags_of_ray_are_refused_elsewhere(flag: str) -> None:
    with pytest.raises(ConfigError, match=f"^--{flag}: valid: with --distribution=ray only$"):
        main(f"--{flag}", "--dry_run")


def test_a_dry_run_shows_a_worker_and_needs_no_ray(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    flags = ["--dry_run", "--distribution=ray", "--num_workers=2"]
    assert main(*flags) == 0
    line = "devices of this worker (of 2): /job:worker/replica:0/task:0/device:CPU:0; 2 clips per step on each"
    assert line in capsys.readouterr().out.splitlines()
    assert main(*flags, "--gpus_per_worker=2") == 0
    assert "task:0/device:GPU:0, /job:worker/replica:0/task:0/device:GPU:1; 1 clips" in capsys.readouterr().out


def test_what_is_wrong_is_said_before_ray_is_asked(
    data_dir: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    on_ray = ["--distribution=ray", "--num_workers=2"]
    where = [f"--data_dir={data_dir}", f"--model_dir={tmp_path}/run"]
    with pytest.raises(ConfigError, match=r"^--global_batch_size=4: 3 replicas cannot share it"):
        main(*where, "--distribution=ray", "--num_workers=3")
    with pytest.raises(UserError, match="none: no such folder; `python -m tganv2_tf` lists"):
        main(*on_ray, f"--data_dir={tmp_path}/none", where[1])
    with pytest.raises(ConfigError, match=r"^--model_dir is missing"):
        main(*on_ray, where[0])
    assert not (tmp_path / "run").exists()
    with pytest.raises(
        ConfigError, match=r"^Ray cannot be imported .*pip install -r requirements-ray\.txt -c constraints\S*\.txt$"
    ):
        main(*on_ray, *where)
    with files.locked(tmp_path / "run" / ".lock", "a test"), pytest.raises(UserError, match="another process"):
        main(*on_ray, *where)


@pytest.mark.parametrize("other", ["mirrored", "one_device", "multi_worker"])
def test_a_run_may_leave_ray_and_come_back(other: str, tmp_path: pathlib.Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "ckpt-1.index").touch()
    for before, now in (("ray", other), (other, "ray")):
        record_config(tiny_config(model_dir=str(tmp_path), distribution=before))
        changes = check_run(tiny_config(model_dir=str(tmp_path), distribution=now))
        assert changes == [f"--distribution={now} (the run has {before})"]


def test_workers_find_what_the_driver_has_named(monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> None:
    monkeypatch.chdir(tmp_path)
    config = Config(
        data=DataConfig(data_dir="s3://bucket/data"),
        train=TrainConfig(model_dir="run", init_from="../first"),
        eval=EvalConfig(classifier="own.npz", cache_dir="~/cache"),
    )
    placed = ray_training._with_absolute_paths(config)
    assert placed.data == config.data
    assert (placed.train.model_dir, placed.train.init_from) == (f"{tmp_path}/run", f"{tmp_path.parent}/first")
    assert (placed.eval.classifier, placed.eval.c3d_mean) == (f"{tmp_path}/own.npz", "")
    assert placed.eval.cache_dir == os.path.expanduser("~/cache")
