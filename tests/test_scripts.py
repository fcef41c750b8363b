"""The scripts' environment, with stand-ins for Python that note what they are asked: when .venv is made and when it is filled.

And the versions of the second leg: that they are the oldest that a plain install allows.
"""

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
BASH = shutil.which("bash") or "/bin/bash"

# Answers like a Python that has a working pip; makes an environment that holds itself; notes what takes long.
STAND_IN = f"""#!/bin/bash
case "$*" in
  "-m pip --version") echo pip 25 ;;
  "-m venv --clear "*) echo venv >>"$NOTES"; rm -rf "$4"; mkdir -p "$4/bin"; cp "$0" "$4/bin/python" ;;
  "-m pip install "*) shift 5; echo install "$@" >>"$NOTES" ;;
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


def environment(place: Path, words: str = "run .") -> list[str]:
    """What is done for `environment WORDS`."""
    return done(place, f"environment {words}")


def done(place: Path, command: str, *, path: str = "/usr/bin:/bin", fails: str = "") -> list[str]:
    """What a command of `scripts/environment.sh` does in the repository; where it must fail, with these words."""
    notes = place / "notes"
    notes.write_text("")
    script = f"set -euo pipefail; source {REPOSITORY / 'scripts' / 'environment.sh'}; {command}"
    surroundings = {"PATH": f"{place / 'bin'}:{path}", "NOTES": str(notes)}
    result = subprocess.run([BASH, "-c", script], cwd=place / "repository", env=surroundings, capture_output=True, text=True, check=False)
    assert (result.returncode != 0) == bool(fails), result.stderr
    assert fails in result.stderr
    return notes.read_text().splitlines()


def test_it_is_made_once_and_filled_anew_when_the_requirements_change(place: Path) -> None:
    assert environment(place) == ["venv", "install --editable ."]
    assert environment(place) == []
    (place / "repository" / "pyproject.toml").write_text("[project]\nname = 'x'\n")
    assert environment(place) == ["install --editable ."]


@pytest.mark.parametrize("left", ["an empty folder", "no pip", "a dangling link"])
def test_one_that_can_install_nothing_is_made_anew(left: str, place: Path) -> None:
    assert environment(place) == ["venv", "install --editable ."]
    python = place / "repository" / ".venv" / "bin" / "python"
    python.unlink()
    if left == "no pip":
        python.write_text(STAND_IN.replace("echo pip 25", "exit 1"))
        python.chmod(0o755)
    elif left == "a dangling link":
        python.symlink_to(place / "gone")
    assert environment(place) == ["venv", "install --editable ."]


def test_one_of_its_own_at_given_versions(place: Path) -> None:
    """It stands beside .venv, and is filled anew when the versions change."""
    assert environment(place) == ["venv", "install --editable ."]
    (place / "repository" / "floor.txt").write_text("jax==0.7.2\n")
    words = "test '.[test]' .venv-floor floor.txt"
    assert environment(place, words) == ["venv", "install --constraint floor.txt --editable .[test]"]
    assert environment(place, words) == environment(place) == []
    (place / "repository" / "floor.txt").write_text("jax==0.7.3\n")
    assert environment(place, words) == ["install --constraint floor.txt --editable .[test]"]


def test_llama_cpp_is_compiled_once_in_an_environment_of_its_own(place: Path) -> None:
    environment(place)
    assert done(place, "llama_cpp", path="", fails="there is no C++ compiler") == []
    (place / "bin" / "c++").write_text("#!/bin/bash\n")
    (place / "bin" / "c++").chmod(0o755)
    assert done(place, "llama_cpp") == ["venv", "install --no-binary llama-cpp-python llama-cpp-python>=0.3.16"]
    python = place / "repository" / ".venv-llama-cpp" / "bin" / "python"
    assert python.is_file()
    python.write_text("#!/bin/bash\n")  # can import everything
    assert done(place, "llama_cpp") == []


def versions() -> dict[str, str]:
    """The versions of the second leg."""
    return dict(re.findall(r"^([\w-]+)==(\S+)", (REPOSITORY / "tests" / "floor.txt").read_text(encoding="utf-8"), re.MULTILINE))


def test_the_floor_is_allowed_and_for_jax_the_lowest() -> None:
    from packaging import requirements

    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    floor = versions()
    needed = {need.name: need.specifier for need in map(requirements.Requirement, project["dependencies"])}
    assert not {name for name in needed.keys() & floor.keys() if floor[name] not in needed[name]}
    for name in ("jax", "flax"):
        assert str(needed[name]) == f">={floor[name]}"
    bounds = [str(bound) for specifiers in needed.values() for bound in specifiers]
    assert all(bound.startswith(">=") for bound in bounds), "lower bounds only: a plain install never takes a version away"


@pytest.mark.parametrize("script", sorted((REPOSITORY / "scripts").glob("*.sh")), ids=lambda path: path.name)
def test_scripts_are_sound_bash(script: Path) -> None:
    subprocess.run(["bash", "-n", str(script)], check=True)
