"""The program `zhllama`: finds the verb, lets `flags` read its words, calls it, and turns the user's errors into one line.

Exit status: 0 done, 1 the verb failed, 2 the command line or the configuration was wrong, 75 a training was stopped and will go on,
129, 130, 143 ended by SIGHUP, SIGINT (Ctrl-C), SIGTERM, 141 nobody reads on.
"""

import contextlib
import difflib
import errno
import inspect
import logging
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Mapping, Sequence
from types import FrameType
from typing import NoReturn, TextIO

import zhllama_jax
from zhllama_jax.cli import (
    adapt,
    chat,
    compilation,
    convert,
    data_build,
    data_show,
    demo,
    doctor,
    evaluate_exam,
    evaluate_ngram,
    evaluate_perplexity,
    flags,
    generate,
    help,
    merge,
    recipes,
    resize,
    schema,
    stages,
    terminal,
    tokenizer_merge,
    tokenizer_report,
    tokenizer_train,
    train,
    verify,
)

EXHAUSTED = "RESOURCE_EXHAUSTED"
"""What XLA's RuntimeErrors say when a device's memory is used up."""

FULL = os.strerror(errno.ENOSPC)
"""What the errors of libraries say when a disk is used up."""

INTERRUPTED = "zhllama: interrupted"

ENDING = (signal.SIGTERM, signal.SIGHUP)
"""Signals that end the program like Ctrl-C does: what is half made is cleared away first."""

NOTEBOOKS = ("JPY_PARENT_PID", "COLAB_RELEASE_TAG", "KAGGLE_KERNEL_RUN_TYPE")
"""Variables of what runs below a notebook, whose `!` pretends to be a terminal and saves every picture that is drawn there."""

LESS_MEMORY = (
    "when training, a smaller micro_batch, remat: full, a smaller loss_chunk or shorter rows need less; "
    "elsewhere a smaller batch_size, a shorter length or context, or dtype bfloat16"
)

VERBS: Mapping[str, Callable[..., None]] = {
    "demo": demo.run,
    "adapt": adapt.run,
    "tokenizer train": tokenizer_train.run,
    "tokenizer merge": tokenizer_merge.run,
    "tokenizer report": tokenizer_report.run,
    "data build": data_build.run,
    "data show": data_show.run,
    "resize": resize.run,
    "train": train.run,
    "merge": merge.run,
    "generate": generate.run,
    "chat": chat.run,
    "evaluate perplexity": evaluate_perplexity.run,
    "evaluate ngram": evaluate_ngram.run,
    "evaluate exam": evaluate_exam.run,
    "convert": convert.run,
    "verify": verify.run,
    "stages": stages.run,
    "doctor": doctor.run,
    "help": help.run,
}


class Ended(SystemExit):
    """One of `ENDING` came; the exit status is the one that shells give to it."""

    def __init__(self, number: int) -> None:
        """Takes the signal."""
        super().__init__(128 + number)
        self.number = number


def run(words: Sequence[str]) -> int:
    """Runs one command line and returns the exit status; the words come after the program's name."""
    words = list(words)
    debug = words[:1] == ["--debug"]
    words = words[debug:]
    with warnings.catch_warnings():
        warnings.showwarning = _show_warning
        if not debug:
            # Libraries below us report on their own state; what a user must know is said by ours, once.
            logging.getLogger("absl").setLevel(logging.CRITICAL)
        try:
            return _run(words)
        except Ended as ended:
            terminal.say(f"zhllama: ended by {signal.Signals(ended.number).name}")
            return 128 + ended.number
        except SystemExit as stop:
            if isinstance(stop.code, str):
                terminal.say(f"zhllama: error: {stop.code}")
            return 1 if isinstance(stop.code, str) else stop.code or 0
        except KeyboardInterrupt:
            terminal.say(f"{chr(10) * sys.stderr.isatty()}{INTERRUPTED}")
            return 130
        except BrokenPipeError:
            # Python would complain again when it flushes at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 141
        except (ValueError, OSError) as error:
            if debug:
                raise
            terminal.say(f"zhllama: error: {_of_full_disk(error) or sentence(error)}")
            return 2 if isinstance(error, schema.UsageError) else 1
        except (MemoryError, RuntimeError) as error:
            full_disk = _of_full_disk(error)
            if debug or not (full_disk or isinstance(error, MemoryError) or EXHAUSTED in str(error)):
                raise
            terminal.say(f"zhllama: error: {full_disk or f'not enough memory ({sentence(error)[:200]}): {LESS_MEMORY}'}")
            return 1


def _run(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help"):
        terminal.result(overview())
        return 0 if words else 2
    if words[0] == "--version":
        terminal.result(zhllama_jax.__version__)
        return 0
    name, rest = find(words)
    positional, named = flags.parse(name, VERBS[name], rest, say=terminal.say)
    try:
        VERBS[name](*positional, **named)
    except FileNotFoundError as error:
        if (recipe := recipes.named(rest)) is None:
            raise
        raise FileNotFoundError(f"{sentence(error)}; `zhllama help {recipe}` says where what it reads comes from") from error
    sys.stdout.flush()
    return 0


def find(words: list[str]) -> tuple[str, list[str]]:
    """The verb that a command line names, of one word or two, and the words after it.

    Raises:
      schema.UsageError: there is no such verb.
      SystemExit: help on a group such as `tokenizer` was asked for and given.
    """
    for count in (2, 1):
        name = " ".join(words[:count])
        if name in VERBS:
            return name, words[count:]
    group = [name for name in VERBS if name.startswith(f"{words[0]} ")]
    if group and words[1:2] in ([], ["-h"], ["--help"]):
        terminal.result(overview(group))
        raise SystemExit(0 if words[1:] else 2)
    if group:
        raise schema.UsageError(f"unknown verb {' '.join(words[:2])!r}: {schema.closest(' '.join(words[:2]), group)}")
    both = " ".join(words[:2])
    near = difflib.get_close_matches(both, [name for name in VERBS if " " in name], n=1, cutoff=0.8)
    if near:
        raise schema.UsageError(f"unknown verb {both!r}: did you mean {near[0]}?")
    raise schema.UsageError(f"unknown verb {words[0]!r}: {schema.closest(words[0], VERBS)}")


def overview(names: Sequence[str] = ()) -> str:
    """The table of verbs, each with the first line of its docstring."""
    chosen = names or list(VERBS)
    size = max(map(len, chosen))
    lines = [f"  {name.ljust(size)}  {inspect.getdoc(VERBS[name]).partition(chr(10))[0]}" for name in chosen]  # type: ignore[union-attr]
    return "\n".join(
        [
            "usage: zhllama [--debug] VERB [--flag VALUE …]",
            "",
            *([] if names else ["Adapts LLaMA models to Chinese in pure JAX, from raw text to a Hugging Face directory.", ""]),
            *lines,
            "",
            "First time here? `zhllama demo` shows all of it in five minutes, `zhllama doctor` what fits this",
            "machine, `zhllama help` pages on topics: what replaces the scripts you know, stages, data, export …",
            "`zhllama VERB --help` explains a verb, --help_all every flag of it. Flags may stand in a YAML file",
            "(--config F). --debug shows where an error came from, --version the version.",
        ]
    )


def sentence(error: Exception) -> str:
    """An error as one line."""
    if isinstance(error, FileExistsError | NotADirectoryError) and error.filename is not None:
        return f"{error.filename} is a file, and a folder is needed there"
    if isinstance(error, OSError) and error.strerror:
        return f"{'' if error.filename is None else f'{error.filename}: '}{error.strerror.lower()}"
    return " ".join(str(error).split()) or type(error).__name__


def _of_full_disk(error: Exception) -> str | None:
    """What a library says in many words when a disk is full; None for other errors, and for those that say it in a few."""
    if isinstance(error, OSError) or FULL not in str(error):
        return None
    return f"{FULL.lower()} ({sentence(error)[:200]})"


def _show_warning(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, file: TextIO | None = None, line: str | None = None
) -> None:
    """One line for a warning of ours; those of other libraries are meant for developers."""
    if issubclass(category, UserWarning) and "zhllama" in filename:
        terminal.say(f"zhllama: warning: {' '.join(str(message).split())}")


def _end(number: int, frame: FrameType | None) -> NoReturn:
    raise Ended(number)


def _unraisable(problem: "sys.UnraisableHookArgs") -> None:
    """Sends a signal again that fell into a callback of the garbage collector, where Python drops what it raises (JAX has one)."""
    if issubclass(problem.exc_type, KeyboardInterrupt | Ended):
        number = problem.exc_value.number if isinstance(problem.exc_value, Ended) else signal.SIGINT
        threading.Timer(0.05, os.kill, (os.getpid(), number)).start()
    else:
        sys.__unraisablehook__(problem)


def main() -> NoReturn:
    """The entry point: text is UTF-8 whatever the locale says, and streams that were closed swallow it."""
    for name, mode in {"stdin": "r", "stdout": "w", "stderr": "w"}.items():
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115 - as long as the process
        if hasattr(getattr(sys, name), "reconfigure"):
            getattr(sys, name).reconfigure(encoding="utf-8", errors="replace" if name == "stdin" else None)
    if any(map(os.environ.get, NOTEBOOKS)):
        setattr(sys.stderr, "isatty", lambda: False)  # noqa: B010 - plain lines instead of progress lines, of libraries too
    sys.unraisablehook = _unraisable
    for number in ENDING:
        if signal.getsignal(number) == signal.SIG_DFL:  # `nohup` has one ignored
            signal.signal(number, _end)
    status = run(sys.argv[1:])
    if status in (130, *(128 + number for number in ENDING)):
        with contextlib.suppress(KeyboardInterrupt):
            compilation.end(interrupted=True)
        # Threads of libraries may still compute; taking the interpreter down under them ends in a fault of memory.
        os._exit(status)
    sys.exit(status)
