"""Attestations, made and verified by our commands and by tpm2-tools; and all that must not pass."""

import base64
import json
import subprocess

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from executor.node.cli import main
from executor.tpm.attest import attest, parse
from executor.tpm.errors import AttestationError
from executor.tpm.events import Replay, canonical
from executor.tpm.recorder import Recorder
from executor.tpm.transport import parse as parse_tcti
from executor.tpm.verify import load_key, verify
from gantry import __main__ as gantry

NONCE = "00112233445566778899aabbccddeeff"
EVENT = {
    "apps": [{"name": "web", "image": "sha256:ab", "digest": "", "layers": []}],
    "manifest": "sha256:cd",
    "pod": "task-1",
    "policy": "enforce",
    "stage1": {"flavor": "linux", "digest": "sha256:ef"},
    "time": "2026-11-20T00:00:00.000Z",
    "uid": "uid-1",
}


@pytest.fixture
def node(swtpm, tmp_path, capsys):
    """A machine on which two pods were started. Returns a function that runs `gantry node`."""
    recorder = Recorder(parse_tcti(swtpm.tcti), tmp_path / "tpm", 15)
    recorder.record([EVENT])
    recorder.record([{**EVENT, "pod": "task-2"}])

    def run(*words):
        code = main([str(word) for word in words])
        done = capsys.readouterr()
        return code, done.out, done.err

    return run


@pytest.fixture
def attestation(node, swtpm, tmp_path):
    """The directory with a good one."""
    words = [
        "attest",
        "--nonce",
        NONCE,
        "--state-dir",
        tmp_path,
        "--tpm",
        swtpm.tcti,
        "--out",
        tmp_path / "out",
    ]
    assert node(*words)[::2] == (0, "")
    return tmp_path / "out"


def test_a_good_one(node, attestation):
    code, out, err = node(
        "verify-attestation",
        attestation / "attestation.json",
        "--key",
        attestation / "ak.pem",
        "--nonce",
        NONCE,
    )
    assert (code, err) == (0, "")
    assert out.startswith("verified: 2 starts since 20")
    assert (
        "2026-11-20T00:00:00.000Z task-2 uid uid-1\n    manifest sha256:cd\n    stage1 linux sha256:ef\n"
        in out
    )
    assert "    app web sha256:ab\n" in out


def test_as_json_and_through_pipes(node, swtpm, tmp_path, attestation, monkeypatch):
    words = ["attest", "--nonce", NONCE, "--state-dir", tmp_path, "--tpm", swtpm.tcti]
    code, made, _ = node(*words)
    assert code == 0
    (tmp_path / "piped").write_text(made)
    with (tmp_path / "piped").open() as file, monkeypatch.context() as patch:
        patch.setattr("sys.stdin", file)
        words = [
            "verify-attestation",
            "-",
            "--key",
            attestation / "ak.pem",
            "--nonce",
            NONCE,
            "--format",
            "json",
        ]
        code, out, _ = node(*words)
    found = json.loads(out)
    assert code == 0
    assert found["value"] == swtpm.pcr()
    assert [event["pod"] for event in found["events"]] == ["task-1", "task-2"]
    assert found["clock"]["resets"] == found["boot"]["resets"]


def test_tpm2_checkquote_agrees(attestation):
    words = ["tpm2_checkquote", "-u", "ak.pem", "-m", "quote.msg", "-s", "quote.sig", "-g", "sha256"]
    done = subprocess.run([*words, "-q", NONCE], cwd=attestation, capture_output=True, text=True, timeout=90)
    assert done.returncode == 0, done.stderr
    done = subprocess.run(
        [*words, "-q", "00" * 16], cwd=attestation, capture_output=True, text=True, timeout=30
    )
    assert done.returncode != 0


def test_the_key_stays_the_same(node, swtpm, tmp_path, attestation):
    swtpm.tool("tpm2_clear")
    swtpm.reset()
    Recorder(parse_tcti(swtpm.tcti), tmp_path / "tpm2", 15, "boot-2").record([EVENT])
    made = attest(parse_tcti(swtpm.tcti), tmp_path / "tpm2", 15, bytes.fromhex(NONCE))
    assert made.key == (attestation / "ak.pem").read_text()
    assert swtpm.tool("tpm2_getcap", "handles-transient").strip() == ""


def refused(attestation, *, key=None, nonce=NONCE, pcr=15, **changes):
    """The error for an attestation with other fields."""
    found = json.loads((attestation / "attestation.json").read_text())
    found.update(changes)
    key = key or load_key((attestation / "ak.pem").read_bytes())
    with pytest.raises(AttestationError) as caught:
        verify(parse(json.dumps(found)), key, bytes.fromhex(nonce), pcr)
    return str(caught.value)


def log_of(attestation):
    return json.loads((attestation / "attestation.json").read_text())["log"]


def relog(*batches, base="00" * 32):
    """A log that is consistent in itself."""
    replay = Replay()
    boot = {
        "kind": "boot",
        "version": 1,
        "bank": "sha256",
        "base": base,
        "resets": 0,
        "restarts": 0,
        "pcr": 15,
    }
    lines = [canonical({**boot, "boot_id": "", "time": ""})]
    replay.feed(lines)
    for events in batches:
        lines += [
            canonical(replay.next_intent(events).record()),
            canonical({"kind": "done", "seq": replay.seq + 1}),
        ]
        replay.feed(lines[-2:])
    return [line.decode() for line in lines]


def test_another_nonce(attestation):
    assert "the quote is for nonce 0011" in refused(attestation, nonce="ff" * 16)


def test_another_nonce_in_the_file_changes_nothing(attestation):
    fields = json.loads((attestation / "attestation.json").read_text())
    fields["nonce"] = "ff" * 16
    (attestation / "attestation.json").write_text(json.dumps(fields))
    assert "it is an old one" in refused(attestation, nonce="ff" * 16)


def test_another_key(attestation):
    message = "the signature is not by this key"
    assert message in refused(attestation, key=ec.generate_private_key(ec.SECP256R1()).public_key())


def test_another_pcr(attestation):
    assert "the quote is not of PCR 14" in refused(attestation, pcr=14)


def test_a_log_that_was_cut(attestation):
    assert "does not lead to the PCR" in refused(attestation, log=log_of(attestation)[:-2])


def test_a_log_in_the_middle_of_a_record(attestation):
    assert "ends in the middle" in refused(attestation, log=log_of(attestation)[:-1])


def test_a_log_with_an_event_that_was_changed(attestation):
    log = [line.replace("task-2", "task-x") for line in log_of(attestation)]
    assert "line 4: the digest is not that of the events" in refused(attestation, log=log)


def test_a_log_that_hides_a_start_and_is_right_in_itself(attestation):
    assert "does not lead to the PCR" in refused(attestation, log=relog([EVENT]))


def test_a_log_that_calls_a_start_void(attestation):
    log = [line.replace('"done","seq":2', '"void","seq":2') for line in log_of(attestation)]
    assert "does not lead to the PCR" in refused(attestation, log=log)


def test_a_log_that_begins_later(attestation):
    first = json.loads(log_of(attestation)[1])
    log = relog([{**EVENT, "pod": "task-2"}], base=first["pcr"])
    assert "what was extended before is unknown" in refused(attestation, log=log)


def test_no_log(attestation):
    assert "the event log is not one of PCR 15" in refused(attestation, log=[])


@pytest.mark.parametrize("name", ["attest", "signature"])
def test_bytes_that_were_changed(attestation, name):
    whole = base64.b64decode(json.loads((attestation / "attestation.json").read_text())[name])
    for at in range(0, len(whole), 5):
        changed = bytearray(whole)
        changed[at] ^= 1
        refused(attestation, **{name: base64.b64encode(changed).decode()})
    refused(attestation, **{name: base64.b64encode(whole[:-1]).decode()})
    refused(attestation, **{name: base64.b64encode(whole + b"x").decode()})
    refused(attestation, **{name: ""})


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"version": 2}',
        '{"version": 1, "pcr": "15"}',
        '{"version": 1, "pcr": 15, "nonce": "x"}',
    ],
)
def test_what_is_no_attestation(text):
    with pytest.raises(AttestationError, match="attestation"):
        parse(text)


@pytest.mark.parametrize("text", ["[" * 100_000, '{"version":' * 100_000])
def test_what_is_too_deep(text):
    with pytest.raises(AttestationError, match="not an attestation: "):
        parse(text)


@pytest.mark.parametrize(
    "log",
    [None, 5, [None], ["{}"], ["[" * 100_000], ["\ud800"], ['{"kind": "boot"}'], ["null", "\n"], {"a": 1}],
)
def test_logs_that_are_none(attestation, log):
    found = json.loads((attestation / "attestation.json").read_text())
    key = load_key((attestation / "ak.pem").read_bytes())
    with pytest.raises(AttestationError):
        verify(parse(json.dumps({**found, "log": log})), key, bytes.fromhex(NONCE), 15)


def test_what_the_system_extended_before(node, swtpm, tmp_path):
    swtpm.reset()
    swtpm.tool("tpm2_pcrextend", f"15:sha256={'12' * 32}")
    base = swtpm.pcr()
    Recorder(parse_tcti(swtpm.tcti), tmp_path / "log2", 15, "boot-2").record([EVENT])
    made = attest(parse_tcti(swtpm.tcti), tmp_path / "log2", 15, bytes.fromhex(NONCE))
    key = load_key(made.key.encode())
    with pytest.raises(AttestationError, match="what was extended before is unknown"):
        verify(made, key, made.nonce, 15)
    assert verify(made, key, made.nonce, 15, bytes.fromhex(base)).events == [EVENT]


@pytest.mark.parametrize(
    ("kind", "scheme", "hash_name"),
    [("rsa", "rsassa", "sha256"), ("rsa", "rsapss", "sha256"), ("ecc384", "ecdsa", "sha384")],
)
def test_a_key_of_ones_own(node, swtpm, tmp_path, kind, scheme, hash_name):
    swtpm.tool("tpm2_createek", "-c", tmp_path / "ek.ctx", "-G", "ecc")
    swtpm.tool("tpm2_flushcontext", "-t")
    words = ["tpm2_createak", "-C", tmp_path / "ek.ctx", "-c", tmp_path / "ak.ctx", "-G", kind]
    swtpm.tool(*words, "-s", scheme, "-g", hash_name, "-u", tmp_path / "mine.pem", "-f", "pem")
    swtpm.tool("tpm2_flushcontext", "-t")
    swtpm.tool("tpm2_evictcontrol", "-c", tmp_path / "ak.ctx", "0x81010002")
    swtpm.tool("tpm2_flushcontext", "-t")
    words = [
        "attest",
        "--nonce",
        NONCE,
        "--state-dir",
        tmp_path,
        "--tpm",
        swtpm.tcti,
        "--out",
        tmp_path / "out",
    ]
    assert node(*words, "--ak-handle", "0x81010002")[::2] == (0, "")
    file = tmp_path / "out" / "attestation.json"
    code, out, err = node("verify-attestation", file, "--key", tmp_path / "mine.pem", "--nonce", NONCE)
    assert (code, err) == (0, "")
    assert out.startswith("verified: 2 starts")


def test_a_key_that_is_not_for_attestation(node, swtpm, tmp_path):
    swtpm.tool("tpm2_createprimary", "-C", "o", "-G", "ecc:ecdsa", "-c", tmp_path / "key.ctx",
               "-a", "fixedtpm|fixedparent|sensitivedataorigin|userwithauth|sign")  # fmt: skip
    swtpm.tool("tpm2_evictcontrol", "-c", tmp_path / "key.ctx", "0x81010002")
    words = ["attest", "--nonce", NONCE, "--state-dir", tmp_path, "--tpm", swtpm.tcti]
    code, _, err = node(*words, "--ak-handle", "0x81010002")
    assert code == 1
    assert "key 0x81010002 is no attestation key" in err
    code, _, err = node(*words, "--ak-handle", "0x81010003")
    assert code == 1
    assert "the TPM refused TPM2_ReadPublic: TPM_RC_HANDLE: there is no such handle" in err


def test_a_hierarchy_with_a_password(node, swtpm, tmp_path):
    swtpm.tool("tpm2_changeauth", "-c", "e", "secret")
    code, _, err = node("attest", "--nonce", NONCE, "--state-dir", tmp_path, "--tpm", swtpm.tcti)
    assert code == 1
    assert "it has a password" in err
    assert "--ak-handle" in err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--nonce", "xyz"], "--nonce 'xyz': expected hexadecimal digits"),
        (["--nonce", "00"], "--nonce: 1 bytes; expected 8 to 32"),
        (["--nonce", "00" * 33], "--nonce: 33 bytes; expected 8 to 32"),
        (["--nonce", NONCE, "--tpm", ""], "--tpm: name a TPM"),
        (["--nonce", NONCE, "--tpm", "/dev/null77"], "no TPM at /dev/null77: No such file"),
        (["--nonce", NONCE, "--tpm-pcr", "16"], "--tpm-pcr 16: expected 8 to 15; 16 can be reset"),
        (["--nonce", NONCE, "--ak-handle", "0x1"], "--ak-handle '0x1': expected a persistent handle"),
        (["--nonce", NONCE, "--ak-handle", "x"], "--ak-handle 'x': expected a persistent handle"),
    ],
)
def test_attest_refuses(capsys, tmp_path, words, message):
    assert main(["attest", "--state-dir", str(tmp_path), *words]) == 1
    assert f"gantry: error: {message}" in capsys.readouterr().err


def test_verify_refuses(capsys, tmp_path):
    public = ed25519.Ed25519PrivateKey.generate().public_key()
    (tmp_path / "ed.pem").write_bytes(public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    good = ec.generate_private_key(ec.SECP256R1()).public_key()
    (tmp_path / "ec.pem").write_bytes(good.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    (tmp_path / "a.json").write_text("{}")
    for file, key, more, message in (
        ("none.json", "ec.pem", (), "No such file"),
        ("a.json", "none.pem", (), "No such file"),
        ("a.json", "ed.pem", (), "neither an RSA nor an ECC key"),
        ("a.json", "a.json", (), "not a public key in PEM"),
        ("a.json", "ec.pem", (), "not an attestation: no 'version'"),
        ("ec.pem", "ec.pem", (), "not an attestation: "),
    ):
        words = [
            "verify-attestation",
            str(tmp_path / file),
            "--key",
            str(tmp_path / key),
            "--nonce",
            NONCE,
            *more,
        ]
        assert main(words) == 1
        assert message in capsys.readouterr().err


def test_node_says_what_it_has(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    assert "verify-attestation" in capsys.readouterr().out
    with pytest.raises(SystemExit) as ended:
        main(["nope"])
    assert ended.value.code == 2
    assert "'nope'" in capsys.readouterr().err


def test_gantry_knows_it(capsys):
    assert gantry.main(["node", "attest", "--nonce", "xyz"]) == 1
    assert "gantry: error: --nonce 'xyz'" in capsys.readouterr().err
