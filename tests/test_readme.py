"""What the README and the pages of help say exists: commands, verbs, configurations, scripts, packages, links."""

import re
import shlex
from pathlib import Path

import pytest

from zhllama_jax.cli import flags, help, program, schema

REPOSITORY = Path(__file__).resolve().parents[1]
README = (REPOSITORY / "README.md").read_text(encoding="utf-8")
HELP = REPOSITORY / "zhllama_jax" / "help"
PAGES = {"README.md": README, **{path.name: path.read_text(encoding="utf-8") for path in sorted(HELP.glob("*.md"))}}
BLOCKS = re.findall(r"```(\w*)\n(.*?)```", README, re.DOTALL)


def commands(text: str) -> list[str]:
    """Lines of the shell blocks that call the program."""
    blocks = re.findall(r"```bash\n(.*?)```", text, re.DOTALL)
    lines = [line.strip() for block in blocks for line in block.replace("\\\n", " ").split("\n")]
    return [line for line in lines if line.startswith("zhllama ")]


def mentions(text: str) -> list[str]:
    """Commands in running text; flags that are not spoken of may be left out of them."""
    return re.findall(r"`(zhllama [a-z][^`]*)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))


@pytest.mark.parametrize("page", PAGES)
def test_every_command_is_understood(page: str) -> None:
    for command in commands(PAGES[page]):
        understand(shlex.split(command, comments=True)[1:])
    for command in mentions(PAGES[page]):
        words = shlex.split(command)[1:]
        if not any(word.startswith("-") for word in words):
            assert words[0] in {verb.split()[0] for verb in program.VERBS}, command
            continue
        try:
            understand(words)
        except schema.UsageError as error:
            assert str(error).startswith("missing: "), f"{command}: {error}"


def understand(words: list[str]) -> None:
    name, rest = program.find(words)
    if "--help" in rest:
        return
    missing_file = rest[rest.index("--config") + 1 : rest.index("--config") + 2] if "--config" in rest else []
    if missing_file and not missing_file[0].startswith("configs/"):
        return  # a file that the reader writes
    flags.parse(name, program.VERBS[name], [str(REPOSITORY / word) if word.startswith("configs/") else word for word in rest])


@pytest.mark.parametrize("page", PAGES)
def test_help_is_asked_for_pages_that_there_are(page: str) -> None:
    asked = [command.split()[2:] for command in [*commands(PAGES[page]), *mentions(PAGES[page])] if command.startswith("zhllama help ")]
    assert all(" ".join(words) in (*help.TOPICS, *program.VERBS) for words in asked), asked


@pytest.mark.parametrize("page", PAGES)
def test_every_configuration_is_understood(page: str, tmp_path: Path) -> None:
    for block in re.findall(r"```yaml\n(.*?)```", PAGES[page], re.DOTALL):
        (tmp_path / "page.yaml").write_text(block, encoding="utf-8")
        verb = "adapt" if "trainings:" in block else "train"
        flags.parse(verb, program.VERBS[verb], ["--config", str(tmp_path / "page.yaml")])


def test_there_are_commands() -> None:
    assert len(commands(README)) >= 8


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
