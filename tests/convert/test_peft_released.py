"""The original's whole way: an un-resized base, LLaMA's adapter, then Alpaca's with one row more; as PEFT folds them, and in one go."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import safetensors.numpy

from tests.reference import released_adapters
from zhllama_jax.convert import extend, llama_hf, llama_meta, manifest, names, peft, rewrite, stack
from zhllama_jax.model import config as config_lib
from zhllama_jax.tokenizer import merge, processor


class World(NamedTuple):
    """A base of the original's vocabulary, and two adapters trained one on top of the other, each with its tokenizer."""

    base: Path
    chinese: Path
    alpaca: Path
    sizes: tuple[int, int, int]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, english_pieces: Path, chinese_pieces: Path, make_params: Callable[..., Any]) -> World:
    """The three, as they were released but for their size."""
    folder = tmp_path_factory.mktemp("released")
    base = processor.Tokenizer.load(english_pieces)
    larger = processor.Tokenizer.from_bytes(merge.merge(english_pieces, [chinese_pieces], mode="reference").serialized)
    padded = processor.Tokenizer.from_bytes(merge.merge(english_pieces, [chinese_pieces], mode="reference", pad_token=True).serialized)
    assert padded.vocab_size == larger.vocab_size + 1
    config = config_lib.named("micro", vocab_size=base.vocab_size)
    llama_hf.save(folder / "base", config=config, params=make_params(config, dtype=np.float16), tokenizer=base)
    first = released_adapters.tensors(config.replace(vocab_size=larger.vocab_size), rank=4, seed=1)
    second = released_adapters.tensors(config.replace(vocab_size=padded.vocab_size), rank=4, seed=2)
    return World(
        folder / "base",
        released_adapters.write(folder / "chinese-llama-lora", first, larger),
        released_adapters.write(folder / "chinese-alpaca-lora", second, padded),
        (base.vocab_size, larger.vocab_size, padded.vocab_size),
    )


def test_both_are_folded_onto_a_base_that_nobody_resized(world: World, tmp_path: Path) -> None:
    done = rewrite.run(world.base, tmp_path / "merged", adapters=[world.chinese, world.alpaca], dtype="float32", template="alpaca")
    assert any(f"was grown from {world.sizes[0]:,} rows to the {world.sizes[2]:,}" in note for note in done.notes)
    assert not any("another tokenizer" in note for note in done.notes), "theirs are the base's, and more"
    found = safetensors.numpy.load_file(tmp_path / "merged" / "model.safetensors")
    for name, value in as_peft_does(world, tmp_path).items():
        np.testing.assert_allclose(found[name], value, rtol=0, atol=2e-6, err_msg=name)
    assert processor.Tokenizer.load(tmp_path / "merged").sha256 == processor.Tokenizer.load(world.alpaca).sha256
    for again, why in ((world.alpaca, "is folded into .* already"), (world.chinese, "is folded into .* already")):
        with pytest.raises(stack.Mismatch, match=why):
            rewrite.run(tmp_path / "merged", tmp_path / "twice", adapters=[again])
    logits = done.certificate["logits"]
    assert done.certificate["tensors"]["compared"] == 21 and logits["max_abs"] < 1e-5 * logits["largest"]


def as_peft_does(world: World, folder: Path) -> dict[str, np.ndarray]:
    """The original's script: resize, load, merge_and_unload, for one adapter after the other, in float32."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    theirs = pytest.importorskip("peft")
    model = transformers.AutoModelForCausalLM.from_pretrained(world.base, dtype=torch.float32)
    for number, (adapter, size) in enumerate(zip((world.chinese, world.alpaca), world.sizes[1:], strict=True)):
        model.resize_token_embeddings(size, mean_resizing=False)
        # Today's PEFT passes the released keys over with a warning that it does not know them.
        peft.rewrite(adapter, folder / f"rewritten{number}")
        model = theirs.PeftModel.from_pretrained(model, folder / f"rewritten{number}").merge_and_unload()
    return {name: value.numpy() for name, value in model.state_dict().items()}


@pytest.mark.parametrize("logits", [True, False])
def test_a_damaged_matrix_is_refused_though_all_its_rows_are_replaced(world: World, tmp_path: Path, logits: bool) -> None:
    shutil.copytree(world.base, tmp_path / "base")
    (tmp_path / "base" / manifest.FILE).unlink()
    tensors = safetensors.numpy.load_file(tmp_path / "base" / "model.safetensors")
    tensors["lm_head.weight"][3, 1] = np.nan
    safetensors.numpy.save_file(tensors, tmp_path / "base" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"lm_head.weight holds 1 of [\d,]+ numbers that are NaN or infinite"):
        rewrite.run(tmp_path / "base", tmp_path / "merged", adapters=[world.chinese], logits=logits)
    assert not (tmp_path / "merged").exists()


def test_in_sixteen_bits_the_sum_is_rounded_once(world: World, tmp_path: Path) -> None:
    """As the bits of round(W + B₁A₁ s₁ + B₂A₂ s₂) say, and as every row of a matrix is the last adapter's."""
    rewrite.run(world.base, tmp_path / "merged", adapters=[world.chinese, world.alpaca], template="alpaca")
    found = safetensors.numpy.load_file(tmp_path / "merged" / "model.safetensors")
    base = safetensors.numpy.load_file(world.base / "model.safetensors")
    loaded = [peft.load(folder) for folder in (world.chinese, world.alpaca)]
    for tensor in names.tensors(config_lib.named("micro", vocab_size=world.sizes[2])):
        if tensor.form == "rows":
            expected = loaded[1].rows[tensor.path.removeprefix("params/")].values_VD
        elif tensor.form == "kernel":
            _, _, part, kind, _ = tensor.path.split("/")
            exact = base[tensor.name].astype(np.float64)
            for adapter in loaded:
                leaves = adapter.lora["layers"][part][kind]
                a, b = (leaves[side][tensor.layer].astype(np.float64) for side in "ab")
                exact += float(leaves["scale"][tensor.layer]) * (a @ b).T
            assert np.abs(found[tensor.name] - exact).max() <= np.spacing(np.abs(exact).max().astype(np.float16)), tensor.name
            assert (found[tensor.name] == exact.astype(np.float16)).mean() > 0.999, tensor.name
            continue
        else:
            expected = base[tensor.name]
        np.testing.assert_array_equal(found[tensor.name], expected, err_msg=tensor.name)


def test_meta_weights_are_a_base_too(world: World, tmp_path: Path) -> None:
    rewrite.run(world.base, tmp_path / "meta", to="meta", shards=2)
    assert llama_meta.is_model(tmp_path / "meta")
    adapters = [world.chinese, world.alpaca]
    for base in (world.base, tmp_path / "meta"):
        rewrite.run(base, tmp_path / f"of-{base.name}", adapters=adapters, template="alpaca", logits=False)
    left, right = (tmp_path / name / "model.safetensors" for name in ("of-base", "of-meta"))
    assert left.read_bytes() == right.read_bytes()


def test_the_other_order_is_refused(world: World, tmp_path: Path) -> None:
    extend.run(world.base, processor.Tokenizer.load(world.alpaca), tmp_path / "grown")
    for base in (world.base, tmp_path / "grown"):
        with pytest.raises(stack.Mismatch, match=r"chinese-llama-lora is for a vocabulary of .* and comes after .*chinese-alpaca-lora"):
            rewrite.run(base, tmp_path / "merged", adapters=[world.alpaca, world.chinese])
        assert not (tmp_path / "merged").exists()


def test_matrices_of_two_vocabularies_are_refused(world: World, config: config_lib.LlamaConfig, tmp_path: Path) -> None:
    found = released_adapters.tensors(config)
    found["base_model.model.lm_head.weight"] = found["base_model.model.lm_head.weight"][:-3]
    adapter = released_adapters.write(tmp_path / "a", found)
    with pytest.raises(ValueError, match=rf"embed_tokens has {config.vocab_size:,} rows and lm_head has {config.vocab_size - 3:,} rows"):
        rewrite.run(world.base, tmp_path / "merged", adapters=[adapter])


def test_a_trainer_s_checkpoint_need_not_be_renamed(world: World, tmp_path: Path) -> None:
    """What the original's trainers call pytorch_model.bin is the adapter."""
    folder = tmp_path / "checkpoint-600"
    folder.mkdir()
    (folder / "pytorch_model.bin").write_bytes((world.chinese / "adapter_model.bin").read_bytes())
    (folder / peft.CONFIG).write_bytes((world.chinese / peft.CONFIG).read_bytes())
    assert peft.load(folder).digest == peft.load(world.chinese).digest
