"""Templates by name."""

import pytest

from zhllama_jax import templates


def test_alpaca_is_the_original_s_text() -> None:
    form = templates.named("alpaca")
    assert form.head + form.opening + "Say yes." + form.closing == (
        "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"
        "### Instruction:\nSay yes.\n\n### Response: "
    )


def test_none_puts_no_text_and_an_unknown_name_none_that_is_known() -> None:
    assert [name for name in (*templates.TEMPLATES, "alpaka") if templates.puts_text(name)] == ["alpaca", "llama_cpp"]
    assert "".join(vars(templates.named("none")).values()) == ""


def test_an_unknown_name_is_answered_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match="no template 'alpaka': choose one of alpaca, llama_cpp, none"):
        templates.named("alpaka")
