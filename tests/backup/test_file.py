"""The file: byte for byte, whole or refused."""

import gzip
import json
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.backup.file import BackupError, check, rows, write
from scheduler.backup.transfer import Row, Snapshot
from scheduler.store import Key


def nobody(done, total):
    pass


def save(path, objects, version=7):
    snapshot = Snapshot(iter(objects), len(objects), version, "gantry")
    return write(path, snapshot, created="2026-01-02T03:04:05+00:00", gantry="0", progress=nobody)


names = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
blobs = st.binary(max_size=40) | st.just(b'{"a":[1.5,"\\u00fc"]}') | st.just(b'{"b":\n1}') | st.just(b"null")


@given(st.lists(st.builds(Row, st.builds(Key, names, names, names), st.integers(0, 2**63 - 1), blobs)))
def test_what_goes_in_comes_out(tmp_path_factory, objects):
    path = tmp_path_factory.mktemp("backup") / "file"
    save(path, objects)
    assert check(path, nobody).count == len(objects)
    assert list(rows(path)) == objects


@pytest.fixture
def path(tmp_path):
    save(
        tmp_path / "b",
        [Row(Key("pods", "n", f"p{i}"), i, b'{"x":%d}' % random.randrange(10**9)) for i in range(50)],
    )
    return tmp_path / "b"


def test_it_says_what_it_is(path):
    found = check(path, nobody)
    assert (found.created, found.cluster, found.version, found.count) == (
        "2026-01-02T03:04:05+00:00",
        "gantry",
        7,
        50,
    )
    assert json.loads(gzip.decompress(path.read_bytes()).splitlines()[0])["gantryBackup"] == 1


def test_every_cut_is_noticed(path):
    whole = path.read_bytes()
    for length in range(0, len(whole) - 1, 7):
        path.write_bytes(whole[:length])
        with pytest.raises(BackupError):
            check(path, nobody)


def test_every_change_is_noticed_even_where_gzip_is_content(path):
    lines = gzip.decompress(path.read_bytes()).splitlines(keepends=True)
    for other in (
        lines[:5] + lines[6:],
        [lines[0], lines[2], lines[1], *lines[3:]],
        [*lines[:7], lines[7].replace(b'"x"', b'"y"'), *lines[8:]],
        lines[:-1],
        [lines[0].replace(b'"version":7', b'"version":6'), *lines[1:]],
        [b"[]\n", *lines[1:]],
        [*lines[:3], b"what is this\n", *lines[3:]],
    ):
        path.write_bytes(gzip.compress(b"".join(other)))
        with pytest.raises(BackupError, match="backup"):
            check(path, nobody)


def test_a_newer_format_is_refused(path):
    lines = gzip.decompress(path.read_bytes()).replace(b'"gantryBackup":1', b'"gantryBackup":2')
    path.write_bytes(gzip.compress(lines))
    with pytest.raises(BackupError, match="has format 2, this version of gantry knows up to 1"):
        check(path, nobody)


def test_what_is_no_file_is_not_replaced(tmp_path):
    (tmp_path / "backup").mkdir()
    with pytest.raises(BackupError, match="backup: not a file"):
        write(tmp_path / "backup", Snapshot(iter(()), 0, 1), created="", gantry="", progress=nobody)
    assert (tmp_path / "backup").is_dir()


def test_the_old_file_stays_until_the_new_one_is_whole(path):
    before = path.read_bytes()

    def breaks():
        yield Row(Key("pods", "n", "p"), 1, b"{}")
        raise OSError(28, "No space left on device")

    with pytest.raises(BackupError, match="cannot be written: No space left on device"):
        write(path, Snapshot(breaks(), 2, 1), created="", gantry="", progress=nobody)
    assert path.read_bytes() == before
    assert [one.name for one in path.parent.iterdir()] == [path.name]
