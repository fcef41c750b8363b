"""Makes quickstart.ipynb from quickstart.py, which lies beside it: `python scripts/colab/make.py`. Needs nothing but Python.

The source is in the percent format that editors and jupytext know:

    # %%              begins a cell of code; its lines `# !…`, comments to Python, are shell lines to the notebook
    # %% [markdown]   begins a cell of text, whose lines are comments
    <repository>      stands for the address in pyproject.toml, the one place that knows it

What precedes the first cell is for readers of the file. The notebook holds no outputs, and one source makes one notebook, byte for byte,
so a test can hold the two against each other.
"""

import json
import tomllib
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parents[1]
SOURCE, NOTEBOOK = HERE / "quickstart.py", HERE / "quickstart.ipynb"

MARK = "# %%"
TEXT = "# %% [markdown]"
SHELL = "# !"


def address() -> str:
    """The repository's address, without a slash at its end."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return str(project["urls"]["Repository"]).rstrip("/")


def badge(repository: str) -> str:
    """The link, as Markdown, that opens the notebook in Colab."""
    where = f"{repository.removeprefix('https://github.com/')}/blob/main/{NOTEBOOK.relative_to(REPOSITORY).as_posix()}"
    picture = "https://colab.research.google.com/assets/colab-badge.svg"
    return f"[![Open in Colab]({picture})](https://colab.research.google.com/github/{where})"


def cells(source: str) -> list[tuple[str, str]]:
    """The cells of a source as (kind, content), the kinds being `markdown` and `code`.

    Raises:
      ValueError: a line of a text is no comment, or there is no cell.
    """
    found: list[tuple[str, list[str]]] = []
    for number, line in enumerate(source.split("\n"), start=1):
        if line.rstrip() in (MARK, TEXT):
            found.append(("markdown" if line.rstrip() == TEXT else "code", []))
        elif found and found[-1][0] == "markdown" and line.strip():
            if line != "#" and not line.startswith("# "):
                raise ValueError(f"line {number} stands in a text and is no comment: begin it with '# ', or a cell of code with '{MARK}'")
            found[-1][1].append(line[2:])
        elif found:
            found[-1][1].append(line)
    if not found:
        raise ValueError(f"no cell: begin one with a line '{MARK}'")
    return [(kind, "\n".join(_shell(lines) if kind == "code" else lines).strip("\n")) for kind, lines in found]


def _shell(lines: list[str]) -> list[str]:
    """Lines of code with the shell lines, and those that a backslash continues, out of their comments."""
    made: list[str] = []
    continued = False
    for line in lines:
        inside = continued or line.startswith(SHELL)
        made.append(line.removeprefix("# ") if inside else line)
        continued = inside and line.endswith("\\")
    return made


def notebook(source: str, repository: str) -> dict[str, Any]:
    """The notebook of a source, in Jupyter's format 4.5 with the metadata that Colab writes for a CPU runtime."""
    made = [_cell("markdown", badge(repository), "view-in-github", {"id": "view-in-github", "colab_type": "text"})]
    for number, (kind, content) in enumerate(cells(source.replace("<repository>", repository)), start=1):
        made.append(_cell(kind, content, f"cell-{number:02}", {}))
    return {
        "cells": made,
        "metadata": {
            "colab": {"include_colab_link": True, "provenance": [], "toc_visible": True},
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
        },
        "nbformat": 4,
        "nbformat_minor": 5,
    }


def _cell(kind: str, content: str, name: str, metadata: dict[str, Any]) -> dict[str, Any]:
    code = {"execution_count": None, "outputs": []} if kind == "code" else {}
    return {"cell_type": kind, "id": name, "metadata": metadata, **code, "source": content.splitlines(keepends=True)}


def text(source: str, repository: str) -> str:
    """The notebook as the text of its file."""
    return json.dumps(notebook(source, repository), ensure_ascii=False, indent=1) + "\n"


if __name__ == "__main__":
    NOTEBOOK.write_text(text(SOURCE.read_text(encoding="utf-8"), address()), encoding="utf-8")
