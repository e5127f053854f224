"""The way to a TPM: a character device of the kernel, or the socket of a software TPM. Named as tpm2-tools do (TCTI).

    /dev/tpmrm0    device:/dev/tpmrm0    swtpm:host=HOST,port=PORT    swtpm:path=SOCKET

Commands and responses go as they are (TPM 2.0 part 3, 5.2): the header has the size. swtpm serves one client at a time,
/dev/tpm0 too: a connection is for a few commands, not kept.
"""

import errno
import os
import select
import socket
import stat
import struct
import time
from dataclasses import dataclass
from typing import Final, Protocol

from executor.tpm.errors import TpmError

TIMEOUT: Final = 30.0
"""Seconds for one command. The slowest we use makes a key, which takes real TPMs seconds."""
BUSY_SECONDS: Final = 5.0
HEADER: Final = struct.Struct(">HII")
MAX_RESPONSE: Final = 8192
DEFAULT_PORT: Final = 2321


class Connection(Protocol):
    """One command at a time. Raises TpmError."""

    def exchange(self, command: bytes) -> bytes: ...
    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Tcti:
    """Where a TPM is: a device file, a UNIX socket, or host and port; text: as it was given."""

    text: str
    device: str = ""
    path: str = ""
    host: str = ""
    port: int = 0


def parse(text: str) -> Tcti:
    """Raises ValueError, one line."""
    kind, colon, rest = text.partition(":")
    if text.startswith("/"):
        return Tcti(text, device=text)
    if kind == "device" and colon:
        if not rest.startswith("/"):
            raise ValueError(f"--tpm {text!r}: expected device:/dev/tpmrm0")
        return Tcti(text, device=rest)
    if kind != "swtpm":
        raise ValueError(
            f"--tpm {text!r}: expected /dev/tpmrm0, or swtpm:host=HOST,port=PORT, or swtpm:path=SOCKET"
        )
    options: dict[str, str] = {}
    for part in rest.split(",") if rest else ():
        name, equals, value = part.partition("=")
        if name not in {"host", "port", "path"} or not equals or not value or name in options:
            raise ValueError(f"--tpm {text!r}: {part!r} is not host=HOST, port=PORT or path=SOCKET")
        options[name] = value
    if "path" in options:
        if len(options) > 1:
            raise ValueError(f"--tpm {text!r}: path goes with neither host nor port")
        return Tcti(text, path=options["path"])
    port = options.get("port", str(DEFAULT_PORT))
    if not (port.isascii() and port.isdecimal() and 0 < int(port) < 65536):
        raise ValueError(f"--tpm {text!r}: {port!r} is no port")
    return Tcti(text, host=options.get("host", "127.0.0.1"), port=int(port))


def connect(tcti: Tcti) -> Connection:
    """Raises TpmError that names the TPM and says why it cannot be reached."""
    try:
        if tcti.device:
            return _Device(tcti.device)
        return _Socket(tcti)
    except OSError as error:
        hint = ""
        if error.errno in {errno.ENOENT, errno.ENXIO, errno.ENODEV} and tcti.device:
            hint = "; is there a TPM 2.0, and is it enabled in the firmware?"
        raise TpmError(f"no TPM at {tcti.text}: {error.strerror or error}{hint}") from None


class _Device:
    """/dev/tpmrmN or /dev/tpmN: one write is one command (Linux, Documentation/driver-api/tpm)."""

    def __init__(self, path: str) -> None:
        self._path = path
        deadline = time.monotonic() + BUSY_SECONDS
        while True:
            try:
                self._fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOCTTY)
                break
            except OSError as error:
                if error.errno != errno.EBUSY or time.monotonic() > deadline:
                    raise
                time.sleep(0.01)  # /dev/tpm0 is for one at a time
        if not stat.S_ISCHR(os.fstat(self._fd).st_mode):
            self.close()
            raise OSError("it is not a character device")

    def exchange(self, command: bytes) -> bytes:
        try:
            if os.write(self._fd, command) != len(command):
                raise TpmError(f"{self._path}: took only a part of a command")
            return _receive(self._path, self._read)
        except OSError as error:
            raise _broken(self._path, error) from None

    def _read(self, size: int) -> bytes:
        poll = select.poll()
        poll.register(self._fd, select.POLLIN)
        if not poll.poll(TIMEOUT * 1000):
            raise TimeoutError
        return os.read(self._fd, size)

    def close(self) -> None:
        os.close(self._fd)


class _Socket:
    """The data channel of `swtpm socket`. Its control channel is for those who run it."""

    def __init__(self, tcti: Tcti) -> None:
        self._name = tcti.text
        if tcti.path:
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            self._socket.settimeout(TIMEOUT)
            try:
                self._socket.connect(tcti.path)
            except OSError:
                self._socket.close()
                raise
        else:
            self._socket = socket.create_connection((tcti.host, tcti.port), TIMEOUT)
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def exchange(self, command: bytes) -> bytes:
        try:
            self._socket.sendall(command)
            return _receive(self._name, self._socket.recv)
        except OSError as error:
            raise _broken(self._name, error) from None

    def close(self) -> None:
        self._socket.close()


class _Read(Protocol):
    def __call__(self, size: int, /) -> bytes: ...


def _receive(name: str, read: _Read) -> bytes:
    """A whole response; kernels before 4.20 give it only to a read that is large enough for all of it."""
    data = bytearray()
    size = HEADER.size
    while len(data) < size:
        part = read(MAX_RESPONSE)
        if not part:
            raise TpmError(f"{name}: the connection ended in the middle of a response")
        data += part
        if len(data) >= HEADER.size:
            size = HEADER.unpack_from(data)[1]
            if not HEADER.size <= size <= MAX_RESPONSE:
                raise TpmError(f"{name}: a response of {size} bytes; this is no TPM 2.0")
    if len(data) != size:
        raise TpmError(f"{name}: {len(data)} bytes came for a response of {size}; this is no TPM 2.0")
    return bytes(data)


def _broken(name: str, error: OSError) -> TpmError:
    if isinstance(error, TpmError):
        return error
    if isinstance(error, TimeoutError):
        return TpmError(f"{name}: no answer for {TIMEOUT:g} s")
    return TpmError(f"{name}: {error.strerror or error}")
