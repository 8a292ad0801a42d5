"""The generator with folded batch norms, compared with the original."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from tests.conftest import tiny_config
from tganv2_tf.models.generator import Generator
from tganv2_tf.serving.folding import fold_batch_norms


def random_generator(**model):
    generator = Generator(tiny_config(model).model)
    random = np.random.default_rng(0)
    for variable in generator.variables:
        value = random.normal(0, 0.5, variable.shape)
        variable.assign(np.abs(value) + 0.5 if "variance" in variable.name else value)
    return generator


def norms_in_graph(generator):
    """Counts batch-norm operations up to the last level."""
    graph = tf.function(lambda z: generator(z)).get_concrete_function(tf.TensorSpec([1, 4])).graph
    return sum("FusedBatchNorm" in operation.type for operation in graph.get_operations())


def test_folding_changes_no_video_and_leaves_only_the_norms_behind_sums():
    generator = random_generator()
    weights = generator.get_weights()
    copy = fold_batch_norms(generator)
    z = tf.constant(np.random.default_rng(1).uniform(-1, 1, (3, 4)), tf.float32)
    for level in (1, 2):
        np.testing.assert_allclose(copy(z, 5, level), generator(z, 5, level), atol=1e-5)
    assert np.std(copy(z)) > 0.1  # tanh is not saturated
    # Four up blocks with two norms each, and that of the last rendering.
    assert norms_in_graph(generator) == 4 * 2 + 1
    assert norms_in_graph(copy) == 4 + 1
    assert len(generator.variables) - len(copy.variables) == 4 * 4  # scale, shift, mean and variance of each
    for before, after in zip(weights, generator.get_weights()):
        np.testing.assert_array_equal(before, after)


def test_a_conditional_generator_stays_as_it_is():
    generator = Generator(tiny_config({"conditional": True, "num_classes": 3}).model)
    assert fold_batch_norms(generator) is generator
