"""English sentence patterns of the demo world.

A pattern is a sequence of sentences, a sentence a choice of wordings. Fields are the parts of a scene: `{a}` is the word, `{a.a}` the
word with its article, `{a.s}` its plural, `{a.general}` its kind as such, `{items}` a list with articles. Units end at a full stop: a
question and its answer are one sentence here.
"""

from collections.abc import Sequence
from typing import Final

from zhllama_jax.demo import lexicon
from zhllama_jax.demo.draw import Draw
from zhllama_jax.demo.lexicon import English, Word
from zhllama_jax.demo.scenes import Fact, Part, Scene
from zhllama_jax.demo.speech import Speech

PATTERNS: Final[dict[str, tuple[tuple[str, ...], ...]]] = {
    "pet": (
        ("{p} has a {c} {a}.", "At home {p} has a {c} {a}.", "There is a {c} {a} and it belongs to {p}."),
        ("On {d} {p} took the {a} to the {l}.", "On {d} {p} and the {a} went to the {l}."),
        ("On {d} at the {l}, the {a} of {p} was {m}.", "The {a} of {p} was {m} at the {l} on {d}."),
        (
            "Whose is the {m} {a}? It belongs to {p} and the {a} of {p} is {c}.",
            "{p} likes the {c} {a}.",
            "What colour is the {a} of {p}? It is {c} and {m}.",
        ),
    ),
    "owners": (
        ("{p1} has a {c1} {a1} and {p2} has a {c2} {a2}.", "The {a1} of {p1} is {c1} and the {a2} of {p2} is {c2}."),
        (
            "What colour is the {qa} of {q}? The {qa} of {q} is {qc}.",
            "Whose is the {qc} {qa}? The {qc} {qa} belongs to {q}.",
            "What does {q} have? {q} has a {qc} {qa}.",
        ),
        (
            "What colour is the {ra} of {r}? The {ra} of {r} is {rc}.",
            "Whose is the {rc} {ra}? The {rc} {ra} belongs to {r}.",
            "What does {r} have? {r} has a {rc} {ra}.",
        ),
    ),
    "shopping": (
        ("{p} bought {items} at the {s}.", "{p} went to the {s} and bought {items}."),
        ("{p} put {items} in the {b}, {n} things in all.", "Back home, in the {b} there are {items}, {n} things in all."),
        ('{p} said: "{items}, first I bought {first.a} and last {last.a}".', "What did {p} buy? {p} bought {items}."),
    ),
    "picture": (
        ("In the picture there are {items}.", "Look, the picture has {items}."),
        (
            "Of {items}, the first is {first.a}, the {k} is {kth.a}, the last is {last.a}, {n} in all.",
            "There are {n} in all: {items}, the {k} is {kth.a}.",
        ),
        ("Is there {absent.a} with {items}? No.", "Is there {present.a} with {items}? Yes.", "From the end it is {reversed}."),
    ),
    "numbers": (
        ("{p1} has {n1} {x.s} and {p2} has {n2} {x.s}.", "{p1} bought {n1} {x.s} and {p2} bought {n2} {x.s}."),
        (
            "{high} is more than {low}, so {more} has more {x.s} than {less}.",
            "{low} is less than {high}, so {less} has fewer {x.s} than {more}.",
            "Of {n1} and {n2}, {high} is more.",
        ),
        (
            "Of {n1} and {n2}, {low} is less, so who has fewer {x.s}? {less}.",
            "Of {n1} and {n2}, {high} is more, so who has more {x.s}? {more}.",
        ),
    ),
    "diary": (
        ("{d1} was {w1} and {p} went to the {l1} to {v1}.", "On {d1} {p} was at the {l1} to {v1} and it was {w1}."),
        (
            "After {d1} comes {d2}, {d2} was {w2} and {p} went to the {l2} to {v2}.",
            "On {d2} {p} was at the {l2} to {v2} and it was {w2}.",
        ),
        (
            "Where was {p} on {d1}? At the {l1} to {v1}.",
            "What did {p} do at the {l1} on {d1}? {p} went there to {v1}.",
            "Who was at the {l1} on {d1}? {p} was at the {l1} on {d1}.",
        ),
        (
            "Where was {p} on {d2}? At the {l2} to {v2}.",
            "What did {p} do at the {l2} on {d2}? {p} went there to {v2}.",
            "Who was at the {l2} on {d2}? {p} was at the {l2} on {d2}.",
        ),
    ),
    "job": (
        ("{p} is {j.a} and goes to the {w} by {v}.", "{p} goes to the {w} by {v}, because {p} is {j.a}."),
        ("{j.a} works at the {w} and {p} goes there by {v}.", "In the {v}, {p} is a {m} {j}."),
        ("What does {p} do? {p} is {j.a} and goes by {v}.", "Where does {p} go by {v}? To the {w}, because {p} is {j.a}."),
    ),
    "message": (
        ('{p1} said to {p2}: "on {d} we go to the {l} to eat {f.s}".', '{p1} told {p2}: "on {d} we go to the {l} to eat {f.s}".'),
        ('{p2} said to {p3}: "{p1} says on {d} we go to the {l} to eat {f.s}".', '{p2} told {p3}: "on {d} we go to the {l} to eat {f.s}".'),
        (
            '{p3} asked: "when do we go to the {l} to eat {f.s}?" {p1} said: "{d}".',
            '{p3} asked: "where do we go on {d} to eat {f.s}?" {p1} said: "{l}".',
            '{p3} asked: "what do we eat on {d} at the {l}?" {p1} said: "{f.s}".',
        ),
    ),
    "trip": (
        ("{p1} and {p2} went to the {l} by {v}.", "{p1} went to the {l} by {v} and {p2} went by {v} too."),
        ("{p1} brought {f1.a} and {p2} brought {f2.a}.", "{p1} has {f1.a} and {p2} has {f2.a}."),
        ("At the {l}, {p1} ate {f1.a} and {p2} ate {f2.a}.", "Back from the {l}, {p2} ate {f2.a} and {p1} ate {f1.a}."),
        ("Who has {f2.a}? {p2} has {f2.a} and {p1} has {f1.a}.", "Who has {f1.a}? {p1} has {f1.a} and {p2} has {f2.a}."),
    ),
    "lesson": (("{facts}.", 'The teacher said: "{facts}".'),),
}

# Questions of the exercises by task and what is asked; names, measure words and the like are questions of Chinese alone.
QUESTIONS: Final[dict[str, tuple[str, ...]]] = {
    "category": ("what is {x.general}", "what kind of thing is {x.general}", "which kind is {x.general}"),
    "opposite": ("what is the opposite of {x}", "what word is the opposite of {x}", "which is the opposite of {x}"),
    "workplace": ("where does {x.a} work", "where does {x.a} go to work", "at what place does {x.a} work"),
    "weekday": ("what comes after {x}", "what day is after {x}", "which day comes after {x}", "which is the day after {x}"),
    "number": (
        "what number comes after {x}",
        "what number is one more than {x}",
        "which number is after {x}",
        "what is the number after {x}",
    ),
    "parity": ("is {x} odd or even", "is {x} even or odd", "what kind of number is {x}", "which is {x}, odd or even"),
    "kind": ("what are they?", "which kind are they?", "what kind of thing are they?"),
    "count": ("how many are there?", "how many things in all?", "how many words are there?"),
    "member": ("is there {x.a} below?", "is there {x.a}?", "is there {x.a} in the list?"),
    "extract who": ("who was at the {l} to {v}?",),
    "extract where": ("where was {p}?",),
    "extract what": ("what did {p} do at the {l}?",),
    "extract when": ("when was {p} at the {l}?",),
    "extract text": ("on {d} {p} was at the {l} to {v}", "{p} was at the {l} on {d} to {v}", "on {d} {p} went to the {l} to {v}"),
}


def _name(word: Word) -> str:
    return word.en


def _row(words: Sequence[Word]) -> str:
    names = [word.en for word in words]
    return ", ".join(names[:-1]) + " and " + names[-1]


SPEECH: Final = Speech(
    language="English",
    questions=QUESTIONS,
    openings=("", "please say, ", "tell me, ", "I ask, ", "now say, ", "please tell me, "),
    endings=("?", ", please?", " then?"),
    name=_name,
    amount=_name,
    row=_row,
    yes="yes",
    no="no",
    full_stop=".",
    exercise="### Instruction: {instruction}{given} ### Response: {output}.",
    given=" {input}",
    # The words of the Alpaca template (which the base model never meets as such), so that the vocabulary has pieces for them.
    heading="Below is an instruction that describes a task. Write a response that appropriately completes the request. ",
    joint=" ",
)


def tell(scene: Scene, draw: Draw) -> str:
    """Tells a scene in English, with a drawn wording of every sentence."""
    fields = {name: _render(part, draw) for name, part in scene.parts.items()}
    sentences = [draw.one(wordings).format_map(fields) for wordings in PATTERNS[scene.kind]]
    return " ".join(sentence[0].upper() + sentence[1:] for sentence in sentences)


def listed(words: tuple[Word, ...]) -> str:
    """Joins words, each with its article, as an English list."""
    names = [word.en.a for word in words]
    return ", ".join(names[:-1]) + " and " + names[-1]


def _render(part: Part, draw: Draw) -> str:
    if isinstance(part, Word):
        return part.en
    if isinstance(part[0], Fact):
        return ", ".join(_state(fact, draw) for fact in part if isinstance(fact, Fact))
    return listed(tuple(word for word in part if isinstance(word, Word)))


def _state(fact: Fact, draw: Draw) -> str:
    """States one fact in a drawn wording; what only Chinese can say (names, measure words) becomes what English can."""
    x = fact.subject
    if fact.kind == "opposite":
        return draw.one((f"the opposite of {x.en} is {lexicon.OPPOSITE[x].en}", f"{x.en} is not {lexicon.OPPOSITE[x].en}"))
    if fact.kind == "works_in":
        return draw.one((f"{x.en.a} works at the {lexicon.WORKPLACE[x].en}", f"at the {lexicon.WORKPLACE[x].en} works {x.en.a}"))
    if fact.kind == "followed_by":
        after, before = lexicon.day_after(x).en, lexicon.day_after(x, -1).en
        return draw.one(
            (f"after {x.en} comes {after}", f"before {x.en} comes {before}", f"two days after {x.en} is {lexicon.day_after(x, 2).en}")
        )
    kind: English = lexicon.CATEGORY[x].en
    return draw.one((f"{x.en.general} is a kind of {kind}", f"one kind of {kind} is {x.en.general}"))
