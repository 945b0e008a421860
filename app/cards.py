"""The row of live numbers: each with what it is compared to and how sure it is."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass

STYLE = """<style>
.numbers{container-type:inline-size}
.cards{display:grid;grid-template-columns:repeat(4,minmax(0,1fr));gap:.5rem;margin:0 0 .25rem;
  font-variant-numeric:tabular-nums}
.card{border:1px solid color-mix(in srgb,currentColor 18%,transparent);border-radius:6px;
  padding:.5rem .65rem .55rem;min-width:0}
.card .label{font-size:.8125rem;opacity:.8}
.card .value{font-size:1.6rem;font-weight:600;line-height:1.25;white-space:nowrap}
.card .note{font-size:.75rem;line-height:1.35;opacity:.85;min-height:calc(1.35em*var(--lines));
  white-space:nowrap;overflow:hidden;text-overflow:ellipsis}
.cards.outdated .card{border-style:dashed}
.cards.outdated .value,.cards.outdated .note{opacity:.65} /* less would be too pale to read */
.state{font-size:.8125rem;min-height:1.4em;margin:0 0 .35rem}
.state b{font-weight:600}
@container (max-width:37rem){.cards{grid-template-columns:repeat(2,minmax(0,1fr))}}
</style>"""


@dataclass(frozen=True)
class Card:
    """A number, its label, and two short lines of what it means."""

    label: str
    value: str
    notes: Sequence[str]


def cards(items: Sequence[Card], *, outdated: bool, state: str, plan: str, n: int, lines: int = 3) -> str:
    """HTML of the row; `state` says in words what the numbers are ("400 of 400 sentences"), `plan`
    and `n` the same for programs: the digest of the plan shown, and the examples it was measured on. There is
    room for notes of so many `lines`, so that the row keeps its height while numbers come and go."""
    body = "".join(
        f'<div class="card" role="group" aria-label="{html.escape(card.label)}">'
        f'<div class="label">{html.escape(card.label)}</div>'
        f'<div class="value">{html.escape(card.value)}</div>'
        f'<div class="note">{"<br>".join(html.escape(note) for note in card.notes)}</div></div>'
        for card in items
    )
    kind = "outdated" if outdated else "current"
    return (
        f'{STYLE}<div class="state" data-state="{kind}" data-plan="{plan}" data-n="{n}" '
        f'aria-live="polite">{html.escape(state)}</div>'
        f'<div class="numbers"><div class="cards {kind}" style="--lines:{lines}">{body}</div></div>'
    )
