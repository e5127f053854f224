"""Pod directories: where a pod is in its life, as directory and lock, moved on by rename.

    pods/embryo ─▶ prepare ─▶ prepared ─▶ run ─▶ exited-garbage (logs stay readable) ─▶ garbage ─▶ nothing

As rkt's (Documentation/devel/pod-lifecycle.md): whoever works on a pod holds an exclusive flock on its directory; the
kernel drops it when the holder dies, so what is unlocked at the next start is a leftover, whatever its phase. Nothing
is synced: a pod does not survive the machine. What is inside is laid out for stage1 (docs/stage1-interface.md).
"""

import errno
import fcntl
import json
import logging
import os
import stat
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

from executor.pods.spread import Spread
from executor.stage0.removal import Known, remove_known, remove_tree

log = logging.getLogger(__name__)

AC_VERSION: Final = "0.8.11"
KEPT: Final = "pod-created"
"""A file in pod directories that outlive who made them: those of `gantry rkt`, which collects them itself."""

_TRIES: Final = 1000
_LAYER: Final[Known] = {"upper": {}, "work": {"work": {"incompat": {"volatile": {"dirty": None}}}}}
_FILES: Final[Known] = {"pod": None, "pid": None, "flavor": None, "metadata-url": None}
_ETC: Final[Known] = {"hosts": None, "hostname": None, "resolv.conf": None}

Dispose = Callable[[Path], bool]
"""Called, in a thread, before a pod's directory goes; False: it has to stay, the next start tries again."""


def _nothing_to_dispose(_: Path) -> bool:
    return True


class Phase(StrEnum):
    """The phases of a pod directory; the values are the names of the directories that hold them."""

    EMBRYO = "embryo"
    PREPARE = "prepare"
    PREPARED = "prepared"
    RUN = "run"
    EXITED = "exited-garbage"
    GARBAGE = "garbage"


class PodDir:
    """One pod's directory, locked by us."""

    def __init__(
        self,
        root: Path,
        name: str,
        phase: Phase | None = None,
        dispose: Dispose = _nothing_to_dispose,
        make: Callable[[str, int], None] = os.mkdir,
    ) -> None:
        """A new one; or that of a pod which is in `phase`: FileNotFoundError, BlockingIOError if somebody has it."""
        self._root = root
        self._dispose = dispose
        self.name = name
        self.phase = phase or Phase.EMBRYO
        # Text, and plain calls: a pod's start is measured in milliseconds, and pathlib's share would show.
        self._text = f"{root}/{self.phase}/{name}"
        self._path: Path | None = None
        if phase is None:
            make(self._text, 0o750)
        self._lock = os.open(self._text, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if phase is not None:
                os.stat(self._text)  # it may have been moved on before we had the lock
        except OSError:
            os.close(self._lock)
            raise

    @property
    def lock(self) -> int:
        """The descriptor that holds the lock; whoever inherits it holds it as well."""
        return self._lock

    @property
    def path(self) -> Path:
        if self._path is None:
            self._path = Path(self._text)
        return self._path

    def move(self, phase: Phase) -> None:
        """Go on to another phase. Whoever holds paths into the directory has to ask for them again."""
        before = self._text
        self.phase = phase
        self._text, self._path = f"{self._root}/{phase}/{self.name}", None
        os.rename(before, self._text)

    def prepare(self, apps: Sequence[str]) -> None:
        """Make what stage1 does not make itself: places for the apps' images, logs and termination messages."""
        self.move(Phase.PREPARE)
        path = self._text
        for name in ("appsinfo", "logs", "termination"):
            os.mkdir(f"{path}/{name}", 0o755)
        for app in apps:
            os.mkdir(f"{path}/appsinfo/{app}")
            os.mkdir(f"{path}/logs/{app}")
            self.empty_termination_log(app)

    def write_app(
        self,
        app: str,
        image: str,
        image_id: str,
        layers: Sequence[Path],
        manifest: Mapping[str, Any] | None = None,
    ) -> None:
        """What is to be known of an app's image: which it is, its manifest, and its trees, uppermost first."""
        annotations = [
            {"name": "gantry.io/image", "value": image},
            {"name": "gantry.io/image-id", "value": image_id},
        ]
        image_manifest = manifest or {
            "acKind": "ImageManifest",
            "acVersion": AC_VERSION,
            "name": app,
            "annotations": annotations,
        }
        _put(f"{self._text}/appsinfo/{app}/manifest", json.dumps(image_manifest))
        _put(f"{self._text}/appsinfo/{app}/lower", "".join(f"{layer}\n" for layer in layers))

    def write_manifest(self, manifest: Mapping[str, Any]) -> None:
        """The PodManifest. Before the pod runs: stage1 reads it then."""
        _put(f"{self._text}/pod", json.dumps(manifest))

    def log(self, app: str, attempt: int) -> Path:
        """The newest log file of an instance."""
        return Path(f"{self._text}/logs/{app}/{attempt}.log")

    def drop_logs(self, app: str, attempt: int) -> None:
        """Forget the logs of an instance and of those before it."""
        if attempt < 0:
            return
        for file in (self.path / "logs" / app).iterdir():
            if int(file.name.partition(".")[0]) <= attempt:
                file.unlink()

    def empty_termination_log(self, app: str) -> None:
        """A fresh file for the app to leave its last message in; any user of the pod may."""
        path = f"{self._text}/termination/{app}"
        _put(path, "")
        os.chmod(path, 0o666)

    def termination_message(self, app: str, limit: int) -> str:
        """At most so many of the last bytes of what the app left. The file is the app's: nothing of it is believed."""
        try:
            path = f"{self._text}/termination/{app}"
            fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            return ""
        try:
            info = os.fstat(fd)
            if not stat.S_ISREG(info.st_mode):
                return ""
            return os.pread(fd, limit, max(0, info.st_size - limit)).decode("utf-8", "replace")
        except OSError:
            return ""
        finally:
            os.close(fd)

    def strip(self) -> None:
        """Remove all but the logs. Slow: for a thread."""
        if self._dispose(self.path):
            self._strip()

    def strip_known(self, apps: Sequence[str]) -> Callable[[], None] | None:
        """Remove what pods of these apps leave that have written nothing; returns what removes the rest, but the logs,
        if there is any. For a thread."""
        if not self._dispose(self.path):
            return None
        remove_known(self._text, _left_by(apps))
        with suppress(FileNotFoundError):
            return None if os.listdir(self._text) == ["logs"] else self._strip
        return None

    def _strip(self) -> None:
        with suppress(FileNotFoundError):  # `remove` was faster
            for entry in self.path.iterdir():
                if entry.name != "logs":
                    _remove(entry)

    def remove(self) -> None:
        """Remove what is left, and unlock. Slow: for a thread."""
        if self.phase is not Phase.GARBAGE:
            self.move(Phase.GARBAGE)
        if self._dispose(self.path):
            _remove(self.path)
        os.close(self._lock)


class PodDirs:
    """All pod directories of this executor, below one root."""

    def __init__(self, root: Path, dispose: Dispose = _nothing_to_dispose, *, spread: bool = False) -> None:
        """spread: over the disk, for many that come and go."""
        self.root = root
        self._dispose = dispose
        self._spread = Spread(root / "places") if spread else None
        self._made: weakref.WeakValueDictionary[str, PodDir] = weakref.WeakValueDictionary()

    def open(self) -> None:
        """Make the phases' directories. Raises OSError."""
        for phase in Phase:
            (self.root / phase).mkdir(parents=True, exist_ok=True, mode=0o750)
        if self._spread is not None:
            self._spread.open()

    def create(self, name: str) -> PodDir:
        """A new pod directory, locked. Raises FileExistsError when there is one of that name already."""
        make = os.mkdir if self._spread is None else self._spread.make
        made = self._made[name] = PodDir(self.root, name, None, self._dispose, make)
        return made

    def lock(self, path: Path) -> int:
        """The descriptor that holds the lock of a pod directory made here. Raises KeyError."""
        return self._made[path.name].lock

    def collect(self) -> list[str]:
        """Remove what an executor left that is gone; returns the names. Safe beside pods of others."""
        removed = []
        if self._spread is not None:
            self._spread.collect()
        for phase in Phase:
            for path in (self.root / phase).iterdir():
                if (path / KEPT).exists():
                    continue
                try:
                    left = PodDir(self.root, path.name, phase, self._dispose)
                except (BlockingIOError, FileNotFoundError):
                    continue  # somebody is at work on it, or has been
                left.remove()
                if not left.path.exists():
                    removed.append(path.name)
        return removed


def remove_layers(overlay: str, apps: Iterable[str]) -> None:
    """A directory `overlay`, of these apps: what they have written to their roots. Raises OSError."""
    remove_known(overlay, dict.fromkeys(apps, _LAYER))
    remove_tree(overlay)


def _left_by(apps: Iterable[str]) -> Known:
    """What pods of these apps leave that have written nothing (docs/stage1-interface.md)."""
    status: Known = {name: None for app in apps for name in (app, f"{app}-started")}
    return {
        **_FILES,
        "etc": _ETC,
        "overlay": dict.fromkeys(apps, _LAYER),
        "termination": dict.fromkeys(apps),
        "appsinfo": {app: {"manifest": None, "lower": None} for app in apps},
        "stage1": {"rootfs": {"rkt": {"status": status}}},
    }


def _put(path: str, text: str) -> None:
    """Write a small file."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
    data = memoryview(text.encode("utf-8", "surrogateescape"))
    try:
        while data:
            data = data[os.write(fd, data) :]
    finally:
        os.close(fd)


def _remove(path: Path) -> None:
    """Remove a file or tree. What cannot be removed is told and left: the next start tries again."""
    for _ in range(_TRIES):
        try:
            if path.is_dir() and not path.is_symlink():
                remove_tree(path)
            else:
                path.unlink(missing_ok=True)
            return
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENOTEMPTY):
                log.warning("cannot remove %s: %s", path, error)
                return
            # Another thread is at it: what an app wrote, a pod, its log go each in its own time.
    log.warning("cannot remove %s: somebody else is at it", path)
