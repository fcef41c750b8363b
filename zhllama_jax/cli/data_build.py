"""`zhllama data build`."""

from pathlib import Path

from zhllama_jax.cli import located, terminal
from zhllama_jax.data import config as data_config

COUNTED = ("documents", "examples", "turns", "characters", "tokens", "targets", "rows")


def run(
    *,
    tokenizer: str,
    output: Path,
    text: data_config.TextData | None = None,
    sft: data_config.SftData | None = None,
    overwrite: bool = False,
) -> None:
    """Builds a store of packed rows from text or instructions.

    `train` and `adapt` do so by themselves. A training reads it as `data.sources: [{store: DIR}]`. The same inputs and choices again are
    a look-up.

    Args:
      tokenizer: SentencePiece model, a directory that holds one, or a hub id (owner/name); the store serves models of this tokenizer only.
      output: directory of the store.
      text: a corpus and how it becomes rows, such as --text.files a.txt b.jsonl --text.length 512 --text.held_out 0.01.
      sft: instruction rows and how they become rows, such as --sft.files rows.json --sft.length 512; excludes text.
      overwrite: replace a store of other inputs or choices; an input is never replaced, nor is anything else than a store.

    Examples:
      zhllama data build --tokenizer merged.model --text.files zh.jsonl --text.held_out 0.01 --output rows
      zhllama data build --tokenizer merged.model --sft.files alpaca_zh.json --output rows_sft
    """
    from zhllama_jax import files
    from zhllama_jax.data import account, build
    from zhllama_jax.tokenizer import processor

    if (text is None) == (sft is None):
        raise ValueError("say either --text.files FILE … (a corpus) or --sft.files FILE … (instructions)")
    files.usable_directory(output, inputs=[tokenizer])  # the build looks at the rest
    model = processor.Tokenizer.load(located.tokenizer(tokenizer))
    if text is not None:
        built = build.text(text, model, output, overwrite=overwrite)
    else:
        assert sft is not None, "exactly one of the two is given"
        built = build.sft(sft, model, output, overwrite=overwrite)
    splits = built.metadata["splits"]
    columns = [name for name in COUNTED if any(name in counts for counts in splits.values())]
    rows = [[split, *(f"{counts.get(name, 0):,}" for name in columns)] for split, counts in splits.items()]
    terminal.result(terminal.table([["split", *columns], *rows]))
    for split, counts in splits.items():
        for name, forms in counts.get("forms", {}).items():
            terminal.result(f"{split}: {name}: {', '.join(f'{count:,} {form}' for form, count in forms.items()) or 'no rows'}")
        changed = {name: count for name, count in counts.items() if name in ("cut", "turns_cut") or name.startswith("dropped_")}
        faults = account.faults(built.metadata, split)
        for name, count in {**faults, **changed}.items():
            if count:
                terminal.result(f"{split}: {name.replace('_', ' ')}: {count:,}")
        for place in counts.get("located", []) if faults else []:
            terminal.result(f"  {place}")
    terminal.say(f"{'wrote' if built.fresh else 'was there already:'} {output}, rows of {built.train.length} tokens")
    stage = ["--stage", "sft"] if sft is not None else []
    terminal.then("train", "--model", "MODEL", *stage, "--data.sources", f"{{store: {output}}}", "--steps", 1000, "--output", "runs/stage")
