"""Files that appear under their names only when they are whole."""

import os

import pytest

from tganv2_tf.files import whole_file, write_atomically


def test_the_old_file_stays_until_the_new_one_is_whole(tmp_path):
    path = tmp_path / "file.json"
    path.write_text("old")
    inode = path.stat().st_ino
    with whole_file(path) as temporary:
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
        with whole_file(path) as temporary:
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
