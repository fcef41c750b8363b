"""A grown directory: old rows bit for bit, new ones by the rule, everything else carried over."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from zhllama_jax import files, tree
from zhllama_jax.convert import config_hf, extend, fold, host, llama_hf, manifest, peft, rewrite, safetensors_io, source
from zhllama_jax.model import config as config_lib
from zhllama_jax.model import resize
from zhllama_jax.tokenizer import align, merge, processor


@pytest.fixture(scope="module")
def merged(tokenizer: processor.Tokenizer, chinese_pieces: Path, english_pieces: Path) -> processor.Tokenizer:
    """The English tokenizer with Chinese pieces and a padding piece behind."""
    made = merge.merge(english_pieces, [chinese_pieces], pad_token=True, proof_strings=100)
    return processor.Tokenizer.from_bytes(made.serialized)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory, make_params: Callable[..., Any], tokenizer: processor.Tokenizer) -> Path:
    """A small model directory with a prompt and a history."""
    config = config_lib.named("micro", vocab_size=tokenizer.vocab_size)
    directory = tmp_path_factory.mktemp("extend") / "base"
    history = [{"step": "train"}]
    prompt = manifest.Prompt("alpaca")
    llama_hf.save(
        directory,
        config=config,
        params=make_params(config),
        tokenizer=tokenizer,
        prompt=prompt,
        history=history,
        kept={"pretraining_tp": 2},
    )
    return directory


@pytest.mark.parametrize("init", ["mean_of_pieces", "mean", "normal"])
def test_old_rows_stay_and_new_ones_follow_the_rule(
    init: resize.Init, base: Path, tokenizer: processor.Tokenizer, merged: processor.Tokenizer, tmp_path: Path
) -> None:
    done = extend.run(base, merged, tmp_path / "grown", init=init, seed=3)
    old, new = host.load(base), host.load(tmp_path / "grown")
    assert (done.before, done.config) == (tokenizer.vocab_size, new.config)
    assert (new.config.base_vocab_size, new.config.vocab_size) == (tokenizer.vocab_size, merged.vocab_size)
    assert new.config.pad_token_id == merged.pad_id
    assert new.kept["pretraining_tp"] == 2
    before, after = tree.flatten(old.params), tree.flatten(new.params)
    assert set(after) - set(before) == {"embed_tokens/extension", "lm_head/extension"}
    for path, leaf in before.items():
        assert np.array_equal(np.asarray(after[path]), np.asarray(leaf)), path
    spelled = align.spell(tokenizer, merged)
    for table in ("embed_tokens", "lm_head"):
        rows = np.asarray(old.params[table]["base"])[: tokenizer.vocab_size]
        grown = np.asarray(new.params[table]["extension"])
        assert not grown[merged.vocab_size - tokenizer.vocab_size :].any(), "spare rows are zero"
        for index, ids in enumerate(spelled):
            if tokenizer.vocab_size + index == merged.pad_id:
                continue
            if init == "mean_of_pieces":
                np.testing.assert_allclose(grown[index], rows[ids].mean(axis=0), atol=1e-6)
            elif init == "mean":
                np.testing.assert_allclose(grown[index], rows.mean(axis=0), atol=1e-6)
            else:
                assert grown[index].any()


def test_prompt_and_history_are_carried_over_and_the_step_is_noted(base: Path, merged: processor.Tokenizer, tmp_path: Path) -> None:
    done = extend.run(base, merged, tmp_path / "grown")
    grown = host.load(tmp_path / "grown")
    assert grown.prompt == manifest.Prompt("alpaca")
    assert [step["step"] for step in grown.history] == ["train", "resize"]
    step = grown.history[-1]
    assert (step["from"], step["to"], step["init"]) == (done.before, done.config.vocab_size, "mean_of_pieces")
    assert step["tokenizer_sha256"] == merged.sha256 == processor.Tokenizer.load(tmp_path / "grown").sha256
    assert manifest.verify(tmp_path / "grown") == []


def test_random_rows_are_the_seed_s(base: Path, merged: processor.Tokenizer, tmp_path: Path) -> None:
    prints = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        extend.run(base, merged, tmp_path / name, init="normal", seed=seed)
        prints.append(source.fingerprint(tmp_path / name))
    assert prints[0] == prints[1] != prints[2]


def test_a_vocabulary_that_does_not_extend_the_model_s_leaves_nothing(
    base: Path, tokenizer: processor.Tokenizer, chinese_pieces: Path, tmp_path: Path
) -> None:
    for other in (processor.Tokenizer.load(chinese_pieces), tokenizer):
        with pytest.raises(ValueError):
            extend.run(base, other, tmp_path / "grown")
    assert list(tmp_path.iterdir()) == []


def test_an_output_is_replaced_only_on_demand(base: Path, merged: processor.Tokenizer, tmp_path: Path) -> None:
    extend.run(base, merged, tmp_path / "grown")
    with pytest.raises(ValueError, match="exists"):
        extend.run(base, merged, tmp_path / "grown", init="mean")
    extend.run(base, merged, tmp_path / "grown", init="mean", overwrite=True)
    assert host.load(tmp_path / "grown").history[-1]["init"] == "mean"


def test_fewer_pieces_than_the_model_s_are_refused_with_both_numbers(base: Path, merged: processor.Tokenizer, tmp_path: Path) -> None:
    done = extend.run(base, merged, tmp_path / "grown")
    with pytest.raises(ValueError, match=rf"fewer than the {done.config.vocab_size:,} of the tokenizer of"):
        extend.run(tmp_path / "grown", processor.Tokenizer.load(base), tmp_path / "shrunk")


@pytest.mark.parametrize("known", [False, True], ids=["plain", "extended before"])
def test_rows_without_a_piece_give_way_to_new_ones(
    known: bool, make_params: Callable[..., Any], tokenizer: processor.Tokenizer, merged: processor.Tokenizer, tmp_path: Path
) -> None:
    """A checkpoint padded by 30 rows, the last of which its configuration calls padding, grows as the unpadded one does."""
    count = tokenizer.vocab_size
    split = count - 20 if known else None
    padded = config_lib.named("micro", vocab_size=count + 30, base_vocab_size=split, pad_token_id=count + 29)
    params = make_params(padded)
    plain, same = resize.cut(padded, params, count)
    for name, shape, weights in (("padded", padded, params), ("plain", plain, same)):
        llama_hf.save(tmp_path / name, config=shape, params=weights, tokenizer=tokenizer)
        # `save` takes special ids from the tokenizer; those of a checkpoint from elsewhere may be others.
        files.write_json(tmp_path / name / "config.json", config_hf.to_json(shape, "float32"))
        (tmp_path / name / manifest.FILE).unlink()
        done = extend.run(tmp_path / name, merged, tmp_path / f"{name} grown")
        assert done.config.pad_token_id == merged.pad_id
        assert (done.before, done.unused) == (shape.vocab_size, shape.vocab_size - count)
        assert (done.config.vocab_size, done.config.base_vocab_size) == (merged.vocab_size, split or count)
    ours, theirs = (host.load(tmp_path / name) for name in ("padded grown", "plain grown"))
    assert tree.flatten(ours.params).keys() == tree.flatten(theirs.params).keys()
    for path, leaf in tree.flatten(theirs.params).items():
        np.testing.assert_array_equal(tree.flatten(ours.params)[path], leaf, err_msg=path)
    for table in ("embed_tokens", "lm_head"):
        old, new = (np.asarray(resize.rows(weights[table], shape)) for weights, shape in ((params, padded), (ours.params, ours.config)))
        np.testing.assert_array_equal(new[:count], old[:count])
        for index, ids in enumerate(align.spell(tokenizer, merged)):
            if count + index != merged.pad_id:
                np.testing.assert_allclose(new[count + index], old[ids].mean(axis=0), atol=1e-6, err_msg=merged.piece(count + index))


def test_new_pieces_may_be_fewer_than_the_rows_that_give_way(
    make_params: Callable[..., Any], tokenizer: processor.Tokenizer, merged: processor.Tokenizer, tmp_path: Path
) -> None:
    """Padded by more rows than pieces come, the model gets smaller; ids that ended texts and now spell something end them no more."""
    shape = config_lib.named("micro", vocab_size=merged.vocab_size + 64)
    last = shape.vocab_size - 1
    generation = {"temperature": 0.7, "eos_token_id": [2, 13, tokenizer.vocab_size, last]}
    llama_hf.save(tmp_path / "padded", config=shape, params=make_params(shape), tokenizer=tokenizer, generation=generation)
    assert host.load(tmp_path / "padded").generation["eos_token_id"] == [2, 13, tokenizer.vocab_size, last]
    done = extend.run(tmp_path / "padded", merged, tmp_path / "grown")
    assert (done.before, done.config.vocab_size) == (shape.vocab_size, merged.vocab_size)
    assert host.load(tmp_path / "grown").generation["eos_token_id"] == [2, 13]


def test_a_row_without_a_piece_that_ends_texts_is_no_padding(
    make_params: Callable[..., Any], tokenizer: processor.Tokenizer, merged: processor.Tokenizer, tmp_path: Path, monkeypatch
) -> None:
    count = tokenizer.vocab_size
    shape = config_lib.named("micro", vocab_size=count + 2, eos_token_id=count + 1)
    llama_hf.save(tmp_path / "model", config=shape, params=make_params(shape), tokenizer=tokenizer)
    files.write_json(tmp_path / "model" / "config.json", config_hf.to_json(shape, "float32"))
    (tmp_path / "model" / manifest.FILE).unlink()
    monkeypatch.setattr(safetensors_io.Reader, "read", lambda *_: pytest.fail("the weights were read"))
    with pytest.raises(ValueError, match=rf"has {count + 2} rows and a tokenizer of {count} pieces, and its eos_token_id {count + 1} has"):
        extend.run(tmp_path / "model", merged, tmp_path / "grown")


def test_a_taken_output_is_found_before_the_weights_are_read(base: Path, merged: processor.Tokenizer, tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "grown").mkdir()
    (tmp_path / "grown" / "precious").write_bytes(b"")
    monkeypatch.setattr(safetensors_io.Reader, "read", lambda *_: pytest.fail("the weights were read"))
    with pytest.raises(ValueError, match=r"grown holds files and no zhllama\.json"):
        extend.run(base, merged, tmp_path / "grown", overwrite=True)
    with pytest.raises(ValueError, match="is read as an input and would be replaced"):
        extend.run(base, merged, base, overwrite=True)


@pytest.fixture
def trained(base: Path, tokenizer: processor.Tokenizer, tmp_path: Path) -> Path:
    """An adapter of the small model: other rows of the embedding."""
    old = host.load(base)
    rows = {"embed_tokens": {"base": np.asarray(old.params["embed_tokens"]["base"], np.float32) + 1}}
    peft.save(
        tmp_path / "adapter",
        config=old.config,
        lora={},
        rows=rows,
        lora_config=None,
        base=base,
        base_fingerprint=source.fingerprint(base),
        tokenizer=tokenizer,
    )
    return tmp_path / "adapter"


def test_adapters_of_the_smaller_model_fit_the_grown_one(base: Path, trained: Path, merged: processor.Tokenizer, tmp_path: Path) -> None:
    grown = extend.run(base, merged, tmp_path / "grown").config
    before = host.load(tmp_path / "grown").params["embed_tokens"]
    found = fold.load(tmp_path / "grown", [trained])
    assert found.tokenizer.sha256 == merged.sha256, "the adapter's own has too few pieces"
    after = found.checkpoint.params["embed_tokens"]
    np.testing.assert_array_equal(after["base"][: grown.base_rows], np.asarray(before["base"][: grown.base_rows], np.float32) + 1)
    np.testing.assert_array_equal(after["extension"], before["extension"])
    assert any("was trained before" in note and "grew to" in note for note in found.checkpoint.notes)
    merge_notes = rewrite.run(tmp_path / "grown", tmp_path / "folded", adapters=[trained]).notes
    assert any("grew to" in note for note in merge_notes)
    np.testing.assert_array_equal(host.load(tmp_path / "folded").params["embed_tokens"]["base"], after["base"])


def test_a_model_that_changed_after_it_grew_takes_none_of_them(
    base: Path, trained: Path, merged: processor.Tokenizer, tmp_path: Path
) -> None:
    grown = tmp_path / "grown"
    extend.run(base, merged, grown)
    contents = files.read_json(grown / manifest.FILE, what="a manifest")
    files.write_json(grown / manifest.FILE, {**contents, "history": [*contents["history"], {"step": "train"}]})
    with pytest.raises(ValueError, match="was trained on another model"):
        fold.load(grown, [trained])


def test_only_growing_keeps_a_models_adapters() -> None:
    one, two = ({"step": "resize", "base_fingerprint": name} for name in ("one", "two"))
    cut = {"step": "resize", "base_fingerprint": None}
    assert manifest.grown_from({"history": [{"step": "train"}, one, two]}) == ["two", "one"]
    assert manifest.grown_from({"history": [one, cut, two]}) == ["two"], "rows went in between"
    assert manifest.grown_from({"history": [one, {"step": "merge", "base_fingerprint": "x"}]}) == []
    assert manifest.grown_from({"history": [{"step": "resize"}]}) == manifest.grown_from(None) == []
