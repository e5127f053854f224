"""Credentials, tokens of executors and TLS, as a real Mesos asks for them."""

import base64
import datetime as dt
import json
import ssl

import aiohttp
import pytest

from local.agent import flags as agent_flags
from local.master import flags as master_flags
from local.wire.authentication import Tokens, basic_header
from local.wire.tls import contexts
from shared.security.certificates import serving_files

REALM = 'Basic realm="mesos-master-{}"'
OURS = {"Authorization": basic_header("gantry", "s3cret")}


@pytest.fixture
def credentials(tmp_path):
    file = tmp_path / "credentials.json"
    pairs = [("gantry", "s3cret"), ("other", "0ther")]
    file.write_text(json.dumps({"credentials": [{"principal": p, "secret": s} for p, s in pairs]}))
    return str(file)


async def test_frameworks_need_a_credential_and_it_has_to_be_theirs(cluster, credentials):
    await cluster.start(master=("--authenticate_http_frameworks", "--credentials", credentials))
    for headers in (None, {"Authorization": basic_header("gantry", "wrong")}, {"Authorization": "Basic !"}):
        refused = await cluster.scheduler().subscribe(headers)
        assert (refused.status, refused.text) == (401, "401 Unauthorized.")
        assert refused._response.headers["WWW-Authenticate"] == REALM.format("scheduler")
    other = await cluster.scheduler().subscribe({"Authorization": basic_header("other", "0ther")})
    assert other.status == 400
    assert other.text == (
        "Failed to validate scheduler::Call: Authenticated principal 'other' does not match principal 'gantry' set in "
        "`FrameworkInfo`"
    )
    gantry = await cluster.scheduler().subscribe(OURS)
    await gantry.next("SUBSCRIBED")
    assert (await gantry.call("REVIVE"))[0] == 401, "each call needs it"
    header = basic_header("other", "0ther")
    call = {"framework_id": {"value": gantry.framework_id}, "type": "REVIVE"}
    status, text = await gantry.raw(json.dumps(call).encode(), Authorization=header)
    assert (status, "Authenticated principal 'other' does not match" in text) == (400, True)
    status, text = await gantry.raw(json.dumps(call).encode(), **OURS)
    assert (status, text) == (202, "")
    assert (await cluster.operator({"type": "GET_AGENTS"}))[0] == 200, "that is another realm"


async def test_operators_and_readers_have_realms_of_their_own(cluster, credentials):
    await cluster.start(
        master=(
            *("--authenticate_http_readonly=true", "--authenticate_http_readwrite", "--authenticate_agents"),
            *("--no-authenticate_http_frameworks", "--credentials", f"file://{credentials}"),
        ),
        agent=("--credential", credential(cluster.tmp_path)),
    )
    base = f"http://{cluster.master.endpoint}"
    post = {"data": b'{"type": "GET_AGENTS"}', "headers": {"Content-Type": "application/json"}}
    async with cluster.session.get(f"{base}/state") as answer:
        assert (answer.status, answer.headers["WWW-Authenticate"]) == (401, REALM.format("readonly"))
    async with cluster.session.post(f"{base}/api/v1", **post) as answer:
        assert (answer.status, answer.headers["WWW-Authenticate"]) == (401, REALM.format("readwrite"))
    async with cluster.session.get(f"{base}/health") as answer:
        assert answer.status == 200
    async with cluster.session.get(f"{base}/master/state", headers=OURS) as answer:
        assert answer.status == 200
    gantry = await cluster.subscribe()
    await gantry.offer(4)  # so the agent was let in


def credential(directory, principal="other", secret="0ther"):
    file = directory / "credential.json"
    file.write_text(json.dumps({"principal": principal, "secret": secret}))
    return str(file)


async def test_an_agent_with_a_wrong_credential_stays_outside(cluster, credentials):
    await cluster.start(
        master=("--authenticate_agents", "--credentials", credentials),
        agent=("--credential", credential(cluster.tmp_path, secret="no")),
    )
    await cluster.until(lambda: "401" in (cluster.agent.work_dir / "log").read_text())
    _, listed = await cluster.operator({"type": "GET_AGENTS"})
    assert listed["get_agents"].get("agents", []) == []


async def test_executors_show_the_token_they_were_started_with(cluster, tmp_path):
    key = tmp_path / "key"
    key.write_bytes(b"not so secret")
    await cluster.start(agent=("--authenticate_http_executors", "--jwt_secret_key", str(key)))
    gantry = await cluster.subscribe()
    await gantry.launch("")
    await gantry.update("TASK_RUNNING")
    seen = await cluster.seen(lambda line: line["dir"] == "env")
    token = seen["body"]["env"]["MESOS_EXECUTOR_AUTHENTICATION_TOKEN"]
    payload = token.split(".")[1]
    claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    assert claims.keys() == {"fid", "eid", "cid"}
    call = {
        "type": "SUBSCRIBE",
        "framework_id": {"value": claims["fid"]},
        "executor_id": {"value": claims["eid"]},
        "subscribe": {},
    }

    async def ask(authorization, **changes):
        headers = {"Content-Type": "application/json"}
        if authorization:
            headers["Authorization"] = authorization
        url = f"http://{cluster.agent.endpoint}/api/v1/executor"
        async with cluster.session.post(url, data=json.dumps({**call, **changes}), headers=headers) as answer:
            return answer.status, answer.headers.get("WWW-Authenticate", ""), await answer.text()

    realm = 'Bearer realm="mesos-agent-executor"'
    assert await ask(None) == (401, realm, "401 Unauthorized.")
    status, challenge, _ = await ask(f"Basic {token}")
    expected = f'{realm}, error="invalid_token", error_description="Scheme \'Basic\' unsupported"'
    assert (status, challenge) == (401, expected)
    tokens = Tokens("mesos-agent-executor", b"another key")
    status, challenge, _ = await ask(f"Bearer {tokens.make(claims)}")
    assert status == 401
    assert "signature does not match" in challenge
    stranger = Tokens("mesos-agent-executor", key.read_bytes()).make({**claims, "cid": "another"})
    status, _, text = await ask(f"Bearer {stranger}")
    assert status == 403
    assert "does not contain a 'cid' claim with the correct active ContainerID" in text


@pytest.fixture
def certificate(tmp_path):
    """Environment of a process with a certificate for this host."""
    made = serving_files(tmp_path / "certificates", ["localhost", "127.0.0.1"], dt.datetime.now(dt.UTC))
    files = {"cert": made.certificate, "key": made.key, "ca": made.authority}
    return {"LIBPROCESS_SSL_ENABLED": "true"} | {
        f"LIBPROCESS_SSL_{name.upper()}_FILE": str(file) for name, file in files.items()
    }


async def test_everything_over_tls(cluster, certificate, monkeypatch):
    for name, value in {**certificate, "LIBPROCESS_SSL_VERIFY_SERVER_CERT": "true"}.items():
        monkeypatch.setenv(name, value)
    await cluster.start()
    with pytest.raises(aiohttp.ClientError):
        await cluster.get("/health")
    context = ssl.create_default_context(cafile=certificate["LIBPROCESS_SSL_CA_FILE"])
    url = f"https://{cluster.master.endpoint}/slaves"

    async def registered():
        async with cluster.session.get(url, ssl=context) as answer:
            return len((await answer.json())["slaves"]) == 1

    await cluster.until_async(registered)
    async with cluster.session.get(f"https://{cluster.agent.endpoint}/version", ssl=context) as answer:
        assert answer.status == 200


def test_client_certificates_may_be_required(certificate):
    assert contexts({}).server is None
    plain = contexts(certificate)
    assert plain.scheme == "https"
    assert plain.server.verify_mode is ssl.CERT_NONE
    assert plain.client.verify_mode is ssl.CERT_NONE, "as libprocess, unless told to"
    strict = contexts(
        {
            **certificate,
            "LIBPROCESS_SSL_REQUIRE_CERT": "1",
            "LIBPROCESS_SSL_VERIFY_CERT": "1",
        }
    )
    assert strict.server.verify_mode is ssl.CERT_REQUIRED
    assert strict.client.verify_mode is ssl.CERT_REQUIRED
    assert strict.client.check_hostname


@pytest.mark.parametrize(
    ("kind", "flags", "text"),
    [
        ("master", ["--authenticate_http_frameworks"], "--authenticate_http_frameworks: needs --credentials"),
        ("master", ["--credentials", "/nowhere"], "--credentials: No such file or directory: /nowhere"),
        ("master", ["--authenticate_agents=maybe"], "maybe: expecting true or false"),
        ("master", ["--domain", "{}"], "`domain` must define `fault_domain`"),
        ("master", ["--domain", "/nowhere"], "/nowhere: No such file"),
        ("agent", ["--authenticate_http_readonly"], "needs --http_credentials"),
        ("agent", ["--authenticate_http_executors"], "--jwt_secret_key must be specified when"),
        ("agent", ["--executor_environment_variables", '{"A": 1}'], "`A` must be a string"),
        ("agent", ["--resource_estimator", "cpus"], "bad resource 'cpus'"),
        ("agent", ["--credential", "/nowhere"], "--credential: No such file"),
    ],
)
def test_wrong_flags_are_one_line(tmp_path, capsys, kind, flags, text):
    more = ["--master", "127.0.0.1:1"] if kind == "agent" else []
    parse = agent_flags.parse if kind == "agent" else master_flags.parse
    with pytest.raises(SystemExit) as ended:
        parse(["--work_dir", str(tmp_path), *more, *flags])
    assert ended.value.code == 2
    assert text in capsys.readouterr().err.strip().splitlines()[-1]
