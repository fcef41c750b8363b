"""Pages of help: found, shown in two ways, and true of the program."""

import functools
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from zhllama_jax.cli import help, program, recipes, schema, usage
from zhllama_jax.data import config as data_config
from zhllama_jax.train import config as train_config

PAGES = Path(help.__file__).parents[1] / "help"
KEYS = {**schema.fields(train_config.Experiment), **schema.fields(train_config.Source)}
FILES = (".json", ".jsonl", ".safetensors", ".bin")

# The reference's inventory: scripts, data files and configurations of its tokenizer, training, merging and applications.
SCRIPTS = (
    "merge_tokenizers.py",
    "chinese_sp.model",
    "run_clm_pt_with_peft.py",
    "run_clm_sft_with_peft.py",
    "build_dataset.py",
    "run_pt.sh",
    "run_sft.sh",
    "ds_zero2_no_offload.json",
    "merge_llama_with_chinese_lora.py",
    "merge_llama_with_chinese_lora_low_mem.py",
    "inference_hf.py",
    "gradio_demo.py",
    "patches.py",
    "openai_api_server.py",
    "openai_api_protocol.py",
    "langchain_qa.py",
    "langchain_sum.py",
    "crawl_prompt.py",
    "ceval/eval.py",
    "evaluator.py",
    "llama_evaluator.py",
    "subject_mapping.json",
)
# Its flags, those of the launchers and the applications, and habits of LLaMA-Factory.
FLAGS = """
    llama_tokenizer_dir chinese_sp_model_file
    model_name_or_path tokenizer_name_or_path model_type config_overrides config_name tokenizer_name cache_dir use_fast_tokenizer
    model_revision use_auth_token torch_dtype dataset_dir dataset_config_name train_file validation_file max_train_samples
    max_eval_samples streaming block_size overwrite_cache validation_split_percentage preprocessing_num_workers keep_linebreaks
    data_cache_dir trainable lora_rank lora_dropout lora_alpha modules_to_save debug_mode peft_path max_seq_length
    force_resize_embeddings
    per_device_train_batch_size gradient_accumulation_steps learning_rate fp16 num_train_epochs lr_scheduler_type warmup_ratio
    weight_decay logging_steps save_steps save_total_limit seed gradient_checkpointing deepspeed torchrun overwrite_output_dir
    base_model lora_model offload_dir output_type pth output_dir verbose
    tokenizer_path data_file with_prompt interactive predictions_file gpus only_cpu alpha load_in_8bit
    share port max_memory
    cot few_shot ntrain constrained_decoding n_times do_save_csv do_test
    cutoff_len packing neat_packing mix_strategy interleave_probs additional_target finetuning_type lora_target template columns
    dataset_info.json resize_vocab add_tokens add_special_tokens val_size max_samples num_samples eval_dataset early_stopping_steps
    loraplus_lr_ratio use_rslora create_new_adapter export_dir base_model sequence_len lora_r micro_batch_size
    train_on_prompt mask_history adapter_name_or_path quantization_bit
"""


def test_every_page_is_a_topic_and_has_a_title(capsys: pytest.CaptureFixture[str]) -> None:
    assert {path.stem for path in PAGES.glob("*.md")} == {*help.TOPICS, help.CHINESE}
    assert program.run(["help"]) == 0
    shown = capsys.readouterr().out
    for topic in help.TOPICS:
        title = help.page(topic).split("\n")[0]
        assert title.startswith("# ") and f"  {topic} " in shown and title[2:] in shown
    assert all(name in shown for name in recipes.paths()) and max(map(len, shown.split("\n"))) <= usage.COLUMNS


@pytest.mark.parametrize("topic", [*help.TOPICS, help.CHINESE])
def test_elsewhere_than_on_a_terminal_a_page_is_its_markdown(topic: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert program.run(["help", topic]) == 0
    assert capsys.readouterr() == ((PAGES / f"{topic}.md").read_text(encoding="utf-8"), "")


@pytest.mark.parametrize("topic", help.TOPICS)
def test_on_a_terminal_a_page_is_rendered(topic: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert program.run(["help", topic]) == 0
    shown = capsys.readouterr().out
    assert "\x1b[1" in shown and "|---" not in shown
    plain = re.sub(r"\x1b\[[0-9;]*m", "", shown)
    assert max(map(len, plain.split("\n"))) <= 80
    assert plain.count("…") == help.page(topic).count("…"), "a word is longer than its column"
    assert len(plain) > 0.8 * len(help.page(topic).replace("|", "").replace("-", ""))


@pytest.mark.parametrize("words", [["train"], ["tokenizer", "merge"], ["help"]])
def test_a_verb_is_explained_as_its_own_help_does(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert program.run(["help", *words]) == 0
    shown = capsys.readouterr().out
    assert program.run([*words, "--help"]) == 0
    assert capsys.readouterr().out == shown and f"usage: zhllama {' '.join(words)}" in shown


def test_a_group_lists_its_verbs(capsys: pytest.CaptureFixture[str]) -> None:
    assert program.run(["help", "evaluate"]) == 0
    shown = capsys.readouterr().out
    assert "evaluate ngram" in shown and "resize" not in shown


@pytest.mark.parametrize(("word", "near"), [("migrat", "migrate"), ("result", "results"), ("merg", "merge"), ("7b_stge1", "7b_stage1")])
def test_an_unknown_topic_gets_the_closest(word: str, near: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert program.run(["help", word]) == 2
    assert capsys.readouterr().err == f"zhllama: error: no help on {word!r}: did you mean {near}?\n"


def test_what_resembles_nothing_gets_the_lists(capsys: pytest.CaptureFixture[str]) -> None:
    assert program.run(["help", "xyzzy"]) == 2
    assert capsys.readouterr().err.endswith("no help on 'xyzzy': `zhllama help` lists topics and recipes, `zhllama --help` verbs\n")


def test_every_script_of_the_reference_has_its_line() -> None:
    page = help.page("migrate")
    missing = [name for name in (*SCRIPTS, *FLAGS.split()) if not re.search(rf"(?<![\w.]){re.escape(name)}(?![\w])", page)]
    assert not missing


def answers(page: str) -> list[tuple[str, str]]:
    """The right cell of each row of the tables of two columns, behind the head of its table."""
    found, head = [], ""
    for line in [*page.split("\n"), ""]:
        cells = [cell.strip() for cell in line.strip("|").split(" | ")] if line.startswith("| ") else []
        if not line.startswith("|"):
            head = ""
        elif len(cells) == 2 and not head:
            head = cells[1]
        elif len(cells) == 2:
            found.append((head, cells[1]))
    return found


def is_key(name: str) -> bool:
    known = KEYS
    for part in name.split("."):
        if part not in known:
            return False
        known = schema.fields(known[part])
    return True


def test_every_key_that_is_named_instead_exists() -> None:
    codes = [code for _, cell in answers(help.page("migrate")) for code in re.findall(r"`([^`]+)`", cell)]
    dotted = [code.partition(": ")[0] for code in codes if re.match(r"[a-z_]+(\.[a-z_]+)+(: |$)|[a-z_]+: ", code)]
    keys = [name for name in dotted if not name.endswith(FILES)]
    assert len(keys) > 40 and {"text.files", "stage.lora", "share.max_epochs", "adapter"} <= set(keys)
    assert not [name for name in keys if not is_key(name)]


def test_the_defaults_that_differ_are_ours() -> None:
    """The right column of the table of defaults, against the dataclasses; "5 %" or words stand for what has no plain value."""
    rows = re.findall(r"^\| (`[^|]+) \| [^|]+ \| ([^|]+) \|$", help.page("migrate").split("| default |")[1].split("\n\n")[0], re.MULTILINE)
    told = {name: value for names, values in rows for name, value in zip(re.findall(r"`([^`]+)`", names), values.split(", "), strict=False)}
    source = train_config.Source(sft=data_config.SftData(files=("f",)), text=None)
    made = train_config.Experiment(model="m", data=train_config.Data(sources=(source,)), output="o", steps=1)
    for name in ("lora.alpha", "lora.dropout", "optimizer.learning_rate", "optimizer.weight_decay", "schedule.warmup_ratio", "seed"):
        assert float(told[name]) == attribute(made, name), name
    assert told["schedule.kind"] == made.schedule.kind and told["epochs"].startswith("none") and made.epochs is None
    assert int(told["sft.length"]) == source.sft.length == data_config.TextData(files=("f",)).length
    assert told["sft.packing"].startswith(source.sft.packing) and made.data.separate
    assert told["global_batch"].startswith(f"{made.global_batch} ") and made.batch_unit == "sequences"


def attribute(made: Any, name: str) -> Any:
    return functools.reduce(getattr, name.split("."), made)


def test_every_flag_that_is_named_instead_exists() -> None:
    every = {flag for verb in program.VERBS.values() for flag in (*schema.options(verb), *settings(verb))}
    named = 0
    for head, cell in answers(help.page("migrate")):
        verbs = [verb for verb in re.findall(r"`zhllama ([a-z ]+)`", f"{cell} {head}") if verb in program.VERBS]
        known = {*schema.options(program.VERBS[verbs[0]]), *settings(program.VERBS[verbs[0]])} if verbs else every
        spoken = [code for code in re.findall(r"`([^`]+)`", cell) if code.startswith("--")]
        flags = [word[2:].partition("=")[0] for code in spoken for word in code.split() if word.startswith("--")]
        assert not [flag for flag in flags if flag not in known], (head, cell)
        named += len(flags)
    assert named > 15


def settings(verb: Callable[..., None]) -> dict[str, Any]:
    found = schema.settings(verb)
    return {name: hint for kind in (found.kinds if found else ()) for name, hint in schema.fields(kind).items()}


def test_the_wheel_holds_every_page(repository: Path) -> None:
    wheel = pytest.importorskip("hatchling.builders.wheel")
    inside = {file.distribution_path for file in wheel.WheelBuilder(str(repository)).recurse_included_files()}
    assert {f"zhllama_jax/help/{path.name}" for path in PAGES.iterdir()} <= inside


def test_what_is_not_there_is_not_promised() -> None:
    promises = re.compile(r"\b(will be|soon|planned|coming|later version|next version|not yet)\b", re.IGNORECASE)
    assert not {topic: promises.findall(help.page(topic)) for topic in help.TOPICS if promises.search(help.page(topic))}
