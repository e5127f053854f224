"""The base of all Kubernetes models, the field types they share, and what can be asked of a model.

Models are for the API's edge: they say which fields exist, of what type, described how, merged how. Objects
themselves travel and are stored as plain dicts. Every field is optional to pydantic, because a missing field
is the validation's business (422), not the decoder's (400); `required` is what the schema tells clients.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from types import NoneType, UnionType
from typing import Annotated, Any, ClassVar, Union, get_args, get_origin

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PlainValidator, StringConstraints
from pydantic.alias_generators import to_camel
from pydantic_core import PydanticCustomError

from shared.models.quantities import QuantityError, parse_quantity
from shared.models.times import parse_time


class KubeModel(BaseModel):
    """A Kubernetes type: camelCase JSON names, strict types, unknown fields refused.

    `schema_prefix` and the class name make the name of its OpenAPI definition (`io.k8s.api.core.v1.Pod`).
    """

    model_config = ConfigDict(alias_generator=to_camel, extra="forbid", strict=True)

    schema_prefix: ClassVar[str] = "io.k8s.api.core.v1"


@dataclass(frozen=True, slots=True)
class Format:
    """The OpenAPI `format` of a scalar (int32, int64, date-time, byte, int-or-string)."""

    name: str


def _quantity(value: Any) -> str:
    try:
        parse_quantity(value)
    except QuantityError as error:
        raise PydanticCustomError("quantity", "{why}", {"why": str(error)}) from None
    return str(value)


def _int_or_string(value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise PydanticCustomError("int_or_string", "must be a number or a string")
    return value


def _time(value: str) -> str:
    try:
        parse_time(value)
    except (ValueError, OverflowError):
        raise PydanticCustomError("time", "no such moment") from None
    return value


def _base64(value: str) -> str:
    """As Go decodes it: line ends do not matter. Kept without them."""
    plain = value.replace("\n", "").replace("\r", "")
    try:
        base64.b64decode(plain, validate=True)
    except ValueError:
        raise PydanticCustomError("base64", "illegal base64 data") from None
    return plain


_TIME = r"^\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}(\.\d+)?(Z|[+-]\d{2}:\d{2})$"

Int32 = Annotated[int, Field(ge=-(2**31), le=2**31 - 1), Format("int32")]
Int64 = Annotated[int, Field(ge=-(2**63), le=2**63 - 1), Format("int64")]
Time = Annotated[str, StringConstraints(pattern=_TIME), AfterValidator(_time), Format("date-time")]
MicroTime = Annotated[str, StringConstraints(pattern=_TIME), AfterValidator(_time), Format("micro-time")]
Base64 = Annotated[str, AfterValidator(_base64), Format("byte")]
Quantity = Annotated[str, PlainValidator(_quantity), Format("quantity")]
IntOrString = Annotated[int | str, PlainValidator(_int_or_string), Format("int-or-string")]


def doc(
    description: str,
    *,
    required: bool = False,
    merge_key: str = "",
    strategy: str = "",
    alias: str | None = None,
) -> Any:
    """A model field: its description for `kubectl explain`, and how a strategic merge patch treats it.

    `strategy` is a comma-separated list of merge, replace, retainKeys; a `merge_key` implies merge. `alias` is
    the JSON name where camel case does not give it (`hostIP`).
    """
    extra: dict[str, Any] = {"required": required}
    if merge_key:
        extra["merge_key"] = merge_key
    if strategy or merge_key:
        extra["strategy"] = strategy or "merge"
    return Field(default=None, description=description, alias=alias, json_schema_extra=extra)


@dataclass(frozen=True, slots=True)
class Shape:
    """One field of a model, as schemas and patches need it.

    `container` is "", "list" or "map" (of strings to ...); `model` or else `scalar` (string, integer, number,
    boolean, object) is what it holds.
    """

    name: str
    description: str
    required: bool
    container: str
    model: type[KubeModel] | None
    scalar: str
    format: str
    merge_key: str
    strategies: frozenset[str]

    @property
    def merges(self) -> bool:
        """A list that a strategic merge patch merges instead of replacing (by `merge_key`, or as a set)."""
        return "merge" in self.strategies


@cache
def patch_schema(model: type[KubeModel]) -> Mapping[str, Shape]:
    """JSON field name -> shape, for schemas and strategic merge patches.

    Recurse with `patch_schema(shape.model)`.
    """
    shapes = {}
    for name, info in model.model_fields.items():
        extra = info.json_schema_extra if isinstance(info.json_schema_extra, dict) else {}
        container, inner = _unwrap(info.annotation)
        held, form = _held(inner)
        alias = info.alias or name
        shapes[alias] = Shape(
            name=alias,
            description=info.description or "",
            required=bool(extra.get("required")),
            container=container,
            model=held if isinstance(held, type) else None,
            scalar=held if isinstance(held, str) else "",
            format=form,
            merge_key=str(extra.get("merge_key", "")),
            strategies=frozenset(filter(None, str(extra.get("strategy", "")).split(","))),
        )
    return shapes


_SCALARS: dict[Any, str] = {str: "string", int: "integer", float: "number", bool: "boolean", Any: "object"}


def _unwrap(annotation: Any) -> tuple[str, Any]:
    annotation = _not_none(annotation)
    if get_origin(annotation) is list:
        return "list", _not_none(get_args(annotation)[0])
    if get_origin(annotation) is dict:
        return "map", _not_none(get_args(annotation)[1])
    return "", annotation


def _not_none(annotation: Any) -> Any:
    if get_origin(annotation) in (Union, UnionType):
        rest = [one for one in get_args(annotation) if one is not NoneType]
        return rest[0]
    return annotation


def _held(annotation: Any) -> tuple[type[KubeModel] | str, str]:
    form = ""
    if get_origin(annotation) is Annotated:
        form = next((one.name for one in annotation.__metadata__ if isinstance(one, Format)), "")
        annotation = _not_none(get_args(annotation)[0])
    if isinstance(annotation, type) and issubclass(annotation, KubeModel):
        return annotation, form
    if annotation not in _SCALARS:
        # dict[str, list[str]] and the like: free-form as far as clients are concerned
        return "object", form
    return _SCALARS[annotation], form
