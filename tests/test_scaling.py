"""The scaling benchmarks: the analytic model, by hand; two real workers with counted bytes; made-up videos."""

from __future__ import annotations

import dataclasses
import json
import math
import pathlib

import pytest

from benchmarks.scaling import scaling, scaling_data, scaling_model
from benchmarks.scaling.scaling_model import (
    Device,
    Link,
    Workload,
    all_reduce_seconds,
    hiding_clips,
    predict,
    ring_bytes,
)
from tests.conftest import run_command
from tganv2_tf.errors import ConfigError, UserError

# A clip takes 2 * 25e9 / (0.5 * 1e12) = 0.1 s; the update 9 * 800e6 / (0.8 * 90e9) = 0.1 s.
WORK = Workload(multiply_adds=25e9, trained_bytes=800_000_000, batch_norm_channels=(64, 32), min_clips=8)
DEVICE = Device("made up", flops=1e12, utilisation=0.5, memory=90e9, inside=100e9)
LINK = Link("made up", bandwidth=10e9, hop=40e-6)
TINY = [
    *("--resolution=8", "--num_frames=2", "--z_dim=2", "--lstm_channels=2", "--frame_strides=", "--batch_strides="),
    *("--up_channels=2,2,2", "--discriminator_channels=2", "--r1_weight=0", "--ema_decay=0", "--nospectral_norm"),
]


def test_a_ring_sends_each_byte_twice_but_for_a_share() -> None:
    # Each worker sends N - 1 of N parts during the reduction, and N - 1 while the sums are distributed.
    assert [ring_bytes(12, workers) for workers in (1, 2, 4)] == [0, 12, 18]


def test_an_all_reduce_takes_what_its_slowest_part_takes() -> None:
    assert all_reduce_seconds(8e8, 1, DEVICE, LINK) == 0
    # 8 GPUs of a node: 2 * 7/8 * 0.8 GB at 100 GB/s = 14 ms; 20 us to start, 3 hops of 3 us up a tree and down again.
    assert all_reduce_seconds(8e8, 8, DEVICE, LINK) == pytest.approx(0.014 + 38e-6)
    # 8 nodes: 2 * 63/64 * 0.8 GB at 10 GB/s = 157.5 ms; 3 hops of 40 us more, twice.
    assert all_reduce_seconds(8e8, 64, DEVICE, LINK) == pytest.approx(0.1575 + 278e-6)
    # The extra speed of a link faster than the inside of a node is unused.
    fast = dataclasses.replace(LINK, bandwidth=1e15)
    assert all_reduce_seconds(8e8, 64, DEVICE, fast) == pytest.approx(0.01575 + 278e-6)


def test_a_step_is_the_sum_of_its_parts() -> None:
    step = predict(WORK, 4, 8, DEVICE, LINK)
    assert (step.computation, step.update) == pytest.approx((0.4, 0.1))
    assert step.gradients == pytest.approx(0.014 + 2 * 38e-6)  # one all-reduce per network
    # Two norms with four all-reduces each, and three more; 96 channels of 4 bytes pass four times through the ring.
    assert step.small == pytest.approx(11 * 38e-6 + 4 * 1.75 * 96 * 4 / 100e9)
    assert step.efficiency == pytest.approx(0.5 / step.seconds)
    assert step.hidden_efficiency == pytest.approx(0.5 / (0.5 + step.small))
    slow = predict(WORK, 1, 64, DEVICE, LINK)  # of 0.16 s of exchange, 0.1 s could hide
    assert slow.hidden_efficiency == pytest.approx(0.2 / (0.2 + slow.gradients - 0.1 + slow.small))


def test_communication_hides_behind_as_many_clips_as_take_as_long() -> None:
    assert hiding_clips(WORK, 64, DEVICE, LINK) == pytest.approx((0.1575 + 2 * 278e-6) / 0.1)
    clips = hiding_clips(WORK, 512, DEVICE, LINK)
    step = predict(WORK, clips, 512, DEVICE, LINK)
    assert step.computation == pytest.approx(step.gradients)


def test_efficiency_is_1_without_delay_and_falls_with_more_gpus_fewer_clips_and_slower_links(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    efficiency = [predict(WORK, 8, gpus, DEVICE, LINK).efficiency for gpus in (1, 2, 8, 16, 64, 512)]
    assert efficiency[0] == 1 and efficiency == sorted(efficiency, reverse=True) and len(set(efficiency)) == 6
    by_clips = [predict(WORK, clips, 64, DEVICE, LINK).efficiency for clips in (1, 8, 64)]
    assert by_clips == sorted(by_clips) and len(set(by_clips)) == 3
    slow = dataclasses.replace(LINK, bandwidth=1e9)
    assert predict(WORK, 8, 64, DEVICE, slow).efficiency < predict(WORK, 8, 64, DEVICE, LINK).efficiency
    monkeypatch.setattr(scaling_model, "LAUNCH", 0.0)
    monkeypatch.setattr(scaling_model, "HOP_INSIDE", 0.0)
    at_once = dataclasses.replace(DEVICE, inside=math.inf), Link("none", math.inf, 0.0)
    assert predict(WORK, 8, 512, *at_once).efficiency == 1


def test_no_more_gpus_than_the_smallest_share_allows() -> None:
    head = scaling_model.strong(WORK, (64, 256, 4096)).splitlines()[0]
    assert head.split(" | ")[2:] == ["64 on 8", "256 on 8", "256 on 32", "4096 on 8", "4096 on 64", "4096 on 512 |"]


def test_commands_refuse_what_they_cannot_do(capsys: pytest.CaptureFixture[str]) -> None:
    for numbers in ((), (1,), (2, 2), (0, 2)):
        with pytest.raises(ConfigError, match="--num_workers="):
            scaling.Command(num_workers=numbers)
    with pytest.raises(ConfigError, match=r"--clips=12: valid: a multiple of 8, so that 8 processes"):
        _ = scaling.Command(num_workers=(2, 8), clips=12).config
    with pytest.raises(ConfigError, match=r"--output=table\.txt"):
        scaling_model.Command(output="table.txt")
    with pytest.raises(ConfigError, match="--videos=10: valid"):
        scaling_data.Command(videos=10)


def test_bytes_are_those_of_the_loopback_device() -> None:
    text = """Inter-|   Receive                            |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop
  eth0: 20530146701  452960    0    0    0     0          0         0 20960697  272346    0    0
    lo: 2070756767 1929495    0    0    0     0          0         0 2070756767 1929495    0    0
"""
    assert scaling.loopback_bytes(text) == 2_070_756_767
    with pytest.raises(UserError, match="no loopback device"):
        scaling.loopback_bytes("\n".join(text.splitlines()[:-1]))


@pytest.mark.slow
def test_two_true_workers_exchange_their_gradients_and_little_more(tmp_path: pathlib.Path) -> None:
    (tmp_path / "tiny.flags").write_text("\n".join(TINY))
    recipe, output = f"--flagfile_of_run={tmp_path / 'tiny.flags'}", tmp_path / "scaling.json"
    sizes = ["--num_workers=1,2", "--clips=2", "--steps=2", "--rounds=2"]
    result = run_command("benchmarks.scaling.scaling", recipe, *sizes, f"--output={output}")
    assert result.returncode == 0, result.stderr
    assert "measuring" in result.stderr
    found = {row["what"]: row for row in json.loads(output.read_text())["rows"]}
    config = scaling.Command(flagfile_of_run=str(tmp_path / "tiny.flags"), clips=2, num_workers=(2,)).config
    work = Workload.of(config)
    # The model's all-reduces match the real graph: those of both networks' gradients, and all others except one, which
    # is not part of the graph.
    number = 2 + work.small_all_reduces - 1
    sent = found[f"sent per step by 2 processes, and by a ring of {number} all-reduces"]
    gradients = found["of these the gradients of both networks, 2 processes"]["ours"]
    assert gradients == pytest.approx(2 * ring_bytes(work.trained_bytes, 2) / 1e6)
    norms = 4 * scaling_model.FLOAT_BYTES * sum(work.batch_norm_channels)
    assert gradients + 2 * norms / 1e6 < sent["baseline"] < gradients + 2 * (norms + 200) / 1e6
    # Tiny tensors are sent with 1 to 2 KB each of names and headers.
    assert sent["baseline"] < sent["ours"] < sent["baseline"] + number * 4e-3
    for what in ("2 x 2 clips (weak)", "2 x 1 clips (strong)"):
        assert 0 < found[f"step, {what}"]["ratio_min"] <= found[f"step, {what}"]["ratio_max"]
        assert found[f"processor time per step, {what}"]["ours"] > 0


def test_a_worker_that_fails_ends_the_command_in_one_line(tmp_path: pathlib.Path) -> None:
    group = object.__new__(scaling.Group)  # with one end of the pipes and no process
    ours, theirs = scaling.multiprocessing.Pipe()
    group.workers, group._connections, group._processes = 1, [ours], []
    theirs.send((False, "Traceback\n  ...\nValueError: no such thing\n"))
    with pytest.raises(UserError, match=r"^a worker process failed: ValueError: no such thing$"):
        group.call("steps", 2, 1)
    theirs.close()
    with pytest.raises(UserError, match="has died"):
        group.call()


def test_figures_are_extended_by_the_power_that_was_found(tmp_path: pathlib.Path) -> None:
    assert scaling_data.VIDEOS_PER_SHARD == 53  # 2^27 / (182 * 14,000) = 52.7
    assert scaling_data.growth_exponent(1.5, 6.0) == 2
    measurement = scaling_data.Measurement(scaling_data.Command(videos=5300, target=53_000), tmp_path)
    assert measurement.extrapolate_videos("x", 2.0, "s").target == 20
    assert measurement.extrapolate_shards("x", 2.0, "s").target == 20  # 100 shards
    assert measurement.extrapolate_shards("x", 2.0, "s", 50, 2.0).target == 2 * 20**2
    half = scaling_data.VIDEOS_PER_SHARD * scaling_data.FRAMES_PER_VIDEO * scaling_data.BYTES_PER_FRAME // 2
    assert measurement.extrapolate_shards("x", 2.0, "s", 50, bytes_per_shard=half).target == pytest.approx(2 * 20 * 2)
    findings = list(measurement.manifest())
    text = scaling_data.markdown(findings, 53_000)
    assert "| manifest: size | 100 shards |" in text
    size = findings[1]
    assert size.measured == pytest.approx((tmp_path / "data" / "manifest.json").stat().st_size / 1e6)
    assert scaling_data.shown(9000, "s") == "2.5 h"
