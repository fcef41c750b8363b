"""Damaged files by the thousand: each is refused in one sentence or read exactly as an independent reader reads it.

    python tests/reference/mutants.py KIND COUNT SEED

An audit hook watches every read: no import, no call, no process, no connection, and no file but those of the folder. Processor time of
each read and the process's largest memory are held to the bounds of hostile files.
"""

import json
import random
import re
import resource
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
import safetensors
import safetensors.numpy
import sentencepiece

EXTREMES = ("0", "1", "-1", "2", "1e400", "-0.0", "NaN", "Infinity", "2147483648", "4294967296", "18446744073709551616", "9" * 400, "0.5")
VALUES = ("null", "true", "false", '""', "[]", "{}", '"x"', '"../x.safetensors"', '"/etc/passwd"', "[[[[[[]]]]]]", '"\\ud800"', '"\\u0000"')
ARRAYS = {
    "a.weight": np.arange(6, dtype=np.float32).reshape(2, 3),
    "b.weight": np.arange(5, dtype=np.float16),
    "c.weight": np.arange(4, dtype=np.float32).reshape(4, 1).astype(ml_dtypes.bfloat16),
    "d": np.array(3, np.float32),
    "e": np.arange(3),
}
CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 320,
    "hidden_size": 32,
    "intermediate_size": 88,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "hidden_act": "silu",
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": None,
    "attention_bias": False,
    "torch_dtype": "bfloat16",
}
SCALED = CONFIG | {
    "rope_scaling": {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 512,
    }
}
GENERATION = {
    "bos_token_id": 1,
    "eos_token_id": [2, 5],
    "do_sample": True,
    "temperature": 0.2,
    "top_k": 40,
    "top_p": 0.9,
    "repetition_penalty": 1.1,
    "max_new_tokens": 64,
    "num_beams": 1,
    "min_length": 0,
    "suppress_tokens": None,
}
TEXTS = ("", "The quick brown fox\n jumps  over 从一数到十 \x00🏽 </s>[PAD]", "123 456")


class Kind(NamedTuple):
    """A kind of file.

    Attributes:
      name: of the damaged file in its folder.
      good: contents from which mutants are made.
      beside: other files of the folder.
      read: reads the folder with the package.
      agree: holds what was read against another reader of the contents.
    """

    name: str
    good: list[bytes]
    beside: dict[str, bytes]
    read: Callable[[Path], Any]
    agree: Callable[[bytes, Any], None]


def mutant(good: bytes, rng: random.Random, prefix: int = 0) -> bytes:
    """A good file with bytes or JSON's words changed, parts cut, doubled or moved; `prefix` bytes give the length of what follows."""
    if rng.random() < 0.02:
        return good[: rng.randrange(len(good))]
    result, kinds = bytearray(good), range(8) if rng.random() < 0.5 else range(5, 8)
    for _ in range(rng.randint(1, 3)):
        at = rng.randrange(min(len(result), 600)) if result else 0
        choice = rng.choice(kinds)
        if choice == 0:
            result[at : at + 1] = bytes([rng.randrange(256)])
        elif choice == 1:
            result[at : at + 1] = rng.choice('0123456789{}[]",:').encode()
        elif choice == 2:
            del result[at : at + rng.randint(1, 20)]
        elif choice == 3:
            result[at:at] = result[at : at + rng.randint(1, 40)]
        elif choice == 4:
            result[at : at + 8] = rng.choice([0, 2, 2**31, 2**62, 2**63, 2**64 - 1, rng.randrange(2000)]).to_bytes(8, "little")
        elif words := list(re.finditer(rb'"[^"]*"|-?[0-9][0-9.e+-]*|null|true|false', result)):
            word = rng.choice(words)
            new = rng.choice((*EXTREMES, *VALUES)).encode() if choice < 7 else rng.choice(words)[0]
            result[word.start() : word.end()] = new
    if prefix and rng.random() < 0.9:  # else nearly every mutant would fail by its length
        head = len(good) - len(result)
        length = int.from_bytes(good[:prefix], "little") - head
        result[:prefix] = max(0, length).to_bytes(prefix, "little")
    return bytes(result)


def _tensors() -> Kind:
    from zhllama_jax.convert import safetensors_io

    def read(folder: Path) -> dict[str, tuple[str, list[int], bytes | None]]:
        with safetensors_io.open_model(folder) as reader:
            return {
                name: (entry.dtype, list(entry.shape), reader.read(name).tobytes() if entry.dtype in safetensors_io.DTYPES else None)
                for name, entry in reader.entries.items()
            }

    def agree(contents: bytes, found: Any) -> None:
        theirs = {name: (value["dtype"], value["shape"], bytes(value["data"])) for name, value in safetensors.deserialize(contents)}
        assert found.keys() == theirs.keys()
        for name, (dtype, shape, octets) in found.items():
            assert (dtype, shape) == theirs[name][:2]
            assert octets is None or octets == theirs[name][2]

    good = [safetensors.numpy.save(ARRAYS, {"format": "pt"}), safetensors.numpy.save({"d": ARRAYS["d"]})]
    return Kind("model.safetensors", good, {}, read, agree)


def _index() -> Kind:
    from zhllama_jax.convert import safetensors_io

    shards = {f"model-{number}.safetensors": dict([item]) for number, item in enumerate(ARRAYS.items())}
    shards["model-0.safetensors"] |= shards.pop("model-1.safetensors")
    located = {name: file for file, arrays in shards.items() for name in arrays}

    def read(folder: Path) -> dict[str, str]:
        with safetensors_io.open_model(folder) as reader:
            return {name: reader.file(name).name for name in reader.entries}

    def agree(contents: bytes, found: Any) -> None:
        assert found == json.loads(contents)["weight_map"] and found.items() <= located.items()

    good = json.dumps({"metadata": {"total_size": 66}, "weight_map": located}, indent=1).encode()
    beside = {file: safetensors.numpy.save(arrays) for file, arrays in shards.items()}
    return Kind("model.safetensors.index.json", [good], beside, read, agree)


def _config() -> Kind:
    from zhllama_jax.convert import config_hf

    def read(folder: Path) -> Any:
        return config_hf.read(folder / "config.json").config

    def agree(contents: bytes, found: Any) -> None:
        raw = json.loads(contents)
        for key in ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"):
            assert getattr(found, key) == raw[key], key
        for key in ("num_key_value_heads", "head_dim", "rms_norm_eps", "max_position_embeddings", "rope_theta", "bos_token_id"):
            assert raw.get(key) is None or getattr(found, key) == raw[key], key
        assert found.tie_word_embeddings == bool(raw.get("tie_word_embeddings"))
        scaling = raw.get("rope_scaling")
        kind = scaling.get("rope_type", scaling.get("type")) if scaling else None
        assert (found.rope_scaling.kind if found.rope_scaling else None) == (None if kind == "default" else kind)

    good = [json.dumps(CONFIG, indent=2).encode(), json.dumps(SCALED).encode()]
    return Kind("config.json", good, {}, read, agree)


def _config_in_transformers() -> Kind:
    import transformers

    def agree(contents: bytes, found: Any) -> None:
        raw = json.loads(contents)
        if isinstance(raw.get("eos_token_id"), list):  # the first one counts for us
            raw["eos_token_id"] = found.eos_token_id
        try:
            theirs = transformers.LlamaConfig.from_dict(raw)
        except Exception:  # it is stricter about keys that we leave out
            return
        for key in ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"):
            assert getattr(found, key) == getattr(theirs, key), key
        for ours, key in (("num_kv_heads", "num_key_value_heads"), ("head_width", "head_dim")):
            assert getattr(found, ours) == getattr(theirs, key), key
        for key in ("rms_norm_eps", "tie_word_embeddings", "max_position_embeddings"):
            assert raw.get(key) is None or getattr(found, key) == getattr(theirs, key), key
        rope, scaling = getattr(theirs, "rope_parameters", None), found.rope_scaling
        if rope:  # transformers 5
            assert raw.get("rope_theta") is None or found.rope_theta == rope["rope_theta"]
            assert (scaling.kind if scaling else "default") == rope["rope_type"]
            assert all(rope[key] == value for key, value in (scaling.parameters if scaling else {}).items())

    transformers.logging.set_verbosity(50)
    return _config()._replace(agree=agree)


def _generation() -> Kind:
    from zhllama_jax.convert import llama_hf
    from zhllama_jax.decode import config as decode_config

    def read(folder: Path) -> Any:
        written = llama_hf.load_generation(folder)
        return written, *decode_config.resolve({}, written, source=str(folder / llama_hf.GENERATION))

    def agree(contents: bytes, found: Any) -> None:
        raw, (written, sampling, _) = json.loads(contents), found
        assert repr(written) == repr(raw)  # NaN equals itself here
        if raw.get("do_sample") is not False and raw.get("temperature") is not None:
            assert sampling.temperature == raw["temperature"]
        for key in ("top_k", "top_p", "repetition_penalty"):
            assert raw.get(key) is None or getattr(sampling, key) == raw[key], key

    return Kind("generation_config.json", [json.dumps(GENERATION, indent=1).encode()], {}, read, agree)


def _tokenizer() -> Kind:
    from tests import conftest
    from zhllama_jax.tokenizer import processor

    def read(folder: Path) -> Any:
        tokenizer = processor.Tokenizer.load(folder)
        encoded = [tokenizer.encode(text) for text in TEXTS]
        return tokenizer, encoded, [tokenizer.decode(ids) for ids in encoded]

    def agree(contents: bytes, found: Any) -> None:
        tokenizer, encoded, decoded = found
        theirs = sentencepiece.SentencePieceProcessor(model_proto=contents)
        count = theirs.get_piece_size()
        assert tokenizer.vocab_size == count
        assert [tokenizer.piece(number) for number in range(count)] == theirs.id_to_piece(list(range(count)))
        if tokenizer.pad_id is None or theirs.is_control(tokenizer.pad_id):  # else we work on a copy in which it is
            assert [theirs.encode(text) for text in TEXTS] == encoded
            assert [theirs.decode(ids) for ids in encoded] == decoded

    good = conftest.train_pieces([line for text in conftest.ENGLISH for line in text.split("\n")], vocab_size=340, model_type="bpe")
    return Kind("tokenizer.model", [good], {}, read, agree)


KINDS: dict[str, Callable[[], Kind]] = {
    "tensors": _tensors,
    "index": _index,
    "config": _config,
    "config_in_transformers": _config_in_transformers,
    "generation": _generation,
    "tokenizer": _tokenizer,
}


def main(name: str, count: int, seed: int) -> None:
    """Reads `count` mutants."""
    kind, rng = KINDS[name](), random.Random(seed)
    holder = tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None)
    folder = Path(holder.name)
    for file, contents in kind.beside.items():
        (folder / file).write_bytes(contents)
    path, watching, events = folder / kind.name, False, []

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        if not watching or event in ("mmap.__new__", "object.__getattr__"):
            return
        if event not in ("open", "os.listdir", "os.scandir") or Path(str(arguments[0])).parent not in (folder, folder.parent):
            events.append(f"{event} {arguments}")

    sys.addaudithook(watch)
    warnings.simplefilter("ignore")
    accepted, times, largest, before = 0, np.zeros(count), 0, 0
    for number in range(-100, count):
        # The first hundred are not watched: whatever Python loads late is loaded by then.
        good = rng.choice(kind.good)
        contents = good if number < -95 else mutant(good, rng, 8 if name == "tensors" else 0)
        path.write_bytes(contents)
        watching, began = number >= 0, time.process_time()
        found = None
        try:
            found = kind.read(folder)
        except (ValueError, FileNotFoundError) as error:
            assert str(folder) in str(error) and str(error).isprintable(), f"seed {seed}, mutant {number}: {error!r}"
        except Exception as error:
            raise AssertionError(f"seed {seed}, mutant {number}: {contents!r}") from error
        finally:
            watching = False
        if number >= 0:
            times[number] = time.process_time() - began
            largest = max(largest, len(contents))
        assert not events, f"seed {seed}, mutant {number}: {events}"
        if found is not None:
            accepted += number >= 0
            try:
                kind.agree(contents, found)
            except Exception as error:
                raise AssertionError(f"seed {seed}, mutant {number}: {contents!r} was read as {found!r}") from error
        if number == -1:
            before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    late, slowest = np.quantile(times, 0.99), times.max()
    assert slowest < 2 and late < 0.01, f"1 % of the mutants took {late:.3f} s or more, the slowest {slowest:.1f} s"
    assert grown < 2 * largest + (64 << 20), f"the process grew by {grown:,} bytes"
    assert 0 < accepted < count
    print(
        f"{count} mutants, {accepted} accepted, 99 % within {late * 1000:.2f} ms, the slowest {slowest * 1000:.0f} ms, "
        f"memory grew by {grown / 2**20:.0f} MiB"
    )
    holder.cleanup()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
