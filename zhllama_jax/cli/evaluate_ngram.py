"""`zhllama evaluate ngram`."""

from pathlib import Path

from zhllama_jax.cli import terminal, texts
from zhllama_jax.data import config as data_config


def run(
    *,
    fit: list[str],
    text: list[str],
    order: int = 5,
    field: str = "text",
    documents: data_config.Documents = "blank_line",
    max_documents: int | None = None,
    output: Path | None = None,
    overwrite: bool = False,
) -> None:
    """Prints bits per character of texts under an n-gram model of characters.

    That is what a language model has to beat. Interpolated modified Kneser-Ney smoothing; characters that were never seen are priced by
    their code point.

    Args:
      fit: .txt or .jsonl files that the model is fitted on.
      text: .txt or .jsonl files to score, each as FILE or NAME=FILE.
      order: characters of an n-gram, the predicted one included.
      field: the key of the text in .jsonl rows.
      documents: what a document of a .txt file is: blank_line, line or file.
      max_documents: documents scored of each text, from its start; all by default.
      output: JSON file for the figures.
      overwrite: replace an existing output; an input is never replaced.

    Examples:
      zhllama evaluate ngram --fit zh.jsonl --text zh=zh_test.txt
    """
    import itertools

    from zhllama_jax import files
    from zhllama_jax.data import documents as documents_lib
    from zhllama_jax.eval import ngram

    if max_documents is not None and max_documents < 1:
        raise ValueError(f"max_documents must be at least 1, got {max_documents}")
    named = texts.named(text)
    inputs = [path for paths in (fit, *named.values()) for path in documents_lib.expand(paths)]
    if output is not None:
        files.free_file(output, overwrite=overwrite, inputs=inputs)

    def read(paths: list[str]) -> list[str]:
        return [document.text for document in documents_lib.read(paths, field=field, documents=documents)]

    fitted = ngram.fit(read(fit), order=order)
    figures = {}
    for name, paths in named.items():
        scored = list(itertools.islice(read(paths), max_documents))
        bits = fitted.bits_per_character(scored)
        figures[name] = {"documents": len(scored), "characters": sum(map(len, scored)), "bits_per_character": bits}
    rows = [(name, f"{one['documents']:,}", f"{one['characters']:,}", f"{one['bits_per_character']:.4f}") for name, one in figures.items()]
    terminal.result(terminal.table([("text", "documents", "characters", "bits/character"), *rows]))
    if output:
        files.write_json(output, {"fit": fit, "order": order, "texts": figures})
        terminal.say(f"wrote {output}")
