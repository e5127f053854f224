"""TLS contexts: what they trust, what they show, and what is said about a file that cannot be used."""

import asyncio
import ssl
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from shared.security.tls import TlsError, client_context, explain
from tests.security.authority import Authority


async def handshake(
    server: ssl.SSLContext, client: ssl.SSLContext, name: str = "127.0.0.1"
) -> dict[str, Any]:
    """Connect and exchange a byte; the certificate the server got to see ({} for none)."""
    seen: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.set_result(writer.get_extra_info("peercert") or {})
        writer.write(b"x")
        await reader.read()
        writer.close()

    listening = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=server)
    port = listening.sockets[0].getsockname()[1]
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=client, server_hostname=name)
        try:
            assert await reader.read(1) == b"x"
        finally:
            writer.close()
        return await seen
    finally:
        listening.close()
        await asyncio.sleep(0)


async def test_a_server_of_our_ca_is_trusted_under_its_names(authority: Any) -> None:
    server = authority.server_context("master", "127.0.0.1", "leader.mesos")
    client = client_context(ca_file=authority.ca_file)
    assert await handshake(server, client) == {}
    await handshake(server, client, "leader.mesos")
    with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch") as info:
        await handshake(server, client, "other.mesos")
    assert explain(info.value).startswith("its certificate is not accepted: Hostname mismatch")


@pytest.mark.parametrize(
    ("days", "trusted", "why"), [(-1, True, "certificate has expired"), (10, False, "issuer")]
)
async def test_other_servers_are_not(authority: Any, days: float, trusted: bool, why: str) -> None:
    server = authority.server_context("master", "127.0.0.1", days=days)
    client = client_context(ca_file=authority.ca_file if trusted else None)
    with pytest.raises(ssl.SSLCertVerificationError) as info:
        await handshake(server, client)
    assert why in explain(info.value)


async def test_verification_is_switched_off_with_a_warning(
    authority: Any, caplog: pytest.LogCaptureFixture
) -> None:
    client = client_context(verify=False)
    assert "TLS certificates are not verified" in caplog.text
    await handshake(authority.server_context("elsewhere", days=-1), client)


async def test_a_client_certificate_is_shown(authority: Any) -> None:
    server = authority.server_context("master", "127.0.0.1", want_client=True)
    certificate, key = authority.issue("gantry")
    both = authority.write("both.pem", certificate.read_bytes() + key.read_bytes())
    for files in ({"cert_file": certificate, "key_file": key}, {"cert_file": both}):
        seen = await handshake(server, client_context(ca_file=authority.ca_file, **files))
        assert seen["subject"] == ((("commonName", "gantry"),),)


def test_old_protocols_are_off() -> None:
    context = client_context()
    assert context.minimum_version == ssl.TLSVersion.TLSv1_2
    assert context.verify_mode == ssl.CERT_REQUIRED
    assert context.check_hostname


def test_an_expired_ca_in_a_bundle_is_left_out(
    authority: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    old = Authority(tmp_path, "old CA", days=-1)
    bundle = authority.write("bundle.pem", old.ca_file.read_bytes() + authority.ca_file.read_bytes())
    context = client_context(ca_file=bundle)
    assert context.cert_store_stats()["x509_ca"] == 1
    assert "CN=old CA expired on" in caplog.text
    with pytest.raises(TlsError, match=r"CA file '.*old CA.pem': CN=old CA expired on \d{4}-"):
        client_context(ca_file=old.ca_file)


def test_what_is_wrong_with_a_file_is_said(authority: Any, tmp_path: Path) -> None:
    certificate, key = authority.issue("gantry")
    old, old_key = authority.issue("old", days=-1)
    locked, locked_key = authority.issue("locked", passphrase=b"hunter2")
    der = authority.write("der.crt", b"\x30\x82\x01\x0a")
    torn = authority.write("torn.crt", b"-----BEGIN CERTIFICATE-----\nabc\n-----END CERTIFICATE-----\n")
    torn_key = authority.write("torn.key", b"-----BEGIN PRIVATE KEY-----\nabc\n-----END PRIVATE KEY-----\n")
    pem = ec.generate_private_key(ec.SECP256R1()).private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
    )
    other = authority.write("other.key", pem)
    missing = tmp_path / "missing"
    for files, complaint in [
        ({"ca_file": missing}, f"CA file '{missing}': No such file or directory"),
        ({"ca_file": tmp_path}, f"CA file '{tmp_path}': Is a directory"),
        ({"ca_file": der}, f"CA file '{der}': there is no PEM certificate in it"),
        ({"ca_file": key}, f"CA file '{key}': there is a private key, not a certificate in it"),
        ({"ca_file": torn}, f"CA file '{torn}': the certificate is damaged"),
        ({"cert_file": missing}, f"certificate file '{missing}': No such file or directory"),
        ({"cert_file": old, "key_file": old_key}, f"certificate file '{old}': CN=old expired on "),
        ({"cert_file": certificate}, f"key file '{certificate}': there is no PEM private key in it"),
        ({"cert_file": certificate, "key_file": missing}, f"key file '{missing}': No such file or directory"),
        (
            {"cert_file": certificate, "key_file": torn_key},
            f"key file '{torn_key}': the private key is damaged",
        ),
        (
            {"cert_file": certificate, "key_file": other},
            f"key file '{other}': not the key of the certificate in '{certificate}'",
        ),
        ({"cert_file": locked, "key_file": locked_key}, f"key file '{locked_key}': the key has a passphrase"),
        ({"key_file": key}, f"key file '{key}': of no use without a certificate file"),
    ]:
        with pytest.raises(TlsError) as info:
            client_context(**files)
        assert str(info.value).startswith(complaint), str(info.value)
        assert "\n" not in str(info.value)


async def test_a_peer_without_tls_is_told_from_one_that_is_not_trusted(authority: Any) -> None:
    async def serve(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    with pytest.raises(ssl.SSLError) as info:
        await asyncio.open_connection("127.0.0.1", port, ssl=client_context())
    assert explain(info.value) == "it does not speak TLS"
    server.close()
