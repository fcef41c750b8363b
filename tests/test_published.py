"""Which files of a repository are read, from lists of names alone; what is fetched by them is shown in test_hub."""

import json
from pathlib import Path

import pytest

from zhllama_jax import published

SHARDS = ["pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin"]


def there(*names: str, unreachable: str | None = None) -> published.Published:
    return published.Published("team/x", "team/x", None, None, "c" * 40, dict.fromkeys(names, 1), unreachable)


@pytest.mark.parametrize(
    ("present", "expected"),
    [
        (["model.safetensors", "pytorch_model.bin"], ["model.safetensors"]),
        (["pytorch_model.bin", "training_args.bin"], ["pytorch_model.bin"]),
        ([published.PYTORCH_INDEX, *SHARDS, "pytorch_model.bin"], SHARDS),
        (["model.safetensors", published.PYTORCH_INDEX, *SHARDS], ["model.safetensors"]),
    ],
)
def test_safetensors_come_before_pytorch_s_files(tmp_path: Path, present: list[str], expected: list[str]) -> None:
    (tmp_path / published.PYTORCH_INDEX).write_text(json.dumps({"weight_map": dict(zip("ab", SHARDS, strict=True))}))
    assert published.weights(there(*present), tmp_path, adapter=False) == expected


@pytest.mark.parametrize("present", [["adapter_model.bin"], ["adapter_model.safetensors", "adapter_model.bin"]])
def test_an_adapter_is_one_file(tmp_path: Path, present: list[str]) -> None:
    assert published.weights(there(*present), tmp_path, adapter=True) == present[:1]


def test_the_index_of_files_that_are_not_read_is_left_alone() -> None:
    both = there("config.json", "model.safetensors", published.PYTORCH_INDEX, "adapter_config.json")
    assert published.small(both, adapter=False) == ["config.json"]
    assert published.small(there("config.json", published.PYTORCH_INDEX), adapter=False) == ["config.json", published.PYTORCH_INDEX]
    assert published.small(both, adapter=True) == ["adapter_config.json"]


@pytest.mark.parametrize("index", ["[]", '{"weight_map": []}', '{"weight_map": {"a": 1}}'])
def test_what_is_wrong_with_an_index_is_left_to_its_reader(tmp_path: Path, index: str) -> None:
    (tmp_path / published.INDEX).write_text(index)
    assert published.weights(there(published.INDEX), tmp_path, adapter=False) == []


def test_without_the_hub_what_is_lacking_is_told(tmp_path: Path) -> None:
    (tmp_path / published.PYTORCH_INDEX).write_text(json.dumps({"weight_map": dict(zip("ab", SHARDS, strict=True))}))
    for present, lacking in (([], "model.safetensors"), ([published.PYTORCH_INDEX, SHARDS[0]], SHARDS[1])):
        with pytest.raises(OSError, match=f"the hub's cache lacks {lacking} of commit cccccccccccc, and it is gone"):
            published.weights(there(*present, unreachable="it is gone"), tmp_path, adapter=False)


def test_the_manifest_lists_what_belongs_to_a_directory_of_ours(tmp_path: Path) -> None:
    (tmp_path / published.MANIFEST).write_text(json.dumps({"files": {"a": {}, "gone": {}}}))
    assert published.listed(there("a", "b", published.MANIFEST), tmp_path) == ["a"]
    assert published.listed(there("a"), tmp_path) == []
