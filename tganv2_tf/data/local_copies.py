"""Local copies of shards in buckets."""

from __future__ import annotations

import collections
import os
import tempfile
import threading
import uuid

from tganv2_tf import storage

SHARDS_READ_AT_ONCE = 8


class LocalShardCache:
    """Cache of remote shards on the local disk.

    Without copies, a transient server error would look like a damaged shard, and each epoch would download shards
    again. Least recently used copies are deleted; open files remain readable.
    """

    def __init__(self, number: int) -> None:
        self._number, self._lock = number, threading.Lock()
        self._paths: collections.OrderedDict[str, str] = collections.OrderedDict()
        self._folder: tempfile.TemporaryDirectory[str] | None = None

    def of(self, address: str) -> str:
        """Returns the path of a local copy. Raises OSError if the shard cannot be copied."""
        with self._lock:
            self._folder = self._folder or tempfile.TemporaryDirectory(prefix="tganv2_tf-shards-")
            if address in self._paths:
                self._paths.move_to_end(address)
                return self._paths[address]
        path = os.path.join(self._folder.name, uuid.uuid4().hex)  # another thread may be copying it too
        storage.copy(address, path)
        with self._lock:
            self._paths[address] = path
            if len(self._paths) > self._number:
                os.remove(self._paths.popitem(last=False)[1])
        return path


SHARD_CACHE = LocalShardCache(4 * SHARDS_READ_AT_ONCE)
