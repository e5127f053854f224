"""What is looked at before each run of an image: that nobody has touched it in the store. Costs nothing for its size.

Each document is read and hashed once by a process, and again when its inode, size or times change. Of each layer some
paths are compared with its seal: the root, what lies there by custom, and the program that the image starts with the
directories above it. That finds trees that were replaced or edited where it matters first; that nothing at all was
touched only `gantry image verify` can say, which reads everything.
"""

import os
from collections.abc import Iterable
from pathlib import Path

from executor.stage0 import check, seal
from executor.stage0.cas import Cas
from executor.stage0.config import ImageConfig
from executor.stage0.errors import ImageBroken

_ADVICE = (
    "somebody changed the image in the store: `gantry image verify` tells more, `rm` and `fetch` mend it"
)
_ALWAYS = (
    "",
    "bin",
    "etc",
    "etc/passwd",
    "etc/group",
    "etc/ld.so.preload",
    "lib",
    "usr",
    "usr/bin",
    "usr/lib",
)
_Seen = tuple[int, ...] | None


class Guard:
    """Remembers what has been checked, for one process."""

    def __init__(self, cas: Cas) -> None:
        self._cas = cas
        self._trees: dict[tuple[Path, tuple[str, ...]], tuple[_Seen, ...]] = {}
        self._records: dict[str, dict[Path, _Seen]] = {}

    def check(self, image_id: str, config: ImageConfig, trees: Iterable[Path]) -> None:
        """ImageBroken when something was changed."""
        self._check_documents(image_id)
        names = paths(config)
        for tree in trees:
            if _unchanged(tree, names, self._trees.get((tree, names))):
                continue
            now = tuple(_look(tree, names))
            try:
                problem = seal.changed(tree, tree.parent / "seal", _real(tree, names))
            except OSError as error:
                problem = f"its seal cannot be read: {error.strerror}"
            if problem:
                raise ImageBroken(f"layer {tree.parent.name[:27]}: {problem}: {_ADVICE}")
            self._trees[tree, names] = now

    def _check_documents(self, image_id: str) -> None:
        known = self._records.get(image_id)
        if known is not None and all(_stat(path) == seen for path, seen in known.items()):
            return
        record = self._cas.load_image(image_id)
        if record is None:
            return  # removed: whoever asks pulls it again
        documents = [self._cas.blob_path(digest) for digest in record.get("documents", ())]
        seen = {path: _stat(path) for path in (self._cas.image_path(image_id), *documents)}
        problems = check.documents(self._cas, record)
        if problems:
            raise ImageBroken(f"{problems[0]}: {_ADVICE}")
        self._records[image_id] = seen


def paths(config: ImageConfig) -> tuple[str, ...]:
    """Which paths of each layer are looked at, relative to the root, directories before what is in them."""
    command = [*config.entrypoint, *config.cmd][:1]
    program = os.path.normpath(command[0]).lstrip("/") if command and command[0].startswith("/") else ""
    if program.startswith("..") or program == ".":
        program = ""
    above = [program[:at] for at in range(1, len(program)) if program[at] == "/"]
    return tuple(dict.fromkeys([*_ALWAYS, *above, *([program] if program else [])]))


def _real(tree: Path, names: tuple[str, ...]) -> list[str]:
    """Without what lies behind a link: those names are of another place."""
    links = [name for name in names if name and (tree / name).is_symlink()]
    return [name for name in names if not any(name.startswith(f"{link}/") for link in links)]


def _unchanged(tree: Path, names: tuple[str, ...], known: tuple[_Seen, ...] | None) -> bool:
    """Whether all looks as it did. What was not there need not be looked for: its directory's times would tell."""
    if known is None:
        return False
    base = str(tree)
    return all(
        seen is None or _stat(f"{base}/{name}" if name else base) == seen
        for name, seen in zip(names, known, strict=True)
    )


def _look(tree: Path, names: tuple[str, ...]) -> Iterable[_Seen]:
    base = str(tree)
    for name in names:
        yield _stat(f"{base}/{name}" if name else base)


def _stat(path: Path | str) -> _Seen:
    try:
        info = os.lstat(path)
    except OSError:
        return None
    return (
        info.st_ino,
        info.st_mode,
        info.st_uid,
        info.st_gid,
        info.st_size,
        info.st_mtime_ns,
        info.st_ctime_ns,
    )
