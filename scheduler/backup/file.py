"""The file of a backup: lines in gzip, so that `zcat` shows what is in it.

    {"gantryBackup":1,"created":…,"version":…,"cluster":…}             what it is
    ["pods","default","web",17]<TAB>{"metadata":…}                      an object: key, version, JSON as it is kept
    ["secrets","default","key",18,"base64"]<TAB>R3R5QQ…                 what is encrypted, or no JSON
    {"objects":2,"sha256":…}                                            of all lines above

Streamed both ways: neither writing nor reading it takes memory. Nothing is believed before the last line is checked.
"""

from __future__ import annotations

import base64
import binascii
import gzip
import hashlib
import os
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import orjson

from scheduler.backup.transfer import Row, Snapshot
from scheduler.store import Key

FORMAT: Final = 1
LEVEL: Final = 3
BASE64: Final = "base64"

Progress = Callable[[int, int], None]


class BackupError(Exception):
    """The file cannot be written, or is not a whole backup; one line."""


@dataclass(frozen=True)
class Summary:
    """What a file says of itself, once it is checked."""

    created: str
    gantry: str
    cluster: str
    version: int
    count: int


def write(path: Path, snapshot: Snapshot, *, created: str, gantry: str, progress: Progress) -> int:
    """Replaces `path`, once all is written and on the disk; nobody else may read it. Returns its size.

    Raises BackupError.
    """
    if path.exists() and not path.is_file():
        raise BackupError(f"{path}: not a file; name one, it is written whole or not at all")
    new = path.with_name(f"{path.name}.{os.getpid()}.new")
    head = {
        "gantryBackup": FORMAT,
        "created": created,
        "gantry": gantry,
        "cluster": snapshot.cluster,
        "version": snapshot.version,
    }
    try:
        with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            with gzip.GzipFile("", "wb", LEVEL, file, mtime=0) as packed:
                _write_lines(packed, head, snapshot, progress)
            file.flush()
            os.fsync(file.fileno())
            size = file.tell()
        new.replace(path)
        sync(path.parent)
    except OSError as error:
        raise BackupError(f"{path}: cannot be written: {error.strerror or error}") from error
    finally:
        new.unlink(missing_ok=True)
    return size


def _write_lines(file: gzip.GzipFile, head: dict[str, Any], snapshot: Snapshot, progress: Progress) -> None:
    digest = hashlib.sha256()
    count = 0

    def put(line: bytes) -> None:
        digest.update(line)
        file.write(line)

    put(orjson.dumps(head) + b"\n")
    for row in snapshot.rows:
        put(_line(row))
        count += 1
        progress(count, snapshot.count)
    file.write(orjson.dumps({"objects": count, "sha256": digest.hexdigest()}) + b"\n")


def _line(row: Row) -> bytes:
    fields: list[object] = [*row.key, row.version]
    blob = row.blob
    if not _is_json(blob):
        fields.append(BASE64)
        blob = base64.b64encode(blob)
    return orjson.dumps(fields) + b"\t" + blob + b"\n"


def _is_json(blob: bytes) -> bool:
    if b"\n" in blob or b"\r" in blob:
        return False
    try:
        orjson.loads(blob)
    except orjson.JSONDecodeError:
        return False
    return True


def check(path: Path, progress: Progress) -> Summary:
    """Reads all of it. Raises BackupError when it is damaged, cut off, no backup, or of a newer Gantry."""
    head: dict[str, Any] = {}
    end: object = None
    digest = hashlib.sha256()
    count = 0
    for line, at, size in _lines(path):
        if not head:
            head = _head(path, line)
        elif end is not None:
            raise BackupError(f"{path}: damaged: there is more after its end; take another backup")
        elif line.startswith(b"{"):
            end = _json(line)
            continue
        else:
            _row(path, line)
            count += 1
        digest.update(line)
        progress(at, size)
    if end is None:
        raise BackupError(f"{path}: its end is missing; take another backup")
    if end != {"objects": count, "sha256": digest.hexdigest()}:
        raise BackupError(f"{path}: damaged: its checksum is wrong; take another backup")
    created, gantry, cluster = (str(head.get(name, "")) for name in ("created", "gantry", "cluster"))
    return Summary(created, gantry, cluster, head["version"], count)


def rows(path: Path) -> Iterator[Row]:
    """The objects of a file that was checked. Raises BackupError."""
    for number, (line, _, _) in enumerate(_lines(path)):
        if number and not line.startswith(b"{"):
            yield _row(path, line)


def _lines(path: Path) -> Iterator[tuple[bytes, int, int]]:
    """Each line, and how far that is into a file of what size."""
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            with gzip.GzipFile(fileobj=file) as packed:
                for line in packed:
                    yield line, file.tell(), size
    except (EOFError, zlib.error) as error:
        raise BackupError(f"{path}: damaged or cut off ({error}); take another backup") from error
    except gzip.BadGzipFile as error:
        raise BackupError(f"{path}: not a backup of Gantry, or a damaged one ({error})") from error
    except OSError as error:
        raise BackupError(f"{path}: cannot be read: {error.strerror or error}") from error


def _head(path: Path, line: bytes) -> dict[str, Any]:
    head = _json(line)
    form = head.get("gantryBackup") if isinstance(head, dict) else None
    if not isinstance(form, int):
        raise BackupError(f"{path}: not a backup of Gantry")
    if form > FORMAT:
        raise BackupError(
            f"{path}: has format {form}, this version of gantry knows up to {FORMAT}; "
            "restore it with the gantry that wrote it, or a newer one"
        )
    if not isinstance(head.get("version"), int):
        raise BackupError(f"{path}: damaged: its first line does not name a version")
    return dict(head)


def _row(path: Path, line: bytes) -> Row:
    fields, tab, blob = line.rstrip(b"\n").partition(b"\t")
    match _json(fields) if tab else None:
        case [str(resource), str(namespace), str(name), int(version)]:
            return Row(Key(resource, namespace, name), version, blob)
        case [str(resource), str(namespace), str(name), int(version), "base64"]:
            try:
                return Row(Key(resource, namespace, name), version, base64.b64decode(blob, validate=True))
            except binascii.Error as error:
                raise BackupError(f"{path}: damaged: {resource} {name}: {error}") from error
    raise BackupError(f"{path}: damaged: a line of it is no object; take another backup")


def _json(text: bytes) -> Any:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return None


def sync(directory: Path) -> None:
    """What was made in a directory survives a power cut."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
