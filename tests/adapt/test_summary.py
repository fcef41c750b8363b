"""The figures of the report are those of the records, and its sentences are true of them."""

import copy
import dataclasses
from pathlib import Path
from typing import Any

import jax
import pytest

from zhllama_jax.adapt import steps, summary
from zhllama_jax.eval import report, report_html
from zhllama_jax.train import config as train_config


def collected(done: Any, *without: str, **changed: float) -> dict[str, Any]:
    """The summary without some steps, and with other bits per character of Chinese at some points."""
    records = {name: record for name, record in done.records.items() if name not in without}
    for name, bits in changed.items():
        figures = copy.deepcopy(records[name].figures)
        if name == "ngram":
            figures["texts"]["chinese"] = bits
        else:
            figures["texts"]["chinese"]["bits_per_character"] = bits
        records[name] = steps.Record(records[name].key, records[name].seconds, figures)
    return summary.collect(done.config, records)


def test_the_table_of_likelihood_holds_each_point_s_figures_in_order(done: Any) -> None:
    likelihood = collected(done)["likelihood"]
    assert likelihood["texts"] == ["english", "chinese"]
    assert [row["after"] for row in likelihood["rows"]] == ["english", "resized", "embeddings", "pretrain", "tune"]
    for row in likelihood["rows"]:
        texts = done.before[f"measure_{row['after']}"]["texts"]
        assert {name: row[name] for name in texts} == {name: score["bits_per_character"] for name, score in texts.items()}


def test_baselines_stand_apart_with_their_own_figures(done: Any) -> None:
    ngram, model = collected(done)["baselines"]
    assert ngram["chinese"] == done.before["ngram"]["texts"]["chinese"] and "english" not in ngram
    assert model["chinese"] == done.before["measure_baseline"]["texts"]["chinese"]["bits_per_character"]
    assert "5-gram" in ngram["name"] and "equal FLOPs" in model["name"]
    figures = collected(done)
    for chapter in ("answers", "exams"):
        assert "baseline" not in [row["after"] for row in figures[chapter]["rows"]]


@pytest.mark.parametrize(
    ("ngram", "baseline", "sentence"),
    [
        (3.0, 5.0, "That is worse than the n-gram of characters (3.00) and better than the un-extended model (5.00)."),
        (5.0, 3.0, "That is better than the n-gram of characters (5.00) and worse than the un-extended model (3.00)."),
        (4.0, 4.0, "That is worse than the n-gram of characters (4.00) and worse than the un-extended model (4.00)."),
    ],
)
def test_the_remark_says_who_is_better(done: Any, ngram: float, baseline: float, sentence: str) -> None:
    remarks = collected(done, ngram=ngram, measure_baseline=baseline, measure_resized=8.0, measure_pretrain=4.0)["likelihood"]["remarks"]
    assert remarks[0].endswith("`pretrain` the bits per character of held-out chinese fall from 8.00 to 4.00, by 50.0 %.")
    assert remarks[1] == sentence
    assert "says little about how much a 7B model forgets" in remarks[2]


def test_what_was_not_measured_is_not_told(done: Any) -> None:
    figures = collected(done, "ngram", "check", "baseline", "measure_baseline")
    assert (figures["baselines"], figures["check"]) == ([], None)
    assert not any("That is" in remark for remark in figures["likelihood"]["remarks"])
    assert "baseline" not in [stage["name"] for stage in figures["stages"]]
    one = collected(done, "measure_baseline", "baseline", ngram=1.0)["likelihood"]["remarks"][1]
    assert one == "That is worse than the n-gram of characters (1.00)."


def test_without_instructions_there_are_neither_answers_nor_exams(done: Any) -> None:
    records = {
        name: dataclasses.replace(record, figures={key: value for key, value in record.figures.items() if key not in ("answers", "exam")})
        for name, record in done.records.items()
    }
    figures = summary.collect(done.config, records)
    assert (figures["answers"], figures["exams"]) == (None, None)


def test_answers_exams_stages_and_time_are_the_records(done: Any) -> None:
    figures = collected(done)
    assert figures["answers"]["count"] == done.before["measure_tune"]["answers"]["rows"]
    for row in figures["answers"]["rows"]:
        assert row["bits_per_character"] == done.before[f"measure_{row['after']}"]["answers"]["bits_per_character"]
    for row in figures["exams"]["rows"]:
        assert row == {"after": row["after"], **done.before[f"measure_{row['after']}"]["exam"]}
    assert [stage["name"] for stage in figures["stages"]] == ["english", "embeddings", "pretrain", "tune", "baseline"]
    assert all(stage == {"name": stage["name"], **done.before[stage["name"]]} for stage in figures["stages"])
    assert figures["steps"] == [{"name": name, "seconds": record.seconds} for name, record in done.records.items()]
    minutes = sum(record.seconds for record in done.records.values()) / 60
    assert f"took {minutes:.1f} minutes" in figures["introduction"] and f"--model {done.config.output}/model" in figures["introduction"]


def test_the_gain_in_speed_is_that_of_characters(done: Any) -> None:
    generation = collected(done)["generation"]
    old, new = generation["rows"]
    assert (old["model"], new["model"]) == ("old", "new")
    assert f"{new['characters_per_second'] / old['characters_per_second']:.2f} times" in generation["remark"]


def test_the_report_says_that_the_baseline_of_new_rows_learns_all_of_its_own(done: Any) -> None:
    *former, last = done.config.trainings
    rows = dataclasses.replace(former[-1], stage=train_config.Stage("new_rows"))
    config = dataclasses.replace(done.config, trainings=(former[0], rows, dataclasses.replace(last, adapter="fresh")))
    _, baseline = summary.collect(config, done.records)["baselines"]
    assert baseline["name"].endswith("equal FLOPs (all of its rows, as it has no new ones)")
    assert "all of its rows" not in str(collected(done)["baselines"])


def test_the_remark_says_which_way_it_went(done: Any) -> None:
    remarks = collected(done, measure_resized=4.0, measure_pretrain=5.0)["likelihood"]["remarks"]
    assert remarks[0].endswith("`pretrain` the bits per character of held-out chinese rise from 4.00 to 5.00, by 25.0 %.")


def test_the_report_names_what_its_page_compares(done: Any) -> None:
    figures = collected(done)
    assert (figures["name"], figures["adapted"], figures["learned"]) == (done.config.output, "chinese", ["chinese"])
    assert figures["points"] == {"pretrained": "pretrain"}
    assert [row["short"] for row in figures["baselines"]] == ["5-gram", "un-extended model"]
    alone = dataclasses.replace(done.config.trainings[-1], adapter="fresh")
    tuned = dataclasses.replace(done.config, trainings=(alone,))
    records = {name: record for name, record in done.records.items() if name not in ("baseline", "measure_baseline")}
    assert summary.collect(tuned, records)["points"] == {"pretrained": None}


def test_the_report_says_how_much_of_held_out_text_is_scored(done: Any) -> None:
    scored = collected(done)["likelihood"]["scored"]
    assert scored.startswith("At most the first 1,500 characters of each held-out text are scored")
    assert scored.endswith(": english 1,500, chinese 1,500.")
    assert scored in (Path(done.config.output) / "report.md").read_text("utf-8")
    longer = dataclasses.replace(done.config, evaluation=dataclasses.replace(done.config.evaluation, max_characters=2_000))
    whole = summary.collect(longer, done.records)["likelihood"]["scored"]
    assert whole == "All of each held-out text is scored: english 1,500, chinese 1,500 characters."


def test_the_report_repeats_what_steps_remarked(done: Any) -> None:
    packed = done.records["rows_new_instructions"]
    remarked = dataclasses.replace(packed, figures={**packed.figures, "remarks": ["of 4 rows 3 were cut"]})
    figures = summary.collect(done.config, {**done.records, "rows_new_instructions": remarked})
    assert figures["data"] == ["of 4 rows 3 were cut"]
    assert "\n\nOf 4 rows 3 were cut.\n\n" in report.markdown(figures)
    assert "<p>Of 4 rows 3 were cut.</p>" in report_html.page(figures)


def test_the_report_says_how_it_was_made(done: Any) -> None:
    figures = collected(done)
    assert figures["configuration"] == done.config.to_yaml()
    assert figures["versions"]["jax"] == jax.__version__ and figures["versions"]["devices"].startswith("8 × ")
    blank = dataclasses.replace(done.config, output="a run/")
    assert "zhllama adapt --config 'a run/config.yaml' --output 'a run-again'" in summary.collect(blank, done.records)["reproduce"]
