"""Training and asking agree by construction; the faithful mode gives the original's ids."""

import itertools
import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sentencepiece import sentencepiece_model_pb2

from zhllama_jax import templates
from zhllama_jax.data import chat, pack
from zhllama_jax.tokenizer import processor

BOUNDARIES = ["joined", "faithful"]
TEXT = st.text(st.sampled_from("ab1 2\n:#，中文减少\u3000</s>\u2581[PAD]é😀"), max_size=12)

# reference.md of the original: "为什么要减少污染，保护环境？" under the training template, and its answer.
PROMPT = [1, 13866, 338, 385, 15278, 393, 16612, 263, 3414, 29889, 14350, 263, 2933, 393, 7128, 2486, 1614, 2167, 278, 2009, 29889]
PROMPT += [13, 13, 2277, 29937, 2799, 4080, 29901, 13, 37992, 32800, 34377, 30214, 32445, 32291, 30882]
PROMPT += [13, 13, 2277, 29937, 13291, 29901, 29871]
ANSWER = [29871, 32800, 34377, 32003, 32445, 32291, 30267, 2]


def union(first: bytes, second: bytes) -> bytes:
    """The original's merge: the second model's unknown pieces appended with score 0."""
    base, added = (sentencepiece_model_pb2.ModelProto.FromString(model) for model in (first, second))
    known = {piece.piece for piece in base.pieces}
    for piece in added.pieces:
        if piece.piece not in known:
            base.pieces.add(piece=piece.piece, score=0.0)
    return base.SerializeToString()


@pytest.fixture(scope="module")
def merged(shared_data: Path) -> processor.Tokenizer:
    folder = shared_data / "tokenizers"
    tokenizer = processor.Tokenizer(union((folder / "llama_32000.model").read_bytes(), (folder / "chinese_sp_20000.model").read_bytes()))
    assert tokenizer.vocab_size == 49_953
    return tokenizer


@pytest.fixture(scope="module")
def small(english_pieces: Path, chinese_pieces: Path) -> processor.Tokenizer:
    return processor.Tokenizer(union(english_pieces.read_bytes(), chinese_pieces.read_bytes()))


def split(example: pack.Example) -> tuple[list[int], list[int]]:
    """Ids without and with loss."""
    start = example.loss_mask.index(1)
    assert example.loss_mask == [0] * start + [1] * (len(example.tokens) - start)
    return example.tokens[:start], example.tokens[start:]


def test_faithful_golden_ids(merged: processor.Tokenizer) -> None:
    question = "为什么要减少污染，保护环境？"
    prompt = chat.render_prompt(merged, question, boundary="faithful")
    assert prompt == PROMPT and len(prompt) == 43
    example = chat.render_example(merged, chat.SftExample(question, "", "减少污染可以保护环境。"), boundary="faithful")
    assert example is not None and split(example) == (PROMPT, ANSWER)
    inference = chat.render_prompt(merged, question, template="llama_cpp", boundary="faithful")
    assert len(inference) == 45 and inference[-3:] == [29901, 13, 13]


def test_joined_golden_ids(merged: processor.Tokenizer) -> None:
    """The worked example of the module: one blank, and it is the answer's."""
    example = chat.render_example(merged, chat.SftExample("为什么要减少污染，保护环境？", "", "减少污染可以保护环境。"))
    assert example is not None and split(example) == (PROMPT[:-1], ANSWER)
    english = chat.render_example(merged, chat.SftExample("Say hello.", "", "Hello"))
    assert english is not None and [merged.piece(number) for number in split(english)[1]] == ["▁Hello", "</s>"]


@pytest.mark.parametrize("language", ["zh", "en"])
def test_joined_is_the_text_as_a_whole_on_real_rows(merged: processor.Tokenizer, shared_data: Path, language: str) -> None:
    form = templates.TEMPLATES["alpaca"]
    for row in chat.read_sft(shared_data / "sft" / f"alpaca_{language}_demo.json"):
        example = chat.render_example(merged, row)
        assert example is not None
        assert example.tokens == merged.encode(form.head + form.opening + row.question + form.closing + row.output, bos=True, eos=True)
        prompt, answer = split(example)
        assert prompt == chat.render_prompt(merged, row.instruction, row.input)
        assert merged.decode(answer) == row.output


@pytest.mark.parametrize("template", templates.TEMPLATES)
@pytest.mark.parametrize("boundary", BOUNDARIES)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(instruction=TEXT, extra=TEXT, output=TEXT, history=st.lists(st.tuples(TEXT, TEXT), max_size=2))
def test_the_prompt_is_a_prefix_of_the_example(
    small: processor.Tokenizer, template: str, boundary: str, instruction: str, extra: str, output: str, history: list[tuple[str, str]]
) -> None:
    options = {"template": template, "boundary": boundary}
    example = chat.render_example(small, chat.SftExample(instruction, extra, output, tuple(history)), **options)  # type: ignore[arg-type]
    if not output:
        assert example is None
        return
    assert example is not None
    prompt, answer = split(example)
    assert prompt == chat.render_prompt(small, instruction, extra, history=history, **options)  # type: ignore[arg-type]
    assert answer[-1] == small.eos_id
    controls = [number for number in example.tokens if small.is_control(number)]
    assert controls == [small.bos_id, small.eos_id], "user text makes no control ids"


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(question=TEXT, answer=TEXT.filter(bool))
def test_joined_alpaca_ids_are_those_of_the_whole_text(small: processor.Tokenizer, question: str, answer: str) -> None:
    form = templates.TEMPLATES["alpaca"]
    example = chat.render_example(small, chat.SftExample(question, "", answer))
    assert example is not None
    text = form.head + form.opening + question + form.closing + answer
    assert example.tokens == small.encode(text, bos=True, eos=True)
    assert small.decode(split(example)[1]) == answer.replace("\u2581", " ")


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(turns=st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=4), question=TEXT, template=st.sampled_from(list(templates.TEMPLATES)))
def test_a_conversation_grows_at_its_end(small: processor.Tokenizer, turns: list[tuple[str, str]], question: str, template: str) -> None:
    """Each joined prompt begins with the prompt and answer of the turn before: what was cached stays right."""
    prompts = [
        chat.render_prompt(small, asked, template=template, history=turns[:number])
        for number, (asked, _) in enumerate([*turns, (question, "")])
    ]
    for number, (before, after) in enumerate(itertools.pairwise(prompts)):
        asked, answer = turns[number]
        assert after[: len(before)] == before
        example = chat.render_example(small, chat.SftExample(asked, "", answer, tuple(turns[:number])), template=template)
        if example is not None:
            assert after[: len(example.tokens) - 1] == example.tokens[:-1]


def test_faithful_history_is_one_text(small: processor.Tokenizer) -> None:
    head = templates.TEMPLATES["alpaca"].head
    text = head + "### Instruction:\n问\n\n### Response: 答\n\n### Instruction:\n再问\n\n### Response: "
    assert chat.render_prompt(small, "再问", boundary="faithful", history=[("问", "答")]) == small.encode(text, bos=True)


def test_input_stands_on_a_line_of_its_own(small: processor.Tokenizer) -> None:
    assert chat.render_prompt(small, "译", "你好") == chat.render_prompt(small, "译\n你好")
    assert chat.join_input("译", "") == "译"


def test_without_template_the_prompt_is_the_text(small: processor.Tokenizer) -> None:
    assert chat.render_prompt(small, "从一数到十", template="none") == small.encode("从一数到十", bos=True)
    assert chat.render_prompt(small, "", template="none") == [small.bos_id]


def test_cutting_keeps_the_prompt_and_takes_the_end_off(small: processor.Tokenizer) -> None:
    row = chat.SftExample("问", "", "一二三四五六七八九十")
    whole = chat.render_example(small, row)
    assert whole is not None
    prompt, answer = split(whole)
    for room in range(len(prompt) + len(answer) + 2):
        example = chat.render_example(small, row, max_tokens=room)
        dropped = chat.render_example(small, row, max_tokens=room, overlong="drop")
        if room <= len(prompt):
            assert example is None and dropped is None, "no answer would be left"
        elif room < len(whole.tokens):
            assert example is not None and dropped is None
            assert example.tokens == whole.tokens[:room] and sum(example.loss_mask) == room - len(prompt)
            assert example.tokens[-1] != small.eos_id, "a text that was cut does not end there"
        else:
            assert example == whole == dropped


def test_a_vocabulary_that_merges_newlines_still_agrees(small: processor.Tokenizer) -> None:
    model = sentencepiece_model_pb2.ModelProto.FromString(small.serialized)
    for piece in ["\n", "\n\n", "\n\n#", "\n：", "\n答"]:
        model.pieces.add(piece=piece, score=0.0)
    tokenizer = processor.Tokenizer(model.SerializeToString())
    for template in templates.TEMPLATES:
        example = chat.render_example(tokenizer, chat.SftExample("问", "", "答案"), template=template, boundary="joined")
        assert example is not None
        assert split(example)[0] == chat.render_prompt(tokenizer, "问", template=template)


def test_unknown_template(small: processor.Tokenizer) -> None:
    with pytest.raises(ValueError, match="no template 'alpacca': choose one of alpaca, llama_cpp, none"):
        chat.render_prompt(small, "问", template="alpacca")


def write(path: Path, rows: object) -> Path:
    path.write_text(json.dumps(rows), encoding="utf-8")
    return path


def test_reading_rows(tmp_path: Path) -> None:
    rows = [
        {"instruction": "a", "input": "b", "output": "c", "source": "x"},
        {"instruction": "a", "input": None, "output": "\ud800\0"},
        {"instruction": "a", "output": "c", "history": [["q", "r"]]},
    ]
    expected = [chat.SftExample("a", "b", "c"), chat.SftExample("a", "", "\ufffd"), chat.SftExample("a", "", "c", (("q", "r"),))]
    assert list(chat.read_sft(write(tmp_path / "a.json", rows))) == expected
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert list(chat.read_sft(tmp_path / "a.jsonl")) == expected
    assert expected[0].question == "a\nb"


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ({"instruction": "a", "output": "b"}, "expected a list"),
        (
            [{"instruction": "a", "output": "b"}, {"instruct": "a", "output": "b"}],
            r"row 1: no instruction \(the row has 'instruct', 'output'\)",
        ),
        ([{}], "row 0: no instruction and no output .the row has no keys"),
        ([["a", "b"]], "row 0: expected an object"),
        ([{"instruction": 1, "output": "b", "input": 2}], "row 0: instruction and input must hold a string"),
        *(([{"instruction": "a", "output": "b", "input": empty}], "row 0: input must hold a string") for empty in (0, False, [], {})),
        *(([{"instruction": "a", "output": "b", "history": wrong}], "row 0: history must hold") for wrong in ([["a"]], "", 0, False)),
        ([{"output": "b"}] * 9, r"row 0: .*; .*row 4: [^;]*$"),
    ],
)
def test_wrong_rows_are_named(tmp_path: Path, rows: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        list(chat.read_sft(write(tmp_path / "a.json", rows)))


def test_wrong_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"gone\.json"):
        list(chat.read_sft(tmp_path / "gone.json"))
    with pytest.raises(ValueError, match=r"a\.csv: instruction rows come as"):
        list(chat.read_sft(tmp_path / "a.csv"))
    (tmp_path / "b.jsonl").write_text('{"instruction": "a", "output": "b"}\n{oops\n')
    with pytest.raises(ValueError, match=r"b\.jsonl:2: not JSON"):
        list(chat.read_sft(tmp_path / "b.jsonl"))
    (tmp_path / "c.json").write_text("[1")
    with pytest.raises(ValueError, match=r"c\.json is not a list of instruction rows"):
        list(chat.read_sft(tmp_path / "c.json"))
