"""The files of the demo world, made in about two seconds and determined by the seed.

    english.jsonl            {"text"}: what the base model is trained on
    chinese.jsonl            {"text"}: what it is adapted to
    english_held_out.jsonl   documents made of held-out combinations only
    chinese_held_out.jsonl   the same in Chinese
    instructions.jsonl       {"instruction", "input", "output", "task"}: Alpaca rows
    instructions_held_out.jsonl
    symbols.txt              Chinese punctuation, for the base model's vocabulary alone: LLaMA's has these marks too

Held-out means unseen combinations of known parts (see `draw`), new arguments for procedures and new wordings for facts (see
`instructions`).
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from zhllama_jax import files
from zhllama_jax.demo import chinese, english, instructions, scenes
from zhllama_jax.demo.draw import Draw
from zhllama_jax.demo.speech import Speech

MIN_CHARACTERS: Final = 80


@dataclass(frozen=True, slots=True)
class World:
    """Where the files of a world are."""

    directory: Path

    @property
    def english(self) -> Path:
        """English training documents."""
        return self.directory / "english.jsonl"

    @property
    def chinese(self) -> Path:
        """Chinese training documents."""
        return self.directory / "chinese.jsonl"

    @property
    def english_held_out(self) -> Path:
        """English documents made of held-out combinations."""
        return self.directory / "english_held_out.jsonl"

    @property
    def chinese_held_out(self) -> Path:
        """Chinese documents made of held-out combinations."""
        return self.directory / "chinese_held_out.jsonl"

    @property
    def instructions(self) -> Path:
        """Instruction rows for training."""
        return self.directory / "instructions.jsonl"

    @property
    def instructions_held_out(self) -> Path:
        """Instruction rows with new arguments or new wordings."""
        return self.directory / "instructions_held_out.jsonl"

    @property
    def symbols(self) -> Path:
        """Punctuation that the base model's vocabulary should have."""
        return self.directory / "symbols.txt"


def write(
    directory: str | Path,
    *,
    seed: int = 0,
    english_documents: int = 9000,
    chinese_documents: int = 7000,
    held_out_documents: int = 300,
    instruction_rows: int = 6000,
    held_out_instruction_rows: int = 450,
) -> World:
    """Writes the seven files of world `seed` into `directory`, each of them whole or not at all.

    Raises:
      ValueError: a size is not positive.
    """
    sizes = {
        "english_documents": english_documents,
        "chinese_documents": chinese_documents,
        "held_out_documents": held_out_documents,
        "instruction_rows": instruction_rows,
        "held_out_instruction_rows": held_out_instruction_rows,
    }
    if wrong := [f"{name} is {size}" for name, size in sizes.items() if size < 1]:
        raise ValueError(f"the sizes of a demo world must be positive, but {', '.join(wrong)}")
    world = World(Path(directory))
    for path, tell, speech, count, held_out in (
        (world.english, english.tell, english.SPEECH, english_documents, False),
        (world.english_held_out, english.tell, english.SPEECH, held_out_documents, True),
        (world.chinese, chinese.tell, chinese.SPEECH, chinese_documents, False),
        (world.chinese_held_out, chinese.tell, chinese.SPEECH, held_out_documents, True),
    ):
        draw = Draw(seed, held_out=held_out, stream=path.stem)
        _write_jsonl(path, [{"text": document(draw, tell, speech)} for _ in range(count)])
    for path, rows, held_out in (
        (world.instructions, instruction_rows, False),
        (world.instructions_held_out, held_out_instruction_rows, True),
    ):
        _write_jsonl(path, instructions.write_rows(Draw(seed, held_out=held_out, stream="instructions"), rows))
    files.atomic_write(world.symbols, " ".join(chinese.PUNCTUATION) + "\n")
    return world


def document(draw: Draw, tell: Callable[[scenes.Scene, Draw], str], speech: Speech) -> str:
    """Makes one document of at least `MIN_CHARACTERS`: two or three scenes, or (two times in five) a sheet of exercises."""
    is_sheet = draw.between(1, 5) <= 2
    parts: list[str] = []
    wanted = draw.between(4, 6) if is_sheet else draw.between(2, 3)
    while len(parts) < wanted or sum(map(len, parts)) < MIN_CHARACTERS:
        parts.append(instructions.exercise(draw, speech) if is_sheet else tell(scenes.happen(draw), draw))
    return (speech.heading if is_sheet else "") + speech.joint.join(parts)


def _write_jsonl(path: Path, rows: list[dict[str, str]]) -> None:
    files.atomic_write(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
