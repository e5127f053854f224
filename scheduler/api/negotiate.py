"""Which representation a client gets: the Accept header against what we offer.

JSON or YAML; the object itself, a `Table` (kubectl get) or only its metadata. Protobuf is not offered: every
client that prefers it also accepts JSON. Source: apiserver's `endpoints/handlers/negotiation`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from scheduler.registry.errors import NotAcceptable

OFFERED = ("application/json", "application/yaml")

Kind = Literal["object", "table", "metadata"]


@dataclass(frozen=True, slots=True)
class Form:
    """How to write an answer. `version` is the meta.k8s.io version of a Table or PartialObjectMetadata."""

    kind: Kind = "object"
    yaml: bool = False
    version: str = "v1"

    @property
    def content_type(self) -> str:
        return "application/yaml" if self.yaml else "application/json"


@dataclass(frozen=True, slots=True)
class Clause:
    """One media type of an Accept header with its parameters, `q` taken out."""

    type: str
    params: dict[str, str]
    quality: float


def clauses(accept: str) -> list[Clause]:
    """The clauses of an Accept header, the preferred first."""
    found = []
    for text in accept.split(","):
        media, *rest = (part.strip() for part in text.split(";"))
        params = {
            name.strip(): value.strip().strip('"') for name, _, value in (one.partition("=") for one in rest)
        }
        try:
            quality = float(params.pop("q", "1"))
        except ValueError:
            quality = 0.0
        if media and quality > 0:
            found.append(Clause(media.lower(), params, quality))
    return sorted(found, key=lambda clause: -clause.quality)


@lru_cache(maxsize=256)
def negotiate(accept: str, *, stream: bool = False) -> Form:
    """The first clause that we can serve; a stream is never YAML. Raises NotAcceptable."""
    for clause in clauses(accept or "*/*"):
        if clause.type in ("application/json", "application/*", "*/*"):
            yaml = False
        elif clause.type == "application/yaml" and not stream:
            yaml = True
        else:
            continue
        kind = _kind(clause.params)
        if kind is not None:
            return Form(kind, yaml, clause.params.get("v", "v1"))
    raise NotAcceptable(OFFERED[:1] if stream else OFFERED)


def _kind(params: dict[str, str]) -> Kind | None:
    wanted = params.get("as")
    if wanted is None:
        return "object"
    if params.get("g") != "meta.k8s.io" or params.get("v") not in ("v1", "v1beta1"):
        return None
    if wanted == "Table":
        return "table"
    return "metadata" if wanted in ("PartialObjectMetadata", "PartialObjectMetadataList") else None
