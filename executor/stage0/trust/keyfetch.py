"""Getting public keys from where they are published: files, addresses, the pages of a name (appc discovery).

What comes is not trusted yet: `manage` reads it, and people look at it.
"""

import asyncio
import re
from collections.abc import Sequence

from yarl import URL

from executor.stage0 import discovery, web
from executor.stage0.errors import ImageBroken, ImageNotFound, ImageRefused, InvalidImageName
from executor.stage0.settings import Settings
from executor.stage0.trust import manage
from executor.stage0.trust.keystore import MAX_KEY
from executor.stage0.web import Web

_ADDRESS = re.compile(r"https?://", re.IGNORECASE)


def fetch(prefix: str, places: Sequence[str], settings: Settings) -> list[tuple[str, list[manage.PublicKey]]]:
    """(where from, keys) of files and addresses; of what the prefix's own pages name when there are none."""
    return asyncio.run(_fetch(prefix, places, settings))


async def _fetch(
    prefix: str, places: Sequence[str], settings: Settings
) -> list[tuple[str, list[manage.PublicKey]]]:
    http = Web(settings, settings.login)
    try:
        if not places:
            places = [str(url) for url in await discovery.keys(http, prefix)]
        found = []
        for place in places:
            data = await _download(http, place) if _ADDRESS.match(place) else _read(place)
            found.append((place, await asyncio.to_thread(manage.read, data, place)))
        return found
    finally:
        await http.close()


async def _download(http: Web, place: str) -> bytes:
    try:
        url = URL(place)
    except ValueError:
        raise InvalidImageName(f"{place[:200]}: not an address") from None
    if url.scheme != "https" and not http.may_be_plain(url):
        raise ImageRefused(f"{place}: keys are not taken over plain HTTP; use https or a file")

    async def attempt() -> bytes:
        answer = await http.follow("GET", url, {})
        try:
            if answer.status != 200:
                web.refuse(answer, place)
            return await web.body(answer, MAX_KEY, place)
        finally:
            answer.close()

    return await web.patiently(attempt)


def _read(place: str) -> bytes:
    try:
        with open(place, "rb") as file:
            data = file.read(MAX_KEY + 1)
    except OSError as error:
        raise ImageNotFound(f"{place}: {error.strerror}") from None
    if len(data) > MAX_KEY:
        raise ImageBroken(f"{place}: longer than {MAX_KEY} bytes")
    return data
