"""Which prompt and history a stack has; that its order is checked is tested with the folding, in test_fold."""

from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from zhllama_jax.convert import llama_hf, manifest, peft, rewrite, source, stack
from zhllama_jax.lora import adapters
from zhllama_jax.lora import config as lora_config_lib
from zhllama_jax.model import config as config_lib
from zhllama_jax.tokenizer import processor


@pytest.fixture
def base(config: config_lib.LlamaConfig, params: Any, tokenizer: processor.Tokenizer, tmp_path: Path) -> Path:
    llama_hf.save(tmp_path / "base", config=config, params=params, tokenizer=tokenizer, prompt=manifest.Prompt("none"))
    return tmp_path / "base"


def adapter(base: Path, folder: Path, config: config_lib.LlamaConfig, params: Any, tokenizer: processor.Tokenizer, **facts: Any) -> Any:
    settings = lora_config_lib.LoraConfig(rank=2, targets=("q_proj",))
    lora = jax.tree.map(np.asarray, adapters.init(jax.random.key(len(folder.name)), params, settings))
    fingerprint = source.fingerprint(base)
    peft.save(
        folder,
        config=config,
        lora=lora,
        rows={},
        lora_config=settings,
        base=base,
        base_fingerprint=fingerprint,
        tokenizer=tokenizer,
        **facts,
    )
    return peft.load(folder)


def test_the_last_prompt_that_anybody_knows_wins(
    base: Path, config: config_lib.LlamaConfig, params: Any, tokenizer: processor.Tokenizer, tmp_path: Path
) -> None:
    asked = adapter(base, tmp_path / "asked", config, params, tokenizer, prompt=manifest.Prompt("alpaca"))
    silent = adapter(base, tmp_path / "mute", config, params, tokenizer)
    known = source.load_prompt(base)
    assert stack.prompt(known, []) == known == manifest.Prompt("none")
    assert stack.prompt(known, [asked, silent]) == manifest.Prompt("alpaca")
    assert stack.prompt(None, [silent]) is None


def test_history_names_base_and_adapters_by_digest(
    base: Path, config: config_lib.LlamaConfig, params: Any, tokenizer: processor.Tokenizer, tmp_path: Path
) -> None:
    one = adapter(base, tmp_path / "one", config, params, tokenizer, history=[{"step": "train", "stage": "pretrain"}])
    steps = stack.history([{"step": "resize"}], [one], base=base, fingerprint="f")
    assert [step["step"] for step in steps] == ["resize", "train", "merge"]
    assert steps[-1] == {"step": "merge", "base": "base", "base_fingerprint": "f", "adapters": [{"name": "one", "digest": one.digest}]}
    assert stack.check(config, [one], fingerprint=source.fingerprint(base), base=base) == []
    rewrite.run(base, tmp_path / "merged", adapters=[tmp_path / "one"], logits=False)
    with pytest.raises(stack.Mismatch, match=r"one is folded into .*merged already"):
        rewrite.run(tmp_path / "merged", tmp_path / "twice", adapters=[tmp_path / "one"], logits=False)
    with pytest.raises(stack.Mismatch, match="is given twice"):
        stack.check(config, [one, one], fingerprint=source.fingerprint(base), base=base)
