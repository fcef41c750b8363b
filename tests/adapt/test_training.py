"""Each training stands on the former's adapters, sees nothing that is held out, and the baseline gets the same FLOPs."""

import dataclasses
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from zhllama_jax import tree
from zhllama_jax.adapt import config as config_lib
from zhllama_jax.adapt import evaluation, places, texts, training
from zhllama_jax.convert import fold, host, source
from zhllama_jax.data import chat, instructions, store
from zhllama_jax.demo import english
from zhllama_jax.eval import likelihood
from zhllama_jax.tokenizer import processor
from zhllama_jax.train import config as train_config


def decoded(directory: Path, tokenizer: processor.Tokenizer) -> list[str]:
    """The segments of a store's rows to learn from, as text."""
    rows = store.open_store(directory, "train")
    found = []
    for index in range(len(rows)):
        row = rows[index]
        for segment in range(1, int(row.segment_ids.max()) + 1):
            found.append(tokenizer.decode([int(id_) for id_ in row.tokens[row.segment_ids == segment]]))
    return found


def sentences(documents: list[str]) -> set[str]:
    """The distinct sentences of some documents, without the fixed heading of exercises; those of the world split at full stops."""
    bodies = (document.removeprefix(english.SPEECH.heading) for document in documents)
    return {part.strip() for body in bodies for part in re.split(r"。|\.(?:\s|$)", body) if len(part.strip()) > 9}


@pytest.mark.parametrize(("rows", "name"), [(places.OLD, "english"), (places.OLD, "chinese"), (places.NEW, "chinese")])
def test_no_held_out_sentence_is_in_the_rows(done: Any, rows: str, name: str) -> None:
    tokenizer = processor.Tokenizer.load(places.old_tokenizer(done.config) if rows == places.OLD else places.of(done.config, "tokenizer"))
    packed = sentences(decoded(places.rows(done.config, rows, name), tokenizer))
    text = done.config.texts[name]
    learned, held_out = sentences(list(texts.learned(done.config.texts, name))), sentences(texts.held_out(text))
    assert len(learned & packed) > 0.4 * len(learned), "the others were cut where a row ends"
    assert len(held_out) > 60
    assert not held_out & packed


def test_rows_that_are_too_long_are_remarked(done: Any, tmp_path: Path) -> None:
    """With the figures of the store: what is cut teaches less than was given."""
    short = dataclasses.replace(done.config, sequence_length=80)
    packed = training.pack(short, places.NEW, config_lib.INSTRUCTIONS, tmp_path / "rows", {})
    counts = packed["splits"]["train"]
    assert counts["cut"] > 0 and counts["dropped_overlong"] > 0
    first = packed["remarks"][0]
    rows = counts["examples"] + counts["dropped_overlong"]
    assert first.startswith(f"80 tokens are too few for some of the {rows:,} instruction rows (train): {counts['cut']:,} answers were cut ")
    assert f", {counts['dropped_overlong']:,} rows were left out; raise sequence_length" in first
    assert training.pack(short, places.NEW, "chinese", tmp_path / "text", {})["remarks"] == []


def test_what_another_text_holds_out_is_remarked(done: Any, tmp_path: Path) -> None:
    chinese = done.config.texts["chinese"]
    more = dataclasses.replace(chinese, validation_files=(), held_out=0.5)
    beside = dataclasses.replace(done.config, texts=done.config.texts | {"more": more})
    packed = training.pack(beside, places.NEW, "chinese", tmp_path / "rows", {})
    count = packed["splits"]["train"]["faults"]["dropped_held_out"]
    assert count > 10
    assert packed["remarks"] == [f"chinese: {count:,} documents that are held out elsewhere are not learned from"]


def test_no_held_out_instruction_is_in_the_rows(done: Any) -> None:
    tokenizer = processor.Tokenizer.load(places.of(done.config, "tokenizer"))
    learned = decoded(places.rows(done.config, places.NEW, config_lib.INSTRUCTIONS), tokenizer)

    def share(rows: list[chat.SftExample]) -> float:
        asked = [f"### Instruction:\n{row.question}\n\n### Response: {row.output}" for row in rows]
        return sum(any(text in example for example in learned) for text in asked) / len(asked)

    given = done.config.instructions
    assert share([found.example for found in instructions.read(given, given.files)]) == 1
    assert share(texts.held_out_rows(done.config.instructions)) == 0


def test_adapters_are_listed_in_the_order_to_fold(done: Any) -> None:
    figures = done.before
    assert figures["english"]["adapters"] == []
    assert figures["embeddings"]["adapters"] == ["steps/embeddings/adapter"]
    assert figures["pretrain"]["adapters"] == ["steps/embeddings/adapter", "steps/pretrain/adapter"]
    assert figures["tune"]["adapters"] == ["steps/embeddings/adapter", "steps/tune/adapter"], "continue replaces what it goes on with"
    assert figures["baseline"]["adapters"] == ["steps/baseline/adapter"]


@pytest.mark.parametrize(("name", "last"), [(places.FINAL, "tune"), (places.PRETRAINED, "pretrain")])
def test_the_exported_models_are_the_grown_one_with_its_adapters_folded(done: Any, name: str, last: str) -> None:
    adapters = done.before[last]["adapters"]
    assert done.before[name]["adapters"] == adapters
    resized = places.of(done.config, places.RESIZED)
    expected = tree.flatten(fold.load(resized, places.inside(done.config, adapters)).checkpoint.params)
    found = tree.flatten(host.load(places.of(done.config, name)).params)
    plain = tree.flatten(host.load(resized).params)
    assert set(found) == set(expected)
    assert all(np.array_equal(np.asarray(found[path]), np.asarray(expected[path])) for path in expected)
    assert any(not np.array_equal(np.asarray(found[path]), np.asarray(plain[path])) for path in expected)


def test_the_baseline_gets_the_flops_of_the_pretraining_up_to_a_step(done: Any) -> None:
    figures = done.before
    budget = figures["embeddings"]["flops"] + figures["pretrain"]["flops"]
    step = figures["baseline"]["flops"] / figures["baseline"]["steps"]
    assert abs(figures["baseline"]["flops"] - budget) <= step
    last = done.config.trainings[1]
    assert figures["baseline"]["tokens"] == figures["baseline"]["steps"] * last.global_batch * done.config.sequence_length
    base = source.load_config(places.base_model(done.config))
    assert f"of {figures['baseline']['parameters']:,} parameters" in figures["baseline"]["table"]
    rules = figures["baseline"]["rules"]
    assert sum(rule["parameters"] for rule in rules) == figures["baseline"]["parameters"]
    assert sum(rule["trainable"] for rule in rules) == figures["baseline"]["trainable"]
    assert figures["baseline"]["parameters"] < figures["pretrain"]["parameters"]
    trained = fold.load(places.base_model(done.config), places.inside(done.config, figures["baseline"]["adapters"]))
    assert trained.checkpoint.config == base, "the vocabulary is not extended"


def test_flops_grow_with_what_learns_and_how_long(done: Any) -> None:
    figures = done.before
    per_token = {name: figures[name]["flops"] / figures[name]["tokens"] for name in ("english", "embeddings", "pretrain", "baseline")}
    matrices = 2 * figures["english"]["parameters"]
    assert 2 * matrices < per_token["english"] < 6 * matrices
    assert per_token["embeddings"] < per_token["pretrain"]
    assert per_token["baseline"] < per_token["pretrain"], "the head of the un-extended model is smaller"


def test_what_the_report_says_of_a_training_is_what_its_journal_says(done: Any) -> None:
    for one in (done.config.base.training, *done.config.trainings):
        figures = done.before[one.name]
        journal = places.of(done.config, one.name) / "metrics.jsonl"
        lines = [json.loads(line) for line in journal.read_text("utf-8").splitlines()]
        losses = [[line["step"], line["loss"]] for line in lines if line["kind"] == "train"]
        assert figures["losses"] == losses
        assert (figures["loss_first"], figures["loss_last"]) == (losses[0][1], losses[-1][1])
        assert figures["validation"][-1][0] == figures["steps"] == one.steps
        assert figures["tokens"] == one.steps * one.global_batch * done.config.sequence_length
        assert 0 < figures["trainable"] <= figures["parameters"]


def test_an_experiment_takes_every_field_of_its_training(recipe: config_lib.Adapt) -> None:
    one = config_lib.Training(
        name="one",
        texts={"chinese": 0.75, config_lib.INSTRUCTIONS: 0.25},
        stage=train_config.Stage("sft"),
        adapter="extend",
        lora=train_config.Lora(rank=3, alpha=5.0),
        optimizer=train_config.Optimizer(learning_rate=0.125),
        schedule=train_config.Schedule(),
        tokens=4096,
        global_batch=16,
        micro_batch=1,
        separate=False,
        validation=train_config.Validation(every=7),
        checkpoint=train_config.Checkpoint(every=9),
    )
    made = training.experiment(recipe, one, model="llama", adapters=["a", "b"], rows=places.NEW, output=Path("out"))
    for field in dataclasses.fields(one):
        if field.name not in ("name", "texts", "separate"):
            assert getattr(made, field.name) == getattr(one, field.name), field.name
    assert (made.model, made.adapters, made.output, made.seed, made.dtype) == ("llama", ("a", "b"), "out", recipe.seed, recipe.dtype)
    assert made.data.separate is False
    assert [(source.store, source.share.weight) for source in made.data.sources] == [
        (str(places.rows(recipe, places.NEW, "chinese")), 0.75),
        (str(places.rows(recipe, places.NEW, config_lib.INSTRUCTIONS)), 0.25),
    ]


def params(directory: Path, adapters: list[str] | None = None) -> dict[str, np.ndarray]:
    """The weights of a model directory with adapters folded in, by path."""
    found = tree.flatten(fold.load(directory, adapters or []).checkpoint.params)
    return {path: np.asarray(leaf) for path, leaf in found.items()}


def test_what_stands_on_a_full_training_is_the_model_that_it_made(done: Any, tmp_path: Path) -> None:
    """Every weight, then factors on top, then the export; figures too, and all of it in an output that was moved."""
    shutil.copytree(done.config.output, tmp_path / "run")
    rows, _, tune = done.config.trainings
    full = dataclasses.replace(rows, name="full", stage=train_config.Stage("full"))
    after = dataclasses.replace(tune, name="after", adapter="fresh")
    bare = dataclasses.replace(done.config.evaluation, texts=("chinese",), max_characters=300, exam=None)
    config = dataclasses.replace(done.config, output=str(tmp_path / "run"), trainings=(rows, full, after), evaluation=bare)
    before = dict(done.before)
    places.of(config, "full").mkdir()
    before["full"] = training.stage(config, full, "embeddings", places.of(config, "full"), before)
    assert (before["full"]["model"], before["full"]["adapters"]) == ("steps/full/model", [])
    made, resized = params(places.of(config, "full") / "model"), params(places.of(config, places.RESIZED))
    assert all(not np.array_equal(made[path], resized[path]) for path in made if path.endswith("kernel")), "every weight learns"

    places.of(config, "after").mkdir()
    before["after"] = training.stage(config, after, "full", places.of(config, "after"), before)
    assert (before["after"]["model"], before["after"]["adapters"]) == ("steps/full/model", ["steps/after/adapter"])
    for last in ("full", "after"):
        exported = tmp_path / "run" / f"exported_{last}"
        figures = training.export(config, last, exported, before)
        assert figures == {name: before[last][name] for name in ("model", "adapters")}
        found = params(exported)
        model, adapters = places.after(config, before[last])
        assert all(np.array_equal(found[path], leaf) for path, leaf in params(model, adapters).items())
        assert any(not np.array_equal(found[path], resized[path]) for path in found)
        loaded, tokenizer = host.load(exported), processor.Tokenizer.load(exported)
        held_out = evaluation.held_out(config)["chinese"]
        score = likelihood.score(loaded.config, {"params": loaded.params}, tokenizer, held_out, length=config.sequence_length)
        measured = evaluation.point(config, last, exported, before)["texts"]["chinese"]
        assert measured["bits_per_character"] == pytest.approx(score.bits_per_character, rel=1e-5)


def test_the_baseline_of_new_rows_trains_all_its_rows(done: Any, tmp_path: Path) -> None:
    shutil.copytree(done.config.output, tmp_path / "run")
    rows = dataclasses.replace(
        done.config.trainings[0], stage=train_config.Stage("new_rows", extra_rules=(train_config.Rule("params/lm_head/extension"),))
    )
    config = dataclasses.replace(done.config, output=str(tmp_path / "run"), trainings=(rows,))
    folder = tmp_path / "run" / "steps" / "again"
    folder.mkdir()
    figures = training.baseline(config, [rows], folder, done.before)
    base = source.load_config(places.base_model(config))
    assert figures["trainable"] == 2 * base.vocab_size * base.hidden_size, "embedding and head"
    assert (figures["model"], figures["adapters"]) == ("steps/english/model", ["steps/again/adapter"])


@pytest.mark.parametrize(
    ("stage", "rows"),
    [("new_rows", "all"), ("embeddings", "all"), ("pretrain_lora", "all")],
)
def test_a_stage_without_new_rows_is_its_own(stage: train_config.Preset, rows: str) -> None:
    kept = (train_config.Rule("params/embed_tokens/.*"), train_config.Rule("params/norm/.*"))
    one = train_config.Stage(stage, extra_rules=(*kept, train_config.Rule("params/.*/extension")))
    found = training.unextended(one)
    assert (found.trained_rows, found.extra_rules) == (rows, kept)
    assert (found.lora_targets, found.trains_head) == (one.lora_targets, one.trains_head)
