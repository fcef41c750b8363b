"""Adapters that PEFT itself trained: they come in, merge to PEFT's numbers, are trained further here, and go out to PEFT again."""

import functools
import shutil
import warnings
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import safetensors.numpy

from zhllama_jax.convert import fold, peft, rewrite
from zhllama_jax.lora import config as lora_config
from zhllama_jax.model import llama
from zhllama_jax.train import config, loop

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
theirs = pytest.importorskip("peft")

TARGETS = [*lora_config.ATTENTION, *lora_config.MLP]
NEW = list(range(300, 340))
KINDS: dict[str, dict[str, Any]] = {
    "all rows": {"modules_to_save": ["embed_tokens", "lm_head"]},
    "new rows": {"trainable_token_indices": {"embed_tokens": NEW[::-1], "lm_head": NEW}},
}
TOKENS = np.random.default_rng(7).integers(0, 340, (2, 24))


@pytest.fixture(scope="module", params=KINDS)
def trained(request: pytest.FixtureRequest, base: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    """A PEFT model after a few steps of AdamW on all seven kernels and the vocabulary, and the folder that it saved."""
    torch.manual_seed(0)
    settings = theirs.LoraConfig(r=4, lora_alpha=8, lora_dropout=0.0, target_modules=TARGETS, task_type="CAUSAL_LM", **KINDS[request.param])
    model = theirs.get_peft_model(transformers.AutoModelForCausalLM.from_pretrained(base), settings).train()
    optimizer = torch.optim.AdamW([value for value in model.parameters() if value.requires_grad], lr=2e-2)
    ids = torch.tensor(np.random.default_rng(1).integers(0, 340, (4, 32)))
    for _ in range(4):
        optimizer.zero_grad()
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
    folder = tmp_path_factory.mktemp("trained") / "adapter"
    model.save_pretrained(folder)
    return model.eval(), folder


def as_pickle(folder: Path, other: Path) -> Path:
    """The same adapter as torch.save writes it, under the names that it has in a trainer's state."""
    other.mkdir()
    (other / peft.CONFIG).write_bytes((folder / peft.CONFIG).read_bytes())
    found = safetensors.numpy.load_file(folder / peft.WEIGHTS)
    torch.save(
        {
            name.replace("lora_A.", "lora_A.default.").replace("lora_B.", "lora_B.default."): torch.from_numpy(value)
            for name, value in found.items()
        },
        other / "adapter_model.bin",
    )
    return other


def logits(model: Any) -> np.ndarray:
    with torch.no_grad():
        return model(torch.tensor(TOKENS)).logits.numpy()


@functools.partial(jax.jit, static_argnums=0)
def forward(shape: Any, params: Any) -> jax.Array:
    return llama.logits(shape, params, llama.hidden_states(shape, {"params": params}, TOKENS)[0])


def ours(base: Path, adapters: list[Path]) -> np.ndarray:
    loaded = fold.load(base, adapters).checkpoint
    return np.asarray(forward(loaded.config, loaded.params))


@pytest.mark.parametrize("file", ["safetensors", "bin"])
def test_it_merges_to_what_peft_merges_it_to(trained: tuple[Any, Path], base: Path, tmp_path: Path, file: str) -> None:
    model, folder = trained
    expected = logits(model)
    if file == "bin":
        folder = as_pickle(folder, tmp_path / "bin")
    rewrite.run(base, tmp_path / "merged", adapters=[folder])
    found = safetensors.numpy.load_file(tmp_path / "merged" / "model.safetensors")
    merged = peft_of(base, folder if file == "safetensors" else trained[1]).merge_and_unload().state_dict()
    assert found.keys() == merged.keys()
    before = safetensors.numpy.load_file(base / "model.safetensors")
    for name, value in found.items():
        np.testing.assert_allclose(value, merged[name].numpy(), rtol=0, atol=1e-6, err_msg=name)
        if "norm" not in name:
            assert np.abs(value - before[name]).max() > 1e-3, f"{name} was trained"
    np.testing.assert_allclose(ours(base, [folder]), expected, rtol=0, atol=2e-5 * np.abs(expected).max())


def peft_of(base: Path, folder: Path) -> Any:
    return theirs.PeftModel.from_pretrained(transformers.AutoModelForCausalLM.from_pretrained(base), folder).eval()


def test_it_goes_on_here_and_goes_out_to_peft_again(trained: tuple[Any, Path], base: Path, small: dict, tmp_path: Path) -> None:
    model, folder = trained
    folder = as_pickle(folder, tmp_path / "bin")
    experiment = config.Experiment(
        **{
            **small,
            "model": str(base),
            "adapters": (str(folder),),
            "adapter": "continue",
            "stage": "sft",
            "lora": config.Lora(rank=4, alpha=8.0, dropout=0.0),
            "output": str(tmp_path / "run"),
            "steps": 2,
            "validation": config.Validation(every=0),
        }
    )
    result = loop.run(experiment)
    [written] = map(Path, result["adapters"])
    here, there = ours(base, [written]), logits(peft_of(base, written))
    np.testing.assert_allclose(here, there, rtol=0, atol=1e-5 * np.abs(there).max())
    assert np.abs(here - logits(model)).max() > 1e-3, "two steps were trained"
    before, after = peft.load(folder), peft.load(written)
    assert np.abs(after.lora["layers"]["mlp"]["up_proj"]["b"] - before.lora["layers"]["mlp"]["up_proj"]["b"]).max() < 0.1, "and only two"
    assert after.base_fingerprint is not None and after.rows.keys() == {"embed_tokens", "lm_head"}


def test_what_is_rewritten_loads_in_peft_as_before(trained: tuple[Any, Path], base: Path, tmp_path: Path) -> None:
    model, folder = trained
    expected = logits(model)
    peft.rewrite(as_pickle(folder, tmp_path / "bin"), tmp_path / "ours")
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="(?s).*([Uu]nexpected|[Mm]issing) (key|adapter)")
        found = logits(peft_of(base, tmp_path / "ours"))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)


def test_rows_of_a_vocabulary_that_was_resized_come_in(base: Path, tmp_path: Path) -> None:
    """PEFT saves whole matrices by itself then, beside the rows that it trained."""
    model = transformers.AutoModelForCausalLM.from_pretrained(base)
    model.resize_token_embeddings(346, mean_resizing=False)
    model.save_pretrained(tmp_path / "resized")
    shutil.copy(base / "tokenizer.model", tmp_path / "resized")
    settings = theirs.LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM", trainable_token_indices=[341, 345])
    adapted = theirs.get_peft_model(model, settings)
    with torch.no_grad():
        for name, value in adapted.named_parameters():
            if value.requires_grad:
                value += 0.3 if "token" in name else 0.1 * torch.randn_like(value)
    with pytest.warns(UserWarning, match="resized"):
        adapted.save_pretrained(tmp_path / "adapter")
    assert any("base_layer" in name for name in safetensors.numpy.load_file(tmp_path / "adapter" / peft.WEIGHTS)), "as this test supposes"
    expected = logits(adapted.eval())
    merged = adapted.merge_and_unload().state_dict()
    loaded = peft.load(tmp_path / "adapter")
    np.testing.assert_array_equal(loaded.rows["embed_tokens"].values_VD, merged["model.embed_tokens.weight"].numpy())
    np.testing.assert_allclose(ours(tmp_path / "resized", [tmp_path / "adapter"]), expected, rtol=0, atol=2e-5 * np.abs(expected).max())
    peft.rewrite(tmp_path / "adapter", tmp_path / "ours")
    np.testing.assert_allclose(logits(peft_of(tmp_path / "resized", tmp_path / "ours")), expected, rtol=0, atol=1e-6)
