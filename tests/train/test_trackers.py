"""Trackers beside the JSONL: what reaches them, the same run after a restart, and that none of them can end a training."""

import json
import sys
import types
from pathlib import Path
from typing import Any

import pytest

from zhllama_jax.train import config, guard, log, loop, trackers, watch

PACE = log.Pace(seconds=2.0, tokens_per_second=1000.0, flops_per_second=5e9, utilisation=None)
FIGURES = {"loss": 2.5, "grad_norm": 1.0, "learning_rate": 1e-4, "tokens": 100.0, "skipped": 0.0}


class Refusal(Exception):
    """What the library says where the user has to do something."""


class Server(types.ModuleType):
    """Stands for the library and for the server behind it, which keeps each run's rows by step."""

    def __init__(self) -> None:
        super().__init__("wandb")
        self.runs: dict[str, dict[int, dict[str, Any]]] = {}
        self.begun: list[dict[str, Any]] = []
        self.ended: list[int] = []
        self.down: Exception | None = None
        self.errors = types.SimpleNamespace(UsageError=Refusal, AuthenticationError=type("AuthenticationError", (Refusal,), {}))

    def Settings(self, **options: Any) -> types.SimpleNamespace:
        return types.SimpleNamespace(finish_timeout=0.0, **options) if "finish_timeout" not in options else types.SimpleNamespace(**options)

    def init(self, **options: Any) -> Any:
        if self.down:
            raise self.down
        self.begun.append(options)
        return Run(self, options)


class Run:
    """A run of the fake library."""

    def __init__(self, server: Server, options: dict[str, Any]) -> None:
        self._server, self._rows = server, server.runs.setdefault(options["id"], {})
        self.project, self.entity = options["project"], "somebody"
        self.offline = options.get("mode") == "offline"
        self.url = f"https://wandb.example/{options['id']}"
        self.step = max(self._rows, default=-1) + 1

    def log(self, values: dict[str, Any], *, step: int) -> None:
        if self._server.down:
            raise self._server.down
        assert step >= self.step, "the real one would drop it with a complaint"
        self._rows.setdefault(step, {}).update(values)

    def finish(self, exit_code: int) -> None:
        if self._server.down:
            raise self._server.down
        self._server.ended.append(exit_code)


@pytest.fixture
def wandb(monkeypatch: pytest.MonkeyPatch) -> Server:
    server = Server()
    server.__spec__ = types.SimpleNamespace()  # type: ignore[assignment]
    monkeypatch.setitem(sys.modules, "wandb", server)
    return server


def write(directory: Path, first: int, last: int, *, chosen: watch.Wandb, speaks: bool = True, fail: Exception | None = None) -> None:
    with log.journal(directory, speaks=speaks, tensorboard=False, wandb=chosen, settings={"steps": 10}) as journal:
        journal.begin(first, total=10)
        for step in range(first + 1, last + 1):
            journal.steps(step, {**FIGURES, "loss": 10.0 - step}, PACE)
        journal.validation(last, {"zh": {"loss": 2.0, "bits_per_character": None, "tokens": 9.0}}, best=True)
        if fail:
            raise fail


def test_the_figures_of_the_jsonl_arrive(tmp_path: Path, wandb: Server, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path, 0, 2, chosen=watch.Wandb(project="zh", entity="team"))
    [(identity, rows)] = wandb.runs.items()
    assert rows[1] == {f"train/{name}": value for name, value in log.read(tmp_path)[0].items() if name not in log.KEYS}
    assert rows[2]["validation/zh/loss"] == 2.0 and "validation/zh/bits_per_character" not in rows[2]
    [options] = wandb.begun
    assert (options["project"], options["entity"], options["name"]) == ("zh", "team", tmp_path.name)
    assert options["dir"] == str(tmp_path) and options["config"] == {"steps": 10} and "mode" not in options
    assert wandb.ended == [0] and f"W&B: https://wandb.example/{identity}" in capsys.readouterr().err


def test_after_a_restart_the_same_run_goes_on(tmp_path: Path, wandb: Server) -> None:
    """The steps that are done again are not sent again."""
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path, 0, 5, chosen=watch.Wandb(), fail=KeyboardInterrupt())
    write(tmp_path, 3, 7, chosen=watch.Wandb())
    [rows] = wandb.runs.values()
    assert [rows[step]["train/loss"] for step in range(1, 8)] == [10.0 - step for step in range(1, 8)]
    assert len({options["id"] for options in wandb.begun}) == 1 and all(options["resume"] == "allow" for options in wandb.begun)
    assert wandb.ended == [1, 0]
    assert json.loads((tmp_path / trackers.WANDB).read_text()) == {"id": wandb.begun[0]["id"], "project": "zhllama", "entity": "somebody"}


def test_a_run_that_was_stopped_to_go_on_has_not_failed(tmp_path: Path, wandb: Server) -> None:
    with pytest.raises(guard.Interrupted):
        write(tmp_path, 0, 5, chosen=watch.Wandb(), fail=guard.Interrupted())
    assert wandb.ended == [0]


@pytest.mark.parametrize("content", ["{}", "[]", '{"id": null}', '{"id": 7}', '{"id": ""}', "{"])
def test_a_memory_that_names_no_run_is_one_sentence_that_says_what_to_do(tmp_path: Path, wandb: Server, content: str) -> None:
    (tmp_path / trackers.WANDB).write_text(content)
    with pytest.raises(ValueError, match=r"wandb\.json is not the name of a W&B run; remove it, and a new run is begun there"):
        write(tmp_path, 0, 1, chosen=watch.Wandb())
    assert not wandb.begun


def test_what_fails_later_ends_the_tracking_with_one_warning(
    tmp_path: Path, wandb: Server, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with log.journal(tmp_path, speaks=True, tensorboard=True, wandb=watch.Wandb()) as journal:
        journal.begin(0, total=10)
        journal.steps(1, FIGURES, PACE)
        wandb.down = ConnectionError("no route\nto host")
        for step in range(2, 6):
            journal.steps(step, FIGURES, PACE)
    warnings = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning")]
    assert warnings == ["warning: W&B failed and is left out from here on (no route to host); metrics.jsonl has every figure"]
    assert [line["step"] for line in log.read(tmp_path)] == [1, 2, 3, 4, 5]
    [events] = (tmp_path / trackers.TENSORBOARD).iterdir()
    assert events.read_bytes().count(b"train/loss") == 5, "the other tracker goes on"


def test_a_run_is_refused_that_wants_a_login_and_no_other(tmp_path: Path, wandb: Server, capsys: pytest.CaptureFixture[str]) -> None:
    wandb.down = Refusal("api_key not configured.")
    with pytest.raises(ValueError, match=r"W&B did not begin a run: api_key not configured; log in with `wandb login`"):
        write(tmp_path, 0, 1, chosen=watch.Wandb())
    wandb.down = ConnectionError("no network")
    write(tmp_path, 0, 1, chosen=watch.Wandb())
    assert "warning: W&B cannot be reached (no network)" in capsys.readouterr().err
    wandb.down = None
    write(tmp_path, 0, 1, chosen=watch.Wandb())
    wandb.down = Refusal("no network")
    write(tmp_path, 1, 2, chosen=watch.Wandb())
    assert "warning: W&B cannot be reached (no network)" in capsys.readouterr().err
    assert [line["step"] for line in log.read(tmp_path)] == [1, 1, 2, 2]


def test_offline_says_how_to_upload(tmp_path: Path, wandb: Server, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path, 0, 1, chosen=watch.Wandb(mode="offline"))
    assert wandb.begun[0]["mode"] == "offline"
    assert f"`wandb sync {tmp_path}/wandb/offline-run-*`" in capsys.readouterr().err


@pytest.mark.parametrize("chosen", [{"chosen": watch.Wandb(mode="disabled")}, {"chosen": watch.Wandb(), "speaks": False}])
def test_nothing_is_begun_where_it_is_disabled_or_by_another_process(tmp_path: Path, wandb: Server, chosen: dict) -> None:
    write(tmp_path, 0, 1, **chosen)
    assert not wandb.begun and not (tmp_path / trackers.WANDB).exists()


def test_without_the_library_it_is_refused_before_anything_is_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trackers.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"wandb is not installed: pip install wandb \(the extra `wandb`\), or leave wandb out"):
        write(tmp_path, 0, 1, chosen=watch.Wandb())
    assert not list(tmp_path.iterdir())
    write(tmp_path, 0, 1, chosen=watch.Wandb(mode="disabled"))


def test_a_run_is_begun_once_and_before_the_log(tmp_path: Path, wandb: Server) -> None:
    with log.journal(tmp_path, speaks=True, tensorboard=False, wandb=watch.Wandb()) as journal:
        journal.connect()
        assert len(wandb.begun) == 1
        journal.begin(0, total=10)
        journal.steps(1, FIGURES, PACE)
    assert len(wandb.begun) == 1 and wandb.ended == [0] and next(iter(wandb.runs.values()))[1]["train/loss"] == 2.5


def test_a_missing_login_is_found_before_data_are_built(tmp_path: Path, wandb: Server, small: dict, english_pieces: Path) -> None:
    wandb.down = Refusal("api_key not configured")
    new = config.NewModel(tokenizer=str(english_pieces), init=config.Dimensions("micro", max_position_embeddings=64))
    experiment = config.Experiment(model=new, stage="full", output=str(tmp_path / "run"), **{**small, "wandb": watch.Wandb()})
    with pytest.raises(ValueError, match="log in with `wandb login`"):
        loop.run(experiment)
    assert not (tmp_path / "run" / "data").exists()
