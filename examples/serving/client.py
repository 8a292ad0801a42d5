"""Requests videos of a generator from TensorFlow Serving and writes them, side by side, as one MP4 or GIF.

python examples/serving/client.py --model=demo --seed=3 --num_videos=4 --output=videos.mp4
python examples/serving/client.py --grpc=127.0.0.1:8500 --num_frames=64 --output=long.gif

The file imports nothing of this project and can be copied anywhere. REST needs numpy and imageio (for MP4
imageio-ffmpeg, for GIF pillow); gRPC also needs grpcio and tensorflow-serving-api, which installs TensorFlow.
"""

from __future__ import annotations

import argparse
import http.client
import json
import math
import os
import pathlib
import re
import socket
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Sequence
from typing import Any, NoReturn

import imageio.v3 as iio
import numpy as np

SIGNATURE = "generate"  # the model draws the latents, so that a seed gives the same video everywhere
DTYPES = {"DT_INT32": np.int32, "DT_INT64": np.int64}


class ClientError(Exception):
    """An error described in one line."""


def one_line(text: str) -> str:
    """Shortens an error of TensorFlow's to one line: the text of a failed assertion, or the first line."""
    assertion = re.search(r"assertion failed: \[([^\]]+)\]", text)
    line = assertion[1] if assertion else next(iter(text.strip().splitlines()), "no message")
    return line if len(line) <= 300 else f"{line[:300]}..."


class RestServer:
    """The REST interface (https://www.tensorflow.org/tfx/serving/api_rest).

    Attributes:
      address: The address as given by the user.
    """

    def __init__(self, url: str, model: str, version: int, timeout: float) -> None:
        self.address, self.timeout = url.rstrip("/"), timeout
        self.path = f"{self.address}/v1/models/{urllib.parse.quote(model, safe='')}"
        if version:
            self.path += f"/versions/{version}"

    def signatures(self) -> dict[str, Any]:
        """Returns the SignatureDef of every signature in JSON form."""
        try:
            return self._ask("/metadata")["metadata"]["signature_def"]["signature_def"]
        except (KeyError, TypeError) as error:
            raise ClientError(f"{self.address} does not respond like TensorFlow Serving") from error

    def predict(self, inputs: dict[str, np.ndarray]) -> np.ndarray:
        """Returns videos, uint8 [N, T, H, W, 3]."""
        # The column format: scalars have no sample axis, which the row format needs.
        body = {"signature_name": SIGNATURE, "inputs": {name: array.tolist() for name, array in inputs.items()}}
        return np.array(self._ask(":predict", body)["outputs"], np.uint8)

    def _ask(self, method: str, body: Any = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.path + method, data, {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=self.timeout) as response:
                return json.load(response)
        except urllib.error.HTTPError as error:
            raise ClientError(self._error_message(error)) from error
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "reason", error)
            if isinstance(reason, socket.timeout):  # an alias of TimeoutError since Python 3.10
                raise ClientError(f"{self.address}: no response within {self.timeout:g} s; raise --timeout") from error
            raise ClientError(f"{self.address}: cannot connect: {reason}") from error
        except ValueError as error:
            raise ClientError(f"{self.address} does not respond like TensorFlow Serving") from error

    def _error_message(self, error: urllib.error.HTTPError) -> str:
        try:
            text = one_line(json.load(error)["error"])
        except (ValueError, KeyError, TypeError):
            return f"{self.address} does not respond like TensorFlow Serving: {error.code} {error.reason}"
        if error.code == 404:
            return f"{self.address}: {text}; check --model and --version"
        if error.code == 504:
            return f"{self.address}: {text}; raise the server's --rest_api_timeout_in_ms"
        return f"{self.address}: {text}"


class GrpcServer:
    """The gRPC interface, without TLS.

    Attributes:
      address: The address as given by the user.
    """

    def __init__(self, target: str, model: str, version: int, timeout: float) -> None:
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # the protos import TensorFlow; both write log messages
        os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
        try:
            import grpc
            from tensorflow_serving.apis import model_pb2, prediction_service_pb2_grpc
        except ImportError as error:
            raise ClientError(f"--grpc needs grpcio and tensorflow-serving-api: {error}") from error
        self.address, self.timeout = target, timeout
        self.spec = model_pb2.ModelSpec(name=model, signature_name=SIGNATURE)
        if version:
            self.spec.version.value = version
        # By default gRPC rejects messages above 4 MB, a second or two of video.
        unlimited = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
        self.stub = prediction_service_pb2_grpc.PredictionServiceStub(grpc.insecure_channel(target, unlimited))

    def signatures(self) -> dict[str, Any]:
        """Returns the SignatureDef of every signature in JSON form."""
        from google.protobuf import json_format
        from tensorflow_serving.apis import get_model_metadata_pb2

        request = get_model_metadata_pb2.GetModelMetadataRequest(model_spec=self.spec, metadata_field=["signature_def"])
        signatures = get_model_metadata_pb2.SignatureDefMap()
        self._ask(self.stub.GetModelMetadata, request).metadata["signature_def"].Unpack(signatures)
        return json_format.MessageToDict(signatures, preserving_proto_field_name=True)["signature_def"]

    def predict(self, inputs: dict[str, np.ndarray]) -> np.ndarray:
        """Returns videos, uint8 [N, T, H, W, 3]."""
        import tensorflow as tf
        from tensorflow_serving.apis import predict_pb2

        tensors = {name: tf.make_tensor_proto(array) for name, array in inputs.items()}
        request = predict_pb2.PredictRequest(model_spec=self.spec, inputs=tensors)
        return tf.make_ndarray(self._ask(self.stub.Predict, request).outputs["videos"])

    def _ask(self, call: Any, request: Any) -> Any:
        import grpc

        try:
            return call(request, timeout=self.timeout)
        except grpc.RpcError as error:
            code, text = error.code(), one_line(error.details() or "")
            if code == grpc.StatusCode.UNAVAILABLE:
                raise ClientError(f"{self.address}: cannot connect: {text}") from error
            if code == grpc.StatusCode.DEADLINE_EXCEEDED:
                raise ClientError(f"{self.address}: no response within {self.timeout:g} s; raise --timeout") from error
            if code == grpc.StatusCode.NOT_FOUND:
                text += "; check --model and --version"
            raise ClientError(f"{self.address}: {text}") from error


def make_inputs(signatures: dict[str, Any], options: argparse.Namespace) -> dict[str, np.ndarray]:
    """Returns the inputs of the model's `generate`, with the names and dtypes of its signature.

    Raises:
      ClientError: The model is of another kind, or labels are missing or not accepted.
    """
    if SIGNATURE not in signatures:
        raise ClientError(f"--model={options.model}: no signature {SIGNATURE!r}; not exported by tganv2_tf.export")
    expected = signatures[SIGNATURE]["inputs"]
    if "label" in expected and not options.label:
        raise ClientError(f"--model={options.model} needs a class: specify --label=NUMBER")
    if "label" not in expected and options.label:
        raise ClientError(f"--model={options.model} has no classes: omit --label")
    # `serving_default` has the fixed number of frames of a training clip.
    clip = signatures["serving_default"]["outputs"]["videos"]["tensor_shape"]["dim"]
    values = {
        "seed": options.seed,
        "num_videos": options.num_videos,
        "num_frames": options.num_frames or int(clip[1]["size"]),
        "label": options.label,
    }
    unknown = expected.keys() - values
    if unknown:
        raise ClientError(f"--model={options.model} needs inputs {sorted(unknown)}, which this client does not support")
    return {name: np.array(values[name], DTYPES[info["dtype"]]) for name, info in expected.items()}


def grid(videos: np.ndarray) -> np.ndarray:
    """Arranges videos in a nearly square grid: uint8 [N, T, H, W, 3] -> uint8 [T, H', W', 3] with even sizes."""
    num, frames, height, width, channels = videos.shape
    columns = math.ceil(math.sqrt(num))
    rows = math.ceil(num / columns)
    # H.264 with chroma subsampling, which all players read, needs even sizes.
    canvas = np.zeros([frames, -(-rows * height // 2) * 2, -(-columns * width // 2) * 2, channels], np.uint8)
    for i, video in enumerate(videos):
        top, left = i // columns * height, i % columns * width
        canvas[:, top : top + height, left : left + width] = video
    return canvas


def write_video(path: pathlib.Path, video: np.ndarray, fps: float) -> None:
    """Writes uint8 [T, H, W, 3]; the file appears under its name only when complete."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        temporary.touch()  # fails with a clear error, unlike imageio, if the folder is not writable
        if path.suffix.lower() == ".gif":
            iio.imwrite(temporary, video, plugin="pillow", duration=max(20, round(1000 / fps)), loop=0)
        else:
            iio.imwrite(temporary, video, plugin="FFMPEG", fps=fps, codec="libx264", macro_block_size=1, quality=8)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"client: {message}\n")


def _labels(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r}; valid: a number from 0, or several such as 0,1,2") from error


def _path(text: str) -> pathlib.Path:
    return pathlib.Path(text).expanduser()  # shells do not expand `~` after `=`


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parses the options; exits with status 2 if they are invalid."""
    summary, _, rest = __doc__.partition("\n")
    parser = _Parser(
        description=summary, epilog=rest, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--output", required=True, type=_path, help="file to write: .mp4 (H.264) or .gif")
    parser.add_argument("--url", default="http://127.0.0.1:8501", help="URL of the REST API (default %(default)s)")
    parser.add_argument("--grpc", default="", help="HOST:PORT of the gRPC API, instead of --url")
    parser.add_argument("--model", default="demo", help="name of the served model (default %(default)s)")
    parser.add_argument("--version", default=0, type=int, help="version of the model; 0 = the newest served")
    parser.add_argument("--seed", default=0, type=int, help="seed of the first video; the next ones follow (default 0)")
    parser.add_argument("--num_videos", default=1, type=int, help="number of videos (default 1)")
    parser.add_argument("--num_frames", default=0, type=int, help="frames per video; 0 = as in training")
    parser.add_argument("--label", default=[], type=_labels, help="class of all videos, or one each, such as 0,1,2")
    parser.add_argument("--fps", default=10.0, type=float, help="frames per second (default 10)")
    parser.add_argument("--timeout", default=60.0, type=float, help="seconds to wait for a response (default 60)")
    options = parser.parse_args(argv)
    for name, least in (("version", 0), ("seed", 0), ("num_videos", 1), ("num_frames", 0)):
        if getattr(options, name) < least:
            parser.error(f"--{name}={getattr(options, name)}: valid: a whole number of at least {least}")
    if options.label and len(options.label) not in (1, options.num_videos):
        parser.error(
            f"--label: {len(options.label)} classes; valid: one, or as many as --num_videos={options.num_videos}"
        )
    if options.seed + options.num_videos > 2**63:
        parser.error(f"--seed={options.seed}: valid: below 2^63, also for the last video")
    if not 0 < options.fps <= 50:
        parser.error(f"--fps={options.fps:g}: valid: a number above 0, up to 50")
    if not options.timeout > 0:
        parser.error(f"--timeout={options.timeout:g}: valid: a number above 0")
    if not options.url.startswith(("http://", "https://")):
        parser.error(f"--url={options.url}: valid: for example http://127.0.0.1:8501")
    if options.output.suffix.lower() not in (".mp4", ".gif"):
        parser.error(f"--output={options.output}: valid: a name that ends with .mp4 or .gif")
    return options


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status: 0, 1 if videos could not be requested or written, 130 after Ctrl-C."""
    options = parse(argv)
    try:
        server = (GrpcServer if options.grpc else RestServer)(
            options.grpc or options.url, options.model, options.version, options.timeout
        )
        videos = server.predict(make_inputs(server.signatures(), options))
        write_video(options.output, grid(videos), options.fps)
    except ClientError as error:
        print(f"client: {error}", file=sys.stderr)
        return 1
    except (OSError, ImportError) as error:  # full disk, missing permission, missing ffmpeg
        print(f"client: --output={options.output}: {one_line(str(error))}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("client: interrupted", file=sys.stderr)
        return 130
    print(f"{len(videos)} videos of {videos.shape[1]} frames: {options.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
