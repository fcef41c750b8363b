"""A directory of every format is whole: weights, tokenizer, page, manifest; and its page says how to use it."""

import errno
import threading
from pathlib import Path
from typing import Any

import pytest

from zhllama_jax.convert import manifest, sink, target, view
from zhllama_jax.model import config as config_lib
from zhllama_jax.tokenizer import processor


def around(tokenizer: processor.Tokenizer) -> target.Around:
    return target.Around(tokenizer, manifest.Prompt("alpaca"), {"temperature": 0.5}, [{"step": "test"}], {"LICENSE": b"words"})


@pytest.mark.parametrize(
    ("to", "dtype", "weights", "use"),
    [
        ("hf", "float32", "model.safetensors", "AutoModelForCausalLM"),
        ("meta", "float32", "consolidated.00.pth", "format of Meta's release"),
        ("gguf", "q8_0", "out-q8_0.gguf", "ollama create"),
    ],
)
def test_a_directory_is_whole(
    config: config_lib.LlamaConfig, params: Any, tokenizer: processor.Tokenizer, tmp_path: Path, to: Any, dtype: str, weights: str, use: str
) -> None:
    seen: list[Path] = []

    def certify(folder: Path, written: Any) -> dict[str, Any]:
        seen.extend(sorted(folder.iterdir()))
        assert not (tmp_path / "out").exists()
        return {"checked": True}

    made = view.held(config, params)
    done = target.write(tmp_path / "out", made, form=target.Form(to, dtype), around=around(tokenizer), certify=certify)
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert {weights, "tokenizer.model", "README.md", "LICENSE", "zhllama.json", "certificate.json"} <= names
    assert weights in {path.name for path in seen} and names == set(manifest.model_files(tmp_path / "out"))
    assert use in (tmp_path / "out" / "README.md").read_text()
    assert manifest.verify(tmp_path / "out") == [] and done.manifest["history"] == [{"step": "test"}]


def test_a_refusal_in_the_proof_leaves_nothing(
    config: config_lib.LlamaConfig, params: Any, tokenizer: processor.Tokenizer, tmp_path: Path
) -> None:
    def certify(folder: Path, written: Any) -> dict[str, Any]:
        raise ValueError("not proved")

    for to in ("hf", "meta", "gguf"):
        with pytest.raises(ValueError, match="not proved"):
            target.write(
                tmp_path / "out", view.held(config, params), form=target.Form(to, "float32"), around=around(tokenizer), certify=certify
            )
        assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("to", ["hf", "meta", "gguf"])
def test_a_failing_write_reads_nothing_more(
    config: config_lib.LlamaConfig, params: Any, tokenizer: processor.Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, to: Any
) -> None:
    """The files that tensors come from are closed at once afterwards, so no thread may go on, not even while the error is still held."""
    write, count = sink.Sink.write, [0]

    def full(stream: sink.Sink, content: bytes | memoryview) -> None:
        count[0] += 1
        if count[0] == 8:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(stream, content)

    monkeypatch.setattr(sink.Sink, "write", full)
    with pytest.raises(OSError, match="No space left on device"):
        try:
            target.write(tmp_path / "out", view.held(config, params), form=target.Form(to, "float32"), around=around(tokenizer))
        finally:
            left = [thread.name for thread in threading.enumerate() if thread.name.startswith("ahead")]
    assert left == [] and list(tmp_path.iterdir()) == []


def test_dtypes_are_the_format_s() -> None:
    target.check(target.Form("gguf", "q4_0"))
    with pytest.raises(ValueError, match=r"one of float32, float16, bfloat16, q8_0, q4_0 for GGUF, got 'int3'"):
        target.check(target.Form("gguf", "int3"))
    with pytest.raises(ValueError, match=r"for Meta, got 'q4_0'"):
        target.check(target.Form("meta", "q4_0"))
