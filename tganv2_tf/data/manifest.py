"""The manifest of a data set: which shards there are, what they hold, and how they were made.

A data set is a folder with shards `NAME-SPLIT-00000-of-00064.tfrecord`, TFRecord files, and one `manifest.json`,
written last. TensorFlow is not imported here.
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
from tganv2_tf.class_names import quoted
from tganv2_tf.data.advice import holds_videos, how_to_make, how_to_prepare
from tganv2_tf.errors import UserError
from tganv2_tf.files import Path, write_atomically

FORMAT_VERSION = 1
MANIFEST_FILE = "manifest.json"
UNFINISHED_DIR = ".unfinished"  # what a preparation keeps in the data folder until its manifest is written
CHUNK_BYTES = 1 << 20
SHOWN_CLASSES = 3
LOOKS_AT_ONCE = 16  # a bucket takes tens of milliseconds to say how large a shard is
MAX_PIXELS = 65535  # across or down: no JPEG has more


def shard_name(name: str, split: str, index: int, count: int) -> str:
    """File name of shard `index` (from 0) of `count`: `ucf101-train-00000-of-00064.tfrecord`."""
    return f"{name}-{split}-{index:05d}-of-{count:05d}.tfrecord"


def checksum(path: Path) -> str:
    """`sha256:` and the hexadecimal digest of a file."""
    digest = hashlib.sha256()
    with storage.on_disk(path) as local, open(local, "rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
    return f"sha256:{digest.hexdigest()}"


def checksums(files: Iterable[str]) -> dict[str, str]:
    """The checksums of files, by the files' names."""
    return {os.path.basename(file): checksum(file) for file in files}


def folder_checksum(folder: Path, files: Iterable[pathlib.Path] | None = None) -> str:
    """`sha256:` and the hexadecimal digest of names and contents in a folder, the same in any place.

    Args:
      folder: the names are those below it.
      files: in the folder; all that it holds if it is None.
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

    def fault(self, folder: Path) -> str | None:
        """What is wrong at first sight with the file in `folder`: it is missing or has another size. Else None."""
        try:
            size = storage.size(storage.join(folder, self.file))
        except OSError as error:
            return f"{error.strerror}, but {MANIFEST_FILE} lists it"
        return None if size == self.bytes else f"{size} bytes, but {MANIFEST_FILE} says {self.bytes}: damaged"


@dataclasses.dataclass(frozen=True)
class Skipped:
    """A video that is not in the shards, and why."""

    video: str
    reason: str


@dataclasses.dataclass(frozen=True)
class Damaged:
    """A video that is in the shards although its file is damaged.

    Attributes:
      video: its id.
      header_frames: number of frames by the header of its file; 0 if it has none.
      num_frames: frames that were decoded.
      reason: all that is known, in one line.
    """

    video: str
    header_frames: int
    num_frames: int
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
      damaged: videos of which a part is missing or faulty.
      frame_rates: number of videos by their rate in frames per second, as text; `0` if unknown.
      longest_records: number of videos by the frames of their longest record, as text.
      videos_per_class: number of videos of each class, in the order of `labels`.
      sources: of each shard, digits that tell whether the files of its videos have changed (`data_prep.sources`).

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
        """Frames of all records; those that overlapping segments share count in each of them."""
        return sum(shard.num_frames for shard in self.shards)

    @property
    def fps(self) -> float:
        """The median of the videos' known rates, in frames per second; 0 if none is known."""
        known = sorted((float(rate), count) for rate, count in self.frame_rates.items() if float(rate) > 0)
        middle = sum(count for _, count in known) / 2
        for rate, count in known:
            middle -= count
            if middle <= 0:
                return rate
        return 0.0

    @property
    def empty_classes(self) -> str:
        """One line that names the classes without a video; empty if there are none, or if it is not known."""
        return describe_empty_classes(self.labels, self.videos_per_class)

    def shard_paths(self, folder: Path) -> list[str]:
        """Paths of the shards, in the order of their numbers, for `tf.data.TFRecordDataset`."""
        return [storage.join(folder, shard.file) for shard in self.shards]

    def faults(self, folder: Path) -> dict[str, str]:
        """What is wrong at first sight with the shards in `folder`, by their names."""
        with concurrent.futures.ThreadPoolExecutor(LOOKS_AT_ONCE) as pool:
            found = pool.map(lambda shard: shard.fault(folder), self.shards)
        return {shard.file: fault for shard, fault in zip(self.shards, found) if fault}

    def save(self, folder: Path) -> None:
        """Writes `manifest.json`, whole or not at all."""
        counts = {key: getattr(self, key) for key in ("num_videos", "num_records", "num_frames", "num_shards")}
        fields = dataclasses.asdict(self)
        head = {"format": FORMAT_VERSION, "name": fields.pop("name"), "split": fields.pop("split")}
        text = json.dumps({**head, **counts, **fields}, indent=2, ensure_ascii=False)
        write_atomically(storage.join(folder, MANIFEST_FILE), text + "\n")

    @classmethod
    def read(cls, folder: Path, command: str = "") -> Manifest:
        """Reads `manifest.json`, and looks at nothing else.

        Args:
          folder: of the data set.
          command: what makes such data, as `advice.preparation` gives it.
        Raises:
          UserError: no such folder, or no manifest or an unreadable one in it.
        """
        directory = os.fspath(folder).rstrip("/") or os.fspath(folder)
        path = storage.join(directory, MANIFEST_FILE)
        if not storage.is_remote(directory) and not storage.is_folder(directory):
            raise UserError(f"{directory}: no such folder; {how_to_make(directory, command)}")
        if not storage.exists(path):
            if storage.is_folder(storage.join(directory, UNFINISHED_DIR)):
                raise UserError(f"{directory}: its preparation is not finished; run the same data_prep command again")
            if not storage.is_remote(directory) and holds_videos(directory):
                raise UserError(f"{directory}: videos, and no data set; {how_to_prepare(directory, command)}")
            raise UserError(f"{directory}: no {MANIFEST_FILE} in it, so no data set; {how_to_make(directory, command)}")
        try:
            return _from_json(storage.read_text(path))
        except (OSError, ValueError) as error:
            raise UserError(f"{path}: cannot be read: {error}; prepare the data set again") from error

    @classmethod
    def load(cls, folder: Path, command: str = "") -> Manifest:
        """Reads `manifest.json` and holds the sizes of the shards against it; checksums would take too long.

        Args are those of `read`.

        Raises:
          UserError: as `read` does, or a shard is missing or has another size.
        """
        manifest = cls.read(folder, command)
        faults = manifest.faults(folder)
        if faults:
            file, fault = next(iter(faults.items()))
            raise UserError(f"{storage.join(folder, file)}: {fault}; {WHAT_TO_DO}")
        return manifest


def describe_empty_classes(labels: Sequence[str], counts: Sequence[int]) -> str:
    """One line that names the classes without a video; empty if there are none.

    Args:
      labels: names of the classes.
      counts: number of videos of each.
    """
    names = [label for label, count in zip(labels, counts) if not count]
    if not names:
        return ""
    have = "has" if len(names) == 1 else "have"
    return f"{len(names)} of {len(labels)} classes {have} no video: {quoted(names, SHOWN_CLASSES)}"


WHAT_TO_DO = "copy the data set again, or prepare it again in an empty folder"


def _from_json(text: str) -> Manifest:
    """Raises ValueError, saying what is wrong."""
    loaded = json.loads(text)
    json.dumps(loaded, ensure_ascii=False).encode()  # halves of characters could not be printed later
    if _checked(loaded, {"format": int}, "")["format"] != FORMAT_VERSION:
        raise ValueError(f"its format is {loaded['format']}; this code reads {FORMAT_VERSION}")
    fields = _checked({**_LATER_FIELDS, **loaded}, _kinds(Manifest), "")
    for key, kind in (("labels", str), ("videos_per_class", int), ("sources", str)):
        if not all(type(value) is kind for value in fields[key]):
            raise ValueError(f"the field {key} has values of another kind")
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
        # A manifest from elsewhere must not make training read files outside its folder.
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
    """Types of the fields of a dataclass of this module, without those of their items."""
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
