"""rkt's metadata service: registrations over the unix socket, and pods of `gantry rkt run` that are registered."""

import asyncio
import json
import os
import socket
import stat
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import aiohttp
import pytest

from executor.metadata import client, registry
from executor.metadata.client import MetadataError, Registration
from executor.metadata.doors import PORT, URL_FILE
from executor.metadata.keys import Keys

Ask = Any


@dataclass
class Service:
    """One that runs. path: of its socket."""

    path: Path
    public: str
    register: Callable[..., Any]


@pytest.fixture
async def daemon(keys: Keys, tmp_path: Path) -> AsyncIterator[Service]:
    path = tmp_path / "run" / "mds.sock"
    task = asyncio.create_task(registry.serve(keys, 0, path=path))
    async with asyncio.timeout(60):
        while not path.exists():
            assert not task.done(), task.exception()
            await asyncio.sleep(0.005)
    connector = aiohttp.UnixConnector(str(path))
    async with aiohttp.ClientSession(connector=connector) as session:

        async def register(method: str, place: str, data: Any = None) -> tuple[int, str]:
            body = data if isinstance(data, bytes | None) else json.dumps(data).encode()
            async with session.request(method, f"http://unixsock{place}", data=body) as answer:
                Service.port = answer.headers[registry.PORT_HEADER]
                return answer.status, await answer.text()

        await register("DELETE", f"/pods/{uuid4()}")
        yield Service(path, f"http://127.0.0.1:{Service.port}", register)
    task.cancel()
    await asyncio.wait([task])
    assert not path.exists()


TOKEN = "0123456789abcdef0123456789abcdef"


def appc_pod(**more: Any) -> dict[str, Any]:
    apps = [{"name": "web", "image": {"id": "sha512-ab"}, "annotations": [{"name": "a", "value": "pod's"}]}]
    return {"acKind": "PodManifest", "acVersion": "0.8.11", "apps": apps, **more}


def appc_image(name: str = "example.com/web") -> dict[str, Any]:
    notes = [{"name": "a", "value": "image's"}]
    return {"acKind": "ImageManifest", "acVersion": "0.8.11", "name": name, "annotations": notes}


async def test_register_ask_unregister(daemon: Service, ask: Ask) -> None:
    assert stat.S_IMODE(daemon.path.stat().st_mode) == 0o600
    uuid = str(uuid4())
    assert await daemon.register("PUT", f"/pods/{uuid}?token={TOKEN}", appc_pod()) == (200, "")
    url = f"{daemon.public}/{TOKEN}/acMetadata/v1"
    assert (await ask(f"{url}/pod/uuid")).text == uuid
    assert (await ask(f"{url}/apps/web/image/id")).status == 404  # not registered yet
    assert await daemon.register("PUT", f"/pods/{uuid}/web", appc_image()) == (200, "")
    assert (await ask(f"{url}/apps/web/image/id")).text == "sha512-ab"
    assert (await ask(f"{url}/apps/web/annotations")).json == [{"name": "a", "value": "pod's"}]
    assert (await ask(f"{url}/apps/web/image/manifest")).json == appc_image()
    assert (await ask(f"{url}/pod/uuid", headers={})).status == 200  # as rkt's
    for header in ("Origin", "Referer", "X-Forwarded-For", "Via"):
        assert (await ask(f"{url}/pod/uuid", headers={header: "x"})).status == 403
    assert (await ask(f"{url}/pod/uuid", headers={"Metadata-Flavor": "Google"})).status == 403
    # Once more, under another token: the one before is no longer good.
    other = TOKEN[::-1]
    assert await daemon.register("PUT", f"/pods/{uuid}?token={other}", appc_pod()) == (200, "")
    assert (await ask(f"{url}/pod/uuid")).status == 401
    assert (await ask(f"{daemon.public}/{other}/acMetadata/v1/pod/manifest")).json == appc_pod()
    assert (await daemon.register("PUT", f"/pods/{uuid4()}?token={other}", appc_pod()))[0] == 400
    assert await daemon.register("DELETE", f"/pods/{uuid}") == (200, "")
    assert (await daemon.register("DELETE", f"/pods/{uuid}"))[0] == 404
    assert (await ask(f"{daemon.public}/{other}/acMetadata/v1/pod/uuid")).status == 401


@pytest.mark.parametrize(
    ("method", "place", "body", "status"),
    [
        ("PUT", "/pods/nonsense?token=" + TOKEN, appc_pod(), 400),
        ("PUT", "/pods/{}", appc_pod(), 400),
        ("PUT", "/pods/{}?token=x", appc_pod(), 400),
        ("PUT", "/pods/{}?token=" + "a/../" * 8, appc_pod(), 400),
        ("PUT", "/pods/{}?token=" + TOKEN, b"{", 400),
        ("PUT", "/pods/{}?token=" + TOKEN, b"[]", 400),
        ("PUT", "/pods/{}?token=" + TOKEN, appc_image(), 400),
        ("PUT", "/pods/{}?token=" + TOKEN, b"[" * 100_000, 400),
        ("PUT", "/pods/{}/web", appc_image(), 404),
        ("PUT", "/pods/{}/No_Name", appc_image(), 400),
        ("PUT", "/pods/{}/web", appc_pod(), 400),
        ("GET", "/pods/{}", None, 405),
        ("DELETE", "/pods/{}/web", None, 405),
        ("PUT", "/pods", None, 404),
        ("PUT", "/other/{}", None, 404),
        ("PUT", "/pods/{}/web/x", None, 404),
    ],
)
async def test_what_is_wrong_is_said(
    daemon: Service, method: str, place: str, body: Any, status: int
) -> None:
    answer = await daemon.register(method, place.replace("{}", str(uuid4())), body)
    assert answer[0] == status, answer
    assert answer[1].strip()
    assert "\n" not in answer[1].strip()


@pytest.mark.root
async def test_only_root_registers(daemon: Service) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root")
    daemon.path.chmod(0o666)
    for parent in daemon.path.parents:
        if parent.stat().st_mode & 0o005 != 0o005:
            parent.chmod(parent.stat().st_mode | 0o005)
    code = f"""
import os, socket
os.setgroups([]); os.setgid(65534); os.setuid(65534)
s = socket.socket(socket.AF_UNIX)
s.connect({str(daemon.path)!r})
try:
    s.sendall(b"DELETE /pods/x HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n")
    print(s.recv(100))
except OSError:
    print(b"")
"""
    process = await asyncio.create_subprocess_exec(
        "/usr/bin/python3", "-c", code, stdout=asyncio.subprocess.PIPE
    )
    output, _ = await process.communicate()
    assert output == b"b''\n"


async def test_a_socket_of_the_dead_is_replaced_and_of_the_living_is_not(
    daemon: Service, keys: Keys, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="another metadata service listens there"):
        await registry.serve(keys, 0, path=daemon.path)
    path = tmp_path / "old.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    with registry.registration_socket(path) as made:
        assert made.getsockname() == str(path)


async def test_a_socket_of_systemd_s(keys: Keys, tmp_path: Path) -> None:
    """It is descriptor 3, and stays where it is when the service ends."""
    code = (
        "import asyncio, os, sys; from pathlib import Path; from executor.metadata.keys import Keys; "
        "from executor.metadata.registry import serve; os.dup2(int(sys.argv[1]), 3); "
        "asyncio.run(serve(Keys(Path(sys.argv[2])), 0))"
    )
    path = tmp_path / "activated.sock"
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        listening.listen()
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", code, str(listening.fileno()), str(tmp_path / "keys" / "key")),
            pass_fds=[listening.fileno()],
            env={**os.environ, "LISTEN_FDS": "1"},
            cwd=Path(__file__).resolve().parents[2],
        )
        try:
            async with (
                asyncio.timeout(60),
                aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(path))) as session,
                session.put(f"http://unixsock/pods/{uuid4()}?token={TOKEN}", json=appc_pod()) as answer,
            ):
                assert answer.status == 200
        finally:
            process.terminate()
            await process.wait()
    assert path.exists()


def test_sockets_of_systemd_s(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LISTEN_FDS", "0")
    with pytest.raises(ValueError, match="LISTEN_FDS"):
        registry.registration_socket()


# -- pods of `gantry rkt run`


@pytest.fixture
def pod_dir(tmp_path: Path, manifest: dict[str, Any]) -> Path:
    path = tmp_path / "pod"
    (path / "appsinfo/web").mkdir(parents=True)
    (path / "pod").write_text(json.dumps(manifest))
    (path / "appsinfo/web/manifest").write_text(json.dumps(appc_image()))
    return path


async def test_a_pod_on_the_host_s_network(daemon: Service, pod_dir: Path, ask: Ask) -> None:
    uuid = str(uuid4())
    made = await asyncio.to_thread(
        lambda: Registration.register(pod_dir, uuid, host_network=True, path=daemon.path)
    )
    url = (pod_dir / URL_FILE).read_text()
    assert url.startswith(f"{daemon.public}/")
    assert stat.S_IMODE((pod_dir / URL_FILE).stat().st_mode) == 0o600
    assert (pod_dir / client.REGISTERED).exists()
    await made.open(_Sandbox(os.getpid()))
    assert (await ask(f"{url}/acMetadata/v1/pod/uuid")).text == uuid
    assert (await ask(f"{url}/acMetadata/v1/apps/web/image/manifest")).json == appc_image()
    await made.close(uuid)
    assert (await ask(f"{url}/acMetadata/v1/pod/uuid")).status == 401
    assert not (pod_dir / client.REGISTERED).exists()


@dataclass
class _Sandbox:
    pid: int


@pytest.mark.root
async def test_a_pod_on_its_own_network_is_carried_there(
    daemon: Service, pod_dir: Path, make_network: Any, ask_inside: Any
) -> None:
    uuid, network = str(uuid4()), make_network()
    made = await asyncio.to_thread(
        lambda: Registration.register(pod_dir, uuid, host_network=False, path=daemon.path)
    )
    url = (pod_dir / URL_FILE).read_text()
    assert url.startswith(f"http://127.0.0.1:{PORT}/")
    await made.open(network)
    assert await ask_inside(network.pid, url, "/pod/uuid") == (200, uuid)
    assert (await ask_inside(network.pid, f"{url}0", "/pod/uuid"))[0] == 401
    await made.close(uuid)
    with pytest.raises(ConnectionRefusedError):
        await ask_inside(network.pid, url, "/pod/uuid")


async def test_a_pod_that_was_killed_is_forgotten_when_it_is_collected(
    daemon: Service, pod_dir: Path, ask: Ask
) -> None:
    uuid = str(uuid4())
    await asyncio.to_thread(lambda: Registration.register(pod_dir, uuid, host_network=True, path=daemon.path))
    url = (pod_dir / URL_FILE).read_text()
    for _ in range(2):
        await asyncio.to_thread(client.forget, pod_dir, uuid, daemon.path)
    assert (await ask(f"{url}/acMetadata/v1/pod/uuid")).status == 401


async def test_a_service_that_has_only_just_been_started_is_waited_for(
    keys: Keys, pod_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "TRIES", 1000)
    monkeypatch.setattr(client, "PAUSE", 0.02)
    path, tried = tmp_path / "late.sock", asyncio.Event()
    loop, unreachable = asyncio.get_running_loop(), client._unreachable

    def failed(*args: Any) -> str:
        loop.call_soon_threadsafe(tried.set)
        return unreachable(*args)

    monkeypatch.setattr(client, "_unreachable", failed)
    registering = asyncio.create_task(
        asyncio.to_thread(lambda: Registration.register(pod_dir, str(uuid4()), host_network=True, path=path))
    )
    async with asyncio.timeout(60):
        await tried.wait()
        task = asyncio.create_task(registry.serve(keys, 0, path=path))
        await registering
    task.cancel()
    await asyncio.wait([task])


def test_no_service(pod_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "PAUSE", 0.0)
    with pytest.raises(MetadataError, match="gantry rkt metadata-service"):
        client.reachable(tmp_path / "none.sock")
    with pytest.raises(MetadataError, match="could not reach the metadata service"):
        Registration.register(pod_dir, str(uuid4()), host_network=True, path=tmp_path / "none.sock")
    assert not (pod_dir / client.REGISTERED).exists()
    (pod_dir / client.REGISTERED).touch()
    client.forget(pod_dir, str(uuid4()), tmp_path / "none.sock")  # it has forgotten by itself
    assert not (pod_dir / client.REGISTERED).exists()


async def test_an_app_that_cannot_be_registered_takes_the_pod_back(daemon: Service, pod_dir: Path) -> None:
    uuid = str(uuid4())
    (pod_dir / "appsinfo/web/manifest").write_text("{}")

    def register() -> None:
        with pytest.raises(MetadataError, match=rf"PUT /pods/{uuid}/web: 400"):
            Registration.register(pod_dir, uuid, host_network=True, path=daemon.path)

    await asyncio.to_thread(register)
    assert (await daemon.register("DELETE", f"/pods/{uuid}"))[0] == 404
    assert not (pod_dir / URL_FILE).exists()
