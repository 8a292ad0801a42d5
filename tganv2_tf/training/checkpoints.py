"""Checkpoints with the complete state of a run."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Callable

import numpy as np
import tensorflow as tf
from absl import logging

from tganv2_tf import storage
from tganv2_tf.errors import UserError
from tganv2_tf.models.adversary import Adversary
from tganv2_tf.models.loss_scaling import uses_loss_scaling
from tganv2_tf.pretrained import read, readable
from tganv2_tf.runs import CHECKPOINT_DIR, SNAPSHOT_DIR, checkpoint_step, checkpoints_in, write_checkpoint_state
from tganv2_tf.storage.files import sync_folder


class CheckpointFolder:
    """Saves and restores the complete training state, so that a resumed run equals an uninterrupted one.

    The state consists of the networks, the averaged generator, the optimisers, the step and the position in the data.
    All random numbers depend only on these and on the seeds in the config.

    Attributes:
      model: The compiled model.
      folder: Folder of the checkpoints.
      checkpoint: The `tf.train.Checkpoint` of the state.
    """

    # Missing in checkpoints of older versions. The shape of the position depends on the number of workers.
    OPTIONAL = frozenset({"restarts", "data_position", "latest_penalty"})

    def __init__(self, model: Adversary, folder: str | None = None) -> None:
        """
        Args:
          model: The compiled model.
          folder: Folder of the checkpoints; None is the run's folder.
        """
        train = model.config.train
        self.model, self.keep = model, train.keep_checkpoints
        self.folder = folder or storage.join(train.model_dir, CHECKPOINT_DIR)
        self.objects = model.state
        self.checkpoint = tf.train.Checkpoint(**self.objects)
        # TensorFlow leaks about 50 KB per checkpoint written eagerly. But within a tf.function Keras omits loss scales.
        self._write = self._write_checkpoint
        if not any(map(uses_loss_scaling, model.optimizers.values())):
            self._write = tf.function(self._write_checkpoint, autograph=False)

    def _write_checkpoint(self, prefix: tf.Tensor) -> None:
        with tf.device(self.model.step.device):  # one device, one file
            self.checkpoint.write(prefix)

    def save(self, step: int) -> str:
        """Writes the checkpoint of a step, then deletes old checkpoints.

        Returns:
          The prefix of the checkpoint.
        Raises:
          OSError, tf.errors.OpError: The checkpoint cannot be written. Earlier checkpoints are unchanged.
        """
        storage.make_folder(self.folder)
        self._delete(lambda name, complete: name not in complete)  # leftovers of a save that was killed
        prefix = storage.join(self.folder, f"ckpt-{step}")
        if storage.is_remote(self.folder):
            name = os.path.basename(prefix)
            with tempfile.TemporaryDirectory() as local:
                self._write(tf.constant(os.path.join(local, name)))
                storage.copy_folder(local, self.folder, f"{name}.index")
        else:
            self._write_whole(prefix)
        # Checkpoints of later steps are unreadable; otherwise restore_newest() would have used them.
        newest = [other for other in checkpoints_in(self.folder) if checkpoint_step(other) <= step][: self.keep]
        write_checkpoint_state(prefix)
        keep = {os.path.basename(other) for other in newest}
        self._delete(lambda name, complete: name not in keep)
        return prefix

    def _write_whole(self, prefix: str) -> None:
        """Writes a checkpoint atomically: files get their final names only when they are complete and synced.

        TensorFlow creates an empty index with the final name before filling it, and does not sync the files, which may
        reach the disk half a minute later.
        """
        folder = f"{prefix}_partial"
        storage.make_folder(folder)
        self._write(tf.constant(os.path.join(folder, os.path.basename(prefix))))
        for name in sorted(os.listdir(folder), key=lambda name: name.endswith(".index")):  # the index last
            path = os.path.join(folder, name)
            if os.path.isfile(path):
                with open(path, "rb+") as opened:
                    os.fsync(opened.fileno())
                os.replace(path, os.path.join(self.folder, name))
        sync_folder(self.folder)
        storage.remove_folder(folder)

    def _delete(self, unwanted: Callable[[str, set[str]], bool]) -> None:
        """Deletes the files of each checkpoint for which unwanted(name, names of checkpoints with an index) is true."""
        complete = {os.path.basename(prefix) for prefix in checkpoints_in(self.folder)}
        # The index is deleted first, because files without an index do not count as a checkpoint.
        for name in sorted(storage.names(self.folder), key=lambda name: (not name.endswith(".index"), name)):
            if name.startswith("ckpt-") and unwanted(re.split(r"[._]", name)[0], complete):
                path = storage.join(self.folder, name)
                (storage.remove_folder if storage.is_folder(path) else storage.remove)(path)

    def restore(self, prefix: str) -> None:
        """Restores the state from a checkpoint.

        Raises:
          UserError: The checkpoint is damaged, of another model, or contains non-finite weights.
        """
        with readable(prefix) as local:
            shapes = tf.train.load_checkpoint(local).get_variable_to_shape_map()
            optional = self.OPTIONAL & set(self.objects)
            found = {name: shapes.get(f"{name}/.ATTRIBUTES/VARIABLE_VALUE") for name in optional}
            skipped = [name for name, shape in found.items() if shape != getattr(self.model, name).shape.as_list()]
            read(local, **{name: value for name, value in self.objects.items() if name not in skipped})
        if "data_position" in skipped:
            train, position = self.model.config.train, self.model.data_position
            used = int(self.model.step) * train.global_batch_size * train.n_dis
            position.assign(tf.fill(position.shape, tf.cast(used // position.shape[0], tf.int64)))
            logging.warning(
                "%s: saved by an older version or another number of workers; the order of the data changes.", prefix
            )
        networks = (*self.model.networks.values(), self.model.ema_generator)
        for variable in (variable for network in networks for variable in network.variables):
            if not np.isfinite(variable.numpy()).all():
                raise UserError(f"{prefix}: {variable.name} contains non-finite values")

    def newest_step(self) -> int:
        """Returns the step of the newest checkpoint, readable or not; 0 if there are none."""
        return max(map(checkpoint_step, checkpoints_in(self.folder)), default=0)

    def restore_newest(self) -> str | None:
        """Restores the newest readable checkpoint; logs a warning for each newer one that is unreadable.

        Returns:
          The prefix of the checkpoint; None if there are no checkpoints.
        Raises:
          UserError: There are checkpoints, but none is readable.
        """
        prefixes = checkpoints_in(self.folder)
        restored = next(filter(self._can_restore, prefixes), None)
        if prefixes and not restored:
            raise UserError(
                f"{self.folder}: none of its {len(prefixes)} checkpoints can be read; copy them again, or start a new "
                f"run with --init_from={os.path.join(os.path.dirname(self.folder), SNAPSHOT_DIR, 'ckpt-STEP')}"
            )
        return restored

    def _can_restore(self, prefix: str) -> bool:
        try:
            self.restore(prefix)
        except UserError as error:
            logging.warning("%s. The run falls back to the previous checkpoint.", error)
            return False
        return True
