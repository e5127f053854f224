"""`HttpParser` as http-parser 0.9 has it, for responses; see the package's docstring."""

from typing import Final

import httptools

__all__ = ["HTTP_BOTH", "HTTP_REQUEST", "HTTP_RESPONSE", "HttpParser"]

HTTP_REQUEST: Final = 0
HTTP_RESPONSE: Final = 1
HTTP_BOTH: Final = 2

# nodejs/http-parser's HPE_UNKNOWN: httptools tells what went wrong in words only.
_HPE_UNKNOWN: Final = 33


class HttpParser:
    """Bytes of one HTTP response in, its status, headers and body out.

    `execute()` returns how many bytes it took: all of them, or fewer when the response is malformed (then
    `get_errno()` is not 0). There is deliberately no attribute `errno`: pymesos takes a parser that has one
    for http-parser's pure Python variant.
    """

    def __init__(self, kind: int = HTTP_BOTH, decompress: bool = False, header_only: bool = False) -> None:
        if kind == HTTP_REQUEST or decompress or header_only:
            raise ValueError("this http_parser parses plain responses only")
        self._parser = httptools.HttpResponseParser(self)
        self._headers: dict[str, str] = {}
        self._body: list[bytes] = []
        self._headers_complete = False
        self._message_begun = False
        self._message_complete = False
        self._failed = False
        self._keep_alive = False

    # ---- httptools' callbacks

    def on_message_begin(self) -> None:
        self._message_begun = True

    def on_header(self, name: bytes, value: bytes) -> None:
        key = name.decode("latin-1").title()
        text = value.decode("latin-1")
        self._headers[key] = f"{self._headers[key]}, {text}" if key in self._headers else text

    def on_headers_complete(self) -> None:
        self._headers_complete = True
        self._keep_alive = bool(self._parser.should_keep_alive())  # forgotten when the message is complete

    def on_body(self, body: bytes) -> None:
        self._body.append(body)

    def on_message_complete(self) -> None:
        self._message_complete = True

    # ---- http-parser's interface

    def execute(self, data: bytes, length: int) -> int:
        """Parse the first `length` bytes of `data`; returns the number of bytes taken."""
        if self._failed:
            return 0
        if length == 0:  # the end of the connection
            return 0
        try:
            self._parser.feed_data(data[:length])
        except httptools.HttpParserUpgrade as upgrade:
            return int(upgrade.args[0])
        except httptools.HttpParserError:
            self._failed = True
            return 0
        return length

    def get_errno(self) -> int:
        """0, or the number of an unknown error after a malformed response."""
        return _HPE_UNKNOWN if self._failed else 0

    def get_version(self) -> tuple[int, int]:
        """(1, 1) for HTTP/1.1."""
        major, _, minor = self._parser.get_http_version().partition(".")
        return int(major), int(minor or 0)

    def get_status_code(self) -> int:
        """The status; 0 before the status line is in."""
        return int(self._parser.get_status_code())

    def get_headers(self) -> dict[str, str]:
        """The headers, names in Title-Case; several of one name are joined by commas."""
        return self._headers

    def recv_body(self) -> bytes:
        """The body received since the last call."""
        body = b"".join(self._body)
        self._body.clear()
        return body

    def is_headers_complete(self) -> bool:
        """Whether all headers are in."""
        return self._headers_complete

    def is_message_begin(self) -> bool:
        """Whether the response has begun."""
        return self._message_begun

    def is_partial_body(self) -> bool:
        """Whether `recv_body()` has something to give."""
        return bool(self._body)

    def is_message_complete(self) -> bool:
        """Whether the response has ended."""
        return self._message_complete

    def is_chunked(self) -> bool:
        """Whether the body comes in chunks."""
        return "chunked" in self._headers.get("Transfer-Encoding", "").lower()

    def should_keep_alive(self) -> bool:
        """Whether the connection can be used again."""
        return self._keep_alive
