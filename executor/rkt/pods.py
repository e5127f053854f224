"""Pods on disk, looked at from outside: which there are, in what state, what they say.

The state is the directory and whether somebody holds its lock (rkt `Documentation/devel/pod-lifecycle.md`); what is
looked at may be moved on or removed at any time by others, which is never an error here.
"""

import fcntl
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

from executor.pods.poddir import Phase
from executor.rkt.flags import Failure

CREATED: Final = "pod-created"
STAGE1_ID: Final = "stage1/id"
"""Of a pod whose stage1 is somebody else's: the id of its image."""
UNVERIFIED: Final = "unverified-images"
"""Of a prepared pod: its images were let in without signatures, by the word of who prepared it."""
MUTABLE: Final = "coreos.com/rkt/stage1/mutable"
READY: Final = "stage1/rootfs/rkt/supervisor-status"
STATUS: Final = "stage1/rootfs/rkt/status"


class State(StrEnum):
    """In rkt's words."""

    EMBRYO = "embryo"
    PREPARING = "preparing"
    ABORTED = "aborted prepare"
    PREPARED = "prepared"
    RUNNING = "running"
    EXITED = "exited"
    EXITED_DELETING = "exited deleting"
    EXITED_GARBAGE = "exited garbage"
    DELETING = "deleting"
    GARBAGE = "garbage"


_STATES: Final = {
    (Phase.EMBRYO, True): State.EMBRYO,
    (Phase.EMBRYO, False): State.EMBRYO,
    (Phase.PREPARE, True): State.PREPARING,
    (Phase.PREPARE, False): State.ABORTED,
    (Phase.PREPARED, True): State.PREPARED,
    (Phase.PREPARED, False): State.PREPARED,
    (Phase.RUN, True): State.RUNNING,
    (Phase.RUN, False): State.EXITED,
    (Phase.EXITED, True): State.EXITED_DELETING,
    (Phase.EXITED, False): State.EXITED_GARBAGE,
    (Phase.GARBAGE, True): State.DELETING,
    (Phase.GARBAGE, False): State.GARBAGE,
}


@dataclass(frozen=True)
class Seen:
    """A pod as it was at one moment."""

    root: Path
    uuid: str
    phase: Phase
    locked: bool

    @property
    def path(self) -> Path:
        return self.root / self.phase / self.uuid

    @property
    def state(self) -> State:
        return _STATES[self.phase, self.locked]

    @property
    def ended(self) -> bool:
        """It ran, and does so no more."""
        return self.state in {State.EXITED, State.EXITED_DELETING, State.EXITED_GARBAGE}

    def manifest(self) -> dict[str, Any]:
        """The PodManifest; {} while there is none."""
        try:
            return dict(json.loads((self.path / "pod").read_bytes()))
        except (OSError, ValueError):
            return {}

    def apps(self) -> list[dict[str, Any]]:
        return list(self.manifest().get("apps") or ())

    @property
    def mutable(self) -> bool:
        """Whether its apps come and go (`app sandbox`)."""
        notes = {note["name"]: note["value"] for note in self.manifest().get("annotations") or ()}
        return notes.get(MUTABLE) == "true"

    def image_ids(self) -> list[str]:
        return [str(app["image"]["id"]) for app in self.apps()]

    def stage1_id(self) -> str:
        """Of somebody else's stage1 image that runs the pod, or has still to collect it; "" when there is none."""
        try:
            return (self.path / STAGE1_ID).read_text()
        except OSError:
            return ""

    def image_name(self, app: str) -> str:
        """`name:version` of an app's image; "" when its manifest cannot be read."""
        try:
            manifest = json.loads((self.path / "appsinfo" / app / "manifest").read_bytes())
        except (OSError, ValueError):
            return ""
        version = next((e["value"] for e in manifest.get("labels") or () if e["name"] == "version"), "")
        return f"{manifest['name']}:{version}" if version else str(manifest["name"])

    def time_of(self, name: str) -> float | None:
        """When a file of the pod's was written."""
        try:
            return (self.path / name).stat().st_mtime
        except OSError:
            return None

    @property
    def created(self) -> float | None:
        return self.time_of(CREATED)

    @property
    def started(self) -> float | None:
        return self.time_of("pid") or self.time_of("ppid")

    def pid(self) -> int | None:
        """Of the pod's init, on the host; a stage1 of others may have named its parent instead."""
        pid, parent = self._number("pid"), self._number("ppid")
        if pid is not None or parent is None or not self.locked:
            return pid
        try:
            children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
        except OSError:
            return None
        return int(children[0]) if children else None

    def exit_code(self, app: str) -> int | None:
        """None while it has not ended."""
        return self._number(f"{STATUS}/{app}")

    def app_times(self, app: str) -> tuple[float | None, float | None]:
        """When an app was started and ended."""
        return self.time_of(f"{STATUS}/{app}-started"), self.time_of(f"{STATUS}/{app}")

    def ready(self) -> bool:
        try:
            return os.readlink(self.path / READY) == "ready"
        except OSError:
            return False

    def _number(self, name: str) -> int | None:
        try:
            return int((self.path / name).read_text())
        except (OSError, ValueError):
            return None


def look(root: Path, phase: Phase, uuid: str) -> Seen | None:
    """One pod in one phase; None when it is not there."""
    try:
        fd = os.open(root / phase / uuid, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            locked = True
        else:
            locked = False
        try:
            os.stat(root / phase / uuid)
        except OSError:
            return None
        return Seen(root, uuid, phase, locked)
    finally:
        os.close(fd)


def walk(root: Path, phases: tuple[Phase, ...] = tuple(Phase)) -> Iterator[Seen]:
    """All pods. Phases are looked at in the order in which pods go through them: none is missed, none comes twice."""
    found: dict[str, Seen] = {}
    for phase in phases:
        try:
            names = sorted(os.listdir(root / phase))
        except OSError:
            continue
        for name in names:
            if not name.startswith(".") and (seen := look(root, phase, name)) is not None:
                found[name] = seen
    yield from sorted(found.values(), key=lambda seen: (seen.created or 0.0, seen.uuid))


def find(root: Path, text: str) -> Seen:
    """The pod of this UUID, or of a UUID that alone begins so. Failure."""
    if not text:
        raise Failure("UUID cannot be empty")
    if "/" in text or text.startswith("."):
        raise Failure(f"{text!r} is not a pod's UUID")
    matches = {}
    for phase in Phase:
        try:
            names = os.listdir(root / phase)
        except OSError:
            continue
        for name in names:
            if name.startswith(text) and (seen := look(root, phase, name)) is not None:
                matches[name] = seen
    if text in matches:
        return matches[text]
    if len(matches) > 1:
        raise Failure(f"unable to resolve UUID: ambiguous UUID {text!r}: {', '.join(sorted(matches)[:5])}")
    if not matches:
        raise Failure(f'no matches found for "{text}"')
    return next(iter(matches.values()))


def uuid_from(path: str) -> str:
    """`--uuid-file`. Failure."""
    try:
        return Path(path).read_text().strip()
    except OSError as error:
        raise Failure(f"unable to resolve UUID from file: {path}: {error.strerror}") from None


def named(words: list[str], uuid_file: str, *, many: bool = False) -> list[str]:
    """The UUIDs that a command line means. Failure when it is not one, or with `many` none."""
    if bool(words) == bool(uuid_file):
        raise Failure("name a pod by its UUID, or with --uuid-file")
    if len(words) > 1 and not many:
        raise Failure("name one pod")
    return words or [uuid_from(uuid_file)]
