"""The contract between `data_prep` and training: what a record holds, what shards are called, what the manifest says.

A data set is a folder with shards `NAME-SPLIT-00000-of-00064.tfrecord` and one `manifest.json`, written last. A shard
is a TFRecord file; a record is one `tf.train.SequenceExample`, a video or, for long videos, a segment of one.

TensorFlow is imported only where records are encoded or parsed, so that manifests can be read without it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import pathlib
import tempfile
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Union

from tganv2_tf.errors import UserError

if TYPE_CHECKING:
    import tensorflow as tf

Path = Union[str, "os.PathLike[str]"]

FORMAT_VERSION = 1
MANIFEST_FILE = "manifest.json"
UNFINISHED_DIR = ".unfinished"  # what a preparation keeps in the data folder until its manifest is written
NO_LABEL = -1
CHUNK_BYTES = 1 << 20


def encode_record(
    frames: Sequence[bytes],
    *,
    video_id: str,
    label: int = NO_LABEL,
    label_name: str = "",
    height: int,
    width: int,
    fps: float = 0.0,
) -> bytes:
    """Serializes one video; the same arguments give the same bytes.

    Args:
      frames: one JPEG or PNG file a frame, RGB, in order of time.
      video_id: unique in the data set; a segment of a long video ends in `#0001`, `#0002`, ...
      label: number of the class from 0, or `NO_LABEL`.
      label_name: name of the class, or nothing.
      height: of the frames, in pixels.
      width: of the frames, in pixels.
      fps: frames a second of the source; 0 where it is unknown.
    Returns:
      A serialized `tf.train.SequenceExample`.
    """
    import tensorflow as tf

    def of_bytes(value: bytes) -> tf.train.Feature:
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))

    def of_int(value: int) -> tf.train.Feature:
        return tf.train.Feature(int64_list=tf.train.Int64List(value=[value]))

    context = {
        "video_id": of_bytes(video_id.encode()),
        "label": of_int(label),
        "label_name": of_bytes(label_name.encode()),
        "num_frames": of_int(len(frames)),
        "height": of_int(height),
        "width": of_int(width),
        "fps": tf.train.Feature(float_list=tf.train.FloatList(value=[fps])),
    }
    example = tf.train.SequenceExample(
        context=tf.train.Features(feature=context),
        feature_lists=tf.train.FeatureLists(
            feature_list={"frames": tf.train.FeatureList(feature=[of_bytes(frame) for frame in frames])}
        ),
    )
    return example.SerializeToString(deterministic=True)  # the order of a protobuf map is otherwise left open


def parse_record(serialized: tf.Tensor) -> dict[str, tf.Tensor]:
    """Reads what `encode_record` wrote, eagerly or inside tf.data; the frames stay encoded.

    Args:
      serialized: string, scalar.
    Returns:
      `video_id` string [], `label` int64 [], `label_name` string [], `num_frames` int64 [], `height` int64 [], `width`
      int64 [], `fps` float32 [], `frames` string [num_frames].
    Raises:
      tf.errors.InvalidArgumentError: not such a record, or a field is missing.
    """
    import tensorflow as tf

    context, sequences = tf.io.parse_single_sequence_example(
        serialized,
        context_features={
            "video_id": tf.io.FixedLenFeature([], tf.string),
            "label": tf.io.FixedLenFeature([], tf.int64),
            "label_name": tf.io.FixedLenFeature([], tf.string),
            "num_frames": tf.io.FixedLenFeature([], tf.int64),
            "height": tf.io.FixedLenFeature([], tf.int64),
            "width": tf.io.FixedLenFeature([], tf.int64),
            "fps": tf.io.FixedLenFeature([], tf.float32),
        },
        sequence_features={"frames": tf.io.FixedLenSequenceFeature([], tf.string)},
    )
    return {**context, **sequences}


def shard_name(name: str, split: str, index: int, count: int) -> str:
    """File name of shard `index` (from 0) of `count`: `ucf101-train-00000-of-00064.tfrecord`."""
    return f"{name}-{split}-{index:05d}-of-{count:05d}.tfrecord"


def checksum(path: Path) -> str:
    """`sha256:` and the hexadecimal digest of a file."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
    return f"sha256:{digest.hexdigest()}"


def write_atomically(path: Path, text: str) -> None:
    """Writes a text file so that its name never shows half of it, not even after a power cut."""
    target = pathlib.Path(path)
    handle, temporary = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".tmp", dir=target.parent)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())  # mkstemp's 0600 would hide the file from colleagues
        os.replace(temporary, target)
    except BaseException:
        pathlib.Path(temporary).unlink(missing_ok=True)
        raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


@dataclasses.dataclass(frozen=True)
class Shard:
    """One shard of the manifest.

    Attributes:
      file: bare name, in the folder of the manifest.
      bytes: size of the file.
      checksum: as `checksum` gives it.
      num_videos: source videos.
      num_records: records; more than `num_videos` where long videos were cut into segments.
      num_frames: frames of all records.
    """

    file: str
    bytes: int
    checksum: str
    num_videos: int
    num_records: int
    num_frames: int


@dataclasses.dataclass(frozen=True)
class Skipped:
    """A video that is not in the shards, and why."""

    video: str
    reason: str


@dataclasses.dataclass(frozen=True)
class Manifest:
    """What `manifest.json` says of a data set.

    Attributes:
      name: of the data set, such as `ucf101`.
      split: such as `train`.
      height: of all frames, in pixels.
      width: of all frames, in pixels.
      labels: names of the classes; the label of a record is an index into it.
      options: every option that the bytes of the shards depend on.
      shards: in the order of their numbers.
      skipped: videos that were to be prepared and could not.
    """

    name: str
    split: str
    height: int
    width: int
    labels: list[str]
    options: dict[str, Any]
    shards: list[Shard]
    skipped: list[Skipped] = dataclasses.field(default_factory=list)

    @property
    def num_shards(self) -> int:
        return len(self.shards)

    @property
    def num_videos(self) -> int:
        return sum(shard.num_videos for shard in self.shards)

    @property
    def num_records(self) -> int:
        return sum(shard.num_records for shard in self.shards)

    @property
    def num_frames(self) -> int:
        """Frames of all records; those that overlapping segments share count in each of them."""
        return sum(shard.num_frames for shard in self.shards)

    def shard_paths(self, folder: Path) -> list[str]:
        """Paths of the shards, in the order of their numbers, for `tf.data.TFRecordDataset`."""
        return [os.path.join(os.fspath(folder), shard.file) for shard in self.shards]

    def save(self, folder: Path) -> None:
        """Writes `manifest.json`, whole or not at all."""
        counts = {key: getattr(self, key) for key in ("num_videos", "num_records", "num_frames", "num_shards")}
        fields = dataclasses.asdict(self)
        head = {"format": FORMAT_VERSION, "name": fields.pop("name"), "split": fields.pop("split")}
        text = json.dumps({**head, **counts, **fields}, indent=2, ensure_ascii=False)
        write_atomically(pathlib.Path(folder) / MANIFEST_FILE, text + "\n")

    @classmethod
    def load(cls, folder: Path) -> Manifest:
        """Reads `manifest.json` and holds the sizes of the shards against it (their checksums are not read: too slow).

        Raises:
          UserError: no such folder, no or an unreadable manifest, or a shard that is missing or has another size.
        """
        directory = pathlib.Path(folder)
        path = directory / MANIFEST_FILE
        if not directory.is_dir():
            raise UserError(f"{directory}: no such folder; {_HOW_TO_MAKE.format(directory)}")
        if not path.is_file():
            if (directory / UNFINISHED_DIR).is_dir():
                raise UserError(f"{directory}: its preparation is not finished; run the same data_prep command again")
            raise UserError(f"{directory}: no {MANIFEST_FILE} in it, so no data set; {_HOW_TO_MAKE.format(directory)}")
        try:
            manifest = _from_json(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise UserError(f"{path}: cannot be read: {error}; prepare the data set again") from error
        for shard in manifest.shards:
            file = directory / shard.file
            try:
                size = file.stat().st_size
            except OSError as error:
                raise UserError(f"{file}: {error.strerror}, but {MANIFEST_FILE} lists it; {_MEND}") from error
            if size != shard.bytes:
                raise UserError(f"{file}: {size} bytes, but {MANIFEST_FILE} says {shard.bytes}: damaged; {_MEND}")
        return manifest


_HOW_TO_MAKE = "make one with: python -m data_prep.ucf101 --video_dir=VIDEOS --split_dir=LISTS --output_dir={}"
_MEND = "copy the data set again, or prepare it again in an empty folder"


def _from_json(text: str) -> Manifest:
    """Raises ValueError, saying what is wrong."""
    loaded = json.loads(text)
    if _checked(loaded, {"format": int}, "")["format"] != FORMAT_VERSION:
        raise ValueError(f"its format is {loaded['format']}; this code reads {FORMAT_VERSION}")
    fields = _checked(loaded, _MANIFEST_KINDS, "")
    if not all(isinstance(label, str) for label in fields["labels"]):
        raise ValueError("the field labels is not a list of names")
    for key, made, kinds in (("shards", Shard, _SHARD_KINDS), ("skipped", Skipped, _SKIPPED_KINDS)):
        fields[key] = [made(**_checked(entry, kinds, f"{key}[{i}].")) for i, entry in enumerate(fields[key])]
    if not fields["shards"]:
        raise ValueError("it lists no shards")
    for shard in fields["shards"]:
        # A manifest from elsewhere must not make training read files outside its folder.
        if shard.file in ("", ".", "..") or "/" in shard.file or "\\" in shard.file:
            raise ValueError(f"shard file {shard.file!r} is not a bare file name")
    manifest = Manifest(**fields)
    for key in ("num_videos", "num_records", "num_frames", "num_shards"):
        if loaded.get(key) != getattr(manifest, key):
            raise ValueError(f"{key} is {loaded.get(key)!r}, but the shards add up to {getattr(manifest, key)}")
    return manifest


_MANIFEST_KINDS = {
    "name": str,
    "split": str,
    "height": int,
    "width": int,
    "labels": list,
    "options": dict,
    "shards": list,
    "skipped": list,
}
_SHARD_KINDS = {"file": str, "bytes": int, "checksum": str, "num_videos": int, "num_records": int, "num_frames": int}
_SKIPPED_KINDS = {"video": str, "reason": str}


def _checked(loaded: Any, kinds: Mapping[str, type], where: str) -> dict[str, Any]:
    if not isinstance(loaded, dict):
        raise ValueError(f"{where.rstrip('.') or 'it'} is not a JSON object")
    for key, kind in kinds.items():
        if key not in loaded:
            raise ValueError(f"the field {where}{key} is missing")
        value = loaded[key]
        if not isinstance(value, kind) or isinstance(value, bool) or (isinstance(value, int) and value < 0):
            raise ValueError(f"the field {where}{key} is {value!r}")
    return {key: loaded[key] for key in kinds}
