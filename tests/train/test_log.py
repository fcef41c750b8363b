"""The log: every step once, whatever was killed; a reader that goes away harms nobody."""

import json
import re

import pytest

from zhllama_jax.train import log

PACE = log.Pace(seconds=2.0, tokens_per_second=1000.0, flops_per_second=5e9, utilisation=None)
FIGURES = {"loss": 2.5, "grad_norm": 1.0, "learning_rate": 1e-4, "tokens": 100.0, "tokens_read": 120.0, "skipped": 0.0}


def write(directory, first: int, last: int, *, speaks: bool = True, tensorboard: bool = False, **changes) -> None:
    with log.journal(directory, speaks=speaks, tensorboard=tensorboard) as journal:
        journal.begin(first, total=10)
        for step in range(first + 1, last + 1):
            journal.steps(step, {**FIGURES, **changes}, PACE)


def steps(directory) -> list[int]:
    return [line["step"] for line in log.read(directory)]


def test_after_a_resume_no_step_stands_twice(tmp_path) -> None:
    write(tmp_path, 0, 5)
    write(tmp_path, 3, 6)
    assert steps(tmp_path) == [1, 2, 3, 4, 5, 6]


def test_a_line_cut_off_by_a_kill_is_left_out(tmp_path) -> None:
    write(tmp_path, 0, 3)
    path = tmp_path / log.METRICS
    path.write_bytes(path.read_bytes()[:-9])
    assert steps(tmp_path) == [1, 2]
    write(tmp_path, 2, 4)
    assert steps(tmp_path) == [1, 2, 3, 4]


def test_every_line_is_json_also_where_numbers_are_not(tmp_path) -> None:
    write(tmp_path, 0, 1, loss=float("nan"))
    (line,) = (tmp_path / log.METRICS).read_text().splitlines()
    assert json.loads(line, parse_constant=pytest.fail)["loss"] is None


def test_plain_lines_where_there_is_no_terminal(tmp_path, capsys) -> None:
    with log.journal(tmp_path, speaks=True, tensorboard=False) as journal:
        journal.begin(0, total=10)
        journal.steps(1, FIGURES, PACE)
        journal.steps(2, {**FIGURES, "skipped": 3.0}, PACE._replace(utilisation=0.415))
        score = {"loss": 2.0, "bits_per_character": 1.5, "tokens": 9.0}
        journal.validation(2, {"zh": score, "en": {**score, "bits_per_character": None}}, best=True)
    first, second, third = capsys.readouterr().err.splitlines()
    assert first.startswith("step      1/10  loss 2.5000  lr 1.00e-04  norm 1.000  1,000 tokens/s  5.0 GFLOP/s") and first.endswith("left")
    assert "MFU 41.5 %  left out 3" in second
    assert third == "step      2/10  validation  zh: loss 2.0000, 1.5000 bits per character; en: loss 2.0000  best so far"
    assert log.read(tmp_path)[-1]["zh"] == score


def test_the_summary_is_over_all_processes_of_a_run(tmp_path) -> None:
    write(tmp_path, 0, 4)
    write(tmp_path, 3, 5, loss=1.0)
    assert log.summary(tmp_path) == {"loss": 1.0, "validation": {}, "tokens_read": 600, "tokens_per_second": 1000.0, "seconds": 10.0}
    assert log.summary(tmp_path / "nowhere")["loss"] is None


def test_only_one_process_speaks(tmp_path, capsys) -> None:
    write(tmp_path, 0, 2, speaks=False)
    assert capsys.readouterr() == ("", "") and not list(tmp_path.iterdir())


def test_a_reader_that_goes_away_harms_nobody(tmp_path, monkeypatch) -> None:
    def gone(*arguments, **options) -> None:
        raise BrokenPipeError

    monkeypatch.setattr("builtins.print", gone)
    write(tmp_path, 0, 3)
    assert steps(tmp_path) == [1, 2, 3]


def test_tensorboard_gets_the_same_figures(tmp_path) -> None:
    pytest.importorskip("tensorboardX")
    write(tmp_path, 0, 2, tensorboard=True)
    (events,) = (tmp_path / "tensorboard").iterdir()
    assert b"train/loss" in events.read_bytes()


def test_a_terminal_gets_a_progress_line(tmp_path, monkeypatch) -> None:
    terminal(monkeypatch)
    with log.journal(tmp_path, speaks=True, tensorboard=False) as journal:
        journal.begin(0, total=10)
        journal.steps(1, FIGURES, PACE)
        journal.say("a line above it")
        assert journal._bar.tasks[0].completed == 1
    assert steps(tmp_path) == [1]


def terminal(monkeypatch) -> None:
    """Standard error as a terminal; what is drawn there is still captured."""
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")


def test_a_progress_line_is_drawn_once_a_second_and_at_the_end(tmp_path, monkeypatch, capsys) -> None:
    terminal(monkeypatch)
    clock = iter(number / 100 for number in range(100_000, 200_000))
    monkeypatch.setattr(log.time, "monotonic", lambda: next(clock))
    write(tmp_path, 0, 1000)
    drawn = capsys.readouterr().err.count("loss 2.5000")
    assert 10 <= drawn <= 40, "a thousand steps in some twenty seconds"
    assert steps(tmp_path) == list(range(1, 1001))


@pytest.mark.parametrize(("columns", "bar"), [(80, False), (120, True)])
def test_a_narrow_terminal_keeps_totals_and_time_left(columns, bar, tmp_path, monkeypatch, capsys) -> None:
    terminal(monkeypatch)
    monkeypatch.setenv("COLUMNS", str(columns))
    with log.journal(tmp_path, speaks=True, tensorboard=False) as journal:
        journal.begin(2999, total=6000)
        monkeypatch.setattr(journal, "_left", lambda step: 3723)
        journal.steps(3000, FIGURES, log.Pace(2.0, 12_345.0, 123.4e9, None))
        journal._bar.refresh()
    last = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", capsys.readouterr().err).strip().replace("\r", "\n").split("\n")[-1]
    assert "3,000/6,000  1:02:03 left  loss 2.5000  lr 1.00e-04" in last and "norm 1.000" in last
    assert len(last) <= columns and ("━" in last) == bar and ("GFLOP/s" in last) == bar


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "00:00"), (61, "01:01"), (3723, "1:02:03")])
def test_clock(seconds, text) -> None:
    assert log.clock(seconds) == text
