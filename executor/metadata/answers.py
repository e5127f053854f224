"""The service over HTTP, for one connection's requests: URL, header, token, method, body (appc ace.md).

    GET  /TOKEN/acMetadata/v1/pod/{annotations[/NAME],manifest,uuid}
    POST /TOKEN/acMetadata/v1/pod/hmac/{sign,verify}          form: content; content, uuid, signature
    GET  /TOKEN/acMetadata/v1/apps/APP/{annotations[/NAME],image/manifest,image/id}

Every request has the header `Metadata-Flavor: AppContainer`, so that a program which can be talked into fetching a URL
cannot be talked into this. rkt never asked for it, and appc's last version does not any more: what is as rkt's
(`strict` is False) asks it of those alone whose headers say that they come from a browser, or through a proxy. Errors
are one line of text. /NAME is rkt's.
"""

import base64
import binascii
import json
import logging
from collections.abc import Callable
from typing import Any, Final
from urllib.parse import parse_qs, unquote
from uuid import UUID

from aiohttp import BodyPartReader, web

from executor.metadata.facts import Facts, Pod
from executor.metadata.keys import Keys

log = logging.getLogger(__name__)

FLAVOR: Final = "AppContainer"
BODY_LIMIT: Final = 1 << 20
PARTS: Final = 16
_CARRIED: Final = ("Origin", "Referer", "Forwarded", "X-Forwarded-For", "Via", "Sec-Fetch-Mode")
_FORMS: Final = ("application/x-www-form-urlencoded", "multipart/form-data")

Token = str
Admit = Callable[[Token], Pod | None]
"""Whose token this is; None: nobody's who may ask here. To be as quick for a wrong one as for a right one."""


class _Refusal(Exception):
    """An answer that is an error."""

    def __init__(self, status: int, text: str, **headers: str) -> None:
        super().__init__(text)
        self.status, self.headers = status, headers


class Answers:
    """Answers requests; `admit` knows who may ask."""

    def __init__(self, admit: Admit, keys: Keys, *, strict: bool = True) -> None:
        self._admit, self._keys, self._strict = admit, keys, strict

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
        """One request. The connection ends with it: whoever is slow, or many, is soon gone."""
        try:
            answer = await self._answer(request)
        except _Refusal as refusal:
            answer = _text(f"{refusal}\n", refusal.status)
            answer.headers.update(refusal.headers)
        except web.HTTPRequestEntityTooLarge:
            answer = _text(f"the request is larger than {BODY_LIMIT} bytes\n", 413)
        except (OSError, ValueError, LookupError, TypeError) as error:
            log.error("metadata: %s %s: %s", request.method, _shown(request), error)
            answer = _text("what is known of this pod cannot be read\n", 500)
        answer.force_close()
        return answer

    async def _answer(self, request: web.BaseRequest) -> web.Response:
        if not self._means_us(request):
            raise _Refusal(403, f"the header Metadata-Flavor: {FLAVOR} is missing")
        token, *path = [unquote(part) for part in request.rel_url.raw_path.split("/")[1:]]
        pod = self._admit(token)
        if pod is None:
            raise _Refusal(401, "this is not the URL of a pod that may ask here")
        match path:
            case ["acMetadata", "v1", "pod", "hmac", "sign" | "verify" as what]:
                _allow(request, "POST")
                return await self._hmac(request, what, pod)
            case ["acMetadata", "v1", "pod" | "apps" as what, *rest] if _known(what, rest):
                _allow(request, "GET")
                if rest == ["uuid"]:
                    return _text(str(pod.uuid))
                facts = await pod.facts()
                return _pod(facts, rest) if what == "pod" else _app(facts, *rest)
        raise _Refusal(404, "there is nothing here")

    def _means_us(self, request: web.BaseRequest) -> bool:
        given = request.headers.get("Metadata-Flavor")
        if given is not None or self._strict:
            return given == FLAVOR
        return not any(name in request.headers for name in _CARRIED)

    async def _hmac(self, request: web.BaseRequest, what: str, asking: Pod) -> web.Response:
        form = await _form(request)
        content = form.get("content", b"")
        if not content:
            raise _Refusal(400, "the form value content is missing")
        if what == "sign":
            return _text(self._keys.sign(asking.uuid, content))
        try:
            pod = UUID(form.get("uuid", b"").decode("ascii"))
        except ValueError:
            raise _Refusal(400, "the form value uuid is missing, or no UUID") from None
        try:
            signature = base64.b64decode(form.get("signature", b""), validate=True)
        except binascii.Error:
            raise _Refusal(400, "the form value signature is not base64") from None
        if not self._keys.verify(pod, content, signature):
            raise _Refusal(403, "this pod has not signed this")
        return _text("")


def _known(what: str, rest: list[str]) -> bool:
    place = rest if what == "pod" else rest[1:]
    match place:
        case ["annotations"]:
            return True
        case ["annotations", *name]:
            return any(name)
        case ["manifest"] | ["uuid"]:
            return what == "pod"
        case ["image", "manifest" | "id"]:
            return what == "apps"
    return False


def _pod(facts: Facts, place: list[str]) -> web.Response:
    if place[0] == "manifest":
        return _json(facts.manifest)
    return _annotations(facts.pod_annotations(), place[1:])


def _app(facts: Facts, app: str, *place: str) -> web.Response:
    try:
        image = facts.images[app]
        if place[0] == "annotations":
            return _annotations(facts.app_annotations(app), list(place[1:]))
        return _json(image) if place[1] == "manifest" else _text(facts.image_id(app))
    except KeyError:
        raise _Refusal(404, "the pod has no such app") from None


def _annotations(entries: list[dict[str, str]], name: list[str]) -> web.Response:
    if not name:
        return _json(entries)
    for entry in entries:
        if entry["name"] == "/".join(name):
            return _text(entry["value"])
    raise _Refusal(404, "there is no such annotation")


def _allow(request: web.BaseRequest, method: str) -> None:
    if request.method != method:
        raise _Refusal(405, f"only {method} is done here", Allow=method)


async def _form(request: web.BaseRequest) -> dict[str, bytes]:
    """The values of a form as they were sent, byte for byte; of several of one name the first."""
    if request.content_type not in _FORMS:
        raise _Refusal(415, f"expected a form ({' or '.join(_FORMS)})")
    if request.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise _Refusal(415, "Content-Encoding: only identity is read")
    try:
        if request.content_type == _FORMS[0]:
            text = (await request.read()).decode("ascii", "surrogateescape")
            fields = parse_qs(text, keep_blank_values=True, errors="surrogateescape", max_num_fields=PARTS)
            return {name: values[0].encode("utf-8", "surrogateescape") for name, values in fields.items()}
        return await _multipart(request)
    except (ValueError, web.RequestPayloadError) as error:
        raise _Refusal(400, "the form cannot be read") from error


async def _multipart(request: web.BaseRequest) -> dict[str, bytes]:
    """In memory, part by part: aiohttp's own reading of forms opens a file for each."""
    made: dict[str, bytes] = {}
    parts = size = 0
    async for part in await request.multipart():
        parts += 1
        if not isinstance(part, BodyPartReader) or parts > PARTS:
            raise ValueError("nested, or too many parts")
        value = bytearray()
        while piece := await part.read_chunk():
            size += len(piece)
            if size > BODY_LIMIT:
                raise _Refusal(413, f"the request is larger than {BODY_LIMIT} bytes")
            value += piece
        made.setdefault(part.name or "", bytes(value))
    return made


def _text(text: str, status: int = 200) -> web.Response:
    try:
        body, charset = text.encode("ascii"), "us-ascii"
    except UnicodeEncodeError:  # annotations may say anything
        body, charset = text.encode("utf-8", "surrogateescape"), "utf-8"
    return web.Response(body=body, status=status, content_type="text/plain", charset=charset)


def _json(value: Any) -> web.Response:
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=False)
    return web.Response(body=text.encode("utf-8", "surrogateescape"), content_type="application/json")


def _shown(request: web.BaseRequest) -> str:
    """The path without the token."""
    return "/" + request.rel_url.raw_path.partition("/")[2].partition("/")[2]
