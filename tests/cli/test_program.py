"""Finding verbs, exit statuses, one-line errors, and a help text that comes at once."""

import os
import resource
import subprocess
import sys
import warnings
from collections.abc import Callable

import pytest

from zhllama_jax.cli import program, schema, terminal


def test_help_lists_every_verb_with_its_first_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert program.run(["--help"]) == 0
    shown = capsys.readouterr().out
    for name, verb in program.VERBS.items():
        assert verb.__doc__, name
        assert f"  {name} " in shown
        assert verb.__doc__.strip().split("\n")[0] in shown


def test_help_comes_in_half_a_second() -> None:
    """Counted in processor time: the wall clock of a busy machine says nothing."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-m", "zhllama_jax", "--help"], check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 0.5


def test_the_table_of_verbs_imports_no_heavy_library() -> None:
    heavy = {"jax", "numpy", "jsonargparse", "sentencepiece", "rich"}
    code = f"import sys; from zhllama_jax.cli import program; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("name", program.VERBS)
def test_every_verb_has_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert program.run([*name.split(), "--help"]) == 0
    shown = capsys.readouterr().out
    assert f"usage: zhllama {name}" in shown


@pytest.mark.parametrize("name", program.VERBS)
def test_every_flag_is_explained(name: str) -> None:
    verb = program.VERBS[name]
    for flag in schema.options(verb):
        assert f"{flag}: " in (verb.__doc__ or ""), f"{name} --{flag}"
    settings = schema.settings(verb)
    for kind in settings.kinds if settings else ():
        for field in schema.fields(kind):
            assert any(f"{field}: " in (base.__doc__ or "") for base in kind.__mro__), f"{name} --{field}"


def test_no_words_show_the_verbs_and_are_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert program.run([]) == 2
    assert "usage: zhllama" in capsys.readouterr().out


def test_the_version_is_the_packages(capsys: pytest.CaptureFixture[str]) -> None:
    import zhllama_jax

    assert program.run(["--version"]) == 0
    assert capsys.readouterr().out.strip() == zhllama_jax.__version__


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["stagse"], "unknown verb 'stagse': did you mean stages?"),
        (["tokeniser", "merge"], "unknown verb 'tokeniser merge': did you mean tokenizer merge?"),
        (["data", "build", "--text.lenght", "3"], "unknown flag --text.lenght: did you mean --text.length?"),
        (["stages", "--stge", "sft"], "unknown flag --stge: did you mean --stage?"),
        (["stages", "--rank", "two"], "--rank: expected a whole number or null, got 'two'"),
    ],
)
def test_wrong_usage_is_one_line_and_status_2(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert program.run(words) == 2
    assert capsys.readouterr() == ("", f"zhllama: error: {message}\n")


def answer(verb: Callable[[], None], monkeypatch: pytest.MonkeyPatch, *, debug: bool = False) -> int:
    """The exit status of a program whose only verb is `verb`."""
    verb.__doc__ = "Does one thing."
    verb.__annotations__ = {"return": None}
    monkeypatch.setattr(program, "VERBS", {"act": verb})
    return program.run(["--debug", "act"] if debug else ["act"])


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("the tokenizer\n  does not fit"), "the tokenizer does not fit"),
        (FileNotFoundError("m/config.json not found: expected a model"), "m/config.json not found: expected a model"),
        (PermissionError(13, "Permission denied", "/srv/x"), "/srv/x: permission denied"),
        (OSError(28, "No space left on device"), "no space left on device"),
        (FileExistsError(17, "File exists", "runs"), "runs is a file, and a folder is needed there"),
        (ValueError(), "ValueError"),
    ],
)
def test_a_users_error_is_one_line_and_status_1(
    error: Exception, line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> None:
        raise error

    assert answer(fail, monkeypatch) == 1
    assert capsys.readouterr() == ("", f"zhllama: error: {line}\n")


def test_debug_lets_the_error_through(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise ValueError("inside")

    with pytest.raises(ValueError, match="inside"):
        answer(fail, monkeypatch, debug=True)


@pytest.mark.parametrize(
    "error", [RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating\n 34359738368 bytes."), MemoryError("Unable to allocate 8 GiB")]
)
def test_used_up_memory_is_one_line_that_helps(
    error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> None:
        raise error

    assert answer(fail, monkeypatch) == 1
    shown = capsys.readouterr().err
    assert shown.startswith("zhllama: error: not enough memory (") and shown.count("\n") == 1
    assert " ".join(str(error).split()) in shown and "micro_batch" in shown


def test_a_full_disk_is_one_line_also_where_a_library_met_it(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        raise RuntimeError("write() failed: No space left on device; writing out/rows\nat byte 307200")

    assert answer(fail, monkeypatch) == 1
    assert capsys.readouterr().err == (
        "zhllama: error: no space left on device (write() failed: No space left on device; writing out/rows at byte 307200)\n"
    )


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_a_result_that_cannot_be_written_is_one_line(stream: str) -> None:
    with open("/dev/full", "w") as full:
        options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, stream: full}
        done = subprocess.run([sys.executable, "-m", "zhllama_jax", "stages", "--size", "micro"], text=True, check=False, **options)
    if stream == "stdout":
        assert (done.returncode, done.stderr) == (1, "zhllama: error: no space left on device\n")
    else:
        assert done.returncode == 0 and "trainable" in done.stdout


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_streams_are_no_trouble(closed: str) -> None:
    command = f"{sys.executable} -m zhllama_jax stages --size micro {closed}; echo $? >&9"
    done = subprocess.run(["bash", "-c", f"{{ {command}; }} 9>&1"], capture_output=True, text=True, check=True)
    assert done.stdout.split()[-1] == "0" and done.stderr == ""


@pytest.mark.parametrize("locale", ["C", "POSIX", "en_US.ISO-8859-1"])
def test_any_locale_will_do(locale: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "zhllama_jax", "stages", "--size", "中文"],
        capture_output=True,
        check=False,
        env={**os.environ, "LC_ALL": locale},
    )
    assert done.returncode == 1 and "unknown model size '中文'" in done.stderr.decode()


@pytest.mark.parametrize(("code", "status", "err"), [("it ends here", 1, "zhllama: error: it ends here\n"), (None, 0, ""), (75, 75, "")])
def test_an_exit_keeps_its_status_and_its_words(
    code: str | int | None, status: int, err: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def leave() -> None:
        raise SystemExit(code)

    assert answer(leave, monkeypatch) == status
    assert capsys.readouterr() == ("", err)


@pytest.mark.parametrize("kind", [KeyError, RuntimeError])
def test_our_own_mistakes_are_not_hidden(kind: type[Exception], monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise kind("inside")

    with pytest.raises(kind):
        answer(fail, monkeypatch)


def test_an_interrupt_is_one_line_and_status_130(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    assert answer(interrupt, monkeypatch) == 130
    assert capsys.readouterr().err == "zhllama: interrupted\n"


def test_a_warning_of_ours_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def warn() -> None:
        warnings.simplefilter("always")
        warnings.warn_explicit("look\nhere", UserWarning, "zhllama_jax/convert/config_hf.py", 1)
        warnings.warn_explicit("not yours", UserWarning, "site-packages/other.py", 1)
        terminal.result("done")

    assert answer(warn, monkeypatch) == 0
    assert capsys.readouterr() == ("done\n", "zhllama: warning: look here\n")


def test_a_closed_pipe_is_silent() -> None:
    """`zhllama … | head -1`: no traceback, and the status says why."""
    command = f"{sys.executable} -m zhllama_jax stages --size micro"
    done = subprocess.run(["bash", "-c", f"{command} | true; echo ${{PIPESTATUS[0]}}"], capture_output=True, text=True, check=True)
    assert done.stdout.strip() in ("141", "0")
    assert "Traceback" not in done.stderr
    assert "BrokenPipe" not in done.stderr


def test_a_group_lists_its_verbs(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def act() -> None:
        """Does one thing."""

    monkeypatch.setattr(program, "VERBS", {"tokenizer train": act, "tokenizer merge": act})
    assert program.run(["tokenizer"]) == 2
    assert program.run(["tokenizer", "--help"]) == 0
    assert capsys.readouterr().out.count("tokenizer merge") == 2
    assert program.run(["tokenizer", "trian"]) == 2
    assert capsys.readouterr().err == "zhllama: error: unknown verb 'tokenizer trian': did you mean tokenizer train?\n"


@pytest.mark.parametrize("name", [None, *program.NOTEBOOKS])
def test_standard_error_below_a_notebook_is_no_terminal(name: str | None) -> None:
    """Though its `!` is one: a progress line would be saved there picture by picture."""
    code = "import sys\nfrom zhllama_jax.cli import program\nprogram.run = lambda words: 7 + sys.stderr.isatty()\nprogram.main()"
    environment = {key: value for key, value in os.environ.items() if key not in program.NOTEBOOKS}
    inner, outer = os.openpty()
    try:
        done = subprocess.run([sys.executable, "-c", code], stderr=outer, check=False, env=environment | ({name: "1"} if name else {}))
    finally:
        os.close(inner)
        os.close(outer)
    assert done.returncode == (7 if name else 8)
