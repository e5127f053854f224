"""What probes and lifecycle hooks do: run a command in the app, ask over HTTP or gRPC, connect, wait.

As the kubelet's pkg/probe and pkg/kubelet/lifecycle. Connections are made from within the pod's network (`netns`), to
the pod's address unless the handler names a host; a pod without an address is reached at 127.0.0.1.
"""

import asyncio
import os
import signal
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import aiohttp
from yarl import URL

from executor.pods import netns
from executor.pods.core.events import Answer
from executor.pods.grpchealth import GrpcError, Serving, ask
from executor.pods.launcher import LaunchError
from executor.pods.ports import Sandbox

OUTPUT_LIMIT: Final = 10 * 1024
REASON_LIMIT: Final = 200
REDIRECTS: Final = 10
VERSION: Final = "1.32"


class HookError(Exception):
    """A hook failed; the message says how."""


@dataclass(frozen=True)
class Place:
    """A running app, and where its pod is reached."""

    sandbox: Sandbox
    app: str
    container: Mapping[str, Any]
    pod_ip: str

    @property
    def host(self) -> str:
        return self.pod_ip or "127.0.0.1"

    def port(self, value: int | str) -> int:
        """A number, or the name of one of the container's ports. Raises ValueError."""
        if isinstance(value, int) or value.isdecimal():
            return int(value)
        for port in self.container.get("ports") or ():
            if port.get("name") == value:
                return int(port["containerPort"])
        raise ValueError(f"the container has no port named {value!r}")


async def probe(place: Place, asked: Mapping[str, Any]) -> tuple[Answer, str]:
    """The answer to a v1 Probe, within its timeout; see `Probed` for the message."""
    timeout = float(asked.get("timeoutSeconds") or 1)
    try:
        if "exec" in asked:
            return await _probe_exec(place, asked["exec"].get("command") or [], timeout)
        if "httpGet" in asked:
            return await _probe_http(place, asked["httpGet"], timeout)
        if "tcpSocket" in asked:
            return await _probe_tcp(place, asked["tcpSocket"], timeout)
        if "grpc" in asked:
            return await _probe_grpc(place, asked["grpc"], timeout)
    except ValueError as error:
        return Answer.UNKNOWN, str(error)
    return Answer.UNKNOWN, "the probe has no handler"


async def hook(place: Place, handler: Mapping[str, Any]) -> None:
    """Run a v1 LifecycleHandler; how long is the caller's matter. Raises HookError."""
    try:
        if "exec" in handler:
            code, _ = await _run(place, handler["exec"].get("command") or [])
            if code != 0:
                raise HookError(f"command exited with {code}")
        elif "httpGet" in handler:
            await _get(place, handler["httpGet"], f"kube-lifecycle/{VERSION}", 0)
        elif "sleep" in handler:
            await asyncio.sleep(handler["sleep"]["seconds"])
        else:
            raise HookError("there is nothing to run: exec, httpGet and sleep are supported")
    except (LaunchError, ValueError, OSError, aiohttp.ClientError) as error:
        raise HookError(why(error)) from None


# --- exec ------------------------------------------------------------------------------------------------------------


async def _probe_exec(place: Place, command: list[str], timeout: float) -> tuple[Answer, str]:
    try:
        async with asyncio.timeout(timeout):
            code, output = await _run(place, command)
    except TimeoutError:
        return Answer.FAILURE, f'command timed out: "{" ".join(command)}" timed out after {timeout:g}s'
    except (LaunchError, OSError) as error:
        return Answer.UNKNOWN, str(error)
    return (Answer.SUCCESS, "") if code == 0 else (Answer.FAILURE, output)


async def _run(place: Place, command: list[str]) -> tuple[int, str]:
    """Exit code (128 + N for a signal), and the beginning of what was written."""
    reading, writing = os.pipe2(os.O_CLOEXEC)
    os.set_blocking(reading, False)
    output = bytearray()
    loop = asyncio.get_running_loop()
    process = None
    try:
        try:
            process = await place.sandbox.exec(place.app, command, streams=(writing, writing))
        finally:
            os.close(writing)
        loop.add_reader(reading, _read, reading, output)
        code, signum = await asyncio.shield(process.ended)
        _read(reading, output)
    finally:
        loop.remove_reader(reading)
        os.close(reading)
        if process is not None and not process.ended.done():
            await process.signal(signal.SIGKILL)
    text = output.decode(errors="replace").strip()
    return (code if code is not None else 128 + (signum or signal.SIGKILL)), text


def _read(fd: int, output: bytearray) -> None:
    """What there is, without waiting; what is too much is read and dropped, so that nobody waits for us."""
    try:
        data = os.read(fd, 1 << 16)
    except BlockingIOError:
        return
    output += data[: OUTPUT_LIMIT - len(output)]
    if not data:
        asyncio.get_running_loop().remove_reader(fd)


# --- network ---------------------------------------------------------------------------------------------------------


async def _probe_http(place: Place, asked: Mapping[str, Any], timeout: float) -> tuple[Answer, str]:
    try:
        async with asyncio.timeout(timeout):
            status, elsewhere = await _get(place, asked, f"kube-probe/{VERSION}", REDIRECTS)
    except TimeoutError:
        url = _url(place, asked)
        return Answer.FAILURE, f'Get "{url}": context deadline exceeded (no answer within {timeout:g}s)'
    except (OSError, aiohttp.ClientError) as error:
        return Answer.FAILURE, f'Get "{_url(place, asked)}": {why(error)}'
    if elsewhere:
        return Answer.SUCCESS, f"Probe terminated redirects, Response body: redirect to {elsewhere}"
    if 200 <= status < 400:
        return Answer.SUCCESS, ""
    return Answer.FAILURE, f"HTTP probe failed with statuscode: {status}"


def _url(place: Place, asked: Mapping[str, Any]) -> URL:
    host, path = asked.get("host") or place.host, asked.get("path") or "/"
    host = f"[{host}]" if ":" in host else host
    scheme = str(asked.get("scheme") or "HTTP").lower()
    return URL(f"{scheme}://{host}:{place.port(asked['port'])}{path if path.startswith('/') else '/' + path}")


async def _get(place: Place, asked: Mapping[str, Any], agent: str, redirects: int) -> tuple[int, str]:
    """The status, and where it is redirected to, if that is another host. Certificates are not looked at."""
    url = _url(place, asked)
    headers: list[tuple[str, str]] = [(h["name"], h.get("value", "")) for h in asked.get("httpHeaders") or ()]
    given = {name.lower() for name, _ in headers}
    headers += [(n, v) for n, v in (("User-Agent", agent), ("Accept", "*/*")) if n.lower() not in given]
    for _ in range(redirects + 1):
        status, target = await _get_once(place, url, headers)
        if not redirects or status not in {301, 302, 303, 307, 308} or not target:
            return status, ""
        before = url
        try:
            url = url.join(URL(target))
        except ValueError as error:
            raise OSError(f"failed to parse Location header {target!r}: {error}") from None
        if url.host != before.host:
            return status, str(url)
    raise OSError(f"stopped after {redirects} redirects")


class _Ready(socket.socket):
    """A socket that is connected, for aiohttp, which would connect those it is given."""

    def connect(self, _: object) -> None:
        """Nothing is left to do."""


async def _get_once(place: Place, url: URL, headers: list[tuple[str, str]]) -> tuple[int, str]:
    """The status, and where it says that it is instead."""
    made = await netns.connect(place.sandbox, url.host or "", url.port or 0)
    ready = _Ready(fileno=made.detach())
    connector = aiohttp.TCPConnector(ssl=False, force_close=True, socket_factory=lambda _: ready)
    patience = aiohttp.ClientTimeout(total=None)
    try:
        async with (
            aiohttp.ClientSession(connector=connector, timeout=patience) as session,
            session.get(url, headers=headers, allow_redirects=False) as answer,
        ):
            return answer.status, answer.headers.get("Location", "")
    finally:
        ready.close()


async def _probe_tcp(place: Place, asked: Mapping[str, Any], timeout: float) -> tuple[Answer, str]:
    host, port = asked.get("host") or place.host, place.port(asked["port"])
    try:
        async with asyncio.timeout(timeout):
            (await netns.connect(place.sandbox, host, port)).close()
    except TimeoutError:
        return Answer.FAILURE, f"dial tcp {host}:{port}: i/o timeout"
    except OSError as error:
        return Answer.FAILURE, f"dial tcp {host}:{port}: {why(error)}"
    return Answer.SUCCESS, ""


async def _probe_grpc(place: Place, asked: Mapping[str, Any], timeout: float) -> tuple[Answer, str]:
    port, service = place.port(asked["port"]), asked.get("service") or ""
    try:
        async with asyncio.timeout(timeout):
            with await netns.connect(place.sandbox, place.host, port) as connected:
                serving = await ask(connected, f"{place.host}:{port}", service, timeout)
    except TimeoutError:
        return Answer.FAILURE, f'timeout: failed to connect service "{place.host}:{port}" within {timeout:g}s'
    except OSError as error:
        return Answer.FAILURE, f'error: failed to connect service "{place.host}:{port}": {why(error)}'
    except GrpcError as error:
        return Answer.FAILURE, f"error: health rpc failed: {error}"
    if serving is Serving.SERVING:
        return Answer.SUCCESS, ""
    return Answer.FAILURE, f"service unhealthy (responded with {serving.name!r})"


def why(error: Exception) -> str:
    """What went wrong with a connection, in the words of Go, where there are some. A short line, whatever was sent."""
    inner = getattr(error, "os_error", error)
    number = getattr(inner, "errno", None)
    if isinstance(inner, OSError) and number and number > 0:
        return f"connect: {os.strerror(number).lower()}"
    return " ".join(str(inner).split())[:REASON_LIMIT] or type(error).__name__
