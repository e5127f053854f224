"""A scripted DC/OS login endpoint. Loaded by path."""

import asyncio
import json
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections import deque
from collections.abc import Callable
from typing import Any

from aiohttp import web
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat


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
        self.on_login: Callable[[], None] = lambda: None
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
        self.on_login()
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
