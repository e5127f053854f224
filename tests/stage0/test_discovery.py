"""ACIs over HTTPS: by address and by appc discovery, from a server on this machine, through a proxy."""

import asyncio
import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from yarl import URL

from executor.stage0 import (
    ImageBroken,
    ImageNotFound,
    ImageRefused,
    ImageStore,
    ImageUntrusted,
    RegistryUnavailable,
)
from executor.stage0 import discovery as d
from executor.stage0.names import Appc
from executor.stage0.settings import Host, Settings
from executor.stage0.trust import Gate, Keystore, Policy, keyfetch, manage
from executor.stage0.web import Web

ARCH = {"x86_64": "amd64"}.get(os.uname().machine, os.uname().machine)
NAME = "example.com/team/app"


def page(*tags: tuple[str, str]) -> bytes:
    text = "".join(f'<META name="{name}" content="{content}">' for name, content in tags)
    return f"<!doctype html><html><head>{text}</head><body>x</body></html>".encode()


def templates(*texts: str, prefix: str = "example.com") -> bytes:
    return page(*(("ac-discovery", f"{prefix} {text}") for text in texts))


@pytest.fixture
def appc(internet: Any, state: Path) -> ImageStore:
    return ImageStore(
        state, settings=internet.settings, trust=Gate(Policy.from_table({"default-aci": "none"}))
    )


def labelled(make_aci: Callable[..., Path], version: str, **more: Any) -> bytes:
    labels = [{"name": "os", "value": "linux"}, {"name": "arch", "value": ARCH}]
    labels.append({"name": "version", "value": version})
    return make_aci(NAME, {"v": version}, file=f"{version}.aci", labels=labels, **more).read_bytes()


@pytest.mark.root
async def test_meta_discovery(internet: Any, appc: ImageStore, make_aci: Callable[..., Path]) -> None:
    internet.pages = {
        "example.com/team/app": page(("keywords", "none of ours")),  # no tags: on to the parents
        "example.com/": templates(
            "hdfs://images.example.com/{name}-{version}.{ext}",
            "https://images.example.com/{os}/{arch}/{name}-{version}.{ext}",
            "https://images.example.com/{name}-latest.{ext}",
        ),
        f"images.example.com/linux/{ARCH}/{NAME}-1.0.aci": labelled(make_aci, "1.0"),
        f"images.example.com/{NAME}-latest.aci": labelled(make_aci, "2.0"),
    }
    image = await appc.pull(f"appc://{NAME}:1.0", "IfNotPresent")
    assert (image.layers[0] / "v").read_text() == "1.0"
    assert image.names == (f"appc://{NAME}:1.0",)
    assert (
        internet.paths()
        == [
            f"example.com/team/app-1.0-linux-{ARCH}.aci",  # simple discovery comes first; policy asks for no signature
            "example.com/team/app?ac-discovery=1",
            "example.com/team?ac-discovery=1",
            "example.com/?ac-discovery=1",
            f"images.example.com/linux/{ARCH}/{NAME}-1.0.aci",
        ]
    )
    assert set(internet.connected) == {"example.com:443", "images.example.com:443"}
    assert (await appc.pull(f"appc://{NAME}:1.0", "Never")).id == image.id
    latest = await appc.pull(f"appc://{NAME}", "IfNotPresent")
    assert (latest.layers[0] / "v").read_text() == "2.0"


@pytest.mark.root
async def test_simple_discovery(internet: Any, appc: ImageStore, make_aci: Callable[..., Path]) -> None:
    internet.pages = {f"example.com/team/app-3-linux-{ARCH}.aci": labelled(make_aci, "3")}
    image = await appc.pull(f"appc://{NAME}:3", "Always")
    assert (image.layers[0] / "v").read_text() == "3"


@pytest.mark.root
@pytest.mark.parametrize(
    ("ref", "words"),
    [
        (f"appc://{NAME}:2.0", "label version is '1.0', '2.0' was asked for"),
        (f"appc://{NAME}:1.0,channel=beta", "label channel is None"),
        ("appc://example.com/other:1.0", f"is '{NAME}', not 'example.com/other'"),
    ],
)
async def test_another_image_than_asked_for(
    ref: str, words: str, internet: Any, appc: ImageStore, make_aci: Callable[..., Path], refused: Any
) -> None:
    internet.pages = {
        "example.com/": templates("https://images.example.com/x.{ext}"),
        "images.example.com/x.aci": labelled(make_aci, "1.0"),
    }
    assert words in await refused(ref, ImageBroken, by=appc)


@pytest.mark.root
async def test_what_cannot_be_discovered(internet: Any, appc: ImageStore, refused: Any) -> None:
    internet.pages = {
        "example.com/team/app": templates("https://images.example.com/{name}.{ext}", prefix="example.com/te"),
        "example.com/team": templates("https://images.example.com/{name}-{flavour}.{ext}", prefix=NAME),
        "example.com/": templates("http://images.example.com/{name}.{ext}"),
    }
    message = await refused(f"appc://{NAME}", ImageNotFound, by=appc)
    assert f"{NAME}: no ac-discovery tag for it" in message
    assert "example.com/team: no template that name and labels fill" in message
    assert "example.com: no template" in message  # plain HTTP
    internet.pages = {}
    assert "HTTP 404" in await refused(f"appc://{NAME}", ImageNotFound, by=appc)


@pytest.mark.root
async def test_the_next_place_is_tried(
    internet: Any, appc: ImageStore, make_aci: Callable[..., Path], refused: Any
) -> None:
    internet.pages = {
        "example.com/team/app": templates(
            "https://mirror.example.com/{name}.{ext}", "https://images.example.com/{name}.{ext}"
        ),
        f"images.example.com/{NAME}.aci": labelled(make_aci, "1"),
    }
    assert (await appc.pull(f"appc://{NAME}", "Always")).id
    internet.pages[f"images.example.com/{NAME}.aci"] = 503
    assert "HTTP 503" in await refused("appc://example.com/team/app", RegistryUnavailable, by=appc)


@pytest.mark.root
async def test_redirects(
    internet: Any, appc: ImageStore, make_aci: Callable[..., Path], refused: Any
) -> None:
    async def to(request: web.Request) -> web.StreamResponse:
        raise web.HTTPFound(
            {"/ok.aci": "https://mirror.example.com/x.aci", "/no.aci": "http://mirror.example.com/x.aci"}[
                request.path
            ]
        )

    internet.pages = {
        "images.example.com/ok.aci": to,
        "images.example.com/no.aci": to,
        "mirror.example.com/x.aci": labelled(make_aci, "1"),
    }
    assert (await appc.pull("https://images.example.com/ok.aci", "Always")).id
    assert "only HTTPS is followed" in await refused("https://images.example.com/no.aci", by=appc)
    assert "plain HTTP is refused" in await refused("http://images.example.com/ok.aci", ImageRefused, by=appc)


@pytest.mark.root
async def test_what_was_fetched_is_asked_for_conditionally(
    internet: Any, appc: ImageStore, make_aci: Callable[..., Path]
) -> None:
    content = labelled(make_aci, "1")

    async def serve(request: web.Request) -> web.StreamResponse:
        headers = {"ETag": f'"{hashlib.md5(content).hexdigest()}"', "Cache-Control": cache}
        if request.headers.get("If-None-Match") == headers["ETag"]:
            return web.Response(status=304, headers=headers)
        return web.Response(body=content, headers=headers)

    ref, cache = "https://images.example.com/x.aci", "no-cache, max-age=60"
    internet.pages = {"images.example.com/x.aci": serve}
    first = await appc.pull(ref, "Always")
    internet.seen.clear()
    again = await appc.pull(ref, "Always")
    assert again.id == first.id
    assert internet.paths() == ["images.example.com/x.aci"]  # a 304, and no signature
    content = labelled(make_aci, "2")
    cache = "max-age=3600"
    assert (await appc.pull(ref, "IfNotPresent")).id == first.id
    second = await appc.pull(ref, "Always")
    assert second.id != first.id
    internet.seen.clear()
    content = labelled(make_aci, "3")
    assert (await appc.pull(ref, "Always")).id == second.id  # fresh for an hour
    assert internet.seen == []


@pytest.mark.root
@pytest.mark.parametrize("changes", [False, True], ids=["same", "replaced-meanwhile"])
async def test_a_download_that_breaks_off(
    changes: bool, internet: Any, appc: ImageStore, make_aci: Callable[..., Path], tmp_path: Path
) -> None:
    noise = os.urandom(400_000).hex()
    contents = [make_aci(NAME, {"v": n, "noise": noise}, file=n).read_bytes() for n in ("1", "2")]
    asked: list[str] = []

    async def serve(request: web.Request) -> web.StreamResponse:
        version = int(changes and len(asked) > 1)
        content, etag = contents[version], f'"{version}"'
        asked.append(request.headers.get("Range", ""))
        start = 0
        if request.headers.get("If-Range") == etag:
            start = int(request.headers["Range"][6:-1])
        headers = {"ETag": etag, "Content-Length": str(len(content) - start)}
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        answer = web.StreamResponse(status=206 if start else 200, headers=headers)
        await answer.prepare(request)
        end = len(content) if len(asked) > 3 else start + 100_000
        await answer.write(content[start:end])
        if end < len(content):
            assert request.transport is not None
            request.transport.close()
        return answer

    internet.pages = {"images.example.com/x.aci": serve}
    image = await appc.pull("https://images.example.com/x.aci", "Always")
    assert (image.layers[0] / "v").read_text() == ("2" if changes else "1")
    assert (image.layers[0] / "noise").read_text() == noise
    assert len(asked) >= 4
    assert asked[1].startswith("bytes=")


@pytest.mark.root
async def test_a_signature_that_comes_later(
    internet: Any, state: Path, make_aci: Callable[..., Path], refused: Any
) -> None:
    """202: asked for again behind the image. That it is none is found before the image is looked into."""
    answers = [202, (b"no signature", {})]

    async def signature(_: web.Request) -> web.StreamResponse:
        answer = answers.pop(0)
        return web.Response(status=answer) if isinstance(answer, int) else web.Response(body=answer[0])

    internet.pages = {
        "images.example.com/x.aci": labelled(make_aci, "1"),
        "images.example.com/x.aci.asc": signature,
    }
    strict = ImageStore(state, settings=internet.settings)
    message = await refused("https://images.example.com/x.aci", Exception, by=strict)
    assert answers == []
    assert "sign" in message


@pytest.mark.root
async def test_an_unknown_authority_and_a_name_that_is_not_the_certificates(
    internet: Any, state: Path, refused: Any, make_aci: Callable[..., Path], authority: Any
) -> None:
    internet.pages = {"images.example.com/x.aci": labelled(make_aci, "1")}
    stranger = ImageStore(state)
    assert "TLS" in await refused("https://images.example.com/x.aci", RegistryUnavailable, by=stranger)
    other = ImageStore(state, settings=Settings(hosts={"other.example.com": Host(ca=authority.authority)}))
    assert "TLS" in await refused("https://other.example.com/x.aci", RegistryUnavailable, by=other)
    assert internet.seen == []
    loose = Settings(hosts={"images.example.com": Host(skip_verify=True)})
    trust = Gate(Policy.from_table({"default-aci": "none"}))
    assert (
        await ImageStore(state, settings=loose, trust=trust).pull(
            "https://images.example.com/x.aci", "Always"
        )
    ).id


async def test_keys(internet: Any) -> None:
    internet.pages = {
        "example.com/team": page(
            ("ac-discovery-pubkeys", "example.com/other https://example.com/other.gpg"),
            ("ac-discovery-pubkeys", "example.com/team https://example.com/keys.gpg"),
            ("ac-discovery-pubkeys", "example.com/team http://example.com/plain.gpg"),
        )
    }
    http = Web(internet.settings)
    addresses = await d.keys(http, NAME)
    with pytest.raises(ImageNotFound, match=r"no keys of example\.com discovered"):
        await d.keys(http, "example.com")
    await http.close()
    assert addresses == [URL("https://example.com/keys.gpg")]


def test_the_best_templates() -> None:
    http = Web(Settings())
    full, mirror = (
        "https://a/{os}/{arch}/{name}-{version}.{ext}",
        "https://b/{os}/{arch}/{name}-{version}.{ext}",
    )
    latest = "https://a/{os}/{arch}/{name}-latest.{ext}"
    values = {"name": "x/y", "os": "linux", "arch": "amd64"}
    every = [full, mirror, latest, "https://a/{name}.{ext}", "https://a/{name}.aci", "ftp://a/{name}.{ext}"]
    made = d.best(http, every, {**values, "version": "1"})
    assert [str(place.aci) for place in made] == [
        "https://a/linux/amd64/x/y-1.aci",
        "https://b/linux/amd64/x/y-1.aci",
    ]
    assert str(made[0].signature) == "https://a/linux/amd64/x/y-1.aci.asc"
    assert [str(p.aci) for p in d.best(http, every, values)] == ["https://a/linux/amd64/x/y-latest.aci"]
    assert [str(p.aci) for p in d.best(http, [full], values)] == ["https://a/linux/amd64/x/y-latest.aci"]
    assert d.best(http, ["https://a/{name}-{channel}.{ext}"], values) == []
    assert d.simple(http, Appc("x/y")) == []


@pytest.mark.parametrize(
    ("prefix", "name", "expected"),
    [("a/b", "a/b", True), ("a/b", "a/b/c", True), ("a/b/", "a/b/c", True),
     ("a/b", "a/bc", False), ("a/b", "a", False)],
)  # fmt: skip
def test_prefixes_are_whole_components(prefix: str, name: str, expected: bool) -> None:
    assert d.covers(prefix, name) is expected


def test_odd_pages() -> None:
    assert d.tags(b"\xff<meta name=ac-discovery content='a b c'><meta name=ac-discovery><meta") == []
    many = b"<meta name='ac-discovery' content='a https://b/{ext}'>" * 1000
    assert len(d.tags(many)) == d.MAX_TAGS


@pytest.mark.root
async def test_a_name_whose_keys_are_discovered(
    internet: Any, state: Path, make_aci: Callable[..., Path], keyring: Any, trusted: tuple[Path, Path]
) -> None:
    """From nothing to a verified image: first the keys that the name's own pages offer, then the pull."""
    aci = make_aci(NAME)
    internet.pages = {
        "example.com/team": page(
            ("ac-discovery-pubkeys", "example.com/team https://example.com/keys.gpg"),
            ("ac-discovery", "example.com/team https://example.com/{name}.{ext}"),
        ),
        "example.com/keys.gpg": keyring.public("good").encode(),
        f"example.com/{NAME}.aci": aci.read_bytes(),
        f"example.com/{NAME}.aci.asc": keyring.sign("good", aci).read_bytes(),
    }
    store = ImageStore(state, settings=internet.settings, trust=Gate(keystore=Keystore(trusted)))
    with pytest.raises(ImageUntrusted, match=r"no key is trusted for it .*policy.default-aci = signed"):
        await store.pull(f"appc://{NAME}", "IfNotPresent")
    ((place, (key,)),) = await asyncio.to_thread(keyfetch.fetch, "example.com/team", [], internet.settings)
    assert (place, key.fingerprint) == ("https://example.com/keys.gpg", keyring.keys["good"])
    manage.add(store.trust.keystore, "example.com/team", key)
    image = await store.pull(f"appc://{NAME}", "IfNotPresent")
    (fact,) = image.verification.facts
    assert (fact.subject, fact.signers) == (NAME, (f"openpgp:{key.fingerprint}",))
    manage.remove(store.trust.keystore, "example.com/team", key.fingerprint)
    with pytest.raises(ImageUntrusted, match="no key is trusted for it"):
        await store.pull(f"appc://{NAME}", "IfNotPresent")


@pytest.mark.root
async def test_circles_of_dependencies_that_are_discovered(
    internet: Any, appc: ImageStore, make_aci: Callable[..., Path]
) -> None:
    """Two images that need one another, asked for at one time: neither waits for the other for ever."""

    def needing(name: str, other: str) -> bytes:
        return make_aci(
            f"example.com/{name}", dependencies=[{"imageName": f"example.com/{other}"}]
        ).read_bytes()

    internet.pages = {
        "example.com/": templates("https://example.com/{name}.{ext}"),
        "example.com/example.com/a.aci": needing("a", "b"),
        "example.com/example.com/b.aci": needing("b", "a"),
    }
    pulls = [appc.pull(f"appc://example.com/{name}", "IfNotPresent") for name in "abab"]
    results = await asyncio.wait_for(asyncio.gather(*pulls, return_exceptions=True), 90)
    for name, other, result in zip("abab", "baba", results, strict=True):
        assert isinstance(result, ImageBroken)
        circle = f"example.com/{name} → example.com/{other} → example.com/{name}"
        assert str(result).endswith(f"dependencies go in a circle: {circle}")


@pytest.mark.root
async def test_dependencies_that_never_end(
    internet: Any, appc: ImageStore, make_aci: Callable[..., Path]
) -> None:
    def link(number: int) -> bytes:
        needed = [{"imageName": f"example.com/n{number + 1}"}]
        return make_aci(f"example.com/n{number}", dependencies=needed).read_bytes()

    internet.pages = {
        "example.com/": templates("https://example.com/{name}.{ext}"),
        **{f"example.com/example.com/n{number}.aci": link(number) for number in range(20)},
    }
    with pytest.raises(ImageBroken, match="dependencies are more than 16 deep"):
        await appc.pull("appc://example.com/n0", "IfNotPresent")
    image = await appc.pull(f"file://{make_aci('example.com/n5')}", "IfNotPresent")  # now there is an end
    assert image.layers
    assert len((await appc.pull("appc://example.com/n0", "IfNotPresent")).layers) == 6
