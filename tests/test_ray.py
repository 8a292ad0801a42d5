"""Preparation, generation and scores on a real Ray cluster of several nodes: the same results as on one machine."""

from __future__ import annotations

import functools
import json
import pathlib
import subprocess
import sys
import types
from collections.abc import Iterator

import numpy as np
import pytest

from data_prep import ray_shards
from data_prep.moving_shapes import write_video
from data_prep.readers import read_resized
from data_prep.shard_writer import ShardTask, Video
from tests import buckets
from tests.conftest import ROOT, tiny_config
from tests.data_sets import flip_byte, write_data_set
from tests.forking import fork_command
from tests.ray_nodes import Nodes, needs_ray, nodes, wait_until
from tests.test_docs import commands
from tests.test_evaluate import write_classifier
from tganv2_tf import generate, ray_cluster, storage
from tganv2_tf.errors import ConfigError, UserError
from tganv2_tf.runs import record_config
from tganv2_tf.training.checkpoints import CheckpointFolder
from tganv2_tf.training.loop import make_model

pytestmark = [needs_ray, pytest.mark.slow]
BUCKET = "s3://ray-tasks"


@pytest.fixture(scope="module")
def bucket() -> Iterator[None]:
    """A bucket for this process and its children."""
    with buckets.bucket("ray-tasks"):
        yield


@pytest.fixture(scope="module")
def cluster(bucket: None) -> Iterator[Nodes]:
    with nodes(1, 1) as made:
        yield made


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, bucket: None) -> pathlib.Path:
    """A folder with shards, a classifier and a run, all copied to the bucket."""
    folder = tmp_path_factory.mktemp("ray")
    write_data_set(folder / "data", [20, 24, 30], num_shards=1, labels=("a", "b", "c"))
    write_classifier(folder / "classifier.npz")
    config = tiny_config(data={"data_dir": str(folder / "data"), "flip": False}, model_dir=str(folder / "run"))
    model = make_model(config)
    CheckpointFolder(model).save(0)
    record_config(config)
    for name in ("data", "run"):
        storage.copy_folder(str(folder / name), f"{BUCKET}/{name}", "nothing")
    storage.copy(str(folder / "classifier.npz"), f"{BUCKET}/classifier.npz")
    return folder


def start(cluster: Nodes, module: str, *flags: str) -> subprocess.Popen[str]:
    """Starts a command of docs/distributed.md; these flags are appended and take precedence."""
    (command,) = (
        command
        for command in commands("docs/distributed.md")
        if command.module == module and "--runner=ray" in command.arguments
    )
    here = [f"--ray_address={cluster.address}", "--gpus_per_task=0"]
    words = [sys.executable, "-m", module, *command.arguments, *flags, *here]
    return subprocess.Popen(words, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def finish(process: subprocess.Popen[str]) -> str:
    """Returns the output of a successful command."""
    try:
        output, errors = process.communicate(timeout=280)
    finally:
        process.kill()
    assert process.returncode == 0, errors
    assert "Traceback" not in errors and "raylet" not in output + errors
    return output + errors


def bytes_in(folder: str) -> dict[str, bytes]:
    return {
        name: storage.read_bytes(storage.join(folder, name))
        for name in storage.names(folder)
        if not storage.is_folder(storage.join(folder, name))
    }


def test_a_lost_node_costs_nothing_but_time(cluster: Nodes, tmp_path: pathlib.Path) -> None:
    rng = np.random.default_rng(0)
    (tmp_path / "videos").mkdir()
    listed = [f"Jump/v_Jump_g01_c{number:03d}.avi" for number in range(128)]  # eight shards
    for name in listed:
        write_video(tmp_path / "videos" / pathlib.Path(name).name, rng.integers(0, 256, (16, 16, 16, 3), np.uint8))
    (tmp_path / "trainlist01.txt").write_text("".join(f"{name} 1\n" for name in listed))
    (tmp_path / "classInd.txt").write_text("1 Jump\n")
    how = [f"--video_dir={tmp_path / 'videos'}", f"--split_dir={tmp_path}", "--split=train", "--resolution=16"]
    command = start(cluster, "data_prep.ucf101", *how, f"--output_dir={BUCKET}/prepared")
    wait_until(lambda: cluster.busy(1) or command.poll() is not None)
    cluster.kill(1)
    assert "is lost; others take over its work" in finish(command)
    local = fork_command("data_prep.ucf101", *how, f"--output_dir={tmp_path / 'local'}")
    assert local.returncode == 0, local.stderr
    expected = bytes_in(str(tmp_path / "local"))
    assert len(expected) == 9
    assert bytes_in(f"{BUCKET}/prepared") == expected
    cluster.add(1)
    # Existing outputs are not made again, wherever they were made.
    assert "already complete" in fork_command("data_prep.ucf101", *how, f"--output_dir={BUCKET}/prepared").stdout


def test_the_same_faults_are_found(cluster: Nodes, tmp_path: pathlib.Path) -> None:
    write_data_set(tmp_path / "data", [8] * 12, num_shards=6)
    flip_byte(sorted((tmp_path / "data").glob("*.tfrecord"))[2], 1)
    where = f"--data_dir={tmp_path / 'data'}"
    process = start(cluster, "data_prep.verify", where, f"--contact_sheet={tmp_path / 'ray.png'}")
    output, errors = process.communicate(timeout=280)
    local = fork_command("data_prep.verify", where, f"--contact_sheet={tmp_path / 'local.png'}")
    assert "2 faults" in local.stderr.splitlines()[-1]
    assert (process.returncode, errors.splitlines()[-1]) == (1, local.stderr.splitlines()[-1])
    assert output.replace("ray.png", "local.png") == local.stdout
    assert (tmp_path / "ray.png").read_bytes() == (tmp_path / "local.png").read_bytes()


def test_scores_do_not_depend_on_who_computes_them(cluster: Nodes, run: pathlib.Path, tmp_path: pathlib.Path) -> None:
    def flags(root: str, output: str) -> list[str]:
        paths = [f"--model_dir={root}/run", f"--data_dir={root}/data", f"--classifier={root}/classifier.npz"]
        sizes = ["--num_samples=10", "--repetitions=2", "--eval_batch_size=3", "--real_passes=3", "--seed=5"]
        scores = "--scores=inception_score,c3d_fid,precision,density"
        return [*paths, *sizes, scores, "--cache_dir=", f"--output={output}"]

    finish(start(cluster, "tganv2_tf.evaluate", *flags(BUCKET, f"{tmp_path}/ray.json")))
    local = fork_command("tganv2_tf.evaluate", *flags(str(run), f"{tmp_path}/local.json"))
    assert local.returncode == 0, local.stderr
    found, expected = (json.loads((tmp_path / f"{name}.json").read_text())["scores"] for name in ("ray", "local"))
    assert len(set(expected["c3d_fid"]["values"])) == 2, "of other videos in each repetition"
    for name, score in expected.items():
        np.testing.assert_allclose(found[name]["values"], score["values"], rtol=1e-4, atol=1e-6)


def test_files_of_many_seeds(cluster: Nodes, run: pathlib.Path, tmp_path: pathlib.Path) -> None:
    how = ["--seeds=3,5-9", "--layout=single", "--batch_size=2", "--num_frames=5"]
    said = finish(
        start(cluster, "tganv2_tf.generate", f"--model_dir={BUCKET}/run", *how, f"--output={BUCKET}/generated/v.npz")
    )
    assert f"6 videos: {BUCKET}/generated/v-seed*.npz" in said
    local = fork_command("tganv2_tf.generate", f"--model_dir={run}/run", *how, f"--output={tmp_path}/v.npz")
    assert local.returncode == 0, local.stderr
    names = [f"v-seed{seed}.npz" for seed in (3, 5, 6, 7, 8, 9)]
    assert sorted(storage.names(f"{BUCKET}/generated")) == names
    for name in names:
        storage.copy(f"{BUCKET}/generated/{name}", str(tmp_path / "other.npz"))
        with np.load(tmp_path / "other.npz", allow_pickle=False) as found, np.load(tmp_path / name) as expected:
            assert found["videos"].shape == (1, 5, 16, 16, 3)
            for key in expected.files:
                np.testing.assert_array_equal(found[key], expected[key])


def test_errors_of_nodes_are_one_line(cluster: Nodes, tmp_path: pathlib.Path) -> None:
    options = ray_cluster.RunnerOptions("ray", cluster.address)
    with ray_cluster.connected(cluster.address):
        with pytest.raises(UserError, match=r"^--i3d is wrong$"):
            list(ray_cluster.run_tasks(_wrong, ["--i3d"], options))
        with pytest.raises(UserError, match=r"^No such file or directory: .*nothing \(on node .*\)$"):
            list(ray_cluster.run_tasks(pathlib.Path.read_text, [tmp_path / "nothing"], options))
        with pytest.raises(RuntimeError, match=r"ZeroDivisionError"):
            list(ray_cluster.run_tasks(_inverse, [1, 0], options))
        ordered = ray_cluster.run_tasks(_inverse, iter([4, 2, 1]), options, at_once=2, ordered=True)
        assert list(ordered) == [(4, 0.25), (2, 0.5), (1, 1.0)]
        assert sorted(ray_cluster.run_tasks(_inverse, [1, 2], options, at_once=1)) == [(1, 1.0), (2, 0.5)]


def _wrong(flag: str) -> None:
    raise UserError(f"{flag} is wrong")


def _inverse(number: int) -> float:
    return 1 / number


def test_what_ray_waits_for_is_said(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """Eight processors, but not on one node; then nodes that join and leave."""
    nodes = [
        {"Alive": True, "NodeName": name, "NodeID": f"{name}-0123456789", "Resources": {"CPU": 4.0, "GPU": gpus}}
        for name, gpus in (("a", 0.0), ("b", 1.0))
    ]
    monkeypatch.setitem(sys.modules, "ray", types.SimpleNamespace(nodes=lambda: nodes))
    monkeypatch.setattr(ray_cluster, "POLL_SECONDS", 0.0)

    def said() -> list[str]:
        lines = [record.getMessage() for record in caplog.records]
        caplog.clear()
        return lines

    ray_cluster.ClusterMonitor({"CPU": 4.0, "GPU": 0.0}, 2)
    assert said() == []
    ray_cluster.ClusterMonitor({"CPU": 3.0, "GPU": 0.5}, 2)
    assert said() == ["Ray: no resources for 2 times 3 CPU and 0.5 GPU on the current nodes; waiting for others."]
    monitor = ray_cluster.ClusterMonitor({"CPU": 8.0})
    assert said() == ["Ray: no resources for 8 CPU on the current nodes; waiting for others."]
    nodes.append({**nodes[0], "NodeName": "c", "Resources": {"CPU": 8.0}})
    monitor.check()
    assert said() == []
    nodes[2] = {**nodes[2], "Alive": False}
    monitor.check()
    gone = "Ray: node c (a-012345) is lost; others take over its work."
    assert said() == [gone, "Ray: no resources for 8 CPU on the current nodes; waiting for others."]


def test_a_node_that_does_not_see_the_folder_of_the_output(tmp_path: pathlib.Path) -> None:
    command = generate.Command(model_dir="unused", output=f"{tmp_path}/there/v.png", layout="single")
    with pytest.raises(UserError, match=r"^--output=.*v\.png: node .* cannot access .*there; specify a folder that"):
        generate.write_part(command)


def test_a_node_that_sees_no_videos(tmp_path: pathlib.Path) -> None:
    videos = (Video("a", str(tmp_path / "a.avi")), Video("b", str(tmp_path / "b.avi")))
    reader = functools.partial(read_resized, geometry="crop", resolution=16)
    task = ShardTask(0, f"{tmp_path}/x", f"{tmp_path}/x.tmp", videos, reader, "png", 92, 16, 1024)
    with pytest.raises(UserError, match=r"a\.avi: node .* sees none of the videos of x; put them on a disk that all"):
        ray_shards.write_on_node(task, str(tmp_path), 5.0)


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        (["--runner=ray", "--ray_address=127.0.0.1:9"], "--ray_address=127.0.0.1:9: nothing answers at 127.0.0.1:9"),
        (["--runner=ray", "--ray_address=words"], "--ray_address=words: cannot use words: Invalid address format"),
        (["--ray_address=auto"], "--ray_address=auto: valid: with --runner=ray only"),
        (["--runner=ray", "--ray_address=a..b:1"], "--ray_address=a..b:1: nothing answers at a..b:1: "),
        (
            ["--runner=ray", "--output=frames/"],
            "--runner=ray: valid: with one file per video, not folders of frames",
        ),
        (["--runner=ray", "--gpus_per_task=-1"], "--gpus_per_task=-1.0: valid: a number of at least 0"),
        (["--runner=slurm"], "flag --runner=slurm: value should be one of <local|ray>"),
    ],
)
def test_wrong_flags_are_one_line(run: pathlib.Path, tmp_path: pathlib.Path, flags: list[str], line: str) -> None:
    how = [f"--model_dir={run}/run", "--layout=single", f"--output={tmp_path}/v.png"]
    result = fork_command("tganv2_tf.generate", *how, *flags)
    assert result.returncode in (1, 2)
    assert line in result.stderr
    assert result.stderr.count("\n") == 1


def test_ray_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(
        ConfigError, match=r"Ray cannot be imported .*; pip install -r requirements-ray\.txt -c constraints"
    ):
        ray_cluster.connected().__enter__()
