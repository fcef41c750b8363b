"""Unicode scripts as ranges of characters: which pieces belong to a target script, and which texts are free of it.

The table is our own, cut from the block chart of Unicode 16 so that it does not change with the Python version. Each script has
letters, which make a piece one of the script, and marks: punctuation, forms and rare letters that belong to it but do
not, alone, make a piece worth a row. Trained models are full of pieces like `。2.` and `》、《`, the debris of their corpus.
"""

import re
from collections.abc import Sequence
from typing import NamedTuple

Range = tuple[int, int]


class Script(NamedTuple):
    """One or several scripts.

    Attributes:
      name: the name, several joined by commas.
      letters: ranges of the characters that make a piece one of the script.
      marks: ranges of further characters that only this script's texts hold.
      spaced: whether words stand between blanks, so that a word in running text begins with one.
    """

    name: str
    letters: tuple[Range, ...]
    marks: tuple[Range, ...] = ()
    spaced: bool = True

    def has_letter(self, text: str) -> bool:
        """Whether `text` holds a letter of the script."""
        return _within(self.letters, text)

    def has_character(self, text: str) -> bool:
        """Whether `text` holds any character of the script, letter or mark."""
        return _within(self.letters + self.marks, text)

    def pattern(self) -> re.Pattern[str]:
        """Matches one character of the script."""
        return re.compile("[" + "".join(f"{re.escape(chr(low))}-{re.escape(chr(high))}" for low, high in self.letters + self.marks) + "]")


# Ideographs beyond the Basic Multilingual Plane are marks: the corpora of trained models hold them by accident only, and a word list may
# name those that are wanted. The same goes for 〇 and 々, which stand among CJK punctuation.
_HAN = Script(
    "han",
    letters=((0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF)),
    marks=(
        (0x2E80, 0x2FDF),  # radicals
        (0x2FF0, 0x303F),  # description characters; CJK symbols and punctuation
        (0x3190, 0x319F),  # kanbun
        (0x31C0, 0x31EF),  # strokes
        (0x3220, 0x3247),  # parenthesised and circled ideographs
        (0x3280, 0x32B0),
        (0x32C0, 0x32CB),  # months
        (0x3358, 0x3370),  # hours
        (0x337B, 0x337F),  # eras, corporation
        (0x33E0, 0x33FE),  # days
        (0xFE10, 0xFE1F),  # vertical forms
        (0xFE30, 0xFE6F),  # compatibility and small forms
        (0xFF00, 0xFFEF),  # half- and full-width forms
        (0x16FE0, 0x16FFF),
        (0x20000, 0x323AF),  # extensions B to H
    ),
    spaced=False,
)

_TABLE = (
    _HAN,
    Script("hiragana", ((0x3040, 0x309F), (0x1B001, 0x1B11F)), spaced=False),
    Script("katakana", ((0x30A0, 0x30FF), (0x31F0, 0x31FF), (0xFF66, 0xFF9F)), spaced=False),
    Script("bopomofo", ((0x3100, 0x312F), (0x31A0, 0x31BF)), spaced=False),
    Script("hangul", ((0x1100, 0x11FF), (0x3130, 0x318F), (0xA960, 0xA97F), (0xAC00, 0xD7FF), (0xFFA0, 0xFFDC))),
    Script("greek", ((0x0370, 0x03FF), (0x1F00, 0x1FFF))),
    Script("cyrillic", ((0x0400, 0x052F), (0x1C80, 0x1C8F), (0x2DE0, 0x2DFF), (0xA640, 0xA69F))),
    Script("armenian", ((0x0530, 0x058F), (0xFB13, 0xFB17))),
    Script("hebrew", ((0x0590, 0x05FF), (0xFB1D, 0xFB4F))),
    Script("arabic", ((0x0600, 0x06FF), (0x0750, 0x077F), (0x0870, 0x08FF), (0xFB50, 0xFDFF), (0xFE70, 0xFEFE))),
    Script("syriac", ((0x0700, 0x074F), (0x0860, 0x086F))),
    Script("thaana", ((0x0780, 0x07BF),)),
    Script("devanagari", ((0x0900, 0x097F), (0xA8E0, 0xA8FF))),
    Script("bengali", ((0x0980, 0x09FF),)),
    Script("gurmukhi", ((0x0A00, 0x0A7F),)),
    Script("gujarati", ((0x0A80, 0x0AFF),)),
    Script("oriya", ((0x0B00, 0x0B7F),)),
    Script("tamil", ((0x0B80, 0x0BFF),)),
    Script("telugu", ((0x0C00, 0x0C7F),)),
    Script("kannada", ((0x0C80, 0x0CFF),)),
    Script("malayalam", ((0x0D00, 0x0D7F),)),
    Script("sinhala", ((0x0D80, 0x0DFF),)),
    Script("thai", ((0x0E00, 0x0E7F),), spaced=False),
    Script("lao", ((0x0E80, 0x0EFF),), spaced=False),
    Script("tibetan", ((0x0F00, 0x0FFF),), spaced=False),
    Script("myanmar", ((0x1000, 0x109F), (0xA9E0, 0xA9FF), (0xAA60, 0xAA7F)), spaced=False),
    Script("georgian", ((0x10A0, 0x10FF), (0x1C90, 0x1CBF), (0x2D00, 0x2D2F))),
    Script("ethiopic", ((0x1200, 0x139F), (0x2D80, 0x2DDF), (0xAB00, 0xAB2F))),
    Script("cherokee", ((0x13A0, 0x13FF), (0xAB70, 0xABBF))),
    Script("khmer", ((0x1780, 0x17FF), (0x19E0, 0x19FF)), spaced=False),
    Script("mongolian", ((0x1800, 0x18AF),)),
    Script("javanese", ((0xA980, 0xA9DF),), spaced=False),
    Script("tifinagh", ((0x2D30, 0x2D7F),)),
    Script("yi", ((0xA000, 0xA4CF),), spaced=False),
)

NAMES: Sequence[str] = tuple(script.name for script in _TABLE)


def named(names: str) -> Script:
    """The script of this name; several names, joined by commas, are one script of all their characters.

    Latin is not in the table: LLaMA's own text is Latin, and no promise about it could hold.

    Raises:
      ValueError: a name that is not in the table.
    """
    table = {script.name: script for script in _TABLE}
    wanted = [name.strip().lower() for name in names.split(",")]
    unknown = [name for name in wanted if name not in table]
    if unknown:
        raise ValueError(f"no script named {', '.join(map(repr, unknown))}; known are {', '.join(NAMES)}, several joined by commas")
    found = [table[name] for name in dict.fromkeys(wanted)]
    return Script(
        ",".join(script.name for script in found),
        letters=tuple(entry for script in found for entry in script.letters),
        marks=tuple(entry for script in found for entry in script.marks),
        spaced=all(script.spaced for script in found),
    )


def _within(ranges: Sequence[Range], text: str) -> bool:
    return any(low <= ord(character) <= high for character in text for low, high in ranges)
