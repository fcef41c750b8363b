"""The scripts' environment, with stand-ins for Python that note what they are asked: when .venv is made and when it is filled."""

import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]

# Answers like a Python that has a working pip; makes a .venv that holds itself; notes what takes long.
STAND_IN = f"""#!/bin/bash
case "$*" in
  "-m pip --version") echo pip 25 ;;
  "-m venv --clear .venv") echo venv >>"$NOTES"; rm -rf .venv; mkdir -p .venv/bin; cp "$0" .venv/bin/python ;;
  "-m pip install"*) echo install "${{@: -1}}" >>"$NOTES" ;;
  "--version") echo Python 3.11 ;;
  *) exec {sys.executable} "$@" ;;
esac
"""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A repository of two files, and a python3.11 on the PATH."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python3.11").write_text(STAND_IN)
    (tmp_path / "bin" / "python3.11").chmod(0o755)
    (tmp_path / "repository").mkdir()
    (tmp_path / "repository" / "pyproject.toml").write_text("[project]\n")
    return tmp_path


def environment(place: Path) -> list[str]:
    """What is done for `environment run .`."""
    notes = place / "notes"
    notes.write_text("")
    script = f"set -euo pipefail; source {REPOSITORY / 'scripts' / 'environment.sh'}; environment run ."
    surroundings = {"PATH": f"{place / 'bin'}:/usr/bin:/bin", "NOTES": str(notes)}
    subprocess.run(["bash", "-c", script], cwd=place / "repository", env=surroundings, check=True, capture_output=True)
    return notes.read_text().splitlines()


def test_it_is_made_once_and_filled_anew_when_the_requirements_change(place: Path) -> None:
    assert environment(place) == ["venv", "install ."]
    assert environment(place) == []
    (place / "repository" / "pyproject.toml").write_text("[project]\nname = 'x'\n")
    assert environment(place) == ["install ."]


@pytest.mark.parametrize("left", ["an empty folder", "no pip", "a dangling link"])
def test_one_that_can_install_nothing_is_made_anew(left: str, place: Path) -> None:
    assert environment(place) == ["venv", "install ."]
    python = place / "repository" / ".venv" / "bin" / "python"
    python.unlink()
    if left == "no pip":
        python.write_text(STAND_IN.replace("echo pip 25", "exit 1"))
        python.chmod(0o755)
    elif left == "a dangling link":
        python.symlink_to(place / "gone")
    assert environment(place) == ["venv", "install ."]


@pytest.mark.parametrize("script", sorted((REPOSITORY / "scripts").glob("*.sh")), ids=lambda path: path.name)
def test_scripts_are_sound_bash(script: Path) -> None:
    subprocess.run(["bash", "-n", str(script)], check=True)
