"""Checks the machine, the installation, the data and the run's folder, and advises what to change.

python -m tganv2_tf.doctor
python -m tganv2_tf.doctor --flagfile=demo.flags --data_dir=demo/data/train --model_dir=demo/run
python -m tganv2_tf.doctor --flagfile=ucf.flags --data_dir=data/ucf101/train --global_batch_size=16

It accepts the flags of tganv2_tf.train. Each line begins with OK, NOTE (worth knowing) or PROBLEM (the run would not
start, or would fail later).

With a recipe, the memory and time of a step are computed from the networks' graph, which takes about ten seconds, and
compared with this machine. Nothing is trained. The exit status is 1 if there is a PROBLEM, else 0.
"""

from __future__ import annotations

import dataclasses
import sys

from tganv2_tf import cli
from tganv2_tf.config import MODEL_OPTIONS, Config, DataConfig, EvalConfig, TrainConfig
from tganv2_tf.diagnosis.findings import PROBLEM
from tganv2_tf.diagnosis.recipe import run_checks
from tganv2_tf.systems import SystemConfig


def main(model: SystemConfig, data: DataConfig, train: TrainConfig, eval: EvalConfig) -> int:
    config = Config(model, data, train, eval)
    has_recipe = (model, dataclasses.replace(train, model_dir="")) != (type(model)(), TrainConfig())
    num_problems = 0
    for finding in run_checks(config, has_recipe):
        print(finding, flush=True)
        num_problems += finding.level == PROBLEM
    if num_problems:
        print(f"{num_problems} PROBLEM{'S' if num_problems > 1 else ''}")
    return 1 if num_problems else 0


if __name__ == "__main__":
    options = (MODEL_OPTIONS, DataConfig, TrainConfig, EvalConfig)
    sys.exit(cli.run(main, options, "tganv2_tf.doctor", __doc__))
