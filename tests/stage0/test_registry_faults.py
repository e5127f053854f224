"""Registries that misbehave: redirects, tokens, broken downloads, wrong bytes; made here to do so."""

import asyncio
import email.utils
import gzip
import hashlib
import json
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from yarl import URL

from executor.stage0 import (
    ImageBroken,
    ImageError,
    ImageNotFound,
    ImageRefused,
    ImageStore,
    RegistryUnavailable,
)
from executor.stage0 import web as client
from executor.stage0.settings import Settings, is_loopback
from tests.stage0.fakeregistry import MANIFEST, Fake, Handler

pytestmark = [pytest.mark.root, pytest.mark.usefixtures("impatient")]


@pytest.fixture
async def serve() -> AsyncIterator[Callable[..., Awaitable[str]]]:
    """serve(handler) → host:port on loopback."""
    runners: list[web.AppRunner] = []

    async def start(handler: Handler) -> str:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", handler)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        runners.append(runner)
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        return f"127.0.0.1:{runner.addresses[0][1]}"

    yield start
    for runner in runners:
        await runner.cleanup()


@pytest.fixture
async def fake(serve: Callable[..., Awaitable[str]], tar: Any) -> Fake:
    made = Fake(tar().add("f", os.urandom(3 << 20)).bytes())
    made.host = await serve(made.handle)
    return made


async def test_tokens(fake: Fake, tmp_path: Path) -> None:
    async def guard(request: web.Request) -> web.StreamResponse:
        if request.headers.get("Authorization") == "Bearer t0ken":
            return fake.answer(request)
        realm = f'Bearer realm="http://{fake.host}/token",service="reg",scope="repository:app:pull"'
        return web.Response(status=401, headers={"WWW-Authenticate": realm})

    async def token(request: web.Request) -> web.StreamResponse:
        assert request.query == {"service": "reg", "scope": "repository:app:pull"}
        assert request.headers["Authorization"].startswith("Basic ")
        return web.json_response({"token": "t0ken"})

    fake.handlers = {"manifests": guard, "blobs": guard, "token": token}
    store = ImageStore(tmp_path / "state")
    assert (await store.pull(f"{fake.host}/app", "Always", credentials={fake.host: ("u", "p")})).id
    assert len([r for r in fake.seen if r.path == "/token"]) == 1


async def test_a_refused_token(fake: Fake, store: ImageStore, refused: Callable[..., Awaitable[str]]) -> None:
    async def guard(_: web.Request) -> web.StreamResponse:
        return web.Response(
            status=401, headers={"WWW-Authenticate": f'Bearer realm="http://{fake.host}/token"'}
        )

    async def token(_: web.Request) -> web.StreamResponse:
        return web.Response(status=403)

    fake.handlers = {"manifests": guard, "token": token}
    assert "gives no token (HTTP 403)" in await refused(f"{fake.host}/app", ImageRefused)


async def test_a_token_realm_elsewhere_over_http_is_not_asked(
    fake: Fake, tmp_path: Path, refused: Callable[..., Awaitable[str]]
) -> None:
    async def guard(_: web.Request) -> web.StreamResponse:
        return web.Response(status=401, headers={"WWW-Authenticate": 'Bearer realm="http://192.0.2.1/token"'})

    fake.handlers = {"manifests": guard}
    store = ImageStore(tmp_path / "state")
    assert "only HTTPS is followed" in await refused(
        f"{fake.host}/app", ImageBroken, by=store, credentials={fake.host: ("u", "p")}
    )


async def test_redirects_carry_no_credentials(
    fake: Fake, serve: Callable[..., Awaitable[str]], tmp_path: Path
) -> None:
    elsewhere: list[web.Request] = []

    async def other(request: web.Request) -> web.StreamResponse:
        elsewhere.append(request)
        return fake.answer(request)

    host = await serve(other)

    async def blobs(request: web.Request) -> web.StreamResponse:
        if "Authorization" not in request.headers:
            return web.Response(status=401, headers={"WWW-Authenticate": 'Basic realm="x"'})
        raise web.HTTPTemporaryRedirect(f"http://{host}{request.path}?signature=1")

    fake.handlers = {"blobs": blobs}
    store = ImageStore(tmp_path / "state")
    assert (await store.pull(f"{fake.host}/app", "Always", credentials={fake.host: ("u", "p")})).id
    assert len(elsewhere) == 2  # config and layer
    assert all("Authorization" not in request.headers for request in elsewhere)
    assert all("Cookie" not in request.headers for request in elsewhere)


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("http://192.0.2.1/x", "only HTTPS is followed"),
        ("file:///etc/passwd", "only HTTPS is followed"),
        ("http://169.254.169.254/meta", "only HTTPS is followed"),
        ("", "redirects"),
        ("/v2/app/manifests/latest", "more than 5 redirects"),
    ],
)
async def test_redirects_to_nowhere_good(
    target: str, words: str, fake: Fake, store: ImageStore, refused: Callable[..., Awaitable[str]]
) -> None:
    async def handler(_: web.Request) -> web.StreamResponse:
        return web.Response(status=302, headers={"Location": target})

    fake.handlers = {"manifests": handler}
    assert words in await refused(f"{fake.host}/app", ImageBroken)


@pytest.mark.parametrize("ranges", [True, False], ids=["ranges", "no-ranges"])
async def test_a_broken_download_goes_on(ranges: bool, fake: Fake, store: ImageStore) -> None:
    """Every connection brings at most 500 kB more than the last, then breaks."""
    given: list[int] = []

    async def blobs(request: web.Request) -> web.StreamResponse:
        if not request.path.endswith(fake.layer[7:]):
            return fake.answer(request)
        wanted = request.headers.get("Range")
        start = int(wanted[6:-1]) if wanted and ranges else 0
        given.append(start)
        end = (
            min(start + 500_000, len(fake.packed)) if ranges else min(500_000 * len(given), len(fake.packed))
        )
        headers = {"Content-Length": str(len(fake.packed) - start)}
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(fake.packed) - 1}/{len(fake.packed)}"
        response = web.StreamResponse(status=206 if start else 200, headers=headers)
        await response.prepare(request)
        await response.write(fake.packed[start:end])
        if end < len(fake.packed):
            assert request.transport is not None
            await asyncio.sleep(0)
            request.transport.close()
        return response

    fake.handlers = {"blobs": blobs}
    image = await store.pull(f"{fake.host}/app", "Always")
    assert (image.layers[0] / "f").stat().st_size == 3 << 20
    assert len(given) >= 6
    if ranges:
        assert given == sorted(given)
        assert given[-1] > 2_000_000


async def test_a_download_that_never_gets_anywhere(
    fake: Fake, store: ImageStore, tmp_path: Path, refused: Callable[..., Awaitable[str]]
) -> None:
    async def blobs(request: web.Request) -> web.StreamResponse:
        if not request.path.endswith(fake.layer[7:]):
            return fake.answer(request)
        assert request.transport is not None
        request.transport.close()
        return web.Response()

    fake.handlers = {"blobs": blobs}
    message = await refused(f"{fake.host}/app", RegistryUnavailable)
    assert "layer 1 of 1" in message
    assert "download broke off" in message
    assert list((tmp_path / "state/store/tmp").iterdir()) == []


async def test_a_server_says_when_to_come_back(
    fake: Fake, store: ImageStore, monkeypatch: pytest.MonkeyPatch, refused: Callable[..., Awaitable[str]]
) -> None:
    pauses: list[float] = []
    sleep = asyncio.sleep

    async def quick(seconds: float) -> None:
        pauses.append(seconds)
        await sleep(0)

    monkeypatch.setattr(client.asyncio, "sleep", quick)

    def busy(after: str) -> web.Response:
        return web.Response(status=429, headers={"Retry-After": after})

    async def once(request: web.Request) -> web.StreamResponse:
        kind = "manifests" if "/manifests/" in request.path else "blobs"
        return busy("7") if len(fake.requests(kind)) in {1, 3} else fake.answer(request)

    fake.handlers = {"manifests": once, "blobs": once}
    assert (await store.pull(f"{fake.host}/app", "Always")).id
    assert [pause for pause in pauses if pause] == [7, 7, 7]  # manifest, config, layer
    date = email.utils.formatdate(time.time() + 3600, usegmt=True)
    for after, words in (("3600", "in 3600 s"), (date, "it asks to come back in 3")):

        async def later(_: web.Request, after: str = after) -> web.StreamResponse:
            return busy(after)

        fake.seen.clear()
        fake.handlers = {"manifests": later}
        message = await refused(f"{fake.host}/app:other", RegistryUnavailable)
        assert words in message
        assert len(fake.seen) == 1


async def test_a_mirror_that_dies_in_the_middle(
    fake: Fake, serve: Callable[..., Awaitable[str]], tmp_path: Path
) -> None:
    """The registry itself goes on where the mirror stopped."""

    async def half(request: web.Request) -> web.StreamResponse:
        if not request.path.endswith(fake.layer[7:]):
            return fake.answer(request)
        if "Range" in request.headers:
            return web.Response(status=404)
        response = web.StreamResponse(headers={"Content-Length": str(len(fake.packed))})
        await response.prepare(request)
        await response.write(fake.packed[:1_000_000])
        assert request.transport is not None
        request.transport.close()
        return response

    ranges: list[str] = []

    async def rest(request: web.Request) -> web.StreamResponse:
        if not request.path.endswith(fake.layer[7:]):
            return fake.answer(request)
        ranges.append(request.headers["Range"])
        start = int(ranges[-1][6:-1])
        headers = {"Content-Range": f"bytes {start}-{len(fake.packed) - 1}/{len(fake.packed)}"}
        return web.Response(status=206, body=fake.packed[start:], headers=headers)

    mirror = await serve(half)
    fake.handlers = {"blobs": rest}
    settings = Settings(mirrors={fake.host: (URL(f"http://{mirror}/sub"),)})
    image = await ImageStore(tmp_path / "state", settings=settings).pull(f"{fake.host}/app", "Always")
    assert (image.layers[0] / "f").stat().st_size == 3 << 20
    assert len(ranges) == 1
    assert not fake.requests("manifests")


async def test_busy_is_tried_again(
    fake: Fake, store: ImageStore, refused: Callable[..., Awaitable[str]]
) -> None:
    async def once(request: web.Request) -> web.StreamResponse:
        return web.Response(status=503) if len(fake.requests("manifests")) == 1 else fake.answer(request)

    fake.handlers = {"manifests": once}
    assert (await store.pull(f"{fake.host}/app", "Always")).id

    async def always(_: web.Request) -> web.StreamResponse:
        return web.json_response({"errors": [{"code": "X", "message": "out\nof order"}]}, status=503)

    fake.handlers = {"manifests": always}
    message = await refused(f"{fake.host}/app:other", RegistryUnavailable)
    assert message.endswith(f"registry {fake.host}: HTTP 503: out of order")


def _says(status: int = 200, body: bytes = b"", **headers: str) -> Handler:
    async def handler(_: web.Request) -> web.StreamResponse:
        named = {key.replace("_", "-"): value for key, value in headers.items()}
        return web.Response(status=status, body=body, headers={"Content-Type": MANIFEST, **named})

    return handler


@pytest.mark.parametrize(
    ("kind", "handler", "error", "words"),
    [
        ("manifests", _says(404), ImageNotFound, "not found in registry"),
        ("manifests", _says(403), ImageRefused, "needs a login"),
        ("manifests", _says(400, b"<html>"), ImageNotFound, "HTTP 400"),
        ("manifests", _says(body=b"{}"), ImageBroken, "config is missing"),
        ("manifests", _says(body=b"<html>"), ImageBroken, "not JSON"),
        ("manifests", _says(body=b"x" * (5 << 20)), ImageBroken, "manifest is longer than"),
        ("manifests", _says(body=b"{}", Docker_Content_Digest="sha256:" + "0" * 64), ImageBroken, "digest is"),
        ("manifests", _says(body=b'{"schemaVersion": 1}'), ImageBroken, "schema 1"),
        ("blobs", _says(404), ImageNotFound, "not found"),
        ("blobs", _says(body=b"{}"), ImageBroken, "config has 2 bytes"),
        ("blobs", _says(body=b"x" * (9 << 20)), ImageBroken, "config is longer than"),
    ],
)  # fmt: skip
async def test_odd_answers(
    kind: str,
    handler: Handler,
    error: type[ImageError],
    words: str,
    fake: Fake,
    store: ImageStore,
    refused: Callable[..., Awaitable[str]],
) -> None:
    fake.handlers = {kind: handler}
    assert words in await refused(f"{fake.host}/app", error)


async def test_a_pinned_manifest_has_to_match(
    fake: Fake, store: ImageStore, refused: Callable[..., Awaitable[str]]
) -> None:
    assert "manifest: digest is" in await refused(f"{fake.host}/app@sha256:{'0' * 64}", ImageBroken)


@pytest.mark.parametrize(
    ("change", "words"),
    [(lambda d: d[:-1] + bytes([d[-1] ^ 1]), "layer 1 of 1"), (lambda d: d + b"more", "longer than the"),
     (lambda d: gzip.compress(b"other").ljust(len(d), b"\0"), "layer 1 of 1")],
    ids=["flipped", "longer", "other"],
)  # fmt: skip
async def test_a_layer_that_is_not_what_was_promised(
    change: Callable[[bytes], bytes],
    words: str,
    fake: Fake,
    store: ImageStore,
    tmp_path: Path,
    refused: Callable[..., Awaitable[str]],
) -> None:
    async def blobs(request: web.Request) -> web.StreamResponse:
        if request.path.endswith(fake.layer[7:]):
            return web.Response(body=change(fake.packed))
        return fake.answer(request)

    fake.handlers = {"blobs": blobs}
    assert words in await refused(f"{fake.host}/app", ImageBroken)
    for part in ("layers", "images", "names", "tmp"):
        assert list((tmp_path / "state/store" / part).iterdir()) == []


async def test_a_cancelled_pull_leaves_no_thread_waiting(fake: Fake, store: ImageStore) -> None:
    """The loop ends while a download hangs: the extraction has to end as well, or the process would never."""
    hanging = asyncio.Event()

    async def blobs(request: web.Request) -> web.StreamResponse:
        if not request.path.endswith(fake.layer[7:]):
            return fake.answer(request)
        response = web.StreamResponse(headers={"Content-Length": str(len(fake.packed))})
        await response.prepare(request)
        await response.write(fake.packed[:100_000])
        hanging.set()
        await asyncio.sleep(3600)
        return response

    fake.handlers = {"blobs": blobs}

    def import_it() -> None:
        async def main() -> None:
            pull = asyncio.create_task(store.pull(f"{fake.host}/app", "Always"))
            await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(hanging.wait(), outer))
            pull.cancel()

        asyncio.run(main())

    outer = asyncio.get_running_loop()
    await asyncio.wait_for(asyncio.to_thread(import_it), 60)


async def test_slow_downloads_are_in_nobodys_way(
    fake: Fake, store: ImageStore, layout: Any, tar: Any
) -> None:
    """However many pulls wait for the network, another image comes in; and all of them get theirs in the end."""
    hanging, release = asyncio.Event(), asyncio.Event()

    async def blobs(request: web.Request) -> web.StreamResponse:
        if request.path.endswith(fake.layer[7:]):
            hanging.set()
            await release.wait()
        return fake.answer(request)

    fake.handlers = {"blobs": blobs}
    slow = [asyncio.create_task(store.pull(f"{fake.host}/app:t{n}", "Always")) for n in range(40)]
    await asyncio.wait_for(hanging.wait(), 60)
    layout.image("v1", tar().add("local").bytes())
    async with asyncio.timeout(60):
        assert (await store.pull("localhost/app:v1", "Always")).id
        release.set()
        assert len({image.id for image in await asyncio.gather(*slow)}) == 1
    assert len([r for r in fake.requests("blobs") if r.path.endswith(fake.layer[7:])]) == 1


async def test_an_index_is_followed_by_platform(fake: Fake, store: ImageStore) -> None:
    machine = {"x86_64": "amd64", "aarch64": "arm64"}.get(os.uname().machine, os.uname().machine)
    child = {**fake._describe(fake.manifest, MANIFEST), "platform": {"os": "linux", "architecture": machine}}
    other = {**child, "digest": "sha256:" + "0" * 64, "platform": {"os": "linux", "architecture": "vax"}}
    media_type = "application/vnd.docker.distribution.manifest.list.v2+json"
    index = json.dumps({"schemaVersion": 2, "mediaType": media_type, "manifests": [other, child]}).encode()

    async def manifests(request: web.Request) -> web.StreamResponse:
        if request.path.endswith("latest"):
            assert media_type in request.headers["Accept"]
            return web.Response(body=index, content_type=media_type)
        return fake.answer(request)

    fake.handlers = {"manifests": manifests}
    image = await store.pull(f"{fake.host}/app", "Always")
    assert image.digest == "sha256:" + hashlib.sha256(index).hexdigest()
    assert (
        await store.pull(f"{fake.host}/app", "Always")
    ).digest == image.digest  # HEAD tells no digest: read again


@pytest.mark.parametrize(
    ("authority", "expected"),
    [
        ("localhost:5000", True), ("127.0.0.1", True), ("127.1.2.3:80", True), ("[::1]:5000", True),
        ("example.com", False), ("localhost.example.com", False), ("127.0.0.1.example.com", False),
        ("10.0.0.1:5000", False), ("0.0.0.0", False),
    ],
)  # fmt: skip
def test_loopback(authority: str, expected: bool) -> None:
    assert is_loopback(authority) is expected


async def test_others_are_spoken_to_in_https_only(
    fake: Fake, store: ImageStore, monkeypatch: pytest.MonkeyPatch, refused: Callable[..., Awaitable[str]]
) -> None:
    """A registry that is not on loopback by name gets TLS, so one that only speaks HTTP cannot be pulled from."""
    monkeypatch.setattr(client, "is_loopback", lambda _: False)
    message = await refused(f"{fake.host}/app", RegistryUnavailable)
    assert "TLS" in message or "SSL" in message
    assert fake.seen == []
