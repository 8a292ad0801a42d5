"""Multi-worker training: it computes the same as one process, and handles the loss of a worker.

On loopback and, if network namespaces are available, on separate networks, where a machine can be disconnected.
"""

from __future__ import annotations

import pathlib
import re
import time
from collections.abc import Iterator

import numpy as np
import pytest
import tensorflow as tf

from tests import worker_steps
from tests.data_sets import write_data_set
from tests.test_training_commands import MODEL, RUN, SMALL
from tests.worker_processes import Server, Worker, ip, networks, on_loopback, tf_configs, why_no_namespaces
from tganv2_tf.errors import ConfigError
from tganv2_tf.pretrained import load_generator
from tganv2_tf.runs import Run
from tganv2_tf.training.distribution import HEARTBEAT_SECONDS, HEARTBEAT_VARIABLE, make_strategy

NO_NAMESPACES = why_no_namespaces()
LOST = re.compile(r"train: the run ended at step \d+: another worker was lost or cannot be reached")
TRAIN = [*MODEL, *SMALL, *RUN, "--r1_weight=0", "--distribution=multi_worker", "--deterministic"]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("processes"))
    try:
        yield server
    finally:
        server.close()


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("data")
    write_data_set(folder, [8] * 12, num_shards=4)  # three steps see all of them once
    return str(folder)


@pytest.mark.slow
def test_two_and_four_workers_take_the_steps_of_one(server: Server, tmp_path: pathlib.Path) -> None:
    numbers, workers = (1, 2, 4), []
    for number in numbers:
        for index, variables in enumerate(on_loopback(number) if number > 1 else [{}]):
            eagerly = [] if number == 2 else ["tests.quickly"]
            path = tmp_path / f"{index}of{number}.npz"
            workers.append(server.start(*eagerly, "tests.worker_steps", str(path), env=variables))
    server.wait(workers)
    assert [worker.returncode for worker in workers] == [0] * 7, "\n".join(worker.stderr for worker in workers)
    alone = dict(np.load(tmp_path / "0of1.npz"))
    assert alone["losses"].shape == (worker_steps.STEPS, 7)
    weights = [name for name in alone if name.startswith(("G/", "D/", "EMA/"))]
    moves = {name: np.abs(alone[name] - alone[f"before/{name}"]).max() for name in weights}
    assert min(max(moves[name] for name in weights if name.startswith(of)) for of in ("G/", "D/", "EMA/")) > 0.01
    for number in numbers[1:]:
        of_all = [dict(np.load(tmp_path / f"{index}of{number}.npz")) for index in range(number)]
        for together in of_all:
            np.testing.assert_allclose(together["losses"], alone["losses"], rtol=1e-3, atol=1e-4)
            for name in weights:
                atol = max(1e-3 * moves[name], 1e-6)
                np.testing.assert_allclose(together[name], alone[name], rtol=0, atol=atol, err_msg=name)
                np.testing.assert_array_equal(together[name], of_all[0][name], err_msg=name)
            assert together["used"].tolist() == [worker_steps.STEPS * worker_steps.BATCH // number] * number


def checkpoint_files(run: pathlib.Path) -> list[str]:
    return sorted(path.name for path in (run / "checkpoints").glob("ckpt-*"))


def variables_of(run: pathlib.Path, step: int) -> dict[str, np.ndarray]:
    reader = tf.train.load_checkpoint(str(run / "checkpoints" / f"ckpt-{step}"))
    # The last one is a counter of Python's, not part of the training state.
    names = [name for name in reader.get_variable_to_shape_map() if name.endswith("VARIABLE_VALUE")]
    return {name: reader.get_tensor(name) for name in names}


STEPS, WORKERS = 6, 2
TOGETHER = [f"--train_steps={STEPS}", "--checkpoint_every_steps=2", "--keep_checkpoints=1", "--preview_every_steps=0"]


@pytest.fixture(scope="module")
def undisturbed(server: Server, data_dir: str, tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A run of two workers. If this machine supports network namespaces, Slurm's variables define the workers."""
    run = tmp_path_factory.mktemp("undisturbed")
    command = ["tganv2_tf.train", *TRAIN, *TOGETHER, f"--data_dir={data_dir}", f"--model_dir={run}"]
    if NO_NAMESPACES:
        workers = [server.start(*command, env=variables) for variables in on_loopback(WORKERS)]
        server.wait(workers)
    else:
        step = {"STEP_NUM_TASKS": f"{WORKERS}", "STEP_NODELIST": "localhost", "STEP_TASKS_PER_NODE": f"{WORKERS}"}
        tasks = [{**step, "PROCID": f"{index}"} for index in range(WORKERS)]
        slurm = [{f"SLURM_{name}": value for name, value in task.items()} for task in tasks]
        with networks(1) as (_, (network,)):  # the resolver's ports start at 8888, which may be in use otherwise
            workers = [server.start(*command, env=variables, namespace=network) for variables in slurm]
            server.wait(workers)
    assert [worker.returncode for worker in workers] == [0] * WORKERS, "\n".join(w.stderr for w in workers)
    return run


@pytest.mark.slow
@pytest.mark.skipif(bool(NO_NAMESPACES), reason=NO_NAMESPACES)
def test_workers_that_slurm_names_train_together(undisturbed: pathlib.Path) -> None:
    assert load_generator(Run.open(str(undisturbed)))[1] == STEPS
    # One position in the data per worker.
    position = variables_of(undisturbed, STEPS)["data_position/.ATTRIBUTES/VARIABLE_VALUE"]
    assert position.tolist() == [4 // WORKERS * STEPS] * WORKERS


@pytest.mark.slow
def test_a_killed_chief_that_comes_back_costs_only_the_steps_since_the_last_checkpoint(
    server: Server, data_dir: str, undisturbed: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    run, temporary = tmp_path / "run", tmp_path / "temporary"
    temporary.mkdir()
    command = ["tganv2_tf.train", *TRAIN, *TOGETHER, f"--data_dir={data_dir}", f"--model_dir={run}"]
    environments = [
        {**variables, "TMPDIR": str(temporary), HEARTBEAT_VARIABLE: "10"} for variables in on_loopback(WORKERS)
    ]
    lives: list[list[Worker]] = [[server.start(*command, env=variables)] for variables in environments]
    deadline = time.monotonic() + 280
    while not (run / "checkpoints" / "ckpt-2.index").exists():
        assert time.monotonic() < deadline and all(of_one[-1].returncode is None for of_one in lives)
        time.sleep(0.01)
    lives[0][0].kill()
    # Like Kubernetes: a failed worker is restarted at once, although the others may not have ended yet.
    while any(of_one[-1].returncode != 0 for of_one in lives):
        for index, of_one in enumerate(lives):
            if of_one[-1].returncode:
                of_one.append(server.start(*command, env=environments[index]))
        assert time.monotonic() < deadline and sum(map(len, lives)) < 8 * WORKERS, [life[-1].stderr for life in lives]
        time.sleep(0.2)
    for index, of_one in enumerate(lives):
        assert len(of_one) > 1, "the others cannot go on"
        for life, worker in enumerate(of_one[:-1]):
            lines = [line for line in worker.stderr.splitlines() if line.startswith("train: ")]
            assert "Traceback" not in worker.stderr
            if (index, life) == (0, 0):
                assert (worker.returncode, lines) == (-9, [])
            elif life == 0:
                assert worker.returncode == 1 and len(lines) == 1 and LOST.fullmatch(lines[0]), worker.stderr
            else:
                assert worker.returncode in (1, 2) and len(lines) == 1, worker.stderr
    going_on = re.search(r"Resuming from step (\d+)\.", lives[0][-1].stderr)
    assert going_on and 2 <= int(going_on[1]) < STEPS
    # Only complete checkpoints, all written by the chief.
    assert checkpoint_files(run) == [f"ckpt-{STEPS}.{part}" for part in ("data-00000-of-00001", "index")]
    assert sorted(path.name for path in run.glob("[!.]*")) == ["checkpoints", "config.json", "events"]
    expected = variables_of(undisturbed, STEPS)
    for name, value in variables_of(run, STEPS).items():
        np.testing.assert_array_equal(value, expected[name], err_msg=name)


@pytest.mark.slow
def test_workers_that_see_different_checkpoints_do_not_go_on(
    server: Server, data_dir: str, undisturbed: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    runs = [undisturbed, tmp_path / "of_its_own_disk"]
    command = ["tganv2_tf.train", *TRAIN, f"--train_steps={STEPS + 1}", f"--data_dir={data_dir}"]
    names = on_loopback(WORKERS)
    workers = [server.start(*command, f"--model_dir={run}", env=variables) for run, variables in zip(runs, names)]
    server.wait(workers)
    for worker, run in zip(workers, runs):
        assert (worker.returncode, worker.stderr.splitlines()[-1]) == (
            1,
            f"train: --model_dir={run}: workers see different checkpoints, of steps [0, {STEPS}]; put the run on a "
            "disk that all of them mount, or in a bucket",
        )
    assert load_generator(Run.open(str(undisturbed)))[1] == STEPS


@pytest.mark.slow
@pytest.mark.skipif(bool(NO_NAMESPACES), reason=NO_NAMESPACES)
def test_workers_that_are_cut_off_end_on_both_sides(server: Server, data_dir: str, tmp_path: pathlib.Path) -> None:
    run = tmp_path / "run"
    flags = ["--train_steps=1000000", "--checkpoint_every_steps=1000", f"--data_dir={data_dir}", f"--model_dir={run}"]
    command = ["tganv2_tf.train", *TRAIN, *flags, "--preview_every_steps=0"]
    with networks(2) as (switch, machines):
        workers = [
            server.start(*command, env={**variables, HEARTBEAT_VARIABLE: "3"}, namespace=machine)
            for machine, variables in zip(machines, tf_configs(["192.0.2.1:2222", "192.0.2.2:2222"]))
        ]
        try:
            deadline = time.monotonic() + 280
            while not any(b"generator_loss" in path.read_bytes() for path in run.glob("events/*.v2")):
                assert time.monotonic() < deadline and all(worker.returncode is None for worker in workers)
                time.sleep(0.1)
            # The machine still has its link, but its packets are lost, as behind a failed switch.
            ip("-n", switch, "link", "set", "port1", "nomaster")
            server.wait(workers, 60)
        finally:
            for worker in workers:
                if worker.returncode is None:
                    worker.kill()
    for worker in workers:
        text = worker.stderr
        lines = [line for line in text.splitlines() if line.startswith("train: ")]
        assert worker.returncode == 1 and "Traceback" not in text, text
        assert len(lines) == 1 and LOST.fullmatch(lines[0]), text
    assert checkpoint_files(run) == []


def test_how_long_a_worker_may_be_silent_is_a_number_of_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    assert HEARTBEAT_SECONDS == 60  # quoted in docs/distributed.md
    monkeypatch.setenv("TF_CONFIG", tf_configs(["127.0.0.1:1", "127.0.0.1:2"])[0]["TF_CONFIG"])
    for wrong in ("soon", "0", "-1", "nan"):
        monkeypatch.setenv(HEARTBEAT_VARIABLE, wrong)
        with pytest.raises(ConfigError, match=f"^{HEARTBEAT_VARIABLE}={wrong}: valid: 1 to 86400 seconds$"):
            make_strategy("multi_worker")
