"""Measuring the starts of pods: what is in an event, how starts are put together, and what happens when it fails."""

import asyncio
import hashlib
import re

import pytest

from executor.tpm.errors import TpmError
from executor.tpm.events import Replay
from executor.tpm.measure import Measurer, Start, event_of
from executor.tpm.program import PACKAGES, Parts, Stage1, digest_of, program_digest
from executor.tpm.settings import TpmSettings
from executor.tpm.transport import parse


def settings(swtpm, tmp_path, enforce=True):
    return TpmSettings(parse(swtpm.tcti), 15, enforce, tmp_path / "log")


def intents(tmp_path):
    replay, batches = Replay(keep=True), []
    for line in (tmp_path / "log" / "pcr-15" / "00000001.jsonl").read_bytes().splitlines():
        before = len(replay.extended)
        replay.feed([line])
        if len(replay.extended) > before:
            batches.append(replay.extended[before:])
    return replay, batches


def test_an_event_has_what_stage1_reads(pod_dir):
    path = pod_dir("task-1")
    event = event_of(Start(path, "uid-1", {"web": "sha256:ef"}, Parts()), True, Stage1())
    assert re.fullmatch(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", event.pop("time"))
    assert event == {
        "apps": [
            {
                "name": "web",
                "image": "sha256:ab",
                "digest": "sha256:ef",
                "layers": ["sha256:cd", "/a/tree that is ours"],
            }
        ],
        "manifest": "sha256:" + hashlib.sha256((path / "pod").read_bytes()).hexdigest(),
        "pod": "task-1",
        "policy": "enforce",
        "stage1": {"flavor": "fly", "digest": program_digest(), "files": {}, "image": ""},
        "uid": "uid-1",
    }


async def test_a_start_is_measured(swtpm, tmp_path, pod_dir):
    measurer = Measurer(settings(swtpm, tmp_path))
    await measurer.measure(pod_dir("task-1"), "uid-1", {})
    replay, [[event]] = intents(tmp_path)
    assert swtpm.pcr() == replay.value.hex()
    assert (event["pod"], event["uid"], event["stage1"]["digest"]) == ("task-1", "uid-1", program_digest())


async def test_starts_that_come_together_are_one_extend(swtpm, tmp_path, pod_dir):
    measurer = Measurer(settings(swtpm, tmp_path))
    await asyncio.gather(*(measurer.measure(pod_dir(f"task-{n}"), "", {}) for n in range(100)))
    replay, batches = intents(tmp_path)
    assert swtpm.pcr() == replay.value.hex()
    assert [len(batch) for batch in batches] == [64, 36]
    assert [e["pod"] for e in replay.extended] == [f"task-{n}" for n in range(100)]


async def test_what_cannot_be_read_fails_alone(swtpm, tmp_path, pod_dir):
    measurer = Measurer(settings(swtpm, tmp_path))
    broken = pod_dir("broken")
    (broken / "pod").write_text("{")
    done = await asyncio.gather(
        *(measurer.measure(path, "", {}) for path in (broken, pod_dir("good"), tmp_path / "none")),
        return_exceptions=True,
    )
    assert done[1] is None
    assert all(isinstance(error, TpmError) for error in (done[0], done[2]))
    assert [e["pod"] for e in intents(tmp_path)[0].extended] == ["good"]


async def test_enforce_refuses_and_goes_on_when_the_tpm_is_back(swtpm, tmp_path, pod_dir):
    measurer = Measurer(settings(swtpm, tmp_path))
    swtpm.tool("tpm2_pcrextend", f"15:sha256={'12' * 32}")
    await measurer.measure(pod_dir("task-1"), "", {})
    swtpm.tool("tpm2_pcrextend", f"15:sha256={'12' * 32}")
    with pytest.raises(TpmError, match=r"cannot be measured \(--tpm-policy enforce\): PCR 15 is .*, but"):
        await measurer.measure(pod_dir("task-2"), "", {})


async def test_report_warns(swtpm, tmp_path, pod_dir, caplog):
    measurer = Measurer(settings(swtpm, tmp_path, enforce=False))
    await measurer.measure(pod_dir("task-1"), "", {})
    swtpm.stop()
    await measurer.measure(pod_dir("task-2"), "", {})
    assert "pod task-2 is started, but was not measured: no TPM at swtpm:" in caplog.text
    replay = intents(tmp_path)[0]
    assert [(e["pod"], e["policy"]) for e in replay.extended] == [("task-1", "report")]


async def test_check_says_what_would_be_wrong(swtpm, tmp_path, caplog):
    with caplog.at_level("INFO"):
        await Measurer(settings(swtpm, tmp_path)).check()
        assert f"program {program_digest()}" in caplog.text
        swtpm.stop()
        await Measurer(settings(swtpm, tmp_path)).check()
    assert "no pod can be measured: no TPM at swtpm:" in caplog.text


async def test_a_pod_that_is_ended_meanwhile_harms_nobody(swtpm, tmp_path, pod_dir):
    measurer = Measurer(settings(swtpm, tmp_path))
    ended = asyncio.create_task(measurer.measure(pod_dir("ended"), "", {}))
    await asyncio.sleep(0)
    ended.cancel()
    await measurer.measure(pod_dir("task-1"), "", {})
    assert "task-1" in {e["pod"] for e in intents(tmp_path)[0].extended}


def test_the_digest_of_the_program_is_that_of_its_files(tmp_path):
    assert program_digest() == digest_of(PACKAGES)
    package = tmp_path / "one"
    (package / "__pycache__").mkdir(parents=True)
    (package / "a.py").write_text("a")
    (package / "__pycache__" / "a.pyc").write_text("a")
    first = digest_of({"p": [str(package)]})
    (package / "__pycache__" / "a.pyc").write_text("b")
    assert digest_of({"p": [str(package)]}) == first
    moved = package.rename(tmp_path / "two")
    assert digest_of({"p": [str(moved)]}) == first
    (moved / "a.py").write_text("b")
    changed = digest_of({"p": [str(moved)]})
    (moved / "a.py").rename(moved / "b.py")
    assert len({first, changed, digest_of({"p": [str(moved)]})}) == 3
    with pytest.raises(TpmError, match="in no files that could be measured"):
        digest_of({"p": [str(tmp_path / "none")]})


def test_the_hosts_programs_are_measured(tmp_path):
    program = tmp_path / "nspawn"
    program.write_bytes(b"one")
    stage1 = Stage1()

    def files():
        return stage1.describe("nspawn", Parts((str(program),)))["files"]

    assert files() == {str(program): "sha256:" + hashlib.sha256(b"one").hexdigest()}
    assert files() == {str(program): "sha256:" + hashlib.sha256(b"one").hexdigest()}
    program.write_bytes(b"other")
    assert files() == {str(program): "sha256:" + hashlib.sha256(b"other").hexdigest()}
    with pytest.raises(
        TpmError, match="stage1 flavor 'new' cannot be measured: it is not known what it is made of"
    ):
        stage1.describe("new", None)
    program.unlink()
    with pytest.raises(FileNotFoundError):
        files()


async def test_flavors_that_others_bring(swtpm, tmp_path, pod_dir):
    async def parts(flavor):
        return {"coreos": Parts(image="sha512-ab")}.get(flavor)

    measurer = Measurer(settings(swtpm, tmp_path), parts=parts)
    for name in ("coreos", "other"):
        manifest = pod_dir(name) / "pod"
        manifest.write_text(manifest.read_text().replace("fly", name))
    await measurer.measure(tmp_path / "pods" / "coreos", "", {})
    for one in (measurer, Measurer(settings(swtpm, tmp_path))):
        with pytest.raises(
            TpmError, match=r"^it cannot be measured .*: stage1 flavor 'other' cannot be measured"
        ):
            await one.measure(tmp_path / "pods" / "other", "", {})
    [event] = intents(tmp_path)[0].extended
    assert event["stage1"] == {
        "flavor": "coreos",
        "digest": program_digest(),
        "files": {},
        "image": "sha512-ab",
    }
