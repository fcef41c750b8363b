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

OPENINGS: Final = ("", "请问，", "请告诉我，", "我想知道，", "请回答：", "想一想，")
ENDINGS: Final = ("？", "呢？", "？请说。", "？谢谢。")


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


def _worded(draw: Draw, task: str, questions: tuple[str, ...]) -> str:
    """Draws a wording of a fact question on this side of the split: opening, question (a format pattern), ending."""
    for _ in range(10_000):
        opening, question, ending = draw.one(OPENINGS), draw.one(questions), draw.one(ENDINGS)
        if draw.accepts((f"task:{task}", f"opening:{opening}", f"question:{question}", f"ending:{ending}")):
            return opening + question + ending
    raise AssertionError(f"no wording of task {task} lies on this side")


def category(draw: Draw) -> Task:
    """Asks what kind of thing a word is; kinds are drawn evenly, so that no answer is common."""
    kind, members = draw.deal("category", lexicon.CATEGORIES)
    wording = _worded(draw, "category", ("{x}是什么", "{x}是哪一种东西", "{x}是一种什么", "{x}是哪一类"))
    return Task(wording.format(x=draw.deal(kind.en, members).zh), "", kind.zh, "category")


def opposite(draw: Draw) -> Task:
    """Asks for the opposite of a word."""
    word, other = draw.deal("opposite", tuple(lexicon.OPPOSITE.items()))
    wording = _worded(draw, "opposite", ("{x}的反义词是什么", "什么和{x}相反", "{x}和什么相反", "{x}的反义词是哪个"))
    return Task(wording.format(x=word.zh), "", other.zh, "opposite")


def workplace(draw: Draw) -> Task:
    """Asks where a job is done."""
    job, place = draw.deal("workplace", tuple(lexicon.WORKPLACE.items()))
    wording = _worded(draw, "workplace", ("{x}在哪里工作", "{x}去哪里工作", "{x}工作在哪里", "{x}每天在哪里工作"))
    return Task(wording.format(x=job.zh), "", place.zh, "workplace")


def weekday(draw: Draw) -> Task:
    """Asks for the day after, the day before, or two days after a weekday."""
    day, days = draw.deal("weekday", [(day, days) for day in lexicon.DAYS for days in (1, -1, 2)])
    questions = {
        1: ("{x}后面是星期几", "{x}后面是哪天", "{x}后面是什么"),
        -1: ("{x}前面是星期几", "{x}前面是哪天", "{x}前面是什么"),
        2: ("{x}后面第二天是星期几", "{x}后面第二天是哪天", "{x}后面第二天是什么"),
    }[days]
    return Task(_worded(draw, "weekday", questions).format(x=day.zh), "", lexicon.day_after(day, days).zh, "weekday")


def measure(draw: Draw) -> Task:
    """Asks for a measure word; measure words are drawn evenly, so that no answer is common."""
    name = draw.deal("measure", tuple(BY_MEASURE))
    word = draw.deal(f"measure {name}", BY_MEASURE[name])
    wording = _worded(draw, "measure", ("{x}的量词是什么", "{x}用什么量词", "{x}的量词是哪个", "我们说一什么{x}"))
    return Task(wording.format(x=word.zh), "", word.zh.m, "measure")


def to_english(draw: Draw) -> Task:
    """Asks for the English name of a Chinese word."""
    word = draw.deal("to_english", lexicon.TRANSLATED)
    wording = _worded(draw, "to_english", ("{x}的英文是什么", "{x}用英文是什么", "{x}的英文是哪个", "{x}用英文说是什么"))
    return Task(wording.format(x=word.zh), "", word.en, "to_english")


def to_chinese(draw: Draw) -> Task:
    """Asks for the Chinese name of an English word."""
    word = draw.deal("to_chinese", lexicon.TRANSLATED)
    wording = _worded(draw, "to_chinese", ("英文 {x} 是什么", " {x} 用中文是什么", " {x} 的中文是什么", "英文 {x} 用中文说是什么"))
    return Task(wording.format(x=word.en), "", word.zh, "to_chinese")


def pick(draw: Draw) -> Task:
    """Asks for one position of a list of three to five."""
    items = draw.subset(lexicon.ITEMS, draw.between(3, 5))
    k = draw.between(0, len(items) - 1)
    position = "最后一个" if k == len(items) - 1 else f"{lexicon.ORDINALS[k].zh}个"
    wording = draw.one(("{k}是什么？", "请说出{k}。", "{k}是哪个？"))
    return Task(wording.format(k=position), chinese.listed(items), items[k].zh, "pick")


def count(draw: Draw) -> Task:
    """Asks how many things a list of two to six has."""
    items = draw.subset(lexicon.ITEMS, draw.between(2, 6))
    return Task(
        draw.one(("一共有几个？", "一共几样东西？", "下面有几个词？")), chinese.listed(items), lexicon.NUMBERS[len(items) - 1].zh, "count"
    )


def repeat(draw: Draw) -> Task:
    """Asks for a list of two to four again."""
    items = draw.subset(lexicon.ITEMS, draw.between(2, 4))
    return Task(draw.one(("请重复一遍。", "请再说一遍。", "重复下面的词。")), chinese.listed(items), chinese.listed(items), "repeat")


def reverse(draw: Draw) -> Task:
    """Asks for a list of two or three from back to front."""
    items = draw.subset(lexicon.ITEMS, draw.between(2, 3))
    wording = draw.one(("请从后往前说。", "从后往前是什么？", "请从后往前重复。"))
    return Task(wording, chinese.listed(items), chinese.listed(items[::-1]), "reverse")


def member(draw: Draw) -> Task:
    """Asks whether a list of two to four has a thing; half of the answers are yes."""
    items = draw.subset(lexicon.ITEMS, draw.between(2, 4))
    inside = draw.one((True, False))
    asked = draw.one(items if inside else [word for word in lexicon.ITEMS if word not in items])
    wording = draw.one(("下面有没有{x}？", "有没有{x}？", "里面有没有{x}？"))
    return Task(wording.format(x=asked.zh), chinese.listed(items), "有" if inside else "没有", "member")


def compare(draw: Draw) -> Task:
    """Asks for the larger or the smaller of two numbers from two to twenty."""
    pair = draw.subset(lexicon.NUMBERS[1:], 2)
    larger = draw.one((True, False))
    answer = (max if larger else min)(pair, key=lexicon.NUMBERS.index)
    wording = draw.one(("哪个更{x}？", "更{x}的是哪个？", "更{x}的是什么？"))
    return Task(wording.format(x="大" if larger else "小"), chinese.listed(pair), answer.zh, "compare")


def extract(draw: Draw) -> Task:
    """Asks for one part of a sentence about a person, a day, a place and an activity."""
    p, d, place = draw.combination(lexicon.PEOPLE, lexicon.DAYS, lexicon.PLACES)
    v = draw.one(lexicon.ACTIVITIES)
    sentence = draw.one(("{d}，{p}在{l}{v}。", "{p}{d}在{l}{v}。", "{d}，{p}去{l}{v}。")).format(p=p.zh, d=d.zh, l=place.zh, v=v.zh)
    question, answer = draw.one(
        (
            ("谁在{l}{v}？", p),
            ("{p}在哪里？", place),
            ("{p}在{l}做什么？", v),
            ("{p}什么时候在{l}？", d),
        )
    )
    return Task(question.format(p=p.zh, l=place.zh, v=v.zh), sentence, answer.zh, "extract")


def recall(draw: Draw) -> Task:
    """Asks for the colour, or the owner, of one of two coloured things."""
    while True:
        p1, c1, a1 = draw.combination(lexicon.PEOPLE, lexicon.COLOURS, lexicon.OWNED)
        p2, c2, a2 = draw.combination(lexicon.PEOPLE, lexicon.COLOURS, lexicon.OWNED)
        if p1 != p2 and c1 != c2 and a1 != a2:
            break
    sentence = f"{p1.zh}有一{a1.zh.m}{c1.zh}的{a1.zh}，{p2.zh}有一{a2.zh.m}{c2.zh}的{a2.zh}。"
    p, c, a = draw.one(((p1, c1, a1), (p2, c2, a2)))
    question, answer = draw.one(((f"{p.zh}的{a.zh}是什么颜色？", c), (f"{c.zh}的{a.zh}是谁的？", p), (f"{p.zh}有什么？", Word(a.en, a.zh))))
    return Task(question, sentence, answer.zh, "recall")


def _by_measure() -> dict[str, list[Word]]:
    """Groups the words that are counted by their measure word."""
    groups: dict[str, list[Word]] = {}
    for word in lexicon.MEASURED:
        groups.setdefault(word.zh.m, []).append(word)
    return groups


BY_MEASURE: Final = _by_measure()
TASKS: Final[tuple[Callable[[Draw], Task], ...]] = (
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
            distinct[task(draw)] = None
        made.extend(distinct)
    return [task.as_row() for task in draw.some(made, len(made))]
