"""Names of texts on the command line."""

import pytest

from zhllama_jax.cli import texts


def test_files_are_gathered_by_name() -> None:
    entries = ["zh=a.txt", "dir/b.jsonl", "zh=c.txt", "../x=1/d.txt", "中文=e=f.txt"]
    assert texts.named(entries) == {"zh": ["a.txt", "c.txt"], "b": ["dir/b.jsonl"], "d": ["../x=1/d.txt"], "中文": ["e=f.txt"]}


def test_files_of_one_stem_are_not_taken_for_one_text() -> None:
    with pytest.raises(ValueError, match=r"a/text\.txt and b/text\.txt are both named text: write NAME=FILE"):
        texts.named(["a/text.txt", "b/text.txt"])
    assert texts.named(["text=a/text.txt", "text=b/text.txt"]) == {"text": ["a/text.txt", "b/text.txt"]}


@pytest.mark.parametrize("entry", ["", "=a.txt", "zh="])
def test_a_name_or_path_that_is_empty_is_refused(entry: str) -> None:
    with pytest.raises(ValueError, match="FILE or NAME=FILE"):
        texts.named([entry])
