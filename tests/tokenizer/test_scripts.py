"""The table agrees with Unicode's own names, and its entries do not overlap by mistake."""

import itertools
import unicodedata

import pytest

from zhllama_jax.tokenizer import scripts

# How Unicode names the letters of a script, where that is not the script's own name.
UNICODE_NAMES = {"han": "CJK", "oriya": "ORIYA", "cyrillic": "CYRILLIC"}


@pytest.mark.parametrize("name", scripts.NAMES)
def test_letters_are_those_that_unicode_names_so(name: str) -> None:
    """Nearly every letter that Unicode names after the script is in it; Unicode scatters a few rare ones over other blocks."""
    script = scripts.named(name)
    prefix = UNICODE_NAMES.get(name, name.upper()) + " "
    inside, outside = 0, []
    for code in range(0x20000):
        character = chr(code)
        if unicodedata.category(character) not in ("Lo", "Ll", "Lu", "Lm"):
            continue
        if unicodedata.name(character, "").startswith(prefix):
            inside += script.has_character(character)
            if not script.has_character(character):
                outside.append(f"{code:x}")
    assert inside > 20
    assert len(outside) <= 0.2 * inside, outside


def test_han_holds_ideographs_punctuation_and_full_width_forms() -> None:
    han = scripts.named("han")
    assert all(map(han.has_letter, "中國㐀龥豈"))
    assert all(map(han.has_character, "中，。、《》「」〇々！＋Ａ１％𠮷"))
    assert not any(map(han.has_letter, "，。〇！Ａ𠮷"))
    assert not any(map(han.has_character, "aZ09 ,.\n▁é—…“”①℃αЖあア한👍"))
    assert han.has_letter("abc中") and not han.has_letter("")


def test_marks_and_letters_of_one_script_do_not_overlap() -> None:
    for name in scripts.NAMES:
        script = scripts.named(name)
        ranges = sorted(script.letters + script.marks)
        assert all(low <= high for low, high in ranges)
        assert all(first[1] < second[0] for first, second in itertools.pairwise(ranges)), name


def test_several_scripts() -> None:
    both = scripts.named("han, Hiragana")
    assert both.name == "han,hiragana"
    assert both.has_letter("ひ") and both.has_letter("漢") and not both.has_letter("ア")
    assert not both.spaced
    assert scripts.named("cyrillic").spaced


def test_the_pattern_matches_the_same_characters() -> None:
    script = scripts.named("han,thai,hebrew")
    pattern = script.pattern()
    for code in itertools.chain(range(0xD800), range(0xE000, 0x30000, 7)):
        assert bool(pattern.match(chr(code))) == script.has_character(chr(code))


@pytest.mark.parametrize("name", ["latin", "", "han,klingon"])
def test_unknown_names(name: str) -> None:
    with pytest.raises(ValueError, match=r"no script named .*known are han, hiragana"):
        scripts.named(name)
