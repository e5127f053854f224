"""The documents are true: links lead somewhere, commands and files exist, lists of fields are the code's."""

import re
from pathlib import Path

import pytest

from executor.config import parser as executor_parser
from gantry.__main__ import COMMANDS
from local.up import parser
from scheduler.flags import parser as scheduler_parser
from scheduler.registry.supported import SUPPORTED

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document):
    for target in re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", document.read_text()):
        if "://" not in target:
            assert (document.parent / target).exists(), target


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_commands_and_files_exist(document):
    text = document.read_text()
    for command in re.findall(r"(?:^\s+|bin/|`)gantry ([a-z]+(?:-[a-z]+)*)", text, re.MULTILINE):
        assert command in COMMANDS, command
    for name in re.findall(r"examples/[a-z-]+\.yaml", text):
        assert (ROOT / name).exists(), name
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for target in re.findall(r"(?:^    |`)make ([a-z][a-z-]+)", text, re.MULTILINE):
        assert target in targets, target


def test_the_pod_fields_are_those_of_the_code():
    text = (ROOT / "docs" / "pods.md").read_text()
    words = set(re.findall(r"`([A-Za-z./-]+)`", text))
    missing = {name for kind, names in SUPPORTED.items() for name in names if name not in words}
    assert not missing


def test_the_options_of_gantry_up_are_documented():
    text = (ROOT / "docs" / "running-locally.md").read_text()
    options = {
        option for action in parser()._actions for option in action.option_strings if option.startswith("--")
    }
    assert {option for option in options - {"--help", "--log-level"} if option not in text} == set()


@pytest.mark.parametrize(
    ("made", "pages"),
    [
        (scheduler_parser(), ("scheduler.md", "store.md")),
        (executor_parser(), ("executor.md", "measured-boot.md")),
    ],
    ids=["scheduler", "executor"],
)
def test_the_flags_are_documented(made, pages):
    text = "".join((ROOT / "docs" / page).read_text() for page in pages)
    flags = {flag for action in made._actions for flag in action.option_strings if flag.startswith("--")}
    assert {flag for flag in flags - {"--help"} if f"`{flag}" not in text} == set()


def test_every_trap_has_its_tests():
    """`docs/mesos-traps.md` names no test that is not there, and every named trap is one of its numbers."""
    text = (ROOT / "docs" / "mesos-traps.md").read_text()
    sources = {path: path.read_text() for path in ROOT.glob("tests/**/test_*.py")}
    there = {name for source in sources.values() for name in re.findall(r"def (test_\w+)\(", source)}
    named = set(re.findall(r"`(test_\w+)`", text))
    assert named <= there, named - there
    ours = [source for path, source in sources.items() if path.name.startswith("test_traps")]
    traps = {name for source in ours for name in re.findall(r"def (test_\w+)\(", source)}
    assert traps <= named, traps - named
    assert set(re.findall(r"^\*\*(\d+)\.", text, re.MULTILINE)) == {str(number) for number in range(1, 26)}
    for names, path in re.findall(r"((?:`test_\w+`,?\s+)+)\((tests/\S+\.py)\)", text):
        there = set(re.findall(r"def (test_\w+)\(", sources[ROOT / path]))
        assert set(re.findall(r"`(test_\w+)`", names)) <= there, path
