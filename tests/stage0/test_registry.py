"""Pulling from Debian's docker-registry, as it is installed: plain and with a login."""

import base64
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from executor.stage0 import (
    ImageNeverPull,
    ImageNotFound,
    ImageRefused,
    ImageStore,
    RegistryUnavailable,
)
from executor.stage0.settings import Settings

pytestmark = [pytest.mark.root, pytest.mark.usefixtures("impatient")]

MANIFEST = "application/vnd.oci.image.manifest.v1+json"


async def test_a_real_registry(
    registry: Callable[..., SimpleNamespace],
    store: ImageStore,
    umoci_layout: Path,
    push: Callable[..., None],
    tmp_path: Path,
    refused: Callable[..., Awaitable[str]],
) -> None:
    host = registry().host
    push(f"{umoci_layout}:v1", f"{host}/team/real:v1")
    lines: list[str] = []
    image = await store.pull(f"{host}/team/real:v1", "IfNotPresent", progress=lines.append)
    assert (image.layers[0] / "added").read_text() == "added\n"
    assert image.config.entrypoint == ("/bin/sh",)
    assert image.verification.how == "none"
    assert any("layer 2/2" in line for line in lines)
    pinned = await store.pull(f"{host}/team/real@{image.digest}", "Always")
    assert (pinned.layers, pinned.verification.how) == (image.layers, "digest")
    # The same image in Docker's own format, compressed again: other digests, the same trees.
    push(f"{umoci_layout}:v1", f"{host}/team/real:v2", "--format", "v2s2", "--dest-compress-format", "zstd")
    second = await store.pull(f"{host}/team/real:v2", "Always")
    assert second.layers == image.layers
    assert second.config.format == "docker"
    message = await refused(f"{host}/team/real:v9", ImageNotFound)
    assert message == f"{host}/team/real:v9: not found in registry {host}: manifest unknown"
    assert "not found" in await refused(f"{host}/nobody/nothing", ImageNotFound)


async def test_policies(
    registry: Callable[..., SimpleNamespace],
    store: ImageStore,
    layout: Any,
    tar: Any,
    push: Callable[..., None],
    tmp_path: Path,
    refused: Callable[..., Awaitable[str]],
) -> None:
    server = registry()
    ref = f"{server.host}/app:v1"

    def put(name: str) -> None:
        layout.image(name, tar().add(name).bytes())
        push(f"{layout.path}:{name}", f"{server.host}/app:v1")

    put("one")
    one = await store.pull(ref, "IfNotPresent")
    put("two")
    again = ImageStore(tmp_path / "state")
    assert (await store.pull(ref, "IfNotPresent")).id == one.id
    assert (await again.pull(ref, "IfNotPresent")).id == one.id
    two = await again.pull(ref, "Always")
    assert two.id != one.id
    assert (await store.pull(ref, "Always")).id == two.id
    server.process.kill()
    server.process.wait()
    assert (await store.pull(ref, "IfNotPresent")).id == two.id
    assert (await store.pull(ref, "Never")).id == two.id
    message = await refused(ref, RegistryUnavailable)
    assert message == f"{ref}: registry {server.host}: Connection refused"


async def test_basic_authentication(
    registry: Callable[..., SimpleNamespace],
    layout: Any,
    tar: Any,
    push: Callable[..., None],
    tmp_path: Path,
    refused: Callable[..., Awaitable[str]],
) -> None:
    host = registry(auth=True).host
    layout.image("v1", tar().add("secret").bytes())
    push(f"{layout.path}:v1", f"{host}/app:v1", "--dest-creds", "user:secret")
    ref, mine = f"{host}/app:v1", {host: ("user", "secret")}
    store = ImageStore(tmp_path / "state")
    assert (await store.pull(ref, "Always", credentials=mine)).id
    nobody = ImageStore(tmp_path / "other")
    assert "needs a login, and there is none for it" in await refused(ref, ImageRefused, by=nobody)
    wrong = {f"{host}/app": ("user", "nope"), **mine}  # the longest match counts
    assert "the login was refused (HTTP 401" in await refused(ref, ImageRefused, by=nobody, credentials=wrong)
    docker_config = tmp_path / "config.json"
    entry = {"auth": base64.b64encode(b"user:secret").decode()}
    docker_config.write_text(json.dumps({"auths": {f"https://{host}/v2/": entry}, "credsStore": "none"}))
    node = ImageStore(tmp_path / "node", settings=Settings(docker_config=docker_config))
    assert (await node.pull(ref, "Always", credentials=wrong)).id  # the node's login is tried next
    assert (await node.pull(ref, "IfNotPresent")).id


async def test_what_a_secret_opened_is_not_everybodys(
    registry: Callable[..., SimpleNamespace],
    layout: Any,
    tar: Any,
    push: Callable[..., None],
    state: Path,
    store: ImageStore,
) -> None:
    server = registry(auth=True)
    layout.image("v1", tar().add("secret").bytes())
    push(f"{layout.path}:v1", f"{server.host}/app:v1", "--dest-creds", "user:secret")
    ref, mine = f"{server.host}/app:v1", {server.host: ("user", "secret")}
    image = await store.pull(ref, "IfNotPresent", credentials=mine)
    for again in (store, ImageStore(state)):
        with pytest.raises(ImageRefused, match="a login that this pod does not have"):
            await again.pull(ref, "IfNotPresent")
        with pytest.raises(ImageRefused, match="a login that this pod does not have"):
            await again.pull(ref, "IfNotPresent", credentials={server.host: ("user", "nope")})
        with pytest.raises(ImageNeverPull, match="a login that this pod does not have"):
            await again.pull(ref, "Never")
        with pytest.raises(ImageRefused, match="a login that this pod does not have"):
            await again.pull(image.id, "IfNotPresent")
        assert (await again.pull(image.id, "Never", credentials=mine)).id == image.id
    record = state / "store/images" / f"{image.id.replace(':', '-')}.json"
    assert "secret" not in record.read_text()
    server.process.kill()
    server.process.wait()
    assert (await ImageStore(state).pull(ref, "IfNotPresent", credentials=mine)).id == image.id
