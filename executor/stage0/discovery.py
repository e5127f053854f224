"""appc discovery: from a name and labels to the addresses of an ACI, its signature and its keys.

Simple: `https://{name}-{version}-{os}-{arch}.{ext}`, tried where a version was asked for. Meta: `<meta>` tags of the
page `https://{name}?ac-discovery=1`, or of the name's parents when it has none; the templates with the most labels
filled in are used. Plain HTTP only with hosts that the node's settings name. Stricter than appc's own code: a tag's
prefix matches whole components of a name. Sources: appc spec 0.8.11 `discovery.md`, 0.5 for simple discovery.
"""

import logging
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from html.parser import HTMLParser

from yarl import URL

from executor.stage0 import web
from executor.stage0.acmanifest import host_labels
from executor.stage0.errors import ImageError, ImageNotFound
from executor.stage0.names import Appc
from executor.stage0.web import Web

log = logging.getLogger(__name__)

MAX_PAGE = 1024 * 1024
MAX_TAGS = 100
SIMPLE = "https://{name}-{version}-{os}-{arch}.{ext}"
_HOLE = re.compile(r"\{([^{}]*)\}")


@dataclass(frozen=True)
class Place:
    """Where an ACI and its signature are. text: the first as it was written, with a port that could be left out."""

    aci: URL
    signature: URL
    text: str


class _Page(HTMLParser):
    """Collects the `content` of the two kinds of tags."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, str, str]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        words = (found.get("content") or "").split()
        name = found.get("name") or ""
        if tag == "meta" and name in {"ac-discovery", "ac-discovery-pubkeys"} and len(words) == 2:
            self.tags.append((name, words[0], words[1]))


def tags(page: bytes) -> list[tuple[str, str, str]]:
    """(kind, prefix, template or address) of the discovery tags of a page."""
    parser = _Page()
    parser.feed(page.decode("utf-8", "replace"))
    parser.close()
    return parser.tags[:MAX_TAGS]


async def places(http: Web, reference: Appc) -> list[Place]:
    """Where the image may be, by meta discovery, best first. ImageNotFound, RegistryUnavailable."""
    values = {"name": reference.name, **host_labels(), **dict(reference.labels)}
    said = []
    for name in walk(reference.name):
        try:
            found = tags(await _page(http, name))
        except ImageError as error:
            said.append(f"{name}: {error}")
            continue
        templates = [
            text for kind, prefix, text in found if kind == "ac-discovery" and covers(prefix, reference.name)
        ]
        if not templates:
            said.append(f"{name}: no ac-discovery tag for it")
            continue
        made = best(http, templates, values)
        if made:
            return made
        said.append(f"{name}: no template that name and labels fill")
    raise ImageNotFound(f"not discovered ({'; '.join(said)[:500]})")


async def keys(http: Web, name: str) -> list[URL]:
    """Addresses of the public keys of a name, nearest page first. ImageNotFound, RegistryUnavailable."""
    said = []
    for parent in walk(name):
        try:
            found = tags(await _page(http, parent))
        except ImageError as error:
            said.append(f"{parent}: {error}")
            continue
        mine = [
            text for kind, prefix, text in found if kind == "ac-discovery-pubkeys" and covers(prefix, name)
        ]
        addresses = [URL(text) for text in mine if _is_address(http, text)]
        if addresses:
            return addresses
        said.append(f"{parent}: no ac-discovery-pubkeys tag for it")
    raise ImageNotFound(f"no keys of {name} discovered ({'; '.join(said)[:500]})")


def simple(http: Web, reference: Appc) -> list[Place]:
    """Where simple discovery says it is; nothing without a version."""
    values = {"name": reference.name, **host_labels(), **dict(reference.labels)}
    if "version" not in values:
        return []
    base = str(http.base(reference.name.partition("/")[0]).origin())
    return best(
        http, [SIMPLE.replace("https://{name}", f"{base}/{reference.name.partition('/')[2]}")], values
    )


def walk(name: str) -> Iterator[str]:
    """`a.com/b/c`, `a.com/b`, `a.com`."""
    while name:
        yield name
        name = name.rpartition("/")[0]


def covers(prefix: str, name: str) -> bool:
    """Whether a prefix is the name or one of its parents."""
    prefix = prefix.rstrip("/")
    return name == prefix or name.startswith(f"{prefix}/")


def best(http: Web, templates: list[str], values: Mapping[str, str]) -> list[Place]:
    """The templates that can be filled completely, those with the most labels in them only.

    Without a version, templates that want one count only when there is no other; they get `latest`, as rkt did it.
    """
    rendered = [made for text in templates if (made := _render(http, text, values)) is not None]
    if not rendered and "version" not in values:
        return best(http, templates, {**values, "version": "latest"})
    most = max((count for count, _ in rendered), default=0)
    return [place for count, place in rendered if count == most]


def _render(http: Web, template: str, values: Mapping[str, str]) -> tuple[int, Place] | None:
    holes = set(_HOLE.findall(template))
    if "ext" not in holes or not holes - {"ext"} <= values.keys():
        return None
    image, signature = (_fill(template, {**values, "ext": extension}) for extension in ("aci", "aci.asc"))
    if not _is_address(http, image) or not _is_address(http, signature):
        return None
    return len(holes - {"ext", "name"}), Place(URL(image), URL(signature), image)


def _fill(template: str, values: Mapping[str, str]) -> str:
    return _HOLE.sub(lambda hole: values[hole[1]], template)


def _is_address(http: Web, text: str) -> bool:
    """Other schemes (hdfs, …) are skipped, and so is plain HTTP where it is not allowed."""
    try:
        url = URL(text)
    except ValueError:
        return False
    return (
        bool(url.host)
        and not url.user
        and (url.scheme == "https" or (url.scheme == "http" and http.may_be_plain(url)))
    )


async def _page(http: Web, name: str) -> bytes:
    host, _, path = name.partition("/")
    url = (http.base(host).origin() / path if path else http.base(host).origin()).with_query(
        {"ac-discovery": "1"}
    )

    async def attempt() -> bytes:
        answer = await http.follow("GET", url, {"Accept": "text/html, */*"})
        try:
            if answer.status != 200:
                web.refuse(answer, str(url))
            return await web.body(answer, MAX_PAGE, str(url))
        finally:
            answer.close()

    return await web.patiently(attempt)
