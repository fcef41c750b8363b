"""Which base pieces spell a new one: where the new rows of a grown model begin."""

from zhllama_jax.tokenizer import processor, proto


def spell(base: processor.Tokenizer, merged: processor.Tokenizer) -> list[list[int]]:
    """For each new id in order, the base ids that spell its text.

    The text of a piece that begins with U+2581 begins with a blank; no further blank is put in front. A control piece (padding) has no
    text and gets an empty list.

    Raises:
      ValueError: `merged` does not begin with the pieces of `base`.
    """
    old, new = proto.parse(base.serialized), proto.parse(merged.serialized)
    count = len(old.pieces)
    if len(new.pieces) < count:
        raise ValueError(f"the merged tokenizer has {len(new.pieces):,} pieces, fewer than the {count:,} of the base: are they exchanged?")
    moved = next((number for number in range(count) if old.pieces[number].piece != new.pieces[number].piece), None)
    if moved is not None:
        raise ValueError(
            f"the merged tokenizer was not made from this base: id {moved} is {new.pieces[moved].piece!r} there and "
            f"{old.pieces[moved].piece!r} in the base"
        )
    texts = [
        "" if merged.is_control(number) else new.pieces[number].piece.replace(proto.SPACE, " ") for number in range(count, len(new.pieces))
    ]
    return list(processor.bare(old).encode(texts)) if texts else []
