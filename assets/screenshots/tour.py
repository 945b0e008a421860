"""The tour of README.md: what a person does from the demo to an exported checkpoint, as one moving picture.

Part of `python -m assets.screenshots.make`, which drives the pages.
"""

from __future__ import annotations

import io
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page

from assets.screenshots.driving import measured, still

LONG, SHORT = 3600, 900  # ms a frame is seen
CAPTION = """text => {
    document.querySelector('.tour-caption')?.remove();
    const line = Object.assign(document.createElement('div'), {className: 'tour-caption', textContent: text});
    line.style.cssText = 'position:fixed;left:50%;bottom:28px;transform:translateX(-50%);z-index:1000000;' +
        'padding:10px 22px;border-radius:8px;background:#17212B;color:#fff;' +
        'font:600 21px/1.3 "Source Sans",sans-serif;' +
        'box-shadow:0 4px 18px rgba(0,0,0,.35);white-space:nowrap';
    document.body.append(line);
}"""
PAGES = {  # what is seen after the edit: the page, as its picture shows it, and what is said of it
    "sensitivity": "Which layers are sensitive? Hessian eigenvalues, on several draws of the data",
    "bits": "The bits that follow: 3 where Ω is large, 2 elsewhere",
    "attention": "What that does to a head: its map in fp32, in the plan, and the difference",
    "examples": "Which answers change, and of what kind of sentence",
    "export": "A packed checkpoint that other programs open",
}
Frame = tuple[bytes, int]  # a PNG, and how long it is seen


def captioned(page: Page, caption: str, milliseconds: int = LONG) -> Frame:
    """The page as it is, with a line of text over its foot."""
    page.evaluate(CAPTION, caption)
    return page.screenshot(), milliseconds


def edit(page: Page) -> list[Frame]:
    """Page Bits with the demo's first plan, an edit by keyboard, and its numbers."""
    how = "One click, or one key, gives a layer other bits"
    measured(page)
    still(page)
    frames = [captioned(page, "The demo at 4 bits: what it costs in accuracy, what it saves in size")]
    page.get_by_label("Attention bits of L3", exact=True).focus()
    frames.append(captioned(page, how, SHORT))
    page.keyboard.press("2")
    page.wait_for_timeout(60)
    frames.append(captioned(page, how, SHORT))
    page.locator(".state").filter(has_text="by hand: all").wait_for()
    still(page)
    return [*frames, captioned(page, "The numbers follow at once")]


def save(frames: list[Frame], target: Path) -> None:
    """Write the moving picture: WebP without loss, again and again."""
    pictures = [Image.open(io.BytesIO(png)).convert("RGB") for png, _ in frames]
    pictures[0].save(
        target, "WEBP", save_all=True, append_images=pictures[1:], duration=[ms for _, ms in frames], loop=0,
        lossless=True, method=6,
    )  # fmt: skip
