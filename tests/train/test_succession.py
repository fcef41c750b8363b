"""Which adapters a stage may go on with, and what stands to be folded after it."""

from pathlib import Path

import pytest

from zhllama_jax.lora import config as lora_config
from zhllama_jax.train import config, succession, takeover

ATTENTION = lora_config.LoraConfig(targets=lora_config.ATTENTION)
ALL = lora_config.LoraConfig(targets=lora_config.ATTENTION + lora_config.MLP)
ROWS = succession.Former("rows", None)
FACTORS = succession.Former("factors", ATTENTION)


@pytest.mark.parametrize(
    ("mode", "wanted", "listed", "left"),
    [
        ("fresh", ATTENTION, [], ["new"]),
        ("fresh", ATTENTION, [ROWS], ["rows", "new"]),
        ("fold", ATTENTION, [ROWS], ["rows", "new"]),
        ("fold", None, [FACTORS], ["factors", "new"]),
        ("continue", ATTENTION, [ROWS, FACTORS], ["rows", "new"]),
        ("extend", ALL, [ROWS, FACTORS], ["rows", "new"]),
    ],
)
def test_an_adapter_is_appended_or_takes_a_place(
    mode: config.Takeover, wanted: lora_config.LoraConfig | None, listed: list[succession.Former], left: list[str]
) -> None:
    found = succession.after(mode, wanted, listed, name="new", full=False)
    assert [former.name for former in found] == left
    assert found[-1].lora == wanted
    assert succession.goes_on(mode, wanted, listed) == (len(left) == len(listed))


def test_a_stage_of_every_weight_leaves_nothing_to_fold() -> None:
    assert succession.after("fold", None, [ROWS, FACTORS], name="new", full=True) == []


@pytest.mark.parametrize(
    ("mode", "wanted", "listed", "message"),
    [
        ("fresh", ALL, [FACTORS], "fresh, but factors holds LoRA factors: say continue, extend or fold"),
        ("fold", ALL, [], "no former adapter: say fresh"),
        ("continue", ALL, [ROWS], "none of the adapters holds LoRA factors: say fresh"),
        ("continue", ATTENTION, [FACTORS, ROWS], "rows holds rows only: say fold"),
        ("continue", None, [FACTORS], "needs a stage with LoRA targets"),
        ("continue", ALL, [FACTORS], "it has factors on q_proj, k_proj, v_proj, o_proj, the stage on .*: say extend, .* same stage.lora$"),
        (
            "continue",
            ATTENTION,
            [succession.Former("all", ALL)],
            "down_proj, the stage on .*: say fold, .* both stages the same stage.lora$",
        ),
        (
            "continue",
            lora_config.LoraConfig(rank=4, alpha=1.0, targets=lora_config.ATTENTION),
            [FACTORS],
            "its rank is 8.*its alpha is 32.*: set lora.rank, lora.alpha to the same, or say fold",
        ),
        ("extend", ATTENTION, [FACTORS], "must hold its own .* and more: say continue$"),
        (
            "extend",
            ATTENTION,
            [succession.Former("all", ALL)],
            "must hold its own .* and more: set stage.lora to those and more, or say fold",
        ),
    ],
)
def test_what_cannot_follow_is_refused(
    mode: config.Takeover, wanted: lora_config.LoraConfig | None, listed: list[succession.Former], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        succession.after(mode, wanted, listed, name="new", full=False)


def test_targets_stand_for_kernels() -> None:
    assert succession.kernels(()) == ()
    assert succession.kernels(("v_proj", "q_proj")) == ("q_proj", "v_proj")
    assert succession.kernels(("layers/mlp/.*", "o_proj")) == ("o_proj", *lora_config.MLP)
    with pytest.raises(ValueError, match=r"'q_prj' names no kernel; the kernels are layers/self_attn/q_proj, "):
        succession.kernels(("q_prj", "v_proj"))


@pytest.mark.parametrize("read", ["work/model", "work/adapter", "work/model/shard", "work"])
def test_a_run_does_not_replace_what_it_reads(tmp_path: Path, read: str) -> None:
    """Told before anything is opened: there is no model there."""
    (tmp_path / read).mkdir(parents=True)
    source = config.Source(store=str(tmp_path / "rows"))
    for fields in ({"model": str(tmp_path / read)}, {"model": "llama", "adapters": (str(tmp_path / read),)}):
        settings = {"data": config.Data((source,)), "output": str(tmp_path / "work"), "stage": "full", "steps": 1, **fields}
        with pytest.raises(ValueError, match=r"work/(adapter|model) .*is read as an input.*: choose another output"):
            takeover.begin(config.Experiment(**settings), say=lambda line: None)
