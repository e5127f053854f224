"""Flags and variables that say who we are to Mesos."""

import argparse
import json
import ssl
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from shared.mesos.credentials import BasicCredentials
from shared.mesos.settings import Access, access_from, add_flags, tls_from_environ
from shared.security.dcos import DcosLogin
from shared.security.tokens import BearerTokenFile


def access(*flags: str, **environ: str) -> Access:
    parser = argparse.ArgumentParser(exit_on_error=False)
    add_flags(parser)
    return access_from(parser.parse_args(list(flags)), environ)


@pytest.fixture(scope="module")
def service_account() -> str:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    return json.dumps({"uid": "gantry", "private_key": pem, "login_endpoint": "https://leader.mesos"})


def secret_file(directory: Path, text: str) -> str:
    path = directory / "secret"
    path.write_text(text)
    path.chmod(0o600)
    return str(path)


def test_nothing_given_is_nothing() -> None:
    assert access() == Access(None, None)


async def test_basic(tmp_path: Path) -> None:
    given = access("--mesos-principal", "gantry", "--mesos-secret-file", secret_file(tmp_path, "hunter2\n"))
    assert given.credentials == BasicCredentials("gantry", "hunter2")
    assert "hunter2" not in repr(given)


async def test_a_token(tmp_path: Path) -> None:
    given = access("--mesos-token-file", secret_file(tmp_path, "hunter2"))
    assert isinstance(given.credentials, BearerTokenFile)
    assert "hunter2" not in repr(given)


def test_a_service_account(tmp_path: Path, service_account: str) -> None:
    for given in (
        access("--dcos-service-account", secret_file(tmp_path, service_account)),
        access(DCOS_SERVICE_ACCOUNT_CREDENTIAL=service_account),
    ):
        assert isinstance(given.credentials, DcosLogin)
        assert given.credentials.account.uid == "gantry"
        assert given.credentials.account.login_endpoint == "https://leader.mesos/acs/api/v1/auth/login"
        assert "PRIVATE KEY" not in repr(given)


def test_a_flag_goes_before_the_environment(tmp_path: Path, service_account: str) -> None:
    given = access(
        "--mesos-token-file",
        secret_file(tmp_path, "hunter2"),
        DCOS_SERVICE_ACCOUNT_CREDENTIAL=service_account,
    )
    assert isinstance(given.credentials, BearerTokenFile)


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        (("--mesos-principal", "gantry"), "belong together"),
        (("--mesos-secret-file", "/no"), "belong together"),
        (("--mesos-token-file", "/no", "--dcos-service-account", "/no"), "only one kind of credentials"),
        (("--mesos-token-file", "/no"), "token file '/no': No such file"),
        (
            ("--mesos-principal", "a:b", "--mesos-secret-file", "SECRET"),
            "'a:b': must not be empty or contain",
        ),
        (("--mesos-ca-file", "/no"), "CA file '/no': No such file"),
        (("--mesos-key-file", "/no"), "of no use without a certificate"),
    ],
)
def test_flags_that_cannot_work(tmp_path: Path, flags: tuple[str, ...], complaint: str) -> None:
    secret = secret_file(tmp_path, "hunter2")
    with pytest.raises(ValueError, match=complaint) as info:
        access(*(secret if flag == "SECRET" else flag for flag in flags))
    assert "hunter2" not in str(info.value)


def test_tls_flags(authority: Any) -> None:
    plain = access("--mesos-tls").tls
    assert plain is not None
    assert (plain.verify_mode, plain.check_hostname) == (ssl.CERT_REQUIRED, True)
    certificate, key = authority.issue("gantry")
    flags = ["--mesos-ca-file", authority.ca_file, "--mesos-cert-file", certificate, "--mesos-key-file", key]
    ours = access(*map(str, flags)).tls
    assert ours is not None
    assert ours.cert_store_stats()["x509_ca"] == 1
    insecure = access("--mesos-insecure").tls
    assert insecure is not None
    assert insecure.verify_mode == ssl.CERT_NONE


def test_libprocess_variables(authority: Any) -> None:
    certificate, key = authority.issue("gantry")
    files = {
        "LIBPROCESS_SSL_CA_FILE": str(authority.ca_file),
        "LIBPROCESS_SSL_CERT_FILE": str(certificate),
        "LIBPROCESS_SSL_KEY_FILE": str(key),
    }
    assert tls_from_environ(files) is None
    assert tls_from_environ({**files, "MESOS_SSL_ENABLED": "false"}) is None
    for switch in ({"MESOS_SSL_ENABLED": "1"}, {"LIBPROCESS_SSL_ENABLED": "true"}):
        context = tls_from_environ({**files, **switch})
        assert context is not None
        assert context.verify_mode == ssl.CERT_REQUIRED
        assert context.cert_store_stats()["x509_ca"] == 1
    assert access(**files, LIBPROCESS_SSL_ENABLED="true").tls is not None


@pytest.mark.parametrize(
    ("environ", "mode"),
    [
        ({"LIBPROCESS_SSL_VERIFY_CERT": "false"}, ssl.CERT_NONE),
        ({"LIBPROCESS_SSL_VERIFY_CERT": "true"}, ssl.CERT_REQUIRED),
        ({"LIBPROCESS_SSL_VERIFY_SERVER_CERT": "0"}, ssl.CERT_NONE),
        # The newer name counts.
        ({"LIBPROCESS_SSL_VERIFY_SERVER_CERT": "1", "LIBPROCESS_SSL_VERIFY_CERT": "0"}, ssl.CERT_REQUIRED),
    ],
)
def test_verification_is_on_unless_switched_off(environ: dict[str, str], mode: ssl.VerifyMode) -> None:
    context = tls_from_environ({"MESOS_SSL_ENABLED": "true", **environ})
    assert context is not None
    assert context.verify_mode == mode
