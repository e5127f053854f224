"""kazoo's client as we want it: our TLS, a patient reconnect, no detours between its threads.

Why not as it comes: kazoo trusts the system's CAs beside the one that is given; over TLS it sleeps on answers that are
decrypted already; and it hands every answer to a second thread before anybody hears of it.
"""

from __future__ import annotations

import logging
import select
import socket
import ssl
from typing import Any

from kazoo.client import KazooClient
from kazoo.handlers.threading import AsyncResult, SequentialThreadingHandler
from kazoo.protocol.serialization import Auth
from kazoo.retry import KazooRetry

from shared.security.tls import explain
from shared.zookeeper.settings import ZooKeeperSettings

FIRST_DELAY, MAX_DELAY = 0.05, 2.0
"""Seconds between tries to connect."""

CONNECT_TIMEOUT = 5.0


class HideAuth(logging.Filter):
    """kazoo writes every request into its debug log, the password included."""

    def filter(self, record: logging.LogRecord) -> bool:
        if isinstance(record.args, tuple):
            record.args = tuple("Auth(…)" if isinstance(one, Auth) else one for one in record.args)
        return True


kazoo_logger = logging.getLogger("kazoo.gantry")
"""What kazoo says of our sessions. They tell what matters themselves, once (see `session`)."""
kazoo_logger.addFilter(HideAuth())
kazoo_logger.setLevel(logging.CRITICAL)


class _Result(AsyncResult):  # type: ignore[misc]
    """Calls back at once, in kazoo's connection thread: ours only wake a loop."""

    def _do_callbacks(self) -> None:
        for callback in self._callbacks:
            callback(self)


class _Handler(SequentialThreadingHandler):  # type: ignore[misc]
    """`trouble`: why the last connection could not be made, or ""."""

    def __init__(self, tls: ssl.SSLContext | None) -> None:
        super().__init__()
        self._tls = tls
        self.trouble = ""

    def async_result(self) -> _Result:
        return _Result(self)

    def dispatch_callback(self, callback: Any) -> None:
        """Watches, in the order in which they and the answers arrived."""
        callback.func(*callback.args)

    def create_connection(self, *, address: Any, hostname: str, timeout: float, **_: Any) -> socket.socket:
        try:
            made = socket.create_connection(address, min(timeout, CONNECT_TIMEOUT))
        except OSError as error:
            self.trouble = error.strerror or str(error)
            raise
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self._tls is not None:
            made = self._secure(made, hostname)
        self.trouble = ""
        return made

    def _secure(self, plain: socket.socket, hostname: str) -> socket.socket:
        assert self._tls is not None
        try:
            return self._tls.wrap_socket(plain, server_hostname=hostname.strip("[]"))
        except ssl.SSLError as error:
            self.trouble = explain(error)
            plain.close()
            raise
        except OSError as error:
            self.trouble = f"the TLS handshake failed: {error.strerror or error}"
            plain.close()
            raise

    def select(
        self, reading: list[Any], writing: list[Any], _: list[Any], timeout: float | None = None
    ) -> tuple[list[Any], list[Any], list[Any]]:
        decrypted = [one for one in reading if isinstance(one, ssl.SSLSocket) and one.pending()]
        poll = select.poll()
        try:
            for one in reading:
                poll.register(one, select.POLLIN)
            for one in writing:
                poll.register(one, select.POLLOUT)
            wait = 0 if decrypted else None if timeout is None else max(0.0, timeout) * 1000
            ready = dict(poll.poll(wait))
        except ValueError as error:
            raise OSError("the socket is closed") from error
        return (
            [one for one in reading if one in decrypted or one.fileno() in ready],
            [one for one in writing if one.fileno() in ready],
            [],
        )


class Client(KazooClient):  # type: ignore[misc]
    """Not started. `client_id`: id and password of a session to go on with."""

    def __init__(self, settings: ZooKeeperSettings, client_id: tuple[int, bytes] | None = None) -> None:
        handler = _Handler(settings.tls)
        retry = KazooRetry(
            max_tries=-1,
            delay=FIRST_DELAY,
            max_delay=MAX_DELAY,
            max_jitter=0.2,
            sleep_func=handler.sleep_func,
        )
        sasl = settings.sasl
        super().__init__(
            settings.location.hosts,
            timeout=settings.session_timeout,
            client_id=client_id,
            handler=handler,
            default_acl=settings.acl,
            auth_data={("digest", settings.digest)} if settings.digest else set(),
            sasl_options=sasl
            and {"mechanism": "DIGEST-MD5", "username": sasl.user, "password": sasl.password},
            connection_retry=retry,
            logger=kazoo_logger,
        )

    @property
    def trouble(self) -> str:
        """Why the last connection could not be made, or ""."""
        return str(self.handler.trouble)
