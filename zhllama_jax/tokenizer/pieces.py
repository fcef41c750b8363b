"""What a merge adds: the pieces of a SentencePiece model, or the lines of a plain word list."""

from pathlib import Path
from typing import NamedTuple

from zhllama_jax import lines
from zhllama_jax.tokenizer import proto, reach, scripts


class Offer(NamedTuple):
    """Pieces that a file offers.

    Attributes:
      name: the file's name.
      pieces: in the file's order, U+2581 for blanks; of a model all of them, special ones too.
      text: those of `pieces` that stand for text: no control, byte or unknown piece.
      kind: the model's type, such as "unigram"; "list" for a word list, whose every entry somebody chose.
    """

    name: str
    pieces: tuple[str, ...]
    text: frozenset[str]
    kind: str

    @property
    def is_list(self) -> bool:
        """Whether the file is a word list."""
        return self.kind == "list"

    def chosen(self, script: scripts.Script) -> list[str]:
        """The pieces worth a row for a script: with a letter of it, of a word list with any character of it."""
        suits = script.has_character if self.is_list else script.has_letter
        return [piece for piece in self.pieces if piece in self.text and suits(piece)]


def read(path: str | Path, *, script: scripts.Script) -> Offer:
    """The offer of a file: a `.txt` word list, or else a SentencePiece model of any kind (or a directory with one).

    In a word list each line is a word. Blanks around it do not count, a blank inside is part of it. Where the script
    puts blanks between words (`Script.spaced`), the piece is the word with the blank before it, as running text has it.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: a damaged model; a line with a tab, a control character or more than 48 characters.
    """
    path = Path(path)
    if path.suffix.lower() == ".txt":
        return _read_list(path, script)
    model = proto.parse(proto.read(path), where=str(path), specials=False)
    names = [piece.piece for piece in model.pieces]
    text = frozenset(piece.piece for piece in model.pieces if piece.type in (proto.NORMAL, proto.USER_DEFINED))
    return Offer(path.name, tuple(names), text, proto.model_type(model))


def _read_list(path: Path, script: scripts.Script) -> Offer:
    words: dict[str, None] = {}
    for number, line in lines.read(path):
        word = line.strip(" \u3000")
        if not word:
            continue
        if any(ord(character) < 32 or 127 <= ord(character) < 160 for character in word):
            raise ValueError(f"{path}:{number}: a word list has one word a line and nothing else, found a tab or another control character")
        piece = word.replace(" ", proto.SPACE)
        if script.spaced and not piece.startswith(proto.SPACE):
            piece = proto.SPACE + piece
        if len(piece) > reach.MAX_ATOMS:
            raise ValueError(f"{path}:{number}: a word has at most {reach.MAX_ATOMS} characters, found {len(piece)}: write one word a line")
        words[piece] = None
    return Offer(path.name, tuple(words), frozenset(words), "list")
