"""Measures the starts of pods: those that come together are one extend.

    measure(pod) ─┐
    measure(pod) ─┼▶ waiting ─▶ one thread: read the pod directories ─▶ Recorder.record([event, event, …])
    measure(pod) ─┘

An event is made of what stage1 will read, not of what we were asked for.
"""

import asyncio
import hashlib
import json
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from executor.tpm.errors import TpmError
from executor.tpm.events import Event
from executor.tpm.program import FLAVORS, Parts, Stage1, program_digest
from executor.tpm.recorder import Recorder, now
from executor.tpm.settings import TpmSettings

log = logging.getLogger(__name__)

BATCH: Final = 64
FLAVOR_NOTE: Final = "gantry.io/flavor"


@dataclass(frozen=True, slots=True)
class Start:
    """A pod that is about to start. path: its directory, ready for stage1. uid: metadata.uid. images: the digests by
    which its apps' images were found, by app, where there are such. parts: of its stage1, None if nobody knows. flavor:
    when its manifest does not say."""

    path: Path
    uid: str
    images: Mapping[str, str]
    parts: Parts | None
    flavor: str = ""


def event_of(start: Start, enforce: bool, stage1: Stage1) -> Event:
    """The event of a start. Raises OSError, ValueError, KeyError or TypeError when the pod's directory is not as stage1
    wants it, TpmError for a flavor that cannot be measured."""
    data = (start.path / "pod").read_bytes()
    manifest = json.loads(data)
    return {
        "apps": [_app(start, app) for app in manifest["apps"]],
        "manifest": f"sha256:{hashlib.sha256(data).hexdigest()}",
        "pod": start.path.name,
        "policy": "enforce" if enforce else "report",
        "stage1": stage1.describe(start.flavor or _flavor(manifest), start.parts),
        "time": now(),
        "uid": start.uid,
    }


def _flavor(manifest: Mapping[str, Any]) -> str:
    for note in manifest["annotations"]:
        if note["name"] == FLAVOR_NOTE:
            return str(note["value"])
    raise ValueError(f"no annotation {FLAVOR_NOTE}")


def _app(start: Start, app: Mapping[str, Any]) -> dict[str, Any]:
    name = app["name"]
    lower = (start.path / "appsinfo" / name / "lower").read_text(encoding="utf-8", errors="surrogateescape")
    return {
        "digest": start.images.get(name, ""),
        "image": app["image"]["id"],
        "layers": [_layer(line) for line in lower.splitlines()],
        "name": name,
    }


def _layer(line: str) -> str:
    """The diff id that the store keeps the tree by; the path of any other tree."""
    path = Path(line)
    return path.parent.name.replace("-", ":", 1) if path.name == "tree" else line


class Measurer:
    """All starts of one process. parts: of flavors that are not in FLAVORS; None for those that it does not know."""

    def __init__(
        self,
        settings: TpmSettings,
        *,
        recorder: Recorder | None = None,
        parts: Callable[[str], Awaitable[Parts | None]] | None = None,
    ) -> None:
        self._settings = settings
        self._recorder = recorder or Recorder(settings.tcti, settings.directory, settings.pcr)
        self._parts = parts
        self._stage1 = Stage1()
        self._waiting: list[tuple[Start, asyncio.Future[None]]] = []
        self._working: asyncio.Task[None] | None = None

    async def check(self) -> None:
        """Say at once in the log what would be wrong at the first start."""
        try:
            await asyncio.to_thread(self._check)
        except OSError as error:
            log.error("no pod can be measured: %s", error)

    def _check(self) -> None:
        digest = program_digest()
        with self._recorder.session():
            path = self._recorder.log.path
        log.info("measuring into PCR %d of %s, event log %s, program %s",
                 self._settings.pcr, self._settings.tcti.text, path, digest)  # fmt: skip

    async def measure(self, path: Path, uid: str, images: Mapping[str, str], flavor: str = "") -> None:
        """Returns when the start is measured. Raises OSError when it must not happen, and what `parts` raises. flavor:
        as in `Start`."""
        try:
            await self._measure(Start(path, uid, images, await self._parts_of(path, flavor), flavor))
        except OSError as error:
            if self._settings.enforce:
                raise TpmError(f"it cannot be measured (--tpm-policy enforce): {error}") from None
            log.warning("pod %s is started, but was not measured: %s", path.name, error)

    async def _parts_of(self, path: Path, flavor: str) -> Parts | None:
        try:
            flavor = flavor or _flavor(json.loads((path / "pod").read_bytes()))
        except (ValueError, KeyError, TypeError) as error:
            raise TpmError(f"{path}/pod is not as stage1 wants it: {error!r}") from None
        if flavor in FLAVORS or self._parts is None:
            return FLAVORS.get(flavor)
        return await self._parts(flavor)

    def _measure(self, start: Start) -> asyncio.Future[None]:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((start, future))
        if self._working is None:
            self._working = asyncio.create_task(self._work(), name="measuring")
        return future

    async def _work(self) -> None:
        while self._waiting:
            batch, self._waiting = self._waiting[:BATCH], self._waiting[BATCH:]
            try:
                outcome = await asyncio.to_thread(self._record, [start for start, _ in batch])
            except Exception as error:  # noqa: BLE001  (whoever waits has to learn of it, whatever it is)
                outcome = [OSError(f"internal error: {error!r}")] * len(batch)
            for (_, future), problem in zip(batch, outcome, strict=True):
                if future.done():
                    continue  # the pod was ended meanwhile
                if problem is None:
                    future.set_result(None)
                else:
                    future.set_exception(problem)
        self._working = None

    def _record(self, starts: list[Start]) -> list[OSError | None]:
        events: list[Event] = []
        outcome: list[OSError | None] = []
        for start in starts:
            try:
                events.append(event_of(start, self._settings.enforce, self._stage1))
                outcome.append(None)
            except TpmError as error:
                outcome.append(error)
            except OSError as error:
                outcome.append(TpmError(str(error)))
            except (ValueError, KeyError, TypeError) as error:
                outcome.append(TpmError(f"{start.path} is not as stage1 wants it: {error!r}"))
        if not events:
            return outcome
        try:
            self._recorder.record(events)
        except OSError as error:
            return [problem or TpmError(str(error)) for problem in outcome]
        return outcome
