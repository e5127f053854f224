"""The swagger document in protobuf, which kubectl before 1.27 and other older clients of client-go insist on.

The messages and field numbers are those of gnostic's `openapi.v2` (OpenAPIv2.proto); an extension (`x-…`) is an Any
that holds YAML, of which JSON is a part. Written are the parts that clients read: definitions, paths, operations and
their parameters. Responses are left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any, Final

import orjson

from scheduler.registry.openapi import openapi_v2
from scheduler.registry.resource import Resource

MEDIA_TYPE: Final = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf"
"""What clients ask for."""

CONTENT_TYPE: Final = MEDIA_TYPE.replace("@", ".")
"""What they are answered with: `@` is no legal character of a media type (RFC 6838), and Go refuses it."""

_METHODS: Final = {"get": 2, "put": 3, "post": 4, "delete": 5, "patch": 8}
_LENGTH_DELIMITED: Final = 2

Json = Mapping[str, Any]


@cache
def openapi_v2_proto(resources: tuple[Resource, ...], version: str) -> bytes:
    """An openapi.v2.Document with the same content as `openapi_v2`."""
    document = orjson.loads(openapi_v2(resources, version))
    info = _text(1, document["info"]["title"]) + _text(2, document["info"]["version"])
    paths = b"".join(_named(2, name, _path_item(item)) for name, item in document["paths"].items())
    schemas = b"".join(_named(1, name, _schema(one)) for name, one in document["definitions"].items())
    return _text(1, document["swagger"]) + _message(2, info) + _message(8, paths) + _message(9, schemas)


def _varint(number: int) -> bytes:
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)


def _message(field: int, body: bytes) -> bytes:
    return _varint(field << 3 | _LENGTH_DELIMITED) + _varint(len(body)) + body


def _text(field: int, text: str) -> bytes:
    return _message(field, text.encode()) if text else b""


def _texts(field: int, texts: list[str]) -> bytes:
    return b"".join(_text(field, text) for text in texts)


def _flag(field: int, value: bool) -> bytes:
    return _varint(field << 3) + b"\x01" if value else b""


def _named(field: int, name: str, value: bytes) -> bytes:
    """A NamedSchema, NamedPathItem or NamedAny."""
    return _message(field, _text(1, name) + _message(2, value))


def _extensions(field: int, of: Json) -> bytes:
    return b"".join(
        _named(field, name, _text(2, orjson.dumps(value).decode()))
        for name, value in of.items()
        if name.startswith("x-")
    )


def _schema(schema: Json) -> bytes:
    return b"".join(_schema_fields(schema))


def _schema_fields(schema: Json) -> Iterator[bytes]:
    yield _text(1, schema.get("$ref", ""))
    yield _text(2, schema.get("format", ""))
    yield _text(4, schema.get("description", ""))
    yield _texts(19, schema.get("required", []))
    if "additionalProperties" in schema:
        yield _message(21, _message(1, _schema(schema["additionalProperties"])))
    if "type" in schema:
        yield _message(22, _text(1, schema["type"]))
    if "items" in schema:
        yield _message(23, _message(1, _schema(schema["items"])))
    if "properties" in schema:
        properties = schema["properties"].items()
        yield _message(25, b"".join(_named(1, name, _schema(one)) for name, one in properties))
    yield _extensions(31, schema)


def _path_item(item: Json) -> bytes:
    operations = (_message(_METHODS[name], _operation(one)) for name, one in item.items() if name in _METHODS)
    return b"".join(operations) + _parameters(9, item.get("parameters", []))


def _operation(operation: Json) -> bytes:
    return (
        _texts(1, operation.get("tags", []))
        + _text(3, operation.get("description", ""))
        + _text(5, operation.get("operationId", ""))
        + _texts(7, operation.get("consumes", []))
        + _parameters(8, operation.get("parameters", []))
        + _extensions(13, operation)
    )


def _parameters(field: int, parameters: list[Json]) -> bytes:
    return b"".join(_message(field, _message(1, _parameter(one))) for one in parameters)


def _parameter(one: Json) -> bytes:
    required, where = one.get("required", False), one["in"]
    description, name, kind = one.get("description", ""), one["name"], one.get("type", "")
    if where == "body":
        body = _text(1, description) + _text(2, name) + _text(3, where) + _flag(4, required)
        return _message(1, body + _message(5, _schema(one.get("schema", {}))))
    common = _flag(1, required) + _text(2, where) + _text(3, description) + _text(4, name)
    if where == "query":
        return _message(2, _message(3, common + _text(6, kind) + _flag(20, one.get("uniqueItems", False))))
    return _message(2, _message(4, common + _text(5, kind) + _flag(19, one.get("uniqueItems", False))))
