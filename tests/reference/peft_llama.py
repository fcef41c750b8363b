"""The same model as transformers and PEFT train it: factors laid in by hand, batches in several layouts, plain names of what learns."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest

from tests.reference import transformers_llama
from tests.reference import weights as reference_weights
from zhllama_jax import arrays, tree
from zhllama_jax.data import batches
from zhllama_jax.model import config as config_lib

LAYOUTS = ("alone", "padded", "packed")
IGNORED = -100


def state(config: config_lib.LlamaConfig, weights: arrays.Tree) -> dict[str, np.ndarray]:
    """Weights, or gradients of all of them, with the adapters' factors: [out, in] as PyTorch has them."""
    found = reference_weights.hf_state(config, weights["params"])
    for path, leaf in tree.flatten(weights.get("lora", {})).items():
        _, part, name, factor = path.split("/")
        for layer in range(config.num_hidden_layers if factor in ("a", "b") else 0):
            found[f"model.layers.{layer}.{part}.{name}.lora_{factor.upper()}.weight"] = np.asarray(leaf[layer]).T
    return found


def model(config: config_lib.LlamaConfig, weights: arrays.Tree, rope: Any = None, **settings: Any) -> Any:
    """The model in training; with `settings` (of `peft.LoraConfig`) inside PEFT, the factors of `weights` in place."""
    torch = pytest.importorskip("torch")
    peft = pytest.importorskip("peft")
    found = transformers_llama.model(config, weights["params"], rope, use_cache=False).train()
    if not settings:
        return found
    tied = {"ensure_weight_tying": True} if config.tie_word_embeddings and "modules_to_save" in settings else {}
    found = peft.get_peft_model(found, peft.LoraConfig(task_type="CAUSAL_LM", lora_dropout=0.0, **settings, **tied)).train()
    with torch.no_grad():
        expected = state(config, weights)
        for name, value in named(found).items():
            if "lora_" in name:
                value.copy_(torch.tensor(expected.pop(name)))
    assert not [name for name in expected if "lora_" in name], "every factor has its place"
    return found


def named(model: Any) -> dict[str, Any]:
    """What learns, by name; rows of a matrix under the matrix's name."""
    wrappers = ("base_model.model.", ".modules_to_save", ".base_layer", ".token_adapter.trainable_tokens_delta", ".default")
    found = {}
    for name, value in model.named_parameters():
        if value.requires_grad:
            rows = "token_adapter" in name
            for wrapper in wrappers:
                name = name.replace(wrapper, "")
            found[f"{name}.weight" if rows else name] = value
    return found


def loss(model: Any, batch: batches.Batch, layout: str) -> Any:
    """The library's own loss of a batch [A, B, T], a mean over its supervised tokens; the gradients are added to those that are there."""
    total = 0.0
    for inputs in _inputs(batch, layout):
        value = model(**inputs, num_items_in_batch=float(batch.loss_mask.sum())).loss
        value.backward()
        total += value.item()
    return total


def _inputs(batch: batches.Batch, layout: str) -> Iterator[dict[str, Any]]:
    """What the model is called with: rows as they are, one call a micro-batch; or their documents, together or one by one."""
    torch = pytest.importorskip("torch")
    if layout == "packed":
        for micro in (batches.Batch(*fields) for fields in zip(*batch, strict=True)):
            same_BTS = micro.segment_ids[:, :, None] == micro.segment_ids[:, None]
            hidden_BTS = ~np.tril(same_BTS) * np.finfo(np.float32).min
            labels = torch.tensor(np.where(micro.loss_mask > 0, micro.targets, IGNORED)).long()
            yield {
                "input_ids": torch.tensor(micro.tokens).long(),
                "attention_mask": torch.tensor(hidden_BTS.astype(np.float32))[:, None],
                "position_ids": torch.tensor(micro.positions).long(),
                "labels": labels,
                "shift_labels": labels,
            }
        return
    texts = sorted(_documents(batch), key=lambda text: len(text[0]))  # ascending: dynamic scaling remembers the longest text
    for group in [texts] if layout == "padded" else [[text] for text in texts]:
        labels = torch.tensor(_filled([labels for _, labels in group], IGNORED))
        yield {
            "input_ids": torch.tensor(_filled([ids for ids, _ in group], 0)),
            "attention_mask": torch.tensor(_filled([[1] * len(ids) for ids, _ in group], 0)),
            "labels": labels,
            "shift_labels": labels,
        }


def _documents(batch: batches.Batch) -> Iterator[tuple[list[int], list[int]]]:
    """(ids, what each is followed by) of every segment."""
    rows = batches.Batch(*(field.reshape(-1, field.shape[-1]) for field in batch))
    labels_BT = np.where(rows.loss_mask > 0, rows.targets, IGNORED)
    for ids_T, labels_T, segments_T in zip(rows.tokens, labels_BT, rows.segment_ids, strict=True):
        for segment in range(1, segments_T.max() + 1):
            yield ids_T[segments_T == segment].tolist(), labels_T[segments_T == segment].tolist()


def _filled(rows: Sequence[Sequence[int]], value: int) -> np.ndarray:
    width = max(map(len, rows))
    return np.array([[*row, *[value] * (width - len(row))] for row in rows], np.int64)
