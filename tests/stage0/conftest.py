"""Images made by the tools people use (umoci, skopeo, docker-registry), tars made by hand, and places to put them."""

import asyncio
import contextlib
import datetime as dt
import gzip
import hashlib
import io
import json
import os
import re
import shutil
import ssl
import subprocess
import tarfile
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from aiohttp import web

from executor.stage0 import ImageBroken, ImageError, ImageStore
from executor.stage0 import web as web_client
from executor.stage0.settings import Host, Settings
from executor.stage0.streams import Limits
from executor.stage0.trust import Gate, Policy
from shared.security.certificates import ServingFiles, serving_files

BUSYBOX = shutil.which("busybox")
# The bcrypt hash of "secret" (cost 5).
HTPASSWD = "user:$2b$05$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a\n"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """`root` tests here chown, mknod and set trusted attributes."""
    skip = pytest.mark.skip(reason="needs root: owners, whiteouts and overlay attributes")
    for item in items:
        if item.get_closest_marker("root") and "stage0" in item.nodeid and os.geteuid() != 0:
            item.add_marker(skip)


def _need(*tools: str) -> None:
    for tool in tools:
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed")


def _run(*argv: str | Path) -> str:
    done = subprocess.run([str(a) for a in argv], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, f"{argv}: {done.stderr}"
    return done.stdout


@pytest.fixture
def run() -> Callable[..., str]:
    """Run a tool; its stdout. The test is skipped when the tool is not installed."""

    def call(*argv: str | Path) -> str:
        _need(str(argv[0]))
        return _run(*argv)

    return call


class Tar:
    """A tar made entry by entry, with whatever is wrong with it."""

    def __init__(self) -> None:
        self._buffer = io.BytesIO()
        self._tar = tarfile.open(fileobj=self._buffer, mode="w", format=tarfile.PAX_FORMAT)  # noqa: SIM115

    def add(self, name: str, content: bytes = b"", kind: bytes = tarfile.REGTYPE, **more: object) -> "Tar":
        info = tarfile.TarInfo(name)
        info.type, info.size, info.mode = kind, len(content), 0o755 if kind == tarfile.DIRTYPE else 0o644
        for key, value in more.items():
            setattr(info, key, value)
        self._tar.addfile(info, io.BytesIO(content))
        return self

    def dir(self, name: str, **more: object) -> "Tar":
        return self.add(name, kind=tarfile.DIRTYPE, **more)

    def link(self, name: str, target: str) -> "Tar":
        return self.add(name, kind=tarfile.SYMTYPE, linkname=target)

    def hard(self, name: str, target: str) -> "Tar":
        return self.add(name, kind=tarfile.LNKTYPE, linkname=target)

    def bytes(self) -> bytes:
        self._tar.close()
        return self._buffer.getvalue()


@pytest.fixture
def tar() -> type[Tar]:
    return Tar


def sha(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


class Layout:
    """An OCI layout written by hand, so that any part of it can be wrong."""

    def __init__(self, path: Path) -> None:
        self.path = path
        (path / "blobs/sha256").mkdir(parents=True)
        (path / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
        self.manifests: list[dict[str, object]] = []
        self.index()

    def blob(self, data: bytes, media_type: str) -> dict[str, object]:
        (self.path / "blobs/sha256" / hashlib.sha256(data).hexdigest()).write_bytes(data)
        return {"mediaType": media_type, "digest": sha(data), "size": len(data)}

    def layer(self, plain: bytes) -> tuple[dict[str, object], str]:
        blob = self.blob(gzip.compress(plain, 1, mtime=0), "application/vnd.oci.image.layer.v1.tar+gzip")
        return blob, sha(plain)

    def image(
        self, tag: str, *tars: bytes, config: dict[str, object] | None = None,
        layers: list[tuple[dict[str, object], str]] | None = None,
        edit: Callable[[dict[str, object]], object] | None = None,
    ) -> dict[str, object]:  # fmt: skip
        parts = layers if layers is not None else [self.layer(t) for t in tars]
        document = {
            "architecture": {"x86_64": "amd64", "aarch64": "arm64"}.get(
                os.uname().machine, os.uname().machine
            ),
            "os": "linux",
            "config": {"Cmd": ["/bin/sh"]},
            "rootfs": {"type": "layers", "diff_ids": [diff for _, diff in parts]},
            **(config or {}),
        }
        manifest: dict[str, object] = {
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": self.blob(json.dumps(document).encode(), "application/vnd.oci.image.config.v1+json"),
            "layers": [blob for blob, _ in parts],
        }
        if edit is not None:
            edit(manifest)
        entry = self.blob(json.dumps(manifest).encode(), "application/vnd.oci.image.manifest.v1+json")
        self.tag(tag, entry)
        return entry

    def tag(self, tag: str, entry: dict[str, object]) -> None:
        self.manifests.append({**entry, "annotations": {"org.opencontainers.image.ref.name": tag}})
        self.index()

    def index(self) -> None:
        text = json.dumps({"schemaVersion": 2, "manifests": self.manifests})
        (self.path / "index.json").write_text(text)


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    """The OCI layout of `localhost/app`."""
    return Layout(tmp_path / "local" / "app")


@pytest.fixture
def make_layout() -> type[Layout]:
    return Layout


@pytest.fixture
def rootfs(tmp_path: Path) -> Path:
    """A small root file system with links, modes and a program in it."""
    root = tmp_path / "rootfs"
    for name in ("bin", "etc", "tmp", "usr/lib", "var/empty"):
        (root / name).mkdir(parents=True)
    if BUSYBOX:
        shutil.copy(BUSYBOX, root / "bin/busybox")
    else:
        (root / "bin/busybox").write_bytes(b"#!/bin/true\n")
    (root / "bin/busybox").chmod(0o4755)
    (root / "bin/sh").symlink_to("busybox")
    (root / "lib").symlink_to("/usr/lib")
    os.link(root / "bin/busybox", root / "bin/ls")
    (root / "tmp").chmod(0o1777)
    (root / "etc/hostname").write_text("image\n")
    (root / ("n" * 120)).write_text("long name\n")
    (root / "etc/größe").write_text("utf-8\n")
    return root


@pytest.fixture
def umoci_layout(tmp_path: Path, rootfs: Path, run: Callable[..., str]) -> Path:
    """`localhost/real:v1`: umoci's image of two layers; the second removes, replaces and adds."""
    path = tmp_path / "local" / "real"
    path.parent.mkdir(exist_ok=True)
    bundle = tmp_path / "bundle"
    run("umoci", "init", "--layout", path)
    run("umoci", "new", "--image", f"{path}:v1")
    run("umoci", "unpack", "--image", f"{path}:v1", bundle)
    shutil.copytree(rootfs, bundle / "rootfs", symlinks=True, dirs_exist_ok=True)
    (bundle / "rootfs/gone").mkdir()
    (bundle / "rootfs/gone/file").write_text("x")
    (bundle / "rootfs/replaced").mkdir()
    (bundle / "rootfs/replaced/old").write_text("old")
    run("umoci", "repack", "--refresh-bundle", "--image", f"{path}:v1", bundle)
    shutil.rmtree(bundle / "rootfs/gone")
    (bundle / "rootfs/etc/hostname").unlink()
    (bundle / "rootfs/replaced/old").unlink()
    (bundle / "rootfs/replaced/new").write_text("new")
    (bundle / "rootfs/added").write_text("added\n")
    run("umoci", "repack", "--image", f"{path}:v1", bundle)
    run("umoci", "config", "--image", f"{path}:v1", "--config.entrypoint", "/bin/sh", "--config.cmd", "-c",
        "--config.env", "A=1", "--config.user", "7:8", "--config.workingdir", "/tmp", "--config.stopsignal", "SIGINT",
        "--config.exposedports", "80/tcp", "--config.volume", "/data", "--config.label", "k=v")  # fmt: skip
    shutil.rmtree(bundle)
    return path


@pytest.fixture
def mount() -> Iterator[Callable[..., None]]:
    """mount(target, TYPE, OPTIONS): skips where that cannot be mounted; unmounted at the end."""
    mounted: list[Path] = []

    def call(target: Path, kind: str, options: str) -> None:
        target.mkdir(exist_ok=True)
        argv = ["mount", "-t", kind, "-o", options, kind, str(target)]
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"{kind} cannot be mounted: {done.stderr.strip()}")
        mounted.append(target)

    yield call
    for target in mounted:
        subprocess.run(["umount", "--lazy", target], check=True)


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Callable[..., SimpleNamespace]]:
    """start(auth=False, tls=None, token=None) → a real registry on a free loopback port: `.host`, `.data`, `.process`.

    tls: the registry's section on its certificate; token: that on a token service.
    """
    _need("docker-registry")
    running: list[subprocess.Popen[str]] = []

    def start(
        *, auth: bool = False, tls: dict[str, str] | None = None, token: dict[str, str] | None = None
    ) -> SimpleNamespace:
        data = tmp_path / "registry"
        data.mkdir(exist_ok=True)
        settings: dict[str, Any] = {
            "version": 0.1,
            "log": {"level": "info"},
            "storage": {"filesystem": {"rootdirectory": str(data / "store")}},
            "http": {"addr": "127.0.0.1:0", "secret": "test"},
        }
        if tls is not None:
            settings["http"] = {"addr": "127.0.0.1:0", "secret": "test", "tls": tls}
        if token is not None:
            settings["auth"] = {"token": token}
        if auth:
            (data / "htpasswd").write_text(HTPASSWD)
            settings["auth"] = {"htpasswd": {"realm": "test", "path": str(data / "htpasswd")}}
        (data / "config.yml").write_text(json.dumps(settings))
        process = subprocess.Popen(
            ["docker-registry", "serve", data / "config.yml"],
            stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True,
        )  # fmt: skip
        running.append(process)
        assert process.stderr is not None
        for line in process.stderr:
            if found := re.search(r"listening on (127\.0\.0\.1:\d+)", line):
                break
        else:
            raise AssertionError("the registry did not start")
        threading.Thread(target=process.stderr.read, daemon=True).start()
        return SimpleNamespace(host=found.group(1), data=data / "store", process=process)

    yield start
    for process in running:
        process.kill()
        process.wait()
        if process.stderr is not None:
            process.stderr.close()


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> ServingFiles:
    """A certificate authority, and a certificate of it for this machine and some names of example.com's."""
    hosts = ["localhost", "127.0.0.1", "example.com", "images.example.com", "mirror.example.com"]
    return serving_files(tmp_path_factory.mktemp("tls"), hosts, dt.datetime.now(dt.UTC))


class Internet:
    """Hosts of example.com's behind a proxy that the environment names; `pages` by `host/path`, else 404.

    A page is bytes, (bytes, headers), a status, or a handler. seen: method, `host/path?query` and headers of requests;
    connected: what the proxy was asked for.
    """

    def __init__(self, authority: ServingFiles) -> None:
        self.pages: dict[str, Any] = {}
        self.seen: list[tuple[str, str, Mapping[str, str]]] = []
        self.connected: list[str] = []
        names = ("example.com", "images.example.com", "mirror.example.com")
        self.settings = Settings(hosts={name: Host(ca=authority.authority) for name in names})
        self._tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self._tls.load_cert_chain(authority.certificate, authority.key)
        self._tasks: set[asyncio.Task[None]] = set()

    def paths(self) -> list[str]:
        return [path for _, path, _ in self.seen]

    async def start(self) -> str:
        """The proxy's address."""
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._handle)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0, ssl_context=self._tls).start()
        self._proxy = await asyncio.start_server(self._connect, "127.0.0.1", 0)
        return f"http://127.0.0.1:{self._proxy.sockets[0].getsockname()[1]}"

    async def close(self) -> None:
        self._proxy.close()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._runner.cleanup()

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        where = f"{request.host}{request.path}"
        self.seen.append((request.method, f"{request.host}{request.path_qs}", request.headers))
        page = self.pages.get(where, 404)
        if callable(page):
            answer: web.StreamResponse = await page(request)
            return answer
        if isinstance(page, int):
            return web.Response(status=page)
        body, headers = page if isinstance(page, tuple) else (page, {})
        return web.Response(body=body, headers=headers)

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        self.connected.append(head.split()[1].decode())
        port = self._runner.addresses[0][1]
        inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", port)
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
            await asyncio.gather(_relay(reader, inner_writer), _relay(inner_reader, writer))
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            self._tasks.discard(task)
            for end in (writer, inner_writer):
                end.close()
                with contextlib.suppress(OSError):
                    await end.wait_closed()


async def _relay(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    while data := await source.read(65536):
        sink.write(data)
        await sink.drain()
    if sink.can_write_eof():
        sink.write_eof()


@pytest.fixture
async def internet(authority: ServingFiles, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Internet]:
    made = Internet(authority)
    for name in ("http_proxy", "https_proxy", "no_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setenv("HTTPS_PROXY", await made.start())
    monkeypatch.setattr(web_client, "FIRST_DELAY", 0.001)
    yield made
    await made.close()


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """The store's state directory."""
    return tmp_path / "state"


@pytest.fixture
def store(tmp_path: Path, state: Path) -> ImageStore:
    """A store with low limits and no wish for signatures, for `localhost/…` from tmp_path/local."""
    limits = Limits(unpacked_bytes=64 << 20, entries=500, ratio=100, ratio_from=8 << 20)
    anything = Gate(Policy.from_table({"default-aci": "none"}))
    return ImageStore(state, local_images=tmp_path / "local", limits=limits, trust=anything)


@pytest.fixture
def make_aci(tmp_path: Path) -> Callable[..., Path]:
    """make_aci(NAME, {path: content}, **manifest fields) → an ACI file below tmp_path/acis."""

    def call(name: str, files: dict[str, str] | None = None, *, file: str = "", **fields: object) -> Path:
        arch = {"x86_64": "amd64"}.get(os.uname().machine, os.uname().machine)
        manifest = {
            "acKind": "ImageManifest", "acVersion": "0.8.11", "name": name,
            "labels": [{"name": "os", "value": "linux"}, {"name": "arch", "value": arch}],
            "app": {"exec": ["/bin/app"], "user": "0", "group": "0"},
        }  # fmt: skip
        made = Tar().add("manifest", json.dumps({**manifest, **fields}).encode()).dir("rootfs")
        for path, content in (files or {"file": "content"}).items():
            made.add(f"rootfs/{path}", content.encode())
        path = tmp_path / "acis" / (file or f"{name.replace('/', '-')}.aci")
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(gzip.compress(made.bytes(), 1, mtime=0))
        return path

    return call


class Gpg:
    """A GnuPG home with secret keys, and its agent."""

    def __init__(self, home: Path) -> None:
        self.home = home
        home.mkdir(mode=0o700)
        self.keys: dict[str, str] = {}

    def __call__(self, *argv: str | Path, stdin: str = "") -> str:
        command = ["gpg", "--homedir", str(self.home), "--batch", "--quiet", "--yes", *map(str, argv)]
        done = subprocess.run(command, input=stdin, capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def key(self, name: str, *more: str, algorithm: str = "ed25519", expires: str = "0") -> str:
        """A new key; its fingerprint, lower case."""
        self(
            *more,
            "--passphrase",
            "",
            "--quick-gen-key",
            f"{name} <{name}@example.com>",
            algorithm,
            "sign",
            expires,
        )
        listed = self("--with-colons", "--list-keys", f"{name}@example.com")
        self.keys[name] = next(
            line.split(":")[9] for line in listed.splitlines() if line.startswith("fpr")
        ).lower()
        return self.keys[name]

    def revoke(self, name: str) -> None:
        path = self.home / "openpgp-revocs.d" / f"{self.keys[name].upper()}.rev"
        self("--import", "-", stdin=path.read_text().replace(":-----BEGIN", "-----BEGIN"))

    def public(self, name: str) -> str:
        return self("--armor", "--export", self.keys[name])

    def sign(self, name: str, path: Path, *more: str, armor: bool = True) -> Path:
        out = path.with_name(f"{path.name}.asc")
        self(
            *more,
            "-u",
            self.keys[name],
            *(["--armor"] if armor else []),
            "--output",
            out,
            "--detach-sign",
            path,
        )
        return out

    def close(self) -> None:
        subprocess.run(
            ["gpgconf", "--homedir", str(self.home), "--kill", "all"], check=False, capture_output=True
        )


@pytest.fixture(scope="session")
def keyring(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gpg]:
    """Keys `good`, `other`, `revoked` and `expired` (good in January 2024)."""
    if shutil.which("gpg") is None or shutil.which("gpgv") is None:
        pytest.skip("gpg and gpgv are not installed")
    made = Gpg(tmp_path_factory.mktemp("g") / "home")
    try:
        for name in ("good", "other", "revoked"):
            made.key(name)
        made.key("expired", "--faked-system-time", "20240101T000000", expires="30d")
        yield made
    finally:
        made.close()


@pytest.fixture
def gpg_home(tmp_path: Path) -> Iterator[Callable[[str], Gpg]]:
    """gpg_home(NAME) → another GnuPG home; its agent is ended."""
    made: list[Gpg] = []

    def call(name: str) -> Gpg:
        made.append(Gpg(tmp_path / name))
        return made[-1]

    yield call
    for home in made:
        home.close()


@pytest.fixture
def trusted(tmp_path: Path) -> tuple[Path, Path]:
    """The administrator's and the vendor's directory of keys."""
    return tmp_path / "etc/trustedkeys", tmp_path / "usr/trustedkeys"


@pytest.fixture
def trust(trusted: tuple[Path, Path], keyring: Gpg) -> Callable[..., Path]:
    """trust(key, prefix="", vendor=False): put a public key where it is trusted; the file."""

    def call(name: str, prefix: str = "", *, vendor: bool = False, content: str | None = None) -> Path:
        place = trusted[vendor] / (f"prefix.d/{prefix}" if prefix else "root.d")
        place.mkdir(parents=True, exist_ok=True)
        path = place / keyring.keys[name]
        path.write_text(keyring.public(name) if content is None else content)
        return path

    return call


@pytest.fixture
def left_behind(state: Path) -> Callable[[], list[str]]:
    """What is in the store that could be believed, or that nobody has cleaned up."""
    store = state / "store"
    parts = ("layers", "images", "names", "tmp")
    return lambda: [str(p.relative_to(store)) for part in parts for p in (store / part).iterdir()]


@pytest.fixture
def refused(store: ImageStore) -> Callable[..., Awaitable[str]]:
    """await refused(ref, kind) → the message of the pull that has to fail: one line, the image first."""

    async def call(
        ref: str, kind: type[ImageError] = ImageBroken, *, by: ImageStore | None = None, **more: Any
    ) -> str:
        with pytest.raises(kind) as caught:
            await (by or store).pull(ref, "Always", **more)
        message = str(caught.value)
        assert message.startswith(f"{ref}: ")
        assert "\n" not in message
        assert len(message) < 1000
        return message

    return call
