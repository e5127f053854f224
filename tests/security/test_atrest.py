"""Keys, and what is sealed with them."""

import base64
from pathlib import Path

import pytest

from shared.security.atrest import KeyRing, Tampered, UnknownKey, is_sealed, key_of, ring_from
from shared.security.secretfile import SecretError

ONE, TWO = b"1" * 32, b"2" * 32


def test_the_first_key_encrypts_and_all_decrypt() -> None:
    old, new = KeyRing([ONE]), KeyRing([TWO, ONE])
    before, after = old.seal(b"secret", b"here"), new.seal(b"secret", b"here")
    assert new.open(before, b"here") == new.open(after, b"here") == b"secret"
    assert (key_of(before), key_of(after)) == (old.first, new.first)
    with pytest.raises(UnknownKey, match=f"encrypted with key {new.first}, which is not given"):
        old.open(after, b"here")


def test_nothing_of_it_can_be_read_and_no_two_are_equal() -> None:
    ring = KeyRing([ONE])
    sealed = [ring.seal(b"secret" * 10, b"here") for _ in range(50)]
    assert len(set(sealed)) == 50
    assert not any(b"secret" in one for one in sealed)
    assert all(map(is_sealed, sealed))
    assert not is_sealed(b'{"kind":"Secret"}')


def test_every_bit_counts() -> None:
    ring = KeyRing([ONE])
    sealed = ring.seal(b"x", b"here")
    for at in range(len(sealed)):
        changed = bytearray(sealed)
        changed[at] ^= 1
        with pytest.raises((Tampered, UnknownKey)):
            ring.open(bytes(changed), b"here")
    for length in range(len(sealed)):
        with pytest.raises(Tampered):
            ring.open(sealed[:length], b"here")


def test_it_is_bound_to_its_place() -> None:
    ring = KeyRing([ONE])
    with pytest.raises(Tampered, match="moved here from another object"):
        ring.open(ring.seal(b"x", b"here"), b"there")


def test_keys_from_a_file_or_the_environment(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text(f"# newest first\n{base64.b64encode(TWO).decode()}\n\n{ONE.hex()}\n")
    file.chmod(0o600)
    ring = ring_from(file, {})
    assert ring is not None
    assert ring.first == KeyRing([TWO]).first
    assert ring.open(KeyRing([ONE]).seal(b"x", b""), b"") == b"x"
    from_environment = ring_from(None, {"GANTRY_ENCRYPTION_KEY": f"{ONE.hex()},{TWO.hex()}"})
    assert from_environment is not None
    assert from_environment.first == KeyRing([ONE]).first
    assert ring_from(None, {}) is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "there is no key in it"),
        ("# only words\n", "there is no key in it"),
        ("hunter2\n", r"line 1: expecting a key of 32 bytes in base64 or hex .make one: head -c 32"),
        (f"{ONE.hex()}\n{ONE.hex()[:-2]}\n", "line 2: expecting a key"),
    ],
)
def test_files_that_hold_no_keys(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "keys"
    file.write_text(text)
    file.chmod(0o600)
    with pytest.raises(SecretError, match=message) as info:
        ring_from(file, {})
    assert "hunter2" not in str(info.value)
    with pytest.raises(SecretError, match="No such file"):
        ring_from(tmp_path / "none", {})
