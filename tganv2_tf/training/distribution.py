"""Distribution strategies, communication between workers, and the batch size per replica."""

from __future__ import annotations

import json
import os
from collections.abc import Callable

import numpy as np
import tensorflow as tf
from absl import logging
from tensorflow.python.eager import context  # the coordination service has no public API

from tganv2_tf.config import Config
from tganv2_tf.errors import ConfigError, UserError
from tganv2_tf.runtime import lanes, machine

LARGE_RESOLUTION = 128  # pixels; from this size, training without a GPU is probably a mistake
# Seconds without a heartbeat after which a worker counts as lost. TensorFlow's default, 10, is too short if a switch is
# replaced or a virtual machine is migrated.
HEARTBEAT_SECONDS = 60.0
HEARTBEAT_VARIABLE = "TGANV2_HEARTBEAT_SECONDS"


def make_strategy(distribution: str = "mirrored") -> tf.distribute.Strategy:
    """Creates a strategy on all GPUs, or on the CPU if there are none.

    Args:
      distribution: A value of `TrainConfig.distribution`. `multi_worker` waits until all workers are connected. It must
        precede any other TensorFlow computation. After a worker is lost or disconnected, collective operations fail on
        all other workers (see `is_loss_of_worker`).
    Raises:
      ConfigError: With `multi_worker`: the workers are not specified or cannot be reached.
    """
    if distribution == "multi_worker":
        resolver = cluster_resolver()
        _configure_heartbeat(resolver)
        # By default TensorFlow 2.15 uses the gRPC ring between GPUs too. Listing physical devices does not initialise
        # them, which would be too early here.
        kinds = tf.distribute.experimental.CommunicationImplementation
        kind = kinds.NCCL if tf.config.list_physical_devices("GPU") else kinds.RING
        options = tf.distribute.experimental.CommunicationOptions(implementation=kind)
        try:
            return tf.distribute.MultiWorkerMirroredStrategy(resolver, options)
        except (ValueError, tf.errors.OpError) as error:
            workers = resolver.cluster_spec().as_dict()
            raise ConfigError(
                f"--distribution=multi_worker: {' '.join(str(error).split())[:200]}; this is task {resolver.task_id} "
                f"({resolver.task_type}) of {workers}"
            ) from error
    kind = "GPU" if tf.config.list_logical_devices("GPU") else "CPU"
    devices = [f"/{kind.lower()}:{i}" for i in range(len(tf.config.list_logical_devices(kind)))]
    if distribution == "one_device":
        return tf.distribute.OneDeviceStrategy(devices[0])
    return tf.distribute.MirroredStrategy(devices)


def cluster_resolver() -> tf.distribute.cluster_resolver.ClusterResolver:
    """Finds the workers from TF_CONFIG if it is set, else from Slurm's environment if `srun` started this process.

    Raises:
      ConfigError: Neither is set, or it is invalid.
    """
    flag = "--distribution=multi_worker"
    try:
        if os.environ.get("TF_CONFIG"):
            resolver = tf.distribute.cluster_resolver.TFConfigClusterResolver()
            if resolver.cluster_spec().num_tasks("worker") and resolver.task_id is not None:
                return resolver
            raise ValueError("it needs cluster.worker, a list of HOST:PORT, and task.type and task.index")
        if "SLURM_PROCID" in os.environ:
            # The resolver would also assign GPUs, which fails if Slurm has done so (--gpus-per-task). It is passed
            # fictitious GPUs and used only to find the cluster.
            tasks = int(os.environ.get("SLURM_STEP_NUM_TASKS", 1))
            slurm = tf.distribute.cluster_resolver.SlurmClusterResolver(
                gpus_per_node=tasks, gpus_per_task=1, auto_set_gpu=False
            )
            cluster = slurm.cluster_spec().as_dict()  # sets task_type and task_id
            task = {"type": slurm.task_type, "index": slurm.task_id}
            os.environ["TF_CONFIG"] = json.dumps({"cluster": cluster, "task": task})
            return tf.distribute.cluster_resolver.TFConfigClusterResolver()
    except (ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:
        source = "TF_CONFIG" if os.environ.get("TF_CONFIG") else "Slurm's environment"
        raise ConfigError(f"{flag}: {source} cannot be used: {error}") from error
    raise ConfigError(f"{flag}: TF_CONFIG is not set, nor is this a Slurm step; set it on every worker, or use srun")


def _configure_heartbeat(resolver: tf.distribute.cluster_resolver.ClusterResolver) -> None:
    """Configures TensorFlow's coordination service as the strategy would, but with another heartbeat timeout.

    Raises:
      ConfigError: The timeout in the environment is not a valid number of seconds.
    """
    text = os.environ.get(HEARTBEAT_VARIABLE) or HEARTBEAT_SECONDS
    try:
        seconds = float(text)
        if not 1 <= seconds <= 86400:
            raise ValueError
    except ValueError as error:
        raise ConfigError(f"{HEARTBEAT_VARIABLE}={text}: valid: 1 to 86400 seconds") from error
    cluster, job_type = resolver.cluster_spec().as_dict(), lanes.coordinated_job()
    context.context().configure_coordination_service(
        service_type="standalone",
        service_leader=f"/job:{'chief' if 'chief' in cluster else 'worker'}/replica:0/task:0",
        heartbeat_timeout_in_ms=int(1000 * seconds),
        coordinated_jobs=[
            job_type(name=job, num_tasks=len(cluster[job])) for job in ("chief", "worker") if job in cluster
        ],
    )


def is_loss_of_worker(error: tf.errors.OpError) -> bool:
    """Returns whether an error of a collective operation means that a worker is lost or cannot be reached."""
    lost = (tf.errors.UnavailableError, tf.errors.DeadlineExceededError, tf.errors.AbortedError)
    return isinstance(error, lost) or "Collective ops is aborted" in error.message or "NCCL" in error.message


def is_chief(strategy: tf.distribute.Strategy) -> bool:
    """Returns whether this process writes the run's files: the only process, the chief, or else worker 0."""
    resolver = strategy.cluster_resolver
    if resolver is None or not resolver.task_type:
        return True
    chiefs = "chief" in resolver.cluster_spec().jobs
    return resolver.task_type == "chief" or (not chiefs and resolver.task_type == "worker" and resolver.task_id == 0)


def num_workers(strategy: tf.distribute.Strategy) -> int:
    """Returns the number of processes that train together."""
    resolver = strategy.cluster_resolver
    spec = {} if resolver is None else resolver.cluster_spec().as_dict()
    return max(1, sum(len(spec.get(job, ())) for job in ("chief", "worker")))


def worker_number(strategy: tf.distribute.Strategy) -> int:
    """Returns the index of this process among the workers, from 0, in the order of the results of `make_all_gather`."""
    resolver = strategy.cluster_resolver
    if resolver is None or resolver.task_id is None:
        return 0
    chiefs = len(resolver.cluster_spec().as_dict().get("chief", ()))
    return int(resolver.task_id) + (chiefs if resolver.task_type == "worker" else 0)


def make_all_gather(strategy: tf.distribute.Strategy) -> Callable[[np.ndarray], list[np.ndarray]]:
    """Returns a function that gathers the arrays of all workers. All must call it together, with equal shapes."""
    if num_workers(strategy) == 1:
        return lambda array: [array]

    def gather(array: tf.Tensor) -> tf.Tensor:
        return tf.distribute.get_replica_context().all_gather(tf.identity(array)[None], axis=0)

    gathered = tf.function(lambda array: strategy.run(gather, (array,)), autograph=False, reduce_retracing=True)
    each = strategy.num_replicas_in_sync // num_workers(strategy)  # replicas per worker, all with the same array

    def all_gather(array: np.ndarray) -> list[np.ndarray]:
        return list(strategy.experimental_local_results(gathered(tf.constant(array)))[0].numpy()[::each])

    return all_gather


def make_any_reduce(strategy: tf.distribute.Strategy) -> Callable[[bool], bool]:
    """Returns a function that tells whether a flag is true on any worker. All workers must call it together."""
    if num_workers(strategy) == 1:
        return lambda flag: flag

    def add_up(flag: tf.Tensor) -> tf.Tensor:
        # all_reduce needs a tensor made on this replica: the strategy does not know the device of an input tensor.
        return tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, tf.identity(flag))

    total = tf.function(lambda flag: strategy.run(add_up, (flag,)), autograph=False)
    return lambda flag: bool(strategy.experimental_local_results(total(tf.constant(float(flag))))[0] > 0)


def per_replica_batch_size(config: Config, num_replicas: int) -> int:
    """Returns N_1 of one replica.

    Raises:
      ConfigError: The global batch is not divisible by replicas x product of batch strides x microbatches.
    """
    parts = config.train.gradient_accumulation_steps
    divisor = num_replicas * config.model.pyramid.levels[-1].clip_stride * parts
    if config.train.global_batch_size % divisor:
        raise ConfigError(
            f"--global_batch_size={config.train.global_batch_size}: {num_replicas} replicas cannot share it; "
            f"valid: a multiple of {divisor} (replicas x product of --batch_strides"
            + (" x --gradient_accumulation_steps)" if parts > 1 else ")")
        )
    return config.train.global_batch_size // num_replicas


def warn_without_gpu(config: Config) -> None:
    """Logs a warning if a model of high resolution would be trained on a CPU."""
    if config.model.resolution >= LARGE_RESOLUTION and not tf.config.list_logical_devices("GPU"):
        logging.warning(
            "NO GPU FOUND: %dx%d pixels on this CPU will take many seconds per step, and months for a run. "
            "On a machine with a GPU: %s. Or try `make demo` first.",
            config.model.resolution,
            config.model.resolution,
            lanes.install_command("gpu"),
        )


def check_half_precision(config: Config) -> None:
    """Logs a warning if bfloat16 is slow on this CPU.

    oneDNN needs AVX-512 for bfloat16. Without AVX-512, Eigen is used, and a step of the demo takes 20 times as long as
    in float32.

    Raises:
      UserError: TensorFlow would crash or hang, see `machine.withholds`.
    """
    precision = config.train.mixed_precision
    if precision == "float32" or tf.config.list_logical_devices("GPU"):
        return
    if machine.withholds(precision.removeprefix("mixed_")):
        raise UserError(
            f"--mixed_precision={precision} needs instructions that ONEDNN_MAX_CPU_ISA="
            f"{os.environ['ONEDNN_MAX_CPU_ISA']} disables: unset it, or use --mixed_precision=float32"
        )
    if precision != "mixed_bfloat16":
        return
    found = machine.instruction_set()
    if found and not found.startswith("AVX512"):
        logging.warning(
            "This processor has no AVX-512: a step in bfloat16 takes many times as long as with "
            "--mixed_precision=float32."
        )
