"""RecordIO, the framing of Mesos' event streams: the length in decimal, a newline, the record.

Not a reader of sockets: bytes go in as they come, whole records come out. A record has nothing to do with
an HTTP chunk (one may be split over many, many may share one). The decoder touches every byte a constant
number of times, so a large OFFERS event costs what its size costs.

Source: Mesos docs/recordio.md, 3rdparty/stout/include/stout/recordio.hpp.
"""

# An OFFERS event of 10,000 agents is some 20 MB.
MAX_RECORD = 256 * 1024 * 1024


class RecordIOError(ValueError):
    """The stream is not RecordIO, or a record is longer than allowed; nothing after it can be trusted."""


def encode(record: bytes) -> bytes:
    """One record, framed."""
    return b"%d\n%b" % (len(record), record)


class Decoder:
    """Bytes in, records out. After a `RecordIOError` the decoder is of no more use."""

    def __init__(self, max_record: int = MAX_RECORD) -> None:
        self._max_record = max_record
        self._max_header = 20  # digits of 2**64
        self._buffer = bytearray()
        self._length: int | None = None  # of the record that is being read; None: in the header

    @property
    def pending(self) -> int:
        """Bytes of an unfinished header or record held back."""
        return len(self._buffer)

    def feed(self, chunk: bytes) -> list[bytes]:
        """Take `chunk` in and return the records it completes, in order."""
        buffer = self._buffer
        buffer += chunk
        records: list[bytes] = []
        at = 0
        while True:
            if self._length is None:
                newline = buffer.find(b"\n", at, at + self._max_header + 1)
                if newline < 0:
                    self._check_header(bytes(buffer[at : at + self._max_header + 1]))
                    break
                self._length = self._parse_header(bytes(buffer[at:newline]))
                at = newline + 1
            if len(buffer) - at < self._length:
                break
            records.append(bytes(buffer[at : at + self._length]))
            at += self._length
            self._length = None
        if at:
            del buffer[:at]  # a bytearray drops its front without copying the rest
        return records

    def _check_header(self, header: bytes) -> None:
        if (header and not header.isdigit()) or len(header) > self._max_header:
            raise RecordIOError(f"not a RecordIO header: {header[:32]!r}")

    def _parse_header(self, header: bytes) -> int:
        if not header.isdigit():
            raise RecordIOError(f"not a RecordIO header: {header[:32]!r}")
        length = int(header)
        if length > self._max_record:
            raise RecordIOError(f"a record of {length} bytes is longer than the limit of {self._max_record}")
        return length
