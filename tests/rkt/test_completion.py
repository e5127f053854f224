"""The script for bash, as bash uses it."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from executor.rkt.cli import VERBS, main
from executor.rkt.completion import flags_of

if shutil.which("bash") is None:
    pytest.skip("needs bash", allow_module_level=True)


@pytest.fixture
def complete(capsys, tmp_path):
    """complete(WORD…, pods=TEXT): what TAB offers after these words; the program lists these pods."""
    assert main(["completion", "bash"]) == 0
    (tmp_path / "script").write_text(capsys.readouterr().out)

    def call(*words, pods="", images=""):
        program = tmp_path / "gantry-rkt"
        program.write_text(
            f"#!/bin/sh\ncase $1 in list) printf '{pods}' ;; image) printf '{images}' ;; esac\n"
        )
        program.chmod(0o755)
        script = (
            'source "$0"; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); __gantry_rkt; echo "${COMPREPLY[@]}"'
        )
        done = subprocess.run(
            ["bash", "--norc", "-c", script, tmp_path / "script", program, *words],
            capture_output=True, text=True, check=True, cwd=tmp_path, env={"PATH": os.environ["PATH"]},
        )  # fmt: skip
        assert done.stderr == ""
        return sorted(done.stdout.split())

    return call


def test_verbs(complete):
    assert complete("ru") == ["run", "run-prepared"]
    assert complete("image", "ex") == ["export", "extract"]
    assert {name.partition(" ")[0] for name in VERBS} == set(complete(""))


def test_flags(complete):
    assert complete("run", "--stage1-f") == ["--stage1-from-dir"]
    assert complete("--dir=/x", "image", "list", "--no-l") == ["--no-legend"]
    assert complete("--system-c") == ["--system-config"]
    assert complete("run", "image", "--", "--d") == []  # the app's


def test_every_verb_has_its_flags():
    for name, (_, text) in VERBS.items():
        if text:
            assert "--debug" in flags_of(name), name


def test_pods_in_the_states_that_a_verb_is_for(complete):
    pods = r"aaa\tapp\t\tname\trunning\t1\n\tapp2\t\tname\t\n" + r"bbb\tapp\tname\texited\n"
    assert complete("enter", "", pods=pods) == ["aaa"]
    assert complete("rm", "b", pods=pods) == ["bbb"]
    assert complete("status", "", pods=pods) == ["aaa", "bbb"]


def test_images_and_files(complete, tmp_path):
    for name in ("x.aci", "x.txt"):
        (tmp_path / name).touch()
    assert complete("run", "", images=r"example.com/a:1\nexample.com/b\n") == [
        "example.com/a:1",
        "example.com/b",
        "x.aci",
    ]
    assert complete("fetch", "x.t") == ["x.txt"]


def test_other_shells(capsys):
    assert main(["completion"]) == 254
    assert main(["completion", "zsh"]) == 254
    assert "unsupported shell 'zsh'" in capsys.readouterr().err


def test_the_installed_program_prints_it(tmp_path):
    """No part of it needs root or a store."""
    command = [sys.executable, "-m", "executor.rkt.cli", f"--dir={tmp_path}/none", "completion", "bash"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.endswith("gantry-rkt rkt\n")
    assert list(Path(tmp_path).iterdir()) == []
