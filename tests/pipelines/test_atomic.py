"""Atomic files: the old or the complete new one, with ordinary permissions, and no trace of a failed write."""

import pytest

from pipelines.storage.atomic import atomic_file
from pipelines.storage.folder import Folder


def names(folder):
    return [file.name for file in folder.iterdir()]


@pytest.mark.parametrize(("mode", "data", "stored"), [("wb", b"\x00", b"\x00"), ("w", "ü", b"\xc3\xbc")])
def test_the_file_is_replaced_when_the_block_ends(tmp_path, mode, data, stored):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with atomic_file(path, mode) as file:
        file.write(data)
        file.flush()
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == stored
    assert names(tmp_path) == ["file"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_block_that_raises_changes_nothing(tmp_path, error):
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def write_half():
        with atomic_file(path) as file:
            file.write(b"half")
            raise error

    with pytest.raises(error):
        write_half()
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["file"]


def test_two_writers_of_one_file_do_not_disturb_each_other(tmp_path):
    path = tmp_path / "file"
    with atomic_file(path) as first, atomic_file(path) as second:
        first.write(b"1" * 10)
        second.write(b"2" * 5)
    assert path.read_bytes() == b"1" * 10
    assert names(tmp_path) == ["file"]


def test_others_may_read_it(tmp_path):
    """It has the permissions that the process gives to any new file."""
    (tmp_path / "plain").write_bytes(b"")
    Folder(str(tmp_path)).write("below/file", b"x")
    assert (tmp_path / "below/file").stat().st_mode == (tmp_path / "plain").stat().st_mode
