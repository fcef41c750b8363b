"""What a merge bought: compression by named text, reach, changed lines, cost and break-even.

`report` measures and gives a dict fit for JSON; `markdown` writes it out; `draw.picture` draws it.

How the gains are counted, for a model of body weights W (those of all layer matrices), width D and vocabularies V0 before, V1 after:

*   A token costs f(V) = 2·(W + V·D) FLOPs forward. (Attention over the context is left out: it favours shorter sequences.)
*   A text has t0 tokens per character before, t1 after. Context gain = t0/t1: so many times more characters fit.
*   Speed gain = t0·f(V0) / (t1·f(V1)): the larger head is paid at every token. Decoding that is bound by reading weights
    instead of by FLOPs gains the same factor, since both count each weight once.
*   Extra parameters = (V1 − V0)·D, twice where the head is not tied. Training them takes T tokens, 20 for each of them unless told
    otherwise (Hoffmann et al. 2022, arXiv 2203.15556), at 3·f(V1): forward, and backward twice that.
*   Break-even: the characters after which the FLOPs saved are as many as training took, 3·T·f(V1) / (t0·f(V0) − t1·f(V1)),
    also in tokens before and after. None where nothing is saved.
*   Memory break-even: from this context on, in tokens after, the key/value cache saved is larger than the extra parameters,
    extra / ((t0/t1 − 1)·2·L·K), both at the same bytes a number, for L layers and key/value width K.
"""

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from zhllama_jax import files, lines
from zhllama_jax.tokenizer import processor, proto, ranked, reach, scripts

PAPER_SENTENCE = "人工智能是计算机科学、心理学、哲学等学科融合的交叉学科。"
"""Table 1 of the paper (arXiv 2304.08177): 35 tokens by LLaMA's tokenizer, 16 by Chinese-LLaMA's."""

TOKENS_PER_PARAMETER = 20
EXAMPLES = 20
COMPARED = 100_000
"""Characters of each text whose lines are encoded by ranks too."""
BATCH = 256


IN_TRANSFORMERS = (
    "Lines to which the `tokenizer.json` of an exported model gives other ids than SentencePiece (which spell the same text), of those "
    "with which each text begins. There are some where pieces share a score, as in reference mode, and none in safe mode."
)


@dataclasses.dataclass(frozen=True)
class Shape:
    """What the costs need to know of a model; the default is LLaMA-7B.

    Attributes:
      hidden_size: D.
      intermediate_size: width of the MLP.
      num_hidden_layers: L.
      key_value_size: K, key/value heads × head width; None is D.
      tie_word_embeddings: whether embedding and head are one matrix.
    """

    hidden_size: int = 4096
    intermediate_size: int = 11_008
    num_hidden_layers: int = 32
    key_value_size: int | None = None
    tie_word_embeddings: bool = False

    @property
    def cache_width(self) -> int:
        """K."""
        return self.hidden_size if self.key_value_size is None else self.key_value_size

    @property
    def body(self) -> int:
        """W: weights of all matrices of the layers."""
        attention = 2 * self.hidden_size * (self.hidden_size + self.cache_width)
        return self.num_hidden_layers * (attention + 3 * self.hidden_size * self.intermediate_size)

    def flops(self, vocab_size: int) -> int:
        """f(V): FLOPs of one token, forward."""
        return 2 * (self.body + vocab_size * self.hidden_size)

    def extra_parameters(self, new_pieces: int) -> int:
        """Parameters of so many new rows."""
        return new_pieces * self.hidden_size * (1 if self.tie_word_embeddings else 2)


class Counts(NamedTuple):
    """Sums over a text.

    Attributes:
      documents, characters, bytes: the size of the text.
      base_tokens, merged_tokens: tokens before and after.
      base_fallback, merged_fallback: those of them that are single bytes.
      free_lines: lines without a character of the script.
      changed_lines: those of them that are encoded differently.
    """

    documents: int = 0
    characters: int = 0
    bytes: int = 0
    base_tokens: int = 0
    base_fallback: int = 0
    merged_tokens: int = 0
    merged_fallback: int = 0
    free_lines: int = 0
    changed_lines: int = 0

    def plus(self, other: "Counts") -> "Counts":
        """The sums of both."""
        return Counts(*(left + right for left, right in zip(self, other, strict=True)))


def report(
    base: processor.Tokenizer,
    merged: processor.Tokenizer,
    texts: Sequence[tuple[str, Sequence[str | Path]]],
    *,
    script: str = "han",
    shape: Shape | None = None,
    training_tokens: int | None = None,
    field: str = "text",
) -> dict[str, Any]:
    """Compares two tokenizers, the second of which extends the first.

    Args:
      base: the tokenizer before.
      merged: the tokenizer after.
      texts: (name, files) pairs, `.txt` or `.jsonl`; each is reported by its name.
      script: lines without a character of this script (or these) should be encoded as before.
      shape: the model whose costs are counted; None is LLaMA-7B.
      training_tokens: T of the break-even, see the module; None is 20 for each extra parameter.
      field: of JSONL objects.

    Returns:
      a dict of plain values: base, merged, new_pieces, sentence, cost, texts. In these, `ranked` counts the lines, of the first
      `COMPARED` characters, to which the `tokenizer.json` of the merged tokenizer gives other ids; None for what is not LLaMA's kind.

    Raises:
      FileNotFoundError, ValueError: a file is missing or malformed, two texts have one name, a text is empty, or `merged` does not
        extend `base`.
    """
    shape = Shape() if shape is None else shape
    target = scripts.named(script)
    _check(base, merged, texts)
    if training_tokens is not None and training_tokens < 1:
        raise ValueError(f"training_tokens must be at least 1, got {training_tokens}")
    added = merged.vocab_size - base.vocab_size
    extra = shape.extra_parameters(added)
    training = TOKENS_PER_PARAMETER * extra if training_tokens is None else training_tokens
    result: dict[str, Any] = {
        "base": {"pieces": base.vocab_size, "sha256": base.sha256},
        "merged": {"pieces": merged.vocab_size, "sha256": merged.sha256},
        "new_pieces": _new_pieces(base, merged),
        "sentence": {
            "text": PAPER_SENTENCE,
            "base_tokens": len(base.encode(PAPER_SENTENCE)),
            "merged_tokens": len(merged.encode(PAPER_SENTENCE)),
            "merged_pieces": [merged.piece(number) for number in merged.encode(PAPER_SENTENCE)],
        },
        "cost": {
            **dataclasses.asdict(shape),
            "extra_parameters": extra,
            "extra_share": extra / (shape.body + shape.extra_parameters(base.vocab_size)),
            "training_tokens": training,
            "training_flops": 3 * training * shape.flops(merged.vocab_size),
        },
        "script": target.name,
        "texts": {},
    }
    by_rank = None if proto.llama_faults(proto.parse(merged.serialized)) else ranked.Ranked(merged)
    sides = _Side(base, _fallback_pieces(base)), _Side(merged, _fallback_pieces(merged))
    for name, paths in texts:
        counts, start = Counts(), _Start([], 0)
        for path in paths:
            for batch in _batches(text for _, text in lines.records(path, field)):
                counts = counts.plus(_count(sides, batch, target))
                start = start.plus(batch)
        if not counts.characters:
            raise ValueError(f"the text {name!r} is empty: {', '.join(map(str, paths)) or 'no files'}")
        result["texts"][name] = _measures(counts, base.vocab_size, merged.vocab_size, shape, training)
        result["texts"][name]["ranked"] = by_rank and {"lines": len(start.lines), "differ": by_rank.differing(start.lines)}
    return result


def markdown(report: dict[str, Any]) -> str:
    """The report as Markdown."""
    new, cost, sentence = report["new_pieces"], report["cost"], report["sentence"]
    parts = [
        "# Tokenizer report",
        "",
        f"{report['base']['pieces']:,} → {report['merged']['pieces']:,} pieces; {new['text']:,} new ones stand for text, of which "
        f"{new['unreachable']:,} are never produced"
        + (f" (e.g. {' '.join(f'`{piece}`' for piece in new['examples'])})." if new["examples"] else "."),
        "",
        f"The example of Chinese-LLaMA's paper (Table 1) 「{sentence['text']}」: "
        f"{sentence['base_tokens']} → {sentence['merged_tokens']} tokens: " + " ".join(f"`{piece}`" for piece in sentence["merged_pieces"]),
        "",
        "## Compression",
        "",
        "| text | characters | tokens before | after | per character before | after | per byte before | after "
        "| single bytes before | after | context | speed |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for name, text in report["texts"].items():
        old, now = text["base"], text["merged"]
        cells = [
            _cell(name),
            f"{text['characters']:,}",
            *(f"{side['tokens']:,}" for side in (old, now)),
            *(f"{side[key]:.3f}" for key in ("tokens_per_character", "tokens_per_byte") for side in (old, now)),
            *(f"{side['byte_fallback_share']:.1%}" for side in (old, now)),
            *(f"× {text[key]:.2f}" for key in ("context_gain", "speed_gain")),
        ]
        parts.append(f"| {' | '.join(cells)} |")
    parts += [
        "",
        "Single bytes: the share of tokens that are bytes of characters without a piece. Context: how many times more text fits the "
        "context. Speed: how many times more text the same FLOPs take, the larger head paid for.",
        "",
        f"## Lines without {report['script']} characters",
        "",
        "| text | lines | encoded differently |",
        "|---|--:|--:|",
        *(f"| {_cell(name)} | {text['free_lines']:,} | {text['changed_lines']:,} |" for name, text in report["texts"].items()),
        *_ranked(report),
        "",
        "## Cost",
        "",
        f"{cost['extra_parameters']:,} extra parameters ({cost['extra_share']:.2%}) at width {cost['hidden_size']:,} and "
        f"{cost['num_hidden_layers']} layers. Training them on {cost['training_tokens']:,} tokens takes "
        f"{cost['training_flops']:.3g} FLOPs. The saving has paid for that after so much text; and from the given context on, the "
        "key/value cache saved is larger than the extra rows:",
        "",
        "| text | characters | tokens before | tokens after | context |",
        "|---|--:|--:|--:|--:|",
    ]
    for name, text in report["texts"].items():
        even = text["break_even"]
        paid = f"{even['characters']:.3g} | {even['base_tokens']:.3g} | {even['merged_tokens']:.3g}" if even else "never | never | never"
        context = text["memory_break_even"]
        parts.append(f"| {_cell(name)} | {paid} | {'never' if context is None else f'{context:,.0f}'} |")
    return "\n".join(parts) + "\n"


def _check(base: processor.Tokenizer, merged: processor.Tokenizer, texts: Sequence[tuple[str, Sequence[str | Path]]]) -> None:
    names = [name for name, _ in texts]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"two texts are named {', '.join(map(repr, twice))}: give each its own name")
    for _, paths in texts:
        for path in paths:
            files.expect(path, "a .txt or .jsonl text")
    if merged.vocab_size < base.vocab_size or any(base.piece(number) != merged.piece(number) for number in range(base.vocab_size)):
        raise ValueError("the merged tokenizer does not extend the base: its first pieces are others")


def _new_pieces(base: processor.Tokenizer, merged: processor.Tokenizer) -> dict[str, Any]:
    numbers = [number for number in range(base.vocab_size, merged.vocab_size) if not merged.is_control(number)]
    unreachable = set(reach.unreachable(proto.parse(merged.serialized), base.vocab_size)) & set(numbers)
    return {
        "text": len(numbers),
        "controls": merged.vocab_size - base.vocab_size - len(numbers),
        "unreachable": len(unreachable),
        "examples": [merged.piece(number) for number in sorted(unreachable)[:EXAMPLES]],
    }


def _batches(texts: Iterable[str]) -> Iterator[list[str]]:
    batch: list[str] = []
    for text in texts:
        batch.append(text)
        if len(batch) == BATCH:
            yield batch
            batch = []
    if batch:
        yield batch


class _Start(NamedTuple):
    """The lines with which a text begins."""

    lines: list[str]
    characters: int

    def plus(self, texts: Sequence[str]) -> "_Start":
        """With the lines of more texts, up to `COMPARED` characters; a line is never longer."""
        lines, characters = list(self.lines), self.characters
        for line in (line for text in texts for line in text.split("\n") if line.strip()):
            if characters >= COMPARED:
                break
            lines.append(line[: COMPARED - characters])
            characters += len(lines[-1])
        return _Start(lines, characters)


class _Side(NamedTuple):
    """A tokenizer, and which of its pieces are fallback."""

    tokenizer: processor.Tokenizer
    is_fallback_V: np.ndarray

    def fallback(self, encoded: Iterable[Sequence[int]]) -> int:
        """How many of the ids are fallback."""
        return sum(int(self.is_fallback_V[np.asarray(ids, dtype=np.int64)].sum()) for ids in encoded)


def _count(sides: tuple[_Side, _Side], texts: Sequence[str], script: scripts.Script) -> Counts:
    base, merged = (side.tokenizer for side in sides)
    old, new = base.encode_batch(texts), merged.encode_batch(texts)
    pattern = script.pattern()
    free = [line for text in texts for line in text.split("\n") if line.strip() and not pattern.search(line)]
    pairs = zip(base.encode_batch(free), merged.encode_batch(free), strict=True)
    return Counts(
        documents=len(texts),
        characters=sum(map(len, texts)),
        bytes=sum(len(processor.scalar(text).encode("utf-8")) for text in texts),
        base_tokens=sum(map(len, old)),
        base_fallback=sides[0].fallback(old),
        merged_tokens=sum(map(len, new)),
        merged_fallback=sides[1].fallback(new),
        free_lines=len(free),
        changed_lines=sum(before != after for before, after in pairs),
    )


def _fallback_pieces(tokenizer: processor.Tokenizer) -> np.ndarray:
    """Which ids are single bytes of characters without a piece; the newline, a byte by design, is none of them."""
    is_byte_V = np.fromiter((tokenizer.is_byte(number) for number in range(tokenizer.vocab_size)), dtype=bool, count=tokenizer.vocab_size)
    newline = tokenizer.id("<0x0A>")
    if newline is not None:
        is_byte_V[newline] = False
    return is_byte_V


def _measures(counts: Counts, old_size: int, new_size: int, shape: Shape, training: int) -> dict[str, Any]:
    def of(tokens: int, fallback: int) -> dict[str, float]:
        return {
            "tokens": tokens,
            "tokens_per_character": tokens / counts.characters,
            "tokens_per_byte": tokens / counts.bytes,
            "byte_fallback_share": fallback / tokens,
        }

    before = counts.base_tokens / counts.characters * shape.flops(old_size)
    after = counts.merged_tokens / counts.characters * shape.flops(new_size)
    gain = counts.base_tokens / counts.merged_tokens
    even = None
    if before > after:
        characters = 3 * training * shape.flops(new_size) / (before - after)
        even = {
            "characters": characters,
            "base_tokens": characters * counts.base_tokens / counts.characters,
            "merged_tokens": characters * counts.merged_tokens / counts.characters,
        }
    cache = (gain - 1) * 2 * shape.num_hidden_layers * shape.cache_width
    return {
        "documents": counts.documents,
        "characters": counts.characters,
        "bytes": counts.bytes,
        "base": of(counts.base_tokens, counts.base_fallback),
        "merged": of(counts.merged_tokens, counts.merged_fallback),
        "context_gain": gain,
        "speed_gain": before / after,
        "free_lines": counts.free_lines,
        "changed_lines": counts.changed_lines,
        "break_even": even,
        "memory_break_even": shape.extra_parameters(new_size - old_size) / cache if cache > 0 else None,
    }


def _ranked(report: dict[str, Any]) -> list[str]:
    """How far transformers is from the merged tokenizer, in Markdown."""
    if any(text["ranked"] is None for text in report["texts"].values()):
        return []
    rows = [f"| {_cell(name)} | {text['ranked']['lines']:,} | {text['ranked']['differ']:,} |" for name, text in report["texts"].items()]
    return ["", "## In transformers", "", IN_TRANSFORMERS, "", "| text | lines | other ids |", "|---|--:|--:|", *rows]


def _cell(name: str) -> str:
    """A name inside a Markdown table."""
    return name.replace("|", "\\|")
