"""Costs counted on graphs, compared with numbers derived by hand, the authors' figures, and TensorFlow's execution."""

from __future__ import annotations

import functools
import json
import re
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
import tensorflow as tf

from benchmarks.paper import cost
from benchmarks.paper.cost import PUBLISHED, PUBLISHED_RESOLUTION, Cost, Row
from benchmarks.speed import step
from benchmarks.speed.plain_networks import PlainGenerator
from tests.conftest import ROOT, run_command, tiny_config
from tganv2_tf.cli import parse
from tganv2_tf.config import ModelConfig
from tganv2_tf.errors import ConfigError
from tganv2_tf.models.discriminator import Discriminator
from tganv2_tf.models.generator import Generator
from tganv2_tf.models.tganv2 import TGANv2
from tganv2_tf.training import cost as training_cost
from tganv2_tf.training.cost import placeholders, step_cost
from tganv2_tf.training.graph_cost import CONVOLUTIONS, MATRIX_PRODUCTS, executed, kept_bytes, multiply_adds, peak_bytes

RNG = np.random.default_rng(0)


def placeholder(*shape):
    return tf.compat.v1.placeholder(tf.float32, shape)


PRODUCTS = {
    # Two images, 5x5 positions, 3x3 taps, 3 -> 4 channels.
    "convolution": (
        lambda x, w: tf.nn.conv2d(x, w, 1, "SAME"),
        (2, 5, 5, 3),
        (3, 3, 3, 4),
        2 * 25 * 9 * 3 * 4,
    ),
    # At stride 2 the 6x6 positions become 3x3.
    "strided": (
        lambda x, w: tf.nn.conv2d(x, w, 2, "SAME"),
        (2, 6, 6, 3),
        (4, 4, 3, 5),
        2 * 9 * 16 * 3 * 5,
    ),
    # Each of the 3x3 inputs contributes to 4x4 outputs: at stride 2 each of the 6x6 outputs has 2x2 taps.
    "transposed": (
        lambda x, w: tf.nn.conv2d_transpose(x, w, [2, 6, 6, 4], 2, "SAME"),
        (2, 3, 3, 5),
        (4, 4, 4, 5),
        2 * 36 * 4 * 5 * 4,
    ),
    "3D": (
        lambda x, w: tf.nn.conv3d(x, w, [1, 2, 1, 1, 1], "SAME"),
        (2, 4, 5, 6, 3),
        (3, 3, 1, 3, 7),
        2 * (2 * 5 * 6) * 9 * 3 * 7,
    ),
    "matrices": (tf.matmul, (4, 3), (3, 5), 4 * 3 * 5),
    "transposed matrices": (
        lambda a, b: tf.matmul(a, b, transpose_a=True, transpose_b=True),
        (3, 4),
        (5, 3),
        4 * 3 * 5,
    ),
    "batches of matrices": (
        lambda a, b: tf.matmul(a, b, transpose_a=True),
        (6, 3, 4),
        (6, 3, 5),
        6 * 4 * 3 * 5,
    ),
}


@pytest.mark.parametrize("name", PRODUCTS)
def test_products_and_their_gradients_by_hand(name):
    product, *shapes, expected = PRODUCTS[name]
    with tf.Graph().as_default():
        x, w = (placeholder(*shape) for shape in shapes)
        y = product(x, w)
        assert multiply_adds([y]) == expected
        of_x, of_w = tf.gradients(y, [x, w])
        # The same products in other groups. The gradient with respect to one factor needs neither that factor nor y.
        assert multiply_adds([of_x]) == expected
        assert multiply_adds([of_w]) == expected
        # Twice as many, plus the gradient with respect to x once more.
        (of_both,) = tf.gradients(tf.reduce_sum(of_x**2), [w])
        assert multiply_adds([of_both]) == 2 * expected
        assert multiply_adds([y, of_x, of_w]) == 3 * expected


def test_products_that_are_not_known_are_refused():
    with tf.Graph().as_default():
        x = placeholder(3, 3)
        hidden = tf.cond(tf.reduce_sum(x) > 0, lambda: x @ x, lambda: x)
        for y in (tf.einsum("ij,kj->ik", x, x), hidden, tf.linalg.matmul(x[tf.newaxis], x) * hidden):
            with pytest.raises(ValueError, match="are not supported"):
                multiply_adds([y])


def test_kept_bytes_by_hand():
    with tf.Graph().as_default():
        x = placeholder(4, 3)
        w, v = tf.Variable(tf.zeros([3, 5])), tf.Variable(tf.zeros([5, 2]))
        hidden = tf.nn.relu(tf.matmul(x, w) + tf.matmul(x[:], w))
        hidden = tf.reshape(tf.reshape(hidden, [2, 10]), [4, 5])  # views, like the slice of all x
        y = tf.matmul(hidden, 2.0 * v) + tf.ones([4, 2])
        # x for w's gradient, [4, 5] for those of the ReLU and v. Not x w, not y, and not 2 v, which is independent of
        # x.
        assert kept_bytes([y], [w, v], [x]) == 4 * (4 * 3 + 4 * 5)
        assert kept_bytes([y], [v], [x]) == 4 * (4 * 5)
        assert kept_bytes([tf.tanh(y)], [v], [x]) == 4 * (4 * 5 + 4 * 2)
        assert kept_bytes([tf.matmul(x[:2], w)], [w], [x]) == 4 * (2 * 3)  # a part of x is a separate tensor


def test_what_is_only_asked_for_its_shape_is_not_kept():
    with tf.Graph().as_default():
        x = placeholder(2, 4, 4, 3)
        kernels = [tf.Variable(tf.zeros([3, 3, 3, 3])) for _ in range(2)]
        hidden = tf.nn.conv2d(x, kernels[0], 1, "SAME")
        y = tf.nn.conv2d(hidden, kernels[1], 1, "SAME")
        one = 4 * (2 * 4 * 4 * 3)
        assert kept_bytes([y], kernels[:1], [x]) == one  # the gradient with respect to `hidden` needs only the kernel
        assert kept_bytes([y], kernels, [x]) == 2 * one


def test_peak_bytes_by_hand():
    with tf.Graph().as_default():
        x = placeholder(4, 3)
        w = tf.Variable(tf.zeros([3, 5]))
        hidden = tf.matmul(x, w)
        active = tf.nn.relu(hidden)
        y = tf.reduce_sum(tf.reshape(active, [20]), keepdims=True)
        tf.matmul(y[:, tf.newaxis], y[:, tf.newaxis])  # unused
        assert peak_bytes([hidden]) == 4 * (12 + 20)  # x and the product; never w
        # x is freed when the ReLU's result is computed. The last: 20 of these, two constants of its axes, the sum.
        assert peak_bytes([active]) == 4 * (20 + 20)
        assert peak_bytes([active, x]) == 4 * (12 + 20 + 20)
        # The reshaped tensor shares its memory; the sum has one number, and its list of axes another.
        assert peak_bytes([y]) == 4 * (20 + 20)


def test_a_sum_of_sums_waits_for_all_its_terms():
    with tf.Graph().as_default():
        x = placeholder(100)
        total = tf.add_n([x + 1.0, x + 2.0, x + 3.0])
        small = [tf.reduce_sum(total)]
        total = tf.add_n([total, x + 4.0, x + 5.0])
        # x, four terms, the number 5 and the fifth term; x is freed before the sum.
        assert peak_bytes([total]) == 6 * 400 + 4
        # The first sum has another consumer: it is computed from three terms, while x waits for the other two.
        assert peak_bytes([total, *small]) == 5 * 400


def test_memory_of_a_generator_by_hand():
    """Level 2 of the tiny generator: 4 channels, 2 clips of 2 frames, from 8x8 to 16x16 pixels."""
    config = tiny_config().model
    with tf.Graph().as_default():
        costs = cost.generator_costs(Generator(config), 4, config.pyramid)
    # The output of S^G and its ReLU; the first convolution's output and its ReLU; the sum and its ReLU; the video.
    values = 4 * (64 * (4 + 4) + 256 * (4 + 4) + 256 * (4 + 4) + 256 * 3)
    # Each of three norms keeps four vectors: twice the mean, 1 / deviation, and that times gamma.
    values += 3 * 4 * 4
    assert costs[1].mebibytes == 4 * values / 2**20


def products(graph_types):
    """Counts convolutions and matrix products by their original names, also if TensorFlow has replaced them."""
    known = re.compile(r"_Mkl|Native|_?Fused|WithBias")
    counted = Counter(known.sub("", name) for name in graph_types)
    return {name: count for name, count in counted.items() if re.search("Conv|MatMul", name)}


@pytest.mark.slow
def test_counted_operations_are_those_that_run():
    config = tiny_config(ema_decay=0.0)
    with tf.Graph().as_default():
        model = TGANv2(Generator(config.model), Discriminator(config.model), config)
        z, videos = placeholders(config.model, 4, config.model.pyramid)
        step = model.losses_and_gradients(videos, z)
        gradients = [*step.generator_gradients, *step.discriminator_gradients]
        counted = products(op.type for op in executed(gradients))
        everything = products(op.type for op in tf.compat.v1.get_default_graph().get_operations())
        feed = {tensor: RNG.normal(size=tensor.shape) for tensor in (z, *videos)}
        metadata = tf.compat.v1.RunMetadata()
        with tf.compat.v1.Session() as session:
            session.run(tf.compat.v1.global_variables_initializer())
            options = tf.compat.v1.RunOptions(output_partition_graphs=True)
            session.run([gradient.op for gradient in gradients], feed, options, metadata)
    assert counted == products(node.op for graph in metadata.partition_graphs for node in graph.node)
    assert set(counted) <= {*CONVOLUTIONS, *MATRIX_PRODUCTS}
    assert sum(everything.values()) > 1.3 * sum(counted.values())  # built but never run


# Forward multiply-adds of the tiny networks (tests/conftest.py), in the executed forms. The generator's map is 1x1, so
# its ConvLSTM multiplies matrices: the input once, the state at three of four frames. An up block from C to D
# channels and H to 2H pixels has 9 taps at H x H, 9 taps at 2H x 2H, and one of the shortcut.
TO_MAP = 4 * (4 * 4)
RECURRENCE = 4 * (4 * 16) * (1 + 3)
UP = {h: (9 * h**2 + 9 * (2 * h) ** 2 + h**2) * 4 * 4 for h in (1, 2, 4, 8)}
GENERATOR = TO_MAP + RECURRENCE + 16 * (UP[1] + UP[2] + UP[4] + 64 * 9 * 4 * 3) + 4 * (UP[8] + 256 * 9 * 4 * 3)
# First block: 3 -> 4 channels, 27 taps at all positions, then at pooled ones, and there the shortcut. Second block:
# 4 -> 8; the linear layer has 8 inputs. At level 2 the two frames are one with twice the channels, and 9 taps.
LINEAR = (4 + 2) * 8
LEVEL_1 = 4 * (256 * 27 * 12 + 64 * (27 * 16 + 12) + 64 * 27 * 16 + 8 * (27 + 1) * 32)
LEVEL_2 = 2 * (256 * 9 * 6 * 8 + 64 * 9 * 8 * 8 + 128 * 12 + 64 * 9 * 8 * 8 + 16 * (9 * 8 * 8 + 4 * 8))
DISCRIMINATOR = LEVEL_1 + LEVEL_2 + LINEAR
FROM_PIXELS = 4 * (256 * 27 * 12 + 64 * 12) + 2 * (256 * 9 * 6 * 8 + 128 * 12)  # layers that read the videos directly
# A step. The gradient of the latents is not computed.
OF_GENERATOR = 3 * GENERATOR - TO_MAP
OF_REALS = 3 * DISCRIMINATOR - FROM_PIXELS
# One backward pass through the fakes serves both networks, to weights and pixels.
STEP = OF_GENERATOR + OF_REALS + 3 * DISCRIMINATOR
# Forward, input gradients, forward again except for the linear layer (its gradient is constant), weights.
PENALTY = (4 * DISCRIMINATOR - LINEAR) - OF_REALS


def tiny(**train):
    return tiny_config({"spectral_norm": False}, **train)


def test_forward_costs_by_hand():
    config = tiny().model
    with tf.Graph().as_default():
        generator = cost.generator_costs(Generator(config), 4, config.pyramid)
        discriminator = cost.discriminator_costs(Discriminator(config), 4, config.pyramid)
    assert sum(level.gflops for level in generator) == pytest.approx(GENERATOR / 1e9, rel=1e-12)
    assert generator[1].gflops == pytest.approx(4 * (UP[8] + 256 * 9 * 4 * 3) / 1e9, rel=1e-12)
    expected = [(LEVEL_1 + 4 * 8) / 1e9, (LEVEL_2 + 2 * 8) / 1e9]
    assert [level.gflops for level in discriminator] == pytest.approx(expected, rel=1e-12)


def test_plain_networks_cost_by_hand():
    """With a base of 1x1, which no published figure has: 9 taps everywhere, at every frame, including padding."""
    config = tiny().model
    with tf.Graph().as_default():
        costs = cost.generator_costs(PlainGenerator(config), 4, config.pyramid)
    recurrence = 4 * 9 * (4 * 16) * (4 + 4)
    up = {h: (9 + 9 + 1) * (2 * h) ** 2 * 4 * 4 for h in (1, 2, 4, 8)}
    expected = [TO_MAP + recurrence + 16 * (up[1] + up[2] + up[4] + 64 * 9 * 4 * 3), 4 * (up[8] + 256 * 9 * 4 * 3)]
    assert [level.gflops for level in costs] == pytest.approx([c / 1e9 for c in expected], rel=1e-12)


def products_of_step(config):
    return step_cost(config, config.train.global_batch_size).multiply_adds


def test_step_cost_by_hand(monkeypatch):
    """Each product costs once forward, once for the gradient of its input, once for that of its weight."""
    # Half of the graphs below are equal.
    monkeypatch.setattr(training_cost, "_traced", functools.cache(training_cost._traced))
    step, penalty, generator, reals = STEP, PENALTY, OF_GENERATOR, OF_REALS
    assert products_of_step(tiny(r1_weight=0.0)) == step
    assert products_of_step(tiny()) == step + penalty
    assert products_of_step(tiny(r1_every_steps=4)) == step + penalty / 4
    assert products_of_step(tiny(r1_every_steps=0)) == step
    both, none = (products_of_step(tiny(penalize_fakes=on, r1_every_steps=2)) for on in (True, False))
    assert step + penalty / 2 == none < both, "the penalty on fakes, too, is computed in every second step"
    # By the definition each network has its own backward pass through the fakes, that of D without the pixels, and loss
    # and penalty each have one through the reals.
    plain = generator + (4 * DISCRIMINATOR - FROM_PIXELS) + (6 * DISCRIMINATOR - LINEAR - FROM_PIXELS)
    assert products_of_step(tiny(gradients="plain")) == plain
    # A second update has separate fakes and no gradient of the generator.
    second = GENERATOR + reals + (3 * DISCRIMINATOR - FROM_PIXELS)
    assert products_of_step(tiny(n_dis=2)) == step + second + 2 * penalty
    assert products_of_step(tiny(n_dis=2, r1_every_steps=4)) == step + second + 2 * penalty / 4


def test_recomputing_trades_operations_for_memory():
    kept, again = (step_cost(tiny(global_batch_size=32, recompute=on), 32) for on in (False, True))
    assert kept.multiply_adds == 8 * (STEP + PENALTY), "of 32 clips, by hand"
    # A level except its last convolution, whose output is not needed, and likewise for the discriminators' blocks.
    assert kept.multiply_adds < again.multiply_adds < kept.multiply_adds + 8 * (GENERATOR + DISCRIMINATOR)
    assert again.activation_bytes < 0.75 * kept.activation_bytes
    assert again.state_bytes == kept.state_bytes


@pytest.mark.slow
def test_a_full_size_step_takes_no_more_operations_than_it_did():
    """For two clips of the recipe of UCF101; the limits are the values measured after the last optimization."""
    config = step.Command(clips=2).config
    assert step_cost(config, 2).multiply_adds <= 1.15 * 239.9e9  # by the definitions: 1008e9


@pytest.mark.parametrize(
    ("network", "subsampling"),
    [("generator", "naive"), ("generator", "both"), ("discriminator", "batch"), ("discriminator", "frame")],
)
def test_plain_networks_cost_what_the_authors_published(network, subsampling, monkeypatch):
    monkeypatch.setattr(cost, "SUBSAMPLING", {subsampling: cost.SUBSAMPLING[subsampling]})
    monkeypatch.setattr(cost, "_forward_cost", lambda outputs, *_: Cost(multiply_adds(outputs) / 1e9, 0.0))
    config = ModelConfig(PUBLISHED_RESOLUTION[network], spectral_norm=False, grow_length_one_axes=True)
    costs = cost.measure(network, config, 8, plain=True)[subsampling]
    assert [level.gflops for level in costs] == pytest.approx(PUBLISHED[network][subsampling], rel=0.01)


ROWS = [
    Row("generator", "both", 1, 8, 16, 24, 10.0, Cost(9.99, 1500.4), Cost(5.0, 300.0)),
    Row("generator", "both", 2, 4, 8, 48, 2.5, Cost(2.51, 1.4), Cost(2.0, 1.0)),
]


def test_table_shows_rows_and_sums(monkeypatch):
    monkeypatch.setattr(cost, "SUBSAMPLING", {"both": ((2,), (2,))})
    assert cost.markdown(ROWS).splitlines()[2:] == [
        "| both | 1 | 8 x 16 x 24x24 | 10.00 | 9.99 | 5.00 | 0.50 | 1,500 | 300 |",
        "| both | 2 | 4 x 8 x 48x48 | 2.50 | 2.51 | 2.00 | 0.80 | 1 | 1 |",
        "| both | all |  | 12.50 | 12.50 | 7.00 | 0.56 | 1,502 | 301 |",
    ]


def test_command_writes_what_it_prints(monkeypatch, tmp_path, capsys):
    asked = []

    def table(*arguments):
        asked.append(arguments)
        return ROWS

    monkeypatch.setattr(cost, "table", table)
    monkeypatch.setattr(cost, "SUBSAMPLING", {"both": ((2,), (2,))})
    for name in ("cost.md", "cost.json"):
        cost.main(cost.Command(output=str(tmp_path / name)))
        printed = capsys.readouterr().out
    assert asked[:2] == [("generator", 192, 8), ("discriminator", 256, 8)]
    assert (tmp_path / "cost.md").read_text() == printed
    assert "Discriminator, 256 pixels, 8 clips" in printed
    rows = json.loads((tmp_path / "cost.json").read_text())
    assert len(rows) == 4 and rows[0]["plain"] == {"gflops": 9.99, "mebibytes": 1500.4}


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--batch_size=12"], "--batch_size=12: valid: a multiple of 8"),
        (["--batch_size=0"], "--batch_size=0: valid"),
        (["--resolution=100"], "--resolution=100 cannot be reached"),
        (["--output=cost.txt"], "--output=cost.txt: valid: a file whose name ends in .md or .json"),
    ],
)
def test_flags_that_cannot_work(flags, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        parse(flags, cost.Command)


def test_help_comes_without_tensorflow():
    script = "import sys; from benchmarks.paper import cost; print('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True).stdout == "False\n"
    result = run_command("benchmarks.paper.cost", "--help")
    assert result.returncode == 0 and "--batch_size" in result.stdout
