"""Images made by the tools people use (umoci, skopeo, docker-registry), tars made by hand, and places to put them."""

import datetime as dt
import gzip
import json
import os
import re
import shutil
import subprocess
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from executor.stage0 import ImageBroken, ImageError, ImageStore
from executor.stage0 import web as web_client
from executor.stage0.streams import Limits
from executor.stage0.trust import Gate, Policy
from shared.security.certificates import ServingFiles, serving_files
from tests.ground import skip_root_tests
from tests.stage0.gpg import Gpg
from tests.stage0.handmade import Layout, Tar
from tests.stage0.internet import Internet

BUSYBOX = shutil.which("busybox")
# The bcrypt hash of "secret" (cost 5).
HTPASSWD = "user:$2b$05$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a\n"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """`root` tests here chown, mknod and set trusted attributes."""
    why = "needs root: owners, whiteouts and overlay attributes"
    skip_root_tests(items, "stage0", "" if os.geteuid() == 0 else why)


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


@pytest.fixture
def tar() -> type[Tar]:
    return Tar


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    """The OCI layout of `localhost/app`."""
    return Layout(tmp_path / "local" / "app")


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


@pytest.fixture
def push(run: Callable[..., str]) -> Callable[..., None]:
    """push(LAYOUT:TAG, HOST/NAME:TAG, *options): into a registry, by skopeo, whatever its certificate."""

    def call(source: str, target: str, *options: str) -> None:
        skopeo = ("skopeo", "--insecure-policy", "copy", "--dest-tls-verify=false")
        run(*skopeo, *options, f"oci:{source}", f"docker://{target}")

    return call


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pauses between attempts are short."""
    monkeypatch.setattr(web_client, "FIRST_DELAY", 0.001)


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> ServingFiles:
    """A certificate authority, and a certificate of it for this machine and some names of example.com's."""
    hosts = ["localhost", "127.0.0.1", "example.com", "images.example.com", "mirror.example.com"]
    return serving_files(tmp_path_factory.mktemp("tls"), hosts, dt.datetime.now(dt.UTC))


@pytest.fixture
async def internet(
    authority: ServingFiles, monkeypatch: pytest.MonkeyPatch, impatient: None
) -> AsyncIterator[Internet]:
    made = Internet(authority)
    for name in ("http_proxy", "https_proxy", "no_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setenv("HTTPS_PROXY", await made.start())
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
