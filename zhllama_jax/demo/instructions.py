"""Instruction tasks of the demo world, with answers that can be checked character by character.

| task       | asks for                                           | example (instruction / input -> output) | new when held out |
| ---------- | -------------------------------------------------- | --- | --- |
| category   | what kind of thing a word is                       | 兔子是哪一种东西？ -> 动物 | wording |
| opposite   | the opposite of a word                             | 大的反义词是什么？ -> 小 | wording |
| workplace  | where a job is done                                | 医生在哪里工作？ -> 医院 | wording |
| weekday    | the day after, before, or two days after           | 星期三后面是星期几？ -> 星期四 | wording |
| measure    | the measure word of a noun                         | 兔子的量词是什么？ -> 只 | wording |
| to_english | the English name                                   | 兔子的英文是什么？ -> rabbit | wording |
| to_chinese | the Chinese name                                   | 英文 rabbit 是什么？ -> 兔子 | wording |
| pick       | the first, second, third, fourth or last of a list | 第二个是什么？/ 苹果、老虎和钥匙 -> 老虎 | the set of the list |
| count      | how many things a list has                         | 一共有几个？/ 苹果、老虎和钥匙 -> 三 | the set of the list |
| repeat     | the same list again                                | 重复一遍。/ 苹果、老虎和钥匙 -> 苹果、老虎和钥匙 | the set of the list |
| reverse    | a list of two or three from back to front          | 从后往前说。/ 苹果和老虎 -> 老虎和苹果 | the set of the list |
| member     | whether a list has a thing                         | 有没有老虎？/ 苹果、老虎和钥匙 -> 有 | the set of the list |
| compare    | the larger or the smaller of two numbers           | 哪个更大？/ 十二和七 -> 十二 | the pair of numbers |
| extract    | who, when, where or what in one sentence           | 谁在学校？/ 星期三，汤姆在学校看书。 -> 汤姆 | {person, day, place} |
| recall     | the colour of what one of two people has           | 露西的帽子是什么颜色？/ (two owners) -> 红色 | {owner, colour, thing} |

The first seven ask for facts, which cannot be new: held-out rows ask in a WORDING never used in training (a new combination of an
opening, a question and an ending, each known from other questions of that task). The other eight are procedures: held-out rows have
ARGUMENTS that occur in no training instruction and in no training document of either language (the same split decides).
Every task has the same share of the rows.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Final

from zhllama_jax.demo import chinese, lexicon
from zhllama_jax.demo.draw import Draw
from zhllama_jax.demo.lexicon import Word
from zhllama_jax.demo.speech import Speech


@dataclass(frozen=True, slots=True)
class Task:
    """One row in the Alpaca layout, with the name of its task."""

    instruction: str
    input: str
    output: str
    task: str

    def as_row(self) -> dict[str, str]:
        """Returns the row as it is written to JSONL."""
        return asdict(self)


def _worded(draw: Draw, speech: Speech, task: str, questions: str) -> str:
    """Draws a wording of a fact question on this side of the split: opening, question (a format pattern), ending."""
    for _ in range(10_000):
        opening, question, ending = draw.one(speech.openings), draw.one(speech.questions[questions]), draw.one(speech.endings)
        if draw.accepts((f"task:{task}", f"opening:{opening}", f"question:{question}", f"ending:{ending}")):
            return opening + question + ending
    raise AssertionError(f"no wording of task {task} lies on this side")


def _asked(draw: Draw, speech: Speech, questions: str, **parts: str) -> str:
    """Draws a wording of a procedure's question and fills it."""
    return draw.one(speech.questions[questions]).format_map(parts)


def category(draw: Draw, speech: Speech) -> Task:
    """Asks what kind of thing a word is; kinds come up evenly, so that no answer is common."""
    kind, members = draw.deal("category", lexicon.CATEGORIES)
    word = draw.deal(kind.en, members)
    wording = _worded(draw, speech, "category", "category")
    return Task(wording.format(x=speech.name(word)), "", speech.name(kind), "category")


def opposite(draw: Draw, speech: Speech) -> Task:
    """Asks for the opposite of a word."""
    word, other = draw.deal("opposite", tuple(lexicon.OPPOSITE.items()))
    wording = _worded(draw, speech, "opposite", "opposite")
    return Task(wording.format(x=speech.name(word)), "", speech.name(other), "opposite")


def workplace(draw: Draw, speech: Speech) -> Task:
    """Asks where a job is done."""
    job, place = draw.deal("workplace", tuple(lexicon.WORKPLACE.items()))
    wording = _worded(draw, speech, "workplace", "workplace")
    return Task(wording.format(x=speech.name(job)), "", speech.name(place), "workplace")


def weekday(draw: Draw, speech: Speech) -> Task:
    """Asks for the day after, the day before, or two days after a weekday."""
    day, (days, asked) = draw.deal(
        "weekday", [(day, shift) for day in lexicon.DAYS for shift in ((1, "after"), (-1, "before"), (2, "next"))]
    )
    wording = _worded(draw, speech, "weekday", f"weekday {asked}")
    return Task(wording.format(x=speech.name(day)), "", speech.name(lexicon.day_after(day, days)), "weekday")


def measure(draw: Draw, speech: Speech) -> Task:
    """Asks for a measure word; measure words come up evenly, so that no answer is common."""
    name = draw.deal("measure", tuple(BY_MEASURE))
    word = draw.deal(f"measure {name}", BY_MEASURE[name])
    return Task(_worded(draw, speech, "measure", "measure").format(x=word.zh), "", word.zh.m, "measure")


def to_english(draw: Draw, speech: Speech) -> Task:
    """Asks for the English name of a Chinese word."""
    word = draw.deal("to_english", lexicon.TRANSLATED)
    return Task(_worded(draw, speech, "to_english", "to_english").format(x=word.zh), "", word.en, "to_english")


def to_chinese(draw: Draw, speech: Speech) -> Task:
    """Asks for the Chinese name of an English word."""
    word = draw.deal("to_chinese", lexicon.TRANSLATED)
    return Task(_worded(draw, speech, "to_chinese", "to_chinese").format(x=word.en), "", word.zh, "to_chinese")


def pick(draw: Draw, speech: Speech) -> Task:
    """Asks for one position of a list of three to five."""
    items = draw.subset(lexicon.ITEMS, draw.between(3, 5))
    k = draw.between(0, len(items) - 1)
    position = speech.last if k == len(items) - 1 else speech.name(lexicon.ORDINALS[k])
    return Task(_asked(draw, speech, "pick", x=position), speech.row(items), speech.name(items[k]), "pick")


def count(draw: Draw, speech: Speech) -> Task:
    """Asks how many things a list of two to six has."""
    items = draw.subset(lexicon.ITEMS, draw.between(2, 6))
    return Task(_asked(draw, speech, "count"), speech.row(items), speech.name(lexicon.NUMBERS[len(items) - 1]), "count")


def repeat(draw: Draw, speech: Speech) -> Task:
    """Asks for a list of two to four again."""
    items = draw.subset(lexicon.ITEMS, draw.between(2, 4))
    return Task(_asked(draw, speech, "repeat"), speech.row(items), speech.row(items), "repeat")


def reverse(draw: Draw, speech: Speech) -> Task:
    """Asks for a list of two or three from back to front."""
    items = draw.subset(lexicon.ITEMS, draw.between(2, 3))
    return Task(_asked(draw, speech, "reverse"), speech.row(items), speech.row(items[::-1]), "reverse")


def member(draw: Draw, speech: Speech) -> Task:
    """Asks whether a list of two to four has a thing; half of the answers are yes."""
    items = draw.subset(lexicon.ITEMS, draw.between(2, 4))
    inside = draw.one((True, False))
    asked = draw.one(items if inside else [word for word in lexicon.ITEMS if word not in items])
    return Task(_asked(draw, speech, "member", x=speech.name(asked)), speech.row(items), speech.yes if inside else speech.no, "member")


def compare(draw: Draw, speech: Speech) -> Task:
    """Asks for the larger or the smaller of two numbers from two to twenty."""
    pair = draw.subset(lexicon.NUMBERS[1:], 2)
    asked, choose = draw.one((("more", max), ("less", min)))
    answer = choose(pair, key=lexicon.NUMBERS.index)
    return Task(_asked(draw, speech, f"compare {asked}"), speech.row(pair), speech.name(answer), "compare")


def extract(draw: Draw, speech: Speech) -> Task:
    """Asks for one part of a sentence about a person, a day, a place and an activity."""
    p, d, place = draw.combination(lexicon.PEOPLE, lexicon.DAYS, lexicon.PLACES)
    parts = {name: speech.name(word) for name, word in (("p", p), ("d", d), ("l", place), ("v", draw.one(lexicon.ACTIVITIES)))}
    asked, answer = draw.one((("who", "p"), ("where", "l"), ("what", "v"), ("when", "d")))
    text = _asked(draw, speech, "extract text", **parts) + speech.full_stop
    return Task(_asked(draw, speech, f"extract {asked}", **parts), text, parts[answer], "extract")


def recall(draw: Draw, speech: Speech) -> Task:
    """Asks for the colour, the owner or the name of one of two coloured things."""
    while True:
        first = draw.combination(lexicon.PEOPLE, lexicon.COLOURS, lexicon.OWNED)
        second = draw.combination(lexicon.PEOPLE, lexicon.COLOURS, lexicon.OWNED)
        if not set(first) & set(second):
            break
    native = {name: speech.name(word) for name, word in zip(("p1", "c1", "a1", "p2", "c2", "a2"), first + second, strict=True)}
    text = _asked(draw, speech, "recall text", **native) + speech.full_stop
    which = draw.one(("1", "2"))
    parts = {name: native[name + which] for name in "pca"}
    asked, answer = draw.one((("colour", "c"), ("owner", "p"), ("thing", "a")))
    return Task(_asked(draw, speech, f"recall {asked}", **parts), text, parts[answer], "recall")


def _by_measure() -> dict[str, list[Word]]:
    """Groups the words that are counted by their measure word."""
    groups: dict[str, list[Word]] = {}
    for word in lexicon.MEASURED:
        groups.setdefault(word.zh.m, []).append(word)
    return groups


BY_MEASURE: Final = _by_measure()
TASKS: Final[tuple[Callable[[Draw, Speech], Task], ...]] = (
    category,
    opposite,
    workplace,
    weekday,
    measure,
    to_english,
    to_chinese,
    pick,
    count,
    repeat,
    reverse,
    member,
    compare,
    extract,
    recall,
)
TASKS_OF_ANY_LANGUAGE: Final = tuple(task for task in TASKS if task not in (measure, to_english, to_chinese))
FACT_TASKS: Final = frozenset(("category", "opposite", "workplace", "weekday", "measure", "to_english", "to_chinese"))


def write_rows(draw: Draw, rows: int) -> list[dict[str, str]]:
    """Draws `rows` distinct rows, the same number of every task (the first tasks get the remainder), in random order."""
    made: list[Task] = []
    for index, task in enumerate(TASKS):
        wanted = rows // len(TASKS) + (index < rows % len(TASKS))
        distinct: dict[Task, None] = {}
        for _ in range(200 * wanted):
            if len(distinct) == wanted:
                break
            distinct[task(draw, chinese.SPEECH)] = None
        made.extend(distinct)
    return [task.as_row() for task in draw.some(made, len(made))]


def exercise(draw: Draw, speech: Speech) -> str:
    """Sets one exercise with its answer, as it stands in a document."""
    task = draw.one(TASKS if "measure" in speech.questions else TASKS_OF_ANY_LANGUAGE)(draw, speech)
    # A full stop inside would make a sentence of its own of what follows.
    text = speech.exercise.format(instruction=task.instruction, input=task.input.removesuffix(speech.full_stop), output=task.output)
    return text.replace("  ", " ")
