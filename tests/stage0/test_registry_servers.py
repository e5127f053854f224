"""Debian's docker-registry with TLS, with a token service, as a mirror; images by skopeo and podman."""

import asyncio
import base64
import contextlib
import datetime as dt
import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, utils
from yarl import URL

from executor.stage0 import ImageRefused, ImageStore, RegistryUnavailable
from executor.stage0.settings import Host, Settings
from shared.security.certificates import Authority, ServingFiles, make_authority, serving_files

pytestmark = [pytest.mark.root, pytest.mark.usefixtures("impatient")]


def tls(files: ServingFiles, **more: Any) -> dict[str, Any]:
    return {"certificate": str(files.certificate), "key": str(files.key), **more}


async def test_tls_and_a_login(
    registry: Callable[..., SimpleNamespace],
    authority: ServingFiles,
    layout: Any,
    tar: Any,
    push: Callable[..., None],
    state: Path,
    refused: Callable[..., Awaitable[str]],
) -> None:
    layout.image("v1", tar().add("file").bytes())
    server = registry(auth=True, tls=tls(authority))
    host = server.host.replace("127.0.0.1", "localhost")
    push(f"{layout.path}:v1", f"{host}/app:v1", "--dest-creds", "user:secret")
    ref, login = f"{host}/app:v1", {host: ("user", "secret")}
    trusting = ImageStore(state, settings=Settings(hosts={host: Host(ca=authority.authority)}))
    image = await trusting.pull(ref, "Always", credentials=login)
    assert (image.layers[0] / "file").exists()
    strangers = Settings(hosts={host: Host(ca=_other_authority(state.parent))})
    message = await refused(
        ref, RegistryUnavailable, by=ImageStore(state, settings=strangers), credentials=login
    )
    assert "TLS" in message
    careless = Settings(hosts={host: Host(skip_verify=True)})
    assert (await ImageStore(state, settings=careless).pull(ref, "Always", credentials=login)).id == image.id


def _other_authority(directory: Path) -> Path:
    return serving_files(directory / "other", ["localhost"], dt.datetime.now(dt.UTC)).authority


async def test_a_client_certificate(
    registry: Callable[..., SimpleNamespace],
    authority: ServingFiles,
    layout: Any,
    tar: Any,
    run: Callable[..., str],
    tmp_path: Path,
    refused: Callable[..., Awaitable[str]],
) -> None:
    layout.image("v1", tar().add("file").bytes())
    clients = make_authority(dt.datetime.now(dt.UTC))
    (tmp_path / "clients.pem").write_bytes(clients.certificate)
    certificate, key = _client_certificate(clients, tmp_path)
    server = registry(tls=tls(authority, clientcas=[str(tmp_path / "clients.pem")]))
    host = server.host.replace("127.0.0.1", "localhost")
    push = tmp_path / "push"
    push.mkdir()
    for source, name in ((certificate, "x.cert"), (key, "x.key"), (authority.authority, "x.crt")):
        shutil.copy(source, push / name)
    run(
        "skopeo",
        "--insecure-policy",
        "copy",
        "--dest-cert-dir",
        push,
        f"oci:{layout.path}:v1",
        f"docker://{host}/app:v1",
    )
    known = Settings(hosts={host: Host(ca=authority.authority, client_cert=certificate, client_key=key)})
    assert (await ImageStore(tmp_path / "a", settings=known).pull(f"{host}/app:v1", "Always")).id
    unknown = Settings(hosts={host: Host(ca=authority.authority)})
    message = await refused(
        f"{host}/app:v1", RegistryUnavailable, by=ImageStore(tmp_path / "b", settings=unknown)
    )
    assert "TLS: " in message
    assert "certificate" in message


def _client_certificate(issuer: Authority, directory: Path) -> tuple[Path, Path]:
    key = ec.generate_private_key(ec.SECP256R1())
    ca = x509.load_pem_x509_certificate(issuer.certificate)
    ca_key = serialization.load_pem_private_key(issuer.key, None)
    assert isinstance(ca_key, ec.EllipticCurvePrivateKey)
    now = dt.datetime.now(dt.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "node")]))
        .issuer_name(ca.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.ExtendedKeyUsage([x509.ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
        .sign(ca_key, hashes.SHA256())
    )
    certificate, private = directory / "node.pem", directory / "node.key"
    certificate.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    private.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    return certificate, private


class TokenService:
    """Gives tokens that docker-registry accepts: to `user`, and for pulling from public/ to everybody."""

    def __init__(self, files: ServingFiles) -> None:
        key = serialization.load_pem_private_key(files.key.read_bytes(), None)
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        self._key = key
        certificate = x509.load_pem_x509_certificate(files.certificate.read_bytes())
        self._chain = [base64.b64encode(certificate.public_bytes(serialization.Encoding.DER)).decode()]
        self.seen: list[web.Request] = []
        self.forms: list[dict[str, Any]] = []
        self.lifetime = 300

    async def handle(self, request: web.Request) -> web.Response:
        self.seen.append(request)
        asked = dict(request.query)
        if request.method == "POST":
            asked = {key: str(value) for key, value in (await request.post()).items()}
            self.forms.append(asked)
            user = "user" if asked["refresh_token"] == "1dentity" else ""
        else:
            user = "user" if request.headers.get("Authorization") == "Basic dXNlcjpzZWNyZXQ=" else ""
            if not user and "Authorization" in request.headers:
                return web.Response(status=401)
        access = []
        for scope in asked.get("scope", "").split():
            kind, name, actions = scope.split(":")
            if user or (name.startswith("public/") and actions == "pull"):
                access.append({"type": kind, "name": name, "actions": actions.split(",")})
        return web.json_response({"token": self._token(user, asked["service"], access)})

    def _token(self, user: str, audience: str, access: list[dict[str, Any]]) -> str:
        now = int(time.time())
        header = {"typ": "JWT", "alg": "ES256", "x5c": self._chain}
        claims = {
            "iss": "test", "sub": user, "aud": audience, "iat": now, "nbf": now - 10, "exp": now + self.lifetime,
            "jti": os.urandom(8).hex(), "access": access,
        }  # fmt: skip
        parts = [_base64(json.dumps(part).encode()) for part in (header, claims)]
        signed = self._key.sign(".".join(parts).encode(), ec.ECDSA(hashes.SHA256()))
        r, s = utils.decode_dss_signature(signed)
        return ".".join([*parts, _base64(r.to_bytes(32, "big") + s.to_bytes(32, "big"))])


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


@pytest.fixture
async def tokens(authority: ServingFiles) -> AsyncIterator[SimpleNamespace]:
    service = TokenService(authority)
    app = web.Application()
    app.router.add_route("*", "/token", service.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    realm = f"http://127.0.0.1:{runner.addresses[0][1]}/token"
    bundle = str(authority.authority)
    section = {"realm": realm, "service": "reg", "issuer": "test", "rootcertbundle": bundle}
    yield SimpleNamespace(service=service, section=section)
    await runner.cleanup()


async def test_tokens(
    registry: Callable[..., SimpleNamespace],
    tokens: SimpleNamespace,
    layout: Any,
    tar: Any,
    push: Callable[..., None],
    tmp_path: Path,
    refused: Callable[..., Awaitable[str]],
) -> None:
    layout.image("v1", tar().add("a", os.urandom(100_000)).bytes(), tar().add("b").bytes())
    host = registry(token=tokens.section).host
    for name in ("public/app", "private/app"):
        await asyncio.to_thread(push, f"{layout.path}:v1", f"{host}/{name}:v1", "--dest-creds", "user:secret")
    tokens.service.seen.clear()
    image = await ImageStore(tmp_path / "1").pull(f"{host}/public/app:v1", "Always")
    assert len(image.layers) == 2
    assert len(tokens.service.seen) == 1  # one token for the whole pull
    assert "Authorization" not in tokens.service.seen[0].headers
    ref = f"{host}/private/app:v1"
    nobody = ImageStore(tmp_path / "2")
    assert "HTTP 401" in await refused(ref, ImageRefused, by=nobody)
    assert "gives no token (HTTP 401)" in await refused(
        ref, ImageRefused, by=nobody, credentials={host: ("user", "nope")}
    )
    private = await nobody.pull(ref, "Always", credentials={f"{host}/private": ("user", "secret")})
    assert private.id == image.id
    # An identity token goes to the token service and nowhere else.
    identity = ImageStore(tmp_path / "3")
    assert (await identity.pull(ref, "Always", credentials={host: ("<token>", "1dentity")})).id == image.id
    assert {form["grant_type"] for form in tokens.service.forms} == {"refresh_token"}
    assert tokens.service.forms[0]["scope"] == "repository:private/app:pull"


async def test_a_token_that_is_over(
    registry: Callable[..., SimpleNamespace],
    tokens: SimpleNamespace,
    layout: Any,
    tar: Any,
    push: Callable[..., None],
    store: ImageStore,
) -> None:
    layout.image("v1", *(tar().add(str(n)).bytes() for n in range(4)))
    host = registry(token=tokens.section).host
    await asyncio.to_thread(push, f"{layout.path}:v1", f"{host}/app:v1", "--dest-creds", "user:secret")
    tokens.service.seen.clear()
    tokens.service.lifetime = -61  # over when they are given, but for the registry's leeway
    login = {host: ("user", "secret")}
    try:
        await store.pull(f"{host}/app:v1", "Always", credentials=login)
    except ImageRefused:
        assert len(tokens.service.seen) >= 1
    else:
        raise AssertionError("the registry takes tokens that are over")
    tokens.service.lifetime = 300
    assert (await store.pull(f"{host}/app:v1", "Always", credentials=login)).id


async def test_mirrors(
    registry: Callable[..., SimpleNamespace],
    layout: Any,
    tar: Any,
    push: Callable[..., None],
    tmp_path: Path,
    refused: Callable[..., Awaitable[str]],
) -> None:
    layout.image("v1", tar().add("file").bytes())
    host = registry().host
    push(f"{layout.path}:v1", f"{host}/hub/library/app:v1")
    push(f"{layout.path}:v1", f"{host}/direct:v1")
    dead = URL("http://127.0.0.1:1")
    mirror = URL(f"http://{host}/hub")
    # No route leads to docker.io from here: what comes, comes from the mirror.
    hub = Settings(mirrors={"docker.io": (dead, mirror)})
    image = await ImageStore(tmp_path / "1", settings=hub).pull("app:v1", "Always")
    assert image.names == ("docker.io/library/app:v1",)
    # And when no mirror has it, the registry does.
    direct = Settings(mirrors={host: (dead, mirror)})
    assert (
        await ImageStore(tmp_path / "2", settings=direct).pull(f"{host}/direct:v1", "Always")
    ).id == image.id
    message = await refused(f"{host}/nope:v1", Exception, by=ImageStore(tmp_path / "2", settings=direct))
    assert f"not found in registry {host}: manifest unknown" in message


@pytest.fixture
def short_path() -> Iterator[Path]:
    """podman takes no long one."""
    with tempfile.TemporaryDirectory(prefix="podman-") as name:
        yield Path(name)


async def test_an_image_of_podman_build(
    registry: Callable[..., SimpleNamespace],
    rootfs: Path,
    tmp_path: Path,
    store: ImageStore,
    short_path: Path,
) -> None:
    if shutil.which("podman") is None:
        pytest.skip("podman is not installed")
    (rootfs / "etc/gone").write_text("")
    (rootfs / "Containerfile").write_text(
        'FROM scratch\nCOPY . /\nRUN ["/bin/busybox", "rm", "/etc/gone"]\n'
        'RUN ["/bin/busybox", "mkdir", "/made"]\n'
        'ENV A=1\nUSER 7\nWORKDIR /tmp\nEXPOSE 80\nSTOPSIGNAL SIGINT\nENTRYPOINT ["/bin/sh"]\n'
    )
    root = ("--root", str(tmp_path / "containers"), "--runroot", str(short_path), "--storage-driver", "vfs")
    host = registry().host
    build = ["podman", *root, "build", "--isolation=chroot", "--layers", "--format", "docker",
             "--ulimit", "nofile=1024:1024", "-t", f"{host}/built:v1", str(rootfs)]  # fmt: skip
    push = ["podman", *root, "push", "--tls-verify=false", f"{host}/built:v1"]
    policy = tmp_path / "policy.json"
    policy.write_text('{"default": [{"type": "insecureAcceptAnything"}]}')
    for command in ([*build, "--signature-policy", str(policy)], [*push, "--signature-policy", str(policy)]):
        done = await asyncio.to_thread(
            subprocess.run, command, capture_output=True, text=True, check=False, timeout=50
        )
        if done.returncode:
            assert "not permitted" in done.stderr, done.stderr
            pytest.skip(f"podman cannot build here: {done.stderr.strip()[-200:]}")
    image = await store.pull(f"{host}/built:v1", "Always")
    assert image.config.format == "docker"
    assert (image.config.user, image.config.stop_signal, image.config.entrypoint) == (
        "7",
        "SIGINT",
        ("/bin/sh",),
    )
    assert any((layer / "made").is_dir() for layer in image.layers)
    assert any((layer / "etc/gone").is_char_device() for layer in image.layers)


async def test_a_network_that_breaks_every_connection(
    registry: Callable[..., SimpleNamespace],
    layout: Any,
    tar: Any,
    push: Callable[..., None],
    store: ImageStore,
) -> None:
    """A real registry's ranges: no connection carries more than 700 kB, the layers have two MB each."""
    layout.image("v1", *(tar().add(f"f{n}", os.urandom(2 << 20)).bytes() for n in range(2)))
    host = registry().host
    push(f"{layout.path}:v1", f"{host}/app:v1")
    relays: list[asyncio.Task[None] | None] = []

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        relays.append(asyncio.current_task())
        name, port = host.split(":")
        inner_reader, inner_writer = await asyncio.open_connection(name, int(port))

        async def forward() -> None:
            while data := await reader.read(65536):
                inner_writer.write(data)

        forwarding = asyncio.create_task(forward())
        left = 700_000
        try:
            while left > 0 and (data := await inner_reader.read(min(left, 65536))):
                left -= len(data)
                writer.write(data)
                await writer.drain()
        except (OSError, asyncio.CancelledError):
            pass  # the client has gone, or the test is over
        finally:
            forwarding.cancel()
            for end in (writer, inner_writer):
                end.close()
                with contextlib.suppress(OSError):
                    await end.wait_closed()

    server = await asyncio.start_server(relay, "127.0.0.1", 0)
    try:
        ref = f"127.0.0.1:{server.sockets[0].getsockname()[1]}/app:v1"
        image = await store.pull(ref, "Always")
    finally:
        server.close()
        for task in relays:
            if task is not None:
                task.cancel()
        await asyncio.gather(*(task for task in relays if task is not None), return_exceptions=True)
    assert sorted(path.stat().st_size for layer in image.layers for path in layer.iterdir()) == [2 << 20] * 2
    assert len(relays) >= 6
