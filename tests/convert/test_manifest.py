"""What a directory holds, by digest: damage is found and named."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.numpy

from zhllama_jax.convert import host, llama_hf, manifest, safetensors_io, source
from zhllama_jax.model import config as config_lib
from zhllama_jax.tokenizer import processor


@pytest.fixture
def directory(tmp_path: Path, config: config_lib.LlamaConfig, params: Any, tokenizer: processor.Tokenizer) -> Path:
    """A model directory of several shards."""
    prompt = manifest.Prompt("alpaca", "joined")
    llama_hf.save(tmp_path / "m", config=config, params=params, tokenizer=tokenizer, prompt=prompt, shard_bytes=20_000)
    return tmp_path / "m"


def change(path: Path, position: int) -> None:
    contents = bytearray(path.read_bytes())
    contents[position] ^= 1
    path.write_bytes(contents)


def test_clean_directory_passes(directory: Path) -> None:
    assert manifest.verify(directory) == []


def test_every_other_file_is_listed(directory: Path) -> None:
    contents = manifest.read(directory, "model")
    assert contents is not None
    assert contents["files"].keys() == {path.name for path in directory.iterdir()} - {manifest.FILE}
    assert contents["prompt"] == {"template": "alpaca", "boundary": "joined", "turns": "open"}


def test_one_flipped_bit_names_file_and_tensor(directory: Path) -> None:
    shard = sorted(directory.glob("*.safetensors"))[1]
    name, entry = next(iter(safetensors_io.header(shard).items()))
    change(shard, -(shard.stat().st_size - 8 - int.from_bytes(shard.read_bytes()[:8], "little")) + entry.begin)
    assert manifest.verify(directory) == [f"{shard.name} has other contents than the manifest says: {name}"]


def test_what_was_changed_is_not_read(directory: Path) -> None:
    """Weights by tensor, as they are read; configuration and tokenizer before. What decides no number is the user's to change."""
    (directory / "generation_config.json").write_text("{}")
    (directory / "README.md").unlink()
    host.load(directory)
    shard = sorted(directory.glob("*.safetensors"))[1]
    name = list(safetensors_io.header(shard))[-1]
    for path, told in ((shard, f"{shard}: {name}"), (directory / "config.json", str(directory / "config.json"))):
        before = path.read_bytes()
        path.write_bytes(before.replace(b"1e-06", b"1e-05") if path.suffix == ".json" else before[:-1] + bytes([before[-1] ^ 1]))
        with pytest.raises(ValueError, match=re.escape(f"{told} is not what zhllama.json beside it records")) as refused:
            host.load(directory)
        assert f"`zhllama verify --left {directory}`" in str(refused.value)
        assert host.load(directory, as_found=True).fingerprint is None
        path.write_bytes(before)
    with (directory / "tokenizer.model").open("ab") as file:
        file.write(bytes([0x9A, 0x06, 0x00]))  # an empty field of protobuf that nothing reads
    with pytest.raises(ValueError, match=r"tokenizer\.model is not what"):
        host.load(directory)
    (directory / manifest.FILE).unlink()
    assert host.load(directory).prompt is None, "without the manifest it is taken as it is"


def test_other_shards_of_the_same_numbers_are_read(directory: Path, tmp_path: Path) -> None:
    numbers = {}
    for shard in sorted(directory.glob("*.safetensors")):
        numbers |= safetensors.numpy.load_file(shard)
        shard.unlink()
    (directory / safetensors_io.INDEX).unlink()
    safetensors.numpy.save_file(numbers, directory / safetensors_io.SINGLE)
    recorded = manifest.read(directory, "model")
    assert recorded is not None
    assert host.load(directory, digest=True).fingerprint == recorded["fingerprint"]


def test_swapped_shards_of_one_size_are_found(
    tmp_path: Path, config: config_lib.LlamaConfig, params: Any, tokenizer: processor.Tokenizer
) -> None:
    """With a tensor to a shard, a layer's norm takes as many bytes as the next layer's."""
    directory = tmp_path / "tensors"
    llama_hf.save(directory, config=config, params=params, tokenizer=tokenizer, shard_bytes=1)
    place = json.loads((directory / safetensors_io.INDEX).read_text())["weight_map"]
    one, other = (directory / place[f"model.layers.{layer}.input_layernorm.weight"] for layer in (0, 1))
    first, second = one.read_bytes(), other.read_bytes()
    assert len(first) == len(second) and first != second
    one.write_bytes(second)
    other.write_bytes(first)
    problems = manifest.verify(directory)
    assert len(problems) == 2 and all("has other contents than the manifest says" in problem for problem in problems)


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "changed config": (lambda d: change(d / "config.json", 5), r"config\.json has other contents"),
    "changed tokenizer": (lambda d: change(d / "tokenizer.model", 500), r"tokenizer\.model has other contents"),
    "missing shard": (lambda d: sorted(d.glob("*.safetensors"))[0].unlink(), "is missing"),
    "longer file": (lambda d: (d / "README.md").write_bytes(b"x" * 9999), "bytes, the manifest says"),
    "stray weights": (lambda d: (d / "x.safetensors").write_bytes(b""), "not in the manifest"),
    "cut shard": (lambda d: sorted(d.glob("*.safetensors"))[0].write_bytes(b"x"), "1 bytes, the manifest says"),
}


@pytest.mark.parametrize("case", DAMAGES)
def test_damage_is_named(directory: Path, case: str) -> None:
    damage, message = DAMAGES[case]
    damage(directory)
    problems = manifest.verify(directory)
    assert len(problems) == 1
    assert re.search(message, problems[0])


def edit(directory: Path, **changes: Any) -> None:
    path = directory / manifest.FILE
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": "zhllama adapter"}, "holds an adapter, expected a model"),
        ({"format": 3}, "not a manifest"),
        ({"version": 2}, "install a newer one"),
        ({"files": []}, "damaged: files"),
        ({"files": {"../x": {"sha256": "", "bytes": 1}}}, "damaged: files"),
        ({"tensors": {"a": 1}}, "damaged: tensors"),
        ({"history": None}, "damaged: history"),
    ],
)
def test_damaged_manifests_are_refused(directory: Path, changes: dict[str, Any], message: str) -> None:
    edit(directory, **changes)
    with pytest.raises(ValueError, match=message):
        manifest.verify(directory)


def test_forged_fingerprint_is_found(directory: Path) -> None:
    edit(directory, fingerprint="0" * 64)
    assert manifest.verify(directory) == ["the manifest's own digests do not add up to its fingerprint"]


@pytest.mark.parametrize("prompt", [{"template": "alpaca"}, {"template": "alpaca", "boundary": "loose"}, {"boundary": "joined"}, "alpaca"])
def test_malformed_prompt_is_refused(directory: Path, prompt: Any) -> None:
    edit(directory, prompt=prompt)
    with pytest.raises(ValueError, match="prompt must have template and boundary"):
        source.load_prompt(directory)


def test_fingerprint_is_of_the_tensors_not_the_files(
    tmp_path: Path, directory: Path, config: config_lib.LlamaConfig, params: Any, tokenizer: processor.Tokenizer
) -> None:
    expected = source.fingerprint(directory)
    llama_hf.save(tmp_path / "n", config=config, params=params, tokenizer=tokenizer)
    assert source.fingerprint(tmp_path / "n") == expected
    (tmp_path / "n" / manifest.FILE).unlink()
    assert source.fingerprint(tmp_path / "n") == expected
    changed = {**params, "norm": {"weight": -params["norm"]["weight"]}}
    llama_hf.save(tmp_path / "o", config=config, params=changed, tokenizer=tokenizer)
    assert source.fingerprint(tmp_path / "o") != expected


def test_a_directory_gives_way_only_to_one_of_its_kind_and_with_nothing_else_in_it(
    tmp_path: Path, directory: Path, config: config_lib.LlamaConfig, params: Any, tokenizer: processor.Tokenizer
) -> None:
    """What the manifest lists is ours, changed or not; what it does not list is the user's."""

    def save(overwrite: bool = True) -> None:
        llama_hf.save(directory, config=config, params=params, tokenizer=tokenizer, overwrite=overwrite)

    (directory / "README.md").write_text("my own words about it")
    assert manifest.unlisted(directory) == []
    save()
    (directory / "results").mkdir()
    (directory / "notes.txt").write_text("mine")
    assert manifest.unlisted(directory) == ["notes.txt", "results"]
    for overwrite in (False, True):
        with pytest.raises(ValueError, match=r"m holds notes\.txt, results, which zhllama did not write there: move that away"):
            save(overwrite)
    (directory / "notes.txt").unlink()
    (directory / "results").rmdir()
    whole = (directory / manifest.FILE).read_text()
    for other, message in (
        (whole.replace('"format": "zhllama model"', '"format": "zhllama adapter"'), "m holds an adapter, expected a model; only a"),
        ('{"my": 1}', r"zhllama\.json is not a manifest of zhllama; only a directory of its kind that zhllama wrote is ever replaced"),
    ):
        (directory / manifest.FILE).write_text(other)
        with pytest.raises(ValueError, match=message):
            save()
        assert (directory / manifest.FILE).read_text() == other
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m"]
    with pytest.raises(ValueError, match="holds files and no"):
        (directory / manifest.FILE).unlink()
        save()


def test_nothing_to_verify_against(tmp_path: Path) -> None:
    assert manifest.read(tmp_path, "model") is None
    with pytest.raises(FileNotFoundError, match="nothing to verify"):
        manifest.verify(tmp_path)


def test_what_a_user_tells_of_the_prompt_beats_the_manifest() -> None:
    known = manifest.Prompt("alpaca", "joined", "closed")
    assert manifest.told(None, None, None) is None
    assert manifest.told(known, None, None) == known
    assert manifest.told(None, "alpaca", None) == manifest.Prompt("alpaca", "faithful"), "as the original tokenised"
    assert manifest.told(None, "alpaca", "joined") == manifest.Prompt("alpaca", "joined")
    assert manifest.told(known, "llama_cpp", None) == manifest.Prompt("llama_cpp", "joined", "closed")
    assert manifest.told(known, None, "faithful") == manifest.Prompt("alpaca", "faithful", "closed")
    with pytest.raises(ValueError, match="no template 'vicuna'"):
        manifest.told(known, "vicuna", None)
    with pytest.raises(ValueError, match="no template is known"):
        manifest.told(None, None, "joined")
