"""DC/OS service accounts: a login token signed with the account's RSA key is changed for one that masters take.

The methods are those of a driver's credentials: `authorization`, `renew`, `renew_in`. Tokens are kept in memory
only; neither they nor the key are in any message.

Sources: the DC/OS IAM API (POST /acs/api/v1/auth/login), and what dcos-commons sends there.
"""

import asyncio
import json
import logging
import ssl
import time
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from shared.security.secretfile import SecretError, read_text, text_line
from shared.security.tls import explain

logger = logging.getLogger(__name__)

LOGIN_PATH = "/acs/api/v1/auth/login"
LOGIN_TOKEN_LIFE = 120  # seconds, as dcos-commons has it
LONGEST_LEAD = (
    3600.0  # renewed when a quarter of the token's life is left, but no sooner than this before its end
)
RETRY = 30.0  # seconds between attempts to renew a token that still works
FRESH = 60.0  # a token that was renewed after a 401 and refused again is not renewed once more before this


class LoginFailed(OSError):
    """The token could not be had: one line with the endpoint and the reason."""


@dataclass(frozen=True, slots=True)
class ServiceAccount:
    """The secret of a service account, as `dcos security secrets create-sa-secret` writes it."""

    uid: str
    login_endpoint: str
    private_key: RSAPrivateKey = field(repr=False)

    @classmethod
    def load(cls, path: Path) -> "ServiceAccount":
        """From a file. SecretError names it and the field that is wrong."""
        what = "service account file"
        return cls.parse(read_text(path, what), f"{what} '{path}'")

    @classmethod
    def parse(cls, text: str, source: str) -> "ServiceAccount":
        """From JSON with uid, private_key, login_endpoint and scheme; `source` goes into the errors."""
        try:
            secret = json.loads(text)
        except ValueError:
            secret = None  # its error quotes the text
        if not isinstance(secret, dict):
            raise SecretError(f"{source}: not a JSON object")
        for name in ("uid", "private_key", "login_endpoint"):
            if not isinstance(secret.get(name), str) or not secret[name]:
                raise SecretError(f"{source}: '{name}' is missing")
        if secret.get("scheme", "RS256") != "RS256":
            raise SecretError(f"{source}: 'scheme' must be RS256")
        return cls(
            secret["uid"], _endpoint(secret["login_endpoint"], source), _key(secret["private_key"], source)
        )

    def login_token(self, now: float) -> str:
        """A JSON web token (RS256) that proves who we are for the next two minutes."""
        header = _encode({"alg": "RS256", "typ": "JWT"})
        signed = header + b"." + _encode({"uid": self.uid, "exp": int(now) + LOGIN_TOKEN_LIFE})
        signature = self.private_key.sign(signed, PKCS1v15(), SHA256())
        return (signed + b"." + urlsafe_b64encode(signature).rstrip(b"=")).decode("ascii")


class DcosLogin:
    """A service account's authentication token, renewed ahead of its end and once when it is refused."""

    def __init__(
        self,
        account: ServiceAccount,
        *,
        tls: ssl.SSLContext | None = None,
        timeout: float = 10.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`tls` is for a login endpoint that is https (the system's CAs without); `clock`: seconds since 1970."""
        self.account = account
        self._tls = tls
        self._timeout = timeout
        self._clock = clock
        self._lock = asyncio.Lock()
        self._header: str | None = None
        self._expires: float | None = None
        self._renew_at: float | None = None
        self._refreshed = float("-inf")  # when a 401 last made us log in

    async def authorization(self) -> str:
        """`token=…`. LoginFailed when there is none that still works."""
        async with self._lock:
            now = self._clock()
            if self._header is None or (self._renew_at is not None and now >= self._renew_at):
                try:
                    await self._login(now)
                except LoginFailed as error:
                    if self._header is None or self._expires is None or now >= self._expires:
                        raise
                    self._renew_at = min(now + RETRY, self._expires)
                    logger.warning("%s; the present token works for another %d s", error, self._expires - now)
            assert self._header is not None
            return self._header

    async def renew(self, refused: str) -> bool:
        """After a 401 for `refused`: log in again, once. Whether there is another token to try now."""
        async with self._lock:
            now = self._clock()
            if self._header != refused:
                return self._header is not None
            if now - self._refreshed < FRESH:
                return False
            await self._login(now)
            self._refreshed = now
            return True

    def renew_in(self) -> float | None:
        """Seconds until `authorization()` should be asked again; None when the token's end is not known."""
        return None if self._renew_at is None else max(0.0, self._renew_at - self._clock())

    async def _login(self, now: float) -> None:
        endpoint, uid = self.account.login_endpoint, self.account.uid
        token = await self._ask(endpoint, {"uid": uid, "token": self.account.login_token(now)})
        self._header = f"token={token}"
        self._expires = expiry(token)
        if self._expires is not None and self._expires <= now:
            logger.warning("the token of '%s' has expired when it comes: is this machine's clock right?", uid)
            self._expires = None
        if self._expires is None:
            self._renew_at = None
        else:
            self._renew_at = self._expires - min((self._expires - now) / 4, LONGEST_LEAD)
        logger.info("logged in at %s as '%s'", endpoint, uid)

    async def _ask(self, endpoint: str, body: dict[str, str]) -> str:
        what = f"DC/OS login of '{self.account.uid}' at {endpoint}"
        timeout = aiohttp.ClientTimeout(total=self._timeout)
        try:
            # No redirects: the login token is for this endpoint and no other.
            async with (
                aiohttp.ClientSession(timeout=timeout) as session,
                session.post(endpoint, json=body, ssl=self._tls or True, allow_redirects=False) as response,
            ):
                status, text = response.status, await response.text(errors="replace")
        except (aiohttp.ClientError, TimeoutError) as error:
            raise LoginFailed(f"{what}: {_reason(error)}") from None  # the cause may hold the request
        if status != 200:
            raise LoginFailed(f"{what}: HTTP {status}{_described(text, body['token'])}")
        token = _member(text, "token")
        if token is None or text_line(token) is None or not token.isascii():
            raise LoginFailed(f"{what}: there is no token in the answer")
        return token


def expiry(token: str) -> float | None:
    """`exp` (seconds since 1970) of a JSON web token, whose signature is not ours to check; None without."""
    parts = token.split(".")
    if len(parts) != 3:
        return None
    try:
        claims = json.loads(urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
    except ValueError:
        return None
    exp = claims.get("exp") if isinstance(claims, dict) else None
    return float(exp) if isinstance(exp, int | float) and exp > 0 else None


def _endpoint(url: str, source: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.username is not None:
        raise SecretError(f"{source}: 'login_endpoint' must be an http(s) URL")
    if parts.scheme == "http":
        logger.warning("%s: the login endpoint is not https; tokens can be read on the way", source)
    return url if parts.path.strip("/") else f"{parts.scheme}://{parts.netloc}{LOGIN_PATH}"


def _key(pem: str, source: str) -> RSAPrivateKey:
    try:
        key = load_pem_private_key(pem.encode(), password=None)
    except (ValueError, TypeError):
        key = None
    if not isinstance(key, RSAPrivateKey):
        raise SecretError(f"{source}: 'private_key' must be an RSA key in PEM, without a passphrase")
    return key


def _encode(claims: dict[str, Any]) -> bytes:
    return urlsafe_b64encode(json.dumps(claims, separators=(",", ":")).encode()).rstrip(b"=")


def _member(text: str, name: str) -> str | None:
    try:
        value = json.loads(text)
    except ValueError:
        return None
    found = value.get(name) if isinstance(value, dict) else None
    return found if isinstance(found, str) else None


def _described(text: str, login_token: str) -> str:
    """IAM's own words on one line; they are someone else's, so the token is taken out should it be in them."""
    words = _member(text, "description") or _member(text, "title") or ""
    line = " ".join(words.replace(login_token, "…").split())[:200]
    return f": {line}" if line else ""


def _reason(error: Exception) -> str:
    cause = getattr(error, "os_error", None) or getattr(error, "certificate_error", None) or error
    if isinstance(cause, ssl.SSLError):
        return explain(cause)
    if isinstance(cause, OSError) and cause.strerror:
        return cause.strerror
    return str(cause) or type(error).__name__
