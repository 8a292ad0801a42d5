"""Where a run computes: the strategy, and how its devices share a batch."""

from __future__ import annotations

import os
import shutil
from typing import Any

import tensorflow as tf
from absl import logging

from tganv2_tf.config import Config
from tganv2_tf.errors import ConfigError

LARGE_RESOLUTION = 128  # pixels from which a run without a GPU is a mistake more often than not


def make_strategy(distribution: str = "mirrored") -> tf.distribute.Strategy:
    """The strategy of that name, on all GPUs or, where there are none, on the CPU.

    Args:
      distribution: a value of `TrainConfig.distribution`. `multi_worker` waits until all workers are there, and must
        come before anything else that TensorFlow computes.
    Raises:
      ConfigError: `multi_worker`, and nothing says who the workers are.
    """
    if distribution == "multi_worker":
        return tf.distribute.MultiWorkerMirroredStrategy(cluster_resolver())
    kind = "GPU" if tf.config.list_logical_devices("GPU") else "CPU"
    devices = [f"/{kind.lower()}:{i}" for i in range(len(tf.config.list_logical_devices(kind)))]
    if distribution == "one_device":
        return tf.distribute.OneDeviceStrategy(devices[0])
    return tf.distribute.MirroredStrategy(devices)


def cluster_resolver() -> tf.distribute.cluster_resolver.ClusterResolver:
    """Who the workers are: by TF_CONFIG where it is set, else by Slurm, where `srun` has started this process.

    Raises:
      ConfigError: neither says so, or what it says cannot be understood.
    """
    flag = "--distribution=multi_worker"
    try:
        if os.environ.get("TF_CONFIG"):
            resolver = tf.distribute.cluster_resolver.TFConfigClusterResolver()
            if resolver.cluster_spec().num_tasks("worker") and resolver.task_id is not None:
                return resolver
            raise ValueError("it needs cluster.worker, a list of HOST:PORT, and task.type and task.index")
        if "SLURM_PROCID" in os.environ:
            gpus: dict[str, Any] = {}
            if not shutil.which("nvidia-smi"):
                # The resolver deals out GPUs and cannot be told that there are none; one a task, that nobody uses.
                tasks = int(os.environ.get("SLURM_STEP_NUM_TASKS", 1))
                gpus = {"gpus_per_node": tasks, "gpus_per_task": 1, "auto_set_gpu": False}
            resolver = tf.distribute.cluster_resolver.SlurmClusterResolver(**gpus)
            resolver.cluster_spec()  # also says which of the tasks this is
            return resolver
    except (ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:
        source = "TF_CONFIG" if os.environ.get("TF_CONFIG") else "Slurm's environment"
        raise ConfigError(f"{flag}: {source} cannot be used: {error}") from error
    raise ConfigError(f"{flag}: set TF_CONFIG on every worker, or start the workers with srun; neither is there")


def is_chief(strategy: tf.distribute.Strategy) -> bool:
    """Whether this process is the one that writes: the only one, the chief, or, where none is named, worker 0."""
    resolver = strategy.cluster_resolver
    if resolver is None or not resolver.task_type:
        return True
    chiefs = "chief" in resolver.cluster_spec().jobs
    return resolver.task_type == "chief" or (not chiefs and resolver.task_type == "worker" and resolver.task_id == 0)


def num_workers(strategy: tf.distribute.Strategy) -> int:
    """Processes that train together."""
    resolver = strategy.cluster_resolver
    spec = {} if resolver is None else resolver.cluster_spec().as_dict()
    return max(1, sum(len(spec.get(job, ())) for job in ("chief", "worker")))


def any_worker(strategy: tf.distribute.Strategy, flag: bool) -> bool:
    """Whether the flag is up on any worker; all of them must ask, and get the same answer."""
    if num_workers(strategy) == 1:
        return flag
    mine = tf.constant(float(flag))
    total = strategy.run(lambda: tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, mine))
    return bool(strategy.experimental_local_results(total)[0] > 0)


def per_replica_batch_size(config: Config, num_replicas: int) -> int:
    """N_1 of one replica.

    Raises:
      ConfigError: the replicas cannot share the batch, or a replica's share cannot be halved from level to level.
    """
    divisor = num_replicas * config.model.pyramid.levels[-1].clip_stride
    if config.train.global_batch_size % divisor:
        raise ConfigError(
            f"--global_batch_size={config.train.global_batch_size}: {num_replicas} replicas cannot share it; "
            f"valid: a multiple of {divisor} (replicas x product of --batch_strides)"
        )
    return config.train.global_batch_size // num_replicas


def warn_without_gpu(config: Config) -> None:
    """Says loudly that a full recipe is about to run on a CPU."""
    if config.model.resolution >= LARGE_RESOLUTION and not tf.config.list_logical_devices("GPU"):
        logging.warning(
            "NO GPU FOUND: %dx%d pixels on this CPU will take many seconds a step, and months for a run. "
            "Install requirements-gpu.txt on a machine with a GPU, or try `make demo` first.",
            config.model.resolution,
            config.model.resolution,
        )
