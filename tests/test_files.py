"""Files are there whole or not at all."""

import errno
import os

import pytest

from timelike.errors import ConfigError
from timelike.files import replacing


def test_the_file_appears_at_the_end(tmp_path):
    target = tmp_path / "a.txt"
    with replacing(target) as part:
        assert part.parent == tmp_path
        part.write_text("new")
        assert not target.exists()
    assert target.read_text() == "new"
    assert os.listdir(tmp_path) == ["a.txt"]


@pytest.mark.parametrize("error", [ValueError("ours"), KeyboardInterrupt(), OSError(errno.EIO, "broken")])
def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path, error):
    target = tmp_path / "a.txt"
    target.write_text("old")
    with pytest.raises(type(error)), replacing(target) as part:  # noqa: PT012
        part.write_text("half")
        raise error
    assert target.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_an_error_before_anything_was_written(tmp_path):
    with pytest.raises(ValueError, match="early"), replacing(tmp_path / "a.txt"):
        raise ValueError("early")
    assert os.listdir(tmp_path) == []


def test_a_full_disk_is_the_users_to_mend(tmp_path):
    with (
        pytest.raises(ConfigError, match=r"cannot write .*a\.txt: No space") as caught,
        replacing(tmp_path / "a.txt"),
    ):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert "\n" not in str(caught.value)


def test_no_such_folder_is_said_before_the_work(tmp_path):
    with (
        pytest.raises(ConfigError, match=r"none.a\.txt: No such file or directory"),
        replacing(tmp_path / "none/a.txt"),
    ):
        pytest.fail("the block ran")


def test_a_directory_in_the_way(tmp_path):
    with pytest.raises(ConfigError, match="it is a directory"), replacing(tmp_path):
        pytest.fail("the block ran")
