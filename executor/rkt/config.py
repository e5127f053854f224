"""rkt's configuration: JSON files of some kinds in some directories, the later directory stronger than the earlier.

    DIR/auth.d/*.json    rktKind auth (for addresses of ACIs), dockerAuth (for registries)
    DIR/paths.d/*.json   rktKind paths: data, stage1-images
    DIR/stage1.d/*.json  rktKind stage1: name, version, location

Source: rkt `Documentation/configuration.md`. A field that is missing or of another kind is an error naming the file.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from executor.rkt.common import Globals, to_json, words
from executor.rkt.flags import Failure

_KINDS = {"auth.d": ("auth", "dockerAuth"), "paths.d": ("paths",), "stage1.d": ("stage1",)}
_CREDENTIALS = {
    "basic": ("user", "password"),
    "oauth": ("token",),
    "aws": ("accessKeyID", "secretAccessKey"),
}


@dataclass
class Config:
    """What the files say together. auth: domain → (type, credentials); docker: registry → (user, password)."""

    auth: dict[str, tuple[str, dict[str, str]]] = field(default_factory=dict)
    docker: dict[str, tuple[str, str]] = field(default_factory=dict)
    data_dir: str = ""
    stage1_images: str = ""
    stage1_name: str = ""
    stage1_version: str = ""
    stage1_location: str = ""

    def merge(self, other: "Config") -> None:
        """What `other` says goes before what is here."""
        self.auth |= other.auth
        self.docker |= other.docker
        self.data_dir = other.data_dir or self.data_dir
        self.stage1_images = other.stage1_images or self.stage1_images
        if other.stage1_name:
            self.stage1_name, self.stage1_version = other.stage1_name, other.stage1_version
        self.stage1_location = other.stage1_location or self.stage1_location


def load(directories: list[Path]) -> Config:
    """Read them, the weakest first. Failure names the file."""
    made = Config()
    for directory in directories:
        made.merge(_directory(directory))
    return made


def _directory(directory: Path) -> Config:
    made = Config()
    for name, kinds in _KINDS.items():
        place = directory / name
        if not place.exists():
            continue
        if not place.is_dir():
            raise Failure(f"cannot get configuration: expected {place} to be a directory")
        for path in sorted(place.iterdir()):
            if path.suffix == ".json" and path.is_file() and not path.is_symlink():
                try:
                    _file(made, json.loads(path.read_bytes()), kinds)
                except (OSError, ValueError) as error:
                    raise Failure(f"cannot get configuration: {path}: {error}") from None
    return made


def _file(config: Config, document: Any, kinds: tuple[str, ...]) -> None:
    if not isinstance(document, dict):
        raise ValueError("not a JSON object")
    kind, version = document.get("rktKind"), document.get("rktVersion")
    if not kind or not version:
        raise ValueError(f"no {'rktKind' if not kind else 'rktVersion'} specified")
    if kind not in kinds:
        raise ValueError(f"files of kind {', '.join(kinds)} belong here, not of kind {kind}")
    if version != "v1":
        raise ValueError(f"no parser available for configuration of kind {kind!r} and version {version!r}")
    _PARSERS[kind](config, document)


def _auth(config: Config, document: Mapping[str, Any]) -> None:
    how = document.get("type")
    if how not in _CREDENTIALS:
        raise ValueError(f"type {how!r} is not one of {', '.join(_CREDENTIALS)}")
    credentials = _credentials(document, _CREDENTIALS[how])
    if how == "aws":
        credentials |= {k: str(v) for k, v in document["credentials"].items() if k == "awsRegion"}
    for domain in _names(document, "domains"):
        if domain in config.auth:
            raise ValueError(f"auth for domain {domain!r} is already specified")
        config.auth[domain] = (str(how), credentials)


def _docker_auth(config: Config, document: Mapping[str, Any]) -> None:
    credentials = _credentials(document, ("user", "password"))
    for registry in _names(document, "registries"):
        if registry in config.docker:
            raise ValueError(f"credentials for docker registry {registry!r} are already specified")
        config.docker[registry] = (credentials["user"], credentials["password"])


def _paths(config: Config, document: Mapping[str, Any]) -> None:
    for key, name in (("data", "data_dir"), ("stage1-images", "stage1_images")):
        value = document.get(key) or ""
        if not isinstance(value, str) or (value and not value.startswith("/")):
            raise ValueError(f"{key}: {value!r} is not an absolute path")
        if value and getattr(config, name):
            raise ValueError(f"{key} is already specified")
        if value:
            setattr(config, name, value)


def _stage1(config: Config, document: Mapping[str, Any]) -> None:
    name, version = document.get("name") or "", document.get("version") or ""
    if bool(name) != bool(version):
        raise ValueError("name and version belong together")
    if name and config.stage1_name:
        raise ValueError("the name of the default stage1 is already specified")
    if name:
        config.stage1_name, config.stage1_version = str(name), str(version)
    config.stage1_location = str(document.get("location") or "") or config.stage1_location


_PARSERS: dict[str, Callable[[Config, Mapping[str, Any]], None]] = {
    "auth": _auth,
    "dockerAuth": _docker_auth,
    "paths": _paths,
    "stage1": _stage1,
}


def _names(document: Mapping[str, Any], key: str) -> list[str]:
    value = document.get(key)
    if not isinstance(value, list) or not value or not all(isinstance(v, str) and v for v in value):
        raise ValueError(f"{key}: expected a list of names")
    return value


def _credentials(document: Mapping[str, Any], keys: tuple[str, ...]) -> dict[str, str]:
    value = document.get("credentials")
    if not isinstance(value, dict):
        raise ValueError("credentials: not an object")
    for key in keys:
        if not isinstance(value.get(key), str) or not value[key]:
            raise ValueError(f"credentials: no {key} specified")
    return {key: value[key] for key in keys}


def show(g: Globals, args: list[str]) -> int:
    """`config`: all of it, as files of its kinds."""
    flags = g.flags("[flags]")
    flags.switch("pretty-print", "indent the output", default=True)
    if words(flags, args):
        raise Failure("takes no arguments")
    found = load(g.config_dirs)
    parts: list[dict[str, Any]] = []
    for domain, (how, credentials) in found.auth.items():
        parts.append(_part("auth", domains=[domain], type=how, credentials=credentials))
    for registry, (user, password) in found.docker.items():
        login = {"user": user, "password": password}
        parts.append(_part("dockerAuth", registries=[registry], credentials=login))
    parts.append({**_part("paths", data=found.data_dir), "stage1-images": found.stage1_images})
    parts.append(
        _part("stage1", name=found.stage1_name, version=found.stage1_version, location=found.stage1_location)
    )
    print(to_json({"stage0": parts}, pretty=flags.is_on("pretty-print")))  # noqa: T201
    return 0


def _part(kind: str, **fields: Any) -> dict[str, Any]:
    return {"rktVersion": "v1", "rktKind": kind, **fields}
