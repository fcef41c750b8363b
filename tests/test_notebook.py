"""The Colab notebook: made from its source, naming what exists, run from top to bottom in a kernel; at full length in the nightly run."""

import importlib.util
import json
import os
import re
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from zhllama_jax.cli import flags, program

REPOSITORY = Path(__file__).resolve().parents[1]

_spec = importlib.util.spec_from_file_location("make", REPOSITORY / "scripts" / "colab" / "make.py")
assert _spec is not None and _spec.loader is not None, "a file that is there has a loader"
make = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(make)

SOURCE = make.SOURCE.read_text(encoding="utf-8")

OF_THE_HARNESS = ("JAX_NUM_CPU_DEVICES", "JAX_NUMPY_RANK_PROMOTION", "XLA_FLAGS")
"""What conftest sets to make the other tests strict and quick to compile; the notebook runs as a user runs it."""

RUN = """
import sys
import nbclient, nbformat
notebook = nbformat.read(sys.argv[1], as_version=4)
try:
    nbclient.NotebookClient(notebook, kernel_name="python3", timeout=1800).execute()
finally:
    nbformat.write(notebook, sys.argv[1])
"""
"""A process of its own: what Jupyter's libraries warn of is no error of ours."""


def test_the_notebook_is_what_its_source_makes() -> None:
    made = make.text(SOURCE, make.address())
    assert make.NOTEBOOK.read_text(encoding="utf-8") == made, "run `python scripts/colab/make.py`"


def test_it_is_a_valid_notebook_without_outputs() -> None:
    import nbformat

    notebook = nbformat.read(make.NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    assert notebook.nbformat == 4
    assert not [cell for cell in notebook.cells if cell.cell_type == "code" and (cell.outputs or cell.execution_count is not None)]
    assert "accelerator" not in notebook.metadata, "it asks for no accelerator: a CPU runtime is always free"


def test_the_source_is_plain_python() -> None:
    compile(SOURCE, str(make.SOURCE), "exec")


def test_cells_of_text_code_and_shell() -> None:
    source = '"""For readers."""\n\n# %% [markdown]\n# # Title\n#\n# Text.\n\n# %%\n# a comment\nx = 1\n# !ls \\\n#     -l {x}\n# !pwd\n'
    assert make.cells(source) == [("markdown", "# Title\n\nText."), ("code", "# a comment\nx = 1\n!ls \\\n    -l {x}\n!pwd")]
    with pytest.raises(ValueError, match="line 2 stands in a text and is no comment"):
        make.cells("# %% [markdown]\nx = 1\n")
    with pytest.raises(ValueError, match="no cell"):
        make.cells("x = 1\n")


def test_the_address_stands_in_one_place() -> None:
    """Everything else is made from it, or held to it here."""
    assert make.address() not in SOURCE and "<repository>" in SOURCE
    badge = make.badge(make.address())
    assert make.notebook(SOURCE, make.address())["cells"][0]["source"] == [badge]
    readmes = [REPOSITORY / "README.md", *(REPOSITORY / "zhllama_jax").rglob("README*.md")]
    for readme in readmes:
        assert badge in readme.read_text(encoding="utf-8"), f"{readme.relative_to(REPOSITORY)} lacks the badge {badge}"


def commands() -> list[str]:
    """Every call of the program, in shell lines and in the blocks of texts."""
    found = []
    for kind, content in make.cells(SOURCE):
        block = "\n".join(re.findall(r"```bash\n(.*?)```", content, re.DOTALL)) if kind == "markdown" else content
        lines = block.replace("\\\n", " ").split("\n")
        lines = [line.removeprefix("!").rpartition("| ")[2].strip() for line in lines if kind == "markdown" or line.startswith("!")]
        found += [line for line in lines if line.startswith("zhllama ")]
    return found


@pytest.mark.parametrize("command", commands())
def test_every_command_is_understood(command: str) -> None:
    name, rest = program.find(shlex.split(command)[1:])
    recipes = {path.stem: str(path) for path in (REPOSITORY / "configs").glob("*.yaml")}
    config = rest[rest.index("--config") + 1] if "--config" in rest else None
    if config is not None and config not in recipes:
        assert "{" in config, f"{config} is neither a recipe nor a file that another cell writes"
        return
    flags.parse(name, program.VERBS[name], [recipes.get(word, word) for word in rest])


def test_it_shows_the_main_verbs() -> None:
    verbs = {program.find(shlex.split(command)[1:])[0] for command in commands()}
    assert verbs >= {"doctor", "tokenizer train", "tokenizer merge", "tokenizer report", "adapt", "generate", "chat", "verify"}


def with_parameters(**values: int) -> str:
    """The source with other values in its form."""
    source = SOURCE
    for name, value in values.items():
        source, count = re.subn(rf"^{name} = \S+(?=  # @param)", f"{name} = {value}", source, flags=re.MULTILINE)
        assert count == 1, f"the notebook has no parameter {name}"
    return source


def execute(source: str, folder: Path, **variables: str) -> list[dict[str, Any]]:
    """Runs all cells in an empty folder, under further variables, and returns those of code with their outputs."""
    place = folder / "work"
    place.mkdir()
    path = folder / "quickstart.ipynb"
    path.write_text(make.text(source, make.address()), encoding="utf-8")
    environment = {name: value for name, value in os.environ.items() if name not in OF_THE_HARNESS}
    environment |= variables | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"}
    environment |= {name: str(folder / "jupyter") for name in ("JUPYTER_RUNTIME_DIR", "JUPYTER_CONFIG_DIR", "IPYTHONDIR")}
    done = subprocess.run([sys.executable, "-c", RUN, str(path)], cwd=place, env=environment, capture_output=True, text=True)
    cells = [cell for cell in json.loads(path.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == "code"]
    assert done.returncode == 0, done.stderr[-4000:] + written(cells)[-4000:]
    assert "zhllama: error" not in written(cells), written(cells)
    assert [path.name for path in place.iterdir()] == ["runs"], "everything is written into WORK"
    return cells


def written(cells: list[dict[str, Any]]) -> str:
    """What the cells wrote, standard output and standard error together."""
    return "".join("".join(output.get("text", "")) for cell in cells for output in cell["outputs"])


def shown(cells: list[dict[str, Any]], kind: str) -> list[str]:
    """What the cells displayed, of one MIME type."""
    return ["".join(output["data"][kind]) for cell in cells for output in cell["outputs"] if kind in output.get("data", {})]


def report(folder: Path) -> dict[str, Any]:
    """The figures of the pipeline that the notebook ran."""
    return json.loads((folder / "work" / "runs" / "quickstart" / "adapted" / "report.json").read_text(encoding="utf-8"))


def check_outputs(cells: list[dict[str, Any]]) -> None:
    """What a reader must see, whatever the steps."""
    counts = {}
    for moment, count, pieces in re.findall(r"^(before|after) +(\d+) tokens: (.*)$", written(cells), re.MULTILINE):
        counts[moment, "English" if pieces.startswith("▁The") or "▁T" in pieces else "Chinese"] = int(count)
    assert counts["after", "Chinese"] * 2 < counts["before", "Chinese"], "the merge shortens Chinese"
    assert counts["after", "English"] == counts["before", "English"], "and leaves English as it was"
    assert len(shown(cells, "image/png")) == 1
    [page] = shown(cells, "text/html")
    assert page.startswith("<div><iframe srcdoc=") and "</iframe>" in page and "<html" not in page, "IPython warns of a bare one"
    [answers] = [cell for cell in cells if "zhllama generate" in "".join(cell["source"])]
    assert len([line for line in written([answers]).split("\n") if line.strip()]) >= 3
    assert "transformers" in written(cells[-2:])


@pytest.mark.timeout(1200)  # a minute on two quiet cores
def test_it_runs_from_top_to_bottom(tmp_path: Path) -> None:
    """At a size that learns nothing; every cell, every command and every output is there."""
    source = with_parameters(ENGLISH_STEPS=2, EMBEDDING_STEPS=2, CHINESE_STEPS=2, INSTRUCTION_STEPS=2)
    cells = execute(source, tmp_path, XLA_FLAGS=os.environ["XLA_FLAGS"])
    check_outputs(cells)
    assert [row["after"] for row in report(tmp_path)["likelihood"]["rows"]] == ["english", "resized", "embeddings", "pretrain", "tune"]


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_it_learns_chinese_in_under_five_minutes(tmp_path: Path) -> None:
    """Two cores that shared their time with others took four and a quarter."""
    start = time.monotonic()
    cells = execute(SOURCE, tmp_path)
    took = time.monotonic() - start
    check_outputs(cells)
    figures = report(tmp_path)
    bits = {row["after"]: row["chinese"] for row in figures["likelihood"]["rows"]}
    exams = {row["after"]: row["exact"] for row in figures["exams"]["rows"]}
    [ngram] = figures["baselines"]
    assert bits["pretrain"] <= 0.2 * bits["resized"] and bits["pretrain"] < ngram["chinese"], (bits, ngram)
    assert exams["tune"] >= 0.35 and exams["pretrain"] < 0.05, exams
    assert took < 300
