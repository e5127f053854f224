"""The scheduler's flags, and what they come to: who we are to Mesos, whom we trust, what the health check says."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from pathlib import Path

import aiohttp
import pytest

from scheduler.config import Settings, UsageError, parse
from scheduler.instance import serve
from shared.mesos.credentials import BasicCredentials
from shared.security.tokens import BearerTokenFile


def settings(*flags: str, environ: dict[str, str] | None = None) -> Settings:
    return parse(["--master", "127.0.0.1:1", "--store", "sqlite:x.db", *flags], environ or {})


def test_without_flags_nobody_is_authenticated() -> None:
    plain = settings()
    assert plain.access.credentials is None
    assert plain.access.tls is None
    assert "principal" not in plain.framework.info("")


def test_a_principal_is_the_frameworks_too(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("hunter2\n")
    made = settings("--mesos-principal", "alice", "--mesos-secret-file", str(tmp_path / "secret"))
    assert isinstance(made.access.credentials, BasicCredentials)
    assert made.framework.info("")["principal"] == "alice"
    assert "hunter2" not in repr(made)


def test_a_token_and_tls(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("hunter2\n")
    made = settings("--mesos-token-file", str(tmp_path / "token"), "--mesos-tls")
    assert isinstance(made.access.credentials, BearerTokenFile)
    assert made.access.tls is not None
    assert made.access.tls.verify_mode is ssl.CERT_REQUIRED
    assert settings(environ={"LIBPROCESS_SSL_ENABLED": "1"}).access.tls is not None


def test_roles() -> None:
    made = settings("--role", "eng/web", "--roles", "batch, eng/web,batch")
    assert made.framework.info("")["roles"] == ["eng/web", "batch"]
    assert made.policy("1").roles == ("eng/web", "batch")


def test_revocable_resources_are_offered_only_when_asked_for() -> None:
    revocable = {"type": "REVOCABLE_RESOURCES"}
    assert revocable not in settings().framework.info("")["capabilities"]
    assert {"type": "GPU_RESOURCES"} in settings().framework.info("")["capabilities"]
    assert revocable in settings("--revocable").framework.info("")["capabilities"]


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--role", "*"), "--role '*': not a role that a Mesos framework can have"),
        (("--roles", "a,-b"), "--roles '-b': not a role"),
        (("--roles", "a//b"), "--roles 'a//b': not a role"),
        (("--mesos-principal", "alice"), "--mesos-principal and --mesos-secret-file belong together"),
        (("--mesos-token-file", "missing"), "missing"),
        (("--mesos-ca-file", "missing"), "missing"),
        (("--dcos-service-account", "missing"), "missing"),
        (("--zk-tls",), "--zk-tls: is for --store zk://… only"),
        (("--zk-digest-file", "missing"), "--zk-digest-file: is for --store zk://… only"),
        (("--master", "zk://h"), "--master: not a ZooKeeper URL: 'zk://h'"),
    ],
)
def test_what_is_wrong_is_one_line(flags: tuple[str, ...], said: str) -> None:
    with pytest.raises(UsageError) as refused:
        settings(*flags)
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


async def _unauthorized(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
    await writer.drain()
    writer.close()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()


async def _unready(port: int, word: str) -> str:
    """What /readyz says once it says that word."""
    async with asyncio.timeout(60), aiohttp.ClientSession() as session:
        while True:
            with contextlib.suppress(aiohttp.ClientConnectionError):
                async with session.get(f"http://127.0.0.1:{port}/readyz") as answer:
                    text = await answer.text()
                if answer.status == 500 and word in text:
                    return text
            await asyncio.sleep(0.05)


async def test_wrong_credentials_are_tried_again_and_shown(tmp_path: Path) -> None:
    """They can be put right on the master's side: nothing ends, and the health check says what is the matter."""
    (tmp_path / "secret").write_text("wrong\n")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    master = await asyncio.start_server(_unauthorized, "127.0.0.1", 0)
    async with master:
        flags = ("--mesos-principal", "alice", "--mesos-secret-file", str(tmp_path / "secret"))
        quick = ("--executor-command", "true")  # no bundle, which would take its time
        where = f"127.0.0.1:{master.sockets[0].getsockname()[1]}"
        mine = ("--store", f"sqlite:{tmp_path}/s.db", "--master", where, "--listen", f"127.0.0.1:{port}")
        stop = asyncio.Event()
        serving = asyncio.create_task(serve(settings(*flags, *quick, *mine), stop))
        try:
            text = await _unready(port, "401")
        finally:
            stop.set()
            await serving
    assert "[-]mesos failed: cannot subscribe to" in text
    assert "wrong" not in text
