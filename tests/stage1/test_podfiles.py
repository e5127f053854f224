"""Files of the pod directory: each is there as a whole, or as it was."""

import os
from pathlib import Path

import pytest

from executor.stage1 import podfiles


def test_a_file_is_replaced_as_a_whole(tmp_path: Path) -> None:
    path = str(tmp_path / "file")
    podfiles.write(path, "a longer text\n")
    reader = os.open(path, os.O_RDONLY)
    try:
        podfiles.write(path, "short\n")
        assert os.read(reader, 100) == b"a longer text\n"
    finally:
        os.close(reader)
    assert podfiles.read(path) == b"short\n"
    assert os.listdir(tmp_path) == ["file"]


def test_bytes_that_are_no_text_come_back(tmp_path: Path) -> None:
    path = str(tmp_path / "file")
    podfiles.write(path, "x\udcff" * 50_000)
    assert podfiles.read(path) == b"x\xff" * 50_000


def test_what_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        podfiles.write(str(tmp_path / "missing" / "file"), "x")
    with pytest.raises(FileNotFoundError):
        podfiles.read(str(tmp_path / "file"))
