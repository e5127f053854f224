"""`gantry image …` on a node: trust, verify, export, render, gc and the rest, as people and scripts use it."""

import io
import json
import os
import pty
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Any

import pytest

from executor.stage0 import cli
from executor.stage0.bar import Bar

pytestmark = pytest.mark.root


@pytest.fixture
def settings(tmp_path: Path, trusted: tuple[Path, Path]) -> Path:
    path = tmp_path / "images.toml"
    path.write_text(f"[trust]\nkeys = {json.dumps([str(place) for place in trusted])}\n")
    return path


@pytest.fixture
def gantry(
    capfd: pytest.CaptureFixture[str], state: Path, settings: Path, tmp_path: Path
) -> Callable[..., SimpleNamespace]:
    """Run `gantry image …` on the test's store: .code, .out, .err, .json."""

    def call(*argv: str | Path, as_json: bool = False) -> SimpleNamespace:
        capfd.readouterr()
        words = [str(a) for a in argv]
        options = [
            "--state-dir",
            str(state),
            "--image-config",
            str(settings),
            "--local-images",
            str(tmp_path / "local"),
        ]
        if words[0] != "build":
            words += options
        if as_json:
            words.append("--json")
        code = cli.main(words)
        out, err = capfd.readouterr()
        said = json.loads(out) if as_json and out else None
        return SimpleNamespace(code=code, out=out, err=err, json=said)

    return call


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """terminal(ANSWER): stdin is a terminal on which somebody types this."""

    def call(answer: str) -> None:
        master, slave = pty.openpty()
        os.write(master, f"{answer}\n".encode())
        stdin = os.fdopen(slave)
        monkeypatch.setattr("sys.stdin", stdin)
        keep.append((master, stdin))

    keep: list[tuple[int, IO[str]]] = []
    yield call
    for master, stdin in keep:
        stdin.close()
        os.close(master)


# -- trust


def test_trust_a_key_and_withdraw_it(
    gantry: Any, keyring: Any, make_aci: Any, tmp_path: Path, trusted: tuple[Path, Path]
) -> None:
    aci = make_aci("example.com/team/app")
    keyring.sign("good", aci)
    (tmp_path / "key.pub").write_text(keyring.public("good"))
    fingerprint = keyring.keys["good"]
    done = gantry("fetch", f"file://{aci}", "--quiet")
    assert (done.code, done.out) == (1, "")
    assert "no key is trusted for it" in done.err
    done = gantry(
        "trust", "add", "example.com/team", tmp_path / "key.pub", "--fingerprint", fingerprint.upper()
    )
    assert done.code == 0, done.err
    path = trusted[0] / "prefix.d/example.com/team" / fingerprint
    assert path.read_text().startswith("-----BEGIN PGP PUBLIC KEY BLOCK-----")
    assert gantry("trust", "list", as_json=True).json == [
        {"prefix": "example.com/team", "fingerprint": fingerprint, "path": str(path)}
    ]
    image = gantry("fetch", f"file://{aci}", "--quiet").out.strip()
    assert gantry("verify", image).code == 0
    (row,) = gantry("list", as_json=True).json
    assert row["verification"]["facts"][0]["signers"] == [f"openpgp:{fingerprint}"]
    assert gantry("trust", "rm", "example.com/team", fingerprint).code == 0
    assert not (trusted[0] / "prefix.d/example.com").exists()
    done = gantry("verify", image)
    assert (done.code, "not trusted: it is signed by key" in done.out) == (1, True)
    done = gantry("trust", "rm", "example.com/team", fingerprint)
    assert (done.code, "is not trusted for example.com/team" in done.err) == (1, True)


def test_review_on_a_terminal(gantry: Any, keyring: Any, tmp_path: Path, terminal: Any, trusted: Any) -> None:
    key = tmp_path / "key.pub"
    key.write_text(keyring.public("good"))
    done = gantry("trust", "add", "--root", key)
    assert done.code == 1
    assert f"nobody is there to review its fingerprint; give --fingerprint {keyring.keys['good']}" in done.err
    terminal("no")
    done = gantry("trust", "add", "--root", key)
    assert (done.code, "nobody said yes" in done.err, "EVERY name" in done.err) == (1, True, True)
    assert not (trusted[0] / "root.d").exists()
    terminal("yes")
    assert gantry("trust", "add", "--root", key).code == 0
    assert (trusted[0] / "root.d" / keyring.keys["good"]).exists()
    assert gantry("trust", "rm", "--root", keyring.keys["good"]).code == 0
    assert gantry("trust", "add", "--root", key, "--skip-fingerprint-review").code == 0


def test_a_vendors_key_is_masked(gantry: Any, keyring: Any, trust: Any, trusted: Any) -> None:
    trust("good", "example.com", vendor=True)
    assert gantry("trust", "list").out.count(keyring.keys["good"]) == 2
    assert gantry("trust", "rm", "example.com", keyring.keys["good"]).code == 0
    assert (trusted[0] / "prefix.d/example.com" / keyring.keys["good"]).read_bytes() == b""
    assert gantry("trust", "list").out == ""


def test_keys_that_are_not_taken(gantry: Any, gpg_home: Any, keyring: Any, tmp_path: Path) -> None:
    weak = gpg_home("w")
    weak.key("weak", algorithm="rsa1024")
    cases = {
        "weak": (weak.public("weak"), "is too weak (RSA, 1024 bits)"),
        "expired": (keyring.public("expired"), "has expired"),
        "junk": ("hello", "not an OpenPGP public key"),
        "secret": ("-----BEGIN PGP PRIVATE KEY BLOCK-----\n", "holds a secret key"),
        "other": (keyring.public("other"), "is not the one that --fingerprint names"),
    }
    for name, (text, words) in cases.items():
        path = tmp_path / f"{name}.pub"
        path.write_text(text)
        how = ["--fingerprint", "0" * 40] if name == "other" else ["--skip-fingerprint-review"]
        done = gantry("trust", "add", "example.com", path, *how)
        assert (done.code, done.out) == (1, "")
        assert words in done.err
        assert done.err.count("\n") == 1
    for argv, words in (
        (["trust", "add"], "name a PREFIX"), (["trust", "add", "--root"], "--root needs a KEY"),
        (["trust", "add", "../x", "k"], "is not a prefix of appc names"), (["trust", "rm", "a"], "FINGERPRINT"),
        (["trust", "rm", "a", "xyz"], "not an OpenPGP fingerprint"), (["trust", "add", "a", "/nope"], "No such file"),
        (["trust", "add", "a", "http://127.0.0.9:1/k"], ""),
        (["trust", "add", "a", "http://example.com/k"], "plain HTTP"),
    ):  # fmt: skip
        done = gantry(*argv)
        assert (done.code, words in done.err, done.err.count("\n")) == (1, True, 1), (argv, done.err)


# -- an image of the store


@pytest.fixture
def fetched(gantry: Any, rootfs: Path, tmp_path: Path) -> str:
    """`localhost/app:v1` in the store; its id."""
    assert gantry("build", rootfs, "--oci", f"{tmp_path}/local/app:v1", "--cmd", "/bin/sh").code == 0
    done = gantry("fetch", "localhost/app:v1", "--quiet")
    assert done.code == 0, done.err
    return str(done.out.strip())


def test_an_oci_image(
    gantry: Any, fetched: str, rootfs: Path, tmp_path: Path, run: Callable[..., str]
) -> None:
    manifest = gantry("cat-manifest", "localhost/app:v1", as_json=True).json
    assert manifest["config"]["digest"] == fetched
    assert gantry("cat-manifest", fetched[:16], "--config", as_json=True).json["config"] == {
        "Cmd": ["/bin/sh"]
    }
    appc = gantry("cat-manifest", "localhost/app:v1", "--appc", as_json=True).json
    assert (appc["name"], appc["app"]["exec"]) == ("localhost/app", ["/bin/sh"])
    done = gantry("export", "localhost/app:v1", "--oci", f"{tmp_path}/out:x", as_json=True)
    assert done.json["id"] == fetched
    assert done.json["digest"] == json.loads(run("skopeo", "inspect", f"oci:{tmp_path}/out:x"))["Digest"]
    run("umoci", "unpack", "--image", f"{tmp_path}/out:x", tmp_path / "bundle")
    run("diff", "-r", "--no-dereference", rootfs, tmp_path / "bundle/rootfs")
    assert gantry("render", fetched, tmp_path / "rendered").code == 0
    run("diff", "-r", "--no-dereference", rootfs, tmp_path / "rendered")
    info = (tmp_path / "rendered/bin/busybox").stat()
    assert (info.st_mode & 0o7777, info.st_nlink) == (0o4755, 2)
    for argv, words in (
        (["render", fetched, tmp_path / "rendered"], "is there already"),
        (["export", fetched, "--aci", "x"], "is not an ACI"),
        (["cat-manifest", "sha256:00"], "no such image"), (["render", fetched, "/proc/x"], ""),
    ):  # fmt: skip
        done = gantry(*argv)
        assert (done.code, words in done.err, done.err.count("\n")) == (1, True, 1), done.err
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def test_layers_are_rendered_as_the_kernel_shows_them(
    gantry: Any, umoci_layout: Path, tmp_path: Path, run: Callable[..., str]
) -> None:
    assert gantry("fetch", "localhost/real:v1", "--quiet").code == 0
    assert gantry("render", "localhost/real:v1", tmp_path / "rendered").code == 0
    run("umoci", "unpack", "--image", f"{umoci_layout}:v1", tmp_path / "reference")
    run("diff", "-r", "--no-dereference", tmp_path / "reference/rootfs", tmp_path / "rendered")
    assert gantry("export", "localhost/real:v1", "--oci", f"{tmp_path}/out:x", "--quiet").code == 0
    run("umoci", "unpack", "--image", f"{tmp_path}/out:x", tmp_path / "again")
    run("diff", "-r", "--no-dereference", tmp_path / "reference/rootfs", tmp_path / "again/rootfs")
    assert gantry("verify", "localhost/real:v1", "--quiet").out == "localhost/real:v1: unchanged\n"


def test_an_aci(gantry: Any, make_aci: Any, tmp_path: Path, settings: Path) -> None:
    settings.write_text(settings.read_text() + f'[policy.prefixes]\n"file:{tmp_path}" = "none"\n')
    path = make_aci("example.com/x", {"a": "b"})
    image = gantry("fetch", f"file://{path}", "--quiet").out.strip()
    assert gantry("cat-manifest", image[:20], as_json=True).json["name"] == "example.com/x"
    assert gantry("export", image, "--aci", tmp_path / "out.aci", "--quiet").out.split()[-1] == image
    assert gantry("fetch", f"file://{tmp_path}/out.aci", "--quiet").out.strip() == image
    done = gantry("cat-manifest", image, "--config")
    assert (done.code, "ACIs have one manifest" in done.err) == (1, True)
    assert "export it with --aci" in gantry("export", image, "--oci", f"{tmp_path}/o:x").err


def test_verify_says_what_was_changed(gantry: Any, fetched: str, state: Path, tmp_path: Path) -> None:
    assert gantry("verify", as_json=True).json == [{"image": fetched, "id": fetched, "problems": []}]
    (tree,) = (state / "store/layers").glob("*/tree")
    (tree / "etc/hostname").write_text("other\n")
    done = gantry("verify", "localhost/app:v1")
    assert done.code == 1
    assert done.out.startswith("localhost/app:v1: NOT as it should be\n  layer sha256:")
    assert gantry("verify", "--quick").out.count("/etc/hostname was changed") == 1
    done = gantry("export", fetched, "--oci", f"{tmp_path}/out:x")
    assert (done.code, "was changed in the store; it is not exported" in done.err) == (1, True)
    done = gantry("fetch", "localhost/app:v1", "--quiet")
    assert done.code == 0  # not where a run looks
    (tree / "etc/passwd").write_text("root::0:0\n")
    assert "somebody changed the image in the store" in gantry("fetch", "localhost/app:v1", "--quiet").err
    assert gantry("rm", "localhost/app:v1").code == 0
    assert gantry("fetch", "localhost/app:v1", "--quiet").code == 0
    assert gantry("verify").code == 0


def test_a_full_disk_is_called_by_the_place_that_is_full(
    gantry: Any, fetched: str, mount: Callable[..., None], tmp_path: Path
) -> None:
    disk = tmp_path / "disk"
    mount(disk, "tmpfs", "size=16k,nr_inodes=200")
    (disk / "filler").write_bytes(b"x" * 8192)
    done = gantry("export", fetched, "--oci", f"{disk}/out:x", "--quiet")
    assert (done.code, f"writing {disk}/out: No space left on device" in done.err) == (1, True), done.err
    done = gantry("render", fetched, disk / "tree")
    assert (done.code, "No space left on device" in done.err, "None" in done.err) == (1, True, False), (
        done.err
    )
    assert not (disk / "tree").exists()


def test_gc(gantry: Any, fetched: str) -> None:
    done = gantry("gc", as_json=True)
    assert (done.code, done.json["images"]) == (0, [])
    done = gantry("gc", "--older-than", "0", as_json=True)
    assert done.json["images"] == [fetched]
    assert gantry("list", as_json=True).json == []


# -- the bar


def test_the_bar_on_a_terminal() -> None:
    master, slave = pty.openpty()
    drawn: list[bytes] = []
    seen = threading.Event()

    def reader() -> None:
        while not seen.is_set():
            drawn.append(os.read(master, 4096))
            if b"50%" in b"".join(drawn):
                seen.set()

    thread = threading.Thread(target=reader)
    thread.start()
    with os.fdopen(slave, "w") as out, Bar("layers", lambda: (5 << 20, 10 << 20), out) as bar:
        bar.say("a line")
        assert seen.wait(60)
    thread.join()
    os.close(master)
    text = b"".join(drawn)
    assert b"a line\r\n" in text
    assert b"layers [###############...............]  50% 5.0/10.0 MiB" in text


def test_the_bar_in_a_file() -> None:
    out = io.StringIO()
    with Bar("layers", lambda: (1, 2), out) as bar:
        bar.say("a line")
    assert out.getvalue() == "a line\n"
    assert Bar("x", lambda: (0, 0), out).line() == "x …"


def test_a_store_that_may_not_be_read_is_not_called_empty(state: Path, tmp_path: Path) -> None:
    (tmp_path / "rootfs").mkdir()
    assert cli.main(["build", str(tmp_path / "rootfs"), "--oci", f"{tmp_path / 'layout'}:x"]) == 0
    assert cli.main(["fetch", "--quiet", "--state-dir", str(state), f"oci:{tmp_path / 'layout'}:x"]) == 0
    for part in ("images", "names"):
        os.chown(state / "store" / part, 65534, 65534)
    unprivileged = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"]
    command = [*unprivileged, sys.executable, "-m", "gantry", "image", "list", "--state-dir", str(state)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert "Permission denied" in done.stderr


def test_an_image_that_is_there_needs_no_http_client() -> None:
    """It takes as long to load as all the rest of `gantry rkt run`."""
    code = (
        "import sys\n"
        "import executor.rkt.run, executor.rkt.lookup, executor.stage0.cli, executor.stage0.store\n"
        "print([name for name in ('aiohttp', 'cryptography') if name in sys.modules])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == "[]\n"
