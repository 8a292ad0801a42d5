"""The manifest of a data set: its shards, their contents and the options with which they were made.

A data set is a folder of TFRecord shards `NAME-SPLIT-00000-of-00064.tfrecord` and a `manifest.json`, which is written
last. This module does not import TensorFlow.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import hashlib
import json
import os
import pathlib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tganv2_tf import storage
from tganv2_tf.data.advice import holds_videos, how_to_make, how_to_prepare
from tganv2_tf.data.class_names import quoted
from tganv2_tf.errors import UserError
from tganv2_tf.storage.files import Path, write_atomically

FORMAT_VERSION = 1
MANIFEST_FILE = "manifest.json"
UNFINISHED_DIR = ".unfinished"  # working folder of a preparation, until the manifest is written
CHUNK_BYTES = 1 << 20
SHOWN_CLASSES = 3
PARALLEL_REQUESTS = 16  # a bucket takes tens of milliseconds per file size
MAX_PIXELS = 65535  # largest width or height of a JPEG


def shard_name(name: str, split: str, index: int, count: int) -> str:
    """Returns the file name of shard `index` (from 0) of `count`, e.g. `ucf101-train-00000-of-00064.tfrecord`."""
    return f"{name}-{split}-{index:05d}-of-{count:05d}.tfrecord"


def checksum(path: Path) -> str:
    """Returns `sha256:` and the hexadecimal digest of a file."""
    digest = hashlib.sha256()
    with storage.on_disk(path) as local, open(local, "rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
    return f"sha256:{digest.hexdigest()}"


def checksums(files: Iterable[str]) -> dict[str, str]:
    """Returns the checksums of files, keyed by base name."""
    return {os.path.basename(file): checksum(file) for file in files}


def folder_checksum(folder: Path, files: Iterable[pathlib.Path] | None = None) -> str:
    """Returns `sha256:` and the hexadecimal digest of a folder's relative file names and contents.

    Args:
      folder: The folder.
      files: Files in the folder to include; None includes all.
    """
    root, digest = pathlib.Path(folder), hashlib.sha256()
    chosen = root.rglob("*") if files is None else files
    for file in sorted(file.relative_to(root).as_posix() for file in chosen if file.is_file()):
        digest.update(os.fsencode(f"{checksum(root / file)} {file}\n"))
    return f"sha256:{digest.hexdigest()}"


@dataclasses.dataclass(frozen=True)
class Shard:
    """One shard of the manifest.

    Attributes:
      file: File name without folder; it is in the folder of the manifest.
      bytes: Size of the file.
      checksum: Result of `checksum`.
      num_videos: Number of source videos.
      num_records: Number of records; greater than `num_videos` if long videos were cut into segments.
      num_frames: Number of frames of all records.
    """

    file: str
    bytes: int
    checksum: str
    num_videos: int
    num_records: int
    num_frames: int

    def fault(self, folder: Path) -> str | None:
        """Returns an error text if the file in `folder` is missing or has another size, else None."""
        try:
            size = storage.size(storage.join(folder, self.file))
        except OSError as error:
            return f"{error.strerror}, but {MANIFEST_FILE} lists it"
        return None if size == self.bytes else f"{size} bytes, but {MANIFEST_FILE} says {self.bytes}: damaged"


@dataclasses.dataclass(frozen=True)
class Skipped:
    """A video that is not in the shards, and the reason."""

    video: str
    reason: str


@dataclasses.dataclass(frozen=True)
class Damaged:
    """A video that is in the shards although its file is damaged.

    Attributes:
      video: The id of the video.
      header_frames: Number of frames according to the file header; 0 if unknown.
      num_frames: Number of frames that were decoded.
      reason: Description of the damage in one line.
    """

    video: str
    header_frames: int
    num_frames: int
    reason: str


@dataclasses.dataclass(frozen=True)
class Manifest:
    """The contents of `manifest.json`.

    Attributes:
      name: Name of the data set, e.g. `ucf101`.
      split: Name of the split, e.g. `train`.
      height: Height of all frames, in pixels.
      width: Width of all frames, in pixels.
      labels: Class names; the label of a record is an index into this list.
      options: All options that affect the bytes of the shards.
      shards: Shards in order of their index.
      skipped: Videos that could not be prepared.
      damaged: Videos of which a part is missing or faulty.
      frame_rates: Number of videos, keyed by frames per second as text; `0` is unknown.
      longest_records: Number of videos, keyed by the number of frames of their longest record, as text.
      videos_per_class: Number of videos of each class, in the order of `labels`.
      sources: One string per shard: short digests of its videos' file states, to detect changes (`data_prep.sources`).

    The last four are empty in data sets of older versions.
    """

    name: str
    split: str
    height: int
    width: int
    labels: list[str]
    options: dict[str, Any]
    shards: list[Shard]
    skipped: list[Skipped] = dataclasses.field(default_factory=list)
    damaged: list[Damaged] = dataclasses.field(default_factory=list)
    frame_rates: dict[str, int] = dataclasses.field(default_factory=dict)
    longest_records: dict[str, int] = dataclasses.field(default_factory=dict)
    videos_per_class: list[int] = dataclasses.field(default_factory=list)
    sources: list[str] = dataclasses.field(default_factory=list)

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
        """Number of frames of all records. Frames shared by overlapping segments count in each segment."""
        return sum(shard.num_frames for shard in self.shards)

    @property
    def fps(self) -> float:
        """Median of the known frame rates, in frames per second; 0 if none is known."""
        known = sorted((float(rate), count) for rate, count in self.frame_rates.items() if float(rate) > 0)
        middle = sum(count for _, count in known) / 2
        for rate, count in known:
            middle -= count
            if middle <= 0:
                return rate
        return 0.0

    @property
    def empty_classes(self) -> str:
        """Message with the classes that have no videos, in one line; empty if there are none or it is unknown."""
        return describe_empty_classes(self.labels, self.videos_per_class)

    def shard_paths(self, folder: Path) -> list[str]:
        """Returns the paths of the shards in order of their index, for `tf.data.TFRecordDataset`."""
        return [storage.join(folder, shard.file) for shard in self.shards]

    def faults(self, folder: Path) -> dict[str, str]:
        """Returns the results of `Shard.fault` for faulty shards in `folder`, keyed by file name."""
        with concurrent.futures.ThreadPoolExecutor(PARALLEL_REQUESTS) as pool:
            found = pool.map(lambda shard: shard.fault(folder), self.shards)
        return {shard.file: fault for shard, fault in zip(self.shards, found) if fault}

    def save(self, folder: Path) -> None:
        """Writes `manifest.json` atomically."""
        counts = {key: getattr(self, key) for key in ("num_videos", "num_records", "num_frames", "num_shards")}
        fields = dataclasses.asdict(self)
        head = {"format": FORMAT_VERSION, "name": fields.pop("name"), "split": fields.pop("split")}
        text = json.dumps({**head, **counts, **fields}, indent=2, ensure_ascii=False)
        write_atomically(storage.join(folder, MANIFEST_FILE), text + "\n")

    @classmethod
    def read(cls, folder: Path, command: str = "") -> Manifest:
        """Reads `manifest.json` without checking the shards.

        Args:
          folder: Folder of the data set.
          command: The command that makes such data, from `advice.preparation`, for error messages.
        Raises:
          UserError: The folder or the manifest does not exist, or the manifest is unreadable.
        """
        directory = os.fspath(folder).rstrip("/") or os.fspath(folder)
        path = storage.join(directory, MANIFEST_FILE)
        if not storage.is_remote(directory) and not storage.is_folder(directory):
            raise UserError(f"{directory}: no such folder; {how_to_make(directory, command)}")
        if not storage.exists(path):
            if storage.is_folder(storage.join(directory, UNFINISHED_DIR)):
                raise UserError(f"{directory}: its preparation is not finished; run the same data_prep command again")
            if not storage.is_remote(directory) and holds_videos(directory):
                raise UserError(f"{directory}: contains videos, but no data set; {how_to_prepare(directory, command)}")
            raise UserError(
                f"{directory}: no {MANIFEST_FILE} in it, so not a data set; {how_to_make(directory, command)}"
            )
        try:
            return _from_json(storage.read_text(path))
        except (OSError, ValueError) as error:
            raise UserError(f"{path}: cannot be read: {error}; prepare the data set again") from error

    @classmethod
    def load(cls, folder: Path, command: str = "") -> Manifest:
        """Reads `manifest.json` and checks the sizes of the shards. Checksums are not checked, to save time.

        Args: see `read`.

        Raises:
          UserError: As in `read`, or a shard is missing or has another size.
        """
        manifest = cls.read(folder, command)
        faults = manifest.faults(folder)
        if faults:
            file, fault = next(iter(faults.items()))
            raise UserError(f"{storage.join(folder, file)}: {fault}; {REMEDY}")
        return manifest


def describe_empty_classes(labels: Sequence[str], counts: Sequence[int]) -> str:
    """Returns a message with the classes that have no videos, in one line; empty if there are none.

    Args:
      labels: Class names.
      counts: Number of videos of each class.
    """
    names = [label for label, count in zip(labels, counts) if not count]
    if not names:
        return ""
    have = "has" if len(names) == 1 else "have"
    return f"{len(names)} of {len(labels)} classes {have} no video: {quoted(names, SHOWN_CLASSES)}"


REMEDY = "copy the data set again, or prepare it again in an empty folder"


def _from_json(text: str) -> Manifest:
    """Parses and validates a manifest. Raises ValueError with a description of the error."""
    loaded = json.loads(text)
    json.dumps(loaded, ensure_ascii=False).encode()  # rejects lone surrogates, which cannot be printed
    if _checked(loaded, {"format": int}, "")["format"] != FORMAT_VERSION:
        raise ValueError(f"its format is {loaded['format']}; this code reads {FORMAT_VERSION}")
    fields = _checked({**_LATER_FIELDS, **loaded}, _kinds(Manifest), "")
    for key, kind in (("labels", str), ("videos_per_class", int), ("sources", str)):
        if not all(type(value) is kind for value in fields[key]):
            raise ValueError(f"the field {key} has values of the wrong type")
    if len(fields["videos_per_class"]) not in (0, len(fields["labels"])):
        raise ValueError(f"the field videos_per_class has {len(fields['videos_per_class'])} values")
    for key, made in (("shards", Shard), ("skipped", Skipped), ("damaged", Damaged)):
        kinds = _kinds(made)
        fields[key] = [made(**_checked(entry, kinds, f"{key}[{i}].")) for i, entry in enumerate(fields[key])]
    if not fields["shards"]:
        raise ValueError("it lists no shards")
    for key in ("height", "width"):
        if not 1 <= fields[key] <= MAX_PIXELS:
            raise ValueError(f"the field {key} is {fields[key]}; valid: 1 to {MAX_PIXELS}")
    for rate, count in fields["frame_rates"].items():
        if not re.fullmatch(r"[0-9.]+(e[+-]?[0-9]+)?", rate) or not isinstance(count, int):
            raise ValueError(f"the field frame_rates has {rate!r}: {count!r}")
    for frames, count in fields["longest_records"].items():
        if not re.fullmatch(r"[0-9]{1,9}", frames) or type(count) is not int:
            raise ValueError(f"the field longest_records has {frames!r}: {count!r}")
    for shard in fields["shards"]:
        # An untrusted manifest must not make training read files outside its folder.
        if shard.file in ("", ".", "..") or "/" in shard.file or "\\" in shard.file or not shard.file.isprintable():
            raise ValueError(f"shard file {shard.file!r} is not a bare file name")
    manifest = Manifest(**fields)
    for key in ("num_videos", "num_records", "num_frames", "num_shards"):
        if loaded.get(key) != getattr(manifest, key):
            raise ValueError(f"{key} is {loaded.get(key)!r}, but the shards add up to {getattr(manifest, key)}")
    return manifest


_LATER_FIELDS: dict[str, Any] = {
    "damaged": [],
    "frame_rates": {},
    "longest_records": {},
    "videos_per_class": [],
    "sources": [],
}


def _kinds(made: type) -> dict[str, type]:
    """Returns the types of the fields of a dataclass of this module, without item types."""
    kinds = {"str": str, "int": int, "list": list, "dict": dict}
    return {field.name: kinds[str(field.type).partition("[")[0]] for field in dataclasses.fields(made)}


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
