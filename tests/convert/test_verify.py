"""Two directories: what is equal, what differs, and why; and the same model in transformers."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from zhllama_jax import tree
from zhllama_jax.convert import llama_hf, verify
from zhllama_jax.model import config as config_lib
from zhllama_jax.model import resize
from zhllama_jax.tokenizer import processor


@pytest.fixture
def save(tmp_path: Path, config: config_lib.LlamaConfig, tokenizer: processor.Tokenizer) -> Callable[..., Path]:
    """Writes a model directory."""

    def write(name: str, params: Any, **arguments: Any) -> Path:
        llama_hf.save(tmp_path / name, **{"config": config, "tokenizer": tokenizer, **arguments}, params=params)
        return tmp_path / name

    return write


def changed(params: Any, path: str, change: Callable[[np.ndarray], Any]) -> Any:
    leaves = {name: leaf.copy() for name, leaf in tree.flatten(params).items()}
    change(leaves[path])
    return tree.unflatten(leaves)


def test_same_tensors_are_equal_however_they_are_cut(save: Callable[..., Path], params: Any) -> None:
    report = verify.compare(save("a", params), save("b", params, shard_bytes=20_000), logits=True)
    assert report["equal"]
    assert (report["config"], report["tokenizer"]) == ({}, "equal")
    assert report["tensors"]["compared"] == report["tensors"]["equal"] == 21
    assert report["logits"]["max_abs"] == 0
    assert report["logits"]["same_argmax"] == 1
    assert report["logits"]["largest"] > 0.5
    json.dumps(report, allow_nan=False)


def test_one_changed_row_is_named(save: Callable[..., Path], params: Any, config: config_lib.LlamaConfig) -> None:
    def change(rows: np.ndarray) -> None:
        rows[3] += 0.5

    report = verify.compare(save("a", params), save("b", changed(params, "lm_head/extension", change)))
    assert not report["equal"]
    assert report["tensors"]["equal"] == 20
    (entry,) = report["tensors"]["differing"]
    row = config.base_rows + 3
    assert (entry["name"], entry["why"]) == ("lm_head.weight", f"1 of {config.vocab_size} rows differ, from {row} to {row}")
    assert entry["max_abs"] == pytest.approx(0.5)
    assert 0.9 < entry["cosine"] < 1
    assert report["tensors"]["max_abs"] == entry["max_abs"]


def test_rounding_is_recognised(save: Callable[..., Path], params: Any) -> None:
    report = verify.compare(save("a", params), save("b", params, dtype="bfloat16"), logits=True)
    assert not report["equal"]
    assert {entry["why"] for entry in report["tensors"]["differing"]} == {"the same numbers, rounded to BF16"}
    assert 0 < report["logits"]["max_abs"] < 0.2


def test_more_rows_are_recognised(
    save: Callable[..., Path], params: Any, config: config_lib.LlamaConfig, padded_tokenizer: processor.Tokenizer
) -> None:
    grown = changed(params, "embed_tokens/extension", lambda rows: rows.__setitem__(40, 1.0))
    report = verify.compare(
        save("a", params),
        save("b", grown, config=config.replace(vocab_size=config.vocab_size + 1), tokenizer=padded_tokenizer),
        logits=True,
    )
    assert report["config"]["vocab_size"] == [config.vocab_size, config.vocab_size + 1]
    assert report["tokenizer"].startswith("differs (")
    whys = {entry["why"] for entry in report["tensors"]["differing"]}
    assert whys == {f"the right one has 1 row more; of the first {config.vocab_size}: the same numbers"}
    assert report["logits"]["max_abs"] == 0


def test_other_shapes_and_missing_tensors_are_listed(
    save: Callable[..., Path], params: Any, config: config_lib.LlamaConfig, make_params: Callable[..., Any]
) -> None:
    other = config.replace(intermediate_size=80, num_hidden_layers=1, tie_word_embeddings=True)
    report = verify.compare(save("a", params), save("b", make_params(other), config=other))
    assert "lm_head.weight" in report["tensors"]["only_left"]
    assert len(report["tensors"]["only_left"]) == 10
    assert report["tensors"]["only_right"] == []
    assert [entry["name"] for entry in report["tensors"]["differing"] if entry["why"] == "other shape"] == [
        f"model.layers.0.mlp.{name}_proj.weight" for name in ("gate", "up", "down")
    ]
    json.dumps(report, allow_nan=False)


def test_transformers_computes_the_same(save: Callable[..., Path], params: Any, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    report = verify.against_transformers(save("a", params, dtype="bfloat16"), texts=["The quick fox", "  狐狸\n", "a<b>"])
    assert report is not None
    assert report["logits"]["max_abs"] < 1e-5 * max(1, report["logits"]["largest"])
    assert report["logits"]["same_argmax"] == 1
    assert (report["texts"], report["texts_with_other_ids"]) == (3, 0)
    assert "%|" not in capsys.readouterr().err, "a bar of transformers shows"


def test_a_model_with_more_rows_is_the_other_one_grown(
    save: Callable[..., Path], make_params: Callable[..., Any], params: Any, config: config_lib.LlamaConfig
) -> None:
    larger = config.replace(vocab_size=config.vocab_size + 5)
    grown = make_params(larger)
    for name in config_lib.MATRICES:
        rows = np.concatenate([resize.rows(params[name], config), resize.rows(grown[name], larger)[-5:]])
        grown[name] = resize.blocks(rows, larger)
    for path in ("layers", "norm"):
        grown[path] = params[path]
    small, large = save("small", params), save("large", grown, config=larger)
    expected = {"smaller": str(small), "larger": str(large), "rows": 5}
    assert verify.compare(small, large)["grown"] == verify.compare(large, small)["grown"] == expected
    assert verify.compare(small, small)["grown"] is None
    grown["lm_head"] = resize.blocks(np.concatenate([rows[:3] + 1, rows[3:]]), larger)
    assert verify.compare(small, save("other", grown, config=larger))["grown"] is None, "old rows are others"
