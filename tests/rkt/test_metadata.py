"""`metadata-service` and `run --mds-register`: real ones, with a /run/rkt of their own."""

import os
import re
import subprocess

import pytest

pytestmark = pytest.mark.root

ASK = "wget -q -O - --header 'Metadata-Flavor: AppContainer' $AC_METADATA_URL/acMetadata/v1"


@pytest.fixture
def service(box):
    return serve(box, "--listen-port=0")


def serve(box, *flags):
    """A daemon in a network of its own, and a mount namespace with an empty /run/rkt; `run(…)` runs commands there."""
    os.makedirs("/run/rkt", exist_ok=True)
    command = box.command("metadata-service", *flags)
    script = 'mount -t tmpfs none /run/rkt && ip link set lo up && exec "$@"'
    process = subprocess.Popen(
        ["setpriv", "--pdeathsig", "KILL", "unshare", "--mount", "--net", "sh", "-c", script, "sh", *command],
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    box.started.append(process)
    for line in process.stderr:
        if "pods ask on" in line:
            break

    def run(*args, code=0):
        inside = ["nsenter", "--mount", "--net", f"--target={process.pid}", "--", *box.command(*args)]
        done = subprocess.run(inside, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == code, done.stderr
        return done

    run.process = process
    return run


@pytest.mark.parametrize(
    "flags", [["--net=none"], ["--net=host"], ["--net=none", "--stage1-name=stage1-fly"]]
)
def test_a_pod_that_is_registered(service, images, flags):
    service("fetch", images.oci)
    script = f"echo $AC_METADATA_URL; {ASK}/pod/uuid; echo; {ASK}/apps/me/image/manifest"
    done = service(
        "run", "--mds-register", *flags, images.oci, "--name=me", "--exec=/bin/sh", "--", "-c", script
    )
    url, uuid, manifest = done.stdout.splitlines()
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+/[0-9a-f]{32}", url)
    assert uuid in service("list", "--full").stdout
    assert '"acKind":"ImageManifest"' in manifest
    assert service("rm", uuid)


def test_a_signature(service, images):
    service("fetch", images.oci)
    script = (
        f"u=`{ASK}/pod/uuid`; s=`{ASK}/pod/hmac/sign --post-data content=x`; "
        f"{ASK}/pod/hmac/verify --post-data \"content=x&uuid=$u&signature=`echo $s | sed 's/+/%2B/g'`\" && echo yes; "
        f"{ASK}/pod/hmac/verify --post-data \"content=y&uuid=$u&signature=`echo $s | sed 's/+/%2B/g'`\" || echo no"
    )
    done = service("run", "--mds-register", "--net=none", images.oci, "--exec=/bin/sh", "--", "-c", script)
    assert done.stdout.splitlines() == ["yes", "no"]


def test_without_a_service(fetched):
    """Nothing is begun; and who does not ask for it gets none."""
    done = fetched("run", "--mds-register", "example.com/box")
    if os.path.exists("/run/rkt/metadata-svc.sock"):
        pytest.skip("this machine has a metadata service")
    assert (done.code, "run: could not reach the metadata service" in done.err) == (254, True)
    assert fetched.sh("echo -$AC_METADATA_URL-").out == "--\n"
    done = fetched("metadata-service", "--listen-port=x")
    assert (done.code, "not a port" in done.err) == (254, True)


def test_it_ends_when_told_to(service):
    service.process.terminate()
    assert service.process.wait(60) == 0


@pytest.mark.parametrize("net", ["host", "mine"])
def test_the_stage1_of_somebody_else_is_told_the_token(box, stage1, stage1_run, net):
    """It makes the URL: of this machine's loopback, or of its end of a network, where rkt's service is, too."""
    own = stage1(
        run="for one; do case $one in --mds-token=*) export TOKEN=${one#*=};; esac; done" + stage1_run
    )
    script = "wget -q -O - http://127.0.0.1:18112/$TOKEN/acMetadata/v1/pod/uuid"
    run = (
        "run",
        "--mds-register",
        f"--net={net}",
        f"--stage1-path={own}",
        "example.com/box",
        "--exec=/bin/sh",
    )
    run = (*run, "--", "-c", script)
    service = serve(box, *(["--listen-address=0.0.0.0"] if net == "mine" else []))
    uuid = service(*run).stdout
    assert uuid in service("list", "--full").stdout
    assert not (box.data / "pods/run" / uuid / "mds-registered").exists()
    none = service("run", "--mds-register", "--net=none", f"--stage1-path={own}", "example.com/box", code=254)
    assert "--mds-register flag does not work with --net=none" in none.stderr


def test_where_such_a_stage1_does_not_look(box, stage1):
    run = ("run", "--mds-register", f"--stage1-path={stage1()}", "example.com/box")
    for flags, net, wanted in (
        (["--listen-port=0"], "host", "start it with --listen-port=18112\n"),
        ([], "mine", "start it with --listen-port=18112 --listen-address=0.0.0.0\n"),
    ):
        done = serve(box, *flags)(*run, f"--net={net}", code=254)
        assert done.stderr.endswith(wanted)
