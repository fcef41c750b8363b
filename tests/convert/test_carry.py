"""Licences and chat templates go along; nothing else is dropped without a word."""

import json
from pathlib import Path

import pytest

from zhllama_jax.convert import carry, manifest


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A directory as people publish them."""
    contents = {
        "config.json": "{}",
        "generation_config.json": "{}",
        "model-00001-of-00001.safetensors": "weights",
        "model.safetensors.index.json": "{}",
        "tokenizer.model": "pieces",
        "tokenizer_config.json": json.dumps({"chat_template": "{{ messages }}"}),
        "added_tokens.json": json.dumps({"[PAD]": 32000, "<s>": 1}),
        "LICENSE.txt": "You may.",
        "Notice": "by me",
        "USE_POLICY.md": "Be good.",
        "README.md": "# Page",
        ".gitattributes": "*.bin lfs",
        "pytorch_model.bin": "pickle",
        "certificate.json": "{}",
        "training_args.bin": "pickle",
    }
    for name, text in contents.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "original").mkdir()
    return tmp_path


def test_neutral_files_go_along_and_the_rest_is_named(source: Path) -> None:
    found = carry.find(source, None, num_pieces=32_000)
    assert found.files == {"LICENSE.txt": b"You may.", "Notice": b"by me", "USE_POLICY.md": b"Be good.", carry.TEMPLATE: b"{{ messages }}"}
    assert found.notes == [
        "left out of what is written: README.md, original/, training_args.bin",
        "added_tokens.json names [PAD], of which tokenizer.model knows nothing: left out",
    ]


def test_a_template_that_is_known_makes_its_own_chat_template(source: Path) -> None:
    (source / carry.TEMPLATE).write_text("{{ theirs }}")
    (source / "added_tokens.json").unlink()
    assert carry.find(source, None, num_pieces=32_000).files[carry.TEMPLATE] == b"{{ theirs }}", "the file beats the setting"
    found = carry.find(source, manifest.Prompt("alpaca"), num_pieces=32_000)
    assert carry.TEMPLATE not in found.files
    assert found.notes == [f"left out of what is written: README.md, {carry.TEMPLATE}, original/, training_args.bin"]
    assert carry.TEMPLATE in carry.find(source, manifest.Prompt("none"), num_pieces=32_000).files


def test_what_is_too_large_is_no_licence(source: Path) -> None:
    (source / "LICENSE.txt").write_bytes(bytes(carry.MAX_BYTES + 1))
    found = carry.find(source, None, num_pieces=32_001)
    assert "LICENSE.txt" not in found.files and "LICENSE.txt, README.md" in found.notes[0]
    assert len(found.notes) == 1, "a piece that is there is not missing"


def test_settings_that_are_no_json_are_not_asked(source: Path) -> None:
    for name in ("tokenizer_config.json", "added_tokens.json"):
        (source / name).write_text("[1")
    assert carry.TEMPLATE not in carry.find(source, None, num_pieces=1).files
