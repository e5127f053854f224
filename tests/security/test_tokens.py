"""Bearer tokens, and the files secrets are read from."""

import os
from pathlib import Path

import pytest

from shared.security.secretfile import SecretError, read_line
from shared.security.tokens import BearerTokenFile


async def test_a_file_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text("one\n")
    token = BearerTokenFile(path)
    assert await token.authorization() == "Bearer one"
    assert token.renew_in() == 60
    assert not await token.renew("Bearer one")
    path.write_text("two\n")
    assert await token.renew("Bearer one")
    assert await token.authorization() == "Bearer two"
    path.unlink()
    with pytest.raises(OSError, match=r"token file '.*': No such file"):
        await token.authorization()


@pytest.mark.parametrize("data", [b"", b"\n", b"hunter2\nhunter3\n", b"hunter2\x00", b"\xff\xfe"])
def test_a_file_that_is_no_secret(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "secret"
    path.write_bytes(data)
    with pytest.raises(SecretError) as info:
        read_line(path, "secret file")
    assert str(info.value).startswith(f"secret file '{path}': ")
    assert "hunter" not in str(info.value)
    assert isinstance(info.value, ValueError)


def test_a_secret_everybody_can_read_is_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "secret"
    path.write_text("hunter 2\r\n")
    os.chmod(path, 0o600)
    assert read_line(path, "secret file") == "hunter 2"
    assert not caplog.text
    os.chmod(path, 0o644)
    read_line(path, "secret file")
    assert "can be read by everybody" in caplog.text
    assert "hunter" not in caplog.text
