"""The tensors of an adapter in every layout: the same numbers, read when they are asked for; what is not whole is refused."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st

from zhllama_jax import tree
from zhllama_jax.convert import peft, peft_tensors, safetensors_io, torch_io
from zhllama_jax.model import config as config_lib

CONFIG = config_lib.named("micro", vocab_size=60, base_vocab_size=50)
WIDTH = CONFIG.hidden_size
SETTINGS = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 3, "lora_alpha": 6, "target_modules": ["q_proj", "o_proj"]}
PREFIX = "base_model.model.model."
Tensors = dict[str, np.ndarray]


def factors(layers: range = range(2), dtype: Any = np.float32) -> Tensors:
    """Factors of two square kernels, as PEFT names them."""
    rng = np.random.default_rng(0)
    shapes = {"lora_A": (3, WIDTH), "lora_B": (WIDTH, 3)}
    return {
        f"{PREFIX}layers.{layer}.self_attn.{module}.{side}.weight": rng.normal(size=shape).astype(dtype)
        for layer in layers
        for module in SETTINGS["target_modules"]
        for side, shape in shapes.items()
    }


def rows(count: int = 60, seed: int = 1, dtype: Any = np.float32) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, WIDTH)).astype(dtype)


def matrices(dtype: Any = np.float32) -> Tensors:
    return {f"{PREFIX}embed_tokens.weight": rows(dtype=dtype), "base_model.model.lm_head.weight": rows(seed=2, dtype=dtype)}


def put(folder: Path, tensors: Tensors, *, file: str = peft.WEIGHTS, **changes: Any) -> Path:
    """An adapter's folder without a manifest."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / peft.CONFIG).write_text(json.dumps({**SETTINGS, **changes}))
    if file.endswith(".bin"):
        stored = {np.dtype(dtype): name for name, dtype in safetensors_io.DTYPES.items()}
        torch_io.write(folder / file, {name: (stored[value.dtype], value.shape) for name, value in tensors.items()}, tensors.items())
    else:
        safetensors.numpy.save_file(tensors, folder / file)
    return folder


def equal(left: peft.Adapter, right: peft.Adapter) -> bool:
    first, second = tree.flatten(left.lora), tree.flatten(right.lora)
    return (
        first.keys() == second.keys()
        and all(np.array_equal(first[path], second[path]) for path in first)
        and left.rows.keys() == right.rows.keys()
        and all(
            np.array_equal(some.ids, right.rows[name].ids) and np.array_equal(some.values_VD, right.rows[name].values_VD)
            for name, some in left.rows.items()
        )
    )


def rename(tensors: Tensors, *changes: tuple[str, str]) -> Tensors:
    result = {}
    for name, value in tensors.items():
        for pattern, by in changes:
            name = re.sub(pattern, by, name)
        result[name] = value
    return result


LAYOUTS: dict[str, Callable[[Tensors], Tensors]] = {
    "as PEFT has them in memory": lambda tensors: rename(
        tensors, (r"(lora_[AB])\.", r"\1.default."), (r"(embed_tokens|lm_head)\.", r"\1.modules_to_save.default.")
    ),
    "the adapter's name left out": lambda tensors: rename(tensors, (r"(embed_tokens|lm_head)\.", r"\1.modules_to_save.")),
    "without a prefix": lambda tensors: rename(tensors, (r"^base_model\.model\.", "")),
    "with the base's rows": lambda tensors: {
        **rename(tensors, (r"(embed_tokens|lm_head)\.", r"\1.modules_to_save.default.")),
        f"{PREFIX}embed_tokens.original_module.weight": rows(50),
        "base_model.model.lm_head.original_module.weight": rows(50),
    },
    "rows twice alike": lambda tensors: {**tensors, f"{PREFIX}embed_tokens.modules_to_save.weight": rows()},
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("file", peft_tensors.FILES)
def test_every_layout_is_the_same_adapter(tmp_path: Path, layout: str, file: str) -> None:
    tensors = {**factors(), **matrices()}
    saved = {"modules_to_save": ["embed_tokens", "lm_head"]}
    plain = peft.load(put(tmp_path / "plain", tensors, **saved))
    found = peft.load(put(tmp_path / "other", LAYOUTS[layout](tensors), file=file, **saved))
    assert equal(found, plain)
    np.testing.assert_array_equal(found.rows["embed_tokens"].values_VD, rows())
    np.testing.assert_array_equal(found.lora["layers"]["self_attn"]["o_proj"]["a"][1], tensors[f"{Q[:-6]}o_proj.lora_A.weight"].T)


Q = f"{PREFIX}layers.1.self_attn.q_proj"


def test_what_torch_saves_is_read(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    tensors = {**factors(), **matrices()}
    folder = put(tmp_path / "adapter", tensors)
    plain = peft.load(folder)
    for file in peft_tensors.FILES[1:]:
        other = put(tmp_path / file, {"x": np.ones(1, np.float32)})
        (other / peft.WEIGHTS).unlink()
        torch.save({name: torch.from_numpy(value).half() for name, value in tensors.items()}, other / file)
        found = peft.load(other)
        assert found.rows["lm_head"].dtype == "F16"
        np.testing.assert_array_equal(found.rows["lm_head"].values_VD, tensors["base_model.model.lm_head.weight"].astype(np.float16))
        np.testing.assert_array_equal(
            found.lora["layers"]["self_attn"]["q_proj"]["b"], plain.lora["layers"]["self_attn"]["q_proj"]["b"].astype(np.float16)
        )


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_rows_keep_their_dtype_and_are_read_when_they_are_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: Any) -> None:
    folder = put(tmp_path / "adapter", {**factors(), **matrices(dtype)})
    loaded = peft.load(folder)
    read: list[str] = []
    plain = safetensors_io.Reader.read
    monkeypatch.setattr(safetensors_io.Reader, "read", lambda self, name, **how: read.append(name) or plain(self, name, **how))
    some = loaded.rows["lm_head"]
    assert (some.whole, some.width, len(some.ids)) == (True, WIDTH, 60)
    assert not read
    assert some.values_VD.dtype == dtype
    assert read == ["base_model.model.lm_head.weight"]


def test_a_file_that_changes_under_its_reader_is_refused(tmp_path: Path) -> None:
    folder = put(tmp_path / "adapter", {**factors(), **matrices()})
    loaded = peft.load(folder)
    put(folder, {**factors(), f"{PREFIX}embed_tokens.weight": rows(70)})
    with pytest.raises(ValueError, match=r"adapter_model\.safetensors was changed while it was in use: start again"):
        loaded.rows["embed_tokens"].read()


def test_single_rows_are_put_in_order(tmp_path: Path) -> None:
    delta = rows(3)
    name = f"{PREFIX}embed_tokens.token_adapter.trainable_tokens_delta"
    for spelling in (name, f"{name}.default"):
        folder = put(tmp_path / spelling, {**factors(), spelling: delta}, trainable_token_indices={"embed_tokens": [55, 7, 30]})
        some = peft.load(folder).rows["embed_tokens"]
        assert (some.ids.tolist(), some.whole) == ([7, 30, 55], False)
        np.testing.assert_array_equal(some.values_VD, delta[[1, 2, 0]])


def test_single_rows_of_a_resized_vocabulary_come_with_the_others(tmp_path: Path) -> None:
    """PEFT writes the whole matrix too where the vocabulary is not the base's; the trained rows stand above it."""
    name = f"{PREFIX}embed_tokens.token_adapter"
    tensors = {f"{name}.trainable_tokens_delta": rows(2), f"{name}.base_layer.weight": rows(60, seed=3, dtype=np.float16)}
    some = peft.load(put(tmp_path / "a", {**factors(), **tensors}, trainable_token_indices=[58, 51])).rows["embed_tokens"]
    expected = rows(60, seed=3, dtype=np.float16).astype(np.float32)
    expected[[58, 51]] = rows(2)
    assert (some.whole, some.dtype) == (True, "F32")
    np.testing.assert_array_equal(some.values_VD, expected)
    with pytest.raises(ValueError, match="rows up to 60"):
        peft.load(put(tmp_path / "b", {**factors(), **tensors}, trainable_token_indices=[58, 60]))


REFUSED: dict[str, tuple[Callable[[Tensors], Any], dict[str, Any], str]] = {
    "a factor twice": (
        lambda tensors: tensors.update({f"{Q}.lora_A.default.weight": np.ones((3, WIDTH), np.float32)}),
        {},
        r"q_proj\.lora_A\S* and \S*q_proj\.lora_A\S*weight say the same twice",
    ),
    "rows twice and different": (
        lambda tensors: tensors.update({**matrices(), f"{PREFIX}embed_tokens.modules_to_save.weight": rows(seed=9)}),
        {},
        "are the same matrix with other numbers: keep the one that is meant",
    ),
    "whole and single rows": (
        lambda tensors: tensors.update({**matrices(), f"{PREFIX}embed_tokens.token_adapter.trainable_tokens_delta": rows(1)}),
        {"trainable_token_indices": [1]},
        "say the same twice",
    ),
    "a layer that no model has": (
        lambda tensors: tensors.update({Q.replace("layers.1.", "layers.99999.") + ".lora_A.weight": np.ones((3, WIDTH), np.float32)}),
        {"target_modules": ".*"},
        "no LoRA factor",
    ),
    "integers": (lambda tensors: tensors.update({f"{Q}.lora_A.weight": np.ones((3, WIDTH), np.int32)}), {}, "is I32; weights are read"),
    "the base's rows alone": (
        lambda tensors: [tensors.clear(), tensors.update({f"{PREFIX}embed_tokens.original_module.weight": rows()})],
        {},
        "the adapter is empty",
    ),
    "a layer of layers_to_transform": (
        lambda tensors: [tensors.pop(name) for name in list(tensors) if "layers.1." in name],
        {"layers_to_transform": [0, 1]},
        "names factors of q_proj in layer 1, factors of o_proj in layer 1, but",
    ),
    "half a layer": (
        lambda tensors: tensors.pop(f"{Q}.lora_B.weight"),
        {"target_modules": [f"layers.{layer}.self_attn.{name}" for layer in range(2) for name in SETTINGS["target_modules"]]},
        "q_proj lacks layer 1 lora_B",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused(tmp_path: Path, case: str) -> None:
    change, changes, message = REFUSED[case]
    tensors = factors()
    change(tensors)
    with pytest.raises(ValueError, match=message):
        peft.load(put(tmp_path / "adapter", tensors, **changes))


SOME: dict[str, tuple[list[int], dict[str, Any]]] = {
    "the first": ([0], {"layers_to_transform": [0]}),
    "the second": ([1], {"layers_to_transform": 1, "layers_pattern": "layers"}),
    "the second by name": ([1], {"target_modules": [f"layers.1.self_attn.{name}" for name in SETTINGS["target_modules"]]}),
    "the first by a pattern": ([0], {"target_modules": r".*\.layers\.0\..*\.[qo]_proj"}),
    "all but one": ([1], {"exclude_modules": r".*layers\.0\..*"}),
}


@pytest.mark.parametrize("case", SOME)
def test_layers_that_are_left_alone_get_zeros(tmp_path: Path, case: str) -> None:
    layers, changes = SOME[case]
    tensors = {name: value for name, value in factors().items() if any(f"layers.{layer}." in name for layer in layers)}
    loaded = peft.load(put(tmp_path / "adapter", tensors, **changes))
    [layer] = layers
    assert loaded.modules == (f"model.layers.{layer}.self_attn.o_proj", f"model.layers.{layer}.self_attn.q_proj")
    fitted = peft.fitted(loaded, CONFIG)
    peft.check_fits(fitted, CONFIG)
    for name, leaf in tree.flatten(fitted.lora).items():
        assert len(leaf) == 2
        assert np.any(leaf[layer])
        assert np.any(leaf[1 - layer]) == name.endswith("/scale")


def test_an_adapter_of_all_layers_is_not_made_to_fit(tmp_path: Path) -> None:
    """Else one for a smaller model would pass."""
    loaded = peft.fitted(peft.load(put(tmp_path / "adapter", factors())), CONFIG.replace(num_hidden_layers=3))
    assert loaded.modules is None
    with pytest.raises(ValueError, match="beside a kernel of"):
        peft.check_fits(loaded, CONFIG.replace(num_hidden_layers=3))


# fmt: off
PARTS = st.sampled_from((
    "base_model", "model", "layers", "0", "1", "7", "99999", "self_attn", "mlp", "q_proj", "o_proj", "up_proj", "lora_A", "lora_B",
    "default", "weight", "embed_tokens", "lm_head", "modules_to_save", "original_module", "token_adapter", "trainable_tokens_delta",
    "base_layer", "norm", "lora_embedding_A", "bias", "adapter2",
))
# fmt: on
NAMES = st.lists(PARTS, min_size=1, max_size=9).map(".".join) | st.sampled_from([*factors(), *matrices()])
SHAPES = st.sampled_from([(3, WIDTH), (WIDTH, 3), (2, 5), (60, WIDTH), (1,), (1, 1, 1)])


@given(found=st.dictionaries(NAMES, SHAPES, min_size=1, max_size=8))
@settings(max_examples=150, deadline=None)
def test_any_names_are_an_adapter_or_refused_in_a_sentence(tmp_path_factory: pytest.TempPathFactory, found: dict[str, Any]) -> None:
    """Whatever stands in the file: numbers that are accounted for, or one ValueError."""
    tensors = {name: np.full(shape, 0.5, np.float32) for name, shape in found.items()}
    folder = put(tmp_path_factory.mktemp("fuzz"), tensors, trainable_token_indices={"lm_head": [1, 2]}, target_modules=".*")
    try:
        loaded = peft.load(folder)
    except ValueError as error:
        assert "\n" not in str(error)
        return
    assert sum(some.values_VD.size for some in loaded.rows.values()) + sum(leaf.size for leaf in tree.flatten(loaded.lora).values()), (
        "accepted, and nothing was read"
    )
