"""rkt's configuration files, and what goes before what."""

import json

import pytest

from executor.rkt import config
from executor.rkt.cli import main
from executor.rkt.flags import Failure


@pytest.fixture
def put(tmp_path):
    """put("etc", "auth.d", kind, field=…): a file; the directories, the weakest first."""

    def call(where, part, kind, file="x.json", **fields):
        directory = tmp_path / where / part
        directory.mkdir(parents=True, exist_ok=True)
        (directory / file).write_text(json.dumps({"rktVersion": "v1", "rktKind": kind, **fields}))
        return [tmp_path / "usr", tmp_path / "etc", tmp_path / "user"]

    return call


def test_nothing_is_no_error(tmp_path):
    assert config.load([tmp_path / "a", tmp_path / "b"]) == config.Config()


def test_later_directories_go_before_earlier_ones(put):
    login = {"user": "u", "password": "p"}
    put("usr", "paths.d", "paths", data="/vendor", **{"stage1-images": "/s"})
    put("usr", "auth.d", "dockerAuth", registries=["a.io", "b.io"], credentials=login)
    put("usr", "stage1.d", "stage1", name="coreos.com/rkt/stage1-coreos", version="1")
    put("etc", "paths.d", "paths", data="/admin")
    put("etc", "auth.d", "auth", domains=["h"], type="oauth", credentials={"token": "t"})
    put("etc", "stage1.d", "stage1", name="coreos.com/rkt/stage1-fly", version="2")
    found = config.load(
        put("user", "auth.d", "dockerAuth", registries=["b.io"], credentials={**login, "user": "me"})
    )
    assert (found.data_dir, found.stage1_images) == ("/admin", "/s")
    assert found.docker == {"a.io": ("u", "p"), "b.io": ("me", "p")}
    assert found.auth == {"h": ("oauth", {"token": "t"})}
    assert (found.stage1_name, found.stage1_version) == ("coreos.com/rkt/stage1-fly", "2")


def test_only_json_files_of_the_directory_count(put, tmp_path):
    dirs = put("etc", "paths.d", "paths", file="readme.txt", data="/x")
    (tmp_path / "etc/paths.d/below").mkdir()
    (tmp_path / "etc/paths.d/below/x.json").write_text("broken")
    assert config.load(dirs).data_dir == ""


@pytest.mark.parametrize(
    ("part", "kind", "fields", "message"),
    [
        ("paths.d", "auth", {}, "files of kind paths belong here"),
        ("paths.d", "paths", {"data": "relative"}, "not an absolute path"),
        ("paths.d", "paths", {"rktVersion": "v2"}, "no parser available"),
        ("paths.d", "", {}, "no rktKind specified"),
        ("auth.d", "auth", {"domains": ["h"], "type": "odd"}, "type 'odd' is not one of"),
        (
            "auth.d",
            "auth",
            {"domains": [], "type": "oauth", "credentials": {"token": "t"}},
            "domains: expected",
        ),
        (
            "auth.d",
            "dockerAuth",
            {"registries": ["r"], "credentials": {"user": "u"}},
            "no password specified",
        ),
        ("stage1.d", "stage1", {"name": "x"}, "name and version belong together"),
    ],
)
def test_mistakes_name_the_file(put, part, kind, fields, message):
    dirs = put("etc", part, kind, **fields)
    with pytest.raises(Failure, match=message) as raised:
        config.load(dirs)
    assert "x.json" in str(raised.value)
    assert "secret" not in str(raised.value)


def test_two_files_must_not_disagree(put):
    put("etc", "paths.d", "paths", data="/a")
    with pytest.raises(Failure, match="data is already specified"):
        config.load(put("etc", "paths.d", "paths", file="y.json", data="/b"))


def test_the_verb_prints_what_could_be_read_again(put, tmp_path, capsys):
    put("etc", "paths.d", "paths", data="/admin")
    put("etc", "auth.d", "auth", domains=["h"], type="basic", credentials={"user": "u", "password": "p"})
    assert main([f"--local-config={tmp_path}/etc", f"--system-config={tmp_path}/usr", "config"]) == 0
    text = capsys.readouterr().out
    parts = {part["rktKind"]: part for part in json.loads(text)["stage0"]}
    assert parts["auth"]["credentials"] == {"user": "u", "password": "p"}
    assert parts["paths"]["data"] == "/admin"
    assert parts["stage1"]["name"] == ""
    assert '\n\t"stage0"' in text
    assert (
        main(
            [
                f"--local-config={tmp_path}/etc",
                f"--system-config={tmp_path}/usr",
                "config",
                "--pretty-print=false",
            ]
        )
        == 0
    )
    assert capsys.readouterr().out.count("\n") == 1


def test_what_is_not_there_is_refused_with_254(capsys):
    for args, message in (
        (["nope"], "unknown command 'nope'"),
        (["app", "add"], "set RKT_EXPERIMENT_APP=true"),
        (["api-service"], "api-service is not supported"),
        (["image", "nope"], "unknown command 'image nope'"),
        (["version", "--nope"], "unknown flag: --nope"),
        (["--insecure-options=odd", "version"], "'odd' is not one of none, image"),
        (["run", "--stage1-path=/x", "a"], "stage1 image /x: No such file or directory"),
        (
            ["run", "--stage1-path=/x", "--stage1-hash=y", "a"],
            "--stage1-path and --stage1-hash are mutually exclusive",
        ),
        (["run", "--stage1-hash=y", "a"], "--stage1-hash: 'y' is not sha512-"),
        (["run", "--stage1-url=y", "a"], "--stage1-url: 'y' has no scheme"),
        (["run", "--port=web:80", "--net=none", "a"], "--port flag does not work with 'none' networking"),
        (["run", "--port=web:x:80", "a"], '--port: "x" is not a valid IP'),
        (["run", "--net=mine,mine", "a"], 'found duplicate netname "mine"'),
        (["run", "--net=host", "--net=mine", "a"], "host stands alone"),
        (["run"], "must provide at least one image or specify the pod manifest"),
        (["run", "a", "b", "--interactive"], "interactive option only supports one image"),
        (["run", "--pod-manifest=x", "a"], "conflicting flags set with --pod-manifest"),
        (["fetch"], "must provide at least one image"),
        (["status"], "name a pod by its UUID"),
        (["trust", "key"], "aborting due to implicit unbounded trust"),
        (["image", "list", "--fields=odd"], "'odd' is not one of id, name"),
    ):
        assert main(args) == 254, args
        assert message in capsys.readouterr().err, args


def test_missing_command_and_help(capsys):
    assert main([]) == 2
    assert "rkt: missing command" in capsys.readouterr().err
    assert main(["help", "status"]) == 0
    assert "--wait-ready" in capsys.readouterr().out


def test_version(capsys):
    assert main(["version"]) == 0
    lines = dict(line.split(": ", 1) for line in capsys.readouterr().out.splitlines())
    assert lines["rkt Version"].startswith("1.30.0+gantry.")
    assert lines["appc Version"] == "0.8.11"
