"""Entries to bytes in the form the client asked for: the object, a Table, its metadata alone.

The object's own bytes are never encoded again: lists and events are spliced together from `Entry.raw`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

import orjson
import yaml

from scheduler.api.negotiate import Form
from scheduler.registry.errors import BadRequest
from scheduler.registry.resource import Resource
from scheduler.store import Entry

Include = Literal["None", "Metadata", "Object"]


@dataclass(frozen=True, slots=True)
class Renderer:
    """Writes entries of one resource in one form. `include` is what a Table's rows carry of the object."""

    resource: Resource
    form: Form
    include: Include
    clock: Callable[[], datetime]

    def one(self, entry: Entry) -> bytes:
        """A single object."""
        if self.form.kind == "object":
            body = entry.raw
        elif self.form.kind == "metadata":
            body = orjson.dumps(self._metadata(entry))
        else:
            body = self.table([entry], {"resourceVersion": str(entry.version)})
        return self._finish(body)

    def many(self, entries: Sequence[Entry], meta: dict[str, Any]) -> bytes:
        """A list with `meta` as its ListMeta."""
        if self.form.kind == "table":
            return self._finish(self.table(entries, meta))
        if self.form.kind == "metadata":
            kind, version = "PartialObjectMetadataList", f"meta.k8s.io/{self.form.version}"
            items: Iterable[bytes] = (orjson.dumps(self._metadata(entry)) for entry in entries)
        else:
            kind, version = f"{self.resource.kind}List", self.resource.api_version
            items = (entry.raw for entry in entries)
        head = orjson.dumps({"kind": kind, "apiVersion": version, "metadata": meta})
        return self._finish(head[:-1] + b',"items":[' + b",".join(items) + b"]}")

    def table(self, entries: Iterable[Entry], meta: dict[str, Any], *, header: bool = True) -> bytes:
        """A Table; in a watch only the first has the header."""
        now = self.clock()
        columns = [column.to_json() for column in self.resource.columns] if header else None
        table = {
            "kind": "Table",
            "apiVersion": f"meta.k8s.io/{self.form.version}",
            "metadata": meta,
            "columnDefinitions": columns,
            "rows": [self._row(entry, now) for entry in entries],
        }
        return orjson.dumps(table)

    def _row(self, entry: Entry, now: datetime) -> dict[str, Any]:
        row: dict[str, Any] = {"cells": self.resource.row(entry.obj, now)}
        if self.include == "Metadata":
            row["object"] = self._metadata(entry)
        elif self.include == "Object":
            row["object"] = orjson.Fragment(entry.raw)
        else:
            row["object"] = None
        return row

    def _metadata(self, entry: Entry) -> dict[str, Any]:
        version = f"meta.k8s.io/{self.form.version}"
        return {"kind": "PartialObjectMetadata", "apiVersion": version, "metadata": entry.obj["metadata"]}

    def _finish(self, body: bytes) -> bytes:
        if not self.form.yaml:
            return body
        text: str = yaml.safe_dump(
            orjson.loads(body), default_flow_style=False, sort_keys=False, allow_unicode=True
        )
        return text.encode()


def include_object(text: str | None) -> Include:
    """The `includeObject` parameter of a Table request. Raises BadRequest."""
    if text in (None, ""):
        return "Metadata"
    for choice in ("None", "Metadata", "Object"):
        if text == choice:
            return choice
    raise BadRequest(f"query parameter includeObject: {text!r} is none of None, Metadata, Object")
