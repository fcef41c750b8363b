"""Take-over: each way goes on with exactly the function that the former stage left, and says so in what it writes."""

import dataclasses
import functools
import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
import safetensors.numpy

from zhllama_jax import tree
from zhllama_jax.convert import fold, llama_hf, peft, source
from zhllama_jax.lora import adapters
from zhllama_jax.lora import config as lora_config
from zhllama_jax.model import config as model_config
from zhllama_jax.model import llama
from zhllama_jax.tokenizer import processor
from zhllama_jax.train import config, takeover

DATA = config.Data(sources=(config.Source(store="unused"),))
LORA = config.Lora(rank=2, alpha=4.0)
STEP = {"step": "train", "stage": "x"}
TOKENS = np.arange(1, 25).reshape(2, 12) % 300


@pytest.fixture(scope="module")
def world(english_pieces, tmp_path_factory):
    """A bfloat16 base with an extension, and its tokenizer."""
    directory = tmp_path_factory.mktemp("world")
    tokenizer = processor.Tokenizer.load(english_pieces)
    shape = model_config.named("micro", vocab_size=tokenizer.vocab_size, base_vocab_size=tokenizer.vocab_size - 40)
    params = llama.init(shape, jax.random.key(0))
    params = tree.map_with_path(lambda path, leaf: 4 * leaf if leaf.ndim > 2 else leaf, params)
    llama_hf.save(directory / "base", config=shape, params=params, tokenizer=tokenizer, dtype="bfloat16")
    return directory


def experiment(world, output, **changes) -> config.Experiment:
    fields = {"model": str(world / "base"), "data": DATA, "output": str(output), "steps": 1, "lora": LORA, **changes}
    return config.Experiment(**fields)


def train(chosen: config.Experiment, *, seed: int = 0) -> dict:
    """A stage whose training is a random nudge to whatever learns; returns its result."""
    start = takeover.begin(chosen, say=lambda line: None)
    learns = ("lora/", "params/embed_tokens/extension") if chosen.choice.lora_targets else ("params/embed_tokens/",)
    generator = np.random.default_rng(seed)

    def nudged(path: str, leaf) -> np.ndarray:
        moved = np.asarray(leaf, np.float32) + 0.05 * generator.normal(size=leaf.shape).astype(np.float32)
        rows = {"base": start.config.base_rows, "extension": start.config.extension_rows}.get(path.split("/")[-1])
        if rows is not None:
            moved[rows:] = 0
        return moved

    leaves = {
        path: nudged(path, leaf) for path, leaf in tree.flatten(start.weights).items() if path.startswith(learns) and "scale" not in path
    }
    return takeover.finish(chosen, start, tree.unflatten(leaves), prompt=None, step=STEP, figures={"loss": 1.0})


@pytest.fixture(scope="module")
def attention(world) -> dict:
    """A former stage: factors on q, k, v, o and rows of the extension."""
    return train(experiment(world, world / "attention", stage=config.Stage("pretrain_lora", rows="new", head=False)))


def outputs(shape: model_config.LlamaConfig, weights: dict) -> np.ndarray:
    return np.asarray(forward(shape, jax.tree.map(lambda leaf: np.asarray(leaf, np.float32), weights)))


@functools.partial(jax.jit, static_argnums=0)
def forward(shape: model_config.LlamaConfig, weights: dict) -> jax.Array:
    return llama.logits(shape, weights["params"], llama.hidden_states(shape, weights, TOKENS)[0])


@functools.cache
def folded(model: str, *listed: str) -> np.ndarray:
    """What base and adapters compute together, by the converter's own fold."""
    loaded = fold.load(model, listed, dtype="float32").checkpoint
    return outputs(loaded.config, {"params": loaded.params})


WAYS = [
    ("continue", config.Stage("pretrain_lora", rows="new", head=False)),
    ("extend", config.Stage("sft", rows="new", head=False)),
    ("fold", config.Stage("sft", rows="new", head=False)),
]


@pytest.mark.parametrize(("mode", "stage"), WAYS, ids=[mode for mode, _ in WAYS])
def test_every_way_starts_where_the_former_stage_ended(world, attention, tmp_path, mode, stage) -> None:
    chosen = experiment(world, tmp_path, adapters=tuple(attention["adapters"]), adapter=mode, stage=stage)
    start = takeover.begin(chosen, say=print)
    assert {path.split("/")[-2] for path in tree.flatten(start.weights["lora"])} == set(stage.lora_targets)
    np.testing.assert_allclose(
        outputs(start.config, start.weights), folded(attention["model"], *attention["adapters"]), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize(("mode", "stage"), WAYS, ids=[mode for mode, _ in WAYS])
def test_what_is_written_folds_to_what_was_trained(world, attention, tmp_path, mode, stage) -> None:
    chosen = experiment(world, tmp_path, adapters=tuple(attention["adapters"]), adapter=mode, stage=stage)
    result = train(chosen, seed=1)
    start = takeover.begin(chosen, say=lambda line: None)
    written = peft.load(tmp_path / "adapter")
    weights = {"params": peft.place_rows(start.config, start.weights["params"], written), "lora": written.lora}
    assert result["adapters"] == ([*attention["adapters"]] if mode == "fold" else []) + [str(tmp_path / "adapter")]
    np.testing.assert_allclose(outputs(start.config, weights), folded(result["model"], *result["adapters"]), rtol=1e-4, atol=1e-5)
    assert written.requires == ([peft.load(attention["adapters"][0]).digest] if mode == "fold" else [])
    assert len(written.history) == (1 if mode == "fold" else 2)
    assert result["loss"] == 1.0 and result["stage"] == "x"


def test_a_replaced_adapter_hands_its_rows_on(world, attention, tmp_path) -> None:
    """A stage that trains factors only must still carry the rows of the adapter whose place it takes."""
    stage = config.Stage("pretrain_lora", rows="none")
    chosen = experiment(world, tmp_path, adapters=tuple(attention["adapters"]), adapter="continue", stage=stage)
    start = takeover.begin(chosen, say=print)
    factors = {"lora": {"layers": start.weights["lora"]["layers"]}}
    takeover.finish(chosen, takeover.trimmed(start), factors, prompt=None, step=STEP, figures={})
    former, written = peft.load(attention["adapters"][0]), peft.load(tmp_path / "adapter")
    np.testing.assert_array_equal(written.rows["embed_tokens"].values_VD, former.rows["embed_tokens"].values_VD)
    np.testing.assert_array_equal(written.rows["embed_tokens"].ids, former.rows["embed_tokens"].ids)
    assert "lm_head" not in written.rows


def test_extended_factors_keep_their_own_scale(world, attention, tmp_path) -> None:
    wide = config.Lora(rank=3, alpha=30.0)
    chosen = experiment(world, tmp_path, adapters=tuple(attention["adapters"]), adapter="extend", stage="sft", lora=wide)
    leaves = tree.flatten(takeover.begin(chosen, say=print).weights["lora"])
    assert set(leaves["layers/self_attn/q_proj/scale"]) == {2.0} and leaves["layers/self_attn/q_proj/a"].shape[-1] == 2
    assert set(leaves["layers/mlp/up_proj/scale"]) == {10.0} and leaves["layers/mlp/up_proj/a"].shape[-1] == 3
    result = train(chosen)
    assert np.isfinite(folded(result["model"], *result["adapters"])).all()


def test_fresh_factors_leave_the_base_as_it_is(world, tmp_path) -> None:
    start = takeover.begin(experiment(world, tmp_path, stage="sft"), say=print)
    np.testing.assert_array_equal(outputs(start.config, start.weights), outputs(start.config, {"params": start.weights["params"]}))
    assert adapters.count(start.weights["lora"]) > 0


def test_rows_only_may_come_before_fresh_factors(world, tmp_path) -> None:
    rows = train(experiment(world, tmp_path / "rows", stage="embeddings"))
    assert not peft.load(rows["adapters"][0]).lora
    chosen = experiment(world, tmp_path / "next", stage="pretrain_lora", adapters=tuple(rows["adapters"]))
    np.testing.assert_allclose(
        outputs(takeover.begin(chosen, say=print).config, takeover.begin(chosen, say=print).weights),
        folded(rows["model"], *rows["adapters"]),
        rtol=1e-5,
        atol=1e-6,
    )


def test_folding_into_a_low_precision_says_what_is_lost(world, attention, tmp_path) -> None:
    lines: list[str] = []
    chosen = experiment(world, tmp_path, adapters=tuple(attention["adapters"]), adapter="fold", stage="sft")
    takeover.begin(chosen, say=lines.append)
    assert not lines
    takeover.begin(dataclasses.replace(chosen, dtype="bfloat16"), say=lines.append)
    assert len(lines) == 1 and "folding into bfloat16: rounding differs from the exact sum by" in lines[0]


REFUSED = [
    ({"adapter": "fresh"}, "holds LoRA factors: say continue, extend or fold"),
    ({"adapter": "continue", "stage": "sft"}, "it has factors on q_proj, k_proj, v_proj, o_proj, the stage on q_proj"),
    ({"adapter": "continue", "lora": config.Lora(rank=4)}, "its rank is 2, the stage's 4, its alpha is 4.0, the stage's 32.0"),
    ({"adapter": "extend", "stage": "pretrain_lora"}, "must hold its own .* and more"),
]


@pytest.mark.parametrize(("changes", "words"), REFUSED)
def test_what_the_adapters_do_not_allow(world, attention, tmp_path, changes, words) -> None:
    with pytest.raises(ValueError, match=words):
        takeover.begin(experiment(world, tmp_path, adapters=tuple(attention["adapters"]), **changes), say=print)


def test_a_pattern_continues_the_kernels_it_stands_for(world, attention, tmp_path) -> None:
    stage = config.Stage("pretrain_lora", lora=("layers/self_attn/.*",), rows="new", head=False)
    start = takeover.begin(experiment(world, tmp_path, adapters=tuple(attention["adapters"]), adapter="continue", stage=stage), say=print)
    assert start.replaced and {path.split("/")[-2] for path in tree.flatten(start.weights["lora"])} == set(lora_config.ATTENTION)


def test_nothing_to_go_on_with(world, tmp_path) -> None:
    rows = train(experiment(world, tmp_path / "rows", stage="embeddings"))
    with pytest.raises(ValueError, match="none of the adapters holds LoRA factors: say fresh"):
        takeover.begin(experiment(world, tmp_path, adapters=tuple(rows["adapters"]), adapter="continue"), say=print)


def test_trainables_that_no_adapter_can_hold(world) -> None:
    takeover.check_trainable(config.Stage("full"), {"params/norm/weight": True})
    takeover.check_trainable(config.Stage("sft"), {"lora/x/a": True, "params/lm_head/base": True, "params/norm/weight": False})
    with pytest.raises(ValueError, match="trains params/norm/weight, which no adapter can hold"):
        takeover.check_trainable(config.Stage("sft"), {"params/norm/weight": True})


def test_layers_that_an_adapter_left_out_can_learn(world, attention, tmp_path) -> None:
    """As of PEFT's layers_to_transform: zeros in place of both factors would never move."""
    former, partial = Path(attention["adapters"][0]), tmp_path / "partial"
    partial.mkdir()
    tensors = safetensors.numpy.load_file(former / "adapter_model.safetensors")
    kept = {name: value for name, value in tensors.items() if ".layers.0." not in name}
    safetensors.numpy.save_file(kept, partial / "adapter_model.safetensors")
    settings = json.loads((former / "adapter_config.json").read_text())
    (partial / "adapter_config.json").write_text(json.dumps({**settings, "layers_to_transform": [1]}))
    shutil.copy(former / "tokenizer.model", partial)
    stage = config.Stage("pretrain_lora", rows="new", head=False)
    start = takeover.begin(experiment(world, tmp_path / "run", adapters=(str(partial),), adapter="continue", stage=stage), say=print)
    before = tree.flatten(peft.load(partial).lora)
    for path, leaf in tree.flatten(start.weights["lora"]).items():
        if path.endswith("/a"):
            assert leaf[0].any() and np.abs(leaf[0]).max() < 1
            np.testing.assert_array_equal(leaf[1], before[path][1])
        elif path.endswith("/b"):
            assert not leaf[0].any(), "and adds nothing yet"
            np.testing.assert_array_equal(leaf[1], before[path][1])


def test_the_identity_of_a_start_names_base_adapters_and_tokenizer(world, attention, tmp_path) -> None:
    chosen = experiment(world, tmp_path, adapters=tuple(attention["adapters"]), adapter="continue")
    identity = takeover.begin(chosen, say=print).identity()
    assert identity["base"] == source.fingerprint(world / "base")
    assert identity["adapters"] == [peft.load(attention["adapters"][0]).digest]


def test_random_weights_have_the_tokenizers_vocabulary(english_pieces, tmp_path) -> None:
    new = config.NewModel(str(english_pieces), config.Dimensions("micro"))
    start = takeover.begin(config.Experiment(model=new, data=DATA, output=str(tmp_path), stage="full", steps=1), say=print)
    assert start.config.vocab_size == start.tokenizer.vocab_size and start.dtype == "float32"
    again = takeover.begin(config.Experiment(model=new, data=DATA, output=str(tmp_path), stage="full", steps=1, seed=1), say=print)
    assert np.any(start.weights["params"]["lm_head"]["base"] != again.weights["params"]["lm_head"]["base"])


def test_a_tokenizer_of_another_kind_is_refused_at_the_start(world, english_pieces, chinese_pieces, tmp_path) -> None:
    """Not at the end, when the trained model cannot be written."""
    new = config.NewModel(str(chinese_pieces), config.Dimensions("micro"))
    with pytest.raises(ValueError, match=rf"{chinese_pieces} is not a LLaMA tokenizer .*: its type is unigram, not bpe"):
        takeover.begin(config.Experiment(model=new, data=DATA, output=str(tmp_path), stage="full", steps=1), say=print)
    shutil.copytree(world / "base", tmp_path / "base")
    (tmp_path / "base" / "tokenizer.model").write_bytes(chinese_pieces.read_bytes())
    (tmp_path / "base" / "zhllama.json").unlink()
    with pytest.raises(ValueError, match=rf"{tmp_path / 'base' / 'tokenizer.model'} is not a LLaMA tokenizer"):
        takeover.begin(experiment(world, tmp_path, model=str(tmp_path / "base"), stage="sft"), say=print)
    with pytest.raises(ValueError, match=rf"{tmp_path / 'base' / 'tokenizer.model'} is not a LLaMA tokenizer"):
        fold.load(tmp_path / "base")
