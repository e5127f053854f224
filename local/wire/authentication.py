"""Who may ask: HTTP Basic with a file of credentials, and the tokens of executors.

A refusal is the 401 that a real Mesos gives, with the realm of the endpoint. Nothing here knows an endpoint.

Source: Mesos 3rdparty/libprocess/src/{authenticator,jwt,jwt_authenticator}.cpp, src/credentials/credentials.hpp,
src/authentication/executor/jwt_secret_generator.cpp.
"""

import base64
import binascii
import hashlib
import hmac
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson
from aiohttp import web


def read_credentials(path: Path, flag: str) -> dict[str, str]:
    """Secrets by principal, of `{"credentials": [{"principal": …, "secret": …}]}`. ValueError of one line."""
    content = _read(path, flag)
    listed = content.get("credentials") if isinstance(content, dict) else None
    if not isinstance(listed, list) or not listed:
        raise ValueError(f"{flag}: {path}: Credentials file must contain at least one credential")
    return dict(_pair(one, path, flag) for one in listed)


def read_credential(path: Path, flag: str) -> tuple[str, str]:
    """Principal and secret of `{"principal": …, "secret": …}`. ValueError of one line."""
    return _pair(_read(path, flag), path, flag)


def _read(path: Path, flag: str) -> Any:
    try:
        return orjson.loads(path.read_bytes())
    except OSError as error:
        raise ValueError(f"{flag}: {error.strerror}: {path}") from error
    except ValueError as error:
        raise ValueError(f"{flag}: {path}: Invalid json format: {error}") from error


def _pair(one: Any, path: Path, flag: str) -> tuple[str, str]:
    principal, secret = (one.get("principal"), one.get("secret")) if isinstance(one, dict) else (None, None)
    if not isinstance(principal, str) or not isinstance(secret, str):
        raise ValueError(f"{flag}: {path}: a credential needs 'principal' and 'secret', both strings")
    return principal, secret


def refusal(challenge: str) -> web.HTTPUnauthorized:
    return web.HTTPUnauthorized(headers={"WWW-Authenticate": challenge}, text="401 Unauthorized.")


def basic_header(principal: str, secret: str) -> str:
    return "Basic " + base64.b64encode(f"{principal}:{secret}".encode()).decode()


class Basic:
    """HTTP Basic for one realm."""

    def __init__(self, realm: str, credentials: Mapping[str, str]) -> None:
        self._challenge = f'Basic realm="{realm}"'
        self._credentials = credentials

    def principal(self, request: web.Request) -> str:
        """Who asks. Raises a 401."""
        words = request.headers.get("Authorization", "").split(" ")
        if len(words) != 2 or words[0] != "Basic":
            raise refusal(self._challenge)
        try:
            name, colon, secret = base64.b64decode(words[1], validate=True).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError) as error:
            raise refusal(self._challenge) from error
        known = self._credentials.get(name)
        if not colon or known is None or not hmac.compare_digest(known.encode(), secret.encode()):
            raise refusal(self._challenge)
        return name


class Tokens:
    """JSON Web Tokens (HS256) that an agent gives to its executors: `fid`, `eid` and `cid` are their claims."""

    def __init__(self, realm: str, secret: bytes) -> None:
        self._realm = realm
        self._secret = secret

    def make(self, claims: Mapping[str, str]) -> str:
        content = _encode(orjson.dumps({"alg": "HS256", "typ": "JWT"})) + "." + _encode(orjson.dumps(claims))
        return f"{content}.{self._signature(content)}"

    def _signature(self, content: str) -> str:
        return _encode(hmac.digest(self._secret, content.encode(), hashlib.sha256))

    def claims(self, request: web.Request) -> dict[str, str]:
        """Of who asks. Raises a 401 that says what is wrong with the token."""
        header = request.headers.get("Authorization")
        if header is None:
            raise refusal(f'Bearer realm="{self._realm}"')
        words = header.split(" ")
        if len(words) != 2:
            raise self._invalid("Malformed 'Authorization' header")
        if words[0] != "Bearer":
            raise self._invalid(f"Scheme '{words[0]}' unsupported")
        return self._parsed(words[1])

    def _invalid(self, why: str) -> web.HTTPUnauthorized:
        return refusal(f'Bearer realm="{self._realm}", error="invalid_token", error_description="{why}"')

    def _parsed(self, token: str) -> dict[str, str]:
        parts = token.split(".")
        if len(parts) != 3:
            raise self._invalid(f"Invalid JWT: Expected 3 components in token, got {len(parts)}")
        try:
            head, claims = (orjson.loads(_decode(part)) for part in parts[:2])
        except ValueError as error:
            raise self._invalid("Invalid JWT: Failed to decode token") from error
        if not isinstance(head, dict) or head.get("alg") != "HS256":
            raise self._invalid("Invalid JWT: Token 'alg' does not match, expected 'HS256'")
        if not hmac.compare_digest(self._signature(".".join(parts[:2])), parts[2]):
            raise self._invalid("Invalid JWT: Token signature does not match")
        if not isinstance(claims, dict) or not claims:
            raise self._invalid("JWT claims missing")
        return {str(name): str(value) for name, value in claims.items()}


def _encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _decode(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
