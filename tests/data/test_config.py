"""Wrong choices are refused together, in words."""

import dataclasses

import pytest

from zhllama_jax.data import config


def test_defaults_are_accepted_and_frozen() -> None:
    data = config.TextData(files=("a.txt",))
    with pytest.raises(dataclasses.FrozenInstanceError):
        data.length = 3  # type: ignore[misc]


def test_all_problems_are_named_at_once() -> None:
    with pytest.raises(ValueError, match=r"files is empty.*held_out.*length.*bos and eos"):
        config.TextData(files=(), held_out=1.5, length=1, bos=False, eos=False)


@pytest.mark.parametrize("kind", [config.TextData, config.SftData])
def test_two_ways_to_validation_exclude_each_other(kind: type) -> None:
    with pytest.raises(ValueError, match="exclude each other"):
        kind(files=("a",), validation_files=("b",), held_out=0.1)


@pytest.mark.parametrize("share", [{"weight": 0.0}, {"weight": float("nan")}, {"weight": float("inf")}, {"max_epochs": 0.0}])
def test_shares_are_positive(share: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must be above 0"):
        config.Share(**share)


@pytest.mark.parametrize("name", ["max_rows", "max_tokens"])
def test_caps_are_at_least_one(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} must be at least 1 or none, got 0"):
        config.Share(**{name: 0})


def test_caps_count_what_their_words_say() -> None:
    """Rows of the files are rows, examples are rows by their mean, and the narrower of two caps holds."""
    assert config.Share().taken(1000, length=32) == 1000
    assert config.Share(max_rows=600).taken(1000, length=32) == 600
    assert config.Share(max_rows=600).taken(1000, length=32, examples=4000) == 150
    assert config.Share(max_rows=550_000).taken(1000, length=32, examples=4000) == 1000, "a cap above the source takes it whole"
    assert config.Share(max_tokens=6400).taken(1000, length=32) == 200
    assert config.Share(max_tokens=6400).taken(1000, length=32, tokens=16_000) == 400, "padding is no token"
    assert config.Share(max_rows=300, max_tokens=6400).taken(1000, length=32) == 200
    assert config.Share(max_tokens=1).taken(1000, length=32) == 1


def test_a_source_is_called_after_all_its_files() -> None:
    assert config.title(["data/zh.corpus.jsonl.gz"]) == "zh" and config.title(["语料.txt"]) == "语料"
    assert config.title(["a/one.json", "two.json", "three.json"]) == "one_and_2_more"
    assert config.title(["corpus/part-*.jsonl"]) == "part-" and config.title(["*.jsonl"]) == "data"


def test_an_epoch_is_called_whole_only_where_it_is() -> None:
    assert config.epoch([config.Share(), config.Share(max_epochs=2)]).endswith("reads each row of each once")
    assert config.epoch([config.Share(), config.Share(max_epochs=0.5)]).endswith("but for what a share.max_epochs below 1 leaves unread")
