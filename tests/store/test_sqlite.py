"""What only the SQLite store has: its file, its lock, its failures, and what a kill -9 leaves."""

import asyncio
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from scheduler.store import Key, StoreError, StoreFailed, open_store
from scheduler.store.sqlite import LAYOUT, SqliteStore
from scheduler.store.zookeeper import ZooKeeperStore

WRITER = Path(__file__).with_name("writer.py")


async def test_kill_nine_loses_no_acknowledged_commit(tmp_path):
    path = tmp_path / "s.db"
    for _ in range(2):  # the second round starts from what the first left
        acknowledged = kill_while_writing(path)
        store = SqliteStore(path)
        await store.open()
        try:
            for (namespace, name), (i, version) in acknowledged.items():
                entry = store.get(Key("pods", namespace, name))
                assert entry is not None
                assert entry.obj["spec"]["i"] >= i
                assert store.version >= entry.version >= version
            # A commit of two is there as a whole or not at all.
            pods, twins = (store.list(resource)[0] for resource in ("pods", "twins"))
            assert [(e.key[1:], e.obj["spec"]) for e in pods] == [(e.key[1:], e.obj["spec"]) for e in twins]
        finally:
            await store.close()


def kill_while_writing(path: Path) -> dict[tuple[str, str], tuple[int, int]]:
    """Kills a writer in the middle; returns what it had said is written."""
    process = subprocess.Popen([sys.executable, WRITER, f"sqlite:{path}"], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(200)]
        process.send_signal(signal.SIGKILL)
        lines += process.stdout.readlines()
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
    complete = [line.split() for line in lines if line.endswith("\n")]
    assert len(complete) >= 200
    return {(f"ns{n}", name): (int(i), int(version)) for n, name, i, version in complete}


async def open_and_close(path: Path) -> None:
    store = SqliteStore(path)
    await store.open()
    await store.close()


async def test_second_scheduler_is_refused_even_from_another_process(tmp_path):
    path = tmp_path / "s.db"
    store = SqliteStore(path)
    await store.open()
    try:
        with pytest.raises(StoreError, match="in use by another scheduler; stop that one or"):
            await open_and_close(path)
        code = (
            "import asyncio, sys; from pathlib import Path\n"
            "from scheduler.store.sqlite import SqliteStore\n"
            "asyncio.run(SqliteStore(Path(sys.argv[1])).open())"
        )
        other = await asyncio.create_subprocess_exec(
            sys.executable, "-c", code, str(path), stderr=asyncio.subprocess.PIPE
        )
        _, stderr = await other.communicate()
        assert b"in use by another scheduler" in stderr.splitlines()[-1]
    finally:
        await store.close()
    await open_and_close(path)


async def test_newer_layout_is_refused(tmp_path):
    path = tmp_path / "s.db"
    await open_and_close(path)
    db = sqlite3.connect(path)
    db.execute(f"PRAGMA user_version = {LAYOUT + 1}")
    db.close()
    with pytest.raises(
        StoreError, match=f"has layout {LAYOUT + 1}, this version of gantry knows up to {LAYOUT}"
    ):
        await open_and_close(path)


async def test_file_of_another_program_is_refused_and_left_alone(tmp_path):
    path = tmp_path / "other.db"
    db = sqlite3.connect(path)
    db.execute("CREATE TABLE bookmarks (url TEXT)")
    db.close()
    with pytest.raises(StoreError, match="SQLite file of another program"):
        await open_and_close(path)
    db = sqlite3.connect(path)
    assert db.execute("SELECT name FROM sqlite_schema").fetchall() == [("bookmarks",)]
    db.close()


async def test_text_file_is_damaged(tmp_path):
    path = tmp_path / "s.db"
    path.write_bytes(b"this was never a database" * 400)
    with pytest.raises(StoreError, match=r"the file is damaged .* restore a copy"):
        await open_and_close(path)


async def test_overwritten_page_is_damaged(tmp_path):
    path = tmp_path / "s.db"
    store = SqliteStore(path)
    await store.open()
    big = {"metadata": {}, "data": "x" * 3000}
    await store.commit(*((Key("pods", "d", f"p{i}"), lambda _: big) for i in range(20)))
    await store.close()
    with path.open("r+b") as file:
        file.seek(4096 * 3)
        file.write(b"\xff" * 4096 * 4)
    with pytest.raises(StoreError, match="the file is damaged"):
        await open_and_close(path)


async def test_broken_object_is_quarantined_named_and_repaired(tmp_path, put, caplog):
    path = tmp_path / "s.db"
    await open_and_close(path)
    db = sqlite3.connect(path)
    for name in ("a", "b"):
        db.execute("INSERT INTO objects VALUES ('pods', 'default', ?, 7, '{\"metadata\":')", (name,))
    db.commit()
    db.close()
    a, b = (Key("pods", "default", name) for name in ("a", "b"))
    store = SqliteStore(path)
    await store.open()
    try:
        assert store.quarantined.keys() == {a, b}
        assert "pods/default/a is damaged and left out: unexpected end" in caplog.text
        assert store.list("pods")[0] == []
        await put(store, "a")
        await put(store, "other")
        assert await store.commit((b, lambda old: None)) == [None]
        assert store.quarantined == {}
    finally:
        await store.close()
    again = SqliteStore(path)
    await again.open()
    try:
        assert [entry.key.name for entry in again.list("pods")[0]] == ["a", "other"]
        assert again.quarantined == {}
    finally:
        await again.close()


async def test_directory_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match=r"s\.db: cannot be opened: .*[Nn]ot a directory|File exists"):
        await open_and_close(tmp_path / "file" / "s.db")


async def test_file_is_for_its_owner_only(tmp_path):
    await open_and_close(tmp_path / "s.db")
    assert (tmp_path / "s.db").stat().st_mode & 0o777 == 0o600


async def test_full_disk_fails_writes_for_good_but_not_reads(tmp_path, put, caplog):
    store = SqliteStore(tmp_path / "s.db")
    await store.open()
    try:
        await put(store, "kept")
        await limit_pages(store)
        with pytest.raises(
            StoreFailed, match="cannot write: database or disk is full; no more changes are taken"
        ):
            await put(store, "big", text="x" * 900_000)
        assert isinstance(store.failure, StoreFailed)
        assert "cannot write: database or disk is full" in caplog.text
        with pytest.raises(StoreFailed):
            await put(store, "small")
        assert [entry.key.name for entry in store.list("pods")[0]] == ["kept"]
    finally:
        await store.close()
    again = SqliteStore(tmp_path / "s.db")
    await again.open()
    try:
        assert [entry.key.name for entry in again.list("pods")[0]] == ["kept"]
        await put(again, "works")
    finally:
        await again.close()


async def limit_pages(store: SqliteStore) -> None:
    """SQLite then says "disk is full" as it does on a full disk."""
    future = store._thread.submit(lambda: store._file._db.execute("PRAGMA max_page_count = 20").fetchone())
    assert future.result(60) == (20,)


async def test_log_is_folded_into_the_file(tmp_path, put, monkeypatch):
    monkeypatch.setattr("scheduler.store.sqlite.CHECKPOINT_MUST", 50_000)
    store = SqliteStore(tmp_path / "s.db")
    await store.open()
    try:
        for i in range(40):
            await put(store, f"p{i}", text="x" * 10_000)
        assert (tmp_path / "s.db").stat().st_size > 200_000
    finally:
        await store.close()
    assert not (tmp_path / "s.db-wal").exists()


async def test_what_a_killed_writer_left_in_the_log_is_folded_at_the_start(tmp_path):
    """Or restarts on a full disk would never get the room back that the log takes."""
    kill_while_writing(tmp_path / "s.db")
    log = tmp_path / "s.db-wal"
    assert log.stat().st_size > 100_000
    store = SqliteStore(tmp_path / "s.db")
    await store.open()
    try:
        assert log.stat().st_size == 0
    finally:
        await store.close()


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("zk://a:2181", r"not a ZooKeeper URL: 'zk://a:2181' .expecting zk://host:port,host:port/path"),
        ("etcd://x", "unknown kind 'etcd'"),
        ("gantry.db", "not a store URL"),
        ("sqlite:", "not a store URL"),
    ],
)
def test_urls_that_name_no_store(url, message):
    with pytest.raises(StoreError, match=message):
        open_store(url)


def test_zookeeper_url():
    store = open_store("zk://me:hunter2@a,b:99/gantry")
    assert isinstance(store, ZooKeeperStore)
    assert str(store.location) == "zk://a:2181,b:99/gantry"


def test_sqlite_url():
    store = open_store("sqlite:dir/s.db")
    assert isinstance(store, SqliteStore)
    assert store.path == Path("dir/s.db")
