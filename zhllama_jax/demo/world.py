"""The files of the demo world, made in about two seconds and determined by the seed.

    english.jsonl            {"text"}: what the base model is trained on
    chinese.jsonl            {"text"}: what it is adapted to
    english_held_out.jsonl   documents made of held-out combinations only
    chinese_held_out.jsonl   the same in Chinese
    instructions.jsonl       {"instruction", "input", "output", "task"}: Alpaca rows
    instructions_held_out.jsonl

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
    """Writes the six files of world `seed` into `directory`, each of them whole or not at all.

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
    for path, language, count, held_out in (
        (world.english, english, english_documents, False),
        (world.english_held_out, english, held_out_documents, True),
        (world.chinese, chinese, chinese_documents, False),
        (world.chinese_held_out, chinese, held_out_documents, True),
    ):
        draw = Draw(seed, held_out=held_out, stream=path.stem)
        _write_jsonl(path, [{"text": document(draw, language.tell, language.JOINT)} for _ in range(count)])
    for path, rows, held_out in (
        (world.instructions, instruction_rows, False),
        (world.instructions_held_out, held_out_instruction_rows, True),
    ):
        _write_jsonl(path, instructions.write_rows(Draw(seed, held_out=held_out, stream="instructions"), rows))
    return world


def document(draw: Draw, tell: Callable[[scenes.Scene, Draw], str], joint: str) -> str:
    """Makes one document: two or three scenes, and further ones while it is shorter than `MIN_CHARACTERS`."""
    told = [tell(scenes.happen(draw), draw) for _ in range(draw.between(2, 3))]
    while sum(map(len, told)) < MIN_CHARACTERS:
        told.append(tell(scenes.happen(draw), draw))
    return joint.join(told)


def _write_jsonl(path: Path, rows: list[dict[str, str]]) -> None:
    files.atomic_write(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
