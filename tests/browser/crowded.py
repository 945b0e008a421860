"""What does not fit where it stands on a page."""

from __future__ import annotations

from typing import Any

from playwright.sync_api import Page

CUT = "es => es.filter(e => e.scrollWidth > e.clientWidth + 1).map(e => e.innerText)"
OVERLAPPING = """() => {
    const all = [...document.querySelectorAll('.stMain [data-testid=stElementContainer]')]
        .map(e => [e, e.getBoundingClientRect()]).filter(([e, box]) => box.width > 2 && box.height > 2);
    const found = [];
    for (const [i, [e, a]] of all.entries()) for (const [f, b] of all.slice(i + 1)) {
        const across = Math.min(a.right, b.right) - Math.max(a.left, b.left);
        const down = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
        if (across > 2 && down > 2 && !e.contains(f) && !f.contains(e))
            found.push([e.innerText.slice(0, 40), f.innerText.slice(0, 40), across, down]);
    }
    return found;
}"""
WIDE = "() => ['html', '.stMain'].map(s => document.querySelector(s)).filter(e => e.scrollWidth > e.clientWidth).length"
TEXTS = (
    ".card .label", ".card .value", ".card .note", "[data-testid=stWidgetLabel] *", ".stMain button p",
    "[data-testid=stSidebarNavLink] span", ".stMain [data-testid=stHtml]",
    # but for those that show an icon alone
    ".stMain [data-testid=stElementContainer]:not(.st-key-undo,.st-key-redo,.st-key-reset,.st-key-learn-back,"
    ".st-key-learn-next) [data-testid=stButton] *",
)  # fmt: skip
# what scrolls by design, a list of sentences, and (below) a line somebody types into, which may be of any length
SCROLLS = ".js-plotly-plot, .plan-table, [role=tablist], .katex, .answers .long, .st-key-attention-row, " + ", ".join(
    f"[data-testid={name}]" for name in ("stDataFrame", "stCode", "stTextArea")
)
CLIPPED = """scrolls => [...document.querySelectorAll('.stMain *')].filter(e =>
    e.clientWidth > 1 && e.scrollWidth > e.clientWidth + 1 && !e.closest(scrolls) && !(e.type === 'text' && e.value)
    && getComputedStyle(e).display !== 'inline' && getComputedStyle(e).overflowX !== 'visible'
).map(e => [e.tagName, e.innerText || e.value])"""


def crowded(page: Page) -> dict[str, Any]:
    """What is cut off, lies over something else or is wider than the page."""
    found: dict[str, Any] = {text: page.eval_on_selector_all(text, CUT) for text in TEXTS}
    found["clipped"] = page.evaluate(CLIPPED, SCROLLS)
    found |= {"wide": page.evaluate(WIDE), "overlapping": page.evaluate(OVERLAPPING)}
    return {name: what for name, what in found.items() if what}
