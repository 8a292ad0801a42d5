"""Files that appear under their names only when complete."""

import errno
import os
import tempfile

import pytest

from tganv2_tf.errors import UserError
from tganv2_tf.storage.files import atomic_file, check_destination, write_atomically


def test_the_old_file_stays_until_the_new_one_is_whole(tmp_path):
    path = tmp_path / "file.json"
    path.write_text("old")
    inode = path.stat().st_ino
    with atomic_file(path) as temporary:
        temporary.write_text("half")
        assert path.read_text() == "old"
        assert (temporary.parent, temporary.suffix) == (tmp_path, ".json")
        temporary.write_text("new")
    assert path.read_text() == "new"
    assert path.stat().st_ino != inode, "put in its place, not written over"
    assert list(tmp_path.iterdir()) == [path]


def test_what_fails_leaves_nothing(tmp_path):
    path = tmp_path / "file.png"
    path.write_bytes(b"old")

    def interrupted():
        with atomic_file(path) as temporary:
            temporary.write_bytes(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == [("file.png", b"old")]


def test_colleagues_may_read_what_the_umask_lets_them(tmp_path):
    before = os.umask(0o027)
    try:
        write_atomically(tmp_path / "new" / "file.txt", "Archery ☃\n")
    finally:
        os.umask(before)
    path = tmp_path / "new" / "file.txt"
    assert path.stat().st_mode & 0o777 == 0o640
    assert path.read_bytes() == "Archery ☃\n".encode()


@pytest.mark.parametrize(
    ("name", "is_folder", "reason"),
    [
        ("new/deeper/file.png", False, ""),
        ("file.png", False, ""),  # an existing file, to be replaced
        ("folder", True, ""),
        ("new", True, ""),
        ("folder", False, "it is a folder; name a file"),
        ("file.png/x.png", False, "cannot be written: Not a directory; choose another path"),
        ("file.png/x/y", True, "cannot be written: Not a directory; choose another path"),
    ],
)
def test_a_destination_is_looked_at_before_the_work(tmp_path, name, is_folder, reason):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file.png").write_bytes(b"old")
    before = sorted(tmp_path.rglob("*"))
    if reason:
        with pytest.raises(UserError, match=f"^--output=x: {reason}$"):
            check_destination(tmp_path / name, "--output=x", is_folder=is_folder)
    else:
        check_destination(tmp_path / name, "--output=x", is_folder=is_folder)
    assert sorted(tmp_path.rglob("*")) == before
    assert (tmp_path / "file.png").read_bytes() == b"old"


def test_a_disk_that_is_read_only_is_told(tmp_path, monkeypatch):
    def read_only(dir):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(tempfile, "TemporaryFile", read_only)
    with pytest.raises(UserError, match=r"^--output=x: cannot be written: Read-only file system; buy a disk$"):
        check_destination(tmp_path / "x", "--output=x", "buy a disk")
    with pytest.raises(UserError, match=r"^--output=x: cannot be written: http is read-only"):
        check_destination("http://localhost/x", "--output=x")
