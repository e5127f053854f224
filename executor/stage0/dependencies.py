"""Dependencies of ACIs: found in the store or by discovery, let in by the gate as any image, never in a circle.

An image's dependencies lie below it, in the order of its list: what is named later lies above, each with its own
dependencies below it. Source: appc spec `ace.md` ("Filesystem Setup"), `aci.md`.
"""

import logging
from collections.abc import Awaitable, Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import orjson

from executor.stage0.cas import Cas
from executor.stage0.errors import ImageBroken, ImageError, ImageNotFound, ImageUntrusted
from executor.stage0.manifest import MAX_LAYERS
from executor.stage0.trust import Fact, Gate

log = logging.getLogger(__name__)

MAX_DEPTH = 16

Pull = Callable[[str], Awaitable[str]]
"""reference → id of the image, which is in the store then; ImageError."""

# From the image that was asked for down to the one that is being resolved: a child inherits it with its task.
_chain: ContextVar[tuple[tuple[str, Mapping[str, str]], ...]] = ContextVar("chain", default=())


@dataclass(frozen=True)
class Lower:
    """What lies below an image: layers, base first; the facts on which each was let in."""

    layers: tuple[str, ...] = ()
    facts: tuple[Fact, ...] = ()


@dataclass(frozen=True)
class Resolver:
    """Finds what a manifest depends on. gate: the one of today."""

    cas: Cas
    gate: Callable[[], Gate]
    pull: Pull

    async def lower(self, manifest: Mapping[str, Any]) -> Lower:
        """Everything below an image, imported. ImageError names the dependency."""
        chain = (*_chain.get(), (manifest["name"], _labels(manifest)))
        if len(chain) > MAX_DEPTH:
            raise ImageBroken(f"dependencies are more than {MAX_DEPTH} deep: {_path(chain)}")
        token = _chain.set(chain)
        try:
            found = [await self._one(entry, chain) for entry in manifest.get("dependencies") or ()]
        finally:
            _chain.reset(token)
        # Of a layer that is there twice only the upper one can be seen.
        upside_down = [layer for lower in reversed(found) for layer in reversed(lower.layers)]
        layers = tuple(reversed(dict.fromkeys(upside_down)))
        if len(layers) >= MAX_LAYERS:
            raise ImageBroken(f"depends on {len(layers)} layers (limit {MAX_LAYERS - 1})")
        return Lower(layers, tuple(dict.fromkeys(fact for lower in found for fact in lower.facts)))

    async def _one(self, entry: Mapping[str, Any], chain: tuple[tuple[str, Mapping[str, str]], ...]) -> Lower:
        name, labels = entry["imageName"], _labels(entry)
        for above, theirs in chain:
            if above == name and all(theirs.get(key) == value for key, value in labels.items()):
                raise ImageBroken(f"dependencies go in a circle: {_path(chain)} → {name}")
        try:
            record = self._stored(entry, labels)
            fact = None if record is None else self._allowed(name, record)
            if record is None or fact is None:
                record = self.cas.load_image(await self.pull(_reference(name, labels)))
                fact = None if record is None else self._allowed(name, record)
            else:
                log.info("using image from local store for image name %s", name)
            if record is None or fact is None:
                raise ImageNotFound("was removed while it was pulled")
            self._check(entry, record)
        except ImageError as error:
            raise type(error)(f"dependency {name}: {error}") from None
        verification = record["verification"]
        below = [Fact.from_json(item) for item in verification.get("dependencies", ())]
        return Lower(tuple(record["layers"]), (*below, fact))

    def _stored(self, entry: Mapping[str, Any], labels: Mapping[str, str]) -> dict[str, Any] | None:
        """The image of the store that fits, the newest of several."""
        fitting = []
        for record in self.cas.images():
            if record["config"].get("format") != "aci" or not self.cas.load_image(record["id"]):
                continue
            manifest = self.manifest(record)
            there = _labels(manifest)
            if manifest.get("name") != entry["imageName"] or any(
                there.get(k) != v for k, v in labels.items()
            ):
                continue
            if record["id"].startswith(entry.get("imageID") or ""):
                fitting.append(record)
        return max(fitting, key=lambda record: str(record["verification"]["time"]), default=None)

    def manifest(self, record: Mapping[str, Any]) -> dict[str, Any]:
        """The manifest of a stored ACI, {} when it is gone."""
        for digest in record.get("documents", ()):
            try:
                found = orjson.loads(self.cas.blob_path(digest).read_bytes())
            except (FileNotFoundError, orjson.JSONDecodeError):
                continue
            if isinstance(found, dict):
                return found
        return {}

    def _allowed(self, name: str, record: Mapping[str, Any]) -> Fact | None:
        facts = [Fact.from_json(item) for item in record["verification"].get("facts", ())]
        try:
            return self.gate().dependency(name, facts)
        except ImageUntrusted:
            return None  # perhaps it is signed where it comes from

    def _check(self, entry: Mapping[str, Any], record: Mapping[str, Any]) -> None:
        wanted, size = entry.get("imageID") or "", entry.get("size")
        if not record["id"].startswith(wanted):
            raise ImageBroken(f"is {record['id'][:27]}…, where {wanted[:27]}… is wanted")
        # The spec does not say whether packed or not.
        if size and record.get("sizes") and size not in record["sizes"]:
            raise ImageBroken(f"has {record['sizes'][0]} bytes, where {size} are wanted")


def _labels(obj: Mapping[str, Any]) -> dict[str, str]:
    return {entry["name"]: entry["value"] for entry in obj.get("labels") or ()}


def _reference(name: str, labels: Mapping[str, str]) -> str:
    return f"appc://{name}" + "".join(f",{key}={value}" for key, value in labels.items())


def _path(chain: tuple[tuple[str, Mapping[str, str]], ...]) -> str:
    return " → ".join(name for name, _ in chain)[:400]
