"""`gantry node`: what is said of this machine, and of pods before they run."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from executor.node import doctor
from executor.node.cli import main
from executor.stage0.build import Options, build_oci


def run(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, str, str]:
    code = main(list(argv))
    out, err = capsys.readouterr()
    return code, out, err


@pytest.fixture
def images(tmp_path: Path) -> Path:
    (tmp_path / "root/etc").mkdir(parents=True)
    (tmp_path / "root/etc/passwd").write_text("app:x:5:6::/:/x\n")
    build_oci(
        tmp_path / "root", tmp_path / "images" / "small", "1", Options(entrypoint=("/serve",), user="app")
    )
    return tmp_path / "images"


def pod(tmp_path: Path, **spec: Any) -> str:
    container = {"name": "c", "image": "localhost/small:1", "args": ["--all\nof it"]}
    made = {
        "kind": "Pod",
        "apiVersion": "v1",
        "metadata": {"name": "web"},
        "spec": {"containers": [container], **spec},
    }
    (tmp_path / "pod.json").write_text(json.dumps(made))
    return str(tmp_path / "pod.json")


def test_the_plan_of_a_pod(capsys: pytest.CaptureFixture[str], tmp_path: Path, images: Path) -> None:
    sysctls = [{"name": "net.ipv4.tcp_syncookies", "value": "1"}]
    file = pod(tmp_path, hostUsers=True, securityContext={"sysctls": sysctls})
    state = tmp_path / "state"
    code, out, err = run(capsys, "plan", file, "--state-dir", str(state), "--local-images", str(images))
    assert (code, err) == (0, "")
    assert "run /serve --all\\nof it as 5:6 in /" in out
    assert "set net.ipv4.tcp_syncookies=1" in out
    assert "user namespace: none" in out
    assert "write 4096 to " in out
    lines = out.splitlines()
    assert "gantry.web/pids.max" in out or "(no pids)/gantry.web" in out
    assert sum(line.endswith(" chroot") for line in lines) == 1
    assert sum(line.startswith("  processes: its own, of which it is pid 1") for line in lines) == 1
    assert not (state / "pods").exists(), "nothing is done"


@pytest.mark.parametrize("name", ["configured", "stored"])
def test_the_plan_of_an_example_with_other_objects(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, name: str
) -> None:
    example = Path(__file__).resolve().parents[2] / "examples" / f"{name}.yaml"
    code, out, err = run(capsys, "plan", str(example), "--state-dir", str(tmp_path))
    assert (code, err) == (0, "")
    assert "GREETING=Good morning" in out or "take volume /(the volume of claim " in out


def test_the_flavor_of_rktnetes(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    made = json.loads(Path(pod(tmp_path)).read_text())
    made["metadata"]["annotations"] = {
        "rkt.alpha.kubernetes.io/stage1-name-override": "coreos.com/rkt/stage1-fly:1.30.0"
    }
    (tmp_path / "pod.json").write_text(json.dumps(made))
    assert "flavor fly, " in run(capsys, "plan", str(tmp_path / "pod.json"), "--state-dir", str(tmp_path))[1]


def test_an_image_that_is_not_there_is_said_to_be_so(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    code, out, _ = run(capsys, "plan", pod(tmp_path), "--state-dir", str(tmp_path), "--json")
    made = json.loads(out)
    assert code == 0
    assert made["apps"]["c"]["process"]["process"].startswith("run (the image's command)")
    assert made["flavor"] == "linux"


def test_the_plan_of_a_pod_manifest(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    isolators = [
        {"name": "os/linux/seccomp-remove-set", "value": {"set": ["mount"], "errno": "EACCES"}},
        {"name": "resource/block-iops", "value": {"default": True, "limit": 5}},
        {"name": "gantry.io/rlimits", "value": {"core": {"soft": 0}}},
    ]
    app = {"name": "a", "app": {"exec": ["/x"], "isolators": isolators, "supplementaryGIDs": [7]}}
    manifest = {
        "acKind": "PodManifest",
        "apps": [app],
        "annotations": [{"name": "gantry.io/flavor", "value": "fly"}],
    }
    (tmp_path / "pod").write_text(json.dumps(manifest))
    code, out, _ = run(capsys, "plan", str(tmp_path / "pod"), "--json")
    assert code == 0
    made = json.loads(out)["apps"]["a"]
    assert made["process"]["seccomp"].startswith("1 calls: errno 13; any other: allowed")
    assert (made["process"]["capabilities"], made["process"]["groups"]) == ("all", "7")
    assert any("(the disk below" in line for line in made["cgroups"])
    assert "mount proc on proc" in made["operations"]


def test_the_plan_says_what_would_not_be_enforced(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    odd = [{"name": "example.com/odd", "value": 1}, {"name": "os/linux/no-new-privileges", "value": True}]
    app = {"name": "a", "app": {"exec": ["/x"], "isolators": odd}}
    (tmp_path / "pod").write_text(json.dumps({"acKind": "PodManifest", "apps": [app]}))
    code, out, _ = run(capsys, "plan", str(tmp_path / "pod"), "--state-dir", str(tmp_path))
    assert code == 0
    assert "no_new_privs: yes" in out
    assert out.endswith(
        "not enforced here; the pod is refused, unless the executor has --unenforceable report:\n"
        "  container a: isolator example.com/odd is not enforced: not known here\n"
    )


def test_the_plan_of_a_container_of_nspawn(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    _, out, _ = run(capsys, "plan", pod(tmp_path, runtimeClassName="nspawn"), "--state-dir", str(tmp_path))
    assert "  1 run systemd-nspawn --quiet " in out
    assert "--hostname=web --private-network /init" in out


def test_the_plan_of_a_virtual_machine(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    state = ("--state-dir", str(tmp_path / "state"))
    file = pod(tmp_path, runtimeClassName="kvm", volumes=[{"name": "v", "emptyDir": {}}])
    code, out, _ = run(capsys, "plan", file, *state)
    assert code == 0
    host, _, guest = out.partition("\nin the machine:\n")
    assert host.startswith(
        "the machine: 640 MiB of memory, 1 cpus; with its programs at most 832 MiB of the host's\n"
    )
    assert "  process: run setpriv " in host
    assert f"take volume {tmp_path}/state/pods/run/web/sharedVolumes/v\n" in host
    assert "flavor kvm, user namespace: none\n" in guest
    assert "take volume /share/volumes/termination.c\n" in guest
    made = json.loads(run(capsys, "plan", file, *state, "--json")[1])
    assert (made["flavor"], made["machine"]["flavor"], set(made["machine"]["apps"])) == (
        "kvm",
        "linux",
        {"vm", "files"},
    )
    assert not (tmp_path / "state" / "kvm").exists()
    error = run(capsys, "plan", pod(tmp_path, hostPID=True), *state, "--default-flavor", "kvm")[2]
    assert error.endswith(": spec.hostPID: a virtual machine has processes of its own (flavor kvm)\n")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "while parsing"),
        ("[]", "neither a v1 Pod nor an appc PodManifest"),
        ("kind: Service", "neither a v1 Pod nor an appc PodManifest"),
        ("kind: Pod", "not a v1 Pod: KeyError"),
        ("kind: Pod\n---\nkind: Pod", "2 pods: there is one plan for one pod"),
        ('{"acKind": "PodManifest", "apps": [{"name": "a", "app": {}}]}', "exec is empty"),
    ],
)
def test_what_has_no_plan(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, text: str, message: str
) -> None:
    (tmp_path / "file").write_text(text)
    code, out, err = run(capsys, "plan", str(tmp_path / "file"))
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert err.startswith("gantry: error: ")
    assert message in err


def test_a_file_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "plan", "/no/such/file")[0] == 1


@pytest.mark.root
def test_the_doctor(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root")
    code, out, _ = run(capsys, "doctor", "--state-dir", str(tmp_path / "not/there"), "--json")
    flavors = json.loads(out)["flavors"]
    assert set(flavors) == {"linux", "fly", "nspawn", "kvm"}
    assert code == (0 if doctor.works(flavors["linux"]) and doctor.works(flavors["fly"]) else 1)
    assert not (tmp_path / "not").exists()
    kernel = ("--kvm-kernel", str(tmp_path / "none"))
    asked, text, _ = run(capsys, "doctor", "--flavor", "nspawn", *kernel)
    assert asked == (0 if doctor.works(flavors["nspawn"]) else 1)
    assert "linux: works\n" in text or "MISSING" in text
    assert f"  MISSING a kernel for machines: {tmp_path / 'none'}: " in text
    assert run(capsys, "doctor", "--flavor", "kvm", *kernel)[0] == 1
    made = {one["name"]: one["why"] for one in flavors["kvm"]}
    if not (made["QEMU and virtiofsd"] or made["a kernel for machines"]):
        assert made["a machine that starts"] == ""


def test_what_works() -> None:
    fine = {"name": "a", "needed": True, "why": ""}
    without = {"name": "b", "needed": False, "why": "no reason"}
    missing = {"name": "c", "needed": True, "why": "it is not there"}
    assert doctor.works([fine, without])
    assert not doctor.works([fine, missing])
    assert doctor.text({"x": [fine, without, missing]}) == (
        "x: does not work\n  ok      a\n  without b: no reason\n  MISSING c: it is not there\n"
    )
