"""The report of an adaptation as one HTML file, see `document`.

`page` takes the same tree of figures as `report.markdown` and leaves out what it does not hold.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from zhllama_jax.eval import charts, document, figures, headline, markup
from zhllama_jax.eval import report as report_lib

Tree = Mapping[str, Any]


def page(report: Tree) -> str:
    """The whole file.

    Args:
      report: the tree of figures that `zhllama adapt` collects, see `report.markdown`; beside what that shows: name (of the run), adapted
        and learned (names of texts), points (names of rows of the likelihood), reproduce (commands), configuration (YAML), versions.
    """
    made = (
        _vocabulary(report),
        _likelihood(report),
        _training(report),
        _samples(report),
        _instructions(report),
        _time(report),
        _check(report),
        _configuration(report),
        _versions(report),
        _reproduce(report),
    )
    title = f"{report['title']}: {report['name']}" if report.get("name") else report["title"]
    top = [
        markup.element("p", report["name"], class_="run") if report.get("name") else "",
        markup.element("h1", report["title"]),
        markup.prose(report.get("introduction") or ""),
        document.tiles(headline.tiles(report)),
    ]
    return document.write(title, markup.join(top), [section for section in made if section])


def compression(texts: Sequence[Tree]) -> markup.Html:
    """Tokens of each text before and after, drawn and as a table; a text has name, characters, tokens_before, tokens_after."""
    groups, rows = [], []
    for text in texts:
        before, after, characters = text["tokens_before"], text["tokens_after"], max(text["characters"], 1)
        times = before / max(after, 1)
        remark = f"{figures.number(times)} times fewer" if times > 1 else f"{figures.number(1 / times)} times more" if times else ""
        sides = (("before", before), ("after", after))
        marks = [charts.Bar(series, count / characters, figures.number(count / characters)) for series, count in sides]
        groups.append(charts.Group(text["name"], "unchanged" if before == after else remark, marks))
        rows.append([text["name"], *map(figures.number, (text["characters"], before, after, times))])
    legend = charts.legend([("before", "vocabulary of the base"), ("after", "extended vocabulary")])
    head = ("text", "characters", "tokens before", "tokens after", "times fewer")
    return document.figure(
        charts.bars(groups, name="compression", title="Tokens per character by text"),
        markup.join(["Tokens per character; shorter is better.", legend]),
        markup.table(head, rows, caption="Tokens of each text before and after"),
    )


def _vocabulary(report: Tree) -> document.Section | None:
    vocabulary = report.get("vocabulary")
    if not vocabulary:
        return None
    lines = [markup.element("li", markup.inline(line)) for line in vocabulary["summary"].splitlines()]
    return document.Section("compression", "Compression", markup.join([compression(vocabulary["texts"]), markup.element("ul", *lines)]))


def _likelihood(report: Tree) -> document.Section | None:
    likelihood = report.get("likelihood")
    if not likelihood or not likelihood["rows"]:
        return None
    texts, rows, rivals = list(likelihood["texts"]), likelihood["rows"], report.get("baselines") or ()
    domain = charts.log_domain(row.get(text) for row in (*rows, *rivals) for text in texts)
    panels = []
    for place, text in enumerate(texts if domain else ()):
        assert domain is not None, "without a scale there are no panels"
        lines = [charts.Dot(row["after"], row.get(text)) for row in rows]
        lines += [charts.Dot(row.get("short") or row["name"], row[text], reference=True) for row in rivals if row.get(text) is not None]
        picture = charts.dots(lines, name=f"bits-{place}", title=f"Bits per character of {text} after each step", domain=domain)
        panels.append(markup.element("div", markup.element("h3", text), picture))
    head = ("after", *texts)
    shown = [[row["after"], *(figures.number(row.get(text)) for text in texts)] for row in rows]
    tables = [markup.table(head, shown, caption="Bits per character after each step")]
    if rivals:
        compared = [[row["name"], *(figures.number(row.get(text)) for text in texts)] for row in rivals]
        tables.append(markup.table(("baseline", *texts), compared, caption="Bits per character of the baselines"))
    legend = [("measured", "the model after each step")]
    if rivals:
        legend.append(("baseline", "baseline"))
    caption = markup.join(["Held-out text, logarithmic scale; lower is better, so left is better.", charts.legend(legend)])
    remarks = [markup.element("p", markup.inline(remark)) for remark in likelihood.get("remarks") or ()]
    content = document.figure(markup.element("div", *panels, class_="panels"), caption, *tables)
    note = "Characters, unlike tokens, are the same under every vocabulary: models with different ones can be compared by this figure."
    notes = [markup.element("p", markup.inline(said)) for said in (note, likelihood.get("scored")) if said]
    return document.Section("likelihood", "Bits per character", markup.join([*notes, content, *remarks]))


def _training(report: Tree) -> document.Section | None:
    stages = report.get("stages")
    if not stages:
        return None
    parts = [_curves(stages)]
    keys = ("steps", "tokens", "loss_first", "loss_last", "tokens_per_second")
    head = ("training", "trainable", "of parameters", "share", "steps", "tokens", "loss first", "loss last", "tokens/s", "time")
    rows = []
    for stage in stages:
        trainable, total = stage.get("trainable"), stage.get("parameters")
        share = trainable / total if trainable is not None and total else None
        shown = [*map(figures.number, (trainable, total)), figures.percent(share), *(figures.number(stage.get(key)) for key in keys)]
        rows.append([stage["name"], *shown, figures.duration(stage.get("seconds"))])
    parts += [markup.element("h3", "What was trained"), markup.table(head, rows, caption="The trainings in order")]
    parts += [markup.element("p", report_lib.sentence(remark)) for remark in report.get("data") or ()]
    parts += [markup.details(f"Weights of {stage['name']}, by rule", _rules(stage)) for stage in stages if _has_rules(stage)]
    return document.Section("training", "Training", markup.join(parts))


def _curves(stages: Sequence[Tree]) -> markup.Content:
    """A picture of the losses for each training, and a table of them where both are known."""
    panels: list[markup.Html] = []
    rows: list[list[markup.Content]] = []
    for place, stage in enumerate(stages):
        learned, held_out = (charts.finite(stage.get(key) or ()) for key in ("losses", "validation"))
        lines = [charts.Curve("train", "training", learned), charts.Curve("held-out", "held out", held_out, marks=True)]
        if not learned and not held_out:
            continue
        name = stage["name"]
        ends = [f"{line.name} {figures.number(line.points[-1][1])}" for line in lines if line.points]
        parts = (
            markup.element("h3", name),
            markup.element("p", f"at the end: {', '.join(ends)}", class_="note"),
            charts.curves(lines, name=f"loss-{place}", title=f"Loss of {name}"),
            markup.element("p", _steps(stage), class_="axis"),
        )
        panels.append(markup.element("div", *parts))
        known = [dict(line.points) for line in lines]
        steps = sorted({*(step for step, _ in learned[:1] + learned[-1:]), *known[1]})
        rows += [[name, figures.number(step), *(figures.number(losses.get(step)) for losses in known)] for step in steps]
    if not panels:
        return ""
    legend = charts.legend([("train", "training rows"), ("held-out", "held-out rows of its first text")])
    caption = markup.join(["Loss of each training in nats per token.", legend])
    table = markup.table(("training", "step", "training loss", "held out"), rows, caption="Losses at the ends and at each validation")
    return document.figure(markup.element("div", *panels, class_="panels"), caption, table)


def _steps(stage: Tree) -> str:
    """The name of the axis: how many tokens a step is."""
    if not stage.get("tokens") or not stage.get("steps"):
        return "steps"
    return f"steps of {figures.number(round(stage['tokens'] / stage['steps']))} tokens"


def _has_rules(stage: Tree) -> bool:
    return bool(stage.get("rules") or stage.get("table"))


def _rules(stage: Tree) -> markup.Html:
    """The stage's table of rules; a record that holds it as text only shows that."""
    if not stage.get("rules"):
        return markup.element("pre", markup.element("code", stage["table"]), class_="columns", tabindex=0)
    rows = []
    for rule in stage["rules"]:
        counts = map(figures.number, (rule["parameters"], rule["trainable"]))
        share = figures.percent(rule["percent"] / 100)
        rows.append([markup.element("code", rule["rule"]), *counts, share, figures.size(rule["optimizer_bytes"])])
    head = ("rule", "parameters", "trainable", "of all", "optimizer state")
    caption = f"Trainable weights of {stage['name']}"
    return markup.table(head, rows, caption=caption)


def _samples(report: Tree) -> document.Section | None:
    samples = report.get("samples")
    if not samples:
        return None
    cards = []
    for sample in samples:
        answers = [(name, text) for name, text in sample.items() if name != "prompt"]
        sides = [markup.element("div", markup.element("h4", name), _said(text)) for name, text in answers]
        prompt = markup.quoted(sample["prompt"], name="h3")
        cards.append(markup.element("article", prompt, markup.element("div", *sides, class_="sides"), class_="card"))
    note = "The same prompts before and after, answered greedily."
    return document.Section("samples", "Samples", markup.join([markup.element("p", note), *cards]))


def _said(text: str) -> markup.Html:
    return markup.quoted(text) if text.strip() else markup.element("div", "(nothing)", class_="said nothing")


def _instructions(report: Tree) -> document.Section | None:
    exams, answers = (report.get("exams") or {}).get("rows"), report.get("answers")
    parts: list[markup.Html] = []
    if exams:
        last = exams[-1]
        parts.append(
            markup.element(
                "p",
                f"{figures.number(last['total'])} held-out instructions, answered greedily; only the exact answer counts. The single most "
                f"frequent answer would get {figures.percent(last['most_frequent'])}.",
            )
        )
        parts += [_tasks(exams), _wrong(last)]
    if answers and answers["rows"]:
        rows = [[row["after"], figures.number(row["bits_per_character"])] for row in answers["rows"]]
        sentence = f"Bits per character of the {figures.number(answers['count'])} right answers, given their instructions; lower is better."
        caption = "Cost of the right answers after each step"
        parts.append(markup.element("p", sentence))
        parts.append(markup.table(("after", "bits per character"), rows, caption=caption))
    return document.Section("instructions", "Instructions followed", markup.join(parts)) if parts else None


def _tasks(exams: Sequence[Tree]) -> markup.Html:
    last = exams[-1]

    def share(row: Tree, task: str) -> float | None:
        right, total = row["by_task"].get(task, (0, 0))
        return right / total if total else None

    tasks = sorted(last["by_task"], key=lambda task: (-(share(last, task) or 0.0), task))
    head = ("task", *(row["after"] for row in exams), "")
    rows: list[list[markup.Content]] = []
    for task in tasks:
        shares = [share(row, task) for row in exams]
        rows.append([task, *map(figures.percent, shares), _meter(shares[-1])])
    whole: list[markup.Content] = ["all", *(figures.percent(row["exact"]) for row in exams), _meter(last["exact"])]
    return markup.table(head, rows, caption="Exact answers by task", last=whole)


def _wrong(exam: Tree) -> markup.Html:
    wrong = exam.get("wrong") or ()
    if not wrong:
        return markup.Html("")
    rows = [
        [
            markup.quoted("\n".join(filter(None, (one["instruction"], one["input"])))),
            markup.quoted(one["wanted"]),
            _said(one["given"]),
        ]
        for one in wrong
    ]
    caption = "Answers that were not exact"
    table = markup.table(("instruction", "right", "given"), rows, caption=caption, text_columns=3)
    all_of_them = exam["total"] - exam["right"]
    shown = f"{len(wrong)} of the" if len(wrong) < all_of_them else "The"
    return markup.details(f"{shown} {figures.number(all_of_them)} wrong answers after {exam['after']}", table)


def _meter(share: float | None) -> markup.Html:
    """A share as a bar; the figure itself stands beside it."""
    filled = markup.element("span", style=f"width: {100 * (share or 0.0):.1f}%")
    return markup.element("span", filled, class_="meter", aria_hidden="true")


def _time(report: Tree) -> document.Section | None:
    steps, generation = report.get("steps"), report.get("generation")
    parts: list[markup.Html] = []
    if generation and generation["rows"]:
        keys = ("tokens_per_second", "characters_per_token", "characters_per_second")
        rows: list[list[markup.Content]] = [[row["model"], *(figures.number(row.get(key)) for key in keys)] for row in generation["rows"]]
        head = ("vocabulary", "tokens/s", "characters/token", "characters/s")
        parts += [markup.element("p", generation["remark"]), markup.table(head, rows, caption="Speed of generation")]
    if steps:
        rates = {stage["name"]: stage.get("tokens_per_second") for stage in report.get("stages") or ()}
        total = sum(step["seconds"] for step in steps)
        longest = max(step["seconds"] for step in steps) or 1.0
        rows = [
            [step["name"], figures.duration(step["seconds"]), figures.number(rates.get(step["name"])), _meter(step["seconds"] / longest)]
            for step in steps
        ]
        table = markup.table(
            ("step", "time", "tokens/s", ""), rows, caption="Time of each step", last=("all", figures.duration(total), "", "")
        )
        parts += [markup.element("h3", "Steps of the pipeline"), table]
    return document.Section("time", "Speed and time", markup.join(parts)) if parts else None


def _check(report: Tree) -> document.Section | None:
    check = report.get("check")
    if not check:
        return None
    agrees = check.get("agrees")
    sign = {True: ("good", "Agrees"), False: ("bad", "Differs"), None: ("", "")}[agrees]
    badge = markup.join([markup.element("strong", sign[1], class_=f"badge {sign[0]}"), " "]) if sign[1] else ""
    return document.Section("check", "Check of the exported directory", markup.element("p", badge, markup.inline(check["sentence"])))


def _configuration(report: Tree) -> document.Section | None:
    if not report.get("configuration"):
        return None
    content = markup.details("All settings as they were resolved", markup.code_block(report["configuration"].rstrip("\n")), class_="long")
    return document.Section("configuration", "Configuration", content)


def _versions(report: Tree) -> document.Section | None:
    versions = report.get("versions")
    if not versions:
        return None
    rows = [[name, markup.element("span", version, class_="version")] for name, version in versions.items()]
    caption = "What wrote this page"
    return document.Section("versions", "Versions", markup.table(("software", "version"), rows, caption=caption, text_columns=2))


def _reproduce(report: Tree) -> document.Section | None:
    if not report.get("reproduce"):
        return None
    return document.Section("reproduce", "How to reproduce", markup.prose(report["reproduce"]))
