import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.mesos.recordio import Decoder, RecordIOError, encode

records = st.lists(st.binary(max_size=200), max_size=12)


def test_a_record_is_its_length_a_newline_and_itself() -> None:
    assert encode(b'{"type":"HEARTBEAT"}') == b'20\n{"type":"HEARTBEAT"}'
    assert encode(b"") == b"0\n"


@given(records, st.integers(1, 40))
def test_records_come_out_however_the_stream_is_cut(items: list[bytes], step: int) -> None:
    stream = b"".join(map(encode, items))
    decoder, seen = Decoder(), []
    for at in range(0, len(stream), step):
        seen += decoder.feed(stream[at : at + step])
    assert seen == items
    assert decoder.pending == 0


def test_many_records_in_one_chunk_and_the_beginning_of_the_next() -> None:
    decoder = Decoder()
    assert decoder.feed(encode(b"one") + encode(b"two") + b"3\nth") == [b"one", b"two"]
    assert decoder.pending == 2
    assert decoder.feed(b"r") == [b"thr"]


@pytest.mark.parametrize("stream", [b"x", b"12x\n", b"\n", b"-1\n", b" 1\na", b"1_0\n", b"9" * 40])
def test_what_is_not_a_header_is_refused(stream: bytes) -> None:
    with pytest.raises(RecordIOError, match="not a RecordIO header"):
        Decoder().feed(stream)


def test_a_record_above_the_limit_is_refused_before_it_is_read() -> None:
    assert Decoder(max_record=99).feed(encode(b"a" * 99)) == [b"a" * 99]
    with pytest.raises(RecordIOError, match="100 bytes is longer than the limit of 99"):
        Decoder(max_record=99).feed(b"100\n")
