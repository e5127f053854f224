"""The archive: complete, reproducible, and enough for a machine that has nothing."""

import gzip
import hashlib
import json
import os
import re
import sys
import tarfile
from pathlib import Path

import pytest

from gantry.__main__ import COMMANDS
from local import rootfs
from shared.bundle import BundleError, check, contents, elf, make
from tests.ports import free_ports


def test_the_digest_is_that_of_the_file(bundle):
    path, digest = bundle
    assert hashlib.sha256(path.read_bytes()).hexdigest() == digest
    assert check(path).digest == digest


def test_nothing_in_it_tells_when_or_by_whom_it_was_made(bundle):
    with tarfile.open(bundle[0]) as archive:
        members = archive.getmembers()
    assert {(one.uid, one.gid, one.uname, one.gname, one.mtime) for one in members} == {
        (0, 0, "", "", 1262304000)
    }
    assert {one.type for one in members} == {tarfile.REGTYPE, tarfile.DIRTYPE}
    assert {one.mode for one in members} == {0o755, 0o644}
    files = [one.name for one in members if one.isfile()]
    assert files == sorted(files)
    assert all(one.name.split("/")[0] == "gantry" for one in members)


def test_what_is_only_for_development_stays_at_home(bundle):
    with tarfile.open(bundle[0]) as archive:
        names = {one.name for one in archive.getmembers()}
    library = f"gantry/lib/python{sys.version_info.major}.{sys.version_info.minor}"
    for name in ("pytest", "mypy", "hypothesis", "kubernetes", "test", "tkinter", "idlelib", "pip"):
        assert f"{library}/{name}" not in names
    assert not [name for name in names if name.endswith((".py", ".pyx", ".pyi", ".h"))]
    assert f"{library}/executor/stage1/__main__.pyc" in names


def test_the_same_bytes_again(tmp_path):
    """Of a part: compiled in two processes, from two places, in any mood of the hash seed."""
    folders = ("/asyncio/", "/executor/", "/lib-dynload/")
    part = [one for one in contents("1") if any(name in one.path for name in folders)]
    assert len(part) > 100
    first, second = (make(tmp_path / name, part) for name in ("first", "second"))
    assert (tmp_path / "first").read_bytes() == (tmp_path / "second").read_bytes()
    assert first.digest == second.digest


@pytest.mark.root
def test_every_command_starts_on_a_machine_that_has_nothing_but_busybox(bundled):
    assert bundled.run("/opt/gantry/bin/gantry", "--version").stdout.startswith("gantry ")
    done = bundled.run("/opt/gantry/bin/gantry-executor", "--help")
    assert done.stdout.startswith("usage: gantry executor"), done.stderr
    modules = sorted(module for module, _ in COMMANDS.values())
    code = f"import importlib, ssl, sqlite3; [importlib.import_module(one) for one in {modules}]; print('all there')"
    done = bundled.run("/opt/gantry/bin/python3", "-I", "-c", code)
    assert done.stdout == "all there\n", done.stderr
    done = bundled.run("/bin/sh", "-c", "cd /opt/gantry/lib && PATH=../bin:$PATH && gantry --version")
    assert done.stdout.startswith("gantry "), done.stderr  # found by PATH, however


@pytest.mark.root
def test_made_by_itself_it_is_itself(bundled, bundle):
    done = bundled.run("/opt/gantry/bin/gantry", "bundle", "/tmp/again.tar.gz")
    assert done.returncode == 0, done.stderr
    assert done.stdout.rpartition("sha256:")[2].strip() == bundle[1]
    assert (bundled.root / "tmp/again.tar.gz").read_bytes() == bundle[0].read_bytes()


class Bare:
    """A master and a scheduler here, and an agent on a machine that has the bundle and nothing else."""

    def __init__(self, machine, bundle, processes, cgroups, tools):
        self.machine, self.bundle, self.processes, self.cgroups, self.tools = (
            machine,
            bundle,
            processes,
            cgroups,
            tools,
        )
        self.mesos, self.api = free_ports(2)
        self.pods = f"http://127.0.0.1:{self.api}/api/v1/namespaces/default/pods"

    def start(self):
        rootfs.build(self.machine.root / "tmp/hello")
        build = ("image", "build", "/tmp/hello", "--oci", "/images/hello:latest")
        image = self.machine.run("/opt/gantry/bin/gantry", *build)
        assert image.returncode == 0, image.stderr
        master = ("--ip", "127.0.0.1", "--port", str(self.mesos), "--work_dir", "master")
        self.processes.gantry("master", "master", *master)
        agent = ["/opt/gantry/bin/gantry", "agent", "--master", f"127.0.0.1:{self.mesos}", "--port", "0"]
        agent += ["--hostname", "bare", "--work_dir", "/work", "--cgroups_root", f"{self.cgroups}agent"]
        agent += ["--resources", "cpus:4;mem:4096;disk:10000;ports:[31000-31100]"]
        self.processes.start("agent", self.machine.command(*agent))
        self.start_scheduler()

    def start_scheduler(self):
        scheduler = self.processes.gantry(
            *("scheduler", "scheduler", "--master", f"127.0.0.1:{self.mesos}", "--store", "sqlite:state.db"),
            *("--listen", f"127.0.0.1:{self.api}", "--executor-bundle", str(self.bundle[0])),
            *("--executor-options", "--state-dir /state --local-images /images --node-listen 127.0.0.1:0"),
        )
        nodes = f"http://127.0.0.1:{self.api}/api/v1/nodes"
        self.until("a node", lambda: (self.tools.call(nodes) or {}).get("items"))
        return scheduler

    def until(self, what, check):
        return self.tools.until(what, check, why=self.processes.logs)

    def run(self, name):
        command = ["/bin/sh", "-c", "echo ran; exec sleep 1000"]
        spec = {"containers": [{"name": "main", "image": "localhost/hello", "command": command}]}
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}
        self.tools.call(self.pods, pod)
        self.until(name, lambda: self.phase(name) == "Running")
        self.until("its log", lambda: self.tools.call(f"{self.pods}/{name}/log") == "ran\n")

    def phase(self, name):
        return (self.tools.call(f"{self.pods}/{name}") or {}).get("status", {}).get("phase")

    def sandboxes(self):
        found = (self.machine.root / "work").glob("slaves/*/frameworks/*/executors/*/runs/*")
        return [one for one in found if not one.is_symlink()]


@pytest.mark.root
def test_a_pod_runs_where_there_is_no_python(bundle, bundled, processes, cgroups, tools):
    """The whole way: the scheduler serves it, the agent fetches it, the executor and its stage1 run from it."""
    bare = Bare(bundled, bundle, processes, cgroups, tools)
    bare.start()
    bare.run("first")
    (sandbox,) = bare.sandboxes()
    inside = f"/{sandbox.relative_to(bundled.root)}/gantry/lib/ld-"
    launchers = [one for one in _members(cgroups) if _program(one, "comm") == "gantry-launcher\n"]
    assert launchers
    for pid in launchers:
        assert os.readlink(f"/proc/{pid}/exe").startswith(inside)
        # What runs cannot be written to, whoever gets hold of it (see executor/stage1/__main__.py).
        assert os.statvfs(f"/proc/{pid}/exe").f_flag & os.ST_RDONLY
    assert not list(sandbox.glob("sha256-*.tar.gz"))  # unpacked, and not kept twice
    scheduler = processes.running["scheduler"]
    scheduler.kill()
    scheduler.wait()
    bare.start_scheduler()  # which serves it elsewhere
    assert len(set(re.findall(r"fetch the executor .* from (\S+)", processes.log("scheduler")))) == 2
    bare.run("second")
    assert bare.sandboxes() == [sandbox]  # in the same executor


def _members(prefix):
    """The processes of all cgroups whose names begin so."""
    files = Path("/sys/fs/cgroup").glob(f"*/{prefix}*/**/cgroup.procs")
    return {int(pid) for path in files for pid in path.read_text().split()}


def _program(pid, name):
    return Path(f"/proc/{pid}/{name}").read_text()


def test_what_is_no_bundle_is_refused(tmp_path):
    nothing = tmp_path / "nothing.tar.gz"
    nothing.write_bytes(b"no archive")
    with pytest.raises(BundleError, match=r"nothing\.tar\.gz: not an archive that `gantry bundle` made"):
        check(nothing)
    nothing.write_bytes(gzip.compress(b"no archive either"))
    with pytest.raises(BundleError, match="not an archive that `gantry bundle` made"):
        check(nothing)
    (tmp_path / "bundle.json").write_text(json.dumps({"machine": "pdp11"}))
    with tarfile.open(tmp_path / "other.tar.gz", "w:gz") as archive:
        archive.add(tmp_path / "bundle.json", "gantry/bundle.json")
    with pytest.raises(BundleError, match=r"other\.tar\.gz: made for pdp11, this is "):
        check(tmp_path / "other.tar.gz")


def test_elf_files_lose_only_what_no_loader_reads():
    program = Path(sys.executable).read_bytes()
    small = elf.loaded(program)
    assert len(small) < len(program)
    assert elf.read(small) == elf.read(program)
    assert elf.read(small).interpreter.startswith("/lib")
    with pytest.raises(elf.ElfError, match="a damaged ELF file"):
        elf.read(program[:100])
