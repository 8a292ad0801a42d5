"""A seed gives the same video from a run, its export, in chunks and in any batch; functions of the export."""

from __future__ import annotations

import dataclasses
import json
import pathlib
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from absl import logging

import tganv2_tf
from tests.conftest import ROOT, tiny_config
from tganv2_tf import export
from tganv2_tf.errors import ConfigError, UserError
from tganv2_tf.models.generator import Generator
from tganv2_tf.sampling.sampler import Sampler, load_sampler
from tganv2_tf.serving.signatures import ServedGenerator
from tganv2_tf.video_io import videos

CLASSES = ("left", "up/down", "\u00fcber")


@dataclasses.dataclass
class Made:
    """A generator, the samplers of its run and of its export, and the export as loaded by plain TensorFlow."""

    generator: Generator
    run: Sampler
    saved: Sampler
    folder: str
    served: Any


@pytest.fixture(scope="module", params=["conditional", "unconditional", "self-modulation"])
def made(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    names = CLASSES if request.param == "conditional" else ()
    modulation = {"self_modulation": request.param == "self-modulation"}
    config = tiny_config({"conditional": bool(names), "num_classes": len(names), "lstm_layers": 2, **modulation})
    generator = Generator(config.model)
    random = np.random.default_rng(0)
    for variable in generator.trainable_variables:  # with initial weights, seeds and classes differ little
        # Deep products of large scales would amplify rounding.
        spread = 0.2 if "modulation" in variable.name else 0.6
        variable.assign(random.normal(0, spread, variable.shape))
    run = folder / "run"
    run.mkdir()
    (run / "config.json").write_text(config.to_json())
    (run / "classes.json").write_text(json.dumps(names))
    checkpoint = tf.train.Checkpoint(ema_generator=generator, step=tf.Variable(7, dtype=tf.int64))
    tf.train.CheckpointManager(checkpoint, str(run / "checkpoints"), 1).save(7)
    verbosity = logging.get_verbosity()
    assert export.main(export.Command(model_dir=str(run), output_dir=str(folder / "saved"))) == 0
    logging.set_verbosity(verbosity)
    saved = str(folder / "saved" / "1")
    samplers = load_sampler(model_dir=str(run)), load_sampler(saved_model=saved)
    return Made(generator, *samplers, saved, samplers[1]._served)  # from `tf.saved_model.load`


def labels_of(made, count):
    return np.array([(2 * i) % 3 for i in range(count)]) if made.generator.config.conditional else None


def label_of(made, count):
    """Converts to an input of the export's functions."""
    labels = labels_of(made, count)
    return {} if labels is None else {"label": tf.constant(labels, tf.int32)}


def apart(first, second):
    return np.abs(first.astype(int) - second).max()


def test_both_know_the_generator(made):
    for sampler in (made.run, made.saved):
        assert (sampler.z_dim, sampler.num_frames, sampler.num_levels, sampler.sizes) == (4, 4, 2, (8, 16))
        assert sampler.class_names == (CLASSES if made.generator.config.conditional else ())
    assert made.run.description.endswith("run, step 7")
    assert made.saved.description == made.folder


def test_a_latent_belongs_to_its_seed(made):
    z = made.run.latents([3, 1, 2**63 - 1])
    assert z.shape == (3, 4) and z.dtype == np.float32 and np.abs(z).max() <= 1
    np.testing.assert_array_equal(z[1:2], made.saved.latents([1]))
    np.testing.assert_allclose(made.run.latents([3], 0.5), z[:1] / 2, rtol=1e-6)


def test_a_seed_gives_the_same_video_everywhere(made):
    z, labels = made.run.latents([5, 2, 9]), labels_of(made, 3)
    for level, num_frames in ((0, 0), (1, 7)):
        expected = made.generator(z, num_frames or 4, level or 2, labels).numpy()
        assert np.abs(expected[0] - expected[1]).max() > 0.05
        for sampler in (made.run, made.saved):
            np.testing.assert_allclose(sampler.float_videos(z, num_frames, level, labels), expected, atol=1e-4)
            whole = sampler.render(z, num_frames, level, labels)
            assert whole.dtype == np.uint8 and apart(whole, videos.to_uint8(expected)) <= 1
            alone = sampler.render(z[1:2], num_frames, level, None if labels is None else labels[1:2])
            assert apart(alone[0], whole[1]) <= 1


def test_a_stream_is_the_video_in_parts(made):
    z, labels = made.run.latents([5, 2]), labels_of(made, 2)
    expected = videos.to_uint8(made.generator(z, 21, labels=labels).numpy())
    assert apart(expected[:, 0], expected[:, -1]) > 1
    for sampler, chunk, sizes in ((made.run, 16, [16, 5]), (made.saved, 7, [7, 7, 7]), (made.saved, 30, [21])):
        parts = list(sampler.stream(z, 21, labels=labels, chunk=chunk))
        assert [part.shape for part in parts] == [(2, size, 16, 16, 3) for size in sizes]
        assert apart(np.concatenate(parts, 1), expected) <= 1
    assert [part.shape for part in made.saved.stream(z, level=1, labels=labels)] == [(2, 4, 8, 8, 3)]


def test_a_seed_is_its_latent(made):
    labels = [i % 3 for i in (5, 2, 9)] if made.run.class_names else None
    expected = made.run.render(made.run.latents([5, 2, 9], 0.5), 6, 1, labels)
    whole = made.run.videos([5, 2, 9], num_frames=6, level=1, truncation=0.5)
    assert whole.dtype == np.uint8 and whole.shape == (3, 6, 8, 8, 3)
    np.testing.assert_array_equal(whole, expected, "without labels, classes come in turn by seed, as in generate")
    np.testing.assert_array_equal(made.run.videos(np.array([5]), num_frames=6, level=1, truncation=0.5), expected[:1])
    if labels:
        named = made.run.videos([5, 2], ["\u00fcber", "left"])
        np.testing.assert_array_equal(named, made.run.videos([5, 2], np.array([2, 0])))
        np.testing.assert_array_equal(made.run.videos([5, 2], "left"), made.run.videos([5, 2], [0, 0]))
        np.testing.assert_array_equal(made.run.videos([5, 2], 1), made.run.videos([5, 2], ["up/down", 1]))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"level": 3}, "level: 3; valid: 1 to 2, or 0 for the last"),
        ({"level": -1}, "level: -1; valid"),
        ({"level": 1.5}, "level: 1.5; valid: a whole number"),
        ({"num_frames": -2}, "num_frames: -2; valid: at least 1, or 0"),
        ({"truncation": 0}, "truncation: 0; valid: a number above 0, at most 1"),
        ({"seeds": []}, r"seeds: \[\]; valid: whole numbers from 0 to 2\^63 - 1, at least one"),
        ({"seeds": [-1]}, r"seeds: \[-1\]; valid"),
        ({"seeds": [2**63]}, "seeds: .*; valid"),
        ({"seeds": ["a"]}, r"seeds: \['a'\]; valid: a sequence of whole numbers"),
        ({"seeds": 3}, "seeds: 3; valid: a sequence of whole numbers"),
    ],
)
def test_arguments_out_of_range_are_refused(made, arguments, message):
    with pytest.raises(ValueError, match=f"^{message}") as error:
        made.run.videos(**{"seeds": [5, 2], **arguments})
    assert "--" not in str(error.value)


def test_levels_and_classes_that_are_not_there_are_refused(made):
    z = made.run.latents([5, 2])
    with pytest.raises(ValueError, match="level: 3; valid: 1 to 2"):
        made.saved.render(z, level=3, labels=labels_of(made, 2))
    with pytest.raises(ValueError, match=r"z: shape \[2, 3\]; valid: \[N, 4\], N at least 1"):
        made.saved.render(z[:, :3], labels=labels_of(made, 2))
    if not made.saved.class_names:
        with pytest.raises(ValueError, match="labels: the generator was not trained with classes"):
            made.saved.render(z, labels=[0, 1])
        return
    with pytest.raises(
        ValueError, match="labels: the generator needs the class of each video; valid: 0 to 2, or 'left'"
    ):
        made.saved.render(z)
    for labels, wrong in (([0, 3], "3"), ([-1, 0], "-1"), (["left", "right"], "'right'"), ([0, None], "None")):
        with pytest.raises(ValueError, match=rf"labels: {wrong} is not a class; valid: 0 to 2, or 'left', 'up/down', "):
            next(made.saved.stream(z, labels=labels))
    for labels in ([0], [0, 1, 2]):
        with pytest.raises(
            ValueError, match=rf"labels: {len(labels)} for 2 videos; valid: one per video, or one for all"
        ):
            made.run.videos([5, 2], labels)


# ---- the export in a program with only TensorFlow


def test_signatures(made):
    served = made.served
    assert set(served.signatures) == {"serving_default", "generate_float", "generate", "preview"}
    size = made.run.sizes[-1]
    for name in ("serving_default", "generate_float"):
        assert served.signatures[name].structured_outputs["videos"].shape == [None, 4, size, size, 3]
    z = tf.constant(made.run.latents([5, 6, 7]))
    label = label_of(made, 3)
    expected = made.generator(z, labels=label.get("label"))
    np.testing.assert_allclose(served.signatures["generate_float"](z=z, **label)["videos"], expected, atol=1e-4)
    bytes_ = served.signatures["serving_default"](z=z, **label)["videos"]
    assert bytes_.dtype == tf.uint8 and apart(bytes_.numpy(), videos.to_uint8(expected.numpy())) <= 1
    numbers = {"seed": tf.constant(5, tf.int64), "num_videos": tf.constant(3), "num_frames": tf.constant(4)}
    assert apart(served.signatures["generate"](**numbers, **label)["videos"].numpy(), bytes_.numpy()) <= 1
    small = served.signatures["preview"](z=z, level=tf.constant(1), **label)["videos"].numpy()
    assert apart(small, made.run.render(z, level=1, labels=labels_of(made, 3))) <= 1
    with pytest.raises(tf.errors.InvalidArgumentError, match="level must be from 1 to 2"):
        served.signatures["preview"](z=z, level=tf.constant(3), **label)
    with pytest.raises(tf.errors.InvalidArgumentError, match="num_frames must be at least 1"):
        served.signatures["generate"](**{**numbers, "num_frames": tf.constant(0)}, **label)
    many = tf.constant(2**31 - 1)  # its product would overflow to a negative int64
    for wrong_numbers in ({"num_videos": many}, {"num_frames": many}, {"num_videos": many, "num_frames": many}):
        with pytest.raises(tf.errors.InvalidArgumentError, match="too many videos or frames: valid: up to 67108864"):
            served.signatures["generate"](**{**numbers, **wrong_numbers}, **label)
    with pytest.raises(tf.errors.InvalidArgumentError):
        served.signatures["generate"](**{**numbers, "num_frames": tf.constant(-(2**31))}, **label)
    # A clip is 4 frames of 16x16 pixels: 3,072 bytes; 21,845 clips are 67,107,840, and one more is too many.
    several, several_labels = tf.zeros([21_846, 4]), {name: tf.zeros([21_846], tf.int32) for name in label}
    for name, more in (("serving_default", {}), ("generate_float", {}), ("preview", {"level": tf.constant(1)})):
        with pytest.raises(tf.errors.InvalidArgumentError, match="too many videos or frames"):
            served.signatures[name](z=several, **more, **several_labels)
    if not label:
        return
    one = served.signatures["generate"](**numbers, label=tf.constant([2]))["videos"].numpy()
    assert apart(one, made.run.render(z, labels=[2, 2, 2])) <= 1, "one class stands for all"
    assert apart(one, bytes_.numpy()) > 1
    for wrong, message in (
        ([0, 3, 1], "label must be from 0 to 2"),
        ([0, -1, 1], "label must be from 0 to 2"),
        ([0, 1], "label must contain one class per video"),
    ):
        with pytest.raises(tf.errors.InvalidArgumentError, match=message):
            served.signatures["serving_default"](z=z, label=tf.constant(wrong))
        with pytest.raises(tf.errors.InvalidArgumentError, match=message):
            served.signatures["generate"](**numbers, label=tf.constant(wrong))


def test_the_parts_of_a_long_video_with_tensorflow_alone(made):
    served = made.served
    z, label = tf.constant(made.run.latents([5, 6])), list(label_of(made, 2).values())
    first, state = served.begin(z, 3, 2, *label)
    assert state.shape == [2, 2, 2, 1, 1, 4], "lstm_layers, hidden and cell, N, base, base, C"
    latents = [z] if served.resume_needs_z else []
    second, _ = served.resume(state, 5, 2, *latents, *label)
    both = served.sample(z, 8, 2, *label)
    np.testing.assert_allclose(tf.concat([first, second], 1), both, atol=1e-4)


def test_an_export_holds_the_levels_once(made):
    """Shared by all the functions; it was four times as large when each had a copy."""
    from tensorflow.core.protobuf import saved_model_pb2

    with open(f"{made.folder}/saved_model.pb", "rb") as file:
        graph = saved_model_pb2.SavedModel.FromString(file.read()).meta_graphs[0].graph_def
    nodes = [node for function in graph.library.function for node in function.node_def] + list(graph.node)
    convolutions = [node for node in nodes if node.op == "Conv2D" and "rendering" in node.name]
    assert len(convolutions) == made.saved.num_levels


def test_what_is_no_generator_is_refused(tmp_path):
    for both in ({}, {"model_dir": "a", "saved_model": "b"}):
        with pytest.raises(ConfigError, match="exactly one of --model_dir and --saved_model"):
            load_sampler(**both)
    with pytest.raises(UserError, match="is not a run"):
        load_sampler(model_dir=str(tmp_path))
    with pytest.raises(UserError, match="no SavedModel found; specify the folder NAME/VERSION"):
        load_sampler(saved_model=str(tmp_path))
    module = tf.Module()
    module.f = tf.function(lambda z: {"videos": z}, input_signature=[tf.TensorSpec([None, 2], tf.float32, "z")])
    tf.saved_model.save(module, str(tmp_path / "other"))
    with pytest.raises(UserError, match=r"not exported by this version of tganv2_tf\.export; export it again"):
        load_sampler(saved_model=str(tmp_path / "other"))


def test_load_takes_runs_checkpoints_and_exports(made, tmp_path):
    labels = {"labels": 1} if made.run.class_names else {}
    run = pathlib.Path(made.folder).parents[1] / "run"
    expected = made.run.videos([4], **labels)
    # The kind of the generator does not matter to the kind of the path.
    others = [str(run), run / "checkpoints" / "ckpt-7"] if made.run.class_names else []
    for path in (run, made.folder, *others):
        sampler = tganv2_tf.load(path)
        assert apart(sampler.videos([4], **labels), expected) <= 1
        assert (sampler.resolution, sampler.num_frames, sampler.fps) == (16, 4, 0)
        assert sampler.class_names == made.run.class_names
    with pytest.raises(UserError, match=f"^{tmp_path} is not a run: no config.json in it"):
        tganv2_tf.load(tmp_path)
    for name in ("none", "none/snapshots/ckpt-5"):
        with pytest.raises(UserError, match=f"^{tmp_path}/{name}: no such folder or checkpoint"):
            tganv2_tf.load(tmp_path / name)
    (tmp_path / "saved_model.pb").write_bytes(b"no protocol buffer")
    with pytest.raises(UserError, match=f"^{tmp_path}: no SavedModel found"):
        tganv2_tf.load(tmp_path)


def test_load_refuses_a_tensorflow_that_cannot_be_used(made, monkeypatch):
    monkeypatch.setattr(tganv2_tf.runtime.lanes, "tensorflow_fault", lambda: "TensorFlow is not installed: ...")
    with pytest.raises(UserError, match="TensorFlow is not installed"):
        tganv2_tf.load(made.folder)


def test_the_package_is_imported_without_tensorflow_and_has_no_other_names():
    script = "import sys, tganv2_tf; print([tganv2_tf.load, tganv2_tf.evaluate] and 'tensorflow' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert result.stdout == "False\n", result.stderr
    with pytest.raises(AttributeError, match="module 'tganv2_tf' has no attribute 'laod'"):
        tganv2_tf.laod  # noqa: B018


def test_an_export_names_all_classes():
    generator = Generator(tiny_config({"conditional": True, "num_classes": 2}).model)
    with pytest.raises(ValueError, match="3 names for 2 classes"):
        ServedGenerator(generator, CLASSES)
