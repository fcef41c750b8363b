"""Readers of what others wrote, on anything at all: an answer in one sentence or what other readers read; see `reference.mutants`."""

import json
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors
import safetensors.numpy
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.reference import mutants
from zhllama_jax.convert import carry, config_hf, llama_hf, safetensors_io
from zhllama_jax.decode import config as decode_config
from zhllama_jax.tokenizer import processor, proto

REPOSITORY = Path(__file__).resolve().parents[2]
ANYTHING = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
NUMBERS = st.one_of(st.integers(), st.sampled_from([0, 1, 2, 2**31, 2**53 + 1, 2**64, 10**400, -1]), st.floats(), st.booleans())
TEXT = st.text(max_size=12)
VALUES = st.recursive(
    st.one_of(st.none(), NUMBERS, TEXT),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(TEXT, inner, max_size=4)),
    max_leaves=8,
)


def run(kind: str, count: int, seed: int) -> None:
    words = [sys.executable, str(REPOSITORY / "tests" / "reference" / "mutants.py"), kind, str(count), str(seed)]
    result = subprocess.run(words, capture_output=True, text=True, cwd=REPOSITORY, env={"PYTHONPATH": str(REPOSITORY)}, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout.startswith(f"{count} mutants"), result.stdout


@pytest.mark.parametrize(
    ("kind", "count"), [("tensors", 10_000), ("index", 5_000), ("config", 5_000), ("generation", 2_000), ("tokenizer", 2_000)]
)
def test_mutants_are_refused_or_read_as_others_read_them(kind: str, count: int) -> None:
    run(kind, count, 0)


@pytest.mark.slow
@pytest.mark.timeout(3000)
@pytest.mark.parametrize(
    ("kind", "count"),
    [
        ("tensors", 500_000),
        ("index", 200_000),
        ("config", 200_000),
        ("config_in_transformers", 100_000),
        ("generation", 100_000),
        ("tokenizer", 100_000),
    ],
)
def test_a_million_mutants(kind: str, count: int) -> None:
    run(kind, count, 1)


def one_sentence(error: Exception, folder: Path) -> None:
    assert str(folder) in str(error) and str(error).isprintable(), "on one line, and nothing that steers a terminal"


@ANYTHING
@given(data=st.data())
def test_any_table_of_tensors_is_refused_or_read_as_the_library_does(data: st.DataObject, tmp_path: Path) -> None:
    """Names, dtypes, shapes and places of any kind, often fitting ones."""
    table: dict[str, Any] = {}
    end = 0
    for name in data.draw(st.lists(st.one_of(st.sampled_from(["a", "b.weight", "../c"]), TEXT), max_size=3)):
        shape = data.draw(st.lists(st.integers(0, 3), max_size=3))
        dtype = data.draw(st.sampled_from([*safetensors_io.ITEMSIZE, "F8_E4M3"]))
        begin, end = end, end + int(np.prod(shape)) * safetensors_io.ITEMSIZE.get(dtype, 1)
        table[name] = {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}
        if data.draw(st.integers(0, 3)) == 0:
            table[name][data.draw(st.sampled_from(["dtype", "shape", "data_offsets", "more"]))] = data.draw(VALUES)
    if data.draw(st.booleans()):
        table["__metadata__"] = data.draw(st.one_of(VALUES, st.dictionaries(TEXT, TEXT, max_size=2)))
    text = json.dumps(table).encode()
    contents = len(text).to_bytes(8, "little") + text + bytes(range(256))[:end]
    path = tmp_path / safetensors_io.SINGLE
    path.write_bytes(contents)
    try:
        with safetensors_io.open_model(tmp_path) as reader:
            ours = {name: (entry.dtype, list(entry.shape)) for name, entry in reader.entries.items()}
            read = {name: reader.read(name).tobytes() for name, (dtype, _) in ours.items() if dtype in safetensors_io.DTYPES}
    except ValueError as error:
        one_sentence(error, path)
        return
    theirs = dict(safetensors.deserialize(contents))
    assert ours == {name: (value["dtype"], value["shape"]) for name, value in theirs.items()}
    assert all(octets == bytes(theirs[name]["data"]) for name, octets in read.items())


@ANYTHING
@given(
    weight_map=st.one_of(
        VALUES,
        st.dictionaries(
            st.one_of(st.sampled_from(["a", "b"]), TEXT),
            st.one_of(st.sampled_from(["1.safetensors", "2.safetensors", "../1.safetensors", "in/1.safetensors", "/etc/passwd"]), VALUES),
            max_size=3,
        ),
    ),
    more=st.dictionaries(st.sampled_from(["metadata", "x"]), VALUES),
)
@example(weight_map={"a": "1.safetensors", "b": "2.safetensors"}, more={})
@example(weight_map={"a": "1.safetensors", "b\n\x1b[31m": "2.safetensors"}, more={})
def test_any_index_is_refused_or_true(weight_map: Any, more: dict[str, Any], tmp_path: Path) -> None:
    """A shard of the same name stands beside the folder and in it, one level down: neither is taken."""
    folder = tmp_path / "model"
    (folder / "in").mkdir(parents=True, exist_ok=True)
    for path in (folder / "1.safetensors", tmp_path / "1.safetensors", folder / "in" / "1.safetensors"):
        safetensors.numpy.save_file({"a": np.zeros(2, np.float32)}, path)
    safetensors.numpy.save_file({"b": np.zeros(2, np.float32)}, folder / "2.safetensors")
    (folder / safetensors_io.INDEX).write_text(json.dumps({"weight_map": weight_map, **more}))
    truth = {"a": "1.safetensors", "b": "2.safetensors"}
    try:
        with safetensors_io.open_model(folder) as reader:
            found = {name: reader.file(name) for name in reader.entries}
    except (ValueError, FileNotFoundError) as error:
        one_sentence(error, folder)
        assert weight_map != truth
    else:
        assert found.items() <= {name: folder / file for name, file in truth.items()}.items()
        assert weight_map == {name: path.name for name, path in found.items()}


@ANYTHING
@given(
    changes=st.dictionaries(st.one_of(st.sampled_from(sorted(config_hf._KNOWN)), TEXT), VALUES, max_size=3),
    scaling=st.one_of(
        st.none(),
        st.dictionaries(
            st.sampled_from(
                ["rope_type", "type", "factor", "original_max_position_embeddings", "beta_fast", "low_freq_factor", "rope_theta"]
            ),
            st.one_of(st.sampled_from(["default", "linear", "dynamic", "yarn", "llama3", 2.0]), VALUES),
        ),
    ),
    allow_unknown=st.booleans(),
)
@example(changes={"a\nb\x1b[31m": 1}, scaling={"rope_type": "default", "c\rd": 1}, allow_unknown=False)
def test_any_configuration_is_refused_or_goes_round(changes: dict[str, Any], scaling: Any, allow_unknown: bool, tmp_path: Path) -> None:
    """What is accepted means the same after it was written."""
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**mutants.CONFIG, **changes, "rope_scaling": scaling}))
    try:
        found = config_hf.read(path, allow_unknown=allow_unknown)
    except ValueError as error:
        one_sentence(error, path)
        return
    path.write_text(json.dumps(config_hf.to_json(found.config, "bfloat16", found.kept)))
    again = config_hf.read(path)
    assert again.config.replace(base_vocab_size=found.config.base_vocab_size) == found.config
    assert again.kept.items() >= found.kept.items()


@ANYTHING
@given(changes=st.dictionaries(st.one_of(st.sampled_from([*mutants.GENERATION, *decode_config._NOT_DONE]), TEXT), VALUES, max_size=4))
def test_any_decoding_values_are_refused_or_possible(changes: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / llama_hf.GENERATION
    path.write_text(json.dumps({**mutants.GENERATION, **changes}))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of decoding that is left out
            sampling, generation = decode_config.resolve({}, llama_hf.load_generation(tmp_path), source=str(path))
    except ValueError as error:
        one_sentence(error, path)
        return
    assert 0 <= sampling.temperature < float("inf") and 0 < sampling.top_p <= 1 and sampling.top_k >= 0
    assert all(type(number) is int and number >= 0 for number in generation.stop_ids or ()) and generation.max_new_tokens > 0


@ANYTHING
@given(
    settings_=VALUES,
    added=st.one_of(VALUES, st.dictionaries(TEXT, NUMBERS, max_size=3)),
    raw=st.one_of(st.none(), st.binary(max_size=40)),
)
def test_any_small_files_of_a_tokenizer_are_passed_over(settings_: Any, added: Any, raw: bytes | None, tmp_path: Path) -> None:
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": settings_}))
    (tmp_path / "added_tokens.json").write_bytes(json.dumps(added).encode() if raw is None else raw)
    found = carry.find(tmp_path, None, num_pieces=10)
    assert found.files.keys() <= {carry.TEMPLATE} and all(note.isprintable() for note in found.notes)


@ANYTHING
@given(data=st.data())
def test_any_pieces_are_refused_or_read_as_the_library_does(data: st.DataObject, english_pieces: Path) -> None:
    """Names, scores and types of pieces of any kind, and settings."""
    sentencepiece = pytest.importorskip("sentencepiece")
    model = proto.parse(english_pieces.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        piece = data.draw(st.one_of(st.sampled_from(model.pieces), st.builds(model.pieces.add)))
        if data.draw(st.booleans()):
            piece.piece = data.draw(st.text(st.characters(codec="utf-8"), max_size=4))
        if data.draw(st.booleans()):
            piece.score = data.draw(st.floats(width=32))
        piece.type = data.draw(st.sampled_from([proto.NORMAL, proto.NORMAL, proto.CONTROL, proto.USER_DEFINED, proto.UNUSED, proto.BYTE]))
    serialized = model.SerializeToString()
    try:
        ours = processor.Tokenizer.from_bytes(serialized)
    except ValueError as error:
        one_sentence(error, Path("the tokenizer"))
        return
    theirs = sentencepiece.SentencePieceProcessor(model_proto=serialized)
    assert [ours.piece(number) for number in range(ours.vocab_size)] == theirs.id_to_piece(list(range(theirs.get_piece_size())))
    for text in ("The quick brown\n fox", "从 1 数到十 \x00</s>", data.draw(st.text(st.characters(codec="utf-8"), max_size=20))):
        ids = ours.encode(text)
        assert not any(ours.is_control(number) for number in ids)
        if ours.pad_id is None:
            assert ids == theirs.encode(text) and ours.decode(ids) == theirs.decode(ids)
