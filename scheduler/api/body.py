"""Request bodies: JSON, YAML or (a little) protobuf to plain data, and errors that name the line.

A key that stands twice is reported (the last one wins, as in Kubernetes). YAML is what Kubernetes' Go parser
reads: no timestamps, no base-60 numbers, keys become strings.
"""

from __future__ import annotations

import re
from collections.abc import Hashable
from typing import Any

import orjson
import yaml
from aiohttp import web

from scheduler.api.protobuf import parse_protobuf
from scheduler.registry.decode import duplicate_fields
from scheduler.registry.errors import BadRequest, UnsupportedMediaType

LIMIT = 3 << 20
"""Bytes of a request body, as kube-apiserver's."""

VALUES = 500_000
DEPTH = 200
"""Values a body may have, once YAML aliases are expanded, and how deep they may lie."""

JSON_TYPES = ("", "application/json")
PROTOBUF = "application/vnd.kubernetes.protobuf"
YAML_TYPES = ("application/yaml", "application/x-yaml", "text/yaml")
TYPES = (*JSON_TYPES, *YAML_TYPES, PROTOBUF)


async def read_data(request: web.Request, *, kinds: tuple[str, ...] = TYPES) -> tuple[Any, list[str]]:
    """The body as data, and the paths of keys that stand twice in it. Raises BadRequest, UnsupportedMediaType.

    An empty body is None. `kinds` are the media types taken; any not named above is read as JSON.
    """
    kind = media_type(request)
    if kind not in kinds:
        raise UnsupportedMediaType([one for one in kinds if one])
    try:
        text = await request.read()
    except web.RequestPayloadError as error:
        raise BadRequest(f"the body cannot be read: {' '.join(str(error).split())}") from None
    if not text.strip():
        return None, []
    if kind == PROTOBUF:
        return parse_protobuf(text), []
    return parse_yaml(text) if kind in YAML_TYPES else parse_json(text)


def media_type(request: web.Request) -> str:
    return request.headers.get("Content-Type", "").partition(";")[0].strip().lower()


async def read_object(request: web.Request) -> tuple[dict[str, Any], list[str]]:
    """The body as an object; as `read_data`, but it must be one."""
    data, twice = await read_data(request)
    if not isinstance(data, dict):
        what = "empty" if data is None else f"a {type(data).__name__}"
        raise BadRequest(f"the body of the request must be an object, it is {what}")
    return data, twice


def parse_json(text: bytes) -> tuple[Any, list[str]]:
    """The value, and the paths of keys that stand twice. BadRequest names line and column."""
    try:
        data = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        place = f"line {error.lineno} column {error.colno}"
        raise BadRequest(f"the body is not valid JSON: {place}: {error.msg}") from None
    if text.count(b"{") + text.count(b"[") > DEPTH:
        _check_size(data)
    return data, duplicate_fields(text) if _may_repeat(text, data) else []


def _may_repeat(text: bytes, data: Any) -> bool:
    """Whether a key may stand twice in `text`, told by counting: without escapes, every quotation mark belongs to a
    key or a string, and `data` has fewer of them when some were overwritten."""
    return b"\\" in text or text.count(b'"') != orjson.dumps(data).count(b'"')


class _Loader(yaml.SafeLoader):
    """YAML 1.1 as go-yaml resolves it; remembers keys that stand twice."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012 - PyYAML's API

    def __init__(self, stream: bytes) -> None:
        super().__init__(stream)
        self.twice: list[str] = []

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        own = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        self.twice += [key for i, key in enumerate(own) if key in own[:i] and key != "<<"]
        self.flatten_mapping(node)
        return {
            _key(self.construct_object(key, deep=True)): self.construct_object(value, deep=deep)
            for key, value in node.value
        }


def _key(key: Any) -> str:
    if isinstance(key, bool):
        return "true" if key else "false"
    return str(key)


for _tag, _pattern, _first in (
    (
        "bool",
        r"^(?:yes|Yes|YES|no|No|NO|true|True|TRUE|false|False|FALSE|on|On|ON|off|Off|OFF)$",
        "yYnNtTfFoO",
    ),
    ("int", r"^[-+]?(?:0b[01_]+|0x[0-9a-fA-F_]+|0o?[0-7_]+|0|[1-9][0-9_]*)$", "-+0123456789"),
    ("float", r"^[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?$", "-+0123456789."),
    ("null", r"^(?:~|null|Null|NULL|)$", "~nN"),
    ("merge", r"^(?:<<)$", "<"),
):
    _Loader.add_implicit_resolver(
        f"tag:yaml.org,2002:{_tag}", re.compile(_pattern), [*_first] + [""] * (_tag == "null")
    )


def parse_yaml(text: bytes) -> tuple[Any, list[str]]:
    """As `parse_json`; what JSON cannot hold is refused."""
    try:
        loader = _Loader(text)
        data = loader.get_single_data()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"line {mark.line + 1} column {mark.column + 1}: " if mark else ""
        raise BadRequest(f"the body is not valid YAML: {place}{error.problem or error.context}") from None
    except (yaml.YAMLError, ValueError) as error:
        raise BadRequest(f"the body is not valid YAML: {' '.join(str(error).split())}") from None
    except RecursionError:
        raise BadRequest("the body is nested too deeply") from None
    _check_size(data)
    try:
        # As JSON would have given it: no bytes, no half characters, nothing shared through an alias.
        return orjson.loads(orjson.dumps(data)), loader.twice
    except TypeError as error:
        raise BadRequest(f"the body is not valid YAML: it holds what JSON cannot: {error}") from None


def _check_size(data: Any) -> None:
    """Aliases may make a small document huge, or endless; and later steps recurse."""
    count = 0
    level = [data]
    for _ in range(DEPTH):
        values = [value for value in level if isinstance(value, dict | list)]
        level = [item for value in values for item in (value.values() if isinstance(value, dict) else value)]
        count += len(level)
        if count > VALUES:
            raise BadRequest(
                f"the body has more than {VALUES} values (in YAML, once its aliases are expanded)"
            )
        if not level:
            return
    raise BadRequest(f"the body is nested more than {DEPTH} levels deep")
