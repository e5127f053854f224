"""The http_parser drop-in, as pymesos drives it."""

import pytest
from http_parser.http import HTTP_REQUEST, HttpParser

RESPONSE = (
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nmesos-stream-id: abc\r\nX-A: 1\r\nX-A: 2\r\n\r\n"
    b'3\r\n20\n\r\n5\r\n{"typ\r\n0\r\n\r\n'
)


def test_a_chunked_response_byte_by_byte() -> None:
    parser, body = HttpParser(), b""
    for at in range(len(RESPONSE)):
        assert parser.execute(RESPONSE[at : at + 1], 1) == 1
        if parser.is_partial_body():
            body += parser.recv_body()
    assert parser.get_status_code() == 200
    assert parser.get_version() == (1, 1)
    assert parser.get_headers() == {"Transfer-Encoding": "chunked", "Mesos-Stream-Id": "abc", "X-A": "1, 2"}
    assert parser.is_chunked()
    assert parser.is_message_begin()
    assert parser.is_message_complete()
    assert body == b'20\n{"typ'
    assert parser.recv_body() == b""
    assert parser.get_errno() == 0


def test_headers_are_known_before_the_body() -> None:
    parser = HttpParser()
    head = b"HTTP/1.1 307 Temporary Redirect\r\nLocation: //127.0.0.1:5050/x\r\nContent-Length: 4\r\n\r\n"
    assert not parser.is_headers_complete()
    assert parser.execute(head, len(head)) == len(head)
    assert parser.is_headers_complete()
    assert not parser.is_chunked()
    assert not parser.is_message_complete()
    assert parser.get_headers()["Location"] == "//127.0.0.1:5050/x"
    assert parser.execute(b"bodyrest", 4) == 4
    assert parser.recv_body() == b"body"
    assert parser.is_message_complete()
    assert parser.should_keep_alive()


def test_what_is_not_http_is_told_by_count_and_number() -> None:
    parser = HttpParser()
    assert parser.execute(b"SSH-2.0-OpenSSH\r\n", 17) < 17
    assert parser.get_errno() != 0
    assert not hasattr(parser, "errno")


def test_requests_are_refused() -> None:
    with pytest.raises(ValueError, match="responses only"):
        HttpParser(HTTP_REQUEST)
