"""A worker of `--distribution=ray`, which Ray Train runs for `ray_training` on any node.

It trains as a worker of `multi_worker`. Errors that a restart cannot fix are reported to the driver's mailbox.
"""

from __future__ import annotations

import logging as std_logging
import os
import time
import traceback
from logging.handlers import QueueHandler
from typing import Any

from absl import logging

from tganv2_tf.config import Config
from tganv2_tf.errors import ConfigError, UserError
from tganv2_tf.storage import files

REPORT_SECONDS = 1.0  # minimum between two reports of the chief; more would slow down fast steps


def work(config: Config, mailbox: Any) -> tuple[int, int, dict[str, float]]:
    """Trains in a worker. Errors that a restart cannot fix are reported to the mailbox, and the driver ends the run.

    Returns:
      The exit status, the last step and its metrics. Ray keeps those of the chief.
    Raises:
      UserError: Another worker was lost; Ray restarts all workers.
    """
    import ray
    from ray.train import get_context, report

    os.environ.pop("TF_USE_LEGACY_KERAS", None)  # set by Ray; this TensorFlow includes Keras 2
    import tensorflow as tf

    from tganv2_tf.training import loop
    from tganv2_tf.training.distribution import is_loss_of_worker, make_strategy

    latest: tuple[int, dict[str, float]] = (0, {})
    chief, last_report = get_context().get_world_rank() == 0, 0.0

    def report_step(step: int, logs: dict[str, Any]) -> int | None:
        nonlocal latest, last_report
        latest = (step, {name: float(value) for name, value in logs.items()})
        # `report` waits for the other workers, and for Ray's controller if it has not polled since the last report.
        if config.train.is_due(step, config.train.checkpoint_every_steps) or step == config.train.train_steps:
            report({"step": step, **latest[1]})
        if not chief or time.monotonic() - last_report < REPORT_SECONDS:
            return None
        last_report = time.monotonic()
        return ray.get(mailbox.report.remote(*latest))

    logging.set_verbosity(logging.INFO)
    logging.get_absl_logger().addHandler(_MailboxHandler(mailbox))
    # Errors here mean that other workers are missing; Ray restarts all workers.
    strategy = make_strategy("multi_worker")
    try:
        status = loop.train(config, strategy=strategy, on_step=report_step)
    except (files.InUseError, ray.exceptions.RayError):  # an old chief is still running, or Ray failed
        raise
    except (UserError, OSError) as error:
        cause = error.__cause__
        if isinstance(cause, tf.errors.OpError) and is_loss_of_worker(cause):
            raise
        ray.get(mailbox.fail.remote("flags" if isinstance(error, ConfigError) else "input", str(error)))
        raise
    except Exception:
        ray.get(mailbox.fail.remote("bug", f"in a worker:\n{traceback.format_exc()}"))
        raise
    if chief and latest[1]:
        ray.get(mailbox.report.remote(*latest))  # completes the progress bar
    return status, *latest


class _MailboxHandler(QueueHandler):
    """Sends a worker's log records to the driver."""

    def enqueue(self, record: std_logging.LogRecord) -> None:
        self.queue.log.remote(record)  # type: ignore[attr-defined]
