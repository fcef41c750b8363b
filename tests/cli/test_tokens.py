"""Every sign is seen, and stretches end where what is learnt, or a document, does."""

from zhllama_jax.cli import tokens
from zhllama_jax.data import preview


def test_every_sign_is_seen() -> None:
    assert tokens.visible("a\nb\\c\t\u3000\x1b\u200b中") == "a\\n\nb\\\\c\\t\u3000\\x1b\\u200b中"


def test_stretches_are_of_one_document_and_one_kind() -> None:
    found = [
        preview.Token(number, str(number), learnt, segment) for number, learnt, segment in ((5, 0, 1), (6, 1, 1), (7, 1, 1), (8, 1, 2))
    ]
    sample = preview.Sample("a:1", "", found)
    assert [(segment, learnt, [token.number for token in stretch]) for segment, learnt, stretch in tokens.spans(sample)] == [
        (1, False, [5]),
        (1, True, [6, 7]),
        (2, True, [8]),
    ]
