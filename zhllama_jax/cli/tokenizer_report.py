"""`zhllama tokenizer report`."""

from pathlib import Path

from zhllama_jax.cli import located, terminal, texts


def run(
    *,
    base: str,
    merged: str,
    text: list[str],
    output: Path | None = None,
    overwrite: bool = False,
    size: str = "7b",
    model: str | None = None,
    training_tokens: int | None = None,
    script: str = "han",
    field: str = "text",
) -> None:
    """Shows what a merged vocabulary buys: tokens, reach, cost, break-even.

    Args:
      base: the tokenizer before: a .model file, a model directory, or a hub id (owner/name).
      merged: the tokenizer after, named likewise.
      text: .txt or .jsonl files, each as FILE or NAME=FILE.
      output: folder for report.html (for a browser), report.md, report.json and compression.png.
      overwrite: replace these files where they exist; an input is never replaced.
      size: named size of the model whose costs are counted: 7b, 13b, 33b, 65b, 1b, small, tiny …
      model: directory or hub id of that model, instead of a size.
      training_tokens: tokens that the new rows are trained on; 20 for each new parameter by default.
      script: lines without a character of this script should be encoded as before.
      field: the key of the text in .jsonl rows.

    Examples:
      zhllama tokenizer report --base llama-7b --merged merged.model --text zh=corpus.jsonl english.txt
      zhllama tokenizer report --base llama-7b --merged merged.model --text zh.txt --output report
    """
    from zhllama_jax import files
    from zhllama_jax.convert import source
    from zhllama_jax.eval import tokenizer_html
    from zhllama_jax.model import config as model_config
    from zhllama_jax.tokenizer import analyse, draw, processor

    named = texts.named(text)
    if output is not None:
        read = [path for paths in named.values() for path in paths]
        for name in ("report.html", "report.md", "report.json", "compression.png"):
            files.free_file(output / name, overwrite=overwrite, inputs=[base, merged, *([model] if model else []), *read])
    config = source.load_config(located.shape(model)) if model else model_config.named(size)
    shape = analyse.Shape(
        hidden_size=config.hidden_size,
        intermediate_size=config.intermediate_size,
        num_hidden_layers=config.num_hidden_layers,
        key_value_size=config.num_kv_heads * config.head_width,
        tie_word_embeddings=config.tie_word_embeddings,
    )
    report = analyse.report(
        processor.Tokenizer.load(located.tokenizer(base)),
        processor.Tokenizer.load(located.tokenizer(merged)),
        list(named.items()),
        script=script,
        shape=shape,
        training_tokens=training_tokens,
        field=field,
    )
    page = analyse.markdown(report)
    if output is not None:
        files.write_json(output / "report.json", report)
        files.atomic_write(output / "report.md", page)
        files.atomic_write(output / "report.html", tokenizer_html.page(report))
        draw.picture(report, output / "compression.png")
    terminal.result(terminal.aligned(page), end="")
    if output is not None:
        terminal.say(f"wrote {output / 'report.md'}; {output / 'report.html'} is for a browser")
