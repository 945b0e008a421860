"""The focus of the keyboard stays where it is when what has it is replaced.

A choice that changes the plan makes a new box, slider or switch of the same name (`state.version`), and what the old
one had, the browser gives to nobody: the next key would begin at the top of the page.
"""

from __future__ import annotations

import streamlit as st

_KEEP = """
const PATIENCE = 3000; // ms until what takes its place is there
const MAIN = "[data-testid=stMain]";
let held = null; // the element that has the focus, what it is called, and until when its successor is awaited

const called = (element) => {
  const label = element.closest("[data-testid=stElementContainer]")?.querySelector("[data-testid=stWidgetLabel]");
  const own = element.getAttribute("aria-label") ?? element.innerText;
  return [element.tagName, element.getAttribute("role"), own, label?.innerText].join("|");
};

const take = ({ target }) => {
  held = target.closest?.(MAIN) ? { element: target, called: called(target), until: Infinity } : null;
};

const leave = () => setTimeout(() => { // a click on nothing; what is replaced is gone by then
  if (held?.element.isConnected && document.activeElement === document.body) held = null;
});

const look = () => {
  if (!held || held.element.isConnected) return;
  if (held.until === Infinity) held.until = performance.now() + PATIENCE;
  if (document.activeElement !== document.body || performance.now() > held.until) {
    held = null;
    return;
  }
  const same = [...document.querySelectorAll(`${MAIN} ${held.element.tagName}`)].find((e) => called(e) === held.called);
  same?.focus({ preventScroll: true });
};

export default function () {
  const observer = new MutationObserver(look);
  observer.observe(document.body, { childList: true, subtree: true });
  const listened = { focusin: take, focusout: leave };
  for (const [event, heard] of Object.entries(listened)) document.addEventListener(event, heard, true);
  return () => {
    observer.disconnect();
    for (const [event, heard] of Object.entries(listened)) document.removeEventListener(event, heard, true);
  };
}
"""
_component = st.components.v2.component("focus", js=_KEEP, html="<span></span>", isolate_styles=False)


def keep_focus() -> None:
    """Nothing to see: have the browser give the focus to what takes the place of what had it."""
    _component(key="focus")
