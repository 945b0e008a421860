"""Both models' answers to one example, drawn for its task: HTML in which every text is escaped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise
from typing import Any

from app.figures import colours_for, fmt_probability
from app.figures.palette import Palette
from app.items import Item
from qbert_core.evaluation import Inspection, Reading
from qbert_core.tasks.entities import entities

STYLE = """<style>
.answers{font-size:.9rem;line-height:1.5;margin:0 0 .4rem}
.answers .who{font-size:.75rem;opacity:.8;margin-top:.35rem}
.answers .text{overflow-wrap:anywhere}
.answers .long{max-height:12rem;overflow:auto;padding:3px .4rem 3px 3px}
.answers table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums;margin-top:.35rem}
.answers th{font-size:.75rem;font-weight:400;opacity:.8;text-align:left;padding:.1rem .4rem .1rem 0}
.answers td{padding:.12rem .4rem .12rem 0;white-space:nowrap}
@media (max-width:1080px){.answers td:first-child{white-space:normal}}
.answers td.p{width:36%;padding-left:.35rem;border:1px solid color-mix(in srgb,currentColor 14%,transparent);
  background-repeat:no-repeat}
.answers td.chosen{font-weight:600}
.answers .entity{border-radius:4px;padding:.05rem .25rem;margin:0 .05rem}
.answers .entity small{font-size:.6875rem;font-weight:600;margin-left:.3rem;opacity:.85}
.answers .differs{box-shadow:0 0 0 2px currentColor;-webkit-box-decoration-break:clone;box-decoration-break:clone}
.answers .reference{text-decoration:underline;text-decoration-thickness:2px;text-underline-offset:4px}
.answers .mark{border-radius:2px;padding:.1rem 0}
.answers .legend{font-size:.75rem;margin:.35rem 0 0;display:flex;flex-wrap:wrap;gap:.3rem 1rem}
</style>"""
KINDS = ("PER", "ORG", "LOC", "MISC")


@dataclass(frozen=True)
class Both:
    """What the two models make of an example: answers as in `Evaluation.predictions`, and how sure they are
    of them where that is known already."""

    plan: str
    before: Any
    after: Any
    seen: Inspection | None = None


def answers_html(head: str, labels: Sequence[str], item: Item, both: Both, *, dark: bool) -> str:
    """The example with the right answer, fp32's and the plan's."""
    colours = colours_for(dark)
    if head == "sequence":
        body = _classes(labels, item, both, colours)
    elif head == "token":
        body = _tags(item, both, colours)
    else:
        body = _question(item, both, colours)
    return f'{STYLE}<div class="answers">{body}</div>'


def inspected(seen: Inspection) -> Both:
    """From an inspection alone."""
    return Both(seen.plan.name, seen.before.answer, seen.after.answer, seen)


def _classes(labels: Sequence[str], item: Item, both: Both, colours: Palette) -> str:
    texts = "".join(
        (f'<div class="who">{escape(name.capitalize())}</div>' if len(item.texts) > 1 else "")
        + f'<div class="text">{escape(text)}</div>'
        for name, text in item.texts.items()
    )
    rows = "".join(
        f"<tr><td>{escape(label)}{' (right)' if i == item.reference else ''}</td>"
        + _probability(both.seen.before if both.seen else None, i, both.before == i, colours)
        + _probability(both.seen.after if both.seen else None, i, both.after == i, colours)
        + "</tr>"
        for i, label in enumerate(labels)
    )
    return f"{texts}<table><tr><th>Answer</th><th>fp32</th><th>{escape(both.plan)}</th></tr>{rows}</table>"


def _probability(reading: Reading | None, label: int, chosen: bool, colours: Palette) -> str:
    """A cell with a bar as long as the probability; the answer is marked in writing too."""
    share = None if reading is None else float(reading.certainty.probabilities[label])
    bar = "" if share is None else f"background-image:{_bar(colours.attention, share)}"
    text = f"{fmt_probability(share) if share is not None else '…'}{' ✓' if chosen else ''}"
    return f'<td class="p{" chosen" if chosen else ""}" style="{bar}">{text}</td>'


def _bar(colour: str, share: float) -> str:
    tint = f"color-mix(in srgb,{colour} 32%,transparent)"
    return f"linear-gradient(to right,{tint} {100 * share:.1f}%,transparent 0)"


def _tags(item: Item, both: Both, colours: Palette) -> str:
    lines = [("fp32", both.before, None), (both.plan, both.after, both.before)]
    if item.reference is not None:
        lines = [
            ("Right answer", item.reference, None),
            *((who, tags, item.reference) for who, tags, _ in lines),
        ]
    parts = []
    for who, tags, other in lines:
        parts.append(f'<div class="who">{escape(who)}</div>')
        parts.append(f'<div class="text long">{_marked_words(item.words, tags, other, colours)}</div>')
    than = "the right answer" if item.reference is not None else "fp32"
    return "".join(parts) + f'<div class="legend"><span>Outlined: differs from {than}</span></div>'


def _marked_words(
    words: Sequence[str], tags: Sequence[str], other: Sequence[str] | None, colours: Palette
) -> str:
    """Words with their entities coloured and named; outlined where the tags differ from `other`."""
    found = sorted(entities(tags), key=lambda entity: entity[1])
    begins = {first: (kind, last) for kind, first, last in found}
    parts, place = [], 0
    while place < len(words):
        kind, last = begins.get(place, ("", place))
        stretch = slice(place, last + 1)
        text = escape(" ".join(words[stretch]))
        differs = " differs" if other is not None and list(tags[stretch]) != list(other[stretch]) else ""
        if kind:
            tint = f"background:color-mix(in srgb,{_kind_colour(kind, colours)} 30%,transparent)"
            text = f'<span class="entity{differs}" style="{tint}">{text}<small>{escape(kind)}</small></span>'
        elif differs:
            text = f'<span class="entity{differs}">{text}</span>'
        parts.append(text)
        place = last + 1
    return " ".join(parts)


def _kind_colour(kind: str, colours: Palette) -> str:
    order = (colours.attention, colours.ffn, colours.embedding, colours.accent)
    return order[KINDS.index(kind)] if kind in KINDS else colours.muted


def _question(item: Item, both: Both, colours: Palette) -> str:
    context, plan = item.texts["context"], escape(both.plan)
    references = list(dict.fromkeys(item.reference or ()))
    models = [
        ("before", "fp32", both.before, both.seen and both.seen.before),
        ("after", plan, both.after, both.seen and both.seen.after),
    ]
    spans = [("reference", _found(context, text)) for text in references]
    said = _said("Right answer", " / ".join(references)) if references else ""
    for name, who, answer, reading in models:
        spans.append((name, reading.certainty.span if reading else _found(context, answer)))
        said += _said(f"{who}: {_score(reading)}", answer or "(nothing)")
    sample = {name: _mark({name}, colours) for name in ("before", "after")}
    legend = (
        '<div class="legend">'
        + ('<span class="reference">right answer</span>' if references else "")
        + f"<span {sample['before']}>fp32 (upper half)</span><span {sample['after']}>{plan} (lower half)</span></div>"
    )
    return (
        f'<div class="who">Question</div><div class="text"><b>{escape(item.texts["question"])}</b></div>'
        f"{said}"
        f'<div class="who">Paragraph</div><div class="text long">{_marked_text(context, spans, colours)}</div>{legend}'
    )


def _said(who: str, text: str) -> str:
    return f'<div class="who">{who}</div><div class="text">{escape(text)}</div>'


def _found(context: str, text: str) -> tuple[int, int] | None:
    start = context.find(text) if text else -1
    return None if start < 0 else (start, start + len(text))


def _score(reading: Reading | None) -> str:
    if reading is None:
        return "…"
    certain = reading.certainty
    start, end = certain.probabilities
    score = f"{certain.score:.1f}".replace("-", "\N{MINUS SIGN}")
    return f"{fmt_probability(start * end)}, score {score}"


def _marked_text(text: str, spans: Sequence[tuple[str, tuple[int, int] | None]], colours: Palette) -> str:
    """`text` with its spans marked; they may overlap, so it is cut wherever one begins or ends."""
    known = [(name, span) for name, span in spans if span is not None]
    cuts = sorted({0, len(text), *(place for _, span in known for place in span)})
    parts = []
    for start, end in pairwise(cuts):
        names = {name for name, span in known if span[0] <= start and end <= span[1]}
        piece = escape(text[start:end])
        parts.append(f"<span {_mark(names, colours)}>{piece}</span>" if names else piece)
    return "".join(parts)


def _mark(names: set[str], colours: Palette) -> str:
    """The attributes of a marked piece: fp32's answer is tinted in its upper half, the plan's in its lower,
    the right one is underlined."""
    tint: Mapping[str, str] = {
        "before": f"color-mix(in srgb,{colours.attention} 34%,transparent)",
        "after": f"color-mix(in srgb,{colours.ffn} 38%,transparent)",
    }
    upper, lower = (tint[name] if name in names else "transparent" for name in ("before", "after"))
    classes = "mark reference" if "reference" in names else "mark"
    return f'class="{classes}" style="background:linear-gradient({upper} 50%,{lower} 50%)"'
