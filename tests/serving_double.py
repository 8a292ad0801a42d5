"""A test double of TensorFlow Serving, whose binary is not available to the tests.

It has the published protos and gRPC service, follows the documented REST interface
(https://www.tensorflow.org/tfx/serving/api_rest), and runs a SavedModel as the server does: the graph in a session, fed
and fetched by the tensor names in the signatures. Not implemented: strings, logging, batching, several models.
"""

from __future__ import annotations

import contextlib
import http.server
import inspect
import json
import pathlib
import re
import threading
from concurrent import futures
from types import SimpleNamespace
from typing import Any

import grpc
import numpy as np
import tensorflow as tf
from google.protobuf import json_format
from tensorflow.core.framework import tensor_pb2
from tensorflow_serving.apis import get_model_metadata_pb2, predict_pb2, prediction_service_pb2_grpc

HTTP_STATUS = {
    grpc.StatusCode.INVALID_ARGUMENT: 400,
    grpc.StatusCode.FAILED_PRECONDITION: 400,
    grpc.StatusCode.NOT_FOUND: 404,
    grpc.StatusCode.DEADLINE_EXCEEDED: 504,
}
CODES = {code.value[0]: code for code in grpc.StatusCode}


class Fault(Exception):
    """An error status of the server."""

    def __init__(self, code, message):
        super().__init__(message)
        self.code, self.message = code, message


class Model:
    """A served version of a model."""

    def __init__(self, name, folder):
        self.name, self.folder, self.version = name, pathlib.Path(folder), int(pathlib.Path(folder).name)
        self.state = "AVAILABLE"
        self.gate = threading.Event()  # while cleared, requests wait
        self.gate.set()
        with tf.Graph().as_default():
            options = tf.compat.v1.ConfigProto()
            options.graph_options.rewrite_options.disable_meta_optimizer = True  # takes longer than it saves here
            self.session = tf.compat.v1.Session(config=options)
            loaded = tf.compat.v1.saved_model.load(self.session, ["serve"], str(folder))
        self.signatures = dict(loaded.signature_def)

    def check(self, spec):
        if spec.name != self.name or (spec.HasField("version") and spec.version.value != self.version):
            wanted = f"Specific({spec.name}, {spec.version.value})" if spec.version.value else f"Latest({spec.name})"
            raise Fault(grpc.StatusCode.NOT_FOUND, f"Servable not found for request: {wanted}")

    def predict(self, request):
        """PredictRequest -> PredictResponse."""
        self.check(request.model_spec)
        name = request.model_spec.signature_name or "serving_default"
        if name not in self.signatures:
            raise Fault(grpc.StatusCode.FAILED_PRECONDITION, f'Serving signature key "{name}" not found.')
        signature = self.signatures[name]
        given, known = set(request.inputs), set(signature.inputs)
        if given != known:
            message = f"input size does not match signature. Sent extra: {given - known}. Missing: {known - given}."
            raise Fault(grpc.StatusCode.INVALID_ARGUMENT, message)
        feed = {}
        for key, proto in request.inputs.items():
            if proto.dtype != signature.inputs[key].dtype:
                raise Fault(grpc.StatusCode.INVALID_ARGUMENT, f"{key} has the wrong dtype")
            feed[signature.inputs[key].name] = tf.make_ndarray(proto)
        self.gate.wait(10)
        try:
            outputs = self.session.run({key: info.name for key, info in signature.outputs.items()}, feed)
        except tf.errors.OpError as error:
            message = error.message.replace("Graph execution error:\n\n", "")  # added by Python, not by the server
            raise Fault(CODES[error.error_code], message) from error
        response = predict_pb2.PredictResponse(model_spec=request.model_spec)
        response.model_spec.version.value = self.version
        for key, array in outputs.items():
            response.outputs[key].CopyFrom(as_proto_field(array))
        return response

    def metadata(self, request):
        """GetModelMetadataRequest -> GetModelMetadataResponse."""
        self.check(request.model_spec)
        if list(request.metadata_field) != ["signature_def"]:
            raise Fault(grpc.StatusCode.INVALID_ARGUMENT, "Metadata field is not supported")
        response = get_model_metadata_pb2.GetModelMetadataResponse(model_spec=request.model_spec)
        response.model_spec.version.value = self.version
        response.metadata["signature_def"].Pack(get_model_metadata_pb2.SignatureDefMap(signature_def=self.signatures))
        return response


# The argument's name in protobuf 4 and in later versions.
MESSAGE_DEFAULTS = next(
    name
    for name in ("including_default_value_fields", "always_print_fields_with_no_presence")
    if name in inspect.signature(json_format.MessageToDict).parameters
)


def as_proto_field(array):
    """Returns a TensorProto with one number per value, as the server writes it; `tf.make_tensor_proto` writes bytes."""
    dtype, shape = tf.as_dtype(array.dtype).as_datatype_enum, tf.TensorShape(array.shape).as_proto()
    proto = tensor_pb2.TensorProto(dtype=dtype, tensor_shape=shape)
    (proto.float_val if array.dtype == np.float32 else proto.int_val).extend(array.ravel().tolist())
    return proto


def json_tensor(value, info):
    """Converts a JSON value to a TensorProto of an input's dtype; the first elements determine the shape."""
    dtype, shape, inner = tf.as_dtype(info.dtype), [], value
    while isinstance(inner, list):
        shape.append(len(inner))
        inner = inner[0] if inner else None
    try:
        array = np.array(value, object).reshape(shape)
    except ValueError as error:
        raise Fault(grpc.StatusCode.INVALID_ARGUMENT, "Encountered list at unexpected size") from error
    types = (int, float) if dtype.is_floating else (int,)
    for item in array.ravel():
        if type(item) not in types or (dtype == tf.int32 and not -(2**31) <= item < 2**31):
            message = f"JSON Value: {json.dumps(item)} Type: Number is not of expected type: {dtype.name}"
            raise Fault(grpc.StatusCode.INVALID_ARGUMENT, message)
    return tf.make_tensor_proto(array.astype(dtype.as_numpy_dtype))


def json_inputs(body, infos):
    """Converts the `inputs` (columns) or `instances` (rows) of a request to TensorProtos by name."""
    if ("inputs" in body) == ("instances" in body):
        raise Fault(grpc.StatusCode.INVALID_ARGUMENT, "expecting one of 'inputs' or 'instances' keys")
    if "inputs" in body:
        columns = body["inputs"]
        if not isinstance(columns, dict):
            if len(infos) > 1:
                raise Fault(grpc.StatusCode.INVALID_ARGUMENT, "inputs is a plain value/list")
            columns = {next(iter(infos)): columns}
        for name in infos:
            if name not in columns:
                raise Fault(grpc.StatusCode.INVALID_ARGUMENT, f"Missing named input: {name} in 'inputs' object.")
    elif isinstance(body["instances"][0], dict):
        for row in body["instances"]:
            if row.keys() != set(infos):
                raise Fault(grpc.StatusCode.INVALID_ARGUMENT, f"keys must be equal to: {','.join(sorted(infos))}")
        columns = {name: [row[name] for row in body["instances"]] for name in infos}
    elif len(infos) > 1:
        raise Fault(grpc.StatusCode.INVALID_ARGUMENT, "instances is a plain list, but expecting list of objects")
    else:
        columns = {next(iter(infos)): body["instances"]}
    return {name: json_tensor(columns[name], info) for name, info in infos.items()}  # others are ignored


class RestHandler(http.server.BaseHTTPRequestHandler):
    """The REST interface; it serves `self.server.model`."""

    server: Any

    def log_message(self, *_):
        pass

    def do_GET(self):
        self.answer(r"/v1/models/([^/:]+)(?:/versions/(\d+))?(/metadata)?", self.about)

    def do_POST(self):
        self.answer(r"/v1/models/([^/:]+)(?:/versions/(\d+))?:predict", self.predict)

    def answer(self, pattern, method):
        match = re.fullmatch(pattern, self.path)
        try:
            if not match:
                raise Fault(grpc.StatusCode.INVALID_ARGUMENT, f"Malformed request: {self.command} {self.path}")
            spec = predict_pb2.PredictRequest().model_spec
            spec.name = match[1]
            if match[2]:
                spec.version.value = int(match[2])
            status, body = 200, method(spec, match)
        except Fault as fault:
            status, body = HTTP_STATUS[fault.code], {"error": fault.message}
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        with contextlib.suppress(OSError):  # the client has timed out
            self.wfile.write(data)

    def about(self, spec, match):
        model = self.server.model
        model.check(spec)
        if not match[3]:
            status = {"error_code": "OK" if model.state == "AVAILABLE" else "UNAVAILABLE", "error_message": ""}
            return {"model_version_status": [{"version": str(model.version), "state": model.state, "status": status}]}
        request = get_model_metadata_pb2.GetModelMetadataRequest(model_spec=spec, metadata_field=["signature_def"])
        signature_map = get_model_metadata_pb2.SignatureDefMap()
        response = model.metadata(request)
        response.metadata["signature_def"].Unpack(signature_map)
        in_json = {MESSAGE_DEFAULTS: True, "preserving_proto_field_name": True}
        return {
            "model_spec": json_format.MessageToDict(response.model_spec, **in_json),
            "metadata": {"signature_def": json_format.MessageToDict(signature_map, **in_json)},
        }

    def predict(self, spec, _):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        model = self.server.model
        model.check(spec)
        name = body.get("signature_name", "serving_default")
        if name not in model.signatures:
            message = f'Serving signature name: "{name}" not found in signature def'
            raise Fault(grpc.StatusCode.INVALID_ARGUMENT, message)
        spec.signature_name = name
        inputs = json_inputs(body, model.signatures[name].inputs)
        outputs = model.predict(predict_pb2.PredictRequest(model_spec=spec, inputs=inputs)).outputs
        arrays = {key: tf.make_ndarray(proto).tolist() for key, proto in outputs.items()}
        assert len(arrays) == 1, "with several outputs the server answers with their names"
        return {"outputs" if "inputs" in body else "predictions": next(iter(arrays.values()))}


class GrpcServicer(prediction_service_pb2_grpc.PredictionServiceServicer):
    """The gRPC interface."""

    def __init__(self, model):
        self.model = model

    def Predict(self, request, context):
        return self._answer(self.model.predict, request, context)

    def GetModelMetadata(self, request, context):
        return self._answer(self.model.metadata, request, context)

    def _answer(self, method, request, context):
        try:
            return method(request)
        except Fault as fault:
            context.abort(fault.code, fault.message)


@contextlib.contextmanager
def serve(model):
    """Serves both interfaces of a model; .rest and .grpc are the client's flags for them."""
    web: Any = http.server.ThreadingHTTPServer(("127.0.0.1", 0), RestHandler)
    web.model = model
    threading.Thread(target=web.serve_forever, daemon=True).start()
    # The server's own limit is 2 GB as well.
    rpc = grpc.server(futures.ThreadPoolExecutor(4), options=[("grpc.max_send_message_length", -1)])
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(GrpcServicer(model), rpc)
    port = rpc.add_insecure_port("127.0.0.1:0")
    rpc.start()
    try:
        yield SimpleNamespace(
            model=model,
            rest=f"--url=http://127.0.0.1:{web.server_port}",
            grpc=f"--grpc=127.0.0.1:{port}",
            rest_port=web.server_port,
            grpc_port=port,
        )
    finally:
        model.gate.set()
        rpc.stop(None)
        web.shutdown()
        web.server_close()
