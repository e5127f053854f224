"""A bundle that somebody else made: is it one, and for this machine?"""

import json
import platform
import tarfile
import zlib
from pathlib import Path

from shared.bundle.archive import Bundle, read_digest
from shared.bundle.contents import MARK, ROOT, BundleError


def check(path: Path) -> Bundle:
    """Raises BundleError that says what it is instead, OSError."""
    try:
        with tarfile.open(path, "r|gz") as archive:
            facts = next((_facts(archive, one) for one in archive if one.name == f"{ROOT}/{MARK}"), None)
    except (tarfile.TarError, zlib.error, EOFError, ValueError) as error:
        raise BundleError(f"{path}: not an archive that `gantry bundle` made ({error})") from error
    if facts is None:
        raise BundleError(f"{path}: not an archive that `gantry bundle` made: it has no {ROOT}/{MARK}")
    if facts.get("machine") != platform.machine():
        raise BundleError(f"{path}: made for {facts.get('machine')}, this is {platform.machine()}")
    return read_digest(path)


def _facts(archive: tarfile.TarFile, member: tarfile.TarInfo) -> dict[str, object]:
    file = archive.extractfile(member)
    facts = json.load(file) if file is not None else None
    if not isinstance(facts, dict):
        raise ValueError(f"{member.name} is damaged")
    return facts
