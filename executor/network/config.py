"""Reads network configurations: files as CNI's spec has them (`Network configuration format`, 0.1.0 to 1.1.0).

Pure, but for `directory`.

A `.conf` is one plugin, a `.conflist` several that are run one after the other. Fields are looked up as Go's
encoding/json does, whatever their case: plugins, and rkt, are written in Go, and files are written for them.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from executor.network.errors import CniError

VERSIONS: Final = ("0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0")
FIRST: Final = VERSIONS[0]
"""Of configurations that do not name one."""
CHAINING: Final = "0.3.0"
CACHED: Final = "0.4.0"
"""From here on DEL is told the result of ADD, and there is CHECK."""
SIZE_LIMIT: Final = 1 << 20
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_SUFFIXES: Final = (".conf", ".conflist")


def field(document: Mapping[str, Any], name: str) -> Any:
    """A field of a JSON object, as Go finds it: by its name, else by its name in another case; None without one."""
    if name in document:
        return document[name]
    folded = name.casefold()
    return next((value for key, value in document.items() if key.casefold() == folded), None)


def put(document: Mapping[str, Any], **fields: Any) -> dict[str, Any]:
    """A copy with these fields, whatever was called so in any case."""
    taken = {name.casefold() for name in fields}
    return {**{key: value for key, value in document.items() if key.casefold() not in taken}, **fields}


def at_least(version: str, other: str) -> bool:
    """Of two versions that are known."""
    return VERSIONS.index(version) >= VERSIONS.index(other)


@dataclass(frozen=True)
class Plugin:
    """One step of a network. text: its configuration as it was written, if it was a file of its own."""

    type: str
    conf: Mapping[str, Any]
    text: str = ""

    def can(self, capability: str) -> bool:
        """Whether it wants to be told of a capability (CNI's conventions, `runtimeConfig`)."""
        return bool((field(self.conf, "capabilities") or {}).get(capability))

    @property
    def masquerades(self) -> bool:
        return bool(field(self.conf, "ipMasq"))


@dataclass(frozen=True)
class Network:
    """A network that pods can be attached to. file: its file's name, which is its place among others."""

    name: str
    version: str
    plugins: tuple[Plugin, ...]
    file: str
    source: str
    text: str

    @property
    def masquerades(self) -> bool:
        """Whether its pods appear outside under the address of this machine."""
        return any(plugin.masquerades for plugin in self.plugins)


def parse(text: str, source: str) -> Network:
    """A file's text. source: its path, `….conf` or `….conflist`. Raises CniError that names it."""
    try:
        return _network(text, source)
    except (ValueError, RecursionError) as error:
        raise CniError(f"error loading {source}: {error}") from None


def _network(text: str, source: str) -> Network:
    document = json.loads(text)
    if not isinstance(document, dict):
        raise ValueError("not a JSON object")
    name = field(document, "name")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ValueError(f"name {name!r} is not letters, digits, dots, dashes and underscores")
    version = _version(document)
    file = source.rpartition("/")[2]
    if not file.endswith(".conflist"):
        return Network(name, version, (_plugin(document, text),), file, source, text)
    steps = field(document, "plugins")
    if not isinstance(steps, list) or not steps or not all(isinstance(step, dict) for step in steps):
        raise ValueError("plugins: expected a list of at least one configuration")
    if len(steps) > 1 and not at_least(version, CHAINING):
        raise ValueError(f"several plugins need cniVersion {CHAINING} or newer")
    plugins = tuple(_plugin(step, "") for step in steps)
    return Network(name, version, plugins, file, source, text)


def _version(document: Mapping[str, Any]) -> str:
    """The newest that is named and known: `cniVersion`, or from 1.1.0 on one of `cniVersions`."""
    version = field(document, "cniVersion") or FIRST
    others = field(document, "cniVersions") or []
    if not isinstance(others, list):
        raise ValueError("cniVersions: not a list")
    known = [one for one in VERSIONS if one == version or one in others]
    if not known:
        raise ValueError(f"cniVersion {version!r} is none of {', '.join(VERSIONS)}")
    return known[-1]


def _plugin(document: Mapping[str, Any], text: str) -> Plugin:
    kind = field(document, "type")
    if not isinstance(kind, str) or not kind or "/" in kind or kind in (".", ".."):
        raise ValueError(f"type {kind!r} is not the name of a plugin")
    if not isinstance(field(document, "capabilities") or {}, dict):
        raise ValueError("capabilities: not an object")
    return Plugin(kind, document, text)


def directory(path: Path) -> list[Network]:
    """The networks of a directory, by their files' names; [] when it is not there. Raises CniError."""
    try:
        files = sorted(one for one in path.iterdir() if one.suffix in _SUFFIXES and not one.is_dir())
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise CniError(f"{path}: {error.strerror}") from None
    return [parse(_read(file), str(file)) for file in files]


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(SIZE_LIMIT + 1)
        if len(data) > SIZE_LIMIT:
            raise CniError(f"error loading {path}: larger than {SIZE_LIMIT} bytes")
        return data.decode()
    except OSError as error:
        raise CniError(f"error loading {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise CniError(f"error loading {path}: not UTF-8") from None
