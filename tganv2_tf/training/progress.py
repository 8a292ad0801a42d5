"""The progress bar of a run."""

from __future__ import annotations

import contextlib
import io
import sys
from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from tganv2_tf.runtime import lanes

BAR_FORMAT = "{desc} {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}, {rate_fmt}]"
BAR_LOSSES = {"generator_loss": "G", "discriminator_loss": "D", "r1_penalty": "R1"}


def progress_bar(first_step: int, train_steps: int) -> tf.keras.callbacks.Callback:
    """Returns a progress bar of the whole run's steps, with the latest losses, the rate and the remaining time."""

    class ProgressBar(lanes.progress_bar_class()):  # type: ignore[misc]
        def _initialize_progbar(self, hook: str, epoch: int | None, logs: dict[str, Any] | None = None) -> None:
            with contextlib.redirect_stdout(io.StringIO()):  # the original prints `Epoch 1/1`
                super()._initialize_progbar(hook, epoch, logs)
            if hook == "train_epoch":
                self.total_steps = self.epoch_progress_tqdm.total = train_steps
                # tqdm computes the rate from the steps since `initial` and since `last_print_n`.
                self.epoch_progress_tqdm.initial = self.epoch_progress_tqdm.n = first_step
                self.epoch_progress_tqdm.last_print_n = first_step
                self.epoch_progress_tqdm.refresh()

        def format_metrics(self, logs: dict[str, Any] | None = None, factor: float = 1) -> str:
            return shown_losses(self.latest)

        def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
            self.latest = logs or {}
            self._update_progbar({})

        def _clean_up_progbar(self, hook: str, logs: dict[str, Any]) -> None:
            if hook == "train_epoch":  # the original fills the bar even if the run was stopped
                self.epoch_progress_tqdm.update(self.steps_to_update)
                self.close()

        def close(self) -> None:
            """Closes the bar. Must also be called after an error, when Keras calls no callbacks."""
            if self.epoch_progress_tqdm is not None:
                self.epoch_progress_tqdm.close()

    bar = ProgressBar(epoch_bar_format=BAR_FORMAT, show_overall_progress=False)
    bar.update_interval = bar_interval()
    return bar


def shown_losses(logs: Mapping[str, float]) -> str:
    """Formats the losses of a step for the progress bar."""
    return " ".join(f"{short} {logs[name]:.3f}" for name, short in BAR_LOSSES.items() if name in logs)


def bar_interval() -> float:
    """Returns the seconds between two updates of the bar; longer for log files, to keep them small."""
    return 0.5 if sys.stderr.isatty() else 30.0
