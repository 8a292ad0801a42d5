"""Warm-up requests for TensorFlow Serving, which make the first client requests fast.

When the server loads a version, it runs the requests in `assets.extra/tf_serving_warmup_requests`, a TFRecord of
PredictionLog messages. It does not serve a version whose warm-up fails
(https://www.tensorflow.org/tfx/serving/saved_model_warmup).
"""

from __future__ import annotations

import itertools
import os
import pathlib
from collections.abc import Iterator, Sequence

import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import meta_graph_pb2, saved_model_pb2

from tganv2_tf.systems import SystemConfig

PATH = pathlib.PurePath("assets.extra", "tf_serving_warmup_requests")  # names defined by the server


def warmup_inputs(signature: meta_graph_pb2.SignatureDef, config: SystemConfig) -> Iterator[dict[str, np.ndarray]]:
    """Yields small inputs: batch size 1, the frames of a training clip, each level once, and zeros otherwise.

    Args:
      signature: defines names, dtypes and shapes of the inputs; unknown dimensions become 1.
      config: config of the generator.
    Yields:
      Arrays by input name.
    """
    choices: dict[str, Sequence[int]] = {
        "num_videos": [1],
        "num_frames": [config.num_frames],
        "level": range(1, config.pyramid.num_levels + 1),
    }
    for values in itertools.product(*(choices.get(name, [0]) for name in signature.inputs)):
        inputs = {}
        for (name, info), value in zip(signature.inputs.items(), values):
            shape = [max(dim.size, 1) for dim in info.tensor_shape.dim]  # -1: unknown
            inputs[name] = np.full(shape, value, tf.as_dtype(info.dtype).as_numpy_dtype)
        yield inputs


def write_warmup(folder: str | os.PathLike[str], config: SystemConfig) -> None:
    """Adds warm-up requests for every signature to a SavedModel.

    Args:
      folder: folder of one version.
      config: config of its generator.
    """
    from tensorflow_serving.apis import model_pb2, predict_pb2, prediction_log_pb2  # here: only exports need gRPC

    saved_model = saved_model_pb2.SavedModel.FromString(pathlib.Path(folder, "saved_model.pb").read_bytes())
    path = pathlib.Path(folder, PATH)
    path.parent.mkdir()
    with tf.io.TFRecordWriter(str(path)) as writer:
        for name, signature in sorted(saved_model.meta_graphs[0].signature_def.items()):
            if signature.method_name != tf.saved_model.PREDICT_METHOD_NAME:
                continue  # added by TensorFlow, not callable by clients
            for inputs in warmup_inputs(signature, config):
                request = predict_pb2.PredictRequest(
                    model_spec=model_pb2.ModelSpec(signature_name=name),  # the server sets the model's name
                    inputs={key: tf.make_tensor_proto(array) for key, array in inputs.items()},
                )
                log = prediction_log_pb2.PredictLog(request=request)
                writer.write(prediction_log_pb2.PredictionLog(predict_log=log).SerializeToString(deterministic=True))
