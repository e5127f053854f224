"""Command lines, and what short texts mean."""

import pytest

from executor.rkt.apps import Apps, add_flags, parse_seccomp, parse_volume
from executor.rkt.cli import main
from executor.rkt.common import ago, full_time, table
from executor.rkt.flags import Failure, Flags, duration
from executor.rkt.lookup import reference


@pytest.fixture
def flags() -> Flags:
    made = Flags("run", "")
    made.text("name", "", "")
    made.text("net", "default", "", bare="default")
    made.switch("quiet", "")
    made.many("set-env", "")
    made.refuse("port", "there are none")
    return made


def test_flags_stand_anywhere(flags):
    words = []
    flags.parse(["a", "--name=x", "--set-env", "A=1", "b", "--quiet", "--set-env=B=2", "--net"], words.append)
    assert words == ["a", "b"]
    assert (flags.values["name"], flags.values["net"], flags.is_on("quiet")) == ("x", "default", True)
    assert flags.lists["set-env"] == ["A=1", "B=2"]
    assert flags.given == {"name", "net", "quiet", "set-env"}


def test_arguments_of_apps_are_nobody_elses(flags):
    words, arguments = [], []
    flags.parse(["a", "--", "--name", "---", "b", "--name=y"], words.append, arguments.append)
    assert (words, arguments, flags.values["name"]) == (["a", "b"], ["", "--name"], "y")


def test_behind_the_first_word_all_is_left_alone(flags):
    words = []
    flags.parse(["--quiet", "uuid", "ls", "--name", "--"], words.append, rest=True)
    assert words == ["uuid", "ls", "--name", "--"]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--nope"], "unknown flag: --nope"),
        (["-x"], "unknown flag: -x"),
        (["--name"], "flag needs an argument: --name"),
        (["--quiet=perhaps"], "neither true nor false"),
        (["--port=80:80"], "--port is not supported: there are none"),
    ],
)
def test_what_is_wrong_is_named(flags, args, message):
    with pytest.raises(Failure, match=message):
        flags.parse(args, lambda _: None)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("30m", 1800), ("1h30m", 5400), ("1.5s", 1.5), ("250ms", 0.25), ("0", 0), ("-1s", -1)],
)
def test_durations(text, seconds):
    assert duration(text) == seconds


@pytest.mark.parametrize("text", ["", "5", "m", "1x", "-"])
def test_what_is_no_duration(text):
    with pytest.raises(ValueError):
        duration(text)


def test_flags_of_images_need_one():
    flags, apps = Flags("run", ""), Apps()
    add_flags(flags, apps)
    with pytest.raises(Failure, match="it must follow an image"):
        flags.parse(["--exec=/bin/sh", "a"], apps.word, apps.argument)
    with pytest.raises(Failure, match="an image is required before any app arguments"):
        Apps().argument("")


def test_flags_mean_the_image_before_them():
    flags, apps = Flags("run", ""), Apps()
    add_flags(flags, apps)
    line = "--mount volume=v,target=/all a --exec=/x --memory=16M -- 1 -2 --- b --name=two --user=5"
    line += " --mount=volume=v,target=/b"
    flags.parse([*line.split(), "--environment=A=b=c"], apps.word, apps.argument)
    one, two = apps.apps
    assert (one.image, one.texts, one.args) == ("a", {"exec": "/x"}, ["1", "-2"])
    assert one.isolators == {"resource/memory": {"request": "16M", "limit": "16M"}}
    assert (two.texts, two.environment, two.mounts) == (
        {"name": "two", "user": "5"},
        {"A": "b=c"},
        [("v", "/b")],
    )
    assert apps.mounts == [("v", "/all")]


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--memory=16m", "too low"),
        ("--memory=lots", "not a number"),
        ("--caps-retain=CAP_NOPE", "no capability 'CAP_NOPE'"),
        ("--oom-score-adj=2000", "not from -1000 to 1000"),
        ("--seccomp=mode=perhaps,chmod", "invalid seccomp mode"),
        ("--volume=v,kind=odd", "neither host nor empty"),
        ("--volume=v,kind=empty,source=/x", "has no 'source'"),
        ("--volume=v,kind=host,source=x", "not an absolute path"),
        ("--mount=volume=v", "expected volume=NAME,target=PATH"),
    ],
)
def test_values_are_checked_at_once(flag, message):
    flags, apps = Flags("run", ""), Apps()
    add_flags(flags, apps)
    with pytest.raises(Failure, match=message):
        flags.parse(["a", flag], apps.word, apps.argument)


def test_volumes_and_filters():
    assert parse_volume("v,kind=host,source=/s,readOnly=true,recursive=false") == {
        "name": "v", "kind": "host", "source": "/s", "readOnly": True, "recursive": False,
    }  # fmt: skip
    assert parse_volume("v,kind=empty,mode=0700,uid=5,gid=6")["uid"] == 5
    assert parse_seccomp("mode=remove,errno=EPERM,chmod,@x") == (
        "os/linux/seccomp-remove-set",
        {"set": ["chmod", "@x"], "errno": "EPERM"},
    )


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("coreos.com/etcd:v2.0.0,arch=amd64", "appc:coreos.com/etcd:v2.0.0,arch=amd64"),
        ("docker://nginx", "docker://nginx"),
        ("docker:quay.io/a/b:1", "docker://quay.io/a/b:1"),
        ("/srv/x.aci", "file:/srv/x.aci"),
        ("file:///srv/x.aci", "file:///srv/x.aci"),
        ("https://h/x.aci", "https://h/x.aci"),
        ("sha512-ab12", "sha512-ab12"),
        ("cimd:docker:v=0:registry-1.docker.io%2Flibrary%2Fbusybox%3Alatest",
         "docker://registry-1.docker.io/library/busybox:latest"),
        ("cimd:aci-archive:v=0:file%3A%2F%2F%2Fsrv%2Fx.aci", "file:///srv/x.aci"),
        ("cimd:appc:v=0:coreos.com/etcd?version=v3&arch=amd64", "appc:coreos.com/etcd:v3,arch=amd64"),
    ],
)  # fmt: skip
def test_images_are_named_as_in_rkt(text, wanted):
    assert reference(text) == wanted


def test_paths_are_seen_by_their_looks(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert reference("x.aci") == reference("./x.aci") == f"file:{tmp_path}/x.aci"
    with pytest.raises(Failure, match="ftp:// is no way to an image"):
        reference("ftp://h/x")


def test_tables_are_aligned_with_tabs():
    assert table([["UUID", "APP"], ["12345678", "a"], ["", "bb"]]) == "UUID\t\tAPP\n12345678\ta\n\t\tbb\n"
    assert table([]) == ""


def test_times(monkeypatch):
    assert [ago(1000 - past, 1000) for past in (0, 1, 59, 60, 7200, 86400 * 8)] == [
        "now", "1 second ago", "59 seconds ago", "1 minute ago", "2 hours ago", "1 week ago",
    ]  # fmt: skip
    assert ".5 " in full_time(1_000_000.5)
    assert "." not in full_time(1_000_000.0)


def test_a_verb_may_be_cut_short(capsys, tmp_path):
    """Where it is the only one that begins so, as in rkt; a group alone says what is in it."""
    g = [f"--dir={tmp_path}"]
    for words, code, said in (
        (["vers"], 0, "appc Version"),
        (["im", "li", "--no-legend"], 0, ""),
        (["imag", "lis", "--no-legend"], 0, ""),
        (["ru", "x"], 254, "unknown command 'ru'"),
        (["api"], 254, "rkt's gRPC service is not there"),
        (["api-service"], 254, "rkt's gRPC service is not there"),
        (["image"], 0, "image cat-manifest"),
        (["image", "--help"], 0, "image cat-manifest"),
        (["image", "nope"], 254, "unknown command 'image nope'"),
        (["he", "list"], 0, "usage: gantry rkt list"),
        ([], 2, "missing command"),
    ):
        assert main([*g, *words]) == code, words
        done = capsys.readouterr()
        assert said in done.out + done.err, words


def test_exit_codes_are_rkts(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("RKT_EXPERIMENT_APP", "true")
    g = [f"--dir={tmp_path}"]
    for words, code in (
        (["status", "--uuid-file=/nope"], 1),
        (["status", "x"], 254),
        (["status"], 254),
        (["app", "status", "x", "--app=y"], 1),
        (["app", "status", "--nope"], 254),
        (["app", "list"], 1),
        (["rm", "--uuid-file=/nope"], 254),
    ):
        assert main([*g, *words]) == code, words
    capsys.readouterr()


def test_a_flag_that_may_stand_alone_may_have_a_word_too():
    apps, made = Apps(), Flags("run", "")
    add_flags(made, apps)
    made.parse(["a", "--readonly-rootfs", "true", "b", "--readonly-rootfs", "c"], apps.word, apps.argument)
    assert [(app.image, app.readonly_rootfs) for app in apps.apps] == [("a", True), ("b", True), ("c", False)]


def test_what_is_deprecated_is_said_once(capsys):
    apps, made = Apps(), Flags("run", "")
    add_flags(made, apps)
    made.parse(["a", "--cap-retain=CAP_KILL", "--cap-retain=CAP_CHOWN"], apps.word, apps.argument)
    assert capsys.readouterr().err == "Flag --cap-retain has been deprecated, use --caps-retain instead\n"
