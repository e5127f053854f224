"""A serving certificate made by ourselves, judged by OpenSSL: who trusts its authority can verify the server."""

import datetime as dt
import socket
import ssl
import stat
import threading

import pytest

from shared.security.certificates import serving_files

NOW = dt.datetime.now(dt.UTC)


def handshake(files, trusted, name):
    """A TLS handshake over a socket pair; the client trusts `trusted` and expects `name`."""
    server_side, client_side = socket.socketpair()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files.certificate, files.key)

    def serve():
        try:
            context.wrap_socket(server_side, server_side=True).close()
        except OSError:
            server_side.close()  # the client refused

    thread = threading.Thread(target=serve)
    thread.start()
    client = ssl.create_default_context(cafile=trusted)
    client.verify_flags |= ssl.VERIFY_X509_STRICT
    try:
        client.wrap_socket(client_side, server_hostname=name).close()
    finally:
        client_side.close()
        thread.join()


@pytest.mark.parametrize("name", ["127.0.0.1", "localhost"])
def test_clients_that_trust_the_authority_verify_the_server(tmp_path, name):
    files = serving_files(tmp_path, ["127.0.0.1", "localhost"], NOW)
    handshake(files, files.authority, name)
    assert stat.S_IMODE(files.key.stat().st_mode) == 0o600


def test_another_name_or_authority_is_refused(tmp_path):
    files = serving_files(tmp_path / "one", ["127.0.0.1"], NOW)
    other = serving_files(tmp_path / "two", ["127.0.0.1"], NOW)
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(files, files.authority, "127.0.0.2")
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(files, other.authority, "127.0.0.1")


def test_it_is_kept_until_it_must_change(tmp_path):
    first = serving_files(tmp_path, ["127.0.0.1"], NOW).certificate.read_bytes()
    assert serving_files(tmp_path, ["127.0.0.1"], NOW).certificate.read_bytes() == first
    later = NOW + dt.timedelta(days=3640)
    assert serving_files(tmp_path, ["127.0.0.1"], later).certificate.read_bytes() != first
    files = serving_files(tmp_path, ["127.0.0.1", "node.example"], NOW)
    handshake(files, files.authority, "node.example")


@pytest.mark.parametrize("damaged", ["ca.crt", "apiserver.crt", "apiserver.key"])
def test_a_damaged_file_is_replaced(tmp_path, damaged):
    serving_files(tmp_path, ["127.0.0.1"], NOW)
    (tmp_path / damaged).write_text("not a PEM file")
    files = serving_files(tmp_path, ["127.0.0.1"], NOW)
    handshake(files, files.authority, "127.0.0.1")
