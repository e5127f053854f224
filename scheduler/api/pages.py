"""`limit` and `continue`: a long list in parts, all of them from one moment.

The first part takes a snapshot: references to entries, which never change, so it costs little. A token names
the snapshot and the place in it. When the snapshot is gone (time, memory, another process) the answer is 410
with a token that goes on from the same name in the present, as kube-apiserver's does.
"""

from __future__ import annotations

import base64
import binascii
from collections import OrderedDict
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import orjson

from scheduler.registry.errors import BadRequest, Expired
from scheduler.store import Entry

KEEP = timedelta(minutes=5)
MOST = 64
"""How long and how many snapshots are kept; etcd's compaction interval, and a bound on memory."""


@dataclass(frozen=True, slots=True)
class Token:
    """What a continue token says. `snapshot` 0: go on in the present."""

    snapshot: int
    version: int
    last: tuple[str, str]
    query: tuple[str, ...]

    def encode(self) -> str:
        text = orjson.dumps({"v": 1, "s": self.snapshot, "rv": self.version, "l": self.last, "q": self.query})
        return base64.urlsafe_b64encode(text).decode().rstrip("=")

    @classmethod
    def decode(cls, text: str) -> Token:
        try:
            data = orjson.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
            if data["v"] != 1:
                raise ValueError("version")
            namespace, name = data["l"]
            return cls(
                int(data["s"]), int(data["rv"]), (str(namespace), str(name)), tuple(map(str, data["q"]))
            )
        except (binascii.Error, ValueError, KeyError, TypeError):
            raise BadRequest("continue key is not valid: it is none that this server gave out") from None


@dataclass(frozen=True, slots=True)
class Page:
    """A part of a list; `token` continues it, `remaining` counts what follows."""

    entries: list[Entry]
    version: int
    token: str = ""
    remaining: int = 0


class ContinueExpired(Expired):
    """410 for a list whose snapshot is gone; its Status carries a token that goes on in the present."""

    def __init__(self, token: Token) -> None:
        super().__init__(
            "The provided continue parameter is too old to display a consistent list result. You can start a "
            "new list without the continue parameter, or use the continue token in this response."
        )
        self._token = token

    def to_status(self) -> dict[str, Any]:
        return {**super().to_status(), "metadata": {"continue": self._token.encode()}}


class Pages:
    """The snapshots."""

    def __init__(self) -> None:
        self._snapshots: OrderedDict[int, tuple[datetime, list[Entry], int]] = OrderedDict()
        self._number = 0

    def first(
        self, entries: list[Entry], version: int, limit: int, query: tuple[str, ...], now: datetime
    ) -> Page:
        if len(entries) <= limit:
            return Page(entries, version)
        self._forget(now)
        self._number += 1
        self._snapshots[self._number] = (now, entries, version)
        return self._cut(self._number, entries, 0, version, limit, query)

    def holds(self, token: Token) -> bool:
        """Whether it is ours. Another instance numbers its snapshots alike, but not at the same versions."""
        return token.snapshot in self._snapshots and self._snapshots[token.snapshot][2] == token.version

    def snapshot(self, token: Token, now: datetime) -> tuple[list[Entry], int]:
        """The list a token belongs to and its version. Raises Expired."""
        self._forget(now)
        if not self.holds(token):
            raise ContinueExpired(Token(0, 0, token.last, token.query))
        _, entries, version = self._snapshots[token.snapshot]
        return entries, version

    def next(self, token: Token, entries: list[Entry], version: int, limit: int) -> Page:
        start = next((i for i, entry in enumerate(entries) if entry.key[1:] > token.last), len(entries))
        return self._cut(token.snapshot, entries, start, version, limit, token.query)

    def _cut(
        self, number: int, entries: list[Entry], start: int, version: int, limit: int, query: tuple[str, ...]
    ) -> Page:
        end = start + limit
        part, remaining = entries[start:end], max(0, len(entries) - end)
        if not remaining:
            return Page(part, version)
        return Page(part, version, Token(number, version, part[-1].key[1:], query).encode(), remaining)

    def _forget(self, now: datetime) -> None:
        while self._snapshots:
            number, (taken, _, _) = next(iter(self._snapshots.items()))
            if now - taken < KEEP and len(self._snapshots) < MOST:
                return
            del self._snapshots[number]
