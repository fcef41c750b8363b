"""A long part of a step says now and then how far it is and how long the rest may take; a short one says nothing."""

import pytest

from zhllama_jax.adapt import progress


def test_a_line_comes_every_ten_seconds_with_the_time_that_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    said: list[str] = []
    watch = progress.lines(said.append, "measure_tune")
    report = watch("exam, questions")
    for done in range(64, 1201, 64):
        now += 4.0
        report(done, 1200)
    assert said[0] == "measure_tune: exam, questions 192/1,200  01:03 left"
    assert [line.split()[3] for line in said] == ["192/1,200", "384/1,200", "576/1,200", "768/1,200", "960/1,200", "1,152/1,200"]

    later = watch("held-out chinese, windows")
    now += 9.0
    later(1, 3)
    now += 3.0
    later(3, 3)
    assert len(said) == 6, "each part has its own clock, and what is done needs no line"
