"""The protocol of scores, with networks whose outputs are known."""

from __future__ import annotations

import dataclasses
import itertools
import json

import numpy as np
import pytest
import tensorflow as tf

from tests.data_sets import flip_byte, write_data_set
from tganv2_tf.config import DataConfig, EvalConfig
from tganv2_tf.data.manifest import Manifest
from tganv2_tf.errors import ConfigError, UserError
from tganv2_tf.evaluation import metrics, protocol, score_names
from tganv2_tf.evaluation.c3d import C3D, C3DConfig, resize
from tganv2_tf.evaluation.classifier import save_classifier
from tganv2_tf.evaluation.networks import Network, load_c3d_network
from tganv2_tf.evaluation.real_features import RealStatistics, real_features
from tganv2_tf.evaluation.report import describe_protocol, report

CONFIG = EvalConfig(num_samples=64, repetitions=3, eval_batch_size=20, real_passes=4, cache_dir="")


def features_of(videos):
    """Two features: the means of the first and of the second channel."""
    return tf.reduce_mean(videos, [1, 2, 3])[:, :2]


def network(name="c3d", identity="a"):
    """Predicts class 0 if the first feature is below 0, else class 1."""

    def describe(videos):
        features = features_of(videos)
        return features, tf.one_hot(tf.cast(features[:, 0] >= 0, tf.int32), 4)

    return Network(name, {"network": name, "files": identity}, describe)


def normal_videos(seed=0, size=20, shift=0.0):
    rng = np.random.default_rng(seed)
    while True:
        values = rng.normal(shift, 0.2, (size, 1, 1, 1, 3)).astype(np.float32)
        yield tf.constant(np.broadcast_to(values, (size, 16, 2, 2, 3)))


def real(shift=0.0, count=64):
    values = np.random.default_rng(9).normal(shift, 0.2, (count, 2))
    moments = metrics.Moments()
    moments.update(values)
    return RealStatistics(moments, values)


def test_names_of_scores():
    assert score_names.parse_scores("c3d_fid, inception_score,c3d_fid") == ["c3d_fid", "inception_score"]
    for text in ("", ",", "fid", "c3d_fid,fid"):
        with pytest.raises(ConfigError, match=r"--scores=.*valid: some of inception_score,c3d_fid"):
            score_names.parse_scores(text)


def test_class_accuracy_by_hand():
    # The network predicts 0 for dark videos and 1 for others; the classifier calls these classes night and day.
    config = dataclasses.replace(CONFIG, num_samples=9, repetitions=2)
    values = [-1.0, 1.0, 1.0, -1.0, 1.0, -1.0] * 3  # requested: day, night, day, night ...
    videos = iter([tf.fill([1, 16, 2, 2, 3], value) for value in values])
    networks = {"c3d": network()._replace(labels=("night", "day", "dusk", "dawn"))}
    scores = protocol.evaluate(["class_accuracy"], videos, networks, {}, config, False, ["day", "night"])
    right = np.array([(value > 0) == (i % 2 == 0) for i, value in enumerate(values)])
    assert scores["class_accuracy"].values == pytest.approx([right[:9].mean(), right[9:].mean()])
    # In the second nine, video number 9 is of the second class: the classes continue to alternate.
    day, night = right[::2], right[1::2]
    assert scores["class_accuracy/day"].values == pytest.approx([day[:5].mean(), day[5:].mean()])
    assert scores["class_accuracy/night"].values == pytest.approx([night[:4].mean(), night[4:].mean()])
    with pytest.raises(ConfigError, match="the videos have no classes"):
        protocol.evaluate(["class_accuracy"], videos, networks, {}, config, False)


def test_each_repetition_has_its_own_videos():
    networks = {"c3d": network(), "i3d": network("i3d")}
    reals = {"c3d": real(), "i3d": real(0.5)}
    names = [name for name in score_names.SCORE_NETWORK if name != "class_accuracy"]
    scores = protocol.evaluate(names, normal_videos(), networks, reals, CONFIG, progress=False)
    videos = np.concatenate([features_of(batch) for batch in itertools.islice(normal_videos(), 10)])
    for repetition in range(3):
        own = videos[64 * repetition : 64 * repetition + 64]
        share = (own[:, 0] >= 0).mean()
        entropy = -share * np.log(share) - (1 - share) * np.log(1 - share)
        assert scores["inception_score"].values[repetition] == pytest.approx(np.exp(entropy), rel=1e-6)
        moments = metrics.Moments()
        moments.update(own)
        for score, truth in (
            ("c3d_fid", metrics.frechet_distance(real().moments, moments)),
            ("fvd", metrics.frechet_distance(real(0.5).moments, moments)),
            ("kvd", metrics.kernel_distance(real(0.5).sample, own)),
            ("precision", metrics.precision_recall(real().sample, own).precision),
            ("recall", metrics.precision_recall(real().sample, own).recall),
            ("density", metrics.density_coverage(real().sample, own).density),
            ("coverage", metrics.density_coverage(real().sample, own).coverage),
        ):
            assert scores[score].values[repetition] == pytest.approx(truth, rel=1e-5, abs=1e-7), score
    values = scores["c3d_fid"].values
    assert scores["c3d_fid"].mean == pytest.approx(sum(values) / 3)
    assert scores["c3d_fid"].std == pytest.approx(np.sqrt(np.mean(np.square(np.array(values) - np.mean(values)))))


def test_fewer_videos_than_the_protocol_asks_for(caplog):
    def score(count):
        batches = iter([next(normal_videos(size=1)) for _ in range(count)])
        return protocol.evaluate(["inception_score"], batches, {"c3d": network()}, {}, CONFIG, progress=False)

    assert len(score(130)["inception_score"].values) == 2, "a smaller last part is left out"
    assert len(score(40)["inception_score"].values) == 1
    with pytest.raises(UserError, match="5 videos are too few"):
        score(5)
    with pytest.raises(UserError, match="0 videos are too few"):
        score(0)


def test_videos_that_are_no_numbers_have_no_score():
    batches = iter([tf.fill([20, 16, 2, 2, 3], np.nan)])
    with pytest.raises(UserError, match="not finite"):
        protocol.evaluate(["inception_score"], batches, {"c3d": network()}, {}, CONFIG, progress=False)


@pytest.fixture
def data(tmp_path):
    write_data_set(tmp_path / "data", [31, 32, 40], num_shards=1)
    return DataConfig(str(tmp_path / "data"), flip=False)


def counted(calls, **kwargs):
    made = network(**kwargs)

    def describe(videos):
        calls.append(len(videos))
        return made.extract(videos)

    return made._replace(extract=describe)


def test_real_features_are_those_of_several_clips_of_each_video(data):
    calls: list[int] = []
    found = real_features(counted(calls), Manifest.load(data.data_dir), data, CONFIG)
    assert sum(calls) == found.moments.count == 4 * 3
    # The first channel is 10 times the number of the video; all videos occur equally often.
    assert found.moments.mean[0] == pytest.approx(10 / 127.5 - 1, abs=1e-4)
    assert found.sample.shape == (12, 2)
    few = dataclasses.replace(CONFIG, num_samples=6)
    sample = real_features(network(), Manifest.load(data.data_dir), data, few).sample
    np.testing.assert_array_equal(sample, found.sample[:6])


def test_real_features_are_kept_for_what_they_depend_on(data, tmp_path, caplog):
    config = dataclasses.replace(CONFIG, cache_dir=str(tmp_path / "cache"))
    calls: list[int] = []

    def features(data=data, config=config, **kwargs):
        calls.clear()
        found = real_features(counted(calls, **kwargs), Manifest.load(data.data_dir), data, config)
        return found, bool(calls)

    first, computed = features()
    assert computed
    again, computed = features()
    assert not computed
    assert again.moments.count == first.moments.count
    np.testing.assert_array_equal(again.moments.covariance, first.moments.covariance)
    np.testing.assert_array_equal(again.sample, first.sample)
    for changes in (
        {"identity": "b"},
        {"data": dataclasses.replace(data, flip=True)},
        {"data": dataclasses.replace(data, normalization="official")},
        {"data": dataclasses.replace(data, frame_step=2)},
        {"config": dataclasses.replace(config, real_passes=5)},
        {"config": dataclasses.replace(config, num_samples=6)},
    ):
        assert features(**changes)[1], changes
        assert not features(**changes)[1], changes
    assert features(config=dataclasses.replace(config, eval_batch_size=3))[1] is False, "the batch does not matter"
    write_data_set(tmp_path / "data", [31, 32, 41], num_shards=1)
    assert features()[1], "other shards"

    paths = sorted((tmp_path / "cache").iterdir())
    contents = [path.read_bytes() for path in paths]
    for path, content in zip(paths, [contents[-1], *contents[:-1]]):
        path.write_bytes(content)
    assert features()[1], "a file under the name of another"

    for path in (tmp_path / "cache").iterdir():
        path.write_bytes(path.read_bytes()[:100])
    assert features()[1], "damaged files are computed again"
    assert not features()[1]


def test_a_cache_that_cannot_be_written_costs_time_only(data, tmp_path, caplog):
    (tmp_path / "file").write_text("")
    config = dataclasses.replace(CONFIG, cache_dir=str(tmp_path / "file" / "cache"))
    assert real_features(network(), Manifest.load(data.data_dir), data, config).moments.count == 12


def test_a_report_says_what_is_needed_to_repeat_it(data):
    manifest = Manifest.load(data.data_dir)
    scores = {"c3d_fid": protocol.Score.from_values([1.0, 3.0])}
    described = describe_protocol({"c3d": network()}, data, manifest, CONFIG)
    written = json.loads(report(scores, {"seed": 5}, described, CONFIG))
    assert written["scores"] == {"c3d_fid": {"mean": 2.0, "std": 1.0, "values": [1.0, 3.0]}}
    assert written["generated"] == {"seed": 5}
    assert written["protocol"]["real"]["shards"] == {shard.file: shard.checksum for shard in manifest.shards}
    assert written["protocol"]["real"]["clips"] == 12
    assert written["protocol"]["num_samples"] == 64 and written["options"]["protocol"] == "official"
    assert written["protocol"]["networks"] == [{"network": "c3d", "files": "a"}]
    assert written["versions"]["tensorflow"] == tf.__version__


def test_the_real_clips_are_the_same_whatever_the_global_seed(tmp_path):
    write_data_set(tmp_path, [31, 32, 40, 50, 33, 38], num_shards=3)
    data, samples = DataConfig(str(tmp_path)), []
    for seed in (None, 0, 1):
        if seed is not None:
            tf.keras.utils.set_random_seed(seed)
        samples.append(real_features(network(), Manifest.load(tmp_path), data, CONFIG).sample)
    np.testing.assert_array_equal(samples[0], samples[1])
    np.testing.assert_array_equal(samples[0], samples[2])


def test_damage_and_useless_networks_are_one_line(data, tmp_path):
    def nan(videos):
        return tf.fill([len(videos), 2], np.nan), None

    manifest = Manifest.load(data.data_dir)
    with pytest.raises(UserError, match="not finite"):
        real_features(network()._replace(extract=nan), manifest, data, CONFIG)
    with pytest.raises(UserError, match="3 real clips are too few; raise --real_passes"):
        real_features(network(), manifest, data, dataclasses.replace(CONFIG, real_passes=1))
    flip_byte(tmp_path / "data" / manifest.shards[0].file, 1)
    with pytest.raises(UserError, match="record 1 cannot be read") as raised:
        real_features(network(), manifest, data, CONFIG)
    assert "\n" not in str(raised.value)
    skipping = dataclasses.replace(data, skip_corrupt_records=True)
    found = real_features(network(), manifest, skipping, CONFIG)
    np.testing.assert_allclose(found.sample[:, 0], -1.0, atol=1e-4), "of the one video that comes before the damage"


def test_the_papers_protocol_resizes_first(tmp_path):
    shape = C3DConfig(side=32, channels=(2,) * 8, units=(4, 4), num_classes=3)
    tf.keras.utils.set_random_seed(0)
    c3d = C3D(shape)
    save_classifier(c3d, {"format": 1, "shape": dataclasses.asdict(shape), "labels": []}, tmp_path / "c.npz")
    videos = tf.random.stateless_uniform([2, 16, 24, 40, 3], [0, 1], -1.0, 1.0)
    for name, seen in (("official", videos), ("paper", resize(videos, 128))):
        described = load_c3d_network(EvalConfig(classifier=str(tmp_path / "c.npz"), protocol=name))
        features, probabilities = described.extract(videos)
        assert probabilities is not None
        np.testing.assert_allclose(features, c3d(seen)["fc7"], atol=1e-6)
        np.testing.assert_allclose(probabilities, c3d(seen)["probabilities"], atol=1e-6)
    assert np.abs(c3d(videos)["fc8"] - c3d(resize(videos, 128))["fc8"]).max() > 1e-4
    assert described.warning == f"{tmp_path / 'c.npz'}: its accuracy is not recorded; its scores may be unreliable"
