"""One server of the Registry HTTP API v2: requests below a repository, logging in. What is asked for is registry.py's.

Logins are tried one after another; credentials go to the server's own origin and, for a token, to the realm that it
names, over HTTPS (or within loopback). Sources: OCI distribution-spec; distribution "Token Authentication", "OAuth2
Token Authentication" (identity tokens).
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import aiohttp
import orjson
from yarl import URL

from executor.stage0 import manifest as m
from executor.stage0 import web
from executor.stage0.errors import ImageBroken, ImageNotFound, ImageRefused, RegistryUnavailable
from executor.stage0.login import Login, challenge
from executor.stage0.settings import authority
from executor.stage0.web import Interrupted, Web

T = TypeVar("T")
MAX_ANSWER = 1024 * 1024  # tokens and error texts


class Endpoint:
    """A repository on one server. login: the one that the server wanted and took, None while it wanted none."""

    def __init__(self, http: Web, base: URL, repository: str, logins: Sequence[Login]) -> None:
        self._web, self._base, self._logins = http, base, logins
        self._prefix = base.path.strip("/")
        self._repository = f"{self._prefix}/{repository}" if self._prefix else repository
        self._root = base.origin() / "v2" / self._repository
        self._authorization = ""
        self._settled = False
        self.login: Login | None = None

    def __str__(self) -> str:
        return f"{authority(self._base)}/{self._prefix}" if self._prefix else authority(self._base)

    @asynccontextmanager
    async def request(
        self, method: str, path: str, accept: str = "*/*", headers: Mapping[str, str] | None = None
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """A successful answer of one attempt. Interrupted, ImageNotFound, ImageRefused, ImageBroken."""
        wanted = {"Accept": accept, "Accept-Encoding": "identity", **(headers or {})}
        answer = await self._authorized(method, self._root / path, wanted)
        try:
            if answer.status not in {200, 206}:
                await self._refuse(answer)
            yield answer
        finally:
            answer.close()

    async def get(
        self, path: str, limit: int, what: str, accept: str = "*/*"
    ) -> tuple[bytes, Mapping[str, str]]:
        """A whole document and its headers, patiently."""

        async def attempt() -> tuple[bytes, Mapping[str, str]]:
            async with self.request("GET", path, accept) as answer:
                return await web.body(answer, limit, what), answer.headers

        return await self._patiently(attempt)

    async def head(self, path: str, accept: str) -> Mapping[str, str]:
        """The headers of a document, patiently."""

        async def attempt() -> Mapping[str, str]:
            async with self.request("HEAD", path, accept) as answer:
                return answer.headers

        return await self._patiently(attempt)

    async def _patiently(self, attempt: Callable[[], Awaitable[T]]) -> T:
        try:
            return await web.patiently(attempt)
        except RegistryUnavailable as error:
            raise RegistryUnavailable(f"registry {error}") from None

    async def _authorized(self, method: str, url: URL, headers: Mapping[str, str]) -> aiohttp.ClientResponse:
        answer = await self._web.follow(method, url, headers, self._authorization)
        if answer.status != 401:
            return answer
        challenges = answer.headers.getall("WWW-Authenticate", [])
        refused: ImageRefused | None = None
        # A token has run out, or nothing was sent so far.
        candidates: Sequence[Login | None] = [self.login] if self._settled else (self._logins or [None])
        for login in candidates:
            try:
                authorization = await self._authenticate(challenges, login)
            except ImageRefused as error:
                refused = error
                continue
            answer.close()
            answer = await self._web.follow(method, url, headers, authorization)
            if answer.status not in {401, 403}:
                self._authorization, self.login, self._settled = authorization, login, True
                return answer
            refused = None
        if refused is not None:
            answer.close()
            raise refused
        return answer

    async def _refuse(self, answer: aiohttp.ClientResponse) -> None:
        said = await _error_text(answer)
        if answer.status in web.BUSY:
            raise Interrupted(f"{self}: HTTP {answer.status}{said}", web.retry_after(answer))
        if answer.status == 404:
            raise ImageNotFound(f"not found in registry {self}{said}")
        if answer.status in {401, 403}:
            what = "the login was refused" if self._logins else "needs a login"
            raise ImageRefused(f"registry {self}: {what} (HTTP {answer.status}{said})")
        raise ImageNotFound(f"registry {self} answered HTTP {answer.status}{said}")

    # -- logging in

    async def _authenticate(self, challenges: Sequence[str], login: Login | None) -> str:
        """The Authorization header that answers a 401. ImageRefused when we have nothing to answer."""
        for text in challenges:
            scheme, parameters = challenge(text)
            if scheme == "bearer":
                return "Bearer " + await self._token(parameters, login)
            if scheme == "basic" and login is not None and not login.is_identity:
                return login.header
        if login is not None and login.is_identity:
            raise ImageRefused(
                f"registry {self} takes no identity tokens, and that is what the login for it is"
            )
        raise ImageRefused(
            f"registry {self} needs a login, and there is none for it (imagePullSecrets, docker-config)"
        )

    async def _token(self, parameters: Mapping[str, str], login: Login | None) -> str:
        realm = self._realm(parameters.get("realm", ""))
        query = {"scope": parameters.get("scope") or f"repository:{self._repository}:pull"}
        if "service" in parameters:
            query["service"] = parameters["service"]
        if login is not None and login.is_identity:
            form = {
                "grant_type": "refresh_token",
                "client_id": "gantry",
                "refresh_token": login.password,
                **query,
            }
            answer = await self._web.send("POST", realm, {}, form)
        else:
            headers = {"Authorization": login.header} if login else {}
            answer = await self._web.send("GET", realm.update_query(query), headers)
        try:
            if answer.status in web.BUSY:
                raise Interrupted(
                    f"token service {realm.host}: HTTP {answer.status}", web.retry_after(answer)
                )
            if answer.status != 200:
                raise ImageRefused(f"registry {self}: {realm.host} gives no token (HTTP {answer.status})")
            obj = m.parse_json(await web.body(answer, MAX_ANSWER, "token"), "token")
        finally:
            answer.close()
        token = obj.get("token") or obj.get("access_token")
        if not isinstance(token, str) or not token.isascii() or not token.isprintable():
            raise ImageBroken(f"registry {self}: {realm.host} answered without a token")
        return token

    def _realm(self, text: str) -> URL:
        try:
            realm = URL(text)
        except ValueError:
            realm = URL()
        if not self._web.may_follow(realm, self._base):
            raise ImageBroken(f"registry {self} sends for a token to {text[:100]}: only HTTPS is followed")
        return realm


async def _error_text(answer: aiohttp.ClientResponse) -> str:
    """`: manifest unknown` from the registry's JSON errors, one line, or nothing."""
    try:
        obj: Any = orjson.loads(await web.body(answer, MAX_ANSWER, "error"))
        text = str(obj["errors"][0]["message"])
    except (Interrupted, ImageBroken, orjson.JSONDecodeError, LookupError, TypeError):
        return ""  # the status says enough
    return ": " + "".join(c if c.isprintable() else " " for c in text[:200])
