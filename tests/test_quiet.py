"""TensorFlow's log noise is hidden, all other output arrives. Every check runs a separate process."""

import os
import re
import subprocess
import sys

from tests.conftest import ROOT
from tganv2_tf.runtime import lanes

# Two convolutions, each with a bias and a leaky ReLU, and their gradients: they make grappler's remapper fail.
SCRIPT = """
from absl import flags, logging
from tganv2_tf.cli import quiet; quiet.install()
flags.FLAGS.mark_as_parsed()
logging.use_absl_handler()
logging.warning("Sharding callback duration: 12 microseconds")
logging.warning("a real warning")
import tensorflow as tf
from tganv2_tf.runtime import lanes; lanes.progress_bar_class()
kernel, bias = tf.Variable(tf.ones([3, 3, 8, 8])), tf.Variable(tf.zeros(8))
@tf.function(input_signature=[tf.TensorSpec([None, 8, 8, 8])])
def step(x):
    with tf.GradientTape() as tape:
        for _ in range(3):
            x = tf.nn.leaky_relu(tf.nn.bias_add(tf.nn.conv2d(x, kernel, 1, "SAME"), bias))
        loss = tf.reduce_sum(x)
    return tape.gradient(loss, [kernel, bias])
step(tf.ones([2, 8, 8, 8]))
"""


def lines(script: str, **environment: str) -> list[str]:
    inherited = {name: value for name, value in os.environ.items() if name != "TF_CPP_MIN_LOG_LEVEL"}
    environment = {**inherited, "PYTHONPATH": str(ROOT), lanes.ONEDNN: "1", **environment}
    finished = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr
    return finished.stderr.splitlines()


def test_only_real_messages_are_shown() -> None:
    loud = "\n".join(lines(SCRIPT, TF_CPP_MIN_LOG_LEVEL="0"))
    of_lane = [] if lanes.has_legacy_keras() else ["Unable to register cuDNN", "TF-TRT Warning"]
    for text in ("oneDNN", "remapper failed", *of_lane):
        assert text in loud  # otherwise the run below proves nothing
    shown = lines(SCRIPT)
    # TensorFlow 2.21 logs lines of level I at its import, which no variable hides.
    at_import = re.compile(r"I0000 00:00:|WARNING: All log messages before absl::InitializeLog")
    if lanes.has_legacy_keras():
        shown = [line for line in shown if not at_import.match(line)]
    assert [line.partition("] ")[2] for line in shown] == ["a real warning"]
