"""A report's tree of figures with every part, as `zhllama adapt` collects it."""

from typing import Any

import pytest


@pytest.fixture
def report() -> dict[str, Any]:
    """Figures of a run with two texts, both baselines, an exam and samples."""
    return {
        "title": "Adaptation report",
        "name": "runs/one",
        "introduction": "The adapted model is `runs/one/model`. Try it with\n\n```\nzhllama chat --model runs/one/model\n```",
        "adapted": "chinese",
        "learned": ["chinese"],
        "points": {"pretrained": "pretrain"},
        "vocabulary": {
            "summary": "700 pieces: 400 and 300\n`--mode reference` would give 702",
            "texts": [
                {"name": "english", "characters": 2000, "tokens_before": 500, "tokens_after": 500},
                {"name": "chinese", "characters": 1000, "tokens_before": 2000, "tokens_after": 500},
            ],
        },
        "likelihood": {
            "texts": ["english", "chinese"],
            "rows": [
                {"after": "base", "english": 0.293, "chinese": 53.06},
                {"after": "resized", "english": 0.294, "chinese": 12.1},
                {"after": "pretrain", "english": 1.659, "chinese": 1.1},
                {"after": "tune", "english": 2.698, "chinese": 1.142},
            ],
            "remarks": ["From the resized model to the end of `pretrain` it falls."],
        },
        "baselines": [
            {"name": "interpolated 5-gram of characters", "short": "5-gram", "chinese": 1.375},
            {"name": "un-extended model, equal FLOPs", "short": "un-extended model", "english": 3.0, "chinese": 1.0},
        ],
        "answers": {"count": 450, "rows": [{"after": "base", "bits_per_character": 58.0}, {"after": "tune", "bits_per_character": 0.456}]},
        "exams": {
            "rows": [
                {
                    "after": "resized",
                    "exact": 0.0,
                    "right": 0,
                    "total": 8,
                    "most_frequent": 0.125,
                    "by_task": {"count": [0, 4], "pick": [0, 4]},
                },
                {
                    "after": "tune",
                    "exact": 0.5,
                    "right": 4,
                    "total": 8,
                    "most_frequent": 0.125,
                    "by_task": {"pick": [1, 4], "count": [3, 4]},
                    "wrong": [{"instruction": "谁在公园睡觉？", "input": "彼得在公园睡觉。", "wanted": "彼得", "given": "玛丽"}],
                },
            ]
        },
        "generation": {
            "rows": [
                {"model": "old", "tokens_per_second": 3279.5, "characters_per_token": 0.388, "characters_per_second": 1273.85},
                {"model": "new", "tokens_per_second": 3005.5, "characters_per_token": 1.639, "characters_per_second": 4927.08},
            ],
            "remark": "With the new vocabulary the model writes 3.87 times the characters per second.",
        },
        "stages": [
            {
                "name": "pretrain",
                "trainable": 12_345,
                "parameters": 50_000,
                "steps": 20,
                "tokens": 20_480,
                "seconds": 87.2,
                "tokens_per_second": 8614.9,
                "loss_first": 5.0,
                "loss_last": 4.0,
                "losses": [[10, 5.0], [20, 4.0]],
                "validation": [[20, 4.25]],
                "table": "as text",
                "rules": [
                    {"rule": "lora/.*/(a|b)", "parameters": 12_345, "trainable": 12_345, "percent": 24.69, "optimizer_bytes": 98_760},
                    {"rule": "params/.*", "parameters": 37_655, "trainable": 0, "percent": 0.0, "optimizer_bytes": 0},
                ],
            },
            {"name": "tune", "losses": [[1, 4.0]], "validation": [], "table": "ONLY AS TEXT"},
        ],
        "samples": [
            {"prompt": "写两行。", "resized": "two lines", "adapted": "一\n二"},
            {"prompt": "再来", "resized": " ", "adapted": "三"},
        ],
        "check": {"sentence": "`transformers` agrees.", "agrees": True},
        "steps": [{"name": "tokenizer", "seconds": 0.76}, {"name": "pretrain", "seconds": 90.0}],
        "configuration": "output: runs/one\nseed: 0\n",
        "versions": {"zhllama-jax": "0.2.0", "jax": "0.10.2"},
        "reproduce": "All settings stand in `config.yaml`.\n\n```\nzhllama adapt --config runs/one/config.yaml\n```",
    }
