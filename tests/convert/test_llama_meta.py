"""Models cut as Meta's release cuts them, by a rule written out here row by row, are read bit for bit; what we cut torch.load reads."""

import errno
import json
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from zhllama_jax import tree
from zhllama_jax.convert import llama_meta, mapped, meta_params, names, safetensors_io, sink
from zhllama_jax.model import config as config_lib
from zhllama_jax.model import rope_config

torch = pytest.importorskip("torch")

DTYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
# 107 rows of vocabulary leave something over for every number of files; 16 heads share 8 key/value heads.
GROUPED = config_lib.named(
    "micro", vocab_size=107, hidden_size=64, intermediate_size=176, num_attention_heads=16, num_key_value_heads=8, head_dim=None
)
CONFIGS = {
    "grouped": GROUPED,
    "all heads": GROUPED.replace(num_attention_heads=8),
    "even": GROUPED.replace(vocab_size=128, base_vocab_size=128),
    "wide": GROUPED.replace(intermediate_size=96, rope_theta=500_000.0, rms_norm_eps=1e-5),
    "stretched": GROUPED.replace(
        rope_scaling=rope_config.RopeScaling("llama3", 8.0, 8_192, 1.0, 4.0), rope_theta=500_000.0, max_position_embeddings=131_072
    ),
}
MakeParams = Callable[..., Any]


def model(config: config_lib.LlamaConfig, make_params: MakeParams, dtype: str = "F32") -> dict[str, np.ndarray]:
    """Random tensors under Hugging Face's names."""
    return dict(names.export(config, make_params(config, dtype=safetensors_io.DTYPES[dtype])))


def as_torch(array: np.ndarray) -> Any:
    """The same bits as a tensor of torch."""
    if array.dtype.name == "bfloat16":
        return torch.from_numpy(np.ascontiguousarray(array).view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(np.ascontiguousarray(array))


def as_numpy(tensor: Any) -> np.ndarray:
    """The inverse of `as_torch`."""
    if tensor.dtype == torch.bfloat16:
        return tensor.contiguous().view(torch.int16).numpy().view(safetensors_io.DTYPES["BF16"])
    return tensor.contiguous().numpy()


def metas(config: config_lib.LlamaConfig, tensors: dict[str, np.ndarray], count: int, embedding: str) -> list[dict[str, Any]]:
    """The files of Meta's release, by their description: every row moved and every part cut by hand."""
    half = config.head_width // 2

    def moved(weight: np.ndarray) -> np.ndarray:
        result = np.empty_like(weight)
        for head in range(len(weight) // (2 * half)):
            for number in range(half):
                result[head * 2 * half + 2 * number] = weight[head * 2 * half + number]
                result[head * 2 * half + 2 * number + 1] = weight[head * 2 * half + half + number]
        return result

    def rows(weight: np.ndarray) -> list[np.ndarray]:
        step = len(weight) // count
        return [weight[step * i : (step * (i + 1) if i < count - 1 else len(weight))] for i in range(count)]

    def columns(weight: np.ndarray) -> list[np.ndarray]:
        return [part.T for part in rows(weight.T)]

    found: dict[str, list[np.ndarray]] = {}
    matrix = tensors["model.embed_tokens.weight"]
    found["tok_embeddings.weight"] = rows(matrix) if embedding == "rows" else columns(matrix)
    found["output.weight"] = rows(tensors["lm_head.weight"])
    found["norm.weight"] = [tensors["model.norm.weight"]] * count
    for i in range(config.num_hidden_layers):
        hf, meta = f"model.layers.{i}", f"layers.{i}"
        found[f"{meta}.attention.wq.weight"] = rows(moved(tensors[f"{hf}.self_attn.q_proj.weight"]))
        found[f"{meta}.attention.wk.weight"] = rows(moved(tensors[f"{hf}.self_attn.k_proj.weight"]))
        found[f"{meta}.attention.wv.weight"] = rows(tensors[f"{hf}.self_attn.v_proj.weight"])
        found[f"{meta}.attention.wo.weight"] = columns(tensors[f"{hf}.self_attn.o_proj.weight"])
        found[f"{meta}.feed_forward.w1.weight"] = rows(tensors[f"{hf}.mlp.gate_proj.weight"])
        found[f"{meta}.feed_forward.w2.weight"] = columns(tensors[f"{hf}.mlp.down_proj.weight"])
        found[f"{meta}.feed_forward.w3.weight"] = rows(tensors[f"{hf}.mlp.up_proj.weight"])
        found[f"{meta}.attention_norm.weight"] = [tensors[f"{hf}.input_layernorm.weight"]] * count
        found[f"{meta}.ffn_norm.weight"] = [tensors[f"{hf}.post_attention_layernorm.weight"]] * count
    return [{name: as_torch(parts[number]) for name, parts in found.items()} for number in range(count)]


def params_of(config: config_lib.LlamaConfig) -> dict[str, Any]:
    raw = {"dim": config.hidden_size, "n_layers": 2, "n_heads": config.num_attention_heads, "n_kv_heads": config.num_kv_heads}
    raw |= {"norm_eps": config.rms_norm_eps, "vocab_size": -1, "rope_theta": config.rope_theta}
    return raw | ({"use_scaled_rope": True} if config.rope_scaling else {})


def save(folder: Path, config: config_lib.LlamaConfig, parts: list[dict[str, Any]]) -> Path:
    (folder / "params.json").write_text(json.dumps(params_of(config)))
    for number, part in enumerate(parts):
        torch.save(part, folder / f"consolidated.{number:02}.pth")
    return folder


def agree(reader: Any, tensors: dict[str, np.ndarray]) -> None:
    assert list(reader.entries) == list(tensors)
    assert reader.shapes == {name: array.shape for name, array in tensors.items()}
    for name, array in tensors.items():
        found = reader.read(name)
        assert (found.dtype, found.shape) == (array.dtype, array.shape)
        assert found.tobytes() == array.tobytes(), name
        assert reader.entries[name].num_bytes == array.nbytes


@pytest.mark.parametrize("shards", [1, 2, 4, 8])
@pytest.mark.parametrize("case", CONFIGS)
def test_releases_are_read(case: str, shards: int, tmp_path: Path, make_params: MakeParams) -> None:
    config, dtype = CONFIGS[case], ["F32", "F16", "BF16"][shards % 3]
    tensors = model(config, make_params, dtype)
    parts = metas(config, tensors, shards, "rows" if case == "even" else "columns")
    for part in parts:
        part["rope.freqs"] = torch.ones(4)
        part["layers.0.attention.inner_attention.rope.freqs"] = torch.ones(4)
    with llama_meta.Reader(save(tmp_path, config, parts)) as reader:
        assert reader.config == config
        assert reader.num_shards == shards
        assert reader.file("lm_head.weight").name == "consolidated.00.pth"
        agree(reader, tensors)
        ours = tree.flatten(names.collect(config, reader.read))
    expected = tree.flatten(make_params(config, dtype=safetensors_io.DTYPES[dtype]))
    assert all(ours[path].tobytes() == leaf.tobytes() for path, leaf in expected.items())


@pytest.mark.parametrize("shards", [1, 2, 4, 8])
@pytest.mark.parametrize(
    ("case", "embedding", "dtype"), [("grouped", "columns", "F16"), ("even", "rows", "BF16"), ("wide", "columns", "F32")]
)
def test_written_models_are_releases(case: str, embedding: Any, dtype: str, shards: int, tmp_path: Path, make_params: MakeParams) -> None:
    """torch.load finds the parts cut by hand; we find the model again, bit for bit; the digests are those of the whole tensors."""
    config = CONFIGS[case]
    tensors = model(config, make_params, dtype)
    written = llama_meta.write(tmp_path, tensors.items(), config=config, dtype=dtype, shards=shards, embedding=embedding)
    files = [f"consolidated.{number:02}.pth" for number in range(shards)]
    assert sorted(path.name for path in tmp_path.iterdir()) == [*files, "params.json"]
    assert list(written.files) == files
    assert all(entry["bytes"] == (tmp_path / name).stat().st_size for name, entry in written.files.items())
    assert written.tensors == {name: safetensors_io.describe(array) for name, array in tensors.items()}
    for file, expected in zip(files, metas(config, tensors, shards, embedding), strict=True):
        theirs = torch.load(tmp_path / file, weights_only=True)
        assert theirs.keys() == expected.keys()
        for name, tensor in expected.items():
            assert theirs[name].dtype == tensor.dtype == getattr(torch, DTYPES[dtype])
            assert as_numpy(theirs[name]).tobytes() == as_numpy(tensor).tobytes(), name
    params = json.loads((tmp_path / "params.json").read_text())
    assert params["vocab_size"] == (128 if embedding == "rows" else -1)
    with llama_meta.Reader(tmp_path) as reader:
        assert reader.config == config
        agree(reader, tensors)


def test_views_that_share_a_storage_are_read(tmp_path: Path, make_params: MakeParams) -> None:
    """As of a script that cuts with torch.chunk and saves what it got: every file holds all of the storage, most of it unused."""
    tensors = model(GROUPED, make_params)
    parts = metas(GROUPED, tensors, 2, "columns")
    for name in parts[0]:
        axis = 1 if name.endswith(("wo.weight", "w2.weight", "tok_embeddings.weight")) else 0
        if parts[0][name].dim() == 2:
            whole = torch.cat([part[name] for part in parts], axis)
            parts[0][name], parts[1][name] = whole.split([part[name].shape[axis] for part in parts], axis)
    with llama_meta.Reader(save(tmp_path, GROUPED, parts)) as reader:
        agree(reader, tensors)


def test_one_tensor_at_a_time(tmp_path: Path, make_params: MakeParams, monkeypatch: pytest.MonkeyPatch) -> None:
    tensors = model(GROUPED, make_params)
    monkeypatch.setattr(sink, "_CHUNK", mapped.BLOCK)
    asked = []

    def stream() -> Iterable[tuple[str, np.ndarray]]:
        for name, array in tensors.items():
            asked.append((name, [path.stat().st_size for path in sorted(tmp_path.glob("*.pth"))]))
            yield name, array

    llama_meta.write(tmp_path, stream(), config=GROUPED, dtype="F32", shards=4)
    assert [name for name, _ in asked] == list(tensors)
    assert all(len(sizes) == 4 for _, sizes in asked), "all files are open from the first tensor on"
    assert all(size > 0 for size in asked[-1][1]), "and grow together"


@pytest.mark.parametrize("becomes_full", [False, True])
def test_a_full_disk_is_told_with_both_sizes(
    tmp_path: Path, make_params: MakeParams, monkeypatch: pytest.MonkeyPatch, becomes_full: bool
) -> None:
    tensors = model(GROUPED, make_params)
    size = sum(array.nbytes for array in tensors.values())

    def full_disk(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    if becomes_full:
        monkeypatch.setattr(sink.Sink, "finish", full_disk)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=size - (not becomes_full)))
    with pytest.raises(OSError, match=f"No space left on device: {size:,} bytes are to be written, [0-9,]+ are free") as caught:
        llama_meta.write(tmp_path, tensors.items() if becomes_full else [], config=GROUPED, dtype="F32")
    assert caught.value.filename == str(tmp_path)
    assert becomes_full or not list(tmp_path.iterdir()), "known before anything is written"


def test_a_tied_model_needs_a_head(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="Meta's format has no tied heads"):
        llama_meta.write(tmp_path, [], config=GROUPED.replace(tie_word_embeddings=True), dtype="F32")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("shards", "options", "message"),
    [
        (3, {}, "3 files cannot share 16 heads, 8 key/value heads, a width of 64, a feed-forward width of 176: possible are 1, 2, 4, 8"),
        (16, {}, r"16 files cannot share 8 key/value heads: possible"),
        (2, {"even": True}, "2 files cannot share a vocabulary of 107: possible are 1; pad the vocabulary to a multiple of 2 first"),
        (2, {"embedding": "rows"}, "a vocabulary of 107"),
        (0, {}, "shards must be a number from 1 to 100, got 0"),
        (101, {}, "shards must be"),
    ],
)
def test_models_that_cannot_be_cut_so(shards: int, options: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        llama_meta.write(tmp_path, [], config=GROUPED, dtype="F32", shards=shards, **options)
    assert not any(tmp_path.iterdir())


def test_models_that_cannot_be_described(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="Meta's format cannot describe a head_dim of 16"):
        llama_meta.write(tmp_path, [], config=GROUPED.replace(head_dim=16), dtype="F32")
    assert not any(tmp_path.iterdir())


@pytest.fixture
def release(tmp_path: Path, make_params: MakeParams) -> tuple[Path, list[dict[str, Any]]]:
    """Two files, and what is in them."""
    parts = metas(GROUPED, model(GROUPED, make_params), 2, "columns")
    return save(tmp_path, GROUPED, parts), parts


CHANGES: dict[str, tuple[Callable[[list[dict[str, Any]]], Any], str]] = {
    "missing": (lambda parts: parts[1].pop("layers.1.ffn_norm.weight"), r"consolidated\.01\.pth do not fit .*missing: layers\.1\.ffn_norm"),
    "left over": (
        lambda parts: parts[0].update(lora=torch.ones(1)),
        r"consolidated\.00\.pth do not fit params\.json: not part of LLaMA: lora",
    ),
    "a further layer": (
        lambda parts: parts[0].update({"layers.2.ffn_norm.weight": torch.ones(64)}),
        "not part of LLaMA: layers.2.ffn_norm",
    ),
    "too short": (
        lambda parts: parts[1].update({"layers.0.attention.wo.weight": torch.ones(64, 31)}),
        r"is a file missing\? layers\.0\.attention\.wo\.weight has shape \[64, 32\] \[64, 31\] in 2 files, which do not make \[64, 64\]",
    ),
    "turned": (lambda parts: parts[1].update({"layers.0.attention.wq.weight": torch.ones(64, 32)}), "attention.wq.weight has shape"),
    "a vector": (lambda parts: parts[1].update({"layers.0.attention.wq.weight": torch.ones(64)}), "attention.wq.weight has shape"),
    "a number": (lambda parts: parts[1].update({"output.weight": torch.tensor(1.0)}), "output.weight has shape"),
    "norms of two lengths": (lambda parts: parts[1].update({"norm.weight": torch.ones(32)}), "norm.weight has shape"),
    "two dtypes": (lambda parts: parts[1].update({"norm.weight": torch.ones(64).half()}), "norm.weight is stored as F16, F32"),
    "another vocabulary": (lambda parts: parts[1].update({"output.weight": torch.ones(60, 64)}), "tok_embeddings.weight has shape"),
}


@pytest.mark.parametrize("case", CHANGES)
def test_files_that_do_not_fit(case: str, release: tuple[Path, list[dict[str, Any]]]) -> None:
    folder, parts = release
    change, message = CHANGES[case]
    change(parts)
    with pytest.raises(ValueError, match=message) as error:
        llama_meta.Reader(save(folder, GROUPED, parts))
    assert str(error.value).startswith(str(folder))
    assert "\n" not in str(error.value)


def test_copies_that_differ(release: tuple[Path, list[dict[str, Any]]]) -> None:
    folder, parts = release
    parts[1]["norm.weight"] = parts[1]["norm.weight"].clone()
    parts[1]["norm.weight"][3] += 1
    with llama_meta.Reader(save(folder, GROUPED, parts)) as reader:
        reader.read("lm_head.weight")
        with pytest.raises(ValueError, match=r"consolidated\.00\.pth and consolidated\.01\.pth differ in norm\.weight"):
            reader.read("model.norm.weight")


def test_whole_numbers_are_no_weights(release: tuple[Path, list[dict[str, Any]]]) -> None:
    folder, parts = release
    save(folder, GROUPED, [{name: tensor.to(torch.int8) for name, tensor in part.items()} for part in parts])
    with llama_meta.Reader(folder) as reader:
        for name in ("lm_head.weight", "model.norm.weight"):
            with pytest.raises(ValueError, match=r"is I8; weights are read from F32, F16, BF16"):
                reader.read(name)


def test_files_that_are_not_there(release: tuple[Path, list[dict[str, Any]]]) -> None:
    folder, _ = release
    with pytest.raises(FileNotFoundError, match=r"absent not found: expected a directory with params\.json"):
        llama_meta.Reader(folder / "absent")
    (folder / "consolidated.00.pth").rename(folder / "consolidated.02.pth")
    with pytest.raises(FileNotFoundError, match=r"consolidated\.00\.pth not found; download the rest"):
        llama_meta.Reader(folder)
    (folder / "consolidated.02.pth").rename(folder / "consolidated.00.pth")
    (folder / "consolidated.01.pth").unlink()
    with pytest.raises(ValueError, match=r"is a file missing\? tok_embeddings\.weight has shape \[107, 32\] in 1 files"):
        llama_meta.Reader(folder)
    (folder / "params.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"params\.json not found: expected Meta's description"):
        llama_meta.Reader(folder)


def test_params_and_tensors_must_agree(release: tuple[Path, list[dict[str, Any]]]) -> None:
    folder, _ = release
    for change, message in (
        ({"vocab_size": 106}, "vocab_size is 106"),
        ({"multiple_of": 64}, "multiple_of 64"),
        ({"dim": 128}, "do not fit"),
    ):
        (folder / "params.json").write_text(json.dumps({**params_of(GROUPED), **change}))
        with pytest.raises(ValueError, match=message):
            llama_meta.Reader(folder)


def test_what_params_leave_open_is_noted(release: tuple[Path, list[dict[str, Any]]]) -> None:
    folder, _ = release
    config, notes = llama_meta.read_config(folder)
    assert config == GROUPED
    assert any("2,048 tokens are taken" in note for note in notes)
    config, notes = llama_meta.read_config(folder, max_position_embeddings=4_096)
    assert (config.max_position_embeddings, notes) == (4_096, [])


def test_the_tokenizer_lies_beside_or_above(tmp_path: Path) -> None:
    folder = tmp_path / "7B"
    folder.mkdir()
    assert llama_meta.tokenizer_path(folder) is None
    (tmp_path / "tokenizer.model").write_bytes(b"above")
    assert llama_meta.tokenizer_path(folder) == tmp_path / "tokenizer.model"
    (folder / "tokenizer.model").write_bytes(b"beside")
    assert llama_meta.tokenizer_path(folder) == folder / "tokenizer.model"


def test_meta_directories_are_known_by_their_files(tmp_path: Path, release: tuple[Path, list[dict[str, Any]]]) -> None:
    assert llama_meta.is_model(release[0])
    (tmp_path / "x").mkdir()
    assert not llama_meta.is_model(tmp_path / "x")
    (tmp_path / "x" / meta_params.FILE).write_text("{}")
    assert not llama_meta.is_model(tmp_path / "x")


def test_every_tensor_of_a_model_has_a_name(make_params: MakeParams) -> None:
    found = [llama_meta.to_meta(tensor.name) for tensor in names.tensors(GROUPED)]
    assert len(set(found)) == len(found) == 2 * 9 + 3
    assert found[1] == "layers.0.attention_norm.weight"
    with pytest.raises(KeyError):
        llama_meta.to_meta("model.layers.0.self_attn.q_proj.bias")
