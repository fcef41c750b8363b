"""The feed: stores built once, batches as global arrays in order, held-out rows scored once each."""

import dataclasses
import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from zhllama_jax.data import batches, store
from zhllama_jax.data import config as data_config
from zhllama_jax.data.pack import Row
from zhllama_jax.shard import mesh as mesh_lib
from zhllama_jax.tokenizer import processor
from zhllama_jax.train import config, feed


@pytest.fixture(scope="module")
def tokenizer(english_pieces) -> processor.Tokenizer:
    return processor.Tokenizer.load(english_pieces)


@pytest.fixture(scope="module")
def built(tokenizer, text_data, tmp_path_factory):
    """(directory, opened data, what was said)."""
    directory, lines = tmp_path_factory.mktemp("data"), []
    data = config.Data(sources=(config.Source(text=text_data),))
    return directory, feed.open_data(data, tokenizer, directory, say=lines.append), lines


def test_a_corpus_is_built_once_and_counted(built, tokenizer, text_data) -> None:
    directory, opened, lines = built
    assert [line for line in lines if "rows of 32 tokens" in line] == lines[:1] and "written to" in lines[0]
    assert opened.length == 32 and opened.prompt is None and len(opened.held_out) == 1
    again: list[str] = []
    data = config.Data(sources=(config.Source(text=text_data), config.Source(store=str(directory / "0"))))
    twice = feed.open_data(data, tokenizer, directory, say=again.append)
    assert "as they were built" in again[0] and again[1:] == lines[1:] and twice.num_rows == 2 * opened.num_rows
    assert twice.identity == [opened.identity[0]] * 2
    names = [held_out.name for held_out in twice.held_out]
    assert len(set(names)) == 2, "their scores stand beside each other"


def test_other_data_have_another_identity(built, tokenizer, text_data, tmp_path) -> None:
    other = config.Data(sources=(config.Source(text=data_config.TextData(files=text_data.files, length=32, salt="x", held_out=0.1)),))
    assert feed.open_data(other, tokenizer, tmp_path, say=print).identity != built[1].identity


@pytest.mark.parametrize("name", ["step", "kind"])
def test_no_source_takes_the_place_of_a_key_of_the_log(tokenizer, text_data, tmp_path, name: str) -> None:
    path = tmp_path / f"{name}.txt"
    path.write_bytes(Path(text_data.files[0]).read_bytes())
    data = config.Data(sources=(config.Source(text=data_config.TextData(files=(str(path),), length=32, held_out=0.1)),))
    (held_out,) = feed.open_data(data, tokenizer, tmp_path / "data", say=print).held_out
    assert held_out.name == f"{name}_0"


def test_what_one_corpus_holds_out_is_learnt_through_no_other(built, tokenizer, text_data, tmp_path) -> None:
    whole = config.Source(text=dataclasses.replace(text_data, held_out=0.0))
    both = feed.open_data(config.Data(sources=(config.Source(text=text_data), whole)), tokenizer, tmp_path, say=print)
    assert len(both.sources[1]) == len(both.sources[0]) == len(built[1].sources[0])
    alone = feed.open_data(config.Data(sources=(whole,)), tokenizer, tmp_path / "alone", say=print)
    assert len(alone.sources[0]) > len(both.sources[1])


@pytest.mark.parametrize("separate", [True, False])
def test_bits_per_character_are_of_what_was_scored(tokenizer, text_data, tmp_path, separate: bool) -> None:
    """Without EOS the step to the next document is a target only where documents are not separate; reference packing drops text."""
    without = config.Source(text=dataclasses.replace(text_data, eos=False))
    reference = config.Source(text=dataclasses.replace(text_data, packing="reference"))
    opened = feed.open_data(config.Data(sources=(without, reference), separate=separate), tokenizer, tmp_path, say=print)
    mesh = mesh_lib.make(devices=jax.devices()[:1])

    def evaluate(part: batches.Batch) -> tuple:
        return math.log(2) * jnp.sum(part.loss_mask), jnp.sum(part.loss_mask)

    first, second = (feed.score(each, evaluate, mesh, batch=4, separate=separate, max_rows=None) for each in opened.held_out)
    assert opened.held_out[0].targets == first.tokens
    assert first.bits_per_character == pytest.approx(first.tokens / opened.held_out[0].characters)
    assert second.bits_per_character is None


def test_instructions_say_how_they_are_put(tokenizer, tmp_path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"instruction": "Say yes.", "input": "", "output": "yes"}\n' * 3)
    sft = config.Source(sft=data_config.SftData(files=(str(path),), length=256, template="alpaca"))
    opened = feed.open_data(config.Data(sources=(sft,)), tokenizer, tmp_path / "data", say=print)
    assert opened.prompt == ("alpaca", "joined", "open")
    faithful = config.Source(sft=data_config.SftData(files=(str(path),), length=256, template="alpaca", boundary="faithful"))
    with pytest.raises(ValueError, match="in different ways"):
        feed.open_data(config.Data(sources=(sft, faithful)), tokenizer, tmp_path / "data", say=print)


def test_conversations_say_that_answers_end(tokenizer, tmp_path) -> None:
    """One conversation among single answers is enough: the model then reads EOS behind earlier answers."""
    single, talk = tmp_path / "single.jsonl", tmp_path / "talk.jsonl"
    single.write_text('{"instruction": "Say yes.", "output": "yes"}\n')
    talk.write_text('{"instruction": "Say no.", "output": "no", "history": [["Say yes.", "yes"]]}\n')
    sources = [config.Source(sft=data_config.SftData(files=(str(path),), length=400)) for path in (single, talk)]
    assert feed.open_data(config.Data(sources=(sources[0],)), tokenizer, tmp_path / "one", say=print).prompt.turns == "open"
    both = feed.open_data(config.Data(sources=tuple(sources)), tokenizer, tmp_path / "two", say=print)
    assert both.prompt == ("alpaca", "joined", "closed")


def test_a_cap_counts_examples_and_is_said(tokenizer, tmp_path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(f'{{"instruction": "Say {number}.", "input": "", "output": "yes"}}\n' for number in range(40)))
    sft = data_config.SftData(files=(str(path),), length=64, template="none")
    said: list[str] = []

    def opened(**caps: int) -> feed.Opened:
        source = config.Source(sft=sft, share=data_config.Share(**caps))
        return feed.open_data(config.Data(sources=(source,)), tokenizer, tmp_path / "data", say=said.append)

    whole, half = opened(), opened(max_rows=20)
    assert 1 < len(whole.sources[0]) < 40, "several examples are packed into a row"
    assert half.taken == [len(whole.sources[0]) // 2] and half.num_rows == half.taken[0]
    assert said[-1] == f"data: rows: {half.taken[0]} of its {len(whole.sources[0])} rows are used (max_rows 20)"
    assert "taken" not in whole.identity[0] and half.identity[0]["taken"] == half.taken[0], "a run without caps goes on after an update"


def test_sources_of_other_lengths_are_refused(built, tokenizer, text_data, tmp_path) -> None:
    longer = config.Source(text=data_config.TextData(files=text_data.files, length=64))
    data = config.Data(sources=(config.Source(store=str(built[0] / "0")), longer))
    with pytest.raises(ValueError, match="rows of 32 and 64 tokens"):
        feed.open_data(data, tokenizer, tmp_path, say=print)


def test_a_store_of_another_tokenizer_is_refused(built, chinese_pieces, tmp_path) -> None:
    other = processor.Tokenizer.from_bytes(chinese_pieces.read_bytes())
    with pytest.raises(ValueError, match="another tokenizer"):
        feed.open_data(config.Data(sources=(config.Source(store=str(built[0] / "0")),)), other, tmp_path, say=print)


def test_batches_come_in_order_cut_and_placed(built) -> None:
    mesh = mesh_lib.make(4, 2, 1)
    source = batches.Batches(built[1].sources, global_batch=16, seed=3)
    found = list(feed.train_batches(source, mesh, start=2, stop=5, accumulation=2))
    assert len(found) == 3
    for step, batch in enumerate(found, start=2):
        for ours, theirs in zip(batch, source.rows(step), strict=True):
            np.testing.assert_array_equal(np.asarray(ours).reshape(16, 32), theirs)
    abstract = feed.abstract_batch(mesh, batch=16, accumulation=2, length=32)
    same = jax.tree.map(
        lambda leaf, shape: (leaf.shape, leaf.dtype, leaf.sharding) == (shape.shape, shape.dtype, shape.sharding), batch, abstract
    )
    assert all(same)


def test_a_fault_in_the_data_reaches_the_loop(built) -> None:
    source = batches.Batches(built[1].sources, global_batch=1, seed=0, shares=[data_config.Share(max_epochs=0.01)])
    with pytest.raises(ValueError, match="max_epochs"):
        list(feed.train_batches(source, mesh_lib.make(devices=jax.devices()[:1]), start=0, stop=10_000, accumulation=1))


def rows(count: int) -> list[Row]:
    """Rows of 4 tokens, each predicted but the first."""
    return [Row(np.full(5, n + 1, np.uint32), np.array([0, 1, 1, 1, 1], np.uint8), np.ones(5, np.uint16)) for n in range(count)]


@pytest.mark.parametrize("batch", [1, 2, 8])
def test_held_out_rows_are_scored_once_each_whatever_the_batch(batch) -> None:
    """The cost of a token is its id here, so the mean is known."""
    mesh = mesh_lib.make(devices=jax.devices()[:1])

    def evaluate(part: batches.Batch) -> tuple:
        return jnp.sum(part.targets * part.loss_mask), jnp.sum(part.loss_mask)

    held_out = feed.HeldOut("x", rows(5), characters=10, targets=20)
    score = feed.score(held_out, evaluate, mesh, batch=batch, separate=True, max_rows=None)
    assert score.loss == 3.0 and score.tokens == 20
    assert score.bits_per_character == pytest.approx(3.0 * 20 / 10 / math.log(2))
    assert feed.score(held_out, evaluate, mesh, batch=batch, separate=True, max_rows=3).loss == 2.0
    unknown = held_out._replace(characters=None)
    assert feed.score(unknown, evaluate, mesh, batch=batch, separate=True, max_rows=3).bits_per_character is None


def test_scores_of_several_sources_weigh_by_tokens() -> None:
    assert feed.together([feed.Score(1.0, None, 30.0), feed.Score(3.0, None, 10.0)]) == 1.5


def test_a_store_is_what_the_package_writes(built) -> None:
    assert isinstance(built[1].sources[0], store.Store)


def instructions(path: Path, numbers: range) -> data_config.SftData:
    path.write_text("".join(f'{{"instruction": "Say {number}.", "output": "It is {number}."}}\n' for number in numbers))
    return data_config.SftData(files=(str(path),), length=64, template="none", packing="one")


def test_what_one_set_of_instructions_holds_out_is_learnt_through_no_other(tokenizer, tmp_path) -> None:
    """Two files with the same questions: one holds some out, the other says nothing of it, and the run says how many were dropped."""
    first, second = (instructions(tmp_path / f"{name}.jsonl", range(50)) for name in ("first", "second"))
    said: list[str] = []
    sources = (config.Source(sft=dataclasses.replace(first, held_out=0.3)), config.Source(sft=second))
    opened = feed.open_data(config.Data(sources=sources), tokenizer, tmp_path / "data", say=said.append)
    [held_out] = opened.held_out
    learnt, asked = ({tuple(row.tokens) for row in map(rows.__getitem__, range(len(rows)))} for rows in (opened.sources[1], held_out.rows))
    assert len(asked) > 5 and not learnt & asked and len(learnt) + len(asked) == 50
    assert f"data: second: left out or repaired (train): {len(asked)} dropped held out" in said


def test_a_store_beside_other_sources_is_not_taken_for_checked(tokenizer, tmp_path) -> None:
    whole, part = instructions(tmp_path / "whole.jsonl", range(50)), instructions(tmp_path / "part.jsonl", range(30))
    feed.open_data(config.Data(sources=(config.Source(sft=whole),)), tokenizer, tmp_path / "before", say=print)
    beside, said = (config.Source(store=str(tmp_path / "before" / "0")), config.Source(sft=dataclasses.replace(part, held_out=0.3))), []
    feed.open_data(config.Data(sources=beside), tokenizer, tmp_path / "data", say=said.append)
    [note] = [line for line in said if "note" in line]
    assert note.startswith("data: 0: note: what another source holds out may stand in its rows")


def test_stores_built_beside_each_other_and_stores_of_one_rule_are_taken_for_checked(tokenizer, tmp_path) -> None:
    """What was left out for the very files is; what one share under one salt holds out is; another salt says nothing."""
    first, second = (instructions(tmp_path / f"{name}.jsonl", range(50)) for name in ("first", "second"))

    def stores(name: str, *sources: data_config.SftData) -> list[config.Source]:
        made = config.Data(sources=tuple(config.Source(sft=source) for source in sources))
        feed.open_data(made, tokenizer, tmp_path / name, say=print)
        return [config.Source(store=str(tmp_path / name / str(number))) for number in range(len(sources))]

    def notes(*sources: config.Source) -> int:
        said: list[str] = []
        feed.open_data(config.Data(sources=sources), tokenizer, tmp_path / "data", say=said.append)
        return sum("note" in line for line in said)

    shared = dataclasses.replace(first, held_out=0.3)
    together = stores("together", shared, second)
    smaller, [salted] = (
        stores("smaller", dataclasses.replace(second, held_out=0.2)),
        stores("salted", dataclasses.replace(second, held_out=0.2, salt="x")),
    )
    assert notes(*together) == 0
    assert notes(together[0], *smaller) == 1, "the smaller share was built without regard to the larger one"
    assert notes(*smaller, *stores("same", dataclasses.replace(first, held_out=0.2))) == 0
    assert notes(together[0], salted) == 2


def test_no_two_sources_have_one_name(tokenizer, tmp_path) -> None:
    sources = []
    for number, name in enumerate(["a_2", "a", "a", "step"]):
        (tmp_path / str(number)).mkdir()
        sources.append(config.Source(sft=instructions(tmp_path / str(number) / f"{name}.jsonl", range(3))))
    opened = feed.open_data(config.Data(sources=tuple(sources)), tokenizer, tmp_path / "data", say=lambda _: None)
    assert opened.names == ["a_2", "a", "a_2_2", "step_3"]


def test_what_is_cut_and_dropped_is_said_by_source(tokenizer, tmp_path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"instruction": "Say yes.", "output": "yes"}\n{"instruction": "Say no.", "output": "%s"}\n{"oops\n' % ("no " * 200))
    sft = data_config.SftData(files=(str(path),), length=64, template="none", on_error="skip")
    said: list[str] = []
    for _ in range(2):
        feed.open_data(config.Data(sources=(config.Source(sft=sft),)), tokenizer, tmp_path / "data", say=said.append)
    assert "1 answer was cut and does not teach where an answer ends; raise length" in said[1]
    assert said[2] == "data: rows: left out or repaired (train): 1 malformed"
    assert said[4:] == said[1:3], "who looks at a later start reads it too"


def test_what_is_read_of_each_source_is_said(tokenizer, tmp_path) -> None:
    """Without weights an epoch is a pass over every source; with weights the lines say what it is."""
    large, small = instructions(tmp_path / "large.jsonl", range(60)), instructions(tmp_path / "small.jsonl", range(60, 80))

    def lines(*weights: float | None, epochs: float) -> list[str]:
        shares = [data_config.Share(weight=weight) for weight in weights]
        sources = tuple(config.Source(sft=sft, share=share) for sft, share in zip((large, small), shares, strict=True))
        data = feed.open_data(config.Data(sources=sources), tokenizer, tmp_path / "data", say=print)
        source = batches.Batches(data.sources, global_batch=4, seed=0, shares=shares, taken=data.taken)
        return feed.portions(data, source, steps=math.ceil(epochs * data.num_rows / 4))

    assert lines(None, None, epochs=3) == [
        "data: large: 75.0 % of what the run reads: 180 rows, each of its 60 3.00 times",
        "data: small: 25.0 % of what the run reads: 60 rows, each of its 20 3.00 times",
    ]
    assert lines(1, 1, epochs=3) == [
        "data: large: 50.0 % of what the run reads: 120 rows, each of its 60 2.00 times",
        "data: small: 50.0 % of what the run reads: 120 rows, each of its 20 6.00 times",
    ]
