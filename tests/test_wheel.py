"""What is built, and what it installs: the package alone, which runs in an empty environment and folder and replaces nothing."""

import json
import os
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

import zhllama_jax

REPOSITORY = Path(__file__).resolve().parents[1]
NAME = f"zhllama_jax-{zhllama_jax.__version__}"


def run(*words: str | Path, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """A command in a folder, its variables beside those that there are."""
    done = subprocess.run(words, cwd=cwd, env=os.environ | environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done


def present(*folders: str) -> set[str]:
    """The files of folders of the repository, without caches."""
    paths = [path for folder in folders for path in (REPOSITORY / folder).rglob("*") if path.is_file()]
    return {path.relative_to(REPOSITORY).as_posix() for path in paths if "__pycache__" not in path.parts}


def test_the_wheel_holds_the_package_with_the_recipes_and_nothing_else(built: Path) -> None:
    [wheel] = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if not name.startswith(f"{NAME}.dist-info/")}
    assert names == present("zhllama_jax") | {f"zhllama_jax/{recipe}" for recipe in present("configs")}


def test_the_sdist_holds_what_the_tests_need_and_nothing_else(built: Path) -> None:
    [sdist] = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.removeprefix(f"{NAME}/") for name in archive.getnames()}
    made = {"PKG-INFO", ".gitignore"}  # the first is the metadata; the second hatchling adds by itself
    assert names - made == present("zhllama_jax", "configs", "scripts", "tests") | {"README.md", "LICENSE", "pyproject.toml"}


def test_the_installed_program_runs_in_an_empty_folder(installed: Path, tmp_path: Path) -> None:
    place, home = tmp_path / "empty", tmp_path / "home"
    place.mkdir()
    home.mkdir()
    surroundings = {"HOME": str(home), "PYTHONPATH": ""}
    where = run(installed / "python", "-c", "import zhllama_jax; print(zhllama_jax.__file__)", cwd=place, **surroundings).stdout
    assert Path(where.strip()).is_relative_to(installed.parent), "the wheel's, not the repository's"
    for words in ([installed / "zhllama"], [installed / "python", "-m", "zhllama_jax"]):
        assert run(*words, "--version", cwd=place, **surroundings).stdout.strip() == zhllama_jax.__version__
    assert "tokenizer train" in run(installed / "zhllama", "--help", cwd=place, **surroundings).stdout
    assert run(installed / "zhllama", "help", "stages", cwd=place, **surroundings).stdout
    (tmp_path / "text.txt").write_text("山水天地人。\n" * 50, encoding="utf-8")
    words = ["tokenizer", "train", "--input", tmp_path / "text.txt", "--vocab_size", "266", "--output", place / "zh.model"]
    run(installed / "zhllama", *words, cwd=place, **surroundings)
    assert [path.name for path in place.iterdir()] == ["zh.model"]
    assert not list(home.iterdir())


def would_install(*flags: str | Path, cwd: Path) -> dict[str, str]:
    """Name and version of each package that `pip install` of the repository would install."""
    plan = cwd / "plan.json"
    pip = [sys.executable, "-m", "pip", "install", "--dry-run", "--quiet", "--quiet", "--disable-pip-version-check", "--report", plan]
    run(*pip, *flags, REPOSITORY, cwd=cwd)
    found = [item["metadata"] for item in json.loads(plan.read_text(encoding="utf-8"))["install"]]
    return {metadata["name"].replace("_", "-").lower(): metadata["version"] for metadata in found}


def test_a_plain_install_replaces_nothing_that_is_there(tmp_path: Path) -> None:
    """In the second leg of the tests that is: nothing of what Colab ships."""
    assert set(would_install("--no-index", "--no-build-isolation", cwd=tmp_path)) == {"zhllama-jax"}


@pytest.mark.slow
def test_a_plain_install_on_colab_keeps_its_versions(tmp_path: Path) -> None:
    """Asks the package index: what else a plain install brings gets along with what Colab has."""
    lines = (REPOSITORY / "tests" / "floor.txt").read_text(encoding="utf-8").split("\n")
    floor = dict(line.split("#")[0].strip().split("==") for line in lines if "==" in line.split("#")[0])
    plan = would_install("--ignore-installed", "--constraint", REPOSITORY / "tests" / "floor.txt", cwd=tmp_path)
    assert {"jax", "jaxlib", "flax", "numpy", "optax", "orbax-checkpoint"} <= plan.keys()
    assert {name: plan[key] for name in floor if (key := name.replace("_", "-")) in plan and plan[key] != floor[name]} == {}


def test_the_optional_parts_stay_out_of_a_plain_install() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for name in ("torch", "transformers", "huggingface_hub", "jaxlib", "tensorflow", "wandb"):
        assert not [need for need in project["dependencies"] if need.split(">=")[0].split("[")[0] == name]
