import errno
import hashlib
from pathlib import Path

import pytest

from brainsegfounder.errors import OutputExistsError, RunError
from brainsegfounder.files import check_new_folder, sha256, write_bytes, write_text


def test_a_file_is_written_whole_and_its_folders_are_made(tmp_path):
    write_bytes(tmp_path / "a" / "b.bin", b"\x00\xff")
    assert (tmp_path / "a" / "b.bin").read_bytes() == b"\x00\xff"
    assert [p.name for p in (tmp_path / "a").iterdir()] == ["b.bin"]


def test_text_is_utf_8_and_lines_end_as_given(tmp_path):
    write_text(tmp_path / "a.txt", "Hirn 脑\n")
    assert (tmp_path / "a.txt").read_bytes() == "Hirn 脑\n".encode()


@pytest.mark.parametrize("step", ["write_bytes", "replace"])
def test_a_failed_write_leaves_the_old_file_and_nothing_beside_it(tmp_path, monkeypatch, step):
    target = tmp_path / "a.txt"
    target.write_text("old")
    real = Path.write_bytes

    def fails(path, *arguments):
        if step == "write_bytes":
            real(path, b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, step, fails)
    with pytest.raises(
        RunError, match=r"a\.txt: cannot be written: No space left on device\. Free"
    ):
        write_bytes(target, b"new")
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_a_folder_that_is_a_file_is_reported(tmp_path):
    (tmp_path / "a").write_text("x")
    with pytest.raises(RunError, match="cannot be written"):
        write_bytes(tmp_path / "a" / "b" / "c.txt", b"")
    assert (tmp_path / "a").read_text() == "x"


def test_sha256_is_that_of_the_bytes(tmp_path):
    (tmp_path / "a").write_bytes(b"brain")
    assert sha256(tmp_path / "a") == hashlib.sha256(b"brain").hexdigest()


def test_a_new_or_empty_folder_may_be_written_to(tmp_path):
    check_new_folder(tmp_path / "new")
    check_new_folder(tmp_path)


def test_a_folder_with_content_is_refused_with_the_remedy(tmp_path):
    (tmp_path / "a").touch()
    with pytest.raises(OutputExistsError, match=r"exists already; expected a new folder\. Add X\."):
        check_new_folder(tmp_path, "Add X.")
    with pytest.raises(OutputExistsError):
        check_new_folder(tmp_path / "a")
