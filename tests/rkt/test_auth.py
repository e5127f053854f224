"""rktKind `auth`: logins for ACIs, at the host they are for and nowhere else; and signatures from elsewhere."""

import base64
import http.server
import json
import shutil
import threading
from pathlib import Path

import pytest
from yarl import URL

from executor.rkt.auth import Logins, guess_region, sign_aws
from executor.rkt.config import Config

BASIC = "Basic " + base64.b64encode(b"me:word").decode()


class _Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.seen.append((self.path, self.headers.get("Authorization", "")))
        if self.server.elsewhere:
            self.send_response(302)
            self.send_header("Location", self.server.elsewhere + self.path)
            self.end_headers()
            return
        wanted = self.server.wanted
        if wanted and self.headers.get("Authorization") != wanted:
            self.send_error(401)
            return
        file = Path(self.server.directory, self.path.lstrip("/"))
        if not file.is_file():
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(file.stat().st_size))
        self.end_headers()
        with file.open("rb") as data:
            shutil.copyfileobj(data, self.wfile)

    def log_message(self, *_):
        pass


@pytest.fixture
def serve(images):
    """Start servers of the images' directory, which want a login, or send on to another."""
    servers = []

    def start(wanted="", elsewhere="", directory=None):
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
        server.seen, server.wanted, server.elsewhere = [], wanted, elsewhere
        server.directory = directory or Path(images.aci).parent
        server.url = f"http://127.0.0.1:{server.server_port}"
        server.thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        server.thread.start()
        servers.append(server)
        return server

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()
        server.thread.join()


def configure(rkt, server, kind, **credentials):
    directory = rkt.base / "etc" / "auth.d"
    directory.mkdir(parents=True, exist_ok=True)
    document = {
        "rktKind": "auth", "rktVersion": "v1", "domains": [f"127.0.0.1:{server.server_port}"], "type": kind,
        "credentials": credentials,
    }  # fmt: skip
    (directory / f"{server.server_port}.json").write_text(json.dumps(document))


@pytest.mark.root
@pytest.mark.parametrize(
    ("kind", "credentials", "wanted"),
    [("basic", {"user": "me", "password": "word"}, BASIC), ("oauth", {"token": "sesame"}, "Bearer sesame")],
)
def test_a_login(rkt, serve, kind, credentials, wanted):
    server = serve(wanted)
    done = rkt("fetch", f"{server.url}/box.aci")
    assert (done.code, "HTTP 401" in done.err) == (254, True)
    configure(rkt, server, kind, **credentials)
    rkt.good("fetch", f"{server.url}/box.aci")
    assert rkt.good("image", "list", "--fields=name", "--no-legend").lines == ["example.com/box:1.0"]
    assert server.seen[-1] == ("/box.aci", wanted)


@pytest.mark.root
def test_a_login_is_for_its_host_alone(rkt, serve):
    """Not for whom that redirects to, whatever is configured for them."""
    other = serve()
    first = serve(elsewhere=other.url)
    for server in (first, other):
        configure(rkt, server, "basic", user="me", password="word")
    rkt.good("fetch", f"{first.url}/box.aci")
    assert first.seen == [("/box.aci", BASIC)]
    assert other.seen == [("/box.aci", "")]
    assert not [word for word in rkt("fetch", f"{first.url}/none.aci").err.split() if BASIC[6:] in word]


@pytest.mark.root
def test_signatures_from_elsewhere(rkt, signed, serve):
    """Of a file, of what comes over the network; only of the image that they are given for."""
    rkt.strict = True
    aci, key = signed
    rkt.good("trust", "--prefix=example.com/box", "--skip-fingerprint-review", key)
    asc = Path(f"{aci}.asc").rename(rkt.base / "kept.asc")
    server = serve(directory=aci.parent)
    for place in (str(aci), f"{server.url}/box.aci"):
        done = rkt("fetch", place)
        assert (done.code, "is not signed" in done.err) == (254, True)
        (rkt.base / "wrong").write_bytes(b"x" * 100)
        assert rkt("fetch", place, f"--signature={rkt.base}/wrong").code == 254
        rkt.good("fetch", place, f"--signature={asc}")
        rkt.good("image", "rm", "example.com/box")
    assert not [path for path, _ in server.seen[2:] if path.endswith(".asc")]
    rkt.good("run", "--net=none", f"{server.url}/box.aci", f"--signature={asc}")
    for args, why in (
        (("docker://example.com/x", f"--signature={asc}"), "signatures are of ACIs"),
        ((str(aci), "--signature=/nope"), "error opening signature file: /nope: No such file"),
    ):
        done = rkt("fetch", *args)
        assert (done.code, why in done.err) == (254, True)


def test_what_a_login_is_sent_over():
    logins = Logins(Config(auth={"example.com": ("basic", {"user": "me", "password": "word"})}))
    wanted = {"Authorization": BASIC}
    assert logins("GET", URL("https://example.com/x")) == wanted
    assert logins("GET", URL("http://example.com/x")) == {}
    assert logins("GET", URL("https://example.com:444/x")) == {}
    assert logins("GET", URL("https://sub.example.com/x")) == {}
    assert Logins(logins.config, plain=True)("GET", URL("http://example.com/x")) == wanted


@pytest.mark.parametrize(
    ("query", "signature"),
    [
        ("?lifecycle", "fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543"),
        ("?max-keys=2&prefix=J", "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7"),
    ],
)
def test_aws_signatures(query, signature):
    """The examples of AWS's own documentation (Signature Calculations for the Authorization Header)."""
    made = sign_aws(
        "GET", URL(f"https://examplebucket.s3.amazonaws.com/{query}"), "AKIAIOSFODNN7EXAMPLE",
        "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY", "us-east-1", now=1369353600,
    )  # fmt: skip
    assert made["Authorization"].endswith(f"Signature={signature}")
    assert made["X-Amz-Date"] == "20130524T000000Z"


@pytest.mark.parametrize(
    ("host", "region"),
    [
        ("bucket.s3.amazonaws.com", "us-east-1"),
        ("s3-eu-west-1.amazonaws.com", "eu-west-1"),
        ("bucket.s3.eu-central-1.amazonaws.com", "eu-central-1"),
        ("s3-external-1.amazonaws.com", "us-east-1"),
        ("minio.example.com", "us-east-1"),
    ],
)
def test_regions(host, region):
    assert guess_region(host) == region
