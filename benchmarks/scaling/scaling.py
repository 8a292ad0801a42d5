"""A training step on several processes of this machine: wall time, processor time, and bytes exchanged.

python -m benchmarks.scaling.scaling
python -m benchmarks.scaling.scaling --num_workers=2,4 --flagfile_of_run=demo.flags --clips=16 --output=scaling.json

Runs real processes on 127.0.0.1 under --distribution=multi_worker, with the package's own strategy, model and step, on
random clips in memory. Each is pinned to one core; if there are more processes than cores, they share them. `weak`:
each process has --clips; the baseline is the same number of independent processes at the same time, so that the
difference is the cost of communication. `strong`: the processes share --clips; the baseline is one process with all of
them, so that replicated work (Adam, the average, singular vectors) counts, too. All groups take turns, and the first
steps of each, in which graphs are traced, do not count.

Bytes are those of the loopback device without the traffic of idle processes; the benchmark uses its own network
namespace if it may create one (as root). They are compared with those of a ring: 2 (N - 1) times the bytes of all
reduced tensors, as counted on the graph.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import fcntl
import json
import math
import multiprocessing
import multiprocessing.connection
import os
import pathlib
import socket
import statistics
import struct
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from absl import logging
from tqdm import tqdm

from benchmarks.scaling.scaling_model import ring_bytes
from benchmarks.speed import rows
from benchmarks.speed.implementations import narrowed, random_inputs
from benchmarks.speed.rows import Row, report
from tganv2_tf import cli
from tganv2_tf.config import Config, DataConfig, EvalConfig, ModelConfig, TrainConfig
from tganv2_tf.errors import UserError
from tganv2_tf.options import option, require

if TYPE_CHECKING:
    import tensorflow as tf

WARM_UP = 2  # steps
IDLE_SECONDS = 2.0
START_SECONDS = 600.0  # until all workers of a group have traced their graphs
CLONE_NEWNET, SIOCGIFFLAGS, SIOCSIFFLAGS, IFF_UP = 0x40000000, 0x8913, 0x8914, 1


@dataclasses.dataclass(frozen=True)
class Command:
    """Benchmark options."""

    num_workers: tuple[int, ...] = option("numbers of processes; 1 is always included", (1, 2, 4))
    flagfile_of_run: str = option("recipe", "demo.flags")
    width_divisor: int = option("divisor of all channels", 1)
    resolution: int = option("pixels of the last level; 0 = the recipe's", 0)
    clips: int = option("clips per step: of each process (weak), or of all processes (strong)", 16)
    steps: int = option("timed steps per group and round", 5)
    rounds: int = option("rounds, in which all groups take turns", 4)
    output: str = option("also write the figures to this JSON file", "", destination="file")

    def __post_init__(self) -> None:
        valid = (
            bool(self.num_workers)
            and min(self.num_workers) >= 1
            and len(set(self.num_workers)) == len(self.num_workers)
        )
        valid = valid and max(self.num_workers) > 1
        require(valid, "num_workers", self.num_workers, "different whole numbers, one of them above 1, such as 1,2,4")
        for name in ("width_divisor", "clips", "steps", "rounds"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "a whole number of at least 1")

    @property
    def groups(self) -> list[int]:
        """Numbers of processes that train together."""
        return sorted(number for number in self.num_workers if number > 1)

    @property
    def config(self) -> Config:
        """Configuration of the run whose step is measured.

        Raises:
          ConfigError: The flags are inconsistent, or the clips cannot be divided.
        """
        flags = [f"--global_batch_size={self.clips}", "--distribution=multi_worker"]
        if self.resolution:
            flags.append(f"--resolution={self.resolution}")
        options = (ModelConfig, DataConfig, TrainConfig, EvalConfig)
        model, data, train, scores = cli.parse([f"--flagfile={self.flagfile_of_run}", *flags], *options)
        config = Config(narrowed(model, self.width_divisor), data, train, scores)
        divisor = model.pyramid.levels[-1].clip_stride
        for workers in self.num_workers:
            valid = f"a multiple of {workers * divisor}, so that {workers} processes can share them"
            require(self.clips % (workers * divisor) == 0, "clips", self.clips, valid)
        return config


@dataclasses.dataclass(frozen=True)
class Turn:
    """Measurements of a group in one turn.

    Attributes:
      seconds: Duration of each step, averaged over the processes.
      processor_seconds: Processor time per step, summed over the processes.
      bytes: Bytes on the loopback device per step.
    """

    seconds: list[float]
    processor_seconds: float
    bytes: float


def loopback_bytes(text: str) -> int:
    """Parses /proc/net/dev; returns the bytes received (equal to those sent) by `lo`."""
    for line in text.splitlines():
        name, _, counters = line.partition(":")
        if name.strip() == "lo":
            return int(counters.split()[0])
    raise UserError("/proc/net/dev has no loopback device; bytes cannot be counted here")


def received() -> int:
    """Returns the current `loopback_bytes`."""
    return loopback_bytes(pathlib.Path("/proc/thread-self/net/dev").read_text())


def enter_network_namespace() -> bool:
    """Moves this process and its children into a network namespace with only `lo`; returns whether it succeeded."""
    if ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWNET):
        return False
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        request = struct.pack("16sh14x", b"lo", 0)
        (flags,) = struct.unpack_from("h", fcntl.ioctl(control, SIOCGIFFLAGS, request), 16)
        fcntl.ioctl(control, SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", flags | IFF_UP))
    return True


def free_addresses(count: int) -> list[str]:
    """Returns unused addresses of this machine."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [f"127.0.0.1:{each.getsockname()[1]}" for each in sockets]


def reduced_bytes(function: tf.types.experimental.ConcreteFunction) -> list[int]:
    """Returns the tensor size in bytes of each all-reduce in a traced function."""
    import tensorflow as tf

    graph = function.graph.as_graph_def(add_shapes=True)
    bodies = {body.signature.name: body.node_def for body in graph.library.function}

    def sizes(nodes: Any) -> Iterator[int]:
        for node in nodes:
            if node.op == "CollectiveReduceV2":
                shape = tf.TensorShape(node.attr["_output_shapes"].list.shape[0])
                yield shape.num_elements() * tf.as_dtype(node.attr["T"].type).size
            for attribute in node.attr.values():
                if attribute.func.name:
                    yield from sizes(bodies[attribute.func.name])

    return list(sizes(graph.node))


class _Worker:
    """The model in a worker process, and the methods that the parent calls."""

    def __init__(self, config: Config, addresses: Sequence[str], index: int, processor: int) -> None:
        os.sched_setaffinity(0, {processor})  # before TensorFlow counts the processors
        task = {"cluster": {"worker": list(addresses)}, "task": {"type": "worker", "index": index}}
        os.environ["TF_CONFIG"] = json.dumps(task)
        from benchmarks.speed.implementations import tensorflow_model
        from tganv2_tf.training.distribution import make_any_reduce

        self.config, self.workers = config, len(addresses)
        self.model = tensorflow_model(config)
        self.any_reduce = make_any_reduce(self.model.distribute_strategy)
        self.made: dict[int, tuple[Any, Any]] = {}

    def _step(self, clips: int) -> tuple[Any, Any]:
        """Returns the function that `fit` calls for each step, and an iterator of batches for it."""
        import numpy as np
        import tensorflow as tf

        if clips not in self.made:
            train = dataclasses.replace(self.config.train, global_batch_size=clips)
            reals, _ = random_inputs(dataclasses.replace(self.config, train=train))
            batch = (
                tuple(tf.constant(level[np.newaxis]) for level in reals),
                tf.zeros([1, clips], tf.int64),
                tf.ones([self.workers], tf.int64),
            )
            batches = self.model.distribute_strategy.distribute_datasets_from_function(
                lambda _: tf.data.Dataset.from_tensors(batch).repeat()
            )
            # A new function: with other shapes the old one would retrace with unknown shapes, which training never
            # does.
            self.made[clips] = self.model.make_train_function(force=True), iter(batches)
        return self.made[clips]

    def steps(self, clips: int, number: int) -> tuple[list[float], float]:
        """Runs `number` steps of `clips` clips in this process; returns the seconds of each and the total processor
        time.
        """
        seconds, before = list[float](), time.process_time()
        with self.model.distribute_strategy.scope():
            step, batches = self._step(clips)
            for _ in range(number):
                start = time.perf_counter()
                results = {name: float(value) for name, value in step(batches).items()}
                self.any_reduce(False)  # as the training loop does after each step
                seconds.append(time.perf_counter() - start)
        if not all(map(math.isfinite, results.values())):
            raise UserError("the losses are not finite; the measurements are invalid")
        return seconds, time.process_time() - before

    def reduced_bytes(self, clips: int) -> list[int]:
        """Returns the sizes of a step's all-reduces; see the function of this name."""
        step, batches = self._step(clips)
        return reduced_bytes(step.get_concrete_function(batches))


def _serve(connection: multiprocessing.connection.Connection, *arguments: Any) -> None:
    """Main loop of a worker process: calls methods of its `_Worker`."""
    try:
        worker = _Worker(*arguments)
        connection.send((True, None))
        while True:
            method, *values = connection.recv()
            connection.send((True, getattr(worker, method)(*values)))
    except EOFError:
        return
    except UserError as error:
        connection.send((False, str(error)))
    except Exception:  # noqa: BLE001 (the parent raises it)
        connection.send((False, traceback.format_exc()))


class Group:
    """Processes that train together, or each alone. A context manager that ends them.

    Args:
      config: Configuration of the run.
      workers: Number of processes.
      together: Whether they train together.
    """

    def __init__(self, config: Config, workers: int, together: bool) -> None:
        self.workers = workers
        # Fork from a process that has imported TensorFlow without using it.
        context, addresses = multiprocessing.get_context("forkserver"), free_addresses(workers)
        context.set_forkserver_preload(["tensorflow", "keras"])
        processors = sorted(os.sched_getaffinity(0))
        self._connections, self._processes = [], []
        for index in range(workers):
            cluster = (addresses, index) if together else ([addresses[index]], 0)
            ours, theirs = context.Pipe()
            arguments = (theirs, config, *cluster, processors[index % len(processors)])
            process = context.Process(target=_serve, args=arguments, daemon=True)
            process.start()
            theirs.close()
            self._connections.append(ours)
            self._processes.append(process)

    def call(self, *what: Any, workers: int = 0) -> list[Any]:
        """Calls a method of the `_Worker` of each process, or of the first ones, in parallel; returns the results.

        Raises:
          UserError: A process has died, or its method failed.
        """
        connections = self._connections[: workers or self.workers]
        for connection in connections if what else ():
            connection.send(what)
        answers: dict[Any, Any] = {}
        deadline = time.monotonic() + START_SECONDS
        while len(answers) < len(connections):
            left = [connection for connection in connections if connection not in answers]
            ready: list[Any] = multiprocessing.connection.wait(left, max(0.0, deadline - time.monotonic()))
            if not ready:
                raise UserError(f"{len(left)} of {self.workers} processes did not answer within {START_SECONDS:g} s")
            for connection in ready:
                try:
                    succeeded, value = connection.recv()
                except (EOFError, ConnectionError) as error:
                    raise UserError("a worker process has died; possibly out of memory") from error
                if not succeeded:
                    raise UserError(f"a worker process failed: {value.strip().splitlines()[-1]}")
                answers[connection] = value
        return [answers[connection] for connection in connections]

    def turn(self, clips: int, steps: int, idle: float, workers: int = 0) -> Turn:
        """Runs steps of `clips` clips per process.

        Args:
          clips: Clips per process and step.
          steps: Steps of each process.
          idle: Background traffic in bytes per second.
          workers: Number of processes that work; 0 = all.
        """
        start, before = time.perf_counter(), received()
        found = self.call("steps", clips, steps, workers=workers)
        exchanged = received() - before - idle * (time.perf_counter() - start)
        seconds = [statistics.fmean(column) for column in zip(*(seconds for seconds, _ in found))]
        return Turn(seconds, sum(spent for _, spent in found) / steps, exchanged / steps)

    def __enter__(self) -> Group:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes:
            process.kill()  # on a regular exit they would wait for each other
            process.join()


def idle_bytes() -> float:
    """Returns the traffic in bytes per second while all processes are idle."""
    before = received()
    time.sleep(IDLE_SECONDS)
    return (received() - before) / IDLE_SECONDS


def measure(command: Command, config: Config) -> tuple[dict[str, list[Turn]], dict[int, list[int]]]:
    """Returns the turns of all groups, by names such as `weak 2`, and the bytes of each all-reduce per group."""
    turns, reduced = dict[str, list[Turn]](), dict[int, list[int]]()
    total = 2 + len(command.groups) + command.rounds
    with contextlib.ExitStack() as stack, tqdm(total=total, desc="starting", unit="part") as bar:
        alone = stack.enter_context(Group(config, command.groups[-1], together=False))
        together = {number: stack.enter_context(Group(config, number, together=True)) for number in command.groups}
        for group in (alone, *together.values()):
            group.call()
        alone.call("steps", command.clips, WARM_UP)
        bar.update()
        for number, group in together.items():
            for clips in sorted({command.clips, command.clips // number}):
                group.call("steps", clips, WARM_UP)
            reduced[number] = group.call("reduced_bytes", command.clips, workers=1)[0]
            bar.update()
        idle = idle_bytes()
        bar.update()
        bar.set_description("measuring")
        for _ in range(command.rounds):
            todo = [("alone 1", alone, command.clips, 1)]
            for number, group in together.items():
                todo.append((f"alone {number}", alone, command.clips, number))
                todo.append((f"weak {number}", group, command.clips, number))
                todo.append((f"strong {number}", group, command.clips // number, number))
            for name, group, clips, workers in todo:
                turns.setdefault(name, []).append(group.turn(clips, command.steps, idle, workers))
            bar.update()
    return turns, reduced


def table(command: Command, turns: dict[str, list[Turn]], reduced: dict[int, list[int]]) -> list[Row]:
    """Returns the rows; ratios are computed within rounds."""
    found = []

    def compare(name: str, baseline: str, size: str) -> None:
        own, theirs = ([statistics.median(turn.seconds) for turn in turns[key]] for key in (name, baseline))
        found.append(rows.compared(f"step, {size}", "s", own, theirs, less_is_better=True))
        every = sorted(second for turn in turns[name] for second in turn.seconds)
        tenth = len(every) // 10
        found.append(Row(f"step, {size}: 10th percentile", "s", every[tenth]))
        found.append(Row(f"step, {size}: 90th percentile", "s", every[-1 - tenth]))
        own, theirs = ([turn.processor_seconds for turn in turns[key]] for key in (name, baseline))
        found.append(rows.compared(f"processor time per step, {size}", "s", own, theirs, less_is_better=True))

    for number in command.groups:
        size = f"{number} x {command.clips} clips (weak)"
        compare(f"weak {number}", f"alone {number}", size)
        pairs = zip(turns[f"weak {number}"], turns[f"alone {number}"])
        more = [statistics.median(mine.seconds) - statistics.median(other.seconds) for mine, other in pairs]
        found.append(Row(f"exchange and waiting per step, {size}", "s", statistics.median(more)))
        compare(f"strong {number}", "alone 1", f"{number} x {command.clips // number} clips (strong)")
        exchanged = [turn.bytes / 1e6 for turn in turns[f"weak {number}"]]
        expected = number * sum(ring_bytes(size, number) for size in reduced[number]) / 1e6
        what = f"sent per step by {number} processes, and by a ring of {len(reduced[number])} all-reduces"
        found.append(rows.compared(what, "MB", exchanged, [expected] * len(exchanged), less_is_better=True))
        gradients = number * sum(ring_bytes(size, number) for size in sorted(reduced[number])[-2:]) / 1e6
        found.append(Row(f"of these the gradients of both networks, {number} processes", "MB", gradients))
    return found


def main(command: Command) -> int:
    config = command.config
    if not enter_network_namespace():
        logging.warning("No permission to create a network namespace: other traffic on lo is counted, too.")
    turns, reduced = measure(command, config)
    report("benchmarks.scaling.scaling", table(command, turns, reduced), command.output)
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(main, (Command,), "benchmarks.scaling.scaling", __doc__ or ""))
