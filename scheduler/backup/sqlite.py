"""SQLite's side: a snapshot of a file that a scheduler has open, and a new file that appears whole or not at all.

The scheduler keeps its file locked, so no second connection can read it. What it writes it only ever appends to the
log; at times it copies pages from the log into the file, and later begins the log anew. So a copy of the file and then
of the log is what a crash at that moment would have left, as long as the log was not begun anew in between: its
header tells, because its salts change (https://www.sqlite.org/fileformat2.html#walformat). SQLite then does with the
copy what it does after a crash.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from itertools import islice
from pathlib import Path
from typing import Final

from scheduler.backup.file import sync
from scheduler.backup.transfer import Row, Snapshot
from scheduler.store import Key, StoreError
from scheduler.store.sqlite import APPLICATION_ID, LAYOUT, SCHEMA

ATTEMPTS: Final = 100
CHUNK: Final = 500
_HEADER_BYTES: Final = 32


@contextmanager
def snapshot(path: Path) -> Iterator[Snapshot]:
    """Copies the store beside itself first, so that much disk is needed for a moment. Raises StoreError."""
    if not path.exists():
        raise StoreError(f"store {path}: there is none; is it the path that the scheduler was given?")
    try:
        with tempfile.TemporaryDirectory(prefix=f".{path.name}.backup-", dir=path.parent) as directory:
            copy = Path(directory) / "store"
            _copy(path, copy)
            with closing(sqlite3.connect(copy, isolation_level=None)) as db:
                _check(path, db)
                count, version = db.execute(
                    "SELECT (SELECT count(*) FROM objects), (SELECT version FROM state)"
                ).fetchone()
                found = db.execute("SELECT resource, namespace, name, version, raw FROM objects")
                yield Snapshot(
                    (Row(Key(r, ns, n), v, bytes(raw)) for r, ns, n, v, raw in found), count, version
                )
    except (sqlite3.Error, OSError) as error:
        raise StoreError(f"store {path}: cannot be copied: {_why(error)}") from error


def _copy(path: Path, copy: Path) -> None:
    log, log_copy = Path(f"{path}-wal"), Path(f"{copy}-wal")
    for _ in range(ATTEMPTS):
        before = _generation(log)
        shutil.copyfile(path, copy)
        log_copy.unlink(missing_ok=True)
        try:
            shutil.copyfile(log, log_copy)
        except FileNotFoundError:
            pass
        if _generation(log) == before:
            return
    raise StoreError(f"store {path}: is written too fast to be copied; try again")


def _generation(log: Path) -> tuple[int, bytes] | None:
    """Which log this is; None when there is none, or nothing in it."""
    try:
        with log.open("rb") as file:
            header = file.read(_HEADER_BYTES)
            return (os.fstat(file.fileno()).st_ino, header) if header else None
    except FileNotFoundError:
        return None


def _check(path: Path, db: sqlite3.Connection) -> None:
    application = db.execute("PRAGMA application_id").fetchone()[0]
    layout = db.execute("PRAGMA user_version").fetchone()[0]
    if application != APPLICATION_ID:
        raise StoreError(f"store {path}: not a store of Gantry")
    if layout != LAYOUT:
        raise StoreError(
            f"store {path}: has layout {layout}, this gantry copies {LAYOUT}; use the gantry that wrote it"
        )
    problem = db.execute("PRAGMA quick_check(1)").fetchone()[0]
    if problem != "ok":
        raise StoreError(f"store {path}: the file is damaged ({problem})")


def fill(path: Path, rows: Iterable[Row], version: int) -> None:
    """Makes the store. Raises StoreError when there is one."""
    if path.exists():
        raise StoreError(f"store {path}: exists; a backup is restored into an empty store only")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{path.name}.restore-", dir=path.parent) as directory:
            new = Path(directory) / "store"
            os.close(os.open(new, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
            with closing(sqlite3.connect(new, isolation_level=None)) as db:
                db.execute("PRAGMA synchronous = FULL")
                db.executescript(f"BEGIN IMMEDIATE;{SCHEMA}")
                remaining = iter(rows)
                while chunk := list(islice(remaining, CHUNK)):
                    values = [(*row.key, row.version, row.blob) for row in chunk]
                    db.executemany("INSERT INTO objects VALUES (?,?,?,?,?)", values)
                db.execute("UPDATE state SET version = ?", (version,))
                db.execute("COMMIT")
            os.link(new, path)  # unlike a rename, it replaces nothing
            sync(path.parent)
    except FileExistsError as error:
        raise StoreError(f"store {path}: somebody made it in the meantime; nothing was restored") from error
    except (sqlite3.Error, OSError) as error:
        raise StoreError(f"store {path}: cannot be made: {_why(error)}") from error


def _why(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)
