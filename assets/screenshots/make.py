"""The pictures of README.md: `python -m assets.screenshots.make [PAGE ..]`, every page in both themes and the tour.

Opens the demo in a browser, does what a person would do (analyse, apply 2 and 3 bits, compare, train a little,
export), and takes each page as it is then. Needs Chromium; takes about ten minutes on two cores for all pages.
"""

from __future__ import annotations

import argparse
import io
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlencode

from PIL import Image
from playwright.sync_api import Browser, Page

from assets.screenshots import tour
from assets.screenshots.driving import SIZE, fill, finished, go, measured, new_page, settled, still
from benchmarks.app_server import browser, running_app

FOLDER = Path(__file__).resolve().parent
SURFACES = "--enable-unsafe-swiftshader"  # they are drawn by WebGL, in software here


@dataclass(frozen=True)
class Shot:
    """A page: its path, how many figures it has when all is drawn, what its link says besides the plan, and
    the job it shows."""

    path: str
    figures: int = 0
    query: tuple[tuple[str, str], ...] = ()
    job: str = ""


SHOTS = {
    "bits": Shot("/", 2),  # the page a link without a path opens
    "sensitivity": Shot("/sensitivity", 2, job="sensitivity"),
    "attention": Shot("/attention", 2, (("layer", "3"), ("head", "5"))),
    "examples": Shot("/examples"),
    "compare": Shot("/compare", 1, job="compare"),
    "landscape": Shot("/landscape", 2, job="landscape"),
    "finetune": Shot("/finetune", 1, job="finetune"),
    "export": Shot("/export", job="export"),
    "learn": Shot("/learn", 1, (("lesson", "3"), ("bits", "3"))),
}
TOUR = "tour"
ALL = (*SHOTS, TOUR)


def main() -> None:
    """Make the pictures asked for, all when none is named."""
    parser = argparse.ArgumentParser(prog="python -m assets.screenshots.make", description=__doc__)
    parser.add_argument("pages", nargs="*", metavar="PAGE", help=f"of {', '.join(ALL)}; all when none")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where they go")
    parser.add_argument("--size", type=int, nargs=2, default=SIZE, metavar=("WIDTH", "HEIGHT"), help="of the window")
    parser.add_argument("--runs", type=int, default=5, help="of the sensitivity analysis")
    parser.add_argument("--home", type=Path, help="$QBERT_HOME with finished work of an earlier time")
    parser.add_argument("--plan", help="a plan as links hold it: with it, only take what --home has finished")
    options = parser.parse_args()
    asked = options.pages or list(ALL)
    if unknown := set(asked) - set(ALL):
        parser.error(f"no page {', '.join(sorted(unknown))}; there is {', '.join(ALL)}")
    wanted = [name for name in asked if name in SHOTS]
    with running_app(options.home) as server, browser(SURFACES) as chromium:
        server.answers()
        shown = [*wanted, *(tour.PAGES if TOUR in asked else ())]
        jobs = {SHOTS[name].job for name in shown}
        plan = options.plan or prepare(chromium, server.address, jobs, options.runs)
        print(f"plan {plan}", flush=True)
        for scheme in ("light", "dark"):
            page = new_page(chromium, scheme, options.size)
            for name in wanted:
                target = options.folder / f"{name}-{scheme}.webp"
                save(taken(page, server.address, SHOTS[name], plan), target)
                print(f"{target}: {target.stat().st_size:,} bytes", flush=True)
            page.context.close()
        if TOUR in asked:
            page = new_page(chromium, "light", options.size)
            target = options.folder / f"{TOUR}.webp"
            go(page, server.address)
            frames = tour.edit(page)
            for name in tour.PAGES:
                taken(page, server.address, SHOTS[name], plan)
                frames.append(tour.captioned(page, tour.PAGES[name]))
            tour.save(frames, target)
            print(f"{target}: {target.stat().st_size:,} bytes", flush=True)


def prepare(chromium: Browser, address: str, jobs: set[str], runs: int) -> str:
    """Make the plan of the pictures and run the jobs they show; returns the plan as it stands in links."""
    page = new_page(chromium, "light")
    go(page, f"{address}/sensitivity")
    fill(page, "Runs", str(runs))
    page.get_by_role("button", name="Start", exact=True).click()
    page.get_by_text(f"from {runs} complete runs").wait_for()
    finished(page)
    page.get_by_text("2 and 3", exact=True).click()
    settled(page)
    page.get_by_role("button", name="Apply these bits").click()
    page.wait_for_url(re.compile(r"/(bits)?\?.*plan="))
    measured(page)
    found = re.search(r"plan=([\w-]+)", page.url)
    assert found is not None
    plan = found[1]
    for job in sorted(jobs & {"compare", "landscape", "finetune", "export"}):
        go(page, f"{address}/{job}?plan={plan}")
        if job == "finetune":
            fill(page, "Epochs", "1")
        if job == "export":
            page.get_by_text("Smallest", exact=True).click()
            settled(page)
        page.get_by_role("button", name="Export" if job == "export" else "Start", exact=True).click()
        settled(page)
    finished(page)
    page.context.close()
    return plan


def taken(page: Page, address: str, shot: Shot, plan: str) -> bytes:
    """A page as PNG."""
    go(page, f"{address}{shot.path}?{urlencode((('plan', plan), *shot.query))}")
    if shot.path == "/export":
        page.get_by_text("Smallest", exact=True).click()
        settled(page)
    measured(page)
    if shot.figures:
        page.locator(".js-plotly-plot").nth(shot.figures - 1).wait_for(state="attached")
    return still(page)


def save(png: bytes, target: Path) -> None:
    """Write the picture, replacing the old one whole. Lossless: flat areas and text take less so than as JPEG."""
    with tempfile.NamedTemporaryFile(dir=target.parent, suffix=".partial", delete=False) as file:
        Image.open(io.BytesIO(png)).convert("RGB").save(file, "WEBP", lossless=True, method=6)
    Path(file.name).chmod(0o644)
    Path(file.name).replace(target)


if __name__ == "__main__":
    main()
