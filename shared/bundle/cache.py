"""The bundle of this program, made once and kept: `gantry scheduler` serves it.

Kept under a name that changes with everything that goes in, so that an upgrade makes a new one.
"""

import hashlib
import json
import os
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from shared.bundle.archive import Bundle, read_digest
from shared.bundle.contents import Item, contents
from shared.bundle.make import Progress, make

KEEP_SECONDS = 7 * 86400.0
"""After its last start. Who serves one that is removed has it open."""


def nobody(done: int, total: int) -> None:
    """Progress that nobody sees."""


def cached(version: str, environ: Mapping[str, str] = os.environ, progress: Progress = nobody) -> Bundle:
    """The bundle of this program, from the cache if it is there. Raises BundleError, OSError."""
    items = contents(version)
    path = _directory(environ) / f"bundle-{_key(items)}.tar.gz"
    if path.is_file():
        os.utime(path)
        return read_digest(path)
    _forget(path.parent)
    return make(path, items, progress)


def _forget(directory: Path) -> None:
    """What other versions left, and what was never finished."""
    for path in directory.glob("bundle-*"):
        try:
            if time.time() - path.stat().st_mtime > KEEP_SECONDS:
                path.unlink()
        except OSError:
            continue  # somebody else was quicker


def _directory(environ: Mapping[str, str]) -> Path:
    """Of this user, readable by nobody else: who can write there decides what runs as root on agents."""
    home = environ.get("XDG_CACHE_HOME") or (f"{environ['HOME']}/.cache" if environ.get("HOME") else "")
    for path in [Path(home, "gantry")] if os.path.isabs(home) else []:
        try:
            path.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError:
            continue
        if path.stat().st_uid == os.geteuid() and os.access(path, os.W_OK):
            return path
    return Path(tempfile.mkdtemp(prefix="gantry-bundle-"))


def _key(items: Sequence[Item]) -> str:
    facts: list[object] = [sys.version]
    for item in items:
        if isinstance(item.source, bytes):
            facts.append([item.path, hashlib.sha256(item.source).hexdigest()])
        else:
            status = item.source.stat()
            facts.append([item.path, str(item.source), status.st_size, status.st_mtime_ns])
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]
