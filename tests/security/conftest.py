"""An authority for certificates, and a scripted DC/OS login endpoint."""

import asyncio
import importlib.util
import json
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections import deque
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

_spec = importlib.util.spec_from_file_location("authority", Path(__file__).with_name("authority.py"))
assert _spec is not None
assert _spec.loader is not None
_authority = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_authority)


@pytest.fixture(scope="session")
def authorities() -> Any:
    """The class Authority."""
    return _authority.Authority


@pytest.fixture
def authority(tmp_path: Path) -> Any:
    return _authority.Authority(tmp_path)


def _decode(part: str) -> bytes:
    return urlsafe_b64decode(part + "=" * (-len(part) % 4))


class Iam:
    """DC/OS' login: checks the signature and its expiry, hands out tokens that live for `life` seconds."""

    def __init__(self, key: rsa.RSAPrivateKey) -> None:
        self.key = key
        self.now = 1_000_000.0  # of everybody concerned
        self.life: float | None = 1000.0
        self.answers: deque[web.Response] = deque()  # instead of tokens
        self.logins: list[dict[str, Any]] = []
        self.tokens: list[str] = []
        self.gate: asyncio.Event | None = None
        self.port = 0
        self._runner: web.AppRunner | None = None

    def clock(self) -> float:
        return self.now

    def secret(self, **changes: Any) -> str:
        """The JSON of the account's secret."""
        pem = self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
        secret = {
            "scheme": "RS256",
            "uid": "gantry",
            "private_key": pem,
            "login_endpoint": f"http://127.0.0.1:{self.port}/acs/api/v1/auth/login",
        }
        return json.dumps({**secret, **changes})

    async def listen(self, **options: Any) -> None:
        app = web.Application()
        app.router.add_post("/acs/api/v1/auth/login", self._login)
        self._runner = web.AppRunner(app, handle_signals=False, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0, **options).start()
        self.port = self._runner.addresses[0][1]

    async def close(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def _login(self, request: web.Request) -> web.Response:
        body = await request.json()
        header, claims, signature = body["token"].split(".")
        assert json.loads(_decode(header)) == {"alg": "RS256", "typ": "JWT"}
        signed = f"{header}.{claims}".encode()
        self.key.public_key().verify(_decode(signature), signed, padding.PKCS1v15(), SHA256())
        self.logins.append({**json.loads(_decode(claims)), "body": body})
        if self.gate is not None:
            await self.gate.wait()
        if self.answers:
            return self.answers.popleft()
        payload: dict[str, Any] = {"uid": body["uid"]}
        if self.life is not None:
            payload["exp"] = int(self.now + self.life)
        middle = urlsafe_b64encode(json.dumps(payload).encode()).decode().rstrip("=")
        self.tokens.append(f"head.{middle}.sign{len(self.tokens)}")
        return web.json_response({"token": self.tokens[-1]})


@pytest.fixture(scope="session")
def rsa_key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


@pytest.fixture
async def iam(rsa_key: rsa.RSAPrivateKey) -> AsyncIterator[Iam]:
    one = Iam(rsa_key)
    await one.listen()
    yield one
    await one.close()
