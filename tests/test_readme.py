"""What the README and the pages of help say exists: commands, verbs, configurations, scripts, packages, links."""

import re
import shlex
from collections import Counter
from pathlib import Path

import pytest

from zhllama_jax.cli import flags, help, program, recipes, schema

REPOSITORY = Path(__file__).resolve().parents[1]
README = (REPOSITORY / "README.md").read_text(encoding="utf-8")
HELP = REPOSITORY / "zhllama_jax" / "help"
PAGES = {"README.md": README, **{path.name: path.read_text(encoding="utf-8") for path in sorted(HELP.glob("*.md"))}}
BOTH = (README, PAGES["README.zh.md"])
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
        # A file that the reader writes, or a recipe by its name.
        assert Path(missing_file[0]).suffix or missing_file == ["F"] or (REPOSITORY / "configs" / f"{missing_file[0]}.yaml").is_file()
        return
    flags.parse(name, program.VERBS[name], [str(REPOSITORY / word) if word.startswith("configs/") else word for word in rest])


@pytest.mark.parametrize("page", PAGES)
def test_help_is_asked_for_pages_that_there_are(page: str) -> None:
    asked = [command.split()[2:] for command in [*commands(PAGES[page]), *mentions(PAGES[page])] if command.startswith("zhllama help ")]
    assert all(" ".join(words) in (*help.TOPICS, help.CHINESE, *recipes.paths(), *program.VERBS) for words in asked), asked


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


def test_the_pages_link_to_each_other() -> None:
    assert "(zhllama_jax/help/README.zh.md)" in README.split("\n## ")[0]
    for page in HELP.glob("*.md"):
        links = [link for link in re.findall(r"\]\(([^)]+)\)", page.read_text(encoding="utf-8")) if "://" not in link]
        assert not [link for link in links if not (HELP / link).exists()]
    assert "(../../README.md)" in PAGES["README.zh.md"]


def fences(text: str) -> list[tuple[str, str]]:
    return re.findall(r"```(\w*)\n(.*?)```", text, re.DOTALL)


def rows(text: str) -> list[str]:
    """Lines of the tables outside fenced blocks."""
    return [line for line in re.sub(r"```.*?```", "", text, flags=re.DOTALL).split("\n") if line.startswith("|")]


def numbers(text: str) -> list[str]:
    return re.findall(r"\d+(?:[.,]\d+)*(?:e-\d+)?", text)


def figures(text: str) -> Counter[str]:
    """Numbers with a point or a comma, in running text, with how often they stand there."""
    plain = "\n".join(line for line in re.sub(r"```.*?```", "", text, flags=re.DOTALL).split("\n") if not line.startswith("|"))
    plain = re.sub(r"(\d+) 万", lambda found: f"{int(found[1]) / 100:g} M", plain)  # Chinese counts by ten thousands
    return Counter(re.findall(r"\d+(?:[.,]\d+)+", plain))


def test_the_chinese_readme_has_the_same_commands() -> None:
    ours, theirs = (
        [[line.split("#")[0].strip() for line in block.split("\n")] for language, block in fences(text) if language] for text in BOTH
    )
    assert ours == theirs


def test_the_chinese_readme_has_the_same_tables() -> None:
    """Verbs and modes by name, and every number of a result."""
    names = [[re.findall(r"^\| (`[^`]+`) \|", row) for row in rows(text)] for text in BOTH]
    assert names[0] == names[1]
    values = [[numbers(re.sub(r"`[^`]*`", "", row).partition("|")[2]) for row in rows(text)] for text in BOTH]
    assert values[0] == values[1]


def test_the_chinese_readme_has_the_same_blocks_of_figures() -> None:
    ours, theirs = ([numbers(block) for language, block in fences(text) if not language] for text in BOTH)
    assert ours == theirs


def test_the_chinese_readme_has_the_same_figures_in_its_sentences() -> None:
    ours, theirs = map(figures, BOTH)
    assert ours == theirs


def test_the_chinese_readme_has_the_same_sections_and_map() -> None:
    sections = [re.findall(r"^#+ ", text, re.MULTILINE) for text in BOTH]
    assert sections[0] == sections[1]
    ours, theirs = (re.findall(r"^(L[1-9]|  )  ([a-z]+)  |^L0  (.+)$", text, re.MULTILINE) for text in BOTH)
    assert ours == theirs and ours


def test_the_page_of_results_has_the_figures_of_the_readme() -> None:
    [demo] = [block for language, block in fences(README) if not language and "bits per character" in block]
    assert demo in help.page("results")
    missing = [row for row in rows(README) if len(numbers(row)) > 1 and row not in help.page("results")]
    assert not missing
    assert README.partition(demo)[2].strip("`\n").partition("\n\n")[0] in help.page("results")


def test_it_stays_short() -> None:
    assert len(README.split("\n")) <= 160
