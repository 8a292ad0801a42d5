"""Trains TGANv2, or resumes a run.

python -m tganv2_tf.train --flagfile=demo.flags --data_dir=demo/data/train --model_dir=demo/run
python -m tganv2_tf.train --flagfile=ucf.flags --data_dir=data/ucf101/train --model_dir=runs/ucf101 --dry_run
python -m tganv2_tf.train --flagfile=own_videos.flags --data_dir=data/own/train --model_dir=runs/own \\
  --init_from=runs/ucf101
On a Ray cluster (docs/distributed.md):
  python -m tganv2_tf.train --flagfile=ucf.flags --data_dir=s3://bucket/ucf101/train --model_dir=s3://bucket/run \\
    --distribution=ray --num_workers=8 --gpus_per_worker=1

Ctrl-C saves and stops; the same command resumes the run. `python -m tganv2_tf.doctor` with the same flags checks
whether they fit this machine.
"""

from __future__ import annotations

import dataclasses
import sys

from tganv2_tf import cli
from tganv2_tf.config import MODEL_OPTIONS, Config, DataConfig, EvalConfig, TrainConfig
from tganv2_tf.data.advice import require_folders
from tganv2_tf.options import option
from tganv2_tf.systems import SystemConfig
from tganv2_tf.training import ray_training
from tganv2_tf.training.ray_training import Cluster


@dataclasses.dataclass(frozen=True)
class Command:
    """Output before training."""

    dry_run: bool = option(
        "print the level table, the devices and the settings that are not the defaults, and exit", False
    )
    print_config: bool = option("print all settings, as the JSON of a run's config.json, and exit", False)


def main(
    command: Command, model: SystemConfig, data: DataConfig, train: TrainConfig, eval: EvalConfig, cluster: Cluster
) -> int:
    config = Config(model, data, train, eval)
    cluster.check(train.distribution)
    if command.print_config:
        print(config.to_json(), end="")
        return 0
    if not command.dry_run:
        require_folders(config)
    from tganv2_tf.training import description, loop  # imports TensorFlow: after the checks of the flags

    if train.distribution != "ray":
        return loop.train(config, command.dry_run)
    if command.dry_run:
        for line in description.describe(config, cluster.devices, cluster.num_workers):
            print(line)
        return 0
    return ray_training.train(config, cluster)


if __name__ == "__main__":
    options = (Command, MODEL_OPTIONS, DataConfig, TrainConfig, EvalConfig, Cluster)
    sys.exit(cli.run(main, options, "tganv2_tf.train", __doc__))
