"""What became of the data of a build, in sentences out of its counts."""

from collections.abc import Iterator, Mapping
from typing import Any

SHORTENED = {
    "cut": ("answer was cut and does not teach where an answer ends", "answers were cut and do not teach where an answer ends"),
    "turns_cut": ("later turn of a conversation was left out", "later turns of conversations were left out"),
    "dropped_overlong": ("row was left out", "rows were left out"),
}
"""What is done to instruction rows that are too long: one of them, and several."""


def shortened(splits: Mapping[str, Mapping[str, Any]], *, length: int, setting: str) -> list[str]:
    """What of instruction rows was cut or left out because it is too long, in a sentence for each split where something was.

    Args:
      splits: counts by split, of a store's metadata.
      length: tokens of a row.
      setting: what to raise.
    """
    said = []
    for split, counts in splits.items():
        found = [f"{counts[name]:,} {change[counts[name] > 1]}" for name, change in SHORTENED.items() if counts.get(name)]
        if found:
            rows = counts["examples"] + counts["dropped_overlong"]
            lead = f"{length:,} tokens are too few for some of the {rows:,} instruction rows ({split})"
            said.append(f"{lead}: {', '.join(found)}; raise {setting}")
    return said


def others(metadata: Mapping[str, Any]) -> list[str]:
    """What else was left out or repaired, by kind, in a sentence for each split where something was."""
    said = []
    for split in metadata["splits"]:
        if found := [f"{count:,} {name.replace('_', ' ')}" for name, count in _others(metadata, split)]:
            said.append(f"left out or repaired ({split}): {', '.join(found)}")
    return said


def apart(counts: Mapping[str, Any], *, name: str) -> list[str]:
    """How much of the training split of the data called `name` is left out because it is held out elsewhere, where anything is."""
    if number := counts.get("faults", {}).get("dropped_held_out"):
        what = "document that is held out elsewhere is" if number == 1 else "documents that are held out elsewhere are"
    elif number := counts.get("dropped_held_out"):
        what = "row that begins like a held-out one is" if number == 1 else "rows that begin like a held-out one are"
    return [f"{name}: {number:,} {what} not learned from"] if number else []


def times(number: float) -> str:
    """How often a row is read, to two digits that say something however rarely that is."""
    return f"{number:.2f}" if number >= 0.1 or not number else f"{number:.2g}"


def faults(metadata: Mapping[str, Any], split: str) -> dict[str, int]:
    """Faults of a split by kind; none of a validation split that is read from the files of the other, where they are counted already."""
    again = split != "train" and not metadata["sources"]["validation_files"]
    return {} if again else metadata["splits"][split].get("faults", {})


def _others(metadata: Mapping[str, Any], split: str) -> Iterator[tuple[str, int]]:
    counts = metadata["splits"][split]
    dropped = {name: count for name, count in counts.items() if name.startswith("dropped_") and name not in SHORTENED}
    yield from ((name, count) for name, count in {**faults(metadata, split), **dropped}.items() if count)
