"""`gantry rkt` measures what it starts, and `gantry rkt attest` says so."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from executor.stage0 import acmanifest, build
from executor.tpm import attest, verify
from executor.tpm.cli import verify_main
from executor.tpm.settings import DEFAULT_PCR
from tests.ground import put_busybox, why_no_pods

pytestmark = pytest.mark.root

NONCE = "00112233445566778899aabbccddeeff"
SECONDS = 60


@pytest.fixture
def rkt(tmp_path):
    """The command, with example.com/box in its store."""
    if why_no_pods():
        pytest.skip(why_no_pods())
    root = tmp_path / "root"
    put_busybox(root, "true")
    options = build.Options(entrypoint=("/bin/true",), compression="none")
    build.build_aci(
        root, tmp_path / "box.aci", acmanifest.manifest_for("example.com/box", options), options, "none"
    )
    flags = [f"--dir={tmp_path}/data", f"--local-config={tmp_path}", f"--system-config={tmp_path}"]
    command = ["setpriv", "--pdeathsig", "KILL", sys.executable, "-m", "executor.rkt.cli", *flags]

    def run(*words, code=0, **more):
        done = subprocess.run(
            [*command, "--insecure-options=image", *map(str, words)], capture_output=True, text=True,
            timeout=SECONDS, check=False, **more,
        )  # fmt: skip
        assert done.returncode == code, done.stderr
        return done

    run.command = [*command, "--insecure-options=image"]
    run("fetch", tmp_path / "box.aci")
    return run


def _events(rkt, swtpm, tmp_path):
    text = rkt("attest", f"--tpm={swtpm.tcti}", f"--nonce={NONCE}").stdout
    made = attest.parse(text)
    key = verify.load_key(made.key.encode())
    (tmp_path / "ak.pem").write_text(made.key)
    (tmp_path / "attestation.json").write_text(text)
    assert (
        verify_main([str(tmp_path / "attestation.json"), f"--key={tmp_path}/ak.pem", f"--nonce={NONCE}"]) == 0
    )
    return verify.verify(made, key, bytes.fromhex(NONCE), DEFAULT_PCR).events


def test_starts_are_measured(rkt, swtpm, tmp_path):
    assert swtpm.pcr() == "0" * 64
    rkt("run", "--net=none", f"--tpm={swtpm.tcti}", "example.com/box")
    before = swtpm.pcr()
    uuid = rkt("prepare", "example.com/box", "--name=other").stdout.strip()
    assert swtpm.pcr() == before
    rkt("run-prepared", "--net=none", f"--tpm={swtpm.tcti}", uuid)
    assert swtpm.pcr() != before
    rkt("run", "--net=none", "example.com/box")  # nobody asked
    first, second = _events(rkt, swtpm, tmp_path)
    image = json.loads(rkt("image", "list", "--format=json").stdout)[0]["id"]
    assert [first["apps"][0]["name"], second["apps"][0]["name"], second["pod"]] == ["box", "other", uuid]
    assert first["apps"][0]["image"] == second["apps"][0]["image"] == image
    assert first["stage1"]["flavor"] == "linux"


def test_what_cannot_be_measured_is_not_started(rkt, tmp_path):
    nobody = "--tpm=swtpm:host=127.0.0.1,port=1"
    done = rkt("run", "--net=none", nobody, "example.com/box", code=254)
    assert "run: it cannot be measured (--tpm-policy enforce)" in done.stderr
    assert rkt("list", "--no-legend").stdout.strip() == ""
    rkt("run", "--net=none", nobody, "--tpm-policy=report", "example.com/box")
    uuid = rkt("prepare", "example.com/box").stdout.strip()
    rkt("run-prepared", nobody, uuid, code=254)
    assert "state=prepared" in rkt("status", uuid).stdout
    for flags, why in (
        ([nobody, "--tpm-pcr=3"], "3 belongs to the firmware"),
        ([nobody, "--tpm-policy=odd"], "'odd' is not one of enforce, report"),
        (["--tpm=odd"], "--tpm"),
    ):
        assert why in rkt("run", *flags, "example.com/box", code=254).stderr
    assert "--nonce is needed" in rkt("attest", code=254).stderr
    rkt("attest", f"--nonce={NONCE}", nobody, code=254)


def test_apps_that_come_later(rkt, swtpm, tmp_path):
    on = {**os.environ, "RKT_EXPERIMENT_APP": "true"}
    file = tmp_path / "uuid"
    os.mkfifo(file)
    flags = [f"--dir={tmp_path}/data", f"--local-config={tmp_path}", f"--system-config={tmp_path}"]
    command = [
        "setpriv",
        "--pdeathsig",
        "KILL",
        sys.executable,
        "-m",
        "executor.rkt.cli",
        *flags,
        "app",
        "sandbox",
    ]
    sandbox = subprocess.Popen(
        [*command, "--net=none", f"--uuid-file-save={file}", f"--tpm={swtpm.tcti}"], env=on
    )
    try:
        uuid = file.read_text()
        rkt("status", "--wait-ready=30s", uuid)
        rkt("app", "add", uuid, "example.com/box", env=on)
        rkt("app", "rm", uuid, "--app=box", env=on)
        rkt("app", "add", uuid, "example.com/box", "--name=again", env=on)
        found = [[app["name"] for app in event["apps"]] for event in _events(rkt, swtpm, tmp_path)]
        assert found == [[], ["box"], ["again"]]
        swtpm.stop()
        done = rkt("app", "add", uuid, "example.com/box", "--name=late", env=on, code=254)
        assert "it cannot be measured" in done.stderr
        assert "late" not in rkt("cat-manifest", uuid).stdout
    finally:
        sandbox.kill()
        sandbox.wait()


def test_apps_that_come_to_somebody_elses_stage1_are_measured(rkt, swtpm, tmp_path, monkeypatch):
    monkeypatch.setenv("RKT_EXPERIMENT_APP", "true")
    rootfs = tmp_path / "stage1"
    shutil.copytree(Path(__file__).parents[1] / "contract/stage1/mutable", rootfs)
    notes = [{"name": "coreos.com/rkt/stage1/interface-version", "value": "6"}]
    for path in rootfs.iterdir():
        path.chmod(0o755)
        name = f"coreos.com/rkt/stage1/{path.name.replace('app-', 'app/')}"
        notes.append({"name": name, "value": f"/{path.name}"})
    options = build.Options(entrypoint=("/x",), compression="none")
    manifest = {**acmanifest.manifest_for("example.com/stage1", options), "annotations": notes}
    build.build_aci(rootfs, tmp_path / "stage1.aci", manifest, options, "none")
    stage1 = rkt("fetch", tmp_path / "stage1.aci").stdout.strip()
    file = tmp_path / "uuid"
    os.mkfifo(file)
    flags = ("--net=none", f"--stage1-hash={stage1}", f"--tpm={swtpm.tcti}", f"--uuid-file-save={file}")
    with subprocess.Popen([*rkt.command, "app", "sandbox", *flags], stdout=subprocess.DEVNULL) as process:
        uuid = file.read_text()
        rkt("status", "--wait-ready=50s", uuid)
        rkt("app", "add", uuid, "example.com/box", "--name=one", "--exec=/bin/true")
        start, added = _events(rkt, swtpm, tmp_path)
        assert [start["apps"], added["apps"][0]["name"], added["pod"]] == [[], "one", uuid]
        assert added["stage1"] == start["stage1"]
        swtpm.stop()
        done = rkt("app", "add", uuid, "example.com/box", "--name=two", "--exec=/bin/true", code=254)
        assert "it cannot be measured" in done.stderr
        assert [app["name"] for app in json.loads(rkt("cat-manifest", uuid).stdout)["apps"]] == ["one"]
        rkt("stop", uuid)
        assert process.wait(SECONDS) == 0
