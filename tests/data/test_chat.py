"""Training and asking agree by construction; the faithful mode gives the original's ids."""

import itertools
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sentencepiece import sentencepiece_model_pb2

from zhllama_jax import templates
from zhllama_jax.data import chat, config, instructions, pack
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
    """Ids without and with loss of an example of one turn."""
    start = example.loss_mask.index(1)
    assert example.loss_mask == [0] * start + [1] * (len(example.tokens) - start)
    return example.tokens[:start], example.tokens[start:]


def learnt(example: pack.Example, eos_id: int) -> list[list[int]]:
    """What has loss, cut behind each EOS."""
    found: list[list[int]] = [[]]
    for token, learns in zip(*example, strict=True):
        if learns:
            found[-1].append(token)
            if token == eos_id:
                found.append([])
    assert not found.pop(), "the last answer ends"
    return found


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
    data = config.SftData(files=(str(shared_data / "sft" / f"alpaca_{language}_demo.json"),))
    for row in [found.example for found in instructions.read(data, data.files)]:
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
    prompt = chat.render_prompt(small, instruction, extra, history=history, turns="closed", **options)  # type: ignore[arg-type]
    assert example.tokens[: len(prompt)] == prompt and example.loss_mask[len(prompt) :] == [1] * (len(example.tokens) - len(prompt))
    controls = [number for number in example.tokens if small.is_control(number)]
    assert controls == [small.bos_id, *[small.eos_id] * (len(history) + 1)], "user text makes no control ids"
    answers = [answer.replace("\u2581", " ") for answer in (*(answer for _, answer in history), output)]
    if boundary == "joined":
        answers = [templates.TEMPLATES[template].closing[-1:].strip("\n") + answer for answer in answers]
    else:
        answers = [" " * bool(answer) + answer for answer in answers]
    assert [small.decode(ids[:-1], after=small.encode("a")) for ids in learnt(example, small.eos_id)] == answers
    if not history:
        assert split(example)[0] == chat.render_prompt(small, instruction, extra, **options), "turns are all one where there is one"  # type: ignore[arg-type]


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
    """Each joined prompt begins with the prompt and answer of the turn before: what was cached stays right.

    Closed ones begin with the examples that were learnt; open ones have no EOS and else the same text.
    """
    open_turns, closed = (
        [
            chat.render_prompt(small, asked, template=template, history=turns[:number], turns=kind)
            for number, (asked, _) in enumerate([*turns, (question, "")])
        ]
        for kind in ("open", "closed")
    )
    assert not any(small.eos_id in prompt for prompt in open_turns)
    assert [prompt.count(small.eos_id) for prompt in closed] == list(range(len(closed)))
    assert open_turns[0] == closed[0]
    for number, (before, after) in enumerate(itertools.pairwise(closed)):
        asked, answer = turns[number]
        assert after[: len(before)] == before
        assert open_turns[number + 1][: len(open_turns[number])] == open_turns[number]
        example = chat.render_example(small, chat.SftExample(asked, "", answer, tuple(turns[:number])), template=template)
        if example is not None:
            assert after[: len(example.tokens)] == example.tokens


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


def test_conversation_golden_ids(small: processor.Tokenizer) -> None:
    """Every answer and the EOS behind it are learnt; what stands between is read."""
    example = chat.render_example(small, chat.SftExample("b", "", "2", (("a", "1"),)), template="none")
    assert example is not None
    pieces = [small.piece(number) for number in example.tokens]
    assert pieces == ["<s>", "▁a", "1", "</s>", "▁b", "2", "</s>"]
    assert example.loss_mask == [0, 0, 1, 1, 0, 1, 1]


def test_a_system_text_takes_the_place_of_the_head(small: processor.Tokenizer) -> None:
    form = templates.TEMPLATES["alpaca"]
    expected = small.encode("答得短。\n\n" + form.opening + "问" + form.closing.rstrip(), bos=True)
    assert chat.render_prompt(small, "问", system="答得短。") == expected
    example = chat.render_example(small, chat.SftExample("问", "", "答", system="答得短。"))
    assert example is not None and split(example)[0] == expected
    with pytest.raises(ValueError, match="'none' has no place for a system text: choose one of alpaca, llama_cpp"):
        chat.render_prompt(small, "问", template="none", system="x")


@pytest.mark.parametrize("boundary", BOUNDARIES)
@pytest.mark.parametrize("overlong", ["cut", "drop"])
def test_of_a_long_conversation_the_last_turns_go_first(small: processor.Tokenizer, boundary: str, overlong: str) -> None:
    turns = (("第一问", "一二三"), ("第二问", "四五六七"), ("第三问", "八九"))
    options = {"boundary": boundary, "overlong": overlong}

    def example(count: int, room: int | None = None) -> pack.Example | None:
        *before, (question, answer) = turns[:count]
        return chat.render_example(small, chat.SftExample(question, "", answer, tuple(before)), max_tokens=room, **options)  # type: ignore[arg-type]

    whole = [example(count) for count in (1, 2, 3)]
    sizes = [len(each.tokens) for each in whole if each is not None]
    assert len(sizes) == 3
    for room in range(sizes[-1] + 2):
        fitting = sum(size <= room for size in sizes)
        assert example(3, room) == (whole[fitting - 1] if fitting else example(1, room)), room
