"""The warm-up file: one request per signature and level, as TensorFlow Serving reads it.

tests/test_serving_client.py runs the requests of a real export.
"""

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.protobuf import meta_graph_pb2, saved_model_pb2
from tensorflow_serving.apis import prediction_log_pb2

from tests.conftest import tiny_config
from tganv2_tf.serving.warmup import write_warmup

SIGNATURES = {
    "serving_default": {"z": tf.TensorSpec([None, 4])},
    "generate": {
        "seed": tf.TensorSpec([], tf.int64),
        "num_videos": tf.TensorSpec([], tf.int32),
        "num_frames": tf.TensorSpec([], tf.int32),
        "label": tf.TensorSpec([None], tf.int32),
    },
    "preview": {"z": tf.TensorSpec([None, 4]), "level": tf.TensorSpec([], tf.int32)},
}


@pytest.fixture(scope="module")
def requests(tmp_path_factory):
    """Reads the requests back from the folder of a SavedModel with these signatures and no graph."""
    folder = tmp_path_factory.mktemp("version")
    graph = meta_graph_pb2.MetaGraphDef()
    for name, inputs in SIGNATURES.items():
        signature = graph.signature_def[name]
        signature.method_name = "tensorflow/serving/predict"
        for key, spec in inputs.items():
            signature.inputs[key].dtype = spec.dtype.as_datatype_enum
            signature.inputs[key].tensor_shape.CopyFrom(spec.shape.as_proto())
    graph.signature_def["__saved_model_init_op"].outputs["__saved_model_init_op"].name = "NoOp"
    folder.joinpath("saved_model.pb").write_bytes(saved_model_pb2.SavedModel(meta_graphs=[graph]).SerializeToString())
    write_warmup(folder, tiny_config(model={"num_frames": 6, "frame_strides": (2,)}).model)
    # TensorFlow Serving defines the name and the format.
    records = tf.data.TFRecordDataset(str(folder / "assets.extra" / "tf_serving_warmup_requests"))
    logs = [prediction_log_pb2.PredictionLog.FromString(record.numpy()) for record in records]
    assert {log.WhichOneof("log_type") for log in logs} == {"predict_log"}
    return [log.predict_log.request for log in logs]


def arrays(requests, signature):
    """Returns the inputs of each request for a signature."""
    chosen = [request for request in requests if request.model_spec.signature_name == signature]
    return [{name: tf.make_ndarray(proto) for name, proto in request.inputs.items()} for request in chosen]


def test_every_signature_is_asked_for_and_nothing_else(requests):
    names = [request.model_spec.signature_name for request in requests]
    assert sorted(names) == ["generate", "preview", "preview", "serving_default"]
    assert {request.model_spec.name for request in requests} == {""}, "the server knows the name"


def test_a_request_is_one_video_of_a_training_clip(requests):
    (inputs,) = arrays(requests, "generate")
    assert {name: (a.dtype.name, a.tolist()) for name, a in inputs.items()} == {
        "seed": ("int64", 0),
        "num_videos": ("int32", 1),
        "num_frames": ("int32", 6),
        "label": ("int32", [0]),
    }
    (inputs,) = arrays(requests, "serving_default")
    assert inputs.keys() == {"z"}
    assert inputs["z"].dtype == np.float32
    assert inputs["z"].tolist() == [[0.0] * 4]


def test_every_level_is_warmed(requests):
    inputs = arrays(requests, "preview")
    assert [int(each["level"]) for each in inputs] == [1, 2]
    assert [each["z"].shape for each in inputs] == [(1, 4)] * 2
