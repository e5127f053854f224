"""Ways to a TPM, and what comes over them."""

import os
import socket
import threading
import tty

import pytest

from executor.tpm.commands import opened
from executor.tpm.errors import ResponseError, TpmError
from executor.tpm.settings import check_pcr
from executor.tpm.transport import Tcti, parse


@pytest.mark.parametrize(
    ("text", "tcti"),
    [
        ("/dev/tpmrm0", {"device": "/dev/tpmrm0"}),
        ("device:/dev/tpm0", {"device": "/dev/tpm0"}),
        ("swtpm:host=tpm.example,port=77", {"host": "tpm.example", "port": 77}),
        ("swtpm:port=77", {"host": "127.0.0.1", "port": 77}),
        ("swtpm:", {"host": "127.0.0.1", "port": 2321}),
        ("swtpm:path=/run/tpm.sock", {"path": "/run/tpm.sock"}),
    ],
)
def test_tctis(text, tcti):
    assert parse(text) == Tcti(text, **tcti)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("tpm0", "expected /dev/tpmrm0, or swtpm:"),
        ("mssim:host=x", "expected /dev/tpmrm0, or swtpm:"),
        ("device:tpm0", "expected device:/dev/tpmrm0"),
        ("device", "expected /dev/tpmrm0, or"),
        ("swtpm:port=x", "'x' is no port"),
        ("swtpm:port=0", "'0' is no port"),
        ("swtpm:port=99999", "'99999' is no port"),
        ("swtpm:host", "'host' is not host=HOST"),
        ("swtpm:host=", "'host=' is not host=HOST"),
        ("swtpm:port=1,port=2", "'port=2' is not host=HOST"),
        ("swtpm:path=/x,port=2", "path goes with neither"),
        ("swtpm:color=red", "'color=red' is not host=HOST"),
    ],
)
def test_what_is_no_tcti(text, message):
    with pytest.raises(ValueError, match="--tpm") as caught:
        parse(text)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("pcr", "message"),
    [
        (7, "7 belongs to the firmware"),
        (16, "16 can be reset"),
        (23, "23 can be reset"),
        (24, "8 to 15$"),
        (-1, "8 to 15$"),
    ],
)
def test_pcrs_that_are_not_for_this(pcr, message):
    with pytest.raises(ValueError, match=rf"--tpm-pcr {pcr}: expected 8 to 15") as caught:
        check_pcr(pcr)
    assert str(caught.value).endswith(message.removesuffix("$")) or message in str(caught.value)


def test_a_device_that_is_not_there():
    with (
        pytest.raises(TpmError, match=r"no TPM at /dev/tpmrm77: No such file.*enabled in the firmware"),
        opened(parse("/dev/tpmrm77")),
    ):
        pass


def test_a_file_that_is_no_device(tmp_path):
    (tmp_path / "tpm").touch()
    with pytest.raises(TpmError, match="it is not a character device"), opened(parse(str(tmp_path / "tpm"))):
        pass


def test_a_socket_that_is_not_there(tmp_path):
    with pytest.raises(TpmError, match="No such file"), opened(parse(f"swtpm:path={tmp_path}/sock")):
        pass


def test_a_character_device(swtpm):
    """A terminal in raw mode is one; what is behind it goes on to swtpm."""
    ours, theirs = os.openpty()
    tty.setraw(theirs)
    host, port = "127.0.0.1", parse(swtpm.tcti).port
    with socket.create_connection((host, port)) as tpm:

        def forward():
            while data := os.read(ours, 4096):
                tpm.sendall(data)
                if data.endswith(b"END"):
                    return
                answer = tpm.recv(4096)
                for at in range(0, len(answer), 7):  # as a terminal may: in pieces
                    os.write(ours, answer[at : at + 7])

        thread = threading.Thread(target=forward)
        thread.start()
        try:
            with opened(parse(os.ttyname(theirs))) as device:
                assert device.pcr_read(15) == bytes(32)
                device.pcr_extend(15, bytes(32))
                assert device.pcr_read(15) != bytes(32)
        finally:
            os.write(theirs, b"END")
            thread.join(60)
            os.close(ours)
            os.close(theirs)
    assert not thread.is_alive()


def answering(path, answer):
    """A server that gives one answer, whatever is asked, and hangs up."""
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(path))
    server.listen()

    def serve():
        with server, server.accept()[0] as client:
            client.recv(4096)
            client.sendall(answer)

    threading.Thread(target=serve, daemon=True).start()
    return parse(f"swtpm:path={path}")


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ("", "the connection ended in the middle of a response"),
        ("8001", "the connection ended in the middle of a response"),
        ("8001 00000014 00000000", "the connection ended in the middle of a response"),
        ("8001 00000003 00000000", "a response of 3 bytes; this is no TPM 2.0"),
        ("8001 7fffffff 00000000", "a response of 2147483647 bytes; this is no TPM 2.0"),
        ("8001 0000000a 00000000 ff", "11 bytes came for a response of 10"),
        ("8001 0000000a 00000000", "the TPM's answer to TPM2_PCR_Read is cut short"),
        ("8002 0000000a 00000000", "the TPM answered TPM2_PCR_Read with tag 0x8002"),
        ("8001 00000016 00000000 00000001 00000000 00000000", "PCR 15 is not in the TPM's SHA-256 bank"),
        ("8001 00000017 00000000 00000001 00000000 00000000 00", "TPM2_PCR_Read has 1 bytes too many"),
        ("00c4 0000000a 0000001e", "the TPM refused TPM2_PCR_Read: error (0x01e)"),
    ],
)
def test_answers_that_are_none(tmp_path, answer, message):
    tcti = answering(tmp_path / "sock", bytes.fromhex(answer))
    with pytest.raises(TpmError) as caught, opened(tcti) as tpm:
        tpm.pcr_read(15)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("rc", "message"),
    [
        (0x921, "TPM_RC_LOCKOUT: it is locked after wrong passwords"),
        (0x9A2, "TPM_RC_BAD_AUTH: it has a password (0x9a2)"),
        (0x98E, "TPM_RC_AUTH_FAIL: it has a password (0x98e)"),
        (0x120, "TPM_RC_DISABLED: the firmware has it disabled"),
        (0x101, "TPM_RC_FAILURE: the TPM is in failure mode"),
        (0x907, "TPM_RC_LOCALITY: this PCR cannot be extended"),
        (0x18B, "TPM_RC_HANDLE: there is no such handle (0x18b)"),
    ],
)
def test_errors_of_tpms_have_names(tmp_path, rc, message):
    tcti = answering(tmp_path / "sock", bytes.fromhex("80010000000a") + rc.to_bytes(4))
    with pytest.raises(ResponseError) as caught, opened(tcti) as tpm:
        tpm.pcr_extend(15, bytes(32))
    assert message in str(caught.value)
    assert not caught.value.again


def test_a_tpm_that_wants_to_be_asked_again(tmp_path):
    path = tmp_path / "sock"
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(path))
    server.listen()
    asked = []

    def serve():
        with server, server.accept()[0] as client:
            for rc in ("00000922", "0000090a", "00000000"):
                asked.append(client.recv(4096))
                client.sendall(bytes.fromhex(f"80020000000a{rc}"))

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    with opened(parse(f"swtpm:path={path}")) as tpm:
        tpm.pcr_extend(15, bytes(32))
    thread.join(60)
    assert len(asked) == 3
    assert len(set(asked)) == 1
