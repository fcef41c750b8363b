"""Ctrl-C in every verb, and SIGTERM: the status of the signal, one line, and nothing half-made left behind."""

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from zhllama_jax.cli import program


@pytest.fixture
def inputs(tmp_path: Path, base_model: Path, tuned_model: Path, english_pieces: Path, chinese_pieces: Path) -> dict[str, str]:
    """Command lines by verb, all of which write to `out`."""
    words = " ".join(f"w{chr(97 + n % 26)}{chr(97 + n * 7 % 26)}{chr(97 + n // 26)}" for n in range(600))
    (tmp_path / "text.txt").write_text("江河都往海里流,海却不满。\n\nRivers run to the sea.\n" * 40 + words, encoding="utf-8")
    out, text = tmp_path / "out", tmp_path / "text.txt"
    return {
        "tokenizer train": f"--input {text} --vocab_size 310 --output {out}/zh.model",
        "tokenizer merge": f"--base {base_model} --added {chinese_pieces} --proof_strings 10 --output {out}/merged.model",
        "tokenizer report": f"--base {english_pieces} --merged {english_pieces} --text {text} --output {out}/report",
        "data build": f"--tokenizer {base_model} --text.files {text} --text.length 32 --output {out}/rows",
        "train": f"--model {base_model} --data.sources {{text:{{files:[{text}],length:32}}}} --steps 1 --output {out}/run --global_batch 8",
        "convert": f"--input {base_model} --output {out}/converted",
        "evaluate perplexity": f"--model {base_model} --text {text} --output {out}/figures.json",
        "evaluate ngram": f"--fit {text} --text {text} --output {out}/figures.json",
        "verify": f"--left {base_model} --output {out}/findings.json",
    }


@pytest.mark.parametrize(
    "name",
    ["tokenizer train", "tokenizer merge", "tokenizer report", "data build", "convert", "evaluate perplexity", "evaluate ngram", "verify"],
)
def test_an_interrupt_while_the_output_is_written_leaves_nothing(
    name: str, inputs: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The worst moment: all is written, nothing has its name yet."""

    def interrupted(descriptor: int) -> None:
        raise KeyboardInterrupt

    (tmp_path / "out").mkdir()
    monkeypatch.setattr(os, "fsync", interrupted)
    assert program.run([*name.split(), *inputs[name].split()]) == 130
    assert capsys.readouterr().err.splitlines()[-1] == program.INTERRUPTED
    left = [path for path in (tmp_path / "out").rglob("*") if path.is_file() or path.name.endswith((".tmp", ".old"))]
    assert not left, left


CHILD = """
import os, signal, sys, threading
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell starts what runs in its background deaf to SIGINT
from zhllama_jax.cli import program

def soon(): threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()

{patch}
sys.argv = ["zhllama", *sys.argv[1:]]
program.main()
"""


def interrupt(patch: str, words: list[str], **options: str) -> subprocess.CompletedProcess[str]:
    """The program in a process of its own, sent SIGINT by `soon`."""
    code = CHILD.format(patch=textwrap.dedent(patch))
    return subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, timeout=60, check=False, **options)  # type: ignore[call-overload, no-any-return]


def assert_clean(done: subprocess.CompletedProcess[str], out: Path) -> None:
    assert (done.returncode, done.stderr.splitlines()[-1]) == (130, program.INTERRUPTED), done.stderr
    assert "Traceback" not in done.stderr and not list(out.rglob("*"))


def assert_chat_ends(patch: str, model: Path, out: Path) -> None:
    """A chat whose standard input stays open and says nothing is interrupted."""
    reading, writing = os.pipe()
    try:
        assert_clean(interrupt(patch, ["chat", "--model", str(model)], stdin=reading), out)  # type: ignore[arg-type]
    finally:
        os.close(reading)
        os.close(writing)


def test_training_a_vocabulary_is_interrupted_at_once(tmp_path: Path) -> None:
    """The library hears of no signal before it is done."""
    out = tmp_path / "out"
    out.mkdir()
    words = " ".join(f"w{chr(97 + n % 26)}{chr(97 + n * 7 % 26)}{chr(97 + n // 26)}" for n in range(600))
    (tmp_path / "text.txt").write_text("江河都往海里流\n" * 100, encoding="utf-8")
    patch = """
    import hashlib, sentencepiece
    def deaf(**arguments):
        soon()
        hashlib.pbkdf2_hmac("sha256", b"", b"", 10**9)  # like the library: minutes without the interpreter's lock
    sentencepiece.SentencePieceTrainer.train = deaf
    """
    words = f"tokenizer train --input {tmp_path}/text.txt --vocab_size 300 --output {out}/zh.model".split()
    assert_clean(interrupt(patch, words), out)


def test_decoding_is_interrupted_without_a_fault(tuned_model: Path, tmp_path: Path) -> None:
    """Devices may still be at work when the interpreter ends."""
    patch = """
    from zhllama_jax.cli import ready
    load = ready.load
    def loaded(*arguments, **options):
        soon()
        return load(*arguments, **options)
    ready.load = loaded
    """
    words = ["generate", "--model", str(tuned_model), "--prompt", "one", "--max_new_tokens", "200"]
    assert_clean(interrupt(patch, words), tmp_path)


def test_chat_is_interrupted_while_it_waits(tuned_model: Path, tmp_path: Path) -> None:
    patch = """
    from zhllama_jax.cli import chat
    ask = chat._ask
    def asked():
        soon()
        return ask()
    chat._ask = asked
    """
    assert_chat_ends(patch, tuned_model, tmp_path)


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_an_end_while_the_output_is_written_leaves_nothing(name: str, inputs: dict[str, str], tmp_path: Path) -> None:
    patch = f"""
    signal.signal(signal.{name}, signal.SIG_DFL)  # a nohup around the tests would be inherited
    fsync = os.fsync
    def ended(descriptor):
        os.kill(os.getpid(), signal.{name})
        fsync(descriptor)
    os.fsync = ended
    """
    done = interrupt(patch, ["convert", *inputs["convert"].split()])
    assert (done.returncode, done.stderr) == (128 + signal.Signals[name], f"zhllama: ended by {name}\n")
    assert not list((tmp_path / "out").rglob("*"))


def test_what_is_ignored_stays_ignored(inputs: dict[str, str], tmp_path: Path) -> None:
    """`nohup zhllama …` goes on when the terminal is closed."""
    patch = """
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    fsync = os.fsync
    def hung_up(descriptor):
        os.kill(os.getpid(), signal.SIGHUP)
        fsync(descriptor)
    os.fsync = hung_up
    """
    assert interrupt(patch, ["convert", *inputs["convert"].split()]).returncode == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["converted"]


def test_an_interrupt_that_python_drops_is_heard(tuned_model: Path, tmp_path: Path) -> None:
    """It arrives while a callback of the garbage collector runs."""
    patch = """
    import gc
    from zhllama_jax.cli import chat
    ask = chat._ask
    def dropping(*_):
        gc.callbacks.remove(dropping)
        raise KeyboardInterrupt
    def asked():
        gc.callbacks.append(dropping)
        gc.collect()
        return ask()
    chat._ask = asked
    """
    assert_chat_ends(patch, tuned_model, tmp_path)


def test_an_interrupt_while_modules_are_imported_is_one_line(tmp_path: Path) -> None:
    code = """
import builtins, runpy
real = builtins.__import__
def importing(name, *rest, **named):
    if name == "zhllama_jax.cli":
        raise KeyboardInterrupt
    return real(name, *rest, **named)
builtins.__import__ = importing
runpy.run_module("zhllama_jax", run_name="__main__")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (130, f"{program.INTERRUPTED}\n")


def test_a_verb_that_was_interrupted_can_be_run_again(inputs: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    real = os.fsync

    def once(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) == 1:
            raise KeyboardInterrupt
        real(descriptor)

    monkeypatch.setattr(os, "fsync", once)
    words = ["convert", *inputs["convert"].split()]
    assert (program.run(words), program.run(words)) == (130, 0)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["converted"]
