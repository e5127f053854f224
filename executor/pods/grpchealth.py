"""The client of grpc.health.v1.Health/Check: one call on one connection.

Over h2 and by hand, because gRPC's own library opens its connections itself, and not in the network of a pod. The
messages are those of health.proto: HealthCheckRequest{1: service}, HealthCheckResponse{1: status}.
"""

import asyncio
import socket
from enum import IntEnum
from typing import Final
from urllib.parse import unquote

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.exceptions

READ_SIZE: Final = 1 << 16
MESSAGE_LIMIT: Final = 1 << 16


class GrpcError(Exception):
    """The call did not succeed."""


class Serving(IntEnum):
    """HealthCheckResponse.ServingStatus."""

    UNKNOWN = 0
    SERVING = 1
    NOT_SERVING = 2
    SERVICE_UNKNOWN = 3


async def ask(connected: socket.socket, authority: str, service: str, timeout: float) -> Serving:
    """The status of a service, "" for the server as a whole. timeout: told to the server. Raises GrpcError, OSError."""
    http = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding="utf-8"))
    http.initiate_connection()
    http.send_headers(
        1,
        [
            (":method", "POST"),
            (":scheme", "http"),
            (":path", "/grpc.health.v1.Health/Check"),
            (":authority", authority),
            ("te", "trailers"),
            ("content-type", "application/grpc"),
            ("user-agent", "kube-probe/1.32"),
            ("grpc-timeout", f"{max(1, int(timeout * 1000))}m"),
        ],
    )
    name = service.encode()
    message = (b"\x0a" + _varint(len(name)) + name) if name else b""
    http.send_data(1, b"\0" + len(message).to_bytes(4, "big") + message, end_stream=True)
    try:
        headers, body = await _answer(connected, http)
    except (h2.exceptions.ProtocolError, UnicodeDecodeError) as error:
        raise GrpcError(f"not HTTP/2: {error}") from None
    if headers.get(":status") != "200":
        raise GrpcError(f"HTTP status {headers.get(':status')}")
    code = headers.get("grpc-status", "2")
    if code != "0":
        raise GrpcError(f"rpc error: code = {code} desc = {unquote(headers.get('grpc-message', ''))}")
    return _status(body)


async def _answer(
    connected: socket.socket, http: h2.connection.H2Connection
) -> tuple[dict[str, str], bytearray]:
    loop = asyncio.get_running_loop()
    headers: dict[str, str] = {}
    body = bytearray()
    while True:
        await loop.sock_sendall(connected, http.data_to_send())
        data = await loop.sock_recv(connected, READ_SIZE)
        if not data:
            raise GrpcError("the connection was closed")
        for event in http.receive_data(data):
            if isinstance(event, h2.events.ResponseReceived | h2.events.TrailersReceived):
                headers.update((str(key), str(value)) for key, value in event.headers or ())
            elif isinstance(event, h2.events.DataReceived):
                body += event.data or b""
                http.acknowledge_received_data(event.flow_controlled_length or 0, 1)
                if len(body) > MESSAGE_LIMIT:
                    raise GrpcError("the answer is too long")
            elif isinstance(event, h2.events.StreamReset | h2.events.ConnectionTerminated):
                raise GrpcError(f"the call was ended with {event.error_code!r}")
            elif isinstance(event, h2.events.StreamEnded):
                return headers, body


def _varint(number: int) -> bytes:
    made = bytearray()
    while number > 0x7F:
        made.append(number & 0x7F | 0x80)
        number >>= 7
    made.append(number)
    return bytes(made)


def _status(body: bytearray) -> Serving:
    """Of a length-prefixed message; a field that is not there has its default, 0."""
    if len(body) < 5 or body[0] or len(body) != 5 + int.from_bytes(body[1:5], "big"):
        raise GrpcError("the answer is no gRPC message")
    message = bytes(body[5:])
    if not message:
        return Serving.UNKNOWN
    if message[0] != 0x08 or len(message) != 2 or message[1] not in list(Serving):
        raise GrpcError("the answer is no HealthCheckResponse")
    return Serving(message[1])
