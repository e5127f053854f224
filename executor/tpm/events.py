"""What is measured, and how a log of it leads to the value of the PCR. Pure.

A log is of one boot. Its records are JSON, one on a line:

    {"kind": "boot",   "version": 1, "pcr": 15, "bank": "sha256", "base": HEX, "boot_id": …, "resets": N, …}
    {"kind": "intent", "seq": 1, "events": [EVENT, …], "digest": HEX, "pcr": HEX}     before it is extended
    {"kind": "done",   "seq": 1}                                                      it was
    {"kind": "void",   "seq": 1}                                                      it was not, and never will be

digest = SHA-256 of the canonical JSON of `events`: keys sorted, no white space, all but ASCII escaped, no fractions.
pcr = SHA-256 of the PCR's value before and the digest: what TPM2_PCR_Extend makes of it (part 1, 17.3).
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from executor.tpm.errors import LogError
from executor.tpm.wire import DIGEST_BYTES

VERSION: Final = 1
BANK: Final = "sha256"
ZERO: Final = bytes(DIGEST_BYTES)

Event = Mapping[str, Any]


def canonical(value: Any) -> bytes:
    """The bytes that digests are of. Raises LogError for what has no one form, such as fractions."""
    _check(value)
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode("ascii")


def _check(value: Any) -> None:
    match value:
        case str() | bool() | int() | None:
            pass
        case list() | tuple():
            for item in value:
                _check(item)
        case dict() if all(isinstance(key, str) for key in value):
            for item in value.values():
                _check(item)
        case _:
            raise LogError(f"an event must not have {value!r}")


def digest_of(events: list[Event]) -> bytes:
    """What is extended for these events, which were started together."""
    return hashlib.sha256(canonical(events)).digest()


def extended(value: bytes, digest: bytes) -> bytes:
    """The value of a PCR after TPM2_PCR_Extend."""
    return hashlib.sha256(value + digest).digest()


@dataclass(frozen=True, slots=True)
class Boot:
    """The first record. base: the PCR's value when the log began, zeros unless somebody had extended it before.

    boot_id: the kernel's. resets, restarts: the TPM's counters.
    """

    pcr: int
    base: bytes
    boot_id: str
    resets: int
    restarts: int
    time: str

    def record(self) -> dict[str, Any]:
        return {
            "kind": "boot",
            "version": VERSION,
            "pcr": self.pcr,
            "bank": BANK,
            "base": self.base.hex(),
            "boot_id": self.boot_id,
            "resets": self.resets,
            "restarts": self.restarts,
            "time": self.time,
        }


@dataclass(frozen=True, slots=True)
class Intent:
    """Events that are to be extended, and what the PCR will be then."""

    seq: int
    events: list[Event]
    digest: bytes
    pcr: bytes

    def record(self) -> dict[str, Any]:
        return {
            "kind": "intent",
            "seq": self.seq,
            "events": self.events,
            "digest": self.digest.hex(),
            "pcr": self.pcr.hex(),
        }


@dataclass
class Replay:
    """Follows a log, record by record. value: of the PCR after all that is known to be extended; pending: may be.

    keep: remember the events, those extended and those never. Raises LogError, which names the line.
    """

    keep: bool = False
    boot: Boot | None = None
    value: bytes = ZERO
    seq: int = 0
    lines: int = 0
    pending: Intent | None = None
    extended: list[Event] = field(default_factory=list)
    void: list[Event] = field(default_factory=list)

    def next_intent(self, events: list[Event]) -> Intent:
        digest = digest_of(events)
        return Intent(self.seq + 1, events, digest, extended(self.value, digest))

    def feed(self, lines: Iterable[bytes]) -> None:
        """Take on whole lines, without their ends."""
        for line in lines:
            self.lines += 1
            try:
                self._take(_parse(line))
            except (LogError, ValueError, KeyError, TypeError, RecursionError) as error:
                text = f"no {error}" if isinstance(error, KeyError) else str(error)
                raise LogError(f"event log, line {self.lines}: {text}") from None

    def _take(self, record: dict[str, Any]) -> None:
        kind = record["kind"]
        if (kind == "boot") != (self.boot is None):
            raise LogError("the log must begin with its boot record, and have only one")
        if kind == "boot":
            self._take_boot(record)
        elif kind == "intent":
            self._take_intent(record)
        elif kind in {"done", "void"}:
            self._resolve(record, void=kind == "void")
        else:
            raise LogError(f"kind {kind!r} is unknown")

    def _take_boot(self, record: dict[str, Any]) -> None:
        if (record["version"], record["bank"]) != (VERSION, BANK):
            raise LogError(f"version {record['version']!r} of bank {record['bank']!r} is unknown")
        numbers = [record[name] for name in ("pcr", "resets", "restarts")]
        if not all(type(number) is int for number in numbers):
            raise LogError("pcr, resets and restarts must be numbers")
        pcr, resets, restarts = numbers
        boot_id, time = str(record["boot_id"]), str(record["time"])
        self.boot = Boot(pcr, _hex(record["base"]), boot_id, resets, restarts, time)
        self.value = self.boot.base

    def _take_intent(self, record: dict[str, Any]) -> None:
        if self.pending is not None:
            raise LogError(f"nothing says what became of record {self.pending.seq}")
        events = record["events"]
        if not isinstance(events, list) or not events or not all(isinstance(event, dict) for event in events):
            raise LogError("events must be a list of objects")
        expected = self.next_intent(events)
        if type(record["seq"]) is not int or record["seq"] != expected.seq:
            raise LogError(
                f"record {record['seq']!r} where {expected.seq} was expected: something is missing"
            )
        if _hex(record["digest"]) != expected.digest:
            raise LogError("the digest is not that of the events: they were changed")
        if _hex(record["pcr"]) != expected.pcr:
            raise LogError("the PCR's value does not follow from the records before")
        self.pending = expected
        self.seq = expected.seq

    def _resolve(self, record: dict[str, Any], *, void: bool) -> None:
        pending = self.pending
        if pending is None or record["seq"] != pending.seq:
            raise LogError(f"{record['kind']} of record {record['seq']!r}, which is not open")
        if not void:
            self.value = pending.pcr
        if self.keep:
            (self.void if void else self.extended).extend(pending.events)
        self.pending = None


def _parse(line: bytes) -> dict[str, Any]:
    record = json.loads(line, object_pairs_hook=_unique)
    if not isinstance(record, dict):
        raise LogError("not an object")
    return record


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise LogError("a key appears twice")
    return made


def _hex(text: Any) -> bytes:
    if not isinstance(text, str) or len(text) != 2 * DIGEST_BYTES or text != text.lower():
        raise LogError("a digest is not 64 lower-case hexadecimal digits")
    return bytes.fromhex(text)
