"""A master that cannot be had: told in one line in the health check and counted, tried again, and nothing ends."""

from __future__ import annotations

import contextlib
import json
import signal
import ssl
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.security.authority import Authority
from tests.waiting import PATIENCE

pytestmark = [pytest.mark.system]


class Stranger(BaseHTTPRequestHandler):
    """A master that does not know us."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = b"who are you?"
        self.send_response(401)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


class Quiet(ThreadingHTTPServer):
    """Failed TLS handshakes are what is tested."""

    def handle_error(self, *_: object) -> None:
        pass


@contextlib.contextmanager
def serving(port: int, tls: ssl.SSLContext | None = None) -> Iterator[None]:
    server = Quiet(("127.0.0.1", port), Stranger)
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join(PATIENCE)


def plan(case: str, directory: Path) -> tuple[tuple[str, ...], ssl.SSLContext | None, str, str]:
    """Flags, what the master serves with, what is said, how it is counted."""
    (directory / "secret").write_text("hunter2\n")
    if case == "wrong credential":
        flags = ("--mesos-principal", "alice", "--mesos-secret-file", "secret")
        return flags, None, "HTTP 401: who are you?", "credentials"
    if case == "no credential":
        flags = ("--dcos-service-account", "account.json")
        account = {
            "uid": "alice",
            "scheme": "RS256",
            "login_endpoint": "https://127.0.0.1:1/acs/api/v1/auth/login",
            "private_key": _key(),
        }
        (directory / "account.json").write_text(json.dumps(account))
        return flags, None, "127.0.0.1:1", "credentials"
    if case == "expired certificate":
        authority = Authority(directory)
        context = authority.server_context("master", "127.0.0.1", days=-1)
        flags = ("--mesos-ca-file", str(authority.ca_file))
        return flags, context, "its certificate is not accepted: certificate has expired", "connection"
    return (), None, "Connection refused", "connection"


def _key() -> str:
    from cryptography.hazmat.primitives.asymmetric import rsa
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


@pytest.mark.parametrize(
    "case", ["unreachable master", "wrong credential", "no credential", "expired certificate"]
)
def test_what_is_wrong_with_the_master_is_said_counted_and_outlived(local: Any, case: str) -> None:
    port = local.free_port()
    flags, tls, said, reason = plan(case, local.directory)
    master = contextlib.nullcontext() if case == "unreachable master" else serving(port, tls)
    with master:
        process = local.spawn_scheduler("--master", f"127.0.0.1:{port}", *flags)
        text = local.until("the complaint", lambda: said in local.unready() and local.unready())
        line = next(one for one in text.splitlines() if one.startswith("[-]mesos"))
        assert line.startswith("[-]mesos failed: cannot subscribe to ")
        assert f"127.0.0.1:{port}" in line
        assert "hunter2" not in text
        counted = f'gantry_mesos_connection_failures_total{{reason="{reason}"}} '

        def count() -> float:
            lines = local.get("/metrics").splitlines()
            return next((float(one.rpartition(" ")[2]) for one in lines if one.startswith(counted)), 0.0)

        local.until("another try", lambda: count() >= 2)
        assert "gantry_mesos_connected 0.0" in local.get("/metrics")
        assert local.get("/livez") == "ok", "a restart would not help"
        assert process.poll() is None
        assert local.kill("scheduler", signal.SIGTERM) == 0
    assert "hunter2" not in (local.directory / "scheduler.log").read_text()
