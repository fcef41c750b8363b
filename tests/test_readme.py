"""What the README says exists: commands, verbs, scripts, packages, links."""

import re
import shlex
from pathlib import Path

import pytest

from zhllama_jax.cli import flags, program

REPOSITORY = Path(__file__).resolve().parents[1]
README = (REPOSITORY / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(\w*)\n(.*?)```", README, re.DOTALL)


def commands() -> list[str]:
    """Lines of the shell blocks, and commands in running text, that call the program."""
    lines = [line for language, block in BLOCKS if language == "bash" for line in block.replace("\\\n", " ").split("\n")]
    inline = re.findall(r"`(zhllama [a-z][^`]*--[^`]*)`", re.sub(r"```.*?```", "", README, flags=re.DOTALL))
    return [line.strip() for line in [*lines, *inline] if line.strip().startswith("zhllama ")]


@pytest.mark.parametrize("command", commands())
def test_every_command_is_understood(command: str) -> None:
    words = shlex.split(command, comments=True)[1:]
    name, rest = program.find(words)
    if "--help" in rest:
        return
    missing_file = rest[rest.index("--config") + 1 : rest.index("--config") + 2] if "--config" in rest else []
    if missing_file and not missing_file[0].startswith("configs/"):
        return  # a file that the reader writes
    flags.parse(name, program.VERBS[name], [str(REPOSITORY / word) if word.startswith("configs/") else word for word in rest])


def test_there_are_commands() -> None:
    assert len(commands()) >= 8


def test_the_table_of_verbs_is_complete() -> None:
    table = re.findall(r"^\| `([a-z ]+)` \|", README, re.MULTILINE)
    assert table == list(program.VERBS)


def test_scripts_and_configurations_exist() -> None:
    named = set(re.findall(r"\b((?:scripts|configs)/[\w/]+\.\w+)", README))
    assert named
    assert not [name for name in named if not (REPOSITORY / name).is_file()]


def test_the_map_names_every_package() -> None:
    [plan] = [block for _, block in BLOCKS if "L6  cli" in block]
    packages = {path.parent.name for path in (REPOSITORY / "zhllama_jax").glob("*/__init__.py")}
    modules = {path.stem for path in (REPOSITORY / "zhllama_jax").glob("*.py")} - {"__init__", "__main__"}
    words = set(re.findall(r"\b[a-z]+\b", plan))
    assert not (packages | modules) - words


def test_relative_links_lead_somewhere() -> None:
    links = [link for link in re.findall(r"\]\(([^)]+)\)", README) if "://" not in link and not link.startswith("#")]
    assert not [link for link in links if not (REPOSITORY / link.split("#")[0]).exists()]


def test_it_stays_short() -> None:
    assert len(README.split("\n")) <= 150
