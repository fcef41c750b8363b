"""The report of `zhllama tokenizer report` as one HTML file, see `document`."""

from collections.abc import Mapping
from typing import Any

from zhllama_jax.eval import document, figures, markup, report_html
from zhllama_jax.tokenizer import analyse

Tree = Mapping[str, Any]


def page(report: Tree) -> str:
    """The whole file, from the figures of `tokenizer.analyse.report`."""
    new, pieces = report["new_pieces"], [figures.number(report[which]["pieces"]) for which in ("base", "merged")]
    examples = markup.join((markup.element("code", piece) for piece in new["examples"]), " ")
    top = [
        markup.element("h1", "Tokenizer report"),
        markup.element(
            "p",
            f"{pieces[0]} → {pieces[1]} pieces; {figures.number(new['text'])} new ones stand for text, of which "
            f"{figures.number(new['unreachable'])} are never produced",
            markup.join([", e.g. ", examples]) if examples else "",
            ".",
        ),
        document.tiles(_tiles(report)),
    ]
    sections = [_compression(report), _sentence(report), _lines(report), _ranked(report), _cost(report)]
    return document.write("Tokenizer report", markup.join(top), [section for section in sections if section])


def _tiles(report: Tree) -> list[document.Tile]:
    """What each text saves."""
    made = []
    for name, text in report["texts"].items():
        before, after = (text[which]["tokens"] for which in ("base", "merged"))
        detail = f"{figures.number(before)} → {figures.number(after)}"
        if before != after:
            detail += f", {figures.number(text['context_gain'])} times fewer"
        made.append(document.Tile(figures.percent(1 - after / before), f"of the tokens of {name} saved", detail))
    return made


def _compression(report: Tree) -> document.Section:
    texts, rows = [], []
    for name, text in report["texts"].items():
        old, now = text["base"], text["merged"]
        texts.append({"name": name, "characters": text["characters"], "tokens_before": old["tokens"], "tokens_after": now["tokens"]})
        bytes_ = [figures.number(side["tokens_per_byte"]) for side in (old, now)]
        fallback = [figures.percent(side["byte_fallback_share"]) for side in (old, now)]
        gains = [f"× {figures.number(text[key])}" for key in ("context_gain", "speed_gain")]
        rows.append([name, *bytes_, *fallback, *gains])
    head = ("text", "tokens per byte before", "after", "single bytes before", "after", "context", "speed")
    table = markup.table(head, rows, caption="What the compression is worth")
    return document.Section("compression", "Compression", markup.join([report_html.compression(texts), table]))


def _sentence(report: Tree) -> document.Section:
    sentence = report["sentence"]
    counts = " → ".join(figures.number(sentence[key]) for key in ("base_tokens", "merged_tokens"))
    pieces = markup.join((markup.element("code", piece, lang=markup.language(piece)) for piece in sentence["merged_pieces"]), " ")
    parts = [markup.quoted(sentence["text"], name="p"), markup.element("p", f"{counts} tokens: ", pieces)]
    return document.Section("sentence", "The example of Chinese-LLaMA's paper (Table 1)", markup.join(parts))


def _lines(report: Tree) -> document.Section:
    rows = [[name, *map(figures.number, (text["free_lines"], text["changed_lines"]))] for name, text in report["texts"].items()]
    heading = f"Lines without {report['script']} characters"
    return document.Section("lines", heading, markup.table(("text", "lines", "encoded differently"), rows, caption="Lines by text"))


def _ranked(report: Tree) -> document.Section | None:
    """How far transformers is from the merged tokenizer; None where its `tokenizer.json` does not exist."""
    counts = {name: text["ranked"] for name, text in report["texts"].items()}
    if None in counts.values():
        return None
    rows = [[name, figures.number(count["lines"]), figures.number(count["differ"])] for name, count in counts.items()]
    table = markup.table(("text", "lines", "other ids"), rows, caption="Lines by text, in transformers")
    sentence = markup.element("p", analyse.IN_TRANSFORMERS.replace("`", ""))
    return document.Section("transformers", "In transformers", markup.join([sentence, table]))


def _cost(report: Tree) -> document.Section:
    cost, rows = report["cost"], []
    for name, text in report["texts"].items():
        even, context = text["break_even"], text["memory_break_even"]
        paid = [figures.large(even[key]) if even else "never" for key in ("characters", "base_tokens", "merged_tokens")]
        rows.append([name, *paid, "never" if context is None else figures.number(round(context))])
    sentence = (
        f"{figures.number(cost['extra_parameters'])} extra parameters ({figures.percent(cost['extra_share'])}) at width "
        f"{figures.number(cost['hidden_size'])} and {figures.number(cost['num_hidden_layers'])} layers. Training them on "
        f"{figures.number(cost['training_tokens'])} tokens takes {figures.large(cost['training_flops'])} FLOPs. The saving has paid for "
        "that after so much text; and from the given context on, the key/value cache saved is larger than the extra rows:"
    )
    table = markup.table(("text", "characters", "tokens before", "tokens after", "context"), rows, caption="Break-even by text")
    return document.Section("cost", "Cost", markup.join([markup.element("p", sentence), table]))
