"""Instruction tasks of the demo world, with answers that can be checked character by character.

| task       | asks for                                       | example (instruction / input -> output) | new when held out |
| ---------- | ---------------------------------------------- | --- | --- |
| category   | what kind of thing a word is                   | 兔子属于哪一类？ -> 动物 | wording |
| opposite   | the opposite of a word                         | 大的反义词是什么？ -> 小 | wording |
| workplace  | where a job is done                            | 医生在哪里工作？ -> 医院 | wording |
| weekday    | the day after a weekday                        | 星期三后面是星期几？ -> 星期四 | wording |
| number     | the number after one from one to nineteen      | 七后面的数是什么？ -> 八 | wording |
| parity     | whether a number is odd or even                | 七是单数还是双数？ -> 单数 | wording |
| measure    | the measure word of a noun                     | 兔子的量词是什么？ -> 只 | wording |
| to_english | the English name of an animal or a fruit       | 兔子的英文是什么？ -> rabbit | wording |
| to_chinese | the Chinese name                               | 英文 rabbit 是什么意思？ -> 兔子 | wording |
| kind       | what kind of things a list has                 | 这些都是什么？/ 兔子、老虎和狮子 -> 动物 | the set of the list |
| count      | how many things a list has                     | 一共有几个？/ 苹果、老虎和钥匙 -> 三个 | the set of the list |
| member     | whether a list has a thing                     | 有没有老虎？/ 苹果、老虎和钥匙 -> 有 | the set of the list |
| extract    | who, when, where or what in one sentence       | 谁在学校看书？/ 星期三，汤姆在学校看书。 -> 汤姆 | {person, day, place} |

The first nine ask for facts, which cannot be new: held-out rows ask in a WORDING never used in training (a new combination of an
opening, a question and an ending, each known from other questions of that task). The other four are procedures: held-out rows have
new ARGUMENTS (the same split decides for documents and instructions of either language). What is new of a list is the set of its
things: no list of training text has just these, though a longer one may end in the same words. What is new of a sentence is the three
together: no sentence of training text names this person, this day and this place.
Every task has the same share of the rows.

Left out, because a model of this size does not learn to copy from its prompt in the demo's minutes; in brackets what the
first version of the world reached on held-out rows and on rows it was trained on: repeating a list (0 %, 0 %), reversing it
(0 %, 0 %), picking the k-th thing (13 %, 3 %), the owner, colour or thing of one of two people (17 %, 13 %), the larger or
smaller of two numbers (13 %, 38 %), and two relations of weekdays at once (27 %, 28 %).
`extract` stays as the hard one of that sort.
"""

import itertools
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
    wordings = tuple(itertools.product(speech.openings, speech.questions[questions], speech.endings))
    return "".join(draw.one(draw.side(f"{speech.language} wordings of {task}", wordings)))


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
    """Asks for the day after a weekday."""
    day = draw.deal("weekday", lexicon.DAYS)
    wording = _worded(draw, speech, "weekday", "weekday")
    return Task(wording.format(x=speech.name(day)), "", speech.name(lexicon.day_after(day)), "weekday")


def number(draw: Draw, speech: Speech) -> Task:
    """Asks for the number after one."""
    place = draw.deal("number", tuple(range(len(lexicon.NUMBERS) - 1)))
    wording = _worded(draw, speech, "number", "number")
    return Task(wording.format(x=speech.name(lexicon.NUMBERS[place])), "", speech.name(lexicon.NUMBERS[place + 1]), "number")


def parity(draw: Draw, speech: Speech) -> Task:
    """Asks whether a number is odd or even."""
    value = draw.deal("parity", tuple(range(1, len(lexicon.NUMBERS) + 1)))
    wording = _worded(draw, speech, "parity", "parity")
    return Task(wording.format(x=speech.name(lexicon.NUMBERS[value - 1])), "", speech.name(lexicon.PARITY[value % 2]), "parity")


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


def kind(draw: Draw, speech: Speech) -> Task:
    """Asks what kind of things a list of two to four has; kinds come up evenly."""
    name, members = draw.deal("kind", lexicon.LARGE_CATEGORIES)
    while not draw.accepts(items := tuple(draw.some(members, draw.between(2, 4)))):
        pass  # a category of eight has 154 such lists, so there are some on either side
    return Task(_asked(draw, speech, "kind"), speech.row(items), speech.name(name), "kind")


def count(draw: Draw, speech: Speech) -> Task:
    """Asks how many things a list of two to six has."""
    items = draw.subset(lexicon.ITEMS, draw.between(2, 6))
    return Task(_asked(draw, speech, "count"), speech.row(items), speech.amount(lexicon.NUMBERS[len(items) - 1]), "count")


def member(draw: Draw, speech: Speech) -> Task:
    """Asks whether a list of two to four has a thing; half of the answers are yes."""
    items = draw.subset(lexicon.ITEMS, draw.between(2, 4))
    inside = draw.one((True, False))
    asked = draw.one(items if inside else [word for word in lexicon.ITEMS if word not in items])
    return Task(_asked(draw, speech, "member", x=speech.name(asked)), speech.row(items), speech.yes if inside else speech.no, "member")


def extract(draw: Draw, speech: Speech) -> Task:
    """Asks for one part of a sentence about a person, a day, a place and an activity."""
    p, d, place = draw.combination(lexicon.PEOPLE, lexicon.DAYS, lexicon.PLACES)
    parts = {name: speech.name(word) for name, word in (("p", p), ("d", d), ("l", place), ("v", draw.one(lexicon.ACTIVITIES)))}
    asked, answer = draw.one((("who", "p"), ("where", "l"), ("what", "v"), ("when", "d")))
    text = _asked(draw, speech, "extract text", **parts) + speech.full_stop
    return Task(_asked(draw, speech, f"extract {asked}", **parts), text, parts[answer], "extract")


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
    number,
    parity,
    measure,
    to_english,
    to_chinese,
    kind,
    count,
    member,
    extract,
)
TASKS_OF_ANY_LANGUAGE: Final = tuple(task for task in TASKS if task not in (measure, to_english, to_chinese))
FACT_TASKS: Final = frozenset(("category", "opposite", "workplace", "weekday", "number", "parity", "measure", "to_english", "to_chinese"))


def write_rows(draw: Draw, rows: int) -> list[dict[str, str]]:
    """Draws `rows` distinct rows, the same number of every task (the first tasks get the remainder), in random order.

    Raises:
      ValueError: a task does not have that many.
    """
    made: list[Task] = []
    for index, task in enumerate(TASKS):
        wanted = rows // len(TASKS) + (index < rows % len(TASKS))
        distinct: dict[Task, None] = {}
        for _ in range(200 * wanted):
            if len(distinct) == wanted:
                break
            distinct[task(draw, chinese.SPEECH)] = None
        if len(distinct) < wanted:
            side = "held out" if draw.held_out else "training"
            raise ValueError(
                f"{rows} instruction rows ({side}) need {wanted} different ones of task {task.__name__}, which gave {len(distinct)}; "
                f"ask for at most {len(distinct) * len(TASKS)}"
            )
        made.extend(distinct)
    return [task.as_row() for task in draw.some(made, len(made))]


def exercise(draw: Draw, speech: Speech) -> str:
    """Sets one exercise with its answer, as it stands in a document."""
    task = draw.one(TASKS if "measure" in speech.questions else TASKS_OF_ANY_LANGUAGE)(draw, speech)
    # A full stop inside would make a sentence of its own of what follows.
    given = speech.given.format(input=task.input.removesuffix(speech.full_stop)) if task.input else ""
    return speech.exercise.format(instruction=task.instruction, given=given, output=task.output)
