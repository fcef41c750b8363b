"""Folding: streamed equals in memory bit for bit, and the exact sum rounded once; bases and orders are checked by digest."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from zhllama_jax import tree
from zhllama_jax.convert import ahead, certificate, fold, host, llama_hf, manifest, peft, rewrite, safetensors_io, sink, source, stack
from zhllama_jax.lora import config as lora_config_lib
from zhllama_jax.model import config as config_lib
from zhllama_jax.tokenizer import merge as merge_tokenizers
from zhllama_jax.tokenizer import processor, proto

ATTENTION = lora_config_lib.LoraConfig(rank=3, alpha=8.0, targets=lora_config_lib.ATTENTION)
ALL = lora_config_lib.LoraConfig(rank=2, alpha=4.0)
KEPT = {"pretraining_tp": 2}


class World(NamedTuple):
    """A base and three adapters trained on top of each other: rows; attention and new rows; all seven targets."""

    base: Path
    params: Any
    adapters: list[Path]
    loras: list[Any]
    rows: list[Any]


def draw(params: Any, lora_config: lora_config_lib.LoraConfig | None, blocks: tuple[str, ...], seed: int) -> tuple[Any, Any]:
    """Random factors and rows that fit `params`."""
    rng = np.random.default_rng(seed)
    lora: dict[str, Any] = {}
    for path, leaf in tree.flatten(params).items():
        module = path.removesuffix("/kernel")
        if lora_config and path.endswith("/kernel") and module.rsplit("/", 1)[-1] in lora_config.targets:
            layers, fan_in, fan_out = leaf.shape
            lora[f"{module}/a"] = rng.normal(size=(layers, fan_in, lora_config.rank)).astype(np.float32)
            lora[f"{module}/b"] = 0.1 * rng.normal(size=(layers, lora_config.rank, fan_out)).astype(np.float32)
            lora[f"{module}/scale"] = np.full(layers, lora_config.scale, np.float32)
    rows = {
        name: {
            block: np.where(np.any(params[name][block], 1, keepdims=True), rng.normal(size=params[name][block].shape), 0)
            for block in blocks
        }
        for name in ("embed_tokens", "lm_head")
        if blocks
    }
    return tree.unflatten(lora), jax.tree.map(lambda leaf: leaf.astype(np.float32), rows)


@pytest.fixture(scope="session", params=["float32", "bfloat16"])
def world(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    config: config_lib.LlamaConfig,
    make_params: Callable[..., Any],
    tokenizer: processor.Tokenizer,
) -> World:
    """The world in two dtypes of the base."""
    folder = tmp_path_factory.mktemp("fold")
    params = make_params(config, dtype={"float32": np.float32, "bfloat16": ml_dtypes.bfloat16}[request.param])
    prompt = manifest.Prompt("alpaca")
    llama_hf.save(
        folder / "base", config=config, params=params, tokenizer=tokenizer, history=[{"step": "resize"}], kept=KEPT, shard_bytes=30_000
    )
    fingerprint = source.fingerprint(folder / "base")
    world = World(folder / "base", params, [], [], [])
    stages: list[tuple[Any, tuple[str, ...], Any]] = [
        (None, ("base", "extension"), None),
        (ATTENTION, ("extension",), None),
        (ALL, (), prompt),
    ]
    for number, (lora_config, blocks, stage_prompt) in enumerate(stages):
        lora, rows = draw(params, lora_config, blocks, seed=number)
        peft.save(
            folder / f"stage{number}",
            config=config,
            lora=lora,
            rows=rows,
            lora_config=lora_config,
            base=folder / "base",
            base_fingerprint=fingerprint,
            requires=[peft.load(directory).digest for directory in world.adapters],
            tokenizer=tokenizer,
            prompt=stage_prompt,
            history=[{"step": "train", "stage": number}],
        )
        world.adapters.append(folder / f"stage{number}")
        world.loras.append(lora)
        world.rows.append(rows)
    return world


def bits(array: Any) -> bytes:
    return np.asarray(array, order="C").tobytes()


def rounded_once(kernel_LIO: np.ndarray, loras: list[Any], path: str, dtype: np.dtype) -> tuple[np.ndarray, np.ndarray]:
    """The least and the largest that W + Σ scale · A B, summed in float32 in any order, may be when it is rounded once.

    Processors differ in their order of sums; nearly every number of 16 bits comes out the same nevertheless.
    """
    sum_LIO = kernel_LIO.astype(np.float64)
    size_LIO, roundings = np.abs(sum_LIO), 0
    for factors in filter(lambda flat: f"{path}/a" in flat, map(tree.flatten, loras)):
        a_LIR, b_LRO, scale_L = (factors[f"{path}/{name}"].astype(np.float64) for name in ("a", "b", "scale"))
        sum_LIO = sum_LIO + np.einsum("lir,lro,l->lio", a_LIR, b_LRO, scale_L)
        size_LIO += np.einsum("lir,lro,l->lio", np.abs(a_LIR), np.abs(b_LRO), scale_L)
        roundings += a_LIR.shape[-1] + 2
    slack_LIO = roundings * 2.0**-24 * size_LIO
    lowest, highest = ((sum_LIO + sign * slack_LIO).astype(np.float32).astype(dtype) for sign in (-1, 1))
    assert dtype == np.float32 or np.mean(lowest != highest) < 0.02, "an interval that would let anything pass"
    return lowest, highest


def test_streamed_is_in_memory_is_the_exact_sum(
    world: World, tmp_path: Path, config: config_lib.LlamaConfig, tokenizer: processor.Tokenizer
) -> None:
    dtype = world.params["norm"]["weight"].dtype
    kept = {"embed_tokens/base": 0, "embed_tokens/extension": 1, "lm_head/base": 0, "lm_head/extension": 1}  # the last that trained them

    merged = rewrite.run(world.base, tmp_path / "streamed", adapters=world.adapters, shard_bytes=30_000)
    assert merged.notes == []
    streamed, loaded = host.load(tmp_path / "streamed"), fold.load(world.base, world.adapters)
    for path, leaf in tree.flatten(world.params).items():
        found = tree.flatten(streamed.params)[path]
        assert bits(tree.flatten(loaded.checkpoint.params)[path]) == bits(found), path
        if path.endswith("/kernel"):
            lowest, highest = rounded_once(leaf, world.loras[1:], path.removesuffix("/kernel"), dtype)
            assert ((lowest <= found) & (found <= highest)).all() and bits(found) != bits(leaf), path
        else:
            trained = tree.flatten(world.rows[kept[path]])[path] if path in kept else leaf
            assert bits(found) == bits(trained.astype(dtype)), path
    assert loaded.checkpoint.prompt == streamed.prompt == manifest.Prompt("alpaca")
    assert streamed.history == loaded.checkpoint.history
    assert streamed.kept == loaded.checkpoint.kept and streamed.kept["pretraining_tp"] == 2
    assert [step["step"] for step in streamed.history] == ["resize", "train", "train", "train", "merge"]
    assert loaded.tokenizer.sha256 == tokenizer.sha256
    saved = llama_hf.save(tmp_path / "saved", config=config, params=loaded.checkpoint.params, tokenizer=tokenizer)
    assert saved["fingerprint"] == merged.manifest["fingerprint"]
    assert manifest.verify(tmp_path / "streamed") == []


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_result_is_rounded_once(world: World, tmp_path: Path, dtype: str) -> None:
    """Output = round(W + Σ scale · A B) with sum and product in float32."""
    rewrite.run(world.base, tmp_path / "m", adapters=world.adapters, dtype=dtype)
    target = llama_hf.parse_dtype(dtype)
    module = "layers/self_attn/q_proj"
    kernel_LIO = tree.flatten(world.params)[f"{module}/kernel"]
    lowest, highest = rounded_once(kernel_LIO, world.loras[1:], module, target)
    for found in (host.load(tmp_path / "m").params, fold.load(world.base, world.adapters, dtype=dtype).checkpoint.params):
        assert {leaf.dtype for leaf in tree.flatten(found).values()} == {target}
        folded = tree.flatten(found)[f"{module}/kernel"]
        assert ((lowest <= folded) & (folded <= highest)).all()


def test_a_few_tensors_live_at_a_time(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reads and writes take turns: no more is read than may wait."""
    names_read: list[str] = []
    waiting: list[int] = []
    writes = [0]
    read, write = safetensors_io.Reader.read, sink.Sink.write

    def reading(self: safetensors_io.Reader, name: str, **how: Any) -> np.ndarray:
        names_read.append(name)
        waiting.append(len(names_read) - max(0, writes[0] - 1))  # the first write is the header
        return read(self, name, **how)

    def writing(self: sink.Sink, content: bytes | memoryview) -> None:
        write(self, content)
        writes[0] += 1

    monkeypatch.setattr(safetensors_io.Reader, "read", reading)
    monkeypatch.setattr(sink.Sink, "write", writing)
    monkeypatch.setattr(certificate, "certify", lambda folder, proof: {"logits": None})  # it reads everything once more
    rewrite.run(world.base, tmp_path / "m", adapters=world.adapters[:0])
    contents = manifest.read(world.base, "model")
    assert contents is not None and sorted(names_read) == sorted(contents["tensors"]) and len(names_read) == writes[0] - 1
    assert max(waiting) <= ahead.WORKERS + 1 < len(names_read)


def test_no_adapter_changes_nothing(world: World, tmp_path: Path) -> None:
    rewrite.run(world.base, tmp_path / "m")
    assert source.fingerprint(tmp_path / "m") == source.fingerprint(world.base)
    assert fold.load(world.base).checkpoint.prompt is None


def test_order_and_completeness_are_checked(world: World, tmp_path: Path) -> None:
    first, second, third = world.adapters
    for wrong in ([second], [second, first], [first, third], [first, first]):
        with pytest.raises(ValueError, match=r"trained on top of|given twice"):
            rewrite.run(world.base, tmp_path / "m", adapters=wrong)
        with pytest.raises(ValueError, match=r"trained on top of|given twice"):
            fold.load(world.base, wrong)
    assert list(tmp_path.iterdir()) == []
    assert "trained on top of" in rewrite.run(world.base, tmp_path / "m", adapters=[second], force=True).notes[0]
    rewrite.run(world.base, tmp_path / "n", adapters=[first, second])


def test_an_adapter_that_another_went_on_with_is_to_be_left_out(world: World, tmp_path: Path, config: config_lib.LlamaConfig) -> None:
    """What is tried first: the adapters of all stages, in order. Told by directories, not by digests."""
    first, second, _ = map(peft.load, world.adapters)
    tuned = tmp_path / "tuned"
    peft.save(
        tuned,
        config=config,
        lora=world.loras[1],
        rows={},
        lora_config=ATTENTION,
        base=world.base,
        base_fingerprint=str(first.base_fingerprint),
        requires=[first.digest],
        tokenizer=processor.Tokenizer.load(world.base),
        history=[*second.history, {"step": "train", "stage": "sft"}],
    )
    one, two, three = world.adapters
    message = f"{tuned} was trained on top of {one}, not of {one} and {two}: leave out {two}, whose training it went on with"
    with pytest.raises(stack.Mismatch, match=re.escape(message)) as refused:
        rewrite.run(world.base, tmp_path / "m", adapters=[one, two, tuned])
    assert "force" not in str(refused.value) and first.digest[:12] not in str(refused.value)
    rewrite.run(world.base, tmp_path / "m", adapters=[one, tuned])
    with pytest.raises(stack.Mismatch, match=re.escape(f"an adapter that is not given ({first.digest[:12]}) and an adapter")):
        rewrite.run(world.base, tmp_path / "n", adapters=[three])
    with pytest.raises(stack.Mismatch) as refused:
        rewrite.run(world.base, tmp_path / "n", adapters=[two, one])
    assert f"{two} was trained on top of {one}, not of the base alone" in str(refused.value)
    assert "leave out" not in str(refused.value), "the first is part of no other"


def test_other_base_is_refused_unless_forced(
    world: World, tmp_path: Path, config: config_lib.LlamaConfig, make_params: Callable[..., Any], tokenizer: processor.Tokenizer
) -> None:
    llama_hf.save(tmp_path / "other", config=config, params=make_params(config, seed=9), tokenizer=tokenizer)
    with pytest.raises(ValueError, match="was trained on another model"):
        rewrite.run(tmp_path / "other", tmp_path / "m", adapters=world.adapters[:1])
    merged = rewrite.run(tmp_path / "other", tmp_path / "m", adapters=world.adapters[:1], force=True)
    assert "was trained on another model" in merged.notes[0]


def test_base_without_manifest_is_known_by_its_weights(world: World, tmp_path: Path) -> None:
    shutil.copytree(world.base, tmp_path / "bare")
    (tmp_path / "bare" / manifest.FILE).unlink()
    merged = rewrite.run(tmp_path / "bare", tmp_path / "m", adapters=world.adapters)
    assert merged.manifest["fingerprint"] == rewrite.run(world.base, tmp_path / "n", adapters=world.adapters).manifest["fingerprint"]


def test_base_changed_behind_its_manifest_is_found(world: World, tmp_path: Path) -> None:
    shutil.copytree(world.base, tmp_path / "bad")
    shard = sorted((tmp_path / "bad").glob("*.safetensors"))[-1]
    contents = bytearray(shard.read_bytes())
    contents[-1] ^= 1
    shard.write_bytes(contents)
    changed = re.escape(f"{shard}: lm_head.weight is not what zhllama.json beside it records") + ".*zhllama verify --left"
    for attempt in (
        lambda: rewrite.run(tmp_path / "bad", tmp_path / "m", adapters=world.adapters),
        lambda: fold.load(tmp_path / "bad", world.adapters),
        lambda: fold.load(tmp_path / "bad"),
    ):
        with pytest.raises(ValueError, match=changed):
            attempt()
    assert not (tmp_path / "m").exists()
    (tmp_path / "bad" / manifest.FILE).unlink()
    assert fold.load(tmp_path / "bad").checkpoint.config == fold.load(world.base).checkpoint.config, "taken as it is"
    with pytest.raises(ValueError, match="was trained on another model"):
        fold.load(tmp_path / "bad", world.adapters)


def test_adapter_with_more_rows_asks_for_a_resize(
    world: World, tmp_path: Path, config: config_lib.LlamaConfig, make_params: Callable[..., Any], tokenizer: processor.Tokenizer
) -> None:
    small = config.replace(vocab_size=config.base_rows)
    llama_hf.save(tmp_path / "small", config=config, params=make_params(config), tokenizer=tokenizer)
    path = tmp_path / "small"
    tensors = safetensors.numpy.load_file(path / "model.safetensors")
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        tensors[name] = tensors[name][: small.vocab_size]
    safetensors.numpy.save_file(tensors, path / "model.safetensors")
    text = (path / "config.json").read_text().replace(f'"vocab_size": {config.vocab_size}', f'"vocab_size": {small.vocab_size}')
    (path / "config.json").write_text(text)
    (path / manifest.FILE).unlink()
    command = r"grow the model first, with `zhllama resize --model MODEL --tokenizer \S+tokenizer\.model --output GROWN`"
    with pytest.raises(ValueError, match=rf"it is for a vocabulary of .*{command}"):
        rewrite.run(path, tmp_path / "m", adapters=world.adapters[:1], force=True)
    bare = shutil.copytree(world.adapters[0], tmp_path / "bare")
    (bare / "tokenizer.model").unlink()
    with pytest.raises(ValueError, match=r"--tokenizer TOKENIZER --output GROWN` and the tokenizer that the adapter was trained with"):
        rewrite.run(path, tmp_path / "m", adapters=[bare], force=True)


def test_the_advice_to_grow_is_of_use(world: World, tmp_path: Path, english_pieces: Path, chinese_pieces: Path) -> None:
    """The largest of several vocabularies is named at once, and no resize that would refuse."""
    bare, with_pad = (merge_tokenizers.merge(english_pieces, [chinese_pieces], pad_token=pad, proof_strings=10) for pad in (False, True))
    adapters = []
    for name, made in (("llama", bare), ("alpaca", with_pad)):
        adapters.append(shutil.copytree(world.adapters[0], tmp_path / name))
        (tmp_path / name / "tokenizer.model").write_bytes(made.serialized)
        (tmp_path / name / manifest.FILE).unlink()
        rows = safetensors.numpy.load_file(tmp_path / name / peft.WEIGHTS)
        count = processor.Tokenizer.from_bytes(made.serialized).vocab_size
        safetensors.numpy.save_file(
            {key: np.resize(value, (count, value.shape[1])) for key, value in rows.items()}, tmp_path / name / peft.WEIGHTS
        )
    with pytest.raises(ValueError, match=rf"alpaca does not fit .* grow the model first, .*--tokenizer {tmp_path}/alpaca/tokenizer.model"):
        fold.load(world.base, adapters)
    base = shutil.copytree(world.base, tmp_path / "base")
    (base / manifest.FILE).unlink()
    own = proto.parse((base / "tokenizer.model").read_bytes())
    own.pieces[-1].piece = "elsewhere"
    (base / "tokenizer.model").write_bytes(own.SerializeToString())
    rewrite.run(base, tmp_path / "gguf", to="gguf", logits=False)
    for other in (base, tmp_path / "gguf"):
        told = f"alpaca does not fit .* begin with the pieces of the tokenizer of {other}, so this model never grows to it: take the model"
        with pytest.raises(ValueError, match=told) as in_memory:
            fold.load(other, adapters)
        with pytest.raises(ValueError, match=told) as on_disk:
            rewrite.run(other, tmp_path / "m", adapters=adapters, dtype="float32")
        assert "grow the model first" not in f"{in_memory.value} {on_disk.value}"


def test_other_tokenizer_is_refused(world: World, tmp_path: Path, padded_tokenizer: processor.Tokenizer) -> None:
    shutil.copytree(world.base, tmp_path / "base")
    (tmp_path / "base" / "tokenizer.model").write_bytes(padded_tokenizer.serialized)
    with pytest.raises(ValueError, match=r"tokenizer\.model is not what zhllama\.json beside it records"):
        rewrite.run(tmp_path / "base", tmp_path / "m", adapters=world.adapters[:1])


def released(source: Path, directory: Path, rows: int) -> Path:
    """An adapter as others publish them: no manifest, and the first `rows` rows of both matrices."""
    shutil.copytree(source, directory)
    (directory / manifest.FILE).unlink()
    path = directory / peft.WEIGHTS
    safetensors.numpy.save_file({name: value[:rows] for name, value in safetensors.numpy.load_file(path).items()}, path)
    return directory


def test_released_adapters_are_ordered_by_their_vocabularies(world: World, tmp_path: Path, config: config_lib.LlamaConfig) -> None:
    """As llama-lora (49,953 rows) comes before alpaca-lora (49,954): the second's rows stand in the place of the first's."""
    llama, alpaca = (released(world.adapters[0], tmp_path / name, config.vocab_size - less) for name, less in (("llama", 1), ("alpaca", 0)))
    told = f"{llama} is for a vocabulary of 339 and comes after {alpaca}, for one of 340: vocabularies grow in training, so it comes before"
    with pytest.raises(stack.Mismatch, match=re.escape(told)):
        rewrite.run(world.base, tmp_path / "m", adapters=[alpaca, llama])
    assert told in rewrite.run(world.base, tmp_path / "m", adapters=[alpaca, llama], force=True).notes
    assert not any("vocabularies" in note for note in rewrite.run(world.base, tmp_path / "n", adapters=[llama, alpaca]).notes)


@pytest.mark.parametrize(
    ("base", "told"),
    [
        ("owner/llama-7b", "names owner/llama-7b as its base, without a digest to hold it against"),
        ("", "does not say which base it belongs to"),
        (None, "does not say which base it belongs to"),
    ],
)
def test_a_base_that_is_named_without_a_digest_is_told(
    world: World, tmp_path: Path, config: config_lib.LlamaConfig, base: str | None, told: str
) -> None:
    adapter = released(world.adapters[0], tmp_path / "adapter", config.vocab_size)
    settings = json.loads((adapter / peft.CONFIG).read_text())
    (adapter / peft.CONFIG).write_text(json.dumps(settings | {"base_model_name_or_path": base}))
    notes = stack.check(config, [peft.load(adapter)], fingerprint=None, base=world.base)
    assert f"{adapter} {told}{f': make sure that {world.base} is the same' if base else ''}" in notes
    if base:  # and where it is the same name, there is nothing to be sure of
        (adapter / peft.CONFIG).write_text(json.dumps(settings | {"base_model_name_or_path": str(world.base)}))
        notes = stack.check(config, [peft.load(adapter)], fingerprint=None, base=world.base)
        assert f"{adapter} names {world.base} as its base, without a digest to hold it against" in notes


def test_a_tokenizer_tells_the_vocabulary_of_factors_alone(
    world: World, tmp_path: Path, tokenizer: processor.Tokenizer, padded_tokenizer: processor.Tokenizer
) -> None:
    directories = [shutil.copytree(world.adapters[2], tmp_path / name) for name in ("small", "large", "unknown")]
    for directory in directories:
        (directory / manifest.FILE).unlink()
    (directories[1] / "tokenizer.model").write_bytes(padded_tokenizer.serialized)
    (directories[2] / "tokenizer.model").unlink()
    small, large, unknown = map(peft.load, directories)
    assert small.rows == {}
    config = source.load_config(world.base)
    told = "is for a vocabulary of 340 and comes after"
    assert any(told in note for note in stack.check(config, [large, small], fingerprint=None, base=world.base, force=True))
    assert not any(told in note for note in stack.check(config, [small, unknown, large], fingerprint=None, base=world.base, force=True))


def test_a_released_model_is_told_how_it_was_asked(world: World, tmp_path: Path) -> None:
    bare = released(world.adapters[0], tmp_path / "adapter", 340)
    base = shutil.copytree(world.base, tmp_path / "base")
    (base / "LICENSE").write_text("You may.")
    (base / "training_args.bin").write_text("pickle")
    assert rewrite.run(base, tmp_path / "m", adapters=[bare]).manifest["prompt"] is None
    merged = rewrite.run(base, tmp_path / "n", adapters=[bare], template="alpaca")
    assert source.load_prompt(tmp_path / "n") == manifest.Prompt("alpaca", "faithful", "open")
    assert (tmp_path / "n" / "chat_template.jinja").is_file()
    assert (tmp_path / "n" / "LICENSE").read_text() == "You may." and "LICENSE" in merged.manifest["files"]
    assert "left out of what is written: training_args.bin" in merged.notes
    assert manifest.verify(tmp_path / "n") == []


def test_smaller_foreign_rows_are_placed_and_noted(world: World, tmp_path: Path, config: config_lib.LlamaConfig) -> None:
    shutil.copytree(world.adapters[0], tmp_path / "adapter")
    (tmp_path / "adapter" / manifest.FILE).unlink()
    path = tmp_path / "adapter" / peft.WEIGHTS
    tensors = {name: value[:-5] for name, value in safetensors.numpy.load_file(path).items()}
    safetensors.numpy.save_file(tensors, path)
    merged = rewrite.run(world.base, tmp_path / "m", adapters=[tmp_path / "adapter"])
    assert f"{config.vocab_size - 5:,} rows of embed_tokens" in " ".join(merged.notes)
    found = host.load(tmp_path / "m").params["lm_head"]["extension"]
    assert bits(found[35:40]) == bits(world.params["lm_head"]["extension"][35:40])
    assert bits(found[:35]) == bits(world.rows[0]["lm_head"]["extension"][:35].astype(found.dtype))
