"""Protobuf request bodies, of the few kinds that clients send in no other form.

kubectl's typed commands (create namespace or secret, drain, auth can-i, debug), and programs with Go's client 0.32 or
newer, send `application/vnd.kubernetes.protobuf` and do not fall back; whatever takes objects from files sends JSON.
Answers are JSON, which they accept.
Field numbers: the `generated.proto` files of k8s.io/api and apimachinery v0.32; the envelope: apimachinery's
`runtime/serializer/protobuf`.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from scheduler.api.protobuf_pods import PODS
from scheduler.registry.errors import BadRequest

MAGIC = b"k8s\x00"

Message = dict[int, "Field"]


@dataclass(frozen=True, slots=True)
class Field:
    """One field of a message: its JSON name and type; `of` is the message it holds."""

    name: str
    type: str = (
        "string"  # string, int, bool, message, time, map (of strings), bytes map, skip, and as in PODS
    )
    repeated: bool = False
    of: Message | None = None


def _strings(*names: str) -> Message:
    return {number: Field(name) for number, name in enumerate(names, 1)}


def _object(spec: str, of: Message) -> Message:
    return {
        1: Field("metadata", "message", of=OBJECT_META),
        2: Field(spec, "message", of=of),
        3: Field("status", "skip"),
    }


OWNER_REFERENCE: Message = {
    1: Field("kind"),
    3: Field("name"),
    4: Field("uid"),
    5: Field("apiVersion"),
    6: Field("controller", "bool"),
    7: Field("blockOwnerDeletion", "bool"),
}
OBJECT_META: Message = {
    1: Field("name"),
    2: Field("generateName"),
    3: Field("namespace"),
    4: Field("selfLink"),
    5: Field("uid"),
    6: Field("resourceVersion"),
    7: Field("generation", "int"),
    8: Field("creationTimestamp", "time"),
    9: Field("deletionTimestamp", "time"),
    10: Field("deletionGracePeriodSeconds", "int"),
    11: Field("labels", "map"),
    12: Field("annotations", "map"),
    13: Field("ownerReferences", "message", repeated=True, of=OWNER_REFERENCE),
    14: Field("finalizers", repeated=True),
    17: Field("managedFields", "skip"),
}
DELETE_OPTIONS: Message = {
    1: Field("gracePeriodSeconds", "int"),
    2: Field("preconditions", "message", of=_strings("uid", "resourceVersion")),
    3: Field("orphanDependents", "bool"),
    4: Field("propagationPolicy"),
    5: Field("dryRun", repeated=True),
}
RESOURCE_ATTRIBUTES = _strings("namespace", "verb", "group", "version", "resource", "subresource", "name")
ACCESS: Message = {
    1: Field("resourceAttributes", "message", of=RESOURCE_ATTRIBUTES),
    2: Field("nonResourceAttributes", "message", of=_strings("path", "verb")),
}
REFERENCE = _strings("kind", "namespace", "name", "uid", "apiVersion", "resourceVersion", "fieldPath")

SECRET: Message = {
    1: Field("metadata", "message", of=OBJECT_META),
    2: Field("data", "bytes map"),
    3: Field("type"),
    4: Field("stringData", "map"),
    5: Field("immutable", "bool"),
}
CONFIG_MAP: Message = {
    1: Field("metadata", "message", of=OBJECT_META),
    2: Field("data", "map"),
    3: Field("binaryData", "bytes map"),
    4: Field("immutable", "bool"),
}
SERVICE_ACCOUNT: Message = {
    1: Field("metadata", "message", of=OBJECT_META),
    2: Field("secrets", "message", repeated=True, of=REFERENCE),
    3: Field("imagePullSecrets", "message", repeated=True, of=_strings("name")),
    4: Field("automountServiceAccountToken", "bool"),
}


def _messages(text: str) -> dict[str, Message]:
    """Of a table like PODS."""
    found: dict[str, Message] = {"ObjectMeta": OBJECT_META}
    entries = [line.partition(": ") for line in re.sub(r"\n +", " ", text).split("\n") if line]
    for name, _, _ in entries:
        found.setdefault(name, {})
    for name, _, fields in entries:
        for word in fields.split():
            number, _, what = word.removesuffix("*").partition("=")
            field, _, kind = what.partition(":")
            of = found.get(kind)
            found[name][int(number)] = Field(
                field, "message" if of is not None else kind or "string", word.endswith("*"), of
            )
    return found


KINDS: dict[tuple[str, str], Message] = {
    ("v1", "Pod"): _object("spec", _messages(PODS)["PodSpec"]),
    ("v1", "Namespace"): _object("spec", {1: Field("finalizers", repeated=True)}),
    ("v1", "Secret"): SECRET,
    ("v1", "ConfigMap"): CONFIG_MAP,
    ("v1", "ServiceAccount"): SERVICE_ACCOUNT,
    ("v1", "Binding"): _object("target", REFERENCE),
    ("v1", "DeleteOptions"): DELETE_OPTIONS,
    ("meta.k8s.io/v1", "DeleteOptions"): DELETE_OPTIONS,
    ("policy/v1", "DeleteOptions"): DELETE_OPTIONS,
    ("policy/v1", "Eviction"): _object("deleteOptions", DELETE_OPTIONS),
    ("authorization.k8s.io/v1", "SelfSubjectAccessReview"): _object("spec", ACCESS),
    ("authorization.k8s.io/v1", "SelfSubjectRulesReview"): _object("spec", _strings("namespace")),
    ("authentication.k8s.io/v1", "SelfSubjectReview"): {
        1: Field("metadata", "message", of=OBJECT_META),
        2: Field("status", "skip"),
    },
}


def parse_protobuf(body: bytes) -> dict[str, Any]:
    """The object in an envelope. Raises BadRequest when it is malformed or of another kind."""
    if not body.startswith(MAGIC):
        raise BadRequest("the body is not valid Kubernetes protobuf: it does not begin with 'k8s'")
    try:
        envelope = dict(_fields(body[len(MAGIC) :]))
        kind = dict(_fields(_bytes(envelope.get(1, b""))))
        api_version, name = _bytes(kind.get(1, b"")).decode(), _bytes(kind.get(2, b"")).decode()
        message = KINDS.get((api_version, name))
        if message is None:
            raise BadRequest(f"{api_version} {name} is not taken as protobuf; send it as application/json")
        return {"apiVersion": api_version, "kind": name, **_decode(_bytes(envelope.get(2, b"")), message)}
    except (ValueError, IndexError, OverflowError) as error:
        raise BadRequest(f"the body is not valid Kubernetes protobuf: {error}") from None


def _decode(body: bytes, message: Message) -> dict[str, Any]:
    obj: dict[str, Any] = {}
    for number, raw in _fields(body):
        field = message.get(number)
        if field is None:
            raise ValueError(f"unknown field {number} (this server knows Kubernetes 1.32)")
        if field.type == "quantities":
            entry = dict(_fields(_bytes(raw)))
            amount = _value(entry.get(2, b""), Field("", "quantity"))
            obj.setdefault(field.name, {})[_bytes(entry.get(1, b"")).decode()] = amount
        elif field.type.endswith("map"):
            entry = dict(_fields(_bytes(raw)))
            key, held = (_bytes(entry.get(part, b"")) for part in (1, 2))
            text = base64.b64encode(held) if field.type == "bytes map" else held
            obj.setdefault(field.name, {})[key.decode()] = text.decode()
        elif field.repeated:
            obj.setdefault(field.name, []).append(_value(raw, field))
        elif not field.name:
            obj |= _value(raw, field)
        elif field.type != "skip":
            value = _value(raw, field)
            if value not in ("", None) and (field.type, value) != ("count", 0):  # Go writes empty values too
                obj[field.name] = value
    return obj


def _value(raw: int | bytes, field: Field) -> Any:
    match field.type:
        case "int" | "bool" | "count":
            if not isinstance(raw, int):
                raise ValueError(f"{field.name} is not a number")
            return bool(raw) if field.type == "bool" else raw - (raw >> 63 << 64)
        case "message":
            return _decode(_bytes(raw), field.of or {})
        case "quantity":
            return _bytes(dict(_fields(_bytes(raw))).get(1, b"")).decode()
        case "intstr":
            parts = dict(_fields(_bytes(raw)))
            return (
                _value(parts.get(2, 0), Field(field.name, "int"))
                if not parts.get(1)
                else _bytes(parts[3]).decode()
            )
        case "time":
            seconds = dict(_fields(_bytes(raw))).get(1)
            moment = None if not isinstance(seconds, int) else datetime.fromtimestamp(seconds, UTC)
            return moment and moment.strftime("%Y-%m-%dT%H:%M:%SZ")
    return _bytes(raw).decode()


def _bytes(raw: int | bytes) -> bytes:
    if isinstance(raw, int):
        raise ValueError("a number stands where bytes should")
    return raw


def _fields(body: bytes) -> Iterator[tuple[int, int | bytes]]:
    """(field number, value) of a message, in the wire's order."""
    at = 0
    while at < len(body):
        tag, at = _varint(body, at)
        kind = tag & 7
        if kind == 0:
            number, at = _varint(body, at)
            yield tag >> 3, number
            continue
        if kind == 2:
            size, at = _varint(body, at)
        elif kind in (1, 5):
            size = 8 if kind == 1 else 4
        else:
            raise ValueError(f"wire type {kind}")
        if at + size > len(body):
            raise ValueError("it is cut off")
        yield tag >> 3, body[at : at + size]
        at += size


def _varint(body: bytes, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(body):
            raise ValueError("it is cut off")
        byte = body[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & (2**64 - 1), at
    raise ValueError("a number is too long")
