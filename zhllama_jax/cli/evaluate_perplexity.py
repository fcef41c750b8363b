"""`zhllama evaluate perplexity`."""

from pathlib import Path

from zhllama_jax.cli import compilation, ready, terminal, texts
from zhllama_jax.data import config as data_config


def run(
    *,
    model: str,
    text: list[str],
    adapter: list[str] | None = None,
    field: str = "text",
    documents: data_config.Documents = "blank_line",
    length: int | None = None,
    batch_size: int = 8,
    max_documents: int | None = None,
    output: Path | None = None,
    overwrite: bool = False,
    dtype: ready.Dtype = "auto",
    compilation_cache: compilation.Cache = "auto",
) -> None:
    """Prints bits per token, byte and character of texts under a model.

    Bits per character compare models of different vocabularies; perplexity and bits per token do not.

    Args:
      model: Hugging Face directory of the model, or a hub id (owner/name, owner/name@revision).
      text: .txt or .jsonl files, each as FILE or NAME=FILE.
      adapter: adapter directories or hub ids, to put on top in order.
      field: the key of the text in .jsonl rows.
      documents: what a document of a .txt file is: blank_line, line or file.
      length: window in tokens; the model's context by default.
      batch_size: windows scored together.
      max_documents: documents scored of each text, from its start; all by default.
      output: JSON file for the figures.
      overwrite: replace an existing output; an input is never replaced.
      dtype: of weights and computation; auto is bfloat16 on accelerators and float32 on a CPU.
      compilation_cache: where compiled programs are kept between calls: auto (on accelerators, in the user's cache directory), on, off,
        or a directory.

    Examples:
      zhllama evaluate perplexity --model adapted --text zh=zh_test.txt en=en_test.txt
      zhllama evaluate perplexity --model llama-7b-zh --adapter runs/stage2/adapter --text zh_test.txt
    """
    import itertools

    from zhllama_jax import files
    from zhllama_jax.data import documents as documents_lib
    from zhllama_jax.eval import likelihood

    likelihood.check_windows(length=length, batch=batch_size)
    if max_documents is not None and max_documents < 1:
        raise ValueError(f"max_documents must be at least 1, got {max_documents}")
    named = texts.named(text)
    scored = [path for paths in named.values() for path in documents_lib.expand(paths)]
    if output is not None:
        files.free_file(output, overwrite=overwrite, inputs=[model, *(adapter or ()), *scored])
    compilation.cache(compilation_cache)
    loaded = ready.load(model, adapters=adapter or (), dtype=dtype)
    figures = {}
    rows = [("text", "documents", "tokens", "characters", "bits/token", "bits/byte", "bits/character", "perplexity")]
    for name, paths in named.items():
        read = documents_lib.read(paths, field=field, documents=documents)
        first = next(read, None)
        if first is None:
            raise ValueError(f"there is no text to score in {', '.join(paths)}")
        score = likelihood.score(
            loaded.config,
            loaded.weights,
            loaded.tokenizer,
            (document.text for document in itertools.islice(itertools.chain([first], read), max_documents)),
            length=length,
            batch=batch_size,
            options=loaded.options,
        )
        figures[name] = score.figures()
        counts = (f"{score.documents:,}", f"{score.tokens:,}", f"{score.characters:,}")
        bits = (f"{score.bits_per_token:.4f}", f"{score.bits_per_byte:.4f}", f"{score.bits_per_character:.4f}")
        rows.append((name, *counts, *bits, f"{score.perplexity:,.2f}"))
    terminal.result(terminal.table(rows))
    if output:
        files.write_json(output, {"model": loaded.name, "texts": figures})
        terminal.say(f"wrote {output}")
