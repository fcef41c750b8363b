"""Adapters in PEFT's layout: ours load in PEFT, PEFT's load here, with equal numbers; the rest is refused by name."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from zhllama_jax import files, tree
from zhllama_jax.convert import llama_hf, manifest, names, peft, rewrite, source
from zhllama_jax.lora import adapters
from zhllama_jax.lora import config as lora_config_lib
from zhllama_jax.model import config as config_lib
from zhllama_jax.tokenizer import processor

LORA = lora_config_lib.LoraConfig(rank=3, alpha=8.0, dropout=0.1)


def random_lora(config: config_lib.LlamaConfig, lora_config: lora_config_lib.LoraConfig, seed: int = 5) -> Any:
    """Factors of which neither is zero."""
    rng = np.random.default_rng(seed)
    shapes = {tensor.path: tensor.shape for tensor in names.tensors(config) if tensor.form == "kernel"}
    leaves = {}
    for path, (fan_out, fan_in) in shapes.items():
        path = path.removeprefix("params/").removesuffix("/kernel")
        if path.rsplit("/", 1)[-1] in lora_config.targets:
            layers = config.num_hidden_layers
            leaves[f"{path}/a"] = rng.normal(size=(layers, fan_in, lora_config.rank)).astype(np.float32)
            leaves[f"{path}/b"] = rng.normal(size=(layers, lora_config.rank, fan_out)).astype(np.float32) * 0.1
            leaves[f"{path}/scale"] = np.full((layers,), lora_config.scale, np.float32)
    return tree.unflatten(leaves)


def random_rows(config: config_lib.LlamaConfig, params: Any, blocks: tuple[str, ...], seed: int = 6) -> Any:
    """Blocks of both matrices (of the embedding alone where they are tied), unlike those of `params`, spare rows zero."""
    rng = np.random.default_rng(seed)
    logical = {"base": config.base_rows, "extension": config.extension_rows}
    result: dict[str, Any] = {}
    for name in ("embed_tokens", "lm_head"):
        for block in blocks if name in params else ():
            values = rng.normal(size=params[name][block].shape).astype(np.float32)
            values[logical[block] :] = 0
            result.setdefault(name, {})[block] = values
    return result


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory, config: config_lib.LlamaConfig, params: Any, tokenizer: processor.Tokenizer) -> Path:
    """The base model's directory."""
    path = tmp_path_factory.mktemp("peft") / "base"
    llama_hf.save(path, config=config, params=params, tokenizer=tokenizer)
    return path


@pytest.fixture
def save(tmp_path: Path, base: Path, config: config_lib.LlamaConfig, tokenizer: processor.Tokenizer) -> Callable[..., Path]:
    """Writes an adapter of the base."""

    def write(name: str = "adapter", **arguments: Any) -> Path:
        defaults = {"lora": {}, "rows": {}, "lora_config": None, "config": config, "base": base, "tokenizer": tokenizer}
        peft.save(tmp_path / name, **{**defaults, "base_fingerprint": source.fingerprint(arguments.get("base", base)), **arguments})
        return tmp_path / name

    return write


def edit(directory: Path, **changes: Any) -> None:
    path = directory / peft.CONFIG
    contents = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({key: value for key, value in contents.items() if value != "absent"}))


def change_tensors(directory: Path, change: Callable[[dict[str, np.ndarray]], Any]) -> None:
    """Edits the weights of a directory that then has no manifest any more."""
    tensors = safetensors.numpy.load_file(directory / peft.WEIGHTS)
    change(tensors)
    safetensors.numpy.save_file(tensors, directory / peft.WEIGHTS)
    (directory / manifest.FILE).unlink(missing_ok=True)


@pytest.mark.parametrize("blocks", [(), ("extension",), ("base", "extension")])
def test_round_trip(save: Callable[..., Path], config: config_lib.LlamaConfig, params: Any, blocks: tuple[str, ...]) -> None:
    lora, rows = random_lora(config, LORA), random_rows(config, params, blocks)
    prompt = manifest.Prompt("alpaca", "joined")
    directory = save(lora=lora, rows=rows, lora_config=LORA, requires=["ab" * 32], prompt=prompt, history=[{"step": "train"}])
    loaded = peft.load(directory)
    assert (loaded.lora_config, loaded.requires, loaded.prompt) == (LORA, ["ab" * 32], prompt)
    assert (loaded.vocab_size, loaded.history, loaded.notes) == (config.vocab_size, [{"step": "train"}], [])
    contents = manifest.read(directory, "adapter")
    assert contents is not None
    assert contents["fingerprint"] == loaded.digest
    assert manifest.verify(directory, "adapter") == []
    expected, found = tree.flatten(lora), tree.flatten(loaded.lora)
    assert expected.keys() == found.keys()
    for path in expected:
        assert found[path].dtype == np.float32
        np.testing.assert_array_equal(found[path], expected[path], err_msg=path)
    placed = peft.place_rows(config, params, loaded)
    for name in ("embed_tokens", "lm_head"):
        for block in ("base", "extension"):
            source = rows[name] if block in blocks else params[name]
            np.testing.assert_array_equal(placed[name][block], source[block])


def test_fresh_adapters_are_written_from_the_device(save: Callable[..., Path], config: config_lib.LlamaConfig, params: Any) -> None:
    import jax

    lora = adapters.init(jax.random.key(0), params, LORA)
    found = tree.flatten(peft.load(save(lora=lora, lora_config=LORA)).lora)
    for path, leaf in tree.flatten(lora).items():
        np.testing.assert_array_equal(found[path], np.asarray(leaf))


def test_layout_is_peft_s(save: Callable[..., Path], config: config_lib.LlamaConfig, params: Any) -> None:
    lora_config = lora_config_lib.LoraConfig(rank=2, alpha=4.0, targets=("k_proj",))
    rows = random_rows(config, params, ("extension",))
    rows["embed_tokens"]["base"] = params["embed_tokens"]["base"]
    directory = save(lora=random_lora(config, lora_config), rows=rows, lora_config=lora_config)
    prefix = "base_model.model.model.layers"
    shapes = {name: tensor.shape for name, tensor in safetensors.numpy.load_file(directory / peft.WEIGHTS).items()}
    assert shapes == {
        f"{prefix}.0.self_attn.k_proj.lora_A.weight": (2, 32),
        f"{prefix}.0.self_attn.k_proj.lora_B.weight": (16, 2),
        f"{prefix}.1.self_attn.k_proj.lora_A.weight": (2, 32),
        f"{prefix}.1.self_attn.k_proj.lora_B.weight": (16, 2),
        "base_model.model.model.embed_tokens.weight": (config.vocab_size, 32),
        "base_model.model.lm_head.token_adapter.trainable_tokens_delta": (40, 32),
    }
    settings = json.loads((directory / peft.CONFIG).read_text())
    assert settings["modules_to_save"] == ["embed_tokens"]
    assert settings["trainable_token_indices"] == {"lm_head": list(range(config.base_rows, config.vocab_size))}
    assert settings["target_modules"] == ["k_proj"]
    assert (settings["r"], settings["lora_alpha"], settings["lora_dropout"]) == (2, 4, 0.05)


KINDS: dict[str, dict[str, Any]] = {
    "lora": {"blocks": ()},
    "lora and new rows": {"blocks": ("extension",)},
    "lora and all rows": {"blocks": ("base", "extension")},
    "rank-stabilised": {"blocks": (), "lora": lora_config_lib.LoraConfig(rank=3, alpha=8.0, targets=("q_proj", "up_proj"), rslora=True)},
    "uneven scales": {"blocks": (), "scales": {"q_proj": [1.5, 1.5], "down_proj": [0.5, 2.0]}},
    "tied, new rows": {"blocks": ("extension",), "tied": True},
    "tied, all rows": {"blocks": ("base", "extension"), "tied": True},
}


@pytest.mark.parametrize("kind", KINDS)
def test_peft_loads_ours_and_merges_to_the_same_numbers(
    save: Callable[..., Path],
    tmp_path: Path,
    base: Path,
    config: config_lib.LlamaConfig,
    make_params: Callable[..., Any],
    tokenizer: processor.Tokenizer,
    kind: str,
) -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    theirs = pytest.importorskip("peft")
    setup = KINDS[kind]
    lora_config = setup.get("lora", LORA)
    config = config.replace(tie_word_embeddings=setup.get("tied", False))
    params = make_params(config)
    if config.tie_word_embeddings:
        base = tmp_path / "tied"
        llama_hf.save(base, config=config, params=params, tokenizer=tokenizer)
    lora = random_lora(config, lora_config)
    for path, leaf in tree.flatten(lora).items():
        if path.split("/")[-2] in setup.get("scales", {}) and path.endswith("/scale"):
            leaf[:] = setup["scales"][path.split("/")[-2]]
    directory = save(config=config, base=base, lora=lora, rows=random_rows(config, params, setup["blocks"]), lora_config=lora_config)
    rewrite.run(base, tmp_path / "merged", adapters=[directory])
    assert peft.load(directory).rows.keys() == ({"embed_tokens", "lm_head"} & params.keys() if setup["blocks"] else set())

    tokens = torch.tensor(np.random.default_rng(0).integers(0, config.vocab_size, (2, 19)))
    model = theirs.PeftModel.from_pretrained(transformers.AutoModelForCausalLM.from_pretrained(base), directory).eval()
    ours = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "merged").eval()
    with torch.no_grad():
        expected, found = model(tokens).logits.numpy(), ours(tokens).logits.numpy()
    assert np.abs(expected).max() > 1
    np.testing.assert_allclose(found, expected, atol=2e-5 * np.abs(expected).max())
    merged = model.merge_and_unload().state_dict()
    for name, value in ours.state_dict().items():
        np.testing.assert_allclose(value.numpy(), merged[name].numpy(), atol=2e-6, err_msg=name)


def test_an_embedding_that_was_parted_from_a_tied_head_is_refused(
    save: Callable[..., Path], base: Path, config: config_lib.LlamaConfig, make_params: Callable[..., Any]
) -> None:
    """PEFT keeps the old head then; a tied model would change it too."""
    tied = config.replace(tie_word_embeddings=True)
    params = make_params(tied)
    directory = save(
        config=tied, base=base, lora=random_lora(tied, LORA), rows=random_rows(tied, params, ("base", "extension")), lora_config=LORA
    )
    peft.check_fits(peft.load(directory), tied)
    settings = files.read_json(directory / "adapter_config.json", what="settings")
    files.write_json(directory / "adapter_config.json", {k: v for k, v in settings.items() if k != "ensure_weight_tying"})
    with pytest.raises(ValueError, match="apart from the head, which the model ties"):
        peft.check_fits(peft.load(directory), tied)


READ = ["modules_to_save", "trainable_token_indices", "layers_to_transform", "names of one layer", "a pattern", "exclude_modules", "rslora"]


@pytest.mark.parametrize("kind", READ)
def test_ours_reads_what_peft_saves(tmp_path: Path, base: Path, config: config_lib.LlamaConfig, kind: str) -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    theirs = pytest.importorskip("peft")
    new_rows = list(range(config.base_rows, config.vocab_size))
    extra: dict[str, Any] = {
        "modules_to_save": {"modules_to_save": ["embed_tokens", "lm_head"]},
        "trainable_token_indices": {"trainable_token_indices": {"embed_tokens": new_rows[::-1], "lm_head": new_rows[:7]}},
        "layers_to_transform": {"layers_to_transform": [0], "alpha_pattern": {}},
        "names of one layer": {
            "target_modules": ["layers.1.self_attn.q_proj", "layers.0.mlp.up_proj"],
            "rank_pattern": {},
            "alpha_pattern": {},
        },
        "a pattern": {
            "target_modules": r".*\.0\..*\.(up|down)_proj",
            "rank_pattern": {r"^model\.layers\.0\.mlp\.up_proj$": 3},
            "alpha_pattern": {"mlp.up_proj": 1},
        },
        "exclude_modules": {"exclude_modules": ["model.layers.0.self_attn.q_proj"]},
        "rslora": {"use_rslora": True},
    }[kind]
    defaults = {"target_modules": ["q_proj", "v_proj", "down_proj"], "rank_pattern": {"v_proj": 2}}
    defaults |= {"alpha_pattern": {"layers.1.mlp.down_proj": 3}}
    settings = theirs.LoraConfig(r=4, lora_alpha=6, task_type="CAUSAL_LM", **(defaults | extra))
    torch.manual_seed(0)
    model = theirs.get_peft_model(transformers.AutoModelForCausalLM.from_pretrained(base), settings)
    with torch.no_grad():
        for name, value in model.named_parameters():
            if value.requires_grad:
                assert "lora" in name or "save" in name or "token" in name
                value += 0.2 * torch.randn_like(value)
    model.save_pretrained(tmp_path / "adapter")
    loaded = peft.load(tmp_path / "adapter")
    assert loaded.base_fingerprint is None
    notes = rewrite.run(base, tmp_path / "merged", adapters=[tmp_path / "adapter"]).notes
    assert notes[0] == f"{tmp_path / 'adapter'} names {base} as its base, without a digest to hold it against"
    expected = model.merge_and_unload().state_dict()
    found = safetensors.numpy.load_file(tmp_path / "merged" / "model.safetensors")
    assert expected.keys() == found.keys()
    for name, value in found.items():
        np.testing.assert_allclose(value, expected[name].numpy(), atol=2e-6, err_msg=name)
    peft.rewrite(tmp_path / "adapter", tmp_path / "rewritten")
    again = theirs.PeftModel.from_pretrained(transformers.AutoModelForCausalLM.from_pretrained(base), tmp_path / "rewritten")
    for name, value in again.merge_and_unload().state_dict().items():
        np.testing.assert_array_equal(value.numpy(), expected[name].numpy(), err_msg=name)


def test_rows_alone_are_written_and_said_not_to_load_in_peft(
    save: Callable[..., Path], config: config_lib.LlamaConfig, params: Any
) -> None:
    directory = save(rows=random_rows(config, params, ("extension",)))
    loaded = peft.load(directory)
    assert (loaded.lora, loaded.lora_config) == ({}, None)
    assert loaded.rows["lm_head"].ids.tolist() == list(range(config.base_rows, config.vocab_size))
    assert "PEFT cannot load that alone" in (directory / "README.md").read_text()


def test_nothing_trained_is_refused(save: Callable[..., Path]) -> None:
    with pytest.raises(ValueError, match="nothing was trained"):
        save()


def test_digest_tells_scales_apart(save: Callable[..., Path], config: config_lib.LlamaConfig) -> None:
    lora = random_lora(config, LORA)
    first = peft.load(save("first", lora=lora, lora_config=LORA)).digest
    assert peft.load(save("again", lora=lora, lora_config=LORA)).digest == first
    lora["layers"]["mlp"]["up_proj"]["scale"][:] = 1
    assert peft.load(save("second", lora=lora, lora_config=LORA)).digest != first


def test_changed_weights_or_scales_are_found(save: Callable[..., Path], config: config_lib.LlamaConfig) -> None:
    directory = save(lora=random_lora(config, LORA), lora_config=LORA)
    edit(directory, lora_alpha=9)
    with pytest.raises(ValueError, match="changed after training"):
        peft.load(directory)
    directory = save("other", lora=random_lora(config, LORA), lora_config=LORA)
    weights = directory / peft.WEIGHTS
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    with pytest.raises(ValueError, match=r"layers\.1\.\S+ is not what zhllama\.json beside it records"):
        peft.load(directory)


def drop(text: str) -> Callable[[dict[str, np.ndarray]], Any]:
    return lambda tensors: [tensors.pop(name) for name in list(tensors) if text in name]


BROKEN: dict[str, tuple[Callable[[dict[str, np.ndarray]], Any], str]] = {
    "factor missing": (drop("layers.0.self_attn.q_proj.lora_B"), "q_proj lacks layer 0 lora_B"),
    "layer missing": (drop("layers.0.mlp.up_proj"), "up_proj lacks layer 0 lora_A, layer 0 lora_B; by adapter_config"),
    "empty": (drop("lora"), "empty"),
    "foreign tensor": (
        lambda tensors: tensors.update({"base_model.model.vision.lora_A.weight": np.ones((2, 2), np.float32)}),
        "no LoRA factor",
    ),
    "norm": (lambda tensors: tensors.update({"base_model.model.model.norm.weight": np.ones(32, np.float32)}), "no LoRA factor"),
    "rank": (lambda tensors: tensors.update({f"{Q}.lora_A.weight": np.ones((2, 32), np.float32)}), "says rank 3"),
    "width": (lambda tensors: tensors.update({f"{Q}.lora_A.weight": np.ones((3, 30), np.float32)}), "differ in shape between layers"),
    "factors of the head": (
        lambda tensors: tensors.update({"base_model.model.lm_head.lora_A.weight": np.ones((3, 32), np.float32)}),
        r"LoRA factors of the vocabulary's matrices are not supported \(base_model\.model\.lm_head\.lora_A\.weight\): fold this adapter",
    ),
    "factors of the embedding": (
        lambda tensors: tensors.update({"base_model.model.model.embed_tokens.lora_embedding_A": np.ones((3, 340), np.float32)}),
        "matrices are not supported",
    ),
    "no number": (
        lambda tensors: tensors[f"{Q}.lora_B.weight"].fill(np.nan),
        r"q_proj\.lora_B\.weight holds 96 of 96 numbers that are NaN",
    ),
    "vector": (lambda tensors: tensors.update({f"{Q}.lora_A.weight": np.ones(3, np.float32)}), "must be a matrix"),
    "rows unnamed": (
        lambda tensors: tensors.update({"base_model.model.lm_head.token_adapter.trainable_tokens_delta": np.ones((3, 32), np.float32)}),
        "names 0",
    ),
}
Q = "base_model.model.model.layers.0.self_attn.q_proj"


@pytest.mark.parametrize("case", BROKEN)
def test_broken_weights_are_refused(save: Callable[..., Path], config: config_lib.LlamaConfig, case: str) -> None:
    directory = save(lora=random_lora(config, LORA), lora_config=LORA)
    change, message = BROKEN[case]
    change_tensors(directory, change)
    with pytest.raises(ValueError, match=message):
        peft.load(directory)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"modules_to_save": ["embed_tokens", "lm_head"]}, r"names rows of embed_tokens, rows of lm_head, but adapter_model\.safetensors"),
        ({"modules_to_save": ["model.embed_tokens"]}, "names rows of embed_tokens, but"),
        ({"trainable_token_indices": [3, 4]}, "names rows of embed_tokens, but"),
        ({"trainable_token_indices": {"lm_head": [3]}}, "names rows of lm_head, but"),
        ({"target_modules": ["q_proj", "v_proj", "mlp.up_proj"]}, "names factors of v_proj, factors of mlp.up_proj, but"),
        ({"target_modules": ["model.layers.1.self_attn.q_proj", "model.layers.5.self_attn.q_proj"]}, "names factors of model.layers.5"),
        ({"target_modules": ["q_proj", "lm_head"]}, "names factors of lm_head, but"),
    ],
)
def test_what_the_configuration_names_must_be_there(
    save: Callable[..., Path], config: config_lib.LlamaConfig, settings: dict[str, object], message: str
) -> None:
    shape = lora_config_lib.LoraConfig(rank=3, alpha=8.0, targets=("q_proj",))
    directory = save(lora=random_lora(config, shape), lora_config=shape)
    edit(directory, **settings)
    with pytest.raises(ValueError, match=message):
        peft.load(directory)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"target_modules": ["q_proj"]},
            r"model\.layers\.0\.mlp\.up_proj, model\.layers\.1\.mlp\.up_proj, which target_modules does not name",
        ),
        ({"target_modules": ["q_proj", "layers.1.mlp.up_proj"]}, r"has factors of model\.layers\.0\.mlp\.up_proj, which"),
        ({"layers_to_transform": [0]}, r"layers\.1\.mlp\.up_proj, model\.layers\.1\.self_attn\.q_proj, which layers_to_transform does not"),
    ],
)
def test_factors_that_peft_would_pass_over_are_refused(
    save: Callable[..., Path], config: config_lib.LlamaConfig, settings: dict[str, object], message: str
) -> None:
    shape = lora_config_lib.LoraConfig(rank=3, alpha=8.0, targets=("q_proj", "up_proj"))
    directory = save(lora=random_lora(config, shape), lora_config=shape)
    assert peft.load(directory).lora_config == shape
    edit(directory, **settings)
    with pytest.raises(ValueError, match=message):
        peft.load(directory)


@pytest.mark.parametrize(
    "settings",
    [
        {"target_modules": ["self_attn.q_proj", "query_key_value"]},
        {"target_modules": r".*\.(q|v)_proj"},
        {"target_modules": "all-linear"},
        {"target_modules": ["q_proj", "v_proj"], "exclude_modules": ["v_proj"]},
        {"target_modules": None},
        {"modules_to_save": ["embed_tokens", "lm_head"], "ensure_weight_tying": True},
    ],
)
def test_patterns_names_of_others_and_tied_heads_promise_nothing(
    save: Callable[..., Path], config: config_lib.LlamaConfig, params: Any, settings: dict[str, object]
) -> None:
    shape = lora_config_lib.LoraConfig(rank=3, alpha=8.0, targets=("q_proj",))
    rows = {"embed_tokens": random_rows(config, params, ("base", "extension"))["embed_tokens"]}
    directory = save(lora=random_lora(config, shape), rows=rows, lora_config=shape)
    edit(directory, **settings)
    assert peft.load(directory).rows.keys() == {"embed_tokens"}


def test_missing_files_are_named(tmp_path: Path, save: Callable[..., Path], base: Path, config: config_lib.LlamaConfig) -> None:
    with pytest.raises(FileNotFoundError, match="expected an adapter directory"):
        peft.load(tmp_path / "absent")
    with pytest.raises(FileNotFoundError, match=r"adapter_config\.json not found"):
        peft.load(tmp_path)
    directory = save(lora=random_lora(config, LORA), lora_config=LORA)
    (directory / peft.WEIGHTS).unlink()
    with pytest.raises(FileNotFoundError, match=r"has no weights: expected adapter_model\.safetensors or adapter_model\.bin"):
        peft.load(directory)
    with pytest.raises(ValueError, match="base is a model, not an adapter"):
        peft.load(base)


def test_adapters_of_another_shape_do_not_fit(save: Callable[..., Path], config: config_lib.LlamaConfig, params: Any) -> None:
    rows = random_rows(config, params, ("base", "extension"))
    loaded = peft.load(save(lora=random_lora(config, LORA), rows=rows, lora_config=LORA))
    peft.check_fits(loaded, config)
    with pytest.raises(ValueError, match=r"q_proj has a \[2, 32, \d+\], .*, beside a kernel of \[3, 32, 32\]"):
        peft.check_fits(loaded, config.replace(num_hidden_layers=3))
    with pytest.raises(ValueError, match=r"zhllama resize --model MODEL --tokenizer .* --output GROWN"):
        peft.check_fits(loaded, config.replace(vocab_size=config.vocab_size - 1))
    with pytest.raises(ValueError, match="rows of lm_head, which the model ties"):
        peft.check_fits(loaded, config.replace(tie_word_embeddings=True))
