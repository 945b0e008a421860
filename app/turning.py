"""A page that is drawn anew when it turns dark or light: figures have the colours of one of the two."""

from __future__ import annotations

import streamlit as st

from app import state

# Streamlit turns everything but what a script has drawn, and does not run the script for it.
# Once a background: where the two never agree, the page would ask for itself without end.
_WATCH = """
let asked = null;

export default function ({ data, setTriggerValue }) {
  const app = document.querySelector("[data-testid=stApp]");
  const look = () => {
    const background = getComputedStyle(app).backgroundColor;
    const [red, green, blue] = background.match(/[\\d.]+/g).map(Number);
    const dark = 0.2126 * red + 0.7152 * green + 0.0722 * blue < 128;
    if (dark === data.dark) {
      asked = null;
    } else if (asked !== background) {
      asked = background;
      setTriggerValue("turned", dark);
    }
  };
  const observer = new MutationObserver(look);
  observer.observe(app, { attributes: true, attributeFilter: ["class"] });
  look();
  return () => observer.disconnect();
}
"""
_component = st.components.v2.component("turning", js=_WATCH, html="<span></span>", isolate_styles=False)


def turning() -> None:
    """Nothing to see: run the page when its background says otherwise than `state.dark` did in this run."""
    _component(key="turning", data={"dark": state.dark()}, on_turned_change=lambda: None)
