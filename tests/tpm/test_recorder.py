"""PCR and log stay together, whatever happens in between; seen with a real (software) TPM and tpm2-tools."""

import json
import resource
import signal
import subprocess
import sys
import threading

import pytest

from executor.tpm.errors import BankError, LogError, MismatchError, ResponseError, TpmError
from executor.tpm.events import Replay
from executor.tpm.recorder import Recorder, kernel_boot_id
from executor.tpm.transport import parse


def replay_of(path):
    replay = Replay(keep=True)
    replay.feed(path.read_bytes().splitlines())
    return replay


def test_the_pcr_is_what_the_log_says(swtpm, recorder):
    one = recorder()
    one.record([{"pod": "a"}])
    one.record([{"pod": "b"}, {"pod": "c"}])
    replay = replay_of(one.log.path)
    assert swtpm.pcr() == replay.value.hex()
    assert [event["pod"] for event in replay.extended] == ["a", "b", "c"]
    assert swtpm.pcr(14) == "0" * 64


def test_another_pcr(swtpm, recorder):
    one = recorder(pcr=8)
    one.record([{"pod": "a"}])
    assert swtpm.pcr(8) == replay_of(one.log.path).value.hex()
    assert swtpm.pcr(15) == "0" * 64


def test_recorders_take_turns(swtpm, recorder):
    recorders = [recorder() for _ in range(4)]

    def work(number):
        for count in range(10):
            recorders[number].record([{"pod": f"{number}-{count}"}])

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    replay = replay_of(recorders[0].log.path)
    assert swtpm.pcr() == replay.value.hex()
    assert sorted(event["pod"] for event in replay.extended) == sorted(
        f"{n}-{c}" for n in range(4) for c in range(10)
    )


def test_an_intent_that_was_not_extended_is_void(swtpm, recorder):
    one = recorder()
    one.record([{"pod": "a"}])
    with one.session():
        one.log.intend([{"pod": "lost"}])
    recorder().record([{"pod": "b"}])
    replay = replay_of(one.log.path)
    assert swtpm.pcr() == replay.value.hex()
    assert ([e["pod"] for e in replay.extended], replay.void) == (["a", "b"], [{"pod": "lost"}])


def test_an_intent_that_was_extended_is_done(swtpm, recorder):
    one = recorder()
    one.record([{"pod": "a"}])
    with one.session() as tpm:
        tpm.pcr_extend(15, one.log.intend([{"pod": "b"}]).digest)
    with recorder().session():
        pass
    replay = replay_of(one.log.path)
    assert swtpm.pcr() == replay.value.hex()
    assert [e["pod"] for e in replay.extended] == ["a", "b"]


def test_a_line_that_was_not_finished_is_dropped(swtpm, recorder):
    one = recorder()
    one.record([{"pod": "a"}])
    with one.log.path.open("ab") as file:
        file.write(b'{"kind":"intent","se')
    recorder().record([{"pod": "b"}])
    replay = replay_of(one.log.path)
    assert swtpm.pcr() == replay.value.hex()
    assert [e["pod"] for e in replay.extended] == ["a", "b"]


@pytest.mark.parametrize("attempt", range(3))
def test_killed_at_any_moment(swtpm, recorder, tmp_path, attempt):
    program = """
import sys
from pathlib import Path
from executor.tpm.recorder import Recorder
from executor.tpm.transport import parse
one = Recorder(parse(sys.argv[1]), Path(sys.argv[2]), 15, "boot-1")
for count in range(100000):
    one.record([{"pod": str(count)}])
    print(count, flush=True)
"""
    command = [sys.executable, "-c", program, swtpm.tcti, str(tmp_path / "log")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            lines = [process.stdout.readline() for _ in range(5 + 7 * attempt)]
        finally:
            process.send_signal(signal.SIGKILL)
    seen = int(lines[-1])
    one = recorder()
    one.record([{"pod": "after"}])
    replay = replay_of(one.log.path)
    assert swtpm.pcr() == replay.value.hex()
    pods = [event["pod"] for event in replay.extended]
    assert pods[:-1] == [str(count) for count in range(len(pods) - 1)]
    assert pods[-1] == "after"
    assert len(pods) > seen + 1  # nothing that was said to be measured is lost


def test_a_boot_begins_a_log(swtpm, recorder):
    one = recorder()
    one.record([{"pod": "a"}])
    old = one.log.path
    swtpm.reset()
    assert swtpm.pcr() == "0" * 64
    two = recorder("boot-2")
    two.record([{"pod": "b"}])
    assert two.log.path != old
    assert [e["pod"] for e in replay_of(old).extended] == ["a"]
    replay = replay_of(two.log.path)
    assert swtpm.pcr() == replay.value.hex()
    assert [e["pod"] for e in replay.extended] == ["b"]
    assert replay.boot.resets == replay_of(old).boot.resets + 1


def test_a_resume_goes_on(swtpm, recorder):
    """After suspend to memory the TPM has its PCRs again."""
    one = recorder()
    one.record([{"pod": "a"}])
    swtpm.tool("tpm2_shutdown")
    swtpm.reset("startup-state")
    recorder().record([{"pod": "b"}])
    replay = replay_of(one.log.path)
    assert swtpm.pcr() == replay.value.hex()
    assert [e["pod"] for e in replay.extended] == ["a", "b"]


def test_old_boots_are_forgotten(swtpm, recorder):
    for number in range(17):
        one = recorder(f"boot-{number}")
        one.record([{"pod": "a"}])
        swtpm.reset()
    names = sorted(path.name for path in one.log.path.parent.glob("*.jsonl"))
    assert (len(names), names[-1]) == (16, "00000017.jsonl")


def test_a_reset_of_the_tpm_alone_is_refused(swtpm, recorder):
    recorder().record([{"pod": "a"}])
    swtpm.reset()
    with pytest.raises(MismatchError, match=r"the TPM was reset while this system runs: .*reboot"):
        recorder().record([{"pod": "b"}])
    assert swtpm.pcr() == "0" * 64


def test_who_else_extends_is_noticed(swtpm, recorder):
    one = recorder()
    one.record([{"pod": "a"}])
    swtpm.tool("tpm2_pcrextend", f"15:sha256={'12' * 32}")
    with pytest.raises(MismatchError, match=r"somebody else extends it .*--tpm-pcr.* or the log was changed"):
        one.record([{"pod": "b"}])
    with pytest.raises(MismatchError):
        recorder().record([{"pod": "b"}])


def test_what_was_extended_before_the_log_is_written_down(swtpm, recorder):
    swtpm.tool("tpm2_pcrextend", f"15:sha256={'12' * 32}")
    before = swtpm.pcr()
    one = recorder()
    one.record([{"pod": "a"}])
    replay = replay_of(one.log.path)
    assert replay.boot.base.hex() == before
    assert swtpm.pcr() == replay.value.hex()


def test_a_changed_log_is_refused(swtpm, recorder):
    one = recorder()
    one.record([{"pod": "a"}])
    one.record([{"pod": "b"}])
    whole = one.log.path.read_bytes()
    one.log.path.write_bytes(whole.replace(b'"pod":"a"', b'"pod":"x"'))
    with pytest.raises(
        LogError, match=r"00000001.jsonl: event log, line 2: the digest is not that of the events"
    ):
        recorder().record([{"pod": "c"}])
    one.log.path.write_bytes(b"".join(whole.splitlines(keepends=True)[:3]))
    with pytest.raises(MismatchError, match="or the log was changed"):
        recorder().record([{"pod": "c"}])
    with pytest.raises(LogError, match="was cut from"):
        one.record([{"pod": "c"}])
    one.log.path.write_bytes(whole)
    one.record([{"pod": "c"}])
    assert swtpm.pcr() == replay_of(one.log.path).value.hex()


def test_a_log_that_cannot_be_written_extends_nothing(swtpm, recorder):
    one = recorder()
    one.record([{"pod": "a"}])
    before, whole = swtpm.pcr(), one.log.path.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(whole) + 50, limits[1]))  # as a disk that is nearly full
    try:
        with pytest.raises(OSError, match=r"event log .*00000001.jsonl: File too large"):
            one.record([{"pod": "b"}])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (swtpm.pcr(), one.log.path.read_bytes()) == (before, whole)
    one.record([{"pod": "c"}])
    assert swtpm.pcr() == replay_of(one.log.path).value.hex()


def test_a_bank_that_is_not_there(swtpm, recorder):
    swtpm.tool("tpm2_pcrallocate", "sha1:all+sha256:none+sha384:all+sha512:all")
    swtpm.reset()
    with pytest.raises(BankError, match=r"PCR 15 is not in the TPM's SHA-256 bank.*tpm2_pcrallocate"):
        recorder().record([{"pod": "a"}])


def test_a_tpm_that_was_not_started(swtpm, recorder):
    swtpm.stop()
    swtpm.start("startup-none")
    with pytest.raises(ResponseError, match="TPM_RC_INITIALIZE: the TPM was not started"):
        recorder().record([{"pod": "a"}])


def test_no_tpm(swtpm, recorder):
    one = recorder()
    one.record([{"pod": "a"}])
    swtpm.stop()
    with pytest.raises(TpmError, match=r"no TPM at swtpm:host=127.0.0.1,port=.*Connection refused"):
        one.record([{"pod": "b"}])
    assert json.loads(one.log.path.read_text().splitlines()[-1]) == {"kind": "done", "seq": 1}


def test_a_tpm_that_goes_in_the_middle(swtpm, recorder):
    """The intent stays open; after the boot it is of the past."""
    one = recorder()
    one.record([{"pod": "a"}])
    with one.session() as tpm:
        intent = one.log.intend([{"pod": "lost"}])
        swtpm.stop()
        with pytest.raises(TpmError, match=r"^swtpm:host="):
            tpm.pcr_extend(15, intent.digest)
    swtpm.start()
    two = recorder("boot-2")
    two.record([{"pod": "b"}])
    assert [e["pod"] for e in replay_of(two.log.path).extended] == ["b"]
    assert replay_of(one.log.path).pending.events == [{"pod": "lost"}]


def test_the_kernels_boot_id_is_the_default(swtpm, tmp_path):
    one = Recorder(parse(swtpm.tcti), tmp_path / "log", 15)
    one.record([{"pod": "a"}])
    assert replay_of(one.log.path).boot.boot_id == kernel_boot_id()
