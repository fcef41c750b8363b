"""Steps are done once, again when what they are made from changes, and taken up where an interrupted run left them."""

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


def test_an_interrupted_step_finds_its_folder_and_a_changed_one_an_empty_folder(pipeline):
    pipeline.fail = True
    with pytest.raises(RuntimeError):
        pipeline.run()
    (pipeline.output / "steps" / "second" / "checkpoint").write_text("x")
    pipeline.fail = False
    assert pipeline.run()["second"].figures["partial"] == 2
    assert pipeline.ran == ["second", "apart"]
    assert pipeline.run(rate=2)["second"].figures["partial"] == 1


def test_missing_files_and_wrong_orders_are_named(tmp_path):
    step = steps.Step("a", lambda folder, before: {}, reads=[str(tmp_path / "none.txt")])
    with pytest.raises(FileNotFoundError, match=r"none\.txt not found"):
        steps.run([step], tmp_path, lambda line: None)
    with pytest.raises(ValueError, match="needs"):
        steps.run([steps.Step("a", lambda folder, before: {}, needs=["b"])], tmp_path, lambda line: None)
