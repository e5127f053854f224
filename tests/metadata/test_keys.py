"""The file of keys: made once, read again when it changes, refused when others can read it."""

import base64
import os
import secrets
import stat
import threading
from pathlib import Path
from uuid import uuid4

import pytest

from executor.metadata.keys import KeyFileError, Keys


def line(size: int = 64) -> str:
    return base64.b64encode(secrets.token_bytes(size)).decode()


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    path.chmod(0o600)
    return path


def test_made_once_for_root_alone(tmp_path: Path) -> None:
    path = tmp_path / "metadata" / "key"
    first = Keys(path, make=True)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    pod = uuid4()
    signature = base64.b64decode(first.sign(pod, b"x"))
    assert len(signature) == 64
    again = Keys(path, make=True)
    assert again.verify(pod, b"x", signature)
    assert not again.verify(uuid4(), b"x", signature)
    assert not again.verify(pod, b"y", signature)
    assert not again.verify(pod, b"x", signature[:-1])
    assert list(path.parent.iterdir()) == [path]


def test_two_that_make_it_at_once_have_the_same(tmp_path: Path) -> None:
    path, pod = tmp_path / "key", uuid4()
    start, made = threading.Barrier(8), []

    def work() -> None:
        start.wait()
        made.append(Keys(path, make=True).sign(pod, b"x"))

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 8
    assert len(set(made)) == 1


def test_rotation(tmp_path: Path) -> None:
    old, new = line(), line()
    path = write(tmp_path / "key", f"{old}\n")
    keys, pod = Keys(path), uuid4()
    before = base64.b64decode(keys.sign(pod, b"x"))
    write(path, f"# since today\n{new}\n\n{old}\n")
    after = base64.b64decode(keys.sign(pod, b"x"))
    assert after != before
    assert keys.verify(pod, b"x", before)
    assert keys.verify(pod, b"x", after)
    write(path, f"{new}\n")
    assert not keys.verify(pod, b"x", before)
    assert keys.verify(pod, b"x", after)


def test_a_file_that_breaks_later_changes_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write(tmp_path / "key", line())
    keys, pod = Keys(path), uuid4()
    before = keys.sign(pod, b"x")
    write(path, "nonsense")
    assert keys.sign(pod, b"x") == before
    path.unlink()
    assert keys.sign(pod, b"x") == before
    assert len(caplog.records) == 2
    write(path, line())
    assert keys.sign(pod, b"x") != before


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "it has no key"),
        ("# only words\n", "it has no key"),
        ("ä\n", "line 1: not the base64"),
        (f"{line()}\n{line(31)}\n", "line 2: not the base64 of 32 bytes"),
        ("x" * 70_000, "not the base64"),
    ],
    ids=["empty", "a comment", "no ascii", "one too short", "huge"],
)
def test_what_is_no_key_is_refused(tmp_path: Path, text: str, why: str) -> None:
    path = write(tmp_path / "key", text)
    with pytest.raises(KeyFileError, match=why) as error:
        Keys(path)
    assert str(path) in str(error.value)


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604])
def test_a_file_that_others_can_read_is_refused(tmp_path: Path, mode: int) -> None:
    path = write(tmp_path / "key", line())
    path.chmod(mode)
    with pytest.raises(KeyFileError, match="chmod 600"):
        Keys(path)


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(KeyFileError, match="No such file"):
        Keys(tmp_path / "key")
    (tmp_path / "file").touch()
    with pytest.raises(KeyFileError, match="cannot make the key"):
        Keys(tmp_path / "file" / "key", make=True)
    os.mkdir(tmp_path / "directory", 0o700)
    with pytest.raises(KeyFileError, match="directory"):
        Keys(tmp_path / "directory")
