"""SPDY/3.1, the server's side, as far as Kubernetes' clients speak it (SPDY Protocol Draft 3.1; moby/spdystream).

There is no kept library for it, and `kubectl port-forward` speaks it to this day, through a WebSocket. Both sides
ignore windows, as spdystream does: what holds a sender back is the connection. A stream that nobody reads holds all
others up.
"""

import asyncio
import struct
import zlib
from collections.abc import Mapping
from typing import Final, Protocol

SYN_STREAM, SYN_REPLY, RST_STREAM, PING, GOAWAY, HEADERS = 1, 2, 3, 6, 7, 8
FIN: Final = 1
MAX_FRAME: Final = 1 << 20
MAX_STREAMS: Final = 1000
CANCEL: Final = 5

# The dictionary of header blocks (Draft 3, 2.6.10.1): words with their lengths, then text as it is.
_WORDS: Final = (
    "options head post put delete trace accept accept-charset accept-encoding accept-language accept-ranges age allow "
    "authorization cache-control connection content-base content-encoding content-language content-length "
    "content-location content-md5 content-range content-type date etag expect expires from host if-match "
    "if-modified-since if-none-match if-range if-unmodified-since last-modified location max-forwards pragma "
    "proxy-authenticate proxy-authorization range referer retry-after server te trailer transfer-encoding upgrade "
    "user-agent vary via warning www-authenticate method get status 200_OK version HTTP/1.1 url public set-cookie "
    "keep-alive origin"
)
_TEXT: Final = (
    "100101201202205206300302303304305306307402405406407408409410411412413414415416417502504505"
    "203 Non-Authoritative Information204 No Content301 Moved Permanently400 Bad Request401 Unauthorized403 Forbidden"
    "404 Not Found500 Internal Server Error501 Not Implemented503 Service UnavailableJan Feb Mar Apr May Jun Jul Aug "
    "Sept Oct Nov Dec 00:00:00 Mon, Tue, Wed, Thu, Fri, Sat, Sun, GMTchunked,text/html,image/png,image/jpg,image/gif,"
    "application/xml,application/xhtml+xml,text/plain,text/javascript,publicprivatemax-age=gzip,deflate,sdch"
    "charset=utf-8charset=iso-8859-1,utf-,*,enq=0."
)


def _counted(text: bytes) -> bytes:
    return struct.pack(">I", len(text)) + text


DICTIONARY: Final = b"".join(_counted(w.replace("_", " ").encode()) for w in _WORDS.split()) + _TEXT.encode()


class SpdyError(Exception):
    """The other side breaks the protocol."""


class Carrier(Protocol):
    """What the frames travel on. receive: b"" at the end. Raises OSError when the other side is gone."""

    async def receive(self) -> bytes: ...
    async def send(self, data: bytes) -> None: ...


class Stream:
    """One stream; the other side opened it. headers: with names in lower case. closed: by us."""

    def __init__(self, connection: "Connection", number: int, headers: Mapping[str, str]) -> None:
        self._connection = connection
        self._blocks: asyncio.Queue[bytes] = asyncio.Queue(8)
        self._ended = False
        self._dropped = False
        self.closed = False
        self.number = number
        self.headers = headers

    async def read(self) -> bytes:
        """The next bytes; b"" at the end, again and again."""
        if self._ended:
            return b""
        data = await self._blocks.get()
        self._ended = not data
        return data

    async def feed(self, data: bytes) -> None:
        """From the connection; b"" for the end."""
        if not self._dropped:
            await self._blocks.put(data)

    def drop(self) -> None:
        """Nobody reads any more, or nothing will come any more: this is the end, and what comes is thrown away."""
        self._dropped = True
        while not self._blocks.empty():
            self._blocks.get_nowait()
        self._blocks.put_nowait(b"")

    async def write(self, data: bytes) -> None:
        if data and not self.closed:
            await self._connection.send_data(self.number, data)

    async def close(self) -> None:
        """Nothing more from our side."""
        if not self.closed:
            self.closed = True
            await self._connection.send_data(self.number, b"", FIN)


class Connection:
    """Reads frames with `run`; new streams are in `opened`, None when there will be no more."""

    def __init__(self, carrier: Carrier) -> None:
        self._carrier = carrier
        self._inflate = zlib.decompressobj(zdict=DICTIONARY)
        self._deflate = zlib.compressobj(zdict=DICTIONARY)
        self._buffer = bytearray()
        self._streams: dict[int, Stream] = {}
        self._sending = asyncio.Lock()
        self.opened: asyncio.Queue[Stream | None] = asyncio.Queue()

    async def run(self) -> None:
        """Until the other side has gone. Raises SpdyError."""
        try:
            while data := await self._carrier.receive():
                self._buffer += data
                while (frame := self._take()) is not None:
                    await self._handle(*frame)
        except OSError:
            pass
        finally:
            self.opened.put_nowait(None)
            for stream in self._streams.values():
                stream.drop()

    def _take(self) -> tuple[int, int, bytes] | None:
        """The next whole frame: its first word, its flags, what it carries."""
        if len(self._buffer) < 8:
            return None
        first, second = struct.unpack_from(">II", self._buffer)
        length = second & 0xFFFFFF
        if length > MAX_FRAME:
            raise SpdyError(f"a frame of {length} bytes")
        if len(self._buffer) < 8 + length:
            return None
        body = bytes(self._buffer[8 : 8 + length])
        del self._buffer[: 8 + length]
        return first, second >> 24, body

    async def _handle(self, first: int, flags: int, body: bytes) -> None:
        if not first & 0x80000000:
            stream = self._streams.get(first)
            if stream is not None:
                if body:
                    await stream.feed(body)
                if flags & FIN:
                    await stream.feed(b"")
            return
        if first >> 16 != 0x8003:
            raise SpdyError(f"version {first >> 16 & 0x7FFF} of SPDY")
        kind = first & 0xFFFF
        if kind == SYN_STREAM:
            await self._open(flags, body)
        elif kind == PING:
            await self._control(PING, body)
        elif kind == RST_STREAM and len(body) >= 4:
            stream = self._streams.pop(struct.unpack_from(">I", body)[0], None)
            if stream is not None:
                stream.closed = True
                stream.drop()
        elif kind == HEADERS:
            self._headers(body[4:])  # of no meaning here, but the compression goes on
        # SETTINGS, WINDOW_UPDATE and GOAWAY ask for nothing that is done here.

    async def _open(self, flags: int, body: bytes) -> None:
        if len(body) < 10:
            raise SpdyError("a SYN_STREAM that is too short")
        number = struct.unpack_from(">I", body)[0] & 0x7FFFFFFF
        headers = self._headers(body[10:])
        if number in self._streams or len(self._streams) >= MAX_STREAMS:
            await self._control(RST_STREAM, struct.pack(">II", number, 3))
            return
        stream = self._streams[number] = Stream(self, number, headers)
        block = self._deflate.compress(struct.pack(">I", 0)) + self._deflate.flush(zlib.Z_SYNC_FLUSH)
        await self._control(SYN_REPLY, struct.pack(">I", number) + block)
        if flags & FIN:
            await stream.feed(b"")
        self.opened.put_nowait(stream)

    def _headers(self, block: bytes) -> dict[str, str]:
        try:
            data = self._inflate.decompress(block, MAX_FRAME)
            (count,) = struct.unpack_from(">I", data)
            place, words = 4, []
            for _ in range(2 * count):
                (length,) = struct.unpack_from(">I", data, place)
                words.append(data[place + 4 : place + 4 + length].decode())
                place += 4 + length
        except (zlib.error, struct.error, UnicodeDecodeError) as error:
            raise SpdyError(f"headers: {error}") from None
        return dict(zip((w.lower() for w in words[::2]), words[1::2], strict=True))

    async def _control(self, kind: int, body: bytes) -> None:
        await self._send(struct.pack(">II", 0x80030000 | kind, len(body)) + body)

    async def send_data(self, number: int, data: bytes, flags: int = 0) -> None:
        await self._send(struct.pack(">II", number, flags << 24 | len(data)) + data)

    async def _send(self, frame: bytes) -> None:
        async with self._sending:
            await self._carrier.send(frame)

    def forget(self, stream: Stream) -> None:
        """Both sides are done with it."""
        stream.drop()
        self._streams.pop(stream.number, None)
