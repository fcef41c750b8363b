"""Chinese sentence patterns of the demo world.

A pattern is a sequence of sentences, a sentence a choice of wordings. Fields are the parts of a scene: `{a}` is the word, `{a.m}` its
measure word, `{n.counting}` a number before a measure word, `{items}` a list joined the Chinese way. A question and its answer are one
sentence here: units end at `。`.
"""

from collections.abc import Sequence
from typing import Final

from zhllama_jax.demo import lexicon
from zhllama_jax.demo.draw import Draw
from zhllama_jax.demo.lexicon import Word
from zhllama_jax.demo.scenes import Fact, Part, Scene
from zhllama_jax.demo.speech import Speech

PATTERNS: Final[dict[str, tuple[tuple[str, ...], ...]]] = {
    "pet": (
        ("{p}有一{a.m}{c}的{a}。", "{p}家里有一{a.m}{c}的{a}。", "有一{a.m}{c}的{a}，是{p}的。"),
        ("{d}，{p}带{a}去{l}。", "{d}，{p}和{a}一起去{l}。"),
        ("{d}在{l}，{p}的{a}很{m}。", "{p}的{a}在{l}很{m}，那天是{d}。"),
        ("{m}的{a}是谁的？是{p}的，{p}的{a}是{c}的。", "{p}很喜欢{c}的{a}。", "{p}的{a}是什么颜色？是{c}的，也很{m}。"),
    ),
    "owners": (
        ("{p1}有一{a1.m}{c1}的{a1}，{p2}有一{a2.m}{c2}的{a2}。", "{p1}的{a1}是{c1}的，{p2}的{a2}是{c2}的。"),
        ("{q}的{qa}是什么颜色？{q}的{qa}是{qc}的。", "{qc}的{qa}是谁的？{qc}的{qa}是{q}的。", "{q}有什么？{q}有{qc}的{qa}。"),
        ("{r}的{ra}是什么颜色？{r}的{ra}是{rc}的。", "{rc}的{ra}是谁的？{rc}的{ra}是{r}的。", "{r}有什么？{r}有{rc}的{ra}。"),
    ),
    "shopping": (
        ("{p}在{s}买了{items}。", "{p}去{s}，买了{items}。"),
        ("{p}把{items}放进{b}，一共{n.counting}样。", "回到家，{b}里有{items}，一共{n.counting}样东西。"),
        ("{p}说：“{items}，先买了{first}，最后买了{last}”。", "{p}买了什么？{p}买了{items}。"),
    ),
    "picture": (
        ("画里有{items}。", "大家看，画里是{items}。"),
        ("{items}里，第一个是{first}，{k}个是{kth}，最后一个是{last}，一共{n.counting}个。", "一共{n.counting}个：{items}，{k}个是{kth}。"),
        ("{items}里有没有{absent}？没有。", "{items}里有没有{present}？有。", "从后往前是{reversed}。"),
    ),
    "numbers": (
        (
            "{p1}有{n1.counting}{x.m}{x}，{p2}有{n2.counting}{x.m}{x}。",
            "{p1}买了{n1.counting}{x.m}{x}，{p2}买了{n2.counting}{x.m}{x}。",
        ),
        ("{high}比{low}大，{more}的{x}比{less}的多。", "{low}比{high}小，{less}的{x}比{more}的少。", "{n1}和{n2}，更大的是{high}。"),
        ("{n1}和{n2}，更小的是{low}，谁的{x}更少？{less}。", "{n1}和{n2}，更大的是{high}，谁的{x}更多？{more}。"),
    ),
    "diary": (
        ("{d1}是{w1}，{p}去{l1}{v1}。", "{d1}，{p}在{l1}{v1}，那天是{w1}。"),
        ("{d1}后面是{d2}，{d2}是{w2}，{p}去{l2}{v2}。", "{d2}，{p}在{l2}{v2}，那天是{w2}。"),
        ("{p}{d1}在哪里？在{l1}{v1}。", "{d1}{p}去{l1}做什么？{v1}。", "谁{d1}在{l1}？{p}{d1}在{l1}。"),
        ("{p}{d2}在哪里？在{l2}{v2}。", "{d2}{p}去{l2}做什么？{v2}。", "谁{d2}在{l2}？{p}{d2}在{l2}。"),
    ),
    "job": (
        ("{p}是一{j.m}{j}，坐{v}去{w}。", "{p}坐{v}去{w}，因为{p}是{j}。"),
        ("{j}在{w}工作，{p}每天坐{v}上班。", "{v}上的{p}是一{j.m}{m}的{j}。"),
        ("{p}是做什么的？{p}是{j}，坐{v}上班。", "坐{v}的{p}在哪里工作？在{w}，{p}是{j}。"),
    ),
    "message": (
        ("{p1}对{p2}说：“{d}我们去{l}吃{f}”。", "{p1}告诉{p2}：“{d}我们去{l}吃{f}”。"),
        ("{p2}对{p3}说：“{p1}说{d}我们去{l}吃{f}”。", "{p2}告诉{p3}：“{d}我们去{l}吃{f}”。"),
        (
            "{p3}问：“什么时候去{l}吃{f}？”{p1}说：“{d}”。",
            "{p3}问：“{d}去哪里吃{f}？”{p1}说：“{l}”。",
            "{p3}问：“{d}去{l}吃什么？”{p1}说：“{f}”。",
        ),
    ),
    "trip": (
        ("{p1}和{p2}坐{v}去{l}。", "{p1}坐{v}去{l}，{p2}也坐{v}。"),
        ("{p1}带了{f1}，{p2}带了{f2}。", "{p1}有{f1}，{p2}有{f2}。"),
        ("在{l}，{p1}吃{f1}，{p2}吃{f2}。", "到了{l}，{p2}吃{f2}，{p1}吃{f1}。"),
        ("谁有{f2}？{p2}有{f2}，{p1}有{f1}。", "谁有{f1}？{p1}有{f1}，{p2}有{f2}。"),
    ),
    "lesson": (("{facts}。", "老师说：“{facts}”。"),),
}

PUNCTUATION: Final = "，。、？！：“”"

# Questions of the exercises by task and what is asked; `{x}` is the word asked about, `{p}` {c} {l} {v} parts of a sentence.
QUESTIONS: Final[dict[str, tuple[str, ...]]] = {
    "category": ("{x}是什么", "{x}属于哪一种", "{x}是一种什么", "{x}属于哪一类"),
    "opposite": ("{x}的反义词是什么", "什么和{x}相反", "{x}和什么相反", "{x}的反义词是哪个"),
    "workplace": ("{x}在哪里工作", "{x}去哪里工作", "{x}在什么地方工作", "{x}每天在哪里工作"),
    "weekday": ("{x}后面是星期几", "{x}后面是哪一天", "{x}后面是什么", "哪一天在{x}后面"),
    "number": ("{x}后面的数是什么", "{x}后面是哪个数", "紧跟着{x}的数是什么", "哪个数在{x}后面"),
    "parity": ("{x}是单数还是双数", "{x}是双数还是单数", "{x}这个数是单数还是双数", "{x}是哪种数"),
    "measure": ("{x}的量词是什么", "{x}用什么量词", "{x}的量词是哪个", "{x}前面用哪个量词"),
    "to_english": ("{x}的英文是什么", "{x}用英文怎么说", "{x}的英文是哪个词", "{x}用英文说是什么"),
    "to_chinese": ("英文 {x} 是什么意思", " {x} 用中文怎么说", " {x} 的中文是什么", "英文 {x} 用中文说是什么"),
    "kind": ("这些都是什么？", "下面都是哪一类？", "这些属于哪一类？"),
    "count": ("一共有几个？", "一共有多少个？", "下面有几个词？"),
    "member": ("下面有没有{x}？", "有没有{x}？", "里面有没有{x}？"),
    "extract who": ("谁在{l}{v}？",),
    "extract where": ("{p}在哪里？",),
    "extract what": ("{p}在{l}做什么？",),
    "extract when": ("{p}什么时候在{l}？",),
    "extract text": ("{d}，{p}在{l}{v}", "{p}{d}在{l}{v}", "{d}，{p}去{l}{v}"),
}


def _name(word: Word) -> str:
    return word.zh


def _amount(number: Word) -> str:
    return f"{number.zh.counting}个"


def _row(words: Sequence[Word]) -> str:
    return listed(tuple(words))


SPEECH: Final = Speech(
    language="Chinese",
    questions=QUESTIONS,
    openings=("", "请问，", "请告诉我，", "我想知道，", "请回答：", "想一想，"),
    endings=("？", "呢？", "？请说！", "？谢谢！"),
    name=_name,
    amount=_amount,
    row=_row,
    yes="有",
    no="没有",
    full_stop="。",
    exercise="问题：{instruction}{given}回答：{output}。",
    given="{input}，",
    heading="",
    joint="",
)


def tell(scene: Scene, draw: Draw) -> str:
    """Tells a scene in Chinese, with a drawn wording of every sentence."""
    fields = {name: _render(part, draw) for name, part in scene.parts.items()}
    return "".join(draw.one(wordings).format_map(fields) for wordings in PATTERNS[scene.kind])


def listed(words: tuple[Word, ...]) -> str:
    """Joins words as a Chinese list: `、` between, `和` before the last."""
    names = [word.zh for word in words]
    return "、".join(names[:-1]) + "和" + names[-1]


def _render(part: Part, draw: Draw) -> str:
    if isinstance(part, Word):
        return part.zh
    if isinstance(part[0], Fact):
        return "，".join(_state(fact, draw) for fact in part if isinstance(fact, Fact))
    return listed(tuple(word for word in part if isinstance(word, Word)))


def _state(fact: Fact, draw: Draw) -> str:
    """States one fact in a drawn wording."""
    x = fact.subject
    if fact.kind == "is_a":
        kind = lexicon.CATEGORY[x].zh
        return draw.one((f"{x.zh}是一种{kind}", f"{x.zh}是{kind}"))
    if fact.kind == "opposite":
        return draw.one((f"{x.zh}的反义词是{lexicon.OPPOSITE[x].zh}", f"{x.zh}和{lexicon.OPPOSITE[x].zh}相反"))
    if fact.kind == "works_in":
        return draw.one((f"{x.zh}在{lexicon.WORKPLACE[x].zh}工作", f"在{lexicon.WORKPLACE[x].zh}工作的是{x.zh}"))
    if fact.kind == "followed_by":
        after, before = lexicon.day_after(x).zh, lexicon.day_after(x, -1).zh
        return draw.one((f"{x.zh}后面是{after}", f"{x.zh}前面是{before}", f"{x.zh}再过两天是{lexicon.day_after(x, 2).zh}"))
    if fact.kind == "named":
        return draw.one((f"{x.zh}的英文是 {x.en}", f"英文 {x.en} 的意思是{x.zh}"))
    assert fact.kind == "counted", f"no Chinese sentence for a fact of kind {fact.kind}"
    return draw.one((f"我们说一{x.zh.m}{x.zh}", f"{x.zh}的量词是{x.zh.m}"))
