"""`fetch` that was killed: the next one goes on, if the server can tell that it still has the same."""

import hashlib
import http.server
import os
import threading
from email.utils import formatdate
from pathlib import Path

import pytest

from executor.stage0 import acmanifest, build, partial

HALF = 300_000
pytestmark = pytest.mark.root


class _Handler(http.server.BaseHTTPRequestHandler):
    """Serves `content`, and of it only HALF as long as nobody says `go on`."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        server = self.server
        wanted = self.headers.get("Range", "")
        server.seen.append((wanted, self.headers.get("If-Range", "")))
        headers, content = dict(server.headers), server.content
        start = 0
        if wanted and server.ranges and self.headers["If-Range"] in headers.values():
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
        if {self.headers["If-None-Match"], self.headers["If-Modified-Since"]} & set(headers.values()):
            self.send_response(304)
            self.end_headers()
            return
        if start >= len(content):
            self.send_response(416)
            headers |= {"Content-Range": f"bytes */{len(content)}", "Content-Length": "0"}
        elif start:
            self.send_response(206)
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        else:
            self.send_response(200)
        for name, value in headers.items():
            self.send_header(name, value)
        if start < len(content):
            self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        upto = len(content) if server.whole.is_set() else HALF
        self.wfile.write(content[start:upto])
        self.wfile.flush()
        if upto < len(content):
            server.halfway.set()
            server.whole.wait(60)
            self.close_connection = True

    def log_message(self, *_):
        pass


@pytest.fixture
def server(images, tmp_path):
    """Of one ACI, of more than HALF bytes."""
    root = tmp_path / "root"
    root.mkdir()
    (root / "noise").write_bytes(os.urandom(2 * HALF))
    options = build.Options(entrypoint=("/noise",), compression="none")
    manifest = acmanifest.manifest_for("example.com/noise", options)
    build.build_aci(root, tmp_path / "noise.aci", manifest, options, "none")
    made = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    made.daemon_threads = True
    made.content = (tmp_path / "noise.aci").read_bytes()
    made.headers, made.ranges, made.seen = {"ETag": '"one"'}, True, []
    made.halfway, made.whole = threading.Event(), threading.Event()
    made.url = f"http://127.0.0.1:{made.server_port}/noise.aci"
    thread = threading.Thread(target=made.serve_forever, args=(0.05,))
    thread.start()
    yield made
    made.whole.set()
    made.shutdown()
    made.server_close()
    thread.join()


def kept(rkt):
    return [path for path in (rkt.data / "store/partial").iterdir() if not path.suffix]


def kill_halfway(rkt, server, eventually):
    """A fetch that is killed when some of what the server has sent is there; how much."""
    process = rkt.start("fetch", server.url)
    assert server.halfway.wait(60), process.communicate()
    eventually(lambda: kept(rkt) and kept(rkt)[0].stat().st_size == HALF)
    process.kill()
    process.wait(60)
    server.whole.set()
    return HALF


@pytest.fixture
def eventually():
    """Until what another process does is seen."""
    pause = threading.Event()

    def wait(condition):
        for _ in range(6000):
            if condition():
                return
            pause.wait(0.01)
        raise AssertionError

    return wait


def fetched(rkt, server):
    image = rkt.good("fetch", "--full", server.url).out.strip()
    assert image == f"sha512-{hashlib.sha512(server.content).hexdigest()}"
    assert list((rkt.data / "store/partial").iterdir()) == []


@pytest.mark.parametrize(
    "headers",
    [
        {"ETag": '"one"', "Cache-Control": "max-age=100"},
        {"Last-Modified": formatdate(10**9, usegmt=True), "Date": formatdate(usegmt=True)},
    ],
    ids=["etag", "time"],
)
def test_the_next_one_goes_on(rkt, server, eventually, headers):
    server.headers = headers
    size = kill_halfway(rkt, server, eventually)
    fetched(rkt, server)
    assert server.seen == [("", ""), (f"bytes={size}-", next(iter(headers.values())))]
    server.seen.clear()
    fetched(rkt, server)  # with what the answer to the range said of caching
    assert len(server.seen) == (0 if "Cache-Control" in headers else 1)


def test_what_was_complete_is_not_asked_for_twice(rkt, server, eventually):
    kill_halfway(rkt, server, eventually)
    with kept(rkt)[0].open("ab") as file:
        file.write(server.content[HALF:])
    fetched(rkt, server)
    assert len(server.seen) == 2


@pytest.mark.parametrize("how", ["changed", "no-ranges", "weak", "new", "shorter", "another-boot"])
def test_or_from_the_beginning(rkt, server, eventually, how):
    """Where nobody can tell that it is the same, or it is not."""
    if how == "weak":
        server.headers = {"ETag": 'W/"one"'}
    elif how == "new":  # it may change within the second
        server.headers = {"Last-Modified": formatdate(usegmt=True), "Date": formatdate(usegmt=True)}
    size = kill_halfway(rkt, server, eventually)
    if how == "changed":
        server.headers = {"ETag": '"two"'}
        server.content = bytes(reversed(server.content[:1000])) + server.content[1000:]
        assert rkt("fetch", server.url).code == 254  # no tar any more: what was kept is not looked at
    elif how == "no-ranges":
        server.ranges = False
    elif how == "shorter":
        with kept(rkt)[0].open("ab") as file:
            file.write(3 * HALF * b"x")
    elif how == "another-boot":
        [notes] = Path(rkt.data / "store/partial").glob("*.json")
        notes.write_text(notes.read_text().replace('"boot":"', '"boot":"x'))
    if how != "changed":
        fetched(rkt, server)
    asked = [wanted for wanted, _ in server.seen[1:]]
    if how in {"weak", "new", "another-boot"}:
        assert asked == [""]
    else:
        assert asked[0].startswith("bytes=")
        assert how == "shorter" or asked[0] == f"bytes={size}-"
    assert list((rkt.data / "store/partial").iterdir()) == []


def test_two_at_once(rkt, server, eventually):
    """Each has a file of its own; a refused image leaves nothing."""
    first = rkt.start("fetch", server.url)
    assert server.halfway.wait(60)
    server.halfway.clear()
    second = rkt.start("fetch", server.url)
    assert server.halfway.wait(60)
    server.whole.set()
    ids = {process.communicate(timeout=60)[0] for process in (first, second)}
    assert len(ids) == 1, ids
    assert list((rkt.data / "store/partial").iterdir()) == []


def test_what_nobody_comes_back_for_is_removed(tmp_path):
    (tmp_path / "tmp").mkdir()
    for name, validator in (("a", "1"), ("b", "2")):
        one = partial.Partial.take(tmp_path, name)
        one.begin(name, {"validator": validator})
        os.pwrite(one.file.fileno(), b"x", 0)
        one.close()
    there = {path.name for path in (tmp_path / "partial").iterdir()}
    assert len(there) == 4
    partial.sweep(tmp_path)
    assert {path.name for path in (tmp_path / "partial").iterdir()} == there
    with partial.Partial.take(tmp_path, "b").file:
        partial.sweep(tmp_path, 0.0)  # somebody goes on with this one
        assert len(list((tmp_path / "partial").iterdir())) == 2
        other = partial.Partial.take(tmp_path, "b")
        assert (other.size, other.notes) == (0, {})
        other.close()
    partial.sweep(tmp_path, 0.0)
    partial.sweep(tmp_path, 0.0)
    assert list((tmp_path / "partial").iterdir()) == []
