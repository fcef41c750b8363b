"""Convert, resize and merge at full size: speed beside a plain copy of the same bytes, and memory; merge beside transformers and PEFT.

Models are made on the spot, of random weights. Everything runs in processes of its own, the sides in turn, several times; what is printed
are medians and their ratios. A copy is `cp -r` and waiting for the disk, as our writers wait for it. Every side begins with files that no
memory holds.

    python scripts/bench/convert.py --size 7b --folder /fast/disk --tokenizer llama.model --merged merged.model
    python scripts/bench/convert.py --size 1b --folder /tmp/bench --tokenizer llama.model --merged merged.model --reference

The first needs four times the model's size on that disk; `--reference` runs transformers and PEFT too, which hold all of the model.
"""

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

REPEATS = 3


class Run(NamedTuple):
    """One process: seconds, and the most memory that was its own (files that it maps do not count), in bytes."""

    seconds: float
    peak: int


def main() -> None:
    """Makes the models, runs all sides in turn, prints a table and one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", default="7b", help="shape of the model, as in zhllama_jax.model.config (default 7b)")
    parser.add_argument("--layers", type=int, help="fewer layers than the shape has")
    parser.add_argument("--folder", type=Path, required=True, help="where models are made and written")
    parser.add_argument("--repeats", type=int, default=REPEATS)
    parser.add_argument("--tokenizer", type=Path, required=True, help="the original LLaMA's tokenizer.model")
    parser.add_argument("--merged", type=Path, required=True, help="a tokenizer merged onto it")
    parser.add_argument("--reference", action="store_true", help="merge with transformers and PEFT too")
    given = parser.parse_args()
    folder = given.folder
    folder.mkdir(parents=True, exist_ok=True)
    make(folder, given)
    base, adapter, out = folder / "base", folder / "adapter", folder / "out"
    zhllama = [sys.executable, "-m", "zhllama_jax"]
    sides: dict[str, list[str]] = {
        "copy": ["bash", "-c", f"cp -r '{base}' '{out}' && sync '{out}'/*"],
        "convert": [*zhllama, "convert", "--input", str(base), "--output", str(out), "--logits", "false"],
        "convert to meta": [*zhllama, "convert", "--input", str(base), "--to", "meta", "--output", str(out), "--logits", "false"],
        "convert to gguf": [*zhllama, "convert", "--input", str(base), "--to", "gguf", "--output", str(out), "--logits", "false"],
        "resize": [*zhllama, "resize", "--model", str(base), "--tokenizer", str(given.merged), "--output", str(out)],
        "merge": [*zhllama, "merge", "--model", str(base), "--adapter", str(adapter), "--output", str(out), "--logits", "false"],
    }
    if given.reference:
        sides["reference"] = [sys.executable, __file__, "--reference-merge", str(base), str(adapter), str(out)]
    runs: dict[str, list[Run]] = {name: [] for name in sides}
    sizes: dict[str, int] = {}
    for _ in range(given.repeats):
        for name, command in sides.items():
            shutil.rmtree(out, ignore_errors=True)
            forget(base, adapter)
            runs[name].append(run(command))
            sizes[name] = sum(path.stat().st_size for path in out.iterdir())
    shutil.rmtree(out, ignore_errors=True)
    report(runs, sizes, given)


def report(runs: dict[str, list[Run]], sizes: dict[str, int], given: argparse.Namespace) -> None:
    """The table, and a line of JSON with everything in it."""
    medians = {name: statistics.median(one.seconds for one in found) for name, found in runs.items()}
    speed = {name: sizes[name] / medians[name] / 1e9 for name in runs}
    found: dict[str, Any] = {}
    print(f"{'':18}{'GB':>7}{'s':>9}{'GB/s':>7}{'of copy':>9}{'own memory':>12}")
    for name, each in runs.items():
        peak = max(one.peak for one in each)
        found[name] = {"seconds": [round(one.seconds, 2) for one in each], "bytes": sizes[name], "peak_bytes": peak}
        share = speed[name] / speed["copy"]
        print(f"{name:18}{sizes[name] / 1e9:7.2f}{medians[name]:9.1f}{speed[name]:7.2f}{share:9.0%}{peak / 1e9:10.2f} GB")
    if "reference" in medians:
        print(f"merge is {medians['reference'] / medians['merge']:.2f} times as fast as transformers and PEFT (ratio of medians)")
    about = {"size": given.size, "layers": given.layers, "cores": os.cpu_count(), "machine": platform.machine()}
    print(json.dumps({**about, "python": platform.python_version(), "numpy": np.__version__, "runs": found}))


def forget(*folders: Path) -> None:
    """Has the system let go of what it holds of files in memory."""
    for path in (path for folder in folders for path in folder.iterdir()):
        with open(path, "rb") as stream:
            os.fsync(stream.fileno())
            os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def run(command: list[str]) -> Run:
    """Runs a process to its end.

    Raises:
      RuntimeError: it failed; with the end of what it said.
    """
    begun = time.monotonic()
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env={**os.environ, "JAX_PLATFORMS": "cpu"}
    )
    peak = 0

    def watch() -> None:
        nonlocal peak
        while process.poll() is None:
            try:
                lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
            except OSError:
                return
            peak = max([peak, *(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))])
            time.sleep(0.02)

    threading.Thread(target=watch, daemon=True).start()
    said, _ = process.communicate()
    if process.returncode:
        raise RuntimeError(f"{command} ended with {process.returncode}: {said[-2000:]}")
    return Run(time.monotonic() - begun, peak)


def make(folder: Path, given: argparse.Namespace) -> None:
    """The base in bfloat16, and an adapter in PEFT's layout as the reference releases it: rank 8 on all seven, both matrices whole."""
    import safetensors.numpy

    from zhllama_jax.convert import llama_hf, manifest, names
    from zhllama_jax.model import config as config_lib
    from zhllama_jax.tokenizer import processor

    tokenizer, merged = processor.Tokenizer.load(given.tokenizer), processor.Tokenizer.load(given.merged)
    shape = config_lib.named(given.size, vocab_size=tokenizer.vocab_size)
    shape = shape if given.layers is None else shape.replace(num_hidden_layers=given.layers)
    generator = np.random.default_rng(0)
    noise = (0.02 * generator.standard_normal(1 << 24)).astype(ml_dtypes.bfloat16)

    def draw(*size: int) -> np.ndarray:
        start = int(generator.integers(0, 1 << 20))
        return np.resize(noise[start:], size)

    def tensors() -> Iterator[tuple[str, np.ndarray]]:
        for tensor in names.tensors(shape):
            yield tensor.name, draw(*tensor.shape)

    if not (folder / "base").exists():
        llama_hf.write(
            folder / "base", tensors(), config=shape, tokenizer=tokenizer, dtype="bfloat16", prompt=None, generation={}, history=[]
        )
        # As a released model is: with a manifest of ours every tensor of the source would be hashed too, 0.7 s a GB.
        for name in (manifest.FILE, llama_hf.CERTIFICATE):
            (folder / "base" / name).unlink(missing_ok=True)
    if (folder / "adapter").exists():
        return
    factors: dict[str, np.ndarray] = {}
    for tensor in names.tensors(shape):
        if tensor.form == "kernel":
            module = f"base_model.model.{tensor.name.removesuffix('.weight')}"
            factors[f"{module}.lora_A.weight"] = draw(8, tensor.shape[1]).astype(np.float16)
            factors[f"{module}.lora_B.weight"] = draw(tensor.shape[0], 8).astype(np.float16)
    for name in ("model.embed_tokens", "lm_head"):
        factors[f"base_model.model.{name}.weight"] = draw(merged.vocab_size, shape.hidden_size).astype(np.float16)
    (folder / "adapter").mkdir()
    safetensors.numpy.save_file(factors, folder / "adapter" / "adapter_model.safetensors", metadata={"format": "pt"})
    shutil.copy(given.merged, folder / "adapter" / "tokenizer.model")
    settings = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": "",
        "r": 8,
        "lora_alpha": 32,
        "lora_dropout": 0.05,
        "bias": "none",
        "target_modules": ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
        "modules_to_save": ["embed_tokens", "lm_head"],
    }
    (folder / "adapter" / "adapter_config.json").write_text(json.dumps(settings))


def merge_with_peft(base: str, adapter: str, output: str) -> None:
    """What the reference does: everything in memory, merged by PEFT, saved by transformers."""
    import peft
    import safetensors
    import torch
    import transformers

    model = transformers.AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16)
    with safetensors.safe_open(Path(adapter) / "adapter_model.safetensors", framework="pt") as tensors:
        model.resize_token_embeddings(tensors.get_slice("base_model.model.lm_head.weight").get_shape()[0])
    merged = peft.PeftModel.from_pretrained(model, adapter).merge_and_unload()
    merged.save_pretrained(output)
    for path in Path(output).iterdir():
        with open(path, "rb") as stream:
            os.fsync(stream.fileno())


if __name__ == "__main__":
    if sys.argv[1:2] == ["--reference-merge"]:
        merge_with_peft(*sys.argv[2:])
    else:
        main()
