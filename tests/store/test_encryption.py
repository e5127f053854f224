"""Secrets at rest: what a disk or a ZooKeeper gets to see, wrong keys, and `gantry rotate-keys`."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from scheduler import rotation
from scheduler.store import Key, Store, StoreError, open_store
from shared.security.atrest import KeyRing
from shared.zookeeper.session import Session

ONE, TWO = b"1" * 32, b"2" * 32
SECRET = Key("secrets", "default", "db")


def secret(text: str) -> dict[str, Any]:
    return {"metadata": {"name": "db", "namespace": "default"}, "data": {"password": text}}


@pytest.fixture(params=["sqlite", "zookeeper"])
def url(request: pytest.FixtureRequest, tmp_path: Path, path: str) -> str:
    if request.param == "sqlite":
        return f"sqlite:{tmp_path}/s.db"
    return f"zk://{request.getfixturevalue('one_server')[0].address}{path}"


@pytest.fixture
async def stored(url: str, tmp_path: Path, path: str, settings_to: Any) -> Callable[[], Any]:
    """All bytes that are kept."""

    async def below(session: Session, znode: str) -> bytes:
        found = (await session.get(znode)).data
        return found + b"".join(
            [await below(session, f"{znode}/{name}") for name in await session.children(znode)]
        )

    async def read() -> bytes:
        if url.startswith("sqlite"):
            return b"".join(file.read_bytes() for file in tmp_path.glob("s.db*"))
        session = Session(settings_to(url.removeprefix("zk://").partition("/")[0], path))
        session.start()
        try:
            return await below(session, path)
        finally:
            await session.stop()

    return read


@pytest.fixture
async def opened(url: str):
    made: list[Store] = []

    async def open_one(*keys: bytes) -> Store:
        for store in made:
            await store.close()
        store = open_store(url, ring=KeyRing(keys) if keys else None)
        await store.open()
        made.append(store)
        await store.lead_alone()
        return store

    yield open_one
    for store in made:
        await store.close()


async def test_secrets_and_nothing_else_are_encrypted(opened, stored, put):
    store = await opened(ONE)
    await store.commit((SECRET, lambda _: secret("hunter2-" * 40)))
    await put(store, "seen", text="plain")
    await store.compact()
    await store.close()
    kept = await stored()
    assert b"hunter2" not in kept
    assert b"plain" in kept
    again = await opened(TWO, ONE)
    assert again.get(SECRET).obj["data"] == {"password": "hunter2-" * 40}
    assert b"hunter2" in again.get(SECRET).raw


async def test_wrong_or_missing_keys_are_refused_at_start(opened):
    store = await opened(ONE)
    await store.commit((SECRET, lambda _: secret("x")))
    for keys in ((TWO,), ()):
        with pytest.raises(
            StoreError, match=r"Secrets are encrypted with key [0-9a-f]{16}, which is not among"
        ):
            await opened(*keys)
    assert (await opened(ONE)).get(SECRET) is not None


async def test_keys_are_checked_before_there_is_a_secret(opened):
    await opened(ONE)
    with pytest.raises(StoreError, match="which is not among those given; see --encryption-key-file"):
        await opened(TWO)


async def test_what_was_never_encrypted_can_still_be_read(opened, stored):
    store = await opened()
    await store.commit((SECRET, lambda _: secret("hunter2")))
    store = await opened(ONE)
    assert store.get(SECRET).obj["data"] == {"password": "hunter2"}
    await store.commit((SECRET, lambda _: secret("hunter3")))
    await store.compact()
    await store.close()
    kept = await stored()
    assert b"hunter2" not in kept
    assert b"hunter3" not in kept


def keys_in(file: Path, *keys: bytes) -> str:
    file.write_text("".join(f"{key.hex()}\n" for key in keys))
    file.chmod(0o600)
    return str(file)


async def test_rotation(opened, stored, url, tmp_path, capsys):
    store = await opened()
    await store.commit(
        (SECRET, lambda _: secret("hunter2")), (Key("secrets", "x", "y"), lambda _: secret("hunter3"))
    )
    await (await opened(ONE)).close()
    if url.startswith("sqlite"):  # ZooKeeper's znodes are compressed
        assert b"hunter2" in await stored()
    file = keys_in(tmp_path / "keys", TWO, ONE)
    arguments = ["--store", url, "--encryption-key-file", file]
    assert await asyncio.to_thread(rotation.main, arguments) == 0
    first = KeyRing([TWO]).first
    assert capsys.readouterr().out == (
        f"2 Secrets are encrypted with key {first}; no other key is needed any more\n"
    )
    kept = await stored()
    assert b"hunter" not in kept
    assert bytes.fromhex(KeyRing([ONE]).first) not in kept
    store = await opened(TWO)
    assert store.get(SECRET).obj["data"] == {"password": "hunter2"}
    watch = store.watch("secrets")
    await store.commit((SECRET, lambda old: old.obj))
    assert watch.take() == []  # what is equal is still not written


async def test_rotation_refuses_while_a_scheduler_runs(opened, url, path, tmp_path, capsys, settings_to):
    await opened(ONE)
    if url.startswith("zk"):
        session = Session(settings_to(url.removeprefix("zk://").partition("/")[0], path))
        session.start()
        await session.ensure(f"{path}/leader/candidate")
        await session.stop()
        message = "1 scheduler runs on it; stop them first"
    else:
        message = "in use by another scheduler; stop that one"
    arguments = ["--store", url, "--encryption-key-file", keys_in(tmp_path / "keys", TWO, ONE)]
    assert await asyncio.to_thread(rotation.main, arguments) == 4
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "code", "message"),
    [
        ((), 2, "--encryption-key-file: give the keys, the new one first"),
        (
            ("--encryption-key-file", "none"),
            2,
            "--encryption-key-file: encryption key file 'none': No such file",
        ),
        (("--encryption-key-file", "KEYS"), 4, "there is none; is it the one that the scheduler was given?"),
    ],
)
def test_rotation_that_cannot_be(tmp_path, capsys, monkeypatch, flags, code, message):
    monkeypatch.delenv("GANTRY_ENCRYPTION_KEY", raising=False)
    keys = keys_in(tmp_path / "keys", ONE)
    arguments = [
        "--store",
        f"sqlite:{tmp_path}/none.db",
        *(keys if flag == "KEYS" else flag for flag in flags),
    ]
    assert rotation.main(arguments) == code
    assert message in capsys.readouterr().err
