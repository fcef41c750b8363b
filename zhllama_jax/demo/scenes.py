"""What happens in a document of the demo world, before it is told in a language.

A scene draws its parts once and every sentence about it uses them again: who owned which animal in sentence one is asked in sentence
three. A model that looks back gets the second mention for nothing; a model that sees five characters pays for it again.

Each scene rests on one or more core combinations, all on the same side of the split. The patterns in `english` and `chinese` keep a
rule that the tests hold them to: every sentence names all parts of some core of its scene. So no sentence of a held-out document
can occur in training text, and none of its parts is new.

The instructions hold out {person, day, place} too. What some sentence of a scene brings together of that sort without making it a core
is guarded: a scene of training text has no guarded combination that is held out.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from zhllama_jax.demo import lexicon
from zhllama_jax.demo.draw import Draw
from zhllama_jax.demo.lexicon import Word


@dataclass(frozen=True, slots=True)
class Fact:
    """One thing that is always true: `kind` (is_a, opposite, works_in, followed_by, named, counted) about `subject`."""

    kind: str
    subject: Word


Part = Word | tuple[Word, ...] | tuple[Fact, ...]


@dataclass(frozen=True, slots=True)
class Scene:
    """A kind of event with its parts by field name."""

    kind: str
    parts: Mapping[str, Part]


def pet(draw: Draw) -> Scene:
    """Somebody has a coloured animal and takes it out one day."""
    return Scene(
        "pet",
        {
            "p": draw.one(lexicon.PEOPLE),
            "c": draw.one(lexicon.COLOURS),
            "a": draw.one(lexicon.ANIMALS),
            "d": draw.one(lexicon.DAYS),
            "l": draw.one(lexicon.OUTINGS),
            "m": draw.one(lexicon.MOODS),
        },
    )


def owners(draw: Draw) -> Scene:
    """Two people own one coloured thing each, and somebody asks."""
    p1, p2 = draw.some(lexicon.PEOPLE, 2)
    c1, c2 = draw.some(lexicon.COLOURS, 2)
    a1, a2 = draw.some(lexicon.OWNED, 2)
    # q is who is asked about first, r the other.
    (q, qc, qa), (r, rc, ra) = draw.some([(p1, c1, a1), (p2, c2, a2)], 2)
    parts = {"p1": p1, "c1": c1, "a1": a1, "p2": p2, "c2": c2, "a2": a2, "q": q, "qc": qc, "qa": qa, "r": r, "rc": rc, "ra": ra}
    return Scene("owners", parts)


def _listed(draw: Draw, pool: tuple[Word, ...], low: int, high: int) -> dict[str, Part]:
    """Draws a list of things with what can be said about it: its length, its ends, one position, what is missing."""
    *items, absent = draw.some(pool, draw.between(low, high) + 1)
    k = draw.between(1, len(items) - 1)
    return {
        "items": tuple(items),
        "n": lexicon.NUMBERS[len(items) - 1],
        "first": items[0],
        "last": items[-1],
        "k": lexicon.ORDINALS[k],
        "kth": items[k],
        "absent": absent,
        "present": draw.one(items),
        "reversed": tuple(items[::-1]),
    }


def shopping(draw: Draw) -> Scene:
    """Somebody buys a list of things and puts them away."""
    parts = _listed(draw, lexicon.GOODS, 2, 4)
    return Scene("shopping", parts | {"p": draw.one(lexicon.PEOPLE), "s": draw.one(lexicon.SHOPS), "b": draw.one(lexicon.ROOMS)})


def picture(draw: Draw) -> Scene:
    """Things stand in a row in a picture."""
    return Scene("picture", _listed(draw, lexicon.ITEMS, 2, 5))


def numbers(draw: Draw) -> Scene:
    """Two people count what they have."""
    n1, n2 = draw.some(lexicon.NUMBERS[1:], 2)
    p1, p2 = draw.some(lexicon.PEOPLE, 2)
    first_is_more = lexicon.NUMBERS.index(n1) > lexicon.NUMBERS.index(n2)
    more, less, high, low = (p1, p2, n1, n2) if first_is_more else (p2, p1, n2, n1)
    parts = {"p1": p1, "p2": p2, "n1": n1, "n2": n2, "more": more, "less": less, "high": high, "low": low}
    return Scene("numbers", parts | {"x": draw.one(lexicon.COUNTABLE)})


def diary(draw: Draw) -> Scene:
    """Two days in a row of one person."""
    d1 = draw.one(lexicon.DAYS)
    l1, l2 = draw.some(lexicon.PLACES, 2)
    v1, v2 = draw.some(lexicon.ACTIVITIES, 2)
    w1, w2 = draw.some(lexicon.WEATHER, 2)
    parts = {"p": draw.one(lexicon.PEOPLE), "d1": d1, "l1": l1, "d2": lexicon.day_after(d1), "l2": l2}
    return Scene("diary", parts | {"v1": v1, "v2": v2, "w1": w1, "w2": w2})


def job(draw: Draw) -> Scene:
    """Somebody's work and the way to it."""
    j = draw.one(lexicon.JOBS)
    parts = {"p": draw.one(lexicon.PEOPLE), "j": j, "v": draw.one(lexicon.VEHICLES)}
    return Scene("job", parts | {"w": lexicon.WORKPLACE[j], "m": draw.one(lexicon.MOODS)})


def message(draw: Draw) -> Scene:
    """A plan is passed on word for word."""
    p1, p2, p3 = draw.some(lexicon.PEOPLE, 3)
    parts = {"d": draw.one(lexicon.DAYS), "l": draw.one(lexicon.PLACES), "f": draw.one(lexicon.FOODS)}
    return Scene("message", parts | {"p1": p1, "p2": p2, "p3": p3})


def trip(draw: Draw) -> Scene:
    """Two people travel and eat what each of them brought."""
    p1, p2 = draw.some(lexicon.PEOPLE, 2)
    f1, f2 = draw.some(lexicon.FOODS, 2)
    parts = {"p1": p1, "p2": p2, "l": draw.one(lexicon.OUTINGS), "v": draw.one(lexicon.VEHICLES)}
    return Scene("trip", parts | {"f1": f1, "f2": f2})


def lesson(draw: Draw) -> Scene:
    """A teacher says three facts in a row. `named` and `counted` are facts of Chinese alone."""
    subjects = draw.some(tuple(FACTS_ABOUT), 3)
    return Scene("lesson", {"facts": tuple(Fact(draw.one(FACTS_ABOUT[subject]), subject) for subject in subjects)})


def _facts_about() -> dict[Word, tuple[str, ...]]:
    """Lists for every word the kinds of fact that are told of it."""
    kinds: dict[Word, list[str]] = {}
    for kind, subjects in (
        ("is_a", lexicon.CATEGORY),
        ("opposite", lexicon.OPPOSITE),
        ("works_in", lexicon.WORKPLACE),
        ("followed_by", lexicon.DAYS),
        ("named", lexicon.TRANSLATED),
        ("counted", lexicon.MEASURED),
    ):
        for subject in subjects:
            kinds.setdefault(subject, []).append(kind)
    return {subject: tuple(names) for subject, names in kinds.items()}


FACTS_ABOUT: Final = _facts_about()
SCENES: Final[tuple[Callable[[Draw], Scene], ...]] = (pet, owners, shopping, picture, numbers, diary, job, message, trip, lesson)

# The combinations that decide on which side of the split a scene lies, as field names.
CORES: Final = {
    "pet": (("p", "c", "a"), ("a", "d", "l")),
    "owners": (("p1", "c1", "a1"), ("p2", "c2", "a2")),
    "shopping": (("items",),),
    "picture": (("items",),),
    "numbers": (("n1", "n2"),),
    "diary": (("p", "d1", "l1"), ("p", "d2", "l2")),
    "job": (("p", "j", "v"),),
    "message": (("d", "l", "f"),),
    "trip": (("p1", "p2", "l"), ("p1", "p2", "f1", "f2")),
    "lesson": (("facts",),),
}

# The other combinations of a person, a day and a place that stand together in a sentence.
GUARDED: Final[dict[str, tuple[tuple[str, ...], ...]]] = {
    "pet": (("p", "d", "l"),),
    "diary": (("p", "d1", "l2"),),
    "message": (("p1", "d", "l"), ("p2", "d", "l"), ("p3", "d", "l")),
}


def cores(scene: Scene) -> list[frozenset[Word]]:
    """Returns the core combinations of a scene."""
    return _combinations(scene, CORES[scene.kind])


def guarded(scene: Scene) -> list[frozenset[Word]]:
    """Returns the combinations that training text must not bring together when they are held out."""
    return _combinations(scene, GUARDED.get(scene.kind, ()))


def happen(draw: Draw) -> Scene:
    """Draws a scene of any kind whose cores all lie on this side of the split; in training text the guarded combinations do too."""
    make = draw.one(SCENES)
    for _ in range(100_000):
        scene = make(draw)
        if all(draw.accepts(core) for core in cores(scene)) and (draw.held_out or all(map(draw.accepts, guarded(scene)))):
            return scene
    raise AssertionError(f"no scene {make.__name__} lies on this side of the split")


def _combinations(scene: Scene, fields: tuple[tuple[str, ...], ...]) -> list[frozenset[Word]]:
    return [frozenset(word for name in names for word in _words_of(scene.parts[name])) for names in fields]


def _words_of(part: Part) -> list[Word]:
    """Lists the words of one part."""
    if isinstance(part, Word):
        return [part]
    return [entry.subject if isinstance(entry, Fact) else entry for entry in part]
