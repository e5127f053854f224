"""One subscription to a master or an agent: its event stream, and one ordered connection for calls.

Both drivers live on it. It ends once, for one reason, and is never opened again: what reconnects is the
driver. As in libmesos, losing unanswered calls ends the subscription, because nobody knows which of them
arrived; a call connection that the peer closed while idle is only opened again.

Sources: Mesos src/scheduler/scheduler.cpp (one subscribe connection, one pipelined connection),
src/master/http.cpp (what SUBSCRIBE is answered), docs/scheduler-http-api.md.
"""

import asyncio
import logging
import ssl
from collections import deque
from collections.abc import Callable
from typing import Any

import orjson

from shared.mesos.handover import Handover
from shared.mesos.http import Endpoint, Head, HttpConnection, Reply
from shared.mesos.recordio import Decoder, RecordIOError

logger = logging.getLogger(__name__)

MISSED_HEARTBEATS = 5


class NotConnected(RuntimeError):
    """A call was made while not subscribed. It was not sent; plan again after the next registration."""


class Redirected(Exception):
    """The peer is not the leading master; the leader is said to be at `endpoint`."""

    def __init__(self, endpoint: Endpoint) -> None:
        super().__init__(f"the leader is at {endpoint}")
        self.endpoint = endpoint


class Unavailable(Exception):
    """SUBSCRIBE was answered with something that may pass: 503, 5xx, 404, a body that is no stream."""


class Refused(Exception):
    """SUBSCRIBE was answered with a 4xx that trying the same again will not change."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(f"HTTP {status}: {text}" if text else f"HTTP {status}")
        self.status = status


def describe(error: Exception) -> str:
    """One line; a TimeoutError has no text of its own."""
    return str(error) or type(error).__name__


class _EventStream:
    """The exchange of SUBSCRIBE: 200 opens the stream, anything else is an answer with a body."""

    def __init__(self, owner: "Subscription") -> None:
        self._owner = owner
        self._decoder = Decoder()
        self._head: Head | None = None
        self._body = b""

    def on_head(self, head: Head) -> None:
        self._head = head
        if head.status == 200:
            self._owner._opened(head, b"")

    def on_body(self, chunk: bytes) -> None:
        assert self._head is not None
        if self._head.status != 200:
            self._body += chunk
            return
        try:
            records = self._decoder.feed(chunk)
        except RecordIOError as error:
            self._owner.close(f"the event stream is broken: {error}")
            return
        self._owner._arrived(records)

    def on_end(self) -> None:
        assert self._head is not None
        if self._head.status == 200:
            self._owner._finished("the event stream ended")
        else:
            self._owner._opened(self._head, self._body)

    def on_lost(self, error: Exception) -> None:
        if self._head is not None and self._head.status != 200:
            self._owner._opened(self._head, self._body)
        else:
            self._owner._finished(describe(error))


class Subscription:
    """`on_event` gets each record, in order (see Handover); `on_refused` a call's body, the status and the text of
    an answer that is not a 2xx."""

    def __init__(
        self,
        endpoint: Endpoint,
        path: str,
        *,
        on_event: Callable[[bytes], None],
        on_refused: Callable[[dict[str, Any], int, str], None],
        tls: ssl.SSLContext | None = None,
        authorization: str | None = None,
    ) -> None:
        self.endpoint = endpoint
        self.closed = False
        self.authorization = authorization  # of what is sent from now on; may be set at any time
        self.ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._path = path
        self._handover = Handover(on_event, self._read)
        self._on_refused = on_refused
        self._tls = tls
        self._stream_id = ""
        self._stream: HttpConnection | None = None
        self._timeout = 0.0
        self._answer: asyncio.Future[tuple[Head, bytes]] = asyncio.get_running_loop().create_future()
        self._calls: HttpConnection | None = None
        # Calls while their connection is being opened.
        self._waiting: deque[tuple[dict[str, Any], bytes]] = deque()
        self._reopening: asyncio.Task[None] | None = None
        self._idle = asyncio.Event()
        self._idle.set()
        self._watchdog: asyncio.TimerHandle | None = None
        self._heard = 0.0

    async def open(self, subscribe: dict[str, Any], timeout: float) -> None:
        """SUBSCRIBE, and return when the stream is open (events may have been delivered by then).

        `timeout` (seconds) is for the answer, and once more for SUBSCRIBED: say so with `established()`.
        Raises Redirected, Unavailable, Refused, or OSError when there is no connection or no answer in time.
        """
        self._timeout = timeout
        async with asyncio.timeout(timeout):
            self._stream = await HttpConnection.open(self.endpoint, tls=self._tls, timeout=timeout)
            self._stream.post(self._path, self._headers(), orjson.dumps(subscribe), _EventStream(self))
            self._reopening = asyncio.ensure_future(self._open_calls())  # while the peer thinks
            await asyncio.wait((self._answer, self.ended), return_when=asyncio.FIRST_COMPLETED)
        if not self._answer.done():
            raise ConnectionError(self.ended.result())
        head, body = self._answer.result()
        if head.status == 200:
            return
        text = body.decode("utf-8", "replace").strip()
        if head.status in (301, 302, 307, 308) and "location" in head.headers:
            try:
                raise Redirected(self.endpoint.redirected(head.headers["location"], self._tls))
            except ValueError as error:
                raise Unavailable(f"a redirect that is not followed: {error}") from error
        if 400 <= head.status < 500 and head.status not in (404, 408, 429):
            raise Refused(head.status, text)
        raise Unavailable(f"HTTP {head.status}: {text}" if text else f"HTTP {head.status}")

    def send(self, call: dict[str, Any]) -> None:
        """Send a call, after all earlier ones, without waiting for their answers. TypeError for what is not
        JSON."""
        if self.closed or not self._answer.done():
            raise NotConnected(f"{call.get('type')} was not sent: not subscribed")
        data = orjson.dumps(call)
        self._idle.clear()
        if self._calls is None or self._calls.closed:
            self._waiting.append((call, data))
            if self._reopening is None:
                self._reopening = asyncio.ensure_future(self._open_calls())
        else:
            self._post(self._calls, call, data)

    async def drain(self) -> None:
        """Wait until every call was answered or the subscription ended."""
        await self._idle.wait()

    def established(self, heartbeats: float | None) -> None:
        """SUBSCRIBED came. With `heartbeats`, their interval in seconds: close when nothing was heard for five."""
        if self._watchdog is not None:
            self._watchdog.cancel()
            self._watchdog = None
        if heartbeats:
            self._watch(MISSED_HEARTBEATS * heartbeats, f"{MISSED_HEARTBEATS} heartbeats")

    def _watch(self, limit: float, what: str) -> None:
        loop = asyncio.get_running_loop()
        self._heard = loop.time()

        def check() -> None:
            if self._handover.holding:
                self._heard = loop.time()  # the silence is ours
            left = self._heard + limit - loop.time()
            if left <= 0:
                self.close(f"nothing heard for {limit:g} s ({what})")
            else:
                self._watchdog = loop.call_later(left, check)

        self._watchdog = loop.call_later(limit, check)

    def close(self, reason: str) -> None:
        """End it, for that reason; only the first one counts."""
        if self.closed:
            return
        self.closed = True
        self._handover.close()
        for connection in (self._stream, self._calls):
            if connection is not None:
                connection.close()
        if self._watchdog is not None:
            self._watchdog.cancel()
        if self._reopening is not None:
            self._reopening.cancel()
        self._idle.set()
        if not self.ended.done():
            self.ended.set_result(reason)

    def pause(self) -> None:
        """Deliver no events until `resume`; reading stops when too much waits. The peer is not given up meanwhile."""
        self._handover.pause()

    def resume(self) -> None:
        """Deliver events again."""
        self._handover.resume()

    def _headers(self) -> str:
        authorization = f"Authorization: {self.authorization}\r\n" if self.authorization else ""
        return authorization + self._stream_id

    # ---- the event stream

    def _opened(self, head: Head, body: bytes) -> None:
        if head.status == 200:
            self._watch(self._timeout, "SUBSCRIBED")
        if not self._answer.done():
            self._answer.set_result((head, body))
        stream_id = head.headers.get("mesos-stream-id")
        if stream_id:
            self._stream_id = f"Mesos-Stream-Id: {stream_id}\r\n"

    def _arrived(self, records: list[bytes]) -> None:
        if not self.closed:
            self._heard = asyncio.get_running_loop().time()
            self._handover.put(records)

    def _finished(self, reason: str) -> None:
        """The peer ended the stream: what came before that is still delivered."""
        if not self.closed:
            self._handover.finish(lambda: self.close(reason))

    def _read(self, on: bool) -> None:
        if self._stream is not None:
            (self._stream.resume_reading if on else self._stream.pause_reading)()

    # ---- the call connection

    def _post(self, connection: HttpConnection, call: dict[str, Any], data: bytes) -> None:
        def done(head: Head, body: bytes) -> None:
            if not 200 <= head.status < 300:
                self._on_refused(call, head.status, body.decode("utf-8", "replace").strip())
            if not connection.pending and not self._waiting:
                self._idle.set()

        def lost(error: Exception) -> None:
            self.close(f"{call.get('type')} may not have arrived: {error}")

        connection.post(self._path, self._headers(), data, Reply(done, lost))

    def _calls_lost(self, error: Exception) -> None:
        # Unanswered calls have closed the subscription by now (`lost` above).
        if not self.closed:
            logger.debug("the idle call connection was closed: %s", error)

    async def _open_calls(self) -> None:
        try:
            connection = await HttpConnection.open(self.endpoint, tls=self._tls)
            connection.on_lost = self._calls_lost
            self._calls = connection
            while self._waiting:
                self._post(connection, *self._waiting.popleft())
        except OSError as error:
            self.close(f"cannot open a connection for calls: {describe(error)}")
        finally:
            self._reopening = None
