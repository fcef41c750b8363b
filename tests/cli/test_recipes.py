"""Recipes by name, from anywhere."""

from pathlib import Path

import pytest

from zhllama_jax.cli import program, recipes


def test_every_file_of_configs_is_a_recipe(repository: Path) -> None:
    assert recipes.paths() == {path.stem: path for path in (repository / "configs").glob("*.yaml")}


@pytest.mark.parametrize("name", ["7b_stage1", "7b_stage1.yaml", "configs/7b_stage1.yaml"])
def test_a_recipe_is_found_from_any_directory(
    name: str, repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert recipes.find(name) == str(repository / "configs" / "7b_stage1.yaml")
    assert program.run(["stages", "--config", name]) == 0
    assert "(2.9716 %)" in capsys.readouterr().out
    assert program.run(["stages", f"--config={name}"]) == 0


def test_a_file_of_the_user_goes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("7b_stage1").write_text("model: m\n")
    assert recipes.find("7b_stage1") == "7b_stage1"


@pytest.mark.parametrize("name", ["8b_stage1", "elsewhere/7b_stage1.yaml", "7b_stage1.json"])
def test_what_is_neither_is_answered_with_the_recipes(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert program.run(["train", "--config", name]) == 1
    err = capsys.readouterr().err
    assert f"{name} not found: expected a YAML configuration file, or one of the recipes" in err and "13b_sft" in err


def test_a_wheel_carries_them_beside_the_modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, repository: Path) -> None:
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "mine.yaml").write_text("model: m\n")
    monkeypatch.setattr(recipes, "PLACES", (tmp_path / "configs", repository / "configs"))
    assert recipes.paths() == {"mine": tmp_path / "configs" / "mine.yaml"}
    monkeypatch.setattr(recipes, "PLACES", (tmp_path / "nowhere",))
    assert recipes.paths() == {}
    with pytest.raises(FileNotFoundError, match=r"7b_stage1 not found: expected a YAML configuration file$"):
        recipes.find("7b_stage1")


def test_a_folder_is_no_configuration(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is a folder: expected a YAML configuration file"):
        recipes.find(str(tmp_path))


def test_a_link_to_itself_is_no_recipe_and_no_fault(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "loop").symlink_to("loop")
    assert program.run(["convert", "--input", str(tmp_path / "loop"), "--output", str(tmp_path / "out")]) == 1
    assert capsys.readouterr().err.startswith(f"zhllama: error: {tmp_path / 'loop'} not found: ")


@pytest.mark.parametrize("name", ["7b_stage1", "configs/7b_stage1.yaml", "elsewhere"])
def test_what_a_recipe_lacks_is_answered_with_its_header(
    name: str, repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    header = "`zhllama help 7b_stage1` says where what it reads comes from"
    if name == "elsewhere":
        Path(name).write_text((repository / "configs" / "7b_stage1.yaml").read_text())
    assert program.run(["train", "--config", name, "--preset", "cpu"]) == 1
    err = capsys.readouterr().err
    assert "llama-7b-zh not found: " in err and (header in err) == (name != "elsewhere")
    assert program.run(["help", "7b_stage1"]) == 0
    assert capsys.readouterr().out == (repository / "configs" / "7b_stage1.yaml").read_text(encoding="utf-8")
