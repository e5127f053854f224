"""Which image may be a stage1: the administrator's word, checked each time."""

import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from executor.pods.launcher import LaunchError
from executor.stage0.settings import parse

DIGEST = "sha512-" + "0" * 128
KEY = "14245e30e8d7fd0106891bac108ec72f47c002a6"


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"x": {"image": "file:///x.aci"}}, "stage1.x: needs digest or signed-by"),
        ({"x": {"digest": DIGEST}}, "stage1.x.image: the name of an image is missing"),
        ({"x": {"image": "file:///x.aci", "digest": "sha512-00"}}, "stage1.x.digest: 'sha512-00'"),
        ({"x": {"image": "file:///x.aci", "digest": "sha256:" + "0" * 64}}, "stage1.x.digest"),
        ({"x": {"image": "file:///x.aci", "signed-by": []}}, "stage1.x.signed-by: expected a list"),
        ({"x": {"image": "file:///x.aci", "signed-by": ["me"]}}, "stage1.x.signed-by: "),
        ({"x": {"image": "file:///x.aci", "digset": DIGEST}}, "stage1.x.digset: unknown key"),
        ({"linux": {"image": "file:///x.aci", "digest": DIGEST}}, "stage1.linux: not a name"),
        ({"X_y": {"image": "file:///x.aci", "digest": DIGEST}}, "stage1.X_y: not a name"),
        ({"x": "file:///x.aci"}, "stage1.x: not a table"),
        ("x", "stage1: not a table"),
    ],
)
def test_mistakes_in_the_settings(table: Any, message: str) -> None:
    with pytest.raises(ValueError, match=r"^stage1") as failed:
        parse({"stage1": table})
    assert message in str(failed.value)


def test_both_ways() -> None:
    made = parse({"stage1": {"a": {"image": "file:///x.aci", "digest": DIGEST[:71]},
                             "b": {"image": "appc://example.com/s", "signed-by": [KEY]}}}).stage1  # fmt: skip
    assert made["a"].digest == DIGEST[:71]
    assert made["b"].signed_by == (KEY,)


@pytest.mark.root
async def test_what_image_runs_a_flavor(world: Any) -> None:
    name = world.stage1()
    identity = await world.stages.identity(name)
    assert identity.startswith("sha512-")
    assert identity == world.tables[name]["digest"]
    assert await world.stages.identity("linux") is None


@pytest.mark.root
async def test_another_image_than_the_administrator_meant(world: Any) -> None:
    name = world.stage1()
    world.tables[name]["digest"] = DIGEST
    with pytest.raises(
        LaunchError, match=rf"stage1 {name}: file:.*: it is sha512-.*, and stage1.{name}.digest asks"
    ):
        await world.run(world.pod(name, "true"))


@pytest.mark.root
async def test_an_unsigned_one_where_a_signature_is_asked_for(world: Any) -> None:
    name = world.stage1()
    world.tables[name] = {"image": world.tables[name]["image"], "signed-by": [KEY]}
    with pytest.raises(
        LaunchError, match=r"it is not signed .*policy asks for it: stage1.single-0.signed-by"
    ):
        await world.run(world.pod(name, "true"))


@pytest.fixture
def gpg(tmp_path: Path) -> Iterator[Callable[..., str]]:
    """GnuPG with a home of its own, and the key `signer`."""
    if shutil.which("gpg") is None or shutil.which("gpgv") is None:
        pytest.skip("gpg and gpgv are not installed")
    home = tmp_path / "gnupg"
    home.mkdir(mode=0o700)

    def call(*argv: str) -> str:
        command = ["gpg", "--homedir", str(home), "--batch", "--quiet", "--yes", "--passphrase", "", *argv]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    call("--quick-gen-key", "signer@example.com", "ed25519", "sign", "never")
    yield call
    subprocess.run(["gpgconf", "--homedir", str(home), "--kill", "all"], check=False, capture_output=True)


@pytest.mark.root
async def test_one_that_is_signed_by_whom_the_administrator_names(
    world: Any, gpg: Callable[..., str], tmp_path: Path
) -> None:
    """And by no other, although that one's key is trusted, too, and apps' images would pass."""
    listed = gpg("--list-keys", "--with-colons").splitlines()
    fingerprint = next(line.split(":")[9] for line in listed if line.startswith("fpr:")).lower()
    keys = tmp_path / "keys" / "prefix.d" / "example.com"
    keys.mkdir(parents=True)
    (keys / fingerprint).write_text(gpg("--armor", "--export", "signer@example.com"))
    world.trust = {"keys": [str(tmp_path / "keys")]}
    name, other = world.stage1(), world.stage1()
    for one, signer in ((name, fingerprint), (other, KEY)):
        image = world.tables[one]["image"]
        gpg(
            "--armor",
            "--detach-sign",
            "--output",
            f"{image.removeprefix('file://')}.asc",
            image.removeprefix("file://"),
        )
        world.tables[one] = {"image": image, "signed-by": [signer]}
    await world.run(world.pod(name, "true"))
    with pytest.raises(LaunchError, match=rf"stage1 {other}: .*no key is trusted for it .*signed-by {KEY}"):
        await world.run(world.pod(other, "true"))
    (keys / fingerprint).unlink()
    with pytest.raises(LaunchError, match=rf"stage1 {name}: .*not trusted|no key is trusted"):
        await world.run(world.pod(name, "true"))


@pytest.mark.root
async def test_it_is_looked_at_for_each_pod(world: Any, output: Any) -> None:
    """A file that was replaced is another image."""
    name = world.stage1()
    await world.run(world.pod(name, "true"))
    (world.root / f"{name}.rootfs" / "run").write_text("#!/bin/sh\nexec evil\n")
    world.rebuild(name)
    with pytest.raises(LaunchError, match="digest asks for"):
        await world.run(world.pod(name, "true"))


@pytest.mark.root
async def test_an_image_of_another_kind(world: Any, tmp_path: Path, busybox_image: Path) -> None:
    from executor.stage0.build import Options, build_oci

    build_oci(busybox_image, tmp_path / "layout", "1", Options(cmd=("/bin/sh",)))
    name = world.stage1()
    world.tables[name] = {"image": f"oci:{tmp_path}/layout:1", "digest": DIGEST}
    with pytest.raises(LaunchError, match=r"a stage1 is an ACI|digest asks for"):
        await world.run(world.pod(name, "true"))


@pytest.mark.root
async def test_an_aci_that_is_no_stage1(world: Any) -> None:
    name = world.stage1(gc=None)
    with pytest.raises(LaunchError, match=f"stage1 {name}: no stage1 image, it has no annotation .*/gc"):
        await world.run(world.pod(name, "true"))


@pytest.mark.root
async def test_one_that_is_not_configured(world: Any) -> None:
    with pytest.raises(LaunchError, match="stage1 nobody: this executor's settings have none of that name"):
        await world.run(world.pod("nobody", "true"))
