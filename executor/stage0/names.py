"""Image references: what a pod may write into `image:`, parsed into where the image is.

    nginx, quay.io/a/b:v1@sha256:…   Registry   Docker/OCI reference, completed as Docker does (docker.io, library/)
    localhost/hello:latest           Local      OCI layout <local-images>/hello, tag latest: this node's own images
    oci:///dir:tag, oci:/dir:tag     Layout     OCI layout directory
    oci-archive:/x.tar[:tag]         Archive    tar of an OCI layout
    docker-archive:/x.tar[:name:tag] Archive    what `docker save` writes
    file:///x.aci, file:///x.tar     Archive    ACI, docker or OCI archive: told apart by content
    https://host/x.aci               Url        an ACI at an address
    appc://host/app:1.0,arch=amd64   Appc       an ACI by name, version and labels, found by appc discovery
    sha256:…, sha512-…               Stored     already in the store, by its digest or (a prefix of) its id

`localhost:5000/…` is a registry, as in Docker: only the bare word `localhost` means local images. `docker://` may stand
before a registry reference, as rkt's users write it. Grammar: distribution/reference `regexp.go`; appc spec
`discovery.md`, `types.md`.
"""

import re
from dataclasses import dataclass
from typing import Literal
from urllib.parse import urlsplit

from executor.stage0.errors import InvalidImageName

_COMPONENT = r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*"
_PATH = re.compile(rf"{_COMPONENT}(?:/{_COMPONENT})*")
_LABEL = r"(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])"
_DOMAIN = re.compile(rf"(?:{_LABEL}(?:\.{_LABEL})*|\[[0-9a-fA-F:]+\])(?::[0-9]{{1,5}})?")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128}")
_STORED = re.compile(r"sha256:[0-9a-f]{64}|sha512-[0-9a-f]{2,128}")
_AC_IDENTIFIER = re.compile(r"[a-z0-9]+((-+|[._~/])[a-z0-9]+)*")
_LABEL_VALUE = re.compile(r"[A-Za-z0-9._~+@^-]+")
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")

DEFAULT_REGISTRY = "docker.io"
MAX_REFERENCE = 4096


@dataclass(frozen=True)
class Registry:
    """An image in a registry. host is `docker.io`, `quay.io`, `localhost:5000`…; digest pins it when not empty."""

    host: str
    repository: str
    tag: str
    digest: str = ""

    def __str__(self) -> str:
        tag = f":{self.tag}" if self.tag else ""
        return f"{self.host}/{self.repository}{tag}" + (f"@{self.digest}" if self.digest else "")


@dataclass(frozen=True)
class Local:
    """An image of this node's own directory of OCI layouts (`--local-images`)."""

    name: str
    tag: str
    digest: str = ""

    def __str__(self) -> str:
        return (
            f"localhost/{self.name}"
            + (f":{self.tag}" if self.tag else "")
            + (f"@{self.digest}" if self.digest else "")
        )


@dataclass(frozen=True)
class Layout:
    """An OCI layout directory anywhere on this node; no tag means its only image."""

    path: str
    tag: str = ""

    def __str__(self) -> str:
        return f"oci:{self.path}" + (f":{self.tag}" if self.tag else "")


@dataclass(frozen=True)
class Archive:
    """A file with an image in it; `auto` is found out from what is inside."""

    kind: Literal["docker", "oci", "auto"]
    path: str
    tag: str = ""

    def __str__(self) -> str:
        scheme = {"docker": "docker-archive", "oci": "oci-archive", "auto": "file"}[self.kind]
        return f"{scheme}:{self.path}" + (f":{self.tag}" if self.tag else "")


@dataclass(frozen=True)
class Url:
    """An ACI at an https (or, where the node's settings allow it, http) address."""

    url: str

    def __str__(self) -> str:
        return self.url


@dataclass(frozen=True)
class Appc:
    """An ACI to be discovered. labels: sorted (name, value) pairs, `version` among them when one was asked for."""

    name: str
    labels: tuple[tuple[str, str], ...] = ()

    def __str__(self) -> str:
        labels = dict(self.labels)
        version = labels.pop("version", "")
        rest = "".join(f",{key}={value}" for key, value in labels.items())
        return f"appc://{self.name}" + (f":{version}" if version else "") + rest


@dataclass(frozen=True)
class Stored:
    """An image by its id or its digest; an ACI's id may be a unique prefix."""

    id: str

    def __str__(self) -> str:
        return self.id


Reference = Registry | Local | Layout | Archive | Url | Appc | Stored


def is_digest(text: object) -> bool:
    """Whether this is a digest of an algorithm that we compute."""
    return isinstance(text, str) and _DIGEST.fullmatch(text) is not None


def is_authority(text: str) -> bool:
    """Whether this is `host` or `host:port`."""
    return _DOMAIN.fullmatch(text) is not None


def parse(text: str) -> Reference:
    """Parse a reference. InvalidImageName says what is wrong with it."""
    if not text:
        raise InvalidImageName("the image name is empty")
    if len(text) > MAX_REFERENCE or any(c <= " " or c == "\x7f" or "\ud800" <= c <= "\udfff" for c in text):
        raise InvalidImageName(
            f"{text[:80]!r}: invalid reference format: blanks, control characters or too long"
        )
    if text.startswith("oci:"):
        path, tag = _path_and_tag(text, text[4:])
        return Layout(path, tag)
    for scheme, kind in (("oci-archive:", "oci"), ("docker-archive:", "docker")):
        if text.startswith(scheme):
            path, tag = _path_and_tag(text, text[len(scheme) :])
            return Archive("oci" if kind == "oci" else "docker", path, tag)
    if text.startswith("file:"):
        return Archive("auto", _absolute(text, text[5:]))
    if _STORED.fullmatch(text):
        return Stored(text)
    if text.startswith("appc:"):
        return _appc(text)
    if text.startswith(("https://", "http://")):
        return _url(text)
    text = text.removeprefix("docker://")
    if (other := _SCHEME.match(text)) is not None:
        raise InvalidImageName(
            f"{text}: {other[1]}:// is no way to an image; there are appc, docker, file, https and oci"
        )
    return _docker(text)


def _absolute(text: str, path: str) -> str:
    if path.startswith("//"):
        path = "/" + path.lstrip("/")
    if not path.startswith("/") or ".." in path.split("/"):
        raise InvalidImageName(
            f"{text}: the path has to be absolute and without '..', like file:///srv/images/app.tar"
        )
    return path


def _path_and_tag(text: str, rest: str) -> tuple[str, str]:
    """`/dir:tag`: as in skopeo, the path ends at the first colon."""
    path, _, tag = rest.partition(":")
    if tag and any(c.isspace() for c in tag):
        raise InvalidImageName(f"{text}: invalid tag {tag!r}")
    return _absolute(text, path), tag


def _url(text: str) -> Url:
    try:
        parts = urlsplit(text)
        _ = parts.port
    except ValueError as error:
        raise InvalidImageName(f"{text}: not an address: {error}") from None
    if not parts.hostname or parts.path in {"", "/"}:
        raise InvalidImageName(f"{text}: an address of an ACI is https://HOST/PATH")
    if parts.username is not None or parts.password is not None:
        raise InvalidImageName("the address of an image must not carry a login")
    if parts.fragment or not text.isascii():
        raise InvalidImageName(f"{text}: an address has no '#' and is ASCII")
    return Url(text)


def _appc(text: str) -> Appc:
    """`name[:version][,label=value…]`: one colon, before the first comma."""
    rest = text.removeprefix("appc:").removeprefix("//")
    head, *pairs = rest.split(",")
    name, colon, version = head.partition(":")
    if not _AC_IDENTIFIER.fullmatch(name):
        raise InvalidImageName(
            f"{text}: {name[:100]!r} is not an AC identifier (lower case, digits, between them - or one of ._~/)"
        )
    labels = {"version": version} if colon else {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not _AC_IDENTIFIER.fullmatch(key) or key == "name":
            raise InvalidImageName(f"{text}: {pair[:100]!r} is not label=value")
        if key in labels:
            raise InvalidImageName(f"{text}: the label {key} is there twice")
        labels[key] = value
    for key, value in labels.items():
        # They become part of an address (discovery) and of a cache key.
        if not value or not _LABEL_VALUE.fullmatch(value):
            raise InvalidImageName(f"{text}: bad value of the label {key}: {value[:100]!r}")
    return Appc(name, tuple(sorted(labels.items())))


def _docker(text: str) -> Registry | Local:
    rest, at, digest = text.partition("@")
    if at and not is_digest(digest):
        raise InvalidImageName(
            f"{text}: invalid reference format: {digest!r} is not sha256:<64 hex> or sha512:<128 hex>"
        )
    head, slash, tail = rest.partition("/")
    if slash and ("." in head or ":" in head or head == "localhost" or head.lower() != head):
        domain, remainder = head, tail
    else:
        domain, remainder = DEFAULT_REGISTRY, rest
    path, colon, tag = remainder.partition(":")
    if not _DOMAIN.fullmatch(domain):
        raise InvalidImageName(f"{text}: invalid reference format: bad registry host {domain!r}")
    if path.lower() != path:
        raise InvalidImageName(f"{text}: invalid reference format: repository name must be lowercase")
    if not _PATH.fullmatch(path) or len(path) > 255:
        raise InvalidImageName(f"{text}: invalid reference format: bad repository name {path!r}")
    if colon and not _TAG.fullmatch(tag):
        raise InvalidImageName(f"{text}: invalid reference format: bad tag {tag!r}")
    if not tag and not digest:
        tag = "latest"
    if domain == "localhost":
        return Local(path, tag, digest)
    if domain == "index.docker.io":
        domain = DEFAULT_REGISTRY
    if domain == DEFAULT_REGISTRY and "/" not in path:
        path = f"library/{path}"
    return Registry(domain, path, tag, digest)
