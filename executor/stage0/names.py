"""Image references: what a pod may write into `image:`, parsed into where the image is.

    nginx, quay.io/a/b:v1@sha256:…   Registry   Docker/OCI reference, completed as Docker does (docker.io, library/)
    localhost/hello:latest           Local      OCI layout <local-images>/hello, tag latest: this node's own images
    oci:///dir:tag, oci:/dir:tag     Layout     OCI layout directory
    oci-archive:/x.tar[:tag]         Archive    tar of an OCI layout
    docker-archive:/x.tar[:name:tag] Archive    what `docker save` writes
    file:///x.aci, file:///x.tar     Archive    ACI, docker or OCI archive: told apart by content
    sha256:…, sha512-…               Stored     already in the store, by (a prefix of) its id

`localhost:5000/…` is a registry, as in Docker: only the bare word `localhost` means local images. Not here yet: appc
discovery and https URLs; they are refused by name. Grammar: distribution/reference `regexp.go`.
"""

import re
from dataclasses import dataclass
from typing import Literal

from executor.stage0.errors import InvalidImageName

_COMPONENT = r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*"
_PATH = re.compile(rf"{_COMPONENT}(?:/{_COMPONENT})*")
_LABEL = r"(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])"
_DOMAIN = re.compile(rf"(?:{_LABEL}(?:\.{_LABEL})*|\[[0-9a-fA-F:]+\])(?::[0-9]{{1,5}})?")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128}")
_STORED = re.compile(r"sha256:[0-9a-f]{64}|sha512-[0-9a-f]{2,128}")
_LATER = ("appc:", "https:", "http:", "docker:", "cimd:")

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
class Stored:
    """An image by its id; an ACI's id may be a unique prefix."""

    id: str

    def __str__(self) -> str:
        return self.id


Reference = Registry | Local | Layout | Archive | Stored


def is_digest(text: object) -> bool:
    """Whether this is a digest of an algorithm that we compute."""
    return isinstance(text, str) and _DIGEST.fullmatch(text) is not None


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
    for scheme in _LATER:
        if text.startswith(f"{scheme}//"):
            raise InvalidImageName(
                f"{text}: {scheme}// references are not supported yet; use a registry reference or file://"
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
