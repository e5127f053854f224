"""Fetch a CommandInfo's URIs into the sandbox. Blocking; belongs into a thread.

file://, plain paths, http:// and https://. Archives are extracted unless that is switched off; a file marked
executable is made so instead. No cache: `cache` only saves time in Mesos, the result is the same.

Source: Mesos src/launcher/fetcher.cpp, docs/fetcher.md.
"""

import gzip
import os
import shutil
import stat
import tarfile
import urllib.error
import urllib.request
import zipfile
from pathlib import Path
from urllib.parse import unquote, urlsplit

from local.wire.proto import Json

_TIMEOUT = 60.0  # seconds without a byte (--fetcher_stall_timeout)
_TAR = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")


class FetchError(Exception):
    """A URI cannot be fetched or extracted; names it and says why, in one line."""


def fetch(uris: list[Json], sandbox: Path, owner: tuple[int, int] | None = None) -> None:
    """Everything, in order; `owner` (uid, gid) gets what arrives. Raises FetchError at the first failure."""
    for uri in uris:
        try:
            before = set(sandbox.iterdir())
            path = _destination(uri, sandbox)
            _transfer(uri["value"], path)
            if uri.get("executable"):
                path.chmod(0o755)
            elif uri["extract"]:
                _extract(path, sandbox)
            if owner is not None:
                for new in set(sandbox.iterdir()) - before:
                    _chown(new, owner)
        except (OSError, ValueError, tarfile.TarError, zipfile.BadZipFile) as error:
            raise FetchError(f"Failed to fetch '{uri['value']}': {error}") from error


def _destination(uri: Json, sandbox: Path) -> Path:
    name = uri.get("output_file") or unquote(os.path.basename(urlsplit(uri["value"]).path))
    path = (sandbox / name).resolve()
    if not name or sandbox.resolve() not in path.parents:
        raise ValueError(f"'{name}' is no file name within the sandbox")
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def _transfer(value: str, path: Path) -> None:
    scheme = urlsplit(value).scheme
    if scheme in ("http", "https"):
        with urllib.request.urlopen(value, timeout=_TIMEOUT) as source, path.open("wb") as target:
            shutil.copyfileobj(source, target, 1 << 20)
    elif scheme in ("", "file"):
        source_path = unquote(urlsplit(value).path) if scheme else value
        if not os.path.isabs(source_path):
            raise ValueError("a path must be absolute")
        shutil.copyfile(source_path, path)
        path.chmod(stat.S_IMODE(os.stat(source_path).st_mode))
    else:
        raise ValueError(f"the embedded Mesos does not fetch {scheme}: URIs (use file, http or https)")


def _extract(path: Path, sandbox: Path) -> None:
    name = path.name.lower()
    if name.endswith(_TAR):
        with tarfile.open(path) as archive:
            archive.extractall(sandbox, filter="tar")
    elif name.endswith(".zip"):
        with zipfile.ZipFile(path) as archive_zip:
            for info in archive_zip.infolist():
                extracted = Path(archive_zip.extract(info, sandbox))
                mode = info.external_attr >> 16
                if mode and not info.is_dir():
                    extracted.chmod(stat.S_IMODE(mode))
    elif name.endswith(".gz"):
        with gzip.open(path) as source, path.with_suffix("").open("wb") as target:
            shutil.copyfileobj(source, target, 1 << 20)


def _chown(top: Path, owner: tuple[int, int]) -> None:
    os.chown(top, *owner, follow_symlinks=False)
    if top.is_dir() and not top.is_symlink():
        for directory, names, files in os.walk(top):
            for name in names + files:
                os.chown(os.path.join(directory, name), *owner, follow_symlinks=False)
