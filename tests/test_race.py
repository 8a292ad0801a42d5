"""The comparison with PyTorch: both sides compute, average, render and are scored alike; snapshots at given moments."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys
import threading
import time
from typing import Any

import numpy as np
import pytest

from benchmarks.speed import bench, contest, implementations, race
from benchmarks.speed.race import Command, Snapshot
from benchmarks.speed.rows import Row
from tests.conftest import TINY_FLAGS
from tganv2_tf.errors import ConfigError, UserError
from tganv2_tf.pretrained import load_generator
from tganv2_tf.runs import Run, record_config
from tganv2_tf.storage.files import read_npz
from tganv2_tf.training.checkpoints import CheckpointFolder
from tganv2_tf.training.snapshots import keep_snapshot

pytestmark = pytest.mark.slow

RECIPE = [
    *TINY_FLAGS,
    *("--up_channels=6,5,4,3", "--nospectral_norm", "--lstm_forget_bias=3", "--score=separate"),
    *(
        "--learning_rate_decay=none",
        "--adam_beta2=0.99",
        "--ema_decay=0.998",
        "--r1_weight=1e5",
        "--r1_level_factor=0.5",
        "--flip",
    ),
    *("--generator_learning_rate=1e-3", "--discriminator_learning_rate=1e-3"),
    *("--global_batch_size=4", "--distribution=one_device"),
]
LENGTHS = [3, 6, 20, 5, 4, 17, 6]  # frames of the videos; clips have four
PASSES = 40


def command_of(folder: pathlib.Path, **changes: object) -> Command:
    """A race of one moment in a folder with a recipe, `data` and a `classifier.npz`."""
    paths = {"data_dir": str(folder / "data"), "classifier": str(folder / "classifier.npz")}
    paths |= {"work_dir": str(folder / "race"), "flagfile_of_run": str(folder / "tiny.flags")}
    (folder / "tiny.flags").write_text("\n".join(RECIPE))
    return Command(**{"minutes": "1", "num_samples": 6, "repetitions": 1, **paths, **changes})  # type: ignore[arg-type]


def package_facts(command: Command) -> dict[str, np.ndarray]:
    """Perturbed weights, a batch, losses and gradients."""
    import tensorflow as tf

    from tganv2_tf.interop.chainer import discriminator_weights, generator_weights

    config = command.config
    model = implementations.tensorflow_model(config)
    implementations.perturb(model)
    reals, z = implementations.random_inputs(config)
    offsets = [1]
    step = model.losses_and_gradients([tf.constant(level) for level in reals], tf.constant(z), offsets)
    variables = [*model.generator.trainable_variables, *model.discriminator.trainable_variables]
    of_variable = dict(
        zip((variable.ref() for variable in variables), (*step.generator_gradients, *step.discriminator_gradients))
    )
    facts = {"z": z, "offsets": np.array(offsets), **{f"real {level}": reals[level] for level in range(2)}}
    facts |= {name: value.numpy() for name, value in step.losses.items()}
    for name, weight in {**generator_weights(model.generator), **discriminator_weights(model.discriminator)}.items():
        facts[f"weight {name}"] = weight.to_chainer(weight.variable.numpy())
        if weight.variable.ref() in of_variable:
            facts[f"gradient {name}"] = weight.to_chainer(of_variable[weight.variable.ref()].numpy())
    return facts


def torch_facts(command: Command) -> dict[str, np.ndarray]:
    """Returns PyTorch's results from a separate process; see the tests."""
    import torch

    from benchmarks.speed import torch_training
    from benchmarks.speed.torch_baseline import named_weights

    torch.set_num_threads(1)
    config, folder = command.config, pathlib.Path(command.work_dir)
    facts: dict[str, np.ndarray] = {}

    given = read_npz(folder / "reference.npz", "tests")
    weights = {name.partition(" ")[2]: array for name, array in given.items() if name.startswith("weight ")}
    step = torch_training.RecipeStep(config, weights)
    reals = [torch.from_numpy(given[f"real {level}"]).permute(0, 4, 1, 2, 3) for level in range(2)]
    inputs = reals, torch.from_numpy(given["z"]), given["offsets"].tolist()
    networks = {"trained": step.generator, "average": step.average.module}
    for number in range(3):
        if number:
            facts |= {name: value.numpy() for name, value in step(*inputs).items() if number == 1}
        for whose, network in networks.items():
            for name, weight in named_weights(network, step.discriminator).items():
                facts[f"{whose} {number} {name}"] = weight.detach().numpy().copy()
                if number == 1 and weight.grad is not None:
                    facts[f"gradient {name}"] = weight.grad.numpy().copy()

    value = torch.zeros(1)
    update = torch_training.moving_average(0.998)
    for updates, to in ((1, 11.0), (2, 21.0), (10**6, 518.0)):
        update([value], [torch.tensor([to])], torch.tensor(updates))
        facts[f"average after {updates}"] = value.numpy().copy()

    videos = read_npz(folder / "videos.npz", "tests")
    torch.manual_seed(0)
    arrays = torch.from_numpy(videos["frames"]), torch.from_numpy(videos["lengths"])
    for number, levels in zip(range(PASSES), torch_training.batches(*arrays, config)):
        facts |= {f"batch {number} {index}": level.numpy() for index, level in enumerate(levels)}

    torch_training.train(config, command.work_dir, (1.0, 2.0), time.time() - 3600)  # both moments have passed
    kept = [folder / "baseline" / f"after-{minutes}.npz" for minutes in (1, 2)]
    facts |= {f"kept {path.stem} {name}": array for path in kept for name, array in read_npz(path, "tests").items()}
    step.average.eval()
    torch_training.save_average(step, 7, kept[0])
    with torch.inference_mode():
        facts["videos"] = step.average(inputs[1]).permute(0, 2, 3, 4, 1).numpy().copy()
    return facts


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A data set, a classifier, and the initial files of the baseline."""
    from tests.data_sets import write_data_set
    from tests.test_evaluate import write_classifier

    folder = tmp_path_factory.mktemp("race")
    write_data_set(folder / "data", LENGTHS)
    write_classifier(folder / "classifier.npz")
    (folder / "race" / "baseline").mkdir(parents=True)
    race.prepare(command_of(folder).config, folder / "race")
    return folder


@pytest.fixture(scope="module")
def facts(work: pathlib.Path) -> dict[str, np.ndarray]:
    """The package's results of a step, as `expected NAME`, and PyTorch's."""
    pytest.importorskip("torch")
    command = command_of(work)
    expected = package_facts(command)
    np.savez(work / "race" / "reference.npz", **expected)
    found = contest.in_new_process(torch_facts, command)
    return {**found, **{f"expected {name}": array for name, array in expected.items()}}


def test_a_step_has_the_packages_losses_and_gradients(facts: dict[str, np.ndarray]) -> None:
    expected = {name.partition(" ")[2]: array for name, array in facts.items() if name.startswith("expected ")}
    assert float(expected["r1_penalty"]) > 0.01
    assert max(implementations.errors(facts, expected).values()) < 1e-4


def test_adam_moves_every_weight_by_the_rate(facts: dict[str, np.ndarray]) -> None:
    moved = 0
    for name, gradient in facts.items():
        if name.startswith("gradient "):
            # The first moment is the gradient, and the bias-corrected second the square: w - rate g / (|g| + e).
            expected = facts[name.replace("gradient", "trained 0")] - 1e-3 * gradient / (np.abs(gradient) + 8e-8)
            np.testing.assert_allclose(facts[name.replace("gradient", "trained 1")], expected, atol=2e-6)
            moved += int((np.abs(gradient) > 1e-5).sum())
    assert moved > 1000


def test_the_average_is_that_of_the_package(facts: dict[str, np.ndarray], work: pathlib.Path) -> None:
    # 11 x (1 - 2/11) = 9; 9 + 12 x (1 - 3/12) = 18; 18 + 500 x 0.002 = 19.
    found = [float(facts[f"average after {updates}"][0]) for updates in (1, 2, 10**6)]
    assert found == pytest.approx([9, 18, 19])
    names = [name.partition(" ")[2].partition(" ")[2] for name in facts if name.startswith("average 0 ")]
    assert {"b3/avg_mean", "b3/avg_var", "fc/W", "decoder0/w_hifoc/W"} <= set(names)
    for name in names:
        if not name.startswith("level"):
            (start, first, second), average = (facts[f"trained {i} {name}"] for i in range(3)), facts
            np.testing.assert_array_equal(average[f"average 0 {name}"], start)
            after = start * 2 / 11 + first * 9 / 11
            np.testing.assert_allclose(average[f"average 1 {name}"], after, rtol=1e-5, atol=1e-6)
            np.testing.assert_allclose(average[f"average 2 {name}"], (after + 3 * second) / 4, rtol=1e-5, atol=1e-6)

    model = implementations.tensorflow_model(command_of(work).config)
    strategy, bias = model.distribute_strategy, model.generator.to_map.bias
    average = model.ema_generator.to_map.bias
    average.assign(0 * average)
    for step, value, expected in ((1, 11, 9), (2, 21, 18), (10**6, 518, 19)):
        model.step.assign(step)
        bias.assign(0 * bias + value)
        with strategy.scope():
            model._update_average(strategy)
        np.testing.assert_allclose(average.numpy(), expected, rtol=1e-5)


def bytes_of(level: np.ndarray) -> np.ndarray:
    """Converts float32 [N, 3, T, H, W] in [-1, 1] to [N, T, H, W, 3] from 0 to 255."""
    return np.round((level.transpose(0, 2, 3, 4, 1) + 1) * 127.5, 3)


def test_the_baseline_sees_random_windows_of_all_videos(facts: dict[str, np.ndarray]) -> None:
    starts: dict[int, set[int]] = {}
    order, mirrored, offsets = [], [], []
    for number in range(PASSES):
        first, second = (bytes_of(facts[f"batch {number} {level}"]) for level in range(2))
        assert (first.shape, second.shape) == ((4, 4, 8, 8, 3), (2, 2, 16, 16, 3))
        for clip in range(4):
            video = round(first[clip, 0, 0, 0, 0] / 10)
            order.append(video)
            assert (first[clip, ..., 0] == 10 * video).all()
            times = first[clip, :, 0, 0, 1]
            assert (np.diff(times) == 1).all() and (first[clip, ..., 1] == times[:, None, None]).all()
            starts.setdefault(video, set()).add(int(times[0]))
            columns = np.arange(8) * 2 + 0.5  # means of two columns
            mirrored.append(first[clip, 0, 0, 0, 2] > 1)
            expected = columns[::-1] if mirrored[-1] else columns
            np.testing.assert_allclose(first[clip, ..., 2], np.broadcast_to(expected, (4, 8, 8)), atol=1e-3)
            if clip % 2 == 0:  # the next level has every second clip, and every second frame of it
                deeper = second[clip // 2]
                offsets.append(int(deeper[0, 0, 0, 1] - times[0]))
                assert (deeper[..., 0] == 10 * video).all()
                assert (deeper[:, 0, 0, 1] == times[offsets[-1] :: 2]).all()
                wide = np.arange(16)[::-1] if mirrored[-1] else np.arange(16)
                assert (deeper[..., 2] == wide).all()
    # An epoch of the six long enough videos fills one batch; the other two wait for another order.
    assert all(len(set(order[first : first + 4])) == 4 for first in range(0, len(order), 4))
    assert set(starts) == {video for video, length in enumerate(LENGTHS) if length >= 4}
    assert all(starts[video] == set(range(length - 3)) for video, length in enumerate(LENGTHS) if 4 <= length <= 6)
    assert 0.35 < np.mean(mirrored) < 0.65 and 0.3 < np.mean(offsets) < 0.7


def test_what_the_baseline_begins_with(work: pathlib.Path) -> None:
    from tganv2_tf.interop.chainer import generator_weights

    model = implementations.tensorflow_model(command_of(work).config)
    arrays = read_npz(work / "race" / "weights.npz", "tests")
    for name, weight in generator_weights(model.generator).items():
        np.testing.assert_array_equal(weight.from_chainer(arrays[name]), weight.variable.numpy(), name)
    assert (arrays["decoder0/w_xifoc/b"][4:8] == 3).all(), "the forget gate's"
    videos = read_npz(work / "race" / "videos.npz", "tests")
    assert videos["frames"].shape == (sum(LENGTHS), 16, 16, 3) and sorted(videos["lengths"]) == sorted(LENGTHS)


def test_the_baseline_keeps_what_it_is_past_each_moment(facts: dict[str, np.ndarray], work: pathlib.Path) -> None:
    first = {name.rpartition(" ")[2]: array for name, array in facts.items() if name.startswith("kept after-1 ")}
    second = {name.rpartition(" ")[2]: array for name, array in facts.items() if name.startswith("kept after-2 ")}
    assert int(first["step"]) == int(second["step"]) == 1
    start = read_npz(work / "race" / "weights.npz", "tests")
    for name in set(first) - {"step"}:
        np.testing.assert_array_equal(first[name], second[name])
    # 9/11 of the first step of Adam, which equals the rate unless the gradient is tiny.
    moved = np.abs(first["c4/W"] - start["c4/W"])
    assert np.median(moved) == pytest.approx(1e-3 * 9 / 11, rel=1e-2) and moved.max() < 1e-3


def test_both_are_rendered_and_scored_alike(facts: dict[str, np.ndarray], work: pathlib.Path) -> None:
    """Uses the baseline's generator, converted, for both sides."""

    command = command_of(work)
    model = implementations.tensorflow_model(command.config)
    arrays = read_npz(work / "race" / "baseline" / "after-1.npz", "tests")
    race.assign(model.ema_generator, arrays)
    videos = model.ema_generator(facts["expected z"]).numpy()
    assert videos.shape == facts["videos"].shape == (4, 4, 16, 16, 3) and videos.std() > 0.01
    np.testing.assert_allclose(videos, facts["videos"], atol=1e-3)

    model.step.assign(14)
    keep_snapshot(CheckpointFolder(model).save(14), "after-1")
    record_config(command.config)
    snapshot_pairs = race.snapshots(command)
    ours, theirs = snapshot_pairs[1.0]
    assert (ours.steps, theirs.steps) == (14, 7)
    generator, step = load_generator(Run.open(theirs.path))
    np.testing.assert_array_equal(generator(facts["expected z"]).numpy(), videos)
    assert step == 7
    command = command_of(work, test_data_dir=command.data_dir)
    distance, steps, real = race.score(command, snapshot_pairs)
    assert distance.what == "C3D FID after 1 minutes" and distance.ours > 0
    assert distance.ratio == pytest.approx(1, abs=1e-3)
    assert steps == Row("steps after 1 minutes", "steps", 14, 7, 2, 2, 2)
    assert real.what == "C3D FID of other real videos" and real.ours > 0


def test_ratios_say_how_many_times_nearer_ours_is() -> None:
    snapshot_pairs = {3.0: (Snapshot("a", 60), Snapshot("b", 20)), 0.5: (Snapshot("c", 5), Snapshot("d", 10))}
    distances = {"a": [100.0, 200.0, 300.0], "b": [300.0, 400.0, 450.0], "c": [50.0], "d": [25.0]}
    assert race.table(snapshot_pairs, distances, [7.0, 9.0, 80.0]) == [
        Row("C3D FID after 3 minutes", "", 200, 400, 2, 1.5, 3),
        Row("steps after 3 minutes", "steps", 60, 20, 3, 3, 3),
        Row("C3D FID after 0.5 minutes", "", 50, 25, 0.5, 0.5, 0.5),
        Row("steps after 0.5 minutes", "steps", 5, 10, 0.5, 0.5, 0.5),
        Row("C3D FID of other real videos", "", 9),
    ]


def stand_in(config: object, folder: str, moments: tuple[float, ...], start: float) -> None:
    """Replaces the baseline's training."""
    pathlib.Path(folder, "theirs.txt").write_text(f"{sorted(os.sched_getaffinity(0))} {moments} {start <= time.time()}")


OURS = """
import os, pathlib, signal, sys, time
run = pathlib.Path(sys.argv[1])
signal.signal(signal.SIGTERM, lambda *_: (run / "stopped").touch() or sys.exit(143))
(run.parent / "ours.txt").write_text(str(sorted(os.sched_getaffinity(0))))
while not (run / "after-0.01" / "ckpt-20.index").exists():
    time.sleep(0.01)
for number in (40, 60):
    (run / "checkpoints" / f"ckpt-{number}.index").touch()
signal.pause()
"""


@pytest.fixture
def started(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Replaces our training by scripts; the one to run is put into the list."""
    (tmp_path / "race" / "ours" / "checkpoints").mkdir(parents=True)
    scripts: list[str] = []
    popen = subprocess.Popen

    def start(arguments: list[str], **options: Any) -> subprocess.Popen[bytes]:
        assert arguments[:3] == [sys.executable, "-m", "tganv2_tf.train"]
        assert f"--model_dir={tmp_path / 'race' / 'ours'}" in arguments
        return popen([sys.executable, "-c", scripts[0], str(tmp_path / "race" / "ours")], **options)

    monkeypatch.setattr(race.subprocess, "Popen", start)
    monkeypatch.setattr(race, "train_baseline", stand_in)
    return scripts


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="a core a side")
def test_each_has_a_core_and_the_newest_checkpoint_counts(tmp_path: pathlib.Path, started: list[str]) -> None:
    started.append(OURS)
    (tmp_path / "race" / "ours" / "checkpoints" / "ckpt-20.index").touch()
    cores = os.sched_getaffinity(0)
    had = race.equal_time_comparison(command_of(tmp_path, minutes="0.01,0.04"))
    assert (had.what, had.unit) == ("processor time", "s")
    assert had.baseline is not None and 0 <= had.ours < 2.4 and 0 < had.baseline < 2.4
    run = tmp_path / "race" / "ours"
    assert [path.name for path in (run / "after-0.01").iterdir()] == ["ckpt-20.index"]
    assert [path.name for path in (run / "after-0.04").iterdir()] == ["ckpt-60.index"]
    assert (run / "stopped").exists(), "it was asked to end, and waited for"
    assert os.sched_getaffinity(0) == cores
    first, second = sorted(cores)[:2]
    assert (tmp_path / "race" / "ours.txt").read_text() == f"[{first}]"
    assert (tmp_path / "race" / "theirs.txt").read_text() == f"[{second}] (0.01, 0.04) True"


def test_processor_time_is_that_of_all_threads() -> None:
    def work() -> None:
        while time.thread_time() < 0.3:
            pass

    before, start = race.processor_time(os.getpid()), time.process_time()
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    took = race.processor_time(os.getpid()) - before
    assert took >= 0.25 and took == pytest.approx(time.process_time() - start, abs=0.05)


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="a core a side")
@pytest.mark.parametrize(
    ("script", "minutes", "message"),
    [
        ("raise SystemExit(3)", "5", r"ended with status 3 before its time was over; see ours\.log"),
        ("import time; time.sleep(60)", "0.001", "has no checkpoint after 0.001 minutes"),
    ],
)
def test_a_race_that_cannot_be_ends_at_once(
    tmp_path: pathlib.Path, started: list[str], script: str, minutes: str, message: str
) -> None:
    started.append(script)
    with pytest.raises(UserError, match=message):
        race.equal_time_comparison(command_of(tmp_path, minutes=minutes))


def test_what_cannot_be_raced(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for minutes in ("", "3,x", "6,3", "3,3", "0,3"):
        with pytest.raises(ConfigError, match=f"--minutes={minutes}: valid: numbers above 0"):
            command_of(tmp_path, minutes=minutes)
    monkeypatch.setattr(implementations, "require_torch", lambda: None)
    (tmp_path / "race").mkdir()
    with pytest.raises(UserError, match=r"--work_dir=.*race already exists"):
        race.main(command_of(tmp_path))
    with pytest.raises(ConfigError, match="race with --data_dir and --classifier only"):
        bench.Command(str(tmp_path), "race", data_dir="demo")
    assert "race" not in bench.Command(str(tmp_path), data_dir="demo").names
    assert bench.Command(str(tmp_path), data_dir="demo", classifier="c3d.npz").names == list(bench.PARTS)
