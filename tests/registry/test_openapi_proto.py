"""The swagger document in protobuf says what the one in JSON says; read back here field by field."""

import orjson

from scheduler.registry import RESOURCES
from scheduler.registry.openapi import openapi_v2
from scheduler.registry.openapi_proto import openapi_v2_proto


def varint(body, at):
    number = shift = 0
    while True:
        byte = body[at]
        number |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return number, at


def fields(body):
    """(number, value) of every field of a message; values are ints or bytes."""
    at = 0
    while at < len(body):
        key, at = varint(body, at)
        value, at = varint(body, at)
        if key & 7 == 2:
            value, at = body[at : at + value], at + value
        yield key >> 3, value


def one(body, number):
    return next((value for key, value in fields(body) if key == number), b"")


def named(body, number):
    return {one(item, 1).decode(): one(item, 2) for key, item in fields(body) if key == number}


def schema(body):
    """A Schema as JSON has it."""
    extensions = {name: orjson.loads(one(value, 2)) for name, value in named(body, 31).items()}
    found = {
        "$ref": one(body, 1).decode(),
        "format": one(body, 2).decode(),
        "description": one(body, 4).decode(),
        "required": [value.decode() for key, value in fields(body) if key == 19],
        "type": one(one(body, 22), 1).decode(),
        "additionalProperties": schema(one(one(body, 21), 1)) if one(body, 21) else None,
        "items": schema(one(one(body, 23), 1)) if one(body, 23) else None,
        "properties": {name: schema(value) for name, value in named(one(body, 25), 1).items()},
    }
    return {key: value for key, value in found.items() if value} | extensions


def plain(value):
    """JSON without what protobuf cannot tell from nothing."""
    if isinstance(value, dict):
        return {key: plain(held) for key, held in value.items() if held not in ("", [], {})}
    return value


def test_every_definition_is_the_same():
    document = orjson.loads(openapi_v2(RESOURCES, "1"))
    decoded = named(one(openapi_v2_proto(RESOURCES, "1"), 9), 1)
    assert {name: schema(body) for name, body in decoded.items()} == plain(document["definitions"])


def test_the_patch_of_a_pod_names_its_kind_and_parameters():
    paths = named(one(openapi_v2_proto(RESOURCES, "1"), 8), 2)
    patch = one(paths["/api/v1/namespaces/{namespace}/pods/{name}"], 8)
    kind = orjson.loads(one(named(patch, 13)["x-kubernetes-group-version-kind"], 2))
    assert kind == {"group": "", "version": "v1", "kind": "Pod"}
    query = [one(one(one(item, 1), 2), 3) for key, item in fields(patch) if key == 8]
    assert {"dryRun", "fieldValidation"} <= {one(parameter, 4).decode() for parameter in query if parameter}
