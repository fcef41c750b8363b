"""Steps are done once, again when what they are made from changes, and taken up where an interrupted run left them."""

import os

import pytest

from zhllama_jax.adapt import steps


class Pipeline:
    """Two chained steps and one apart, which note when they run."""

    def __init__(self, output, source):
        self.output, self.source, self.ran, self.fail = output, source, [], False

    def run(self, *, rate=1):
        self.ran.clear()

        def noting(name):
            def run(folder, before):
                self.ran.append(name)
                (folder / "partial").write_text("x")
                if self.fail and name == "second":
                    raise RuntimeError("interrupted")
                return {"saw": sorted(before), "partial": len(list(folder.iterdir()))}

            return run

        return steps.run(
            [
                steps.Step("first", noting("first"), reads=[str(self.source)]),
                steps.Step("second", noting("second"), settings={"rate": rate}, needs=["first"]),
                steps.Step("apart", noting("apart"), needs=["first"]),
            ],
            self.output,
            lambda line: None,
        )


@pytest.fixture
def pipeline(tmp_path):
    source = tmp_path / "source.txt"
    source.write_text("one")
    return Pipeline(tmp_path / "output", source)


def test_a_second_run_does_nothing_and_has_the_same_figures(pipeline):
    first = pipeline.run()
    assert pipeline.ran == ["first", "second", "apart"]
    assert first["second"].figures["saw"] == ["first"]
    assert pipeline.run() == first
    assert pipeline.ran == []


def test_a_changed_setting_redoes_only_its_own_step(pipeline):
    pipeline.run()
    pipeline.run(rate=2)
    assert pipeline.ran == ["second"]


def test_changed_content_redoes_what_depends_on_it_and_a_touched_file_nothing(pipeline):
    pipeline.run()
    pipeline.source.touch()
    pipeline.run()
    assert pipeline.ran == []
    pipeline.source.write_text("two")
    pipeline.run()
    assert pipeline.ran == ["first", "second", "apart"]


def test_a_removed_result_is_made_again(pipeline):
    pipeline.run()
    (pipeline.output / "steps" / "apart" / "partial").unlink()
    (pipeline.output / "steps" / "apart").rmdir()
    pipeline.run()
    assert pipeline.ran == ["apart"]


def test_a_step_without_files_has_no_folder_and_is_done_once_all_the_same(tmp_path):
    ran, said = [], []

    def run(folder, before):
        ran.append(folder)
        return {"figure": 1, "remarks": ["3 of 4 were cut"]}

    for _ in range(2):
        records = steps.run([steps.Step("measure", run, leaves_files=False)], tmp_path, said.append)
    assert len(ran) == 1 and records["measure"].figures["figure"] == 1
    assert not ran[0].exists()
    assert said[1] == "measure: 3 of 4 were cut" and len(said) == 4, "remarks are said when the step is done"


def test_an_interrupted_step_finds_its_folder_and_a_changed_one_an_empty_folder(pipeline):
    pipeline.fail = True
    with pytest.raises(RuntimeError):
        pipeline.run()
    (pipeline.output / "steps" / "second" / "checkpoint").write_text("x")
    pipeline.fail = False
    assert pipeline.run()["second"].figures["partial"] == 2
    assert pipeline.ran == ["second", "apart"]
    assert pipeline.run(rate=2)["second"].figures["partial"] == 1


def test_the_time_of_interrupted_attempts_counts_up_to_their_last_file(pipeline):
    pipeline.fail = True
    for attempt in (1, 2):
        with pytest.raises(RuntimeError):
            pipeline.run()
        note = pipeline.output / ".steps" / "second.begun"
        last = pipeline.output / "steps" / "second" / "partial"
        os.utime(last, (0, note.stat().st_mtime + 100.0 * attempt))
    pipeline.fail = False
    assert 300.0 <= pipeline.run()["second"].seconds < 330.0
    assert pipeline.run(rate=2)["second"].seconds < 30.0, "another key is another work"


@pytest.mark.parametrize("content", ["{}", "[]", '{"key": "x", "seconds": "long", "figures": {}}', '{"key": "x", "second": 1.0}', "{"])
def test_a_malformed_record_is_one_sentence_that_says_what_to_do(pipeline, content):
    pipeline.run()
    (pipeline.output / ".steps" / "second.json").write_text(content)
    with pytest.raises(ValueError, match=r"second\.json is not the record of a finished step; remove it to do the step again"):
        pipeline.run()


def test_a_folder_that_no_step_began_is_never_emptied(pipeline):
    folder = pipeline.output / "steps" / "second"
    folder.mkdir(parents=True)
    (folder / "precious").write_text("x")
    with pytest.raises(ValueError, match=r"second holds what no step of this output made: choose another output"):
        pipeline.run()
    assert (folder / "precious").read_text() == "x"
    (folder / "precious").unlink()
    pipeline.run()
    assert pipeline.ran == ["second", "apart"], "an empty folder is as good as none"


@pytest.mark.parametrize("read", ["output/steps/a", "output/steps/a/source.txt", "output/steps/a/link.txt", "output"])
def test_no_step_writes_over_what_is_read(tmp_path, read):
    source = tmp_path / "output" / "steps" / "a" / "source.txt"
    source.parent.mkdir(parents=True)
    source.write_text("x")
    (tmp_path / "elsewhere.txt").write_text("y")
    (source.parent / "link.txt").symlink_to(tmp_path / "elsewhere.txt")
    ran = []
    step = steps.Step("a", lambda folder, before: ran.append(folder) or {}, reads=[str(tmp_path / read)])
    with pytest.raises(ValueError, match=r"steps/a (is|holds|lies inside) .*read as an input.*: choose another output"):
        steps.run([step], tmp_path / "output", lambda line: None)
    assert source.read_text() == "x" and (source.parent / "link.txt").is_symlink() and not ran


def test_what_is_missing_is_told_before_the_first_step(tmp_path):
    ran = []
    first = steps.Step("first", lambda folder, before: ran.append(folder) or {})
    last = steps.Step("last", lambda folder, before: {}, reads=[str(tmp_path / "a.txt"), str(tmp_path / "b.txt")])
    with pytest.raises(FileNotFoundError, match=r"a\.txt, .*b\.txt not found"):
        steps.run([first, last], tmp_path / "output", lambda line: None)
    assert not ran


def test_missing_files_and_wrong_orders_are_named(tmp_path):
    step = steps.Step("a", lambda folder, before: {}, reads=[str(tmp_path / "none.txt")])
    with pytest.raises(FileNotFoundError, match=r"none\.txt not found"):
        steps.run([step], tmp_path, lambda line: None)
    with pytest.raises(ValueError, match="needs"):
        steps.run([steps.Step("a", lambda folder, before: {}, needs=["b"])], tmp_path, lambda line: None)
