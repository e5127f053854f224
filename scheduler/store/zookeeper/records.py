"""The bytes in the znodes: a record of the log, and one object of the table. Pure: bytes in, values out.

    record   magic, format, flags, parts, first and last version, id, CRC | payload (zstd), or where parts > 0, nothing
    payload  for each change: kind, version, lengths | resource, namespace, name, blob
    object   magic, format, flags, version, CRC | blob (zstd)

A blob is what the vault made of the object's JSON. The CRC is over what follows it, as it is stored.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable
from typing import NamedTuple
from urllib.parse import quote, unquote

import zstandard

from scheduler.store.base import Key

FORMAT = 1

_RECORD = struct.Struct(">4sBBHQQ16sI")
_OBJECT = struct.Struct(">4sBBQI")
_CHANGE = struct.Struct(">BQHHHI")
_RECORD_MAGIC, _OBJECT_MAGIC = b"GtyL", b"GtyO"
_COMPRESSED = 1
_WORTH_IT = 256
"""Bytes from which on compressing is tried."""

_LIMIT = 1 << 30
"""Of what a payload may grow to; nothing we write comes near."""

PUT, DELETE = 1, 0

SAFE = "!$&'()*+,-.:;<=>@[]^_`{|}~ \"#?"
"""Printable ASCII that needs no escape in the name of a znode (all but / and %)."""

_compressor = zstandard.ZstdCompressor(level=1, write_content_size=True)
_decompressor = zstandard.ZstdDecompressor()


class Damaged(Exception):
    """These are not the bytes that were written; says why in a few words."""


class Change(NamedTuple):
    """`blob` is None when the object was deleted."""

    key: Key
    version: int
    blob: bytes | None


class Record(NamedTuple):
    """One commit batch. `parts`: how many znodes beside hold the payload; then `payload` is empty."""

    first: int
    last: int
    id: bytes
    parts: int
    crc: int
    compressed: bool
    payload: bytes


def pack(data: bytes) -> tuple[bytes, int]:
    """Compressed, if that helps; and the flag that says so."""
    if len(data) >= _WORTH_IT:
        packed = _compressor.compress(data)
        if len(packed) < len(data):
            return packed, _COMPRESSED
    return data, 0


def unpack(data: bytes) -> bytes:
    """Raises Damaged."""
    try:
        return _decompressor.decompress(data, max_output_size=_LIMIT)
    except zstandard.ZstdError as error:
        raise Damaged(f"cannot be decompressed: {error}") from error


def encode_changes(changes: Iterable[Change]) -> bytes:
    """One after another: kind, version, lengths, names, and the object but for deletions."""
    parts: list[bytes] = []
    for (resource, namespace, name), version, blob in changes:
        names = [resource.encode(), namespace.encode(), name.encode()]
        kind = DELETE if blob is None else PUT
        parts.append(_CHANGE.pack(kind, version, *map(len, names), len(blob or b"")))
        parts += names
        if blob is not None:
            parts.append(blob)
    return b"".join(parts)


def decode_changes(data: bytes) -> list[Change]:
    """Raises Damaged."""
    changes: list[Change] = []
    at = 0
    try:
        while at < len(data):
            kind, version, *lengths = _CHANGE.unpack_from(data, at)
            at += _CHANGE.size
            fields = []
            for length in lengths:
                fields.append(data[at : at + length])
                at += length
            resource, namespace, name = (one.decode() for one in fields[:3])
            if at > len(data) or kind not in (PUT, DELETE):
                raise Damaged("its changes are cut off")
            changes.append(
                Change(Key(resource, namespace, name), version, fields[3] if kind == PUT else None)
            )
    except (struct.error, UnicodeDecodeError) as error:
        raise Damaged(f"its changes cannot be read: {error}") from error
    return changes


def encode_record(
    first: int, last: int, batch: bytes, payload: bytes, part: int
) -> tuple[bytes, list[bytes]]:
    """The record's znode, and the parts beside it when the payload is more than `part` bytes."""
    packed, flags = pack(payload)
    parts = [packed[i : i + part] for i in range(0, len(packed), part)] if len(packed) > part else []
    head = _RECORD.pack(_RECORD_MAGIC, FORMAT, flags, len(parts), first, last, batch, zlib.crc32(packed))
    return (head if parts else head + packed), parts


def decode_record(data: bytes) -> Record:
    """The payload is checked by `payload_of`. Raises Damaged."""
    try:
        magic, form, flags, parts, first, last, batch, crc = _RECORD.unpack_from(data)
    except struct.error as error:
        raise Damaged("it is too short") from error
    if magic != _RECORD_MAGIC or form != FORMAT:
        raise Damaged("it is not a record of this layout")
    return Record(first, last, batch, parts, crc, bool(flags & _COMPRESSED), data[_RECORD.size :])


def payload_of(record: Record, parts: Iterable[bytes]) -> list[Change]:
    """The changes, from the record itself or from its parts. Raises Damaged."""
    packed = b"".join(parts) if record.parts else record.payload
    if zlib.crc32(packed) != record.crc:
        raise Damaged("its checksum is wrong")
    return decode_changes(unpack(packed) if record.compressed else packed)


def encode_object(version: int, blob: bytes) -> bytes:
    packed, flags = pack(blob)
    return _OBJECT.pack(_OBJECT_MAGIC, FORMAT, flags, version, zlib.crc32(packed)) + packed


def decode_object(data: bytes) -> tuple[int, bytes]:
    """Version and blob. Raises Damaged."""
    try:
        magic, form, flags, version, crc = _OBJECT.unpack_from(data)
    except struct.error as error:
        raise Damaged("it is too short") from error
    if magic != _OBJECT_MAGIC or form != FORMAT:
        raise Damaged("it is not an object of this layout")
    packed = data[_OBJECT.size :]
    if zlib.crc32(packed) != crc:
        raise Damaged("its checksum is wrong")
    return version, unpack(packed) if flags & _COMPRESSED else packed


def object_name(key: Key) -> str:
    """Of the znode below that of the resource. No namespace has a colon in it."""
    name = f"{key.namespace}:{key.name}"
    return (
        name
        if name.isascii() and name.isprintable() and not {"/", "%"} & set(name)
        else quote(name, safe=SAFE)
    )


def object_key(resource: str, name: str) -> Key:
    namespace, _, rest = (unquote(name) if "%" in name else name).partition(":")
    return Key(resource, namespace, rest)
