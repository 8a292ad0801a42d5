"""Training on a Ray cluster: Ray Train places, connects and restarts the workers.

The workers train as with `--distribution=multi_worker`, with equal results. This process, the driver, does not train:
it validates inputs before workers start, shows their logs, and requests a final save on SIGTERM and Ctrl-C. Driver and
workers communicate through an actor on the driver's node. The run saves its own checkpoints, not Ray's.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging as std_logging
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator
from typing import Any

import tqdm
from absl import logging

from tganv2_tf import ray_cluster, storage
from tganv2_tf.config import Config
from tganv2_tf.errors import ConfigError, UserError
from tganv2_tf.options import option, require
from tganv2_tf.storage import files
from tganv2_tf.training import ray_worker

POLL_SECONDS = 0.5
SHUTDOWN_SECONDS = 20.0


@dataclasses.dataclass(frozen=True)
class Cluster:
    """Workers of --distribution=ray."""

    num_workers: int = option("number of worker processes", 1)
    ray_address: str = option(ray_cluster.ADDRESS_HELP, "")
    cpus_per_worker: float = option("processors reserved per worker", 1.0)
    gpus_per_worker: int = option("GPUs reserved per worker", 0)
    worker_restarts: int = option(
        "maximum restarts of all workers, from the newest checkpoint, after some were lost", 3
    )

    def __post_init__(self) -> None:
        require(self.num_workers >= 1, "num_workers", self.num_workers, "a whole number of at least 1")
        require(self.cpus_per_worker > 0, "cpus_per_worker", self.cpus_per_worker, "a number above 0")
        for name in ("gpus_per_worker", "worker_restarts"):
            require(getattr(self, name) >= 0, name, getattr(self, name), "a whole number of at least 0")

    def check(self, distribution: str) -> None:
        """Raises ConfigError if these flags are set without --distribution=ray."""
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            require(distribution == "ray" or value == field.default, field.name, value, "with --distribution=ray only")

    @property
    def devices(self) -> tuple[str, ...]:
        """Devices of the first worker, as its strategy names them."""
        kind = "GPU" if self.gpus_per_worker else "CPU"
        return tuple(f"/job:worker/replica:0/task:0/device:{kind}:{i}" for i in range(self.gpus_per_worker or 1))


class DriverMailbox:
    """Actor through which workers report to the driver, and the driver requests a stop."""

    def __init__(self) -> None:
        self.signal: int | None = None
        self.state: dict[str, Any] = {}
        self.records: list[std_logging.LogRecord] = []

    def report(self, step: int, metrics: dict[str, float]) -> int | None:
        """Stores the chief's latest step. Returns the signal with which to stop the run, or None."""
        self.state |= {"step": step, "metrics": metrics}
        return self.signal

    def log(self, record: std_logging.LogRecord) -> None:
        self.records.append(record)

    def fail(self, kind: str, message: str) -> None:
        """Stores the error that ends the run. Only the first counts, as it may cause the others."""
        self.state.setdefault("failure", (kind, message))

    def stop(self, number: int) -> None:
        self.signal = number

    def failed(self) -> bool:
        return "failure" in self.state

    def read(self) -> tuple[dict[str, Any], list[std_logging.LogRecord]]:
        """Returns the latest state, and the log records since the last call."""
        records, self.records = self.records, []
        return self.state, records


def train(config: Config, cluster: Cluster) -> int:
    """Starts or resumes the run in `model_dir` with the workers of a Ray cluster.

    Returns:
      The exit status: 0, or 128 + the number of the signal that stopped the run.
    Raises:
      UserError: As in `loop.train`; or the cluster is not available, or workers were lost too often.
    """
    config = _checked(_with_absolute_paths(config), cluster)
    with contextlib.ExitStack() as stack:
        stack.enter_context(ray_cluster.connected(cluster.ray_address))
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        needs = {"CPU": cluster.cpus_per_worker, "GPU": cluster.gpus_per_worker}
        monitor = ray_cluster.ClusterMonitor(needs, cluster.num_workers)
        driver_node = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        mailbox = ray.remote(num_cpus=0, scheduling_strategy=driver_node)(DriverMailbox).remote()
        # Ray Train requires a storage folder; it is not used, because the run saves its own checkpoints.
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        trainer = _trainer(config, cluster, mailbox, folder)
        outcome: list[Any] = []
        fit_thread = threading.Thread(target=_fit, args=(trainer, outcome), daemon=True)
        fit_thread.start()
        logging.info("Ray starts %d workers.", cluster.num_workers)
        # Ray ends the whole process if a thread waits for it while it is shut down.
        stack.callback(fit_thread.join, SHUTDOWN_SECONDS)
        display = _ProgressDisplay(config.train.train_steps)
        stack.callback(display.close)
        with _signals_to(mailbox):
            while fit_thread.is_alive():
                fit_thread.join(POLL_SECONDS)
                state = display.follow(mailbox)
                monitor.check()
    if "failure" in state:
        kind, message = state["failure"]
        raise {"bug": RuntimeError, "flags": ConfigError}.get(kind, UserError)(message)
    result = outcome[0]
    if isinstance(result, Exception):
        failures = getattr(result, "worker_failures", {})
        if not failures:
            raise UserError(f"Ray cannot start the workers: {_last_line(result)}")
        errors = "; ".join(sorted({_last_line(failure) for failure in failures.values()}))
        restarts = cluster.worker_restarts
        raise UserError(
            f"the workers failed more often than --worker_restarts={restarts} allows; last errors: {errors}"
        )
    status, step, metrics = result.return_value
    if metrics:
        shown = ", ".join(f"{name} {value:.4g}" for name, value in sorted(metrics.items()))
        logging.info("Step %d: %s.", step, shown)
    return status


def _last_line(error: Exception) -> str:
    """Returns the last line of an error message; Ray's messages start with a traceback."""
    return (str(error).strip() or type(error).__name__).splitlines()[-1][:200]


def _with_absolute_paths(config: Config) -> Config:
    """Returns the config with absolute paths, because workers have other working directories."""
    run, data, scores = config.train, config.data, config.eval
    placed = ray_cluster.absolute_path
    return dataclasses.replace(
        config,
        train=dataclasses.replace(run, model_dir=placed(run.model_dir), init_from=placed(run.init_from)),
        data=dataclasses.replace(data, data_dir=placed(data.data_dir)),
        eval=dataclasses.replace(
            scores,
            classifier=placed(scores.classifier),
            c3d_mean=placed(scores.c3d_mean),
            cache_dir=placed(os.path.expanduser(scores.cache_dir)),
        ),
    )


def _checked(config: Config, cluster: Cluster) -> Config:
    """Returns the config with the number of classes. Raises errors of the inputs once, before workers start."""
    import tensorflow as tf

    from tganv2_tf.data.checks import load_manifest
    from tganv2_tf.training import loop
    from tganv2_tf.training.classes import check_classes
    from tganv2_tf.training.compatibility import check_run
    from tganv2_tf.training.distribution import per_replica_batch_size

    tf.config.set_visible_devices([], "GPU")  # reserved for workers on this machine
    model_dir = config.train.model_dir
    per_replica_batch_size(config, cluster.num_workers * len(cluster.devices))
    manifest = load_manifest(config.model, config.data)
    config = loop.with_classes(config, manifest)
    storage.make_folder(model_dir)
    with files.locked(storage.join(model_dir, loop.LOCK), f"--model_dir={model_dir}"):
        check_classes(config, manifest.labels)
        check_run(config)
    return config


def _trainer(config: Config, cluster: Cluster, mailbox: Any, folder: str) -> Any:
    """Returns Ray's trainer, which runs `ray_worker.work` in each worker."""
    from ray.train import FailureConfig, RunConfig, ScalingConfig, UserCallback
    from ray.train.tensorflow import TensorflowTrainer

    class WorkerFailures(UserCallback):
        """Logs that workers were lost. Runs in Ray's controller, which restarts them."""

        def __init__(self) -> None:
            self.count = 0

        def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
            if sys.modules["ray"].get(mailbox.failed.remote()):
                os._exit(1)  # ends this process, which would restart the workers
            self.count += 1
            if self.count <= cluster.worker_restarts:
                ranks = ", ".join(map(str, sorted(worker_exceptions)))
                line = (
                    f"Ray: lost worker {ranks}; all workers restart, {self.count} of {cluster.worker_restarts} "
                    f"({'; '.join(sorted({_last_line(error) for error in worker_exceptions.values()}))})."
                )
                mailbox.log.remote(std_logging.LogRecord("absl", std_logging.WARNING, __file__, 0, line, None, None))

    return TensorflowTrainer(
        lambda: ray_worker.work(config, mailbox),
        scaling_config=ScalingConfig(
            num_workers=cluster.num_workers,
            use_gpu=cluster.gpus_per_worker > 0,
            resources_per_worker={"CPU": cluster.cpus_per_worker, "GPU": cluster.gpus_per_worker},
        ),
        run_config=RunConfig(
            storage_path=folder,
            failure_config=FailureConfig(max_failures=cluster.worker_restarts),
            callbacks=[WorkerFailures()],
        ),
    )


def _fit(trainer: Any, outcome: list[Any]) -> None:
    """Appends the trainer's result or error. Runs in a thread, so that the main thread receives signals, not Ray."""
    try:
        outcome.append(trainer.fit())
    except Exception as error:  # noqa: BLE001 (the main thread reports it)
        outcome.append(error)


@contextlib.contextmanager
def _signals_to(mailbox: Any) -> Iterator[None]:
    """Within the block, SIGTERM and Ctrl-C request save and stop; a second signal ends the process at once."""

    def stop(number: int, frame: Any) -> None:
        restore()
        mailbox.stop.remote(number)
        logging.info("The run stops when its step is saved; a second signal ends it at once.")

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        restore()


class _ProgressDisplay:
    """Shows the workers' logs, and a progress bar once the first step is done."""

    def __init__(self, train_steps: int) -> None:
        self.train_steps = train_steps
        self.bar: tqdm.tqdm | None = None

    def follow(self, mailbox: Any) -> dict[str, Any]:
        """Shows new log records and progress from the mailbox. Returns the latest state."""
        from tganv2_tf.training.progress import BAR_FORMAT, bar_interval, shown_losses

        ray = sys.modules["ray"]
        try:
            state, records = ray.get(mailbox.read.remote())
        except ray.exceptions.RayError as error:
            raise UserError(f"the Ray cluster is lost: {' '.join(str(error).split())[:200]}") from error
        for record in records:
            if self.bar is not None:
                self.bar.clear()
            logging.get_absl_logger().handle(record)
        if "step" in state:
            if self.bar is None:
                options = {"bar_format": BAR_FORMAT, "dynamic_ncols": True, "mininterval": bar_interval()}
                self.bar = tqdm.tqdm(initial=state["step"], total=self.train_steps, **options)
            self.bar.desc = shown_losses(state["metrics"])
            self.bar.update(state["step"] - self.bar.n)
        return state

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()
