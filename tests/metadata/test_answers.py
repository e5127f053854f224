"""The service as a pod's program sees it: real HTTP, on the host's loopback."""

import asyncio
import base64
import errno
import io
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from executor.metadata import answers, http
from executor.metadata.service import Service

BASE = "/acMetadata/v1"
ASCII = "text/plain; charset=us-ascii"
Ask = Any
MakePod = Callable[..., Any]


async def test_the_pod_s_own(make_pod: MakePod, ask: Ask) -> None:
    pod = make_pod()
    uuid = await ask(f"{pod.url}{BASE}/pod/uuid")
    assert (uuid.status, uuid.type, uuid.text) == (200, ASCII, pod.uid)
    annotations = await ask(f"{pod.url}{BASE}/pod/annotations")
    assert (annotations.status, annotations.type) == (200, "application/json")
    assert {one["name"]: one["value"] for one in annotations.json} == {
        "ip-address": "10.1.2.3",
        "a/b": "c",
        "team": "blue",
        "gantry.io/pod-name": "web-1",
        "gantry.io/pod-namespace": "shop",
    }
    one = await ask(f"{pod.url}{BASE}/pod/annotations/a/b")
    assert (one.status, one.type, one.text) == (200, ASCII, "c")
    assert (await ask(f"{pod.url}{BASE}/pod/annotations/a")).status == 404


async def test_the_manifest_is_appc_s_and_has_nothing_of_ours(make_pod: MakePod, ask: Ask) -> None:
    pod = make_pod()
    answer = await ask(f"{pod.url}{BASE}/pod/manifest")
    assert (answer.status, answer.type) == (200, "application/json")
    manifest = answer.json
    app = manifest["apps"][0]
    assert app["image"]["id"].startswith("sha512-")
    assert (await ask(f"{pod.url}{BASE}/apps/web/image/id")).text == app["image"]["id"]
    assert [one["name"] for one in app["app"]["isolators"]] == ["resource/memory"]
    assert manifest["isolators"] == []
    assert [one["name"] for one in manifest["volumes"]] == ["data", "termination-web"]
    assert [one["volume"] for one in app["mounts"]] == ["termination-web", "data"]
    assert app["app"]["environment"] == [{"name": "A", "value": "ü"}]
    assert answer.text.count("gantry.io") == 3  # annotations
    assert manifest["annotations"] == (await ask(f"{pod.url}{BASE}/pod/annotations")).json
    assert manifest["userLabels"] == {"app": "Web"}
    assert manifest["userAnnotations"]["Odd Name"] == "x"


async def test_an_app_s(make_pod: MakePod, ask: Ask) -> None:
    pod = make_pod()
    url = f"{pod.url}{BASE}/apps/web"
    assert (await ask(f"{url}/annotations")).json == [
        {"name": "authors", "value": "Ann"},
        {"name": "tier", "value": "pod's"},
        {"name": "colour", "value": "bläu"},
    ]
    assert (await ask(f"{url}/annotations/authors")).type == ASCII
    odd = await ask(f"{url}/annotations/colour")
    assert (odd.text, odd.type) == ("bläu", "text/plain; charset=utf-8")
    image = await ask(f"{url}/image/manifest")
    assert (image.status, image.type) == (200, "application/json")
    assert image.json["name"] == "example.com/web"
    assert image.json["labels"] == [{"name": "id", "value": "sha256:1234"}]
    assert (await ask(f"{url}/image/id")).type == ASCII
    for what in ("annotations", "annotations/authors", "image/manifest", "image/id"):
        assert (await ask(f"{pod.url}{BASE}/apps/none/{what}")).status == 404


async def test_pods_sign_and_verify_one_another(make_pod: MakePod, ask: Ask) -> None:
    ours, theirs = make_pod(), make_pod()
    content = "Old MacDonald & had=a farm\n+ü"
    signed = await ask(f"{ours.url}{BASE}/pod/hmac/sign", "POST", data={"content": content})
    assert (signed.status, signed.type) == (200, ASCII)
    assert len(base64.b64decode(signed.text, validate=True)) == 64
    form = {"content": content, "uuid": ours.uid, "signature": signed.text}
    verify = f"{theirs.url}{BASE}/pod/hmac/verify"
    good = await ask(verify, "POST", data=form)
    assert (good.status, good.type) == (200, ASCII)
    assert (await ask(verify, "POST", data={**form, "uuid": ours.uid.replace("-", "")})).status == 200
    for wrong in (
        {"content": "else"},
        {"uuid": theirs.uid},
        {"signature": base64.b64encode(b"x" * 64).decode()},
        {"signature": ""},
    ):
        assert (await ask(verify, "POST", data={**form, **wrong})).status == 403, wrong
    for broken in ({"content": ""}, {"uuid": "x"}, {"uuid": ""}, {"signature": "*"}):
        answer = await ask(verify, "POST", data={**form, **broken})
        assert answer.status == 400, broken
        assert next(iter(broken)) in answer.text


async def test_forms_of_either_kind_byte_for_byte(make_pod: MakePod, ask: Ask) -> None:
    import aiohttp

    url = f"{make_pod().url}{BASE}/pod/hmac/sign"
    encoded = await ask(
        url, "POST", data=b"content=%ff%00x+y",
        headers={"Metadata-Flavor": "AppContainer", "Content-Type": "application/x-www-form-urlencoded"},
    )  # fmt: skip
    form = aiohttp.FormData()
    form.add_field("content", b"\xff\x00x y", filename="c", content_type="application/octet-stream")
    parts = await ask(url, "POST", data=form)
    assert (encoded.status, parts.status) == (200, 200)
    assert encoded.text == parts.text


async def test_forms_of_many_parts_are_refused(make_pod: MakePod, ask: Ask) -> None:
    url = f"{make_pod().url}{BASE}/pod/hmac/sign"
    kind = {"Metadata-Flavor": "AppContainer", "Content-Type": "multipart/form-data; boundary=b"}

    def form(count: int, size: int = 1) -> io.BytesIO:
        head = b'--b\r\nContent-Disposition: form-data; name="content"; filename="f"\r\n\r\n'
        return io.BytesIO((head + b"x" * size + b"\r\n") * count + b"--b--\r\n")

    before = len(os.listdir("/proc/self/fd"))
    assert (await ask(url, "POST", data=form(answers.PARTS), headers=kind)).status == 200
    assert (await ask(url, "POST", data=form(5000), headers=kind)).status == 400
    assert (await ask(url, "POST", data=form(2, answers.BODY_LIMIT), headers=kind)).status == 413
    nested = io.BytesIO(
        b"--b\r\nContent-Type: multipart/mixed; boundary=c\r\n\r\n--c\r\n\r\nx\r\n--c--\r\n--b--\r\n"
    )
    assert (await ask(url, "POST", data=nested, headers=kind)).status == 400
    assert (await ask(url, "POST", data=io.BytesIO(b"no parts"), headers=kind)).status == 400
    assert len(os.listdir("/proc/self/fd")) < before + 20


async def test_who_may_ask(make_pod: MakePod, ask: Ask, service: Service) -> None:
    ours, theirs = make_pod(), make_pod()
    path = f"{BASE}/pod/uuid"
    for headers in ({}, {"Metadata-Flavor": "Google"}, {"X-Metadata-Flavor": "AppContainer"}):
        answer = await ask(ours.url + path, headers=headers)
        assert (answer.status, answer.text) == (403, "the header Metadata-Flavor: AppContainer is missing\n")
    host = ours.url.rpartition("/")[0]
    for token in ("", "x", ours.uid, ours.url[-1:], f"{ours.url.rpartition('/')[2]}0", "%00", "%ff"):
        assert (await ask(f"{host}/{token}{path}")).status == 401, token
    assert (await ask(ours.url + path)).text == ours.uid
    assert (await ask(theirs.url + path)).text == theirs.uid
    service.close(ours.path.name)
    assert (await ask(ours.url + path)).status == 401
    assert (await ask(theirs.url + path)).text == theirs.uid
    token = ours.url.rpartition("/")[2]
    assert len(token) == 48  # 192 bits


@pytest.mark.parametrize(
    "path",
    [
        *("", "/", "/acMetadata", "/acMetadata/v1", "/acMetadata/v2/pod/uuid", f"{BASE}/pod", f"{BASE}/pod/"),
        *(f"{BASE}/pod/uuid/x", f"{BASE}/pod/hmac", f"{BASE}/pod/hmac/x", f"{BASE}/pod/image/id", f"{BASE}/apps"),
        *(f"{BASE}/apps/web", f"{BASE}/apps/web/manifest", f"{BASE}/apps/web/image", f"{BASE}/pod/annotations/"),
        *(f"{BASE}/apps/web/uuid", f"{BASE}//pod/uuid", f"{BASE}/pod/../pod/uuid"),
    ],
)  # fmt: skip
async def test_what_is_not_there(make_pod: MakePod, path: str) -> None:
    pod = make_pod()
    text = await raw(pod.url, f"GET {{}}{path} HTTP/1.1\r\nHost: x\r\nMetadata-Flavor: AppContainer\r\n\r\n")
    assert text.startswith("HTTP/1.1 404 "), text


async def test_methods(make_pod: MakePod, ask: Ask) -> None:
    pod = make_pod()
    for method in ("POST", "PUT", "DELETE", "HEAD", "PATCH"):
        answer = await ask(f"{pod.url}{BASE}/pod/uuid", method)
        assert (answer.status, answer.headers["Allow"]) == (405, "GET")
    answer = await ask(f"{pod.url}{BASE}/pod/hmac/sign")
    assert (answer.status, answer.headers["Allow"]) == (405, "POST")


async def test_bodies_that_are_too_much_or_no_form(make_pod: MakePod, ask: Ask) -> None:
    url = f"{make_pod().url}{BASE}/pod/hmac/sign"
    most = b"content=" + b"x" * (answers.BODY_LIMIT - 20)
    kind = {"Metadata-Flavor": "AppContainer", "Content-Type": "application/x-www-form-urlencoded"}
    assert (await ask(url, "POST", data=io.BytesIO(most), headers=kind)).status == 200
    assert (await ask(url, "POST", data=io.BytesIO(most + b"y" * 40), headers=kind)).status == 413
    assert (
        await ask(url, "POST", data=b"{}", headers={**kind, "Content-Type": "application/json"})
    ).status == 415
    assert (await ask(url, "POST", data=b"x", headers={**kind, "Content-Encoding": "gzip"})).status == 415
    assert (await ask(url, "POST", data=b"content", headers=kind)).status == 400
    assert (await ask(url, "POST", data=b"&".join([b"a=b"] * 200), headers=kind)).status == 400


async def raw(url: str, request: str) -> str:
    """Send bytes, read all that comes."""
    host, _, token = url.removeprefix("http://").partition("/")
    address, _, port = host.partition(":")
    reader, writer = await asyncio.open_connection(address, int(port))
    writer.write(request.replace("{}", f"/{token}").encode("latin-1"))
    try:
        async with asyncio.timeout(60):
            return (await reader.read()).decode("latin-1")
    finally:
        writer.close()


@pytest.mark.parametrize(
    "request_",
    [
        "nonsense\r\n\r\n",
        "GET {} HTTP/9.9\r\n\r\n",
        "GET {}/" + "x" * 10_000 + " HTTP/1.1\r\n\r\n",
        "GET {} HTTP/1.1\r\n" + "".join(f"H{n}: x\r\n" for n in range(500)) + "\r\n",
        "GET {} HTTP/1.1\r\nX: " + "y" * 20_000 + "\r\n\r\n",
        "\x16\x03\x01\x02\x00\x01",
    ],
)
async def test_what_is_no_http_is_refused_and_no_news(
    make_pod: MakePod, ask: Ask, request_: str, caplog: pytest.LogCaptureFixture
) -> None:
    pod = make_pod()
    text = await raw(pod.url, request_)
    assert not text or text.startswith(("HTTP/1.0 400 ", "HTTP/1.1 400 ")), text
    assert (await ask(f"{pod.url}{BASE}/pod/uuid")).text == pod.uid
    assert [r for r in caplog.records if r.levelname in ("WARNING", "ERROR")] == []


async def test_a_connection_is_for_one_request(make_pod: MakePod) -> None:
    pod = make_pod()
    asked = f"GET {{}}{BASE}/pod/uuid HTTP/1.1\r\nHost: x\r\nMetadata-Flavor: AppContainer\r\n\r\n"
    text = await raw(pod.url, asked * 3)
    assert text.count("HTTP/1.1 200 OK") == 1
    assert "connection: close" in text.lower()


async def test_whoever_is_slow_has_to_go(
    make_pod: MakePod, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    pod = make_pod()
    half = (
        f"POST {{}}{BASE}/pod/hmac/sign HTTP/1.1\r\nHost: x\r\nMetadata-Flavor: AppContainer\r\n"
        "Content-Type: application/x-www-form-urlencoded\r\nContent-Length: 100\r\n\r\nconte"
    )
    with monkeypatch.context() as patched:
        patched.setattr(http, "SECONDS", 0.2)
        for beginning in ("", "GET {}/x HT", half):
            try:
                assert await raw(pod.url, beginning) == ""
            except ConnectionResetError:
                pass
    assert (await ask(f"{pod.url}{BASE}/pod/uuid")).text == pod.uid


async def test_more_connections_than_there_may_be_wait(make_pod: MakePod, service: Service, ask: Ask) -> None:
    pod = make_pod()
    host, _, port = pod.url.removeprefix("http://").partition("/")[0].partition(":")
    held = []
    try:
        while len(held) < 80:  # 64 at a time
            held.append(await asyncio.open_connection(host, int(port)))
        waiting = asyncio.create_task(ask(f"{pod.url}{BASE}/pod/uuid"))
        done, _ = await asyncio.wait([waiting], timeout=0.3)
        assert not done
        for _, writer in held:
            writer.close()
        assert (await waiting).text == pod.uid
    finally:
        for _, writer in held:
            writer.close()


async def test_a_manifest_that_cannot_be_read_is_our_fault(
    make_pod: MakePod, ask: Ask, caplog: pytest.LogCaptureFixture
) -> None:
    pod = make_pod()
    Path(pod.path / "pod").write_text("{")
    answer = await ask(f"{pod.url}{BASE}/pod/manifest")
    assert (answer.status, answer.text) == (500, "what is known of this pod cannot be read\n")
    logged = [r.getMessage() for r in caplog.records if r.name == answers.__name__]
    assert len(logged) == 1
    assert pod.url.rpartition("/")[2] not in logged[0]  # tokens are not for logs


async def test_nothing_listens_afterwards(make_pod: MakePod, service: Service) -> None:
    pod = make_pod()
    host, _, port = pod.url.removeprefix("http://").partition("/")[0].partition(":")
    await service.shut()
    with socket.socket() as probe:
        assert probe.connect_ex((host, int(port))) == errno.ECONNREFUSED
