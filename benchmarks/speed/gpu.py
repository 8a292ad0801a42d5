"""Training steps on GPUs: time, memory, share of the GPU's speed; mixed precision, XLA, several GPUs, input pipeline.

python -m benchmarks.speed.gpu --output=gpu.json
python -m benchmarks.speed.gpu --flagfile_of_run=faceforensics.flags --clips=8 --data_dir=data/faceforensics/train

One command of about ten minutes for a machine with GPUs. It has been tested on CPUs only (`--device=cpu`).

`ours` is the step of tganv2_tf.train on random clips in memory. The baseline of a row is the float32 step, or for
that one the networks by their definitions (benchmarks/speed/plain_networks.py), which shows whether the forms of
convolutions that were chosen on CPUs pay on this GPU. The share of the GPU's speed compares the step's multiply-adds
with those of a large matrix product in the same dtype. Each setting runs in a separate process; the first steps,
which trace and compile, do not count. Settings that do not begin in time or do not fit in memory are named at the
end.
"""

from __future__ import annotations

import contextlib
import dataclasses
import statistics
import sys
import time

from benchmarks.speed import contest, implementations, input_pipeline
from benchmarks.speed.rows import Row, compared, report
from tganv2_tf import cli
from tganv2_tf.config import Config, DataConfig, EvalConfig, ModelConfig, TrainConfig
from tganv2_tf.errors import UserError
from tganv2_tf.options import option, require

PRECISIONS = {"float32": "float32", "bfloat16": "mixed_bfloat16", "float16": "mixed_float16"}
WARM_UP = 2  # steps


@dataclasses.dataclass(frozen=True)
class Command:
    """Benchmark options."""

    flagfile_of_run: str = option("recipe whose networks and optimizers are used", "ucf.flags")
    clips: tuple[int, ...] = option("clips per step and GPU", (8, 32))
    dtypes: str = option("compute dtypes, separated by commas; the first is the baseline", ",".join(PRECISIONS))
    data_dir: str = option("shards for the input pipeline; empty = not measured", "", destination="folder")
    rounds: int = option("timed rounds per setting", 3)
    steps: int = option("steps per round", 5)
    minutes: float = option("time after which no further setting begins", 10.0)
    device: str = option("kind of device", "gpu", ("gpu", "cpu"))
    width_divisor: int = option("divisor of all channels, for a quick test", 1)
    output: str = option("also write the figures to this JSON file", "", destination="file")

    def __post_init__(self) -> None:
        for name in ("rounds", "steps", "width_divisor"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "a whole number of at least 1")
        require(bool(self.clips) and min(self.clips) >= 1, "clips", self.clips, "whole numbers of at least 1")
        require(set(self.precisions) <= set(PRECISIONS), "dtypes", self.dtypes, f"some of {','.join(PRECISIONS)}")
        require(self.minutes > 0, "minutes", self.minutes, "a number above 0")

    @property
    def precisions(self) -> list[str]:
        """The compute dtypes."""
        return self.dtypes.split(",")


@dataclasses.dataclass(frozen=True)
class Setting:
    """One way to run the step."""

    clips: int
    precision: str
    xla: bool = False
    plain: bool = False
    num_devices: int = 1

    def __str__(self) -> str:
        each = f" each on {self.num_devices} devices" if self.num_devices > 1 else ""
        return f"{self.clips} clips{each}, {self.precision}{', XLA' * self.xla}{', plain' * self.plain}"


@dataclasses.dataclass(frozen=True)
class Result:
    """What was measured of a setting: seconds per step of each round, and the device's peak memory, 0 if unknown."""

    seconds: list[float]
    peak_bytes: int


def make_config(command: Command, setting: Setting) -> Config:
    """Returns the configuration of a run with this setting."""
    flags = [f"--flagfile={command.flagfile_of_run}", f"--mixed_precision={PRECISIONS[setting.precision]}"]
    flags += [f"--global_batch_size={setting.clips * setting.num_devices}", f"--jit_compile={setting.xla}"]
    flags += [f"--distribution={'one_device' if setting.num_devices == 1 else 'mirrored'}"]
    model, data, train, scores = cli.parse(flags, ModelConfig, DataConfig, TrainConfig, EvalConfig)
    return Config(implementations.narrowed(model, command.width_divisor), data, train, scores)


def settings(command: Command, num_devices: int) -> list[Setting]:
    """Returns the settings, the most informative first."""
    first = command.precisions[0]
    found = [Setting(clips, precision) for clips in command.clips for precision in command.precisions]
    model = make_config(command, found[0]).model
    if not (model.self_modulation or model.conditional):  # the plain networks have neither
        found.append(Setting(command.clips[0], first, plain=True))
    found += [Setting(command.clips[0], precision, xla=True) for precision in command.precisions]
    number = 2
    while number <= num_devices:
        found.append(Setting(command.clips[-1], first, num_devices=number))
        number *= 2
    return found


def count_devices(kind: str) -> int:
    """Returns the number of devices of a kind. Called in a separate process, because counting initialises them."""
    import tensorflow as tf

    return len(tf.config.list_logical_devices(kind.upper()))


def product_speed(precision: str, device: str, side: int) -> float:
    """Returns the multiply-adds per second of a product of square matrices: the reachable speed of the device."""
    import tensorflow as tf

    with tf.device(f"/{device}:0"):
        matrix = tf.cast(tf.random.stateless_normal([side, side], [0, 0]), precision)
        product = tf.function(lambda: tf.reduce_sum(tf.cast(tf.matmul(matrix, matrix)[0], tf.float32)))
        float(product())
        seconds = []
        for _ in range(5):
            start = time.perf_counter()
            float(product())
            seconds.append(time.perf_counter() - start)
    return side**3 / statistics.median(seconds)


def measure(config: Config, setting: Setting, device: str, rounds: int, steps: int) -> Result | None:
    """Times a setting in this process.

    Returns:
      None if the memory does not suffice.
    """
    import tensorflow as tf

    from benchmarks.speed.plain_networks import plain_model
    from tganv2_tf.training.loop import make_model

    devices = [f"/{device}:{index}" for index in range(setting.num_devices)]
    strategy: tf.distribute.Strategy = tf.distribute.OneDeviceStrategy(devices[0])
    if setting.num_devices > 1:
        strategy = tf.distribute.MirroredStrategy(devices)
    seconds = []
    try:
        with strategy.scope():
            model = (plain_model if setting.plain else make_model)(config)
        step = implementations.step_in_memory(model, setting.clips)
        for _ in range(WARM_UP):
            scalars = step()
        float(scalars["generator_loss"])  # waits for the device
        for _ in range(rounds):
            start = time.perf_counter()
            for _ in range(steps):
                scalars = step()
            float(scalars["generator_loss"])
            seconds.append((time.perf_counter() - start) / steps)
    except tf.errors.ResourceExhaustedError:
        return None
    peak = 0
    with contextlib.suppress(ValueError, tf.errors.OpError):  # not known for CPUs
        peak = tf.config.experimental.get_memory_info(f"{device.upper()}:0")["peak"]
    return Result(seconds, peak)


def rows_of(
    setting: Setting, result: Result, baselines: dict[int, Result], multiply_adds: float, speed: float
) -> list[Row]:
    """Returns a setting's rows.

    Args:
      setting, result: The setting and its measurement.
      baselines: Measurements in the first precision, by clips.
      multiply_adds: Of its step, on all devices.
      speed: Multiply-adds per second of the matrix product in its precision.
    """
    what, median, baseline = f"step, {setting}", statistics.median(result.seconds), baselines.get(setting.clips)
    if baseline is None or baseline is result:
        rows = [Row(what, "s", median)]
    elif setting.plain:
        return [compared(f"{what}: ours against it", "s", baseline.seconds, result.seconds, less_is_better=True)]
    elif setting.num_devices == 1:
        rows = [compared(what, "s", result.seconds, baseline.seconds, less_is_better=True)]
    else:
        numbers = (setting.num_devices, result), (1, baseline)
        ours, one = ([setting.clips * number / s for s in each.seconds] for number, each in numbers)
        rows = [compared(f"{what}, against one", "clips/s", ours, one, less_is_better=False)]
    share = multiply_adds / setting.num_devices / median / speed
    rows.append(Row(f"{what}, share of the speed of a matrix product", "", share))
    if result.peak_bytes:
        rows.append(Row(f"{what}, peak memory", "MB", result.peak_bytes / 1e6))
    return rows


def count_multiply_adds(config: Config, clips: int) -> float:
    """Returns the multiply-adds of a step with this number of clips."""
    from tganv2_tf.training.cost import step_cost

    return step_cost(config, clips).multiply_adds


def pipeline_rows(command: Command) -> list[Row]:
    """Returns the time of a step on shards, against one on a batch in memory."""
    config = make_config(command, Setting(command.clips[0], command.precisions[0]))
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, data_dir=command.data_dir))
    memory, streamed = contest.in_new_process(input_pipeline.step_seconds, config, command.steps, command.rounds)
    what = f"step, {command.clips[0]} clips from shards, against a batch in memory"
    return [compared(what, "s", streamed, memory, less_is_better=True)]


def main(command: Command) -> int:
    end = time.monotonic() + 60 * command.minutes
    num_devices = contest.in_new_process(count_devices, command.device)
    if not num_devices:
        raise UserError(
            "TensorFlow sees no GPU; docs/installation.md says how GPUs are set up, and --device=cpu tests this"
        )
    side = 8192 if command.device == "gpu" else 512
    speeds = {each: contest.in_new_process(product_speed, each, command.device, side) for each in command.precisions}
    found = [Row(f"matrix product, {each}", "TFLOP/s", 2 * speed / 1e12) for each, speed in speeds.items()]
    baselines: dict[int, Result] = {}
    left_out: list[str] = []
    for setting in settings(command, num_devices):
        if time.monotonic() > end:
            left_out.append(f"{setting}: no time")
            continue
        config = make_config(command, setting)
        result = contest.in_new_process(measure, config, setting, command.device, command.rounds, command.steps)
        if result is None:
            left_out.append(f"{setting}: out of memory")
            continue
        if setting == Setting(setting.clips, command.precisions[0]):
            baselines[setting.clips] = result
        multiply_adds = contest.in_new_process(count_multiply_adds, config, setting.clips * setting.num_devices)
        found += rows_of(setting, result, baselines, multiply_adds, speeds[setting.precision])
    if command.data_dir:
        if time.monotonic() > end:
            left_out.append("input pipeline: no time")
        else:
            found += pipeline_rows(command)
    report("benchmarks.speed.gpu", found, command.output)
    for line in left_out:
        print(f"left out: {line}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(main, (Command,), "benchmarks.speed.gpu", __doc__ or ""))
