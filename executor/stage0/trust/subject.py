"""The name that policy judges an image reference by: one spelling for each place, whatever way it was written.

A rule for `quay.io/team` must not be passed by writing `QUAY.IO/team`, `quay.io:443/team` or `https://h/x/../team`.
"""

import posixpath
from urllib.parse import quote, unquote, urlsplit

from executor.stage0 import names

_ALIASES = {"index.docker.io": "docker.io", "registry-1.docker.io": "docker.io"}


def subject(reference: names.Reference) -> str:
    """`docker.io/library/nginx`, `example.com/app` (appc), `file:/srv/x.aci`, `https://host/x.aci`; "" for an id."""
    match reference:
        case names.Registry(host, repository):
            host = host.lower().removesuffix(":443")
            return f"{_ALIASES.get(host, host)}/{repository}"
        case names.Local(name):
            return f"localhost/{name}"
        case names.Layout(path):
            return f"oci:{_path(path)}"
        case names.Archive(kind, path):
            scheme = {"docker": "docker-archive", "oci": "oci-archive", "auto": "file"}[kind]
            return f"{scheme}:{_path(path)}"
        case names.Url(url):
            parts = urlsplit(url)
            port = (
                parts.port if parts.port not in {None, {"https": 443, "http": 80}.get(parts.scheme)} else None
            )
            authority = (parts.hostname or "").rstrip(".") + (f":{port}" if port else "")
            return f"{parts.scheme}://{authority}{quote(_path(unquote(parts.path)))}"
        case names.Appc(name):
            return name
        case names.Stored():
            return ""


def _path(path: str) -> str:
    return "/" + posixpath.normpath(path).lstrip("/")
