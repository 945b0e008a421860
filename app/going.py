"""Going to another page without a click on its link, as *Apply these bits* does.

The browser goes, not the server. After `st.switch_page` the server is on the new page before the browser hears
of it. What the browser asks meanwhile, such as the list of jobs that is drawn every second, still names the page
before, and the answer to that clears the window for good.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NoReturn

import streamlit as st

HERE, WAY = "page shown", "way to another page"
LINK = "going"
# Streamlit may have yet to fetch what draws a link
FOLLOW = f"""<script>
(function follow(tries) {{
  const link = document.querySelector('.st-key-{LINK} a');
  if (link) link.click(); else if (tries) setTimeout(follow, 20, tries - 1);
}})(1000);
</script>"""


def on(page: st.Page) -> None:
    """Note that this run shows `page`. A way from another page has been gone, or the person went elsewhere."""
    st.session_state[HERE] = page.title
    if leaving() and st.session_state[WAY][0] != page.title:
        del st.session_state[WAY]


def go_to(name: str) -> NoReturn:
    """End this run, and have the next one lead from the page that is shown to the one of this name."""
    st.session_state[WAY] = (st.session_state[HERE], name)
    st.rerun()


def leaving() -> bool:
    """Whether this run leads to another page."""
    return WAY in st.session_state


def follow(by_name: Mapping[str, st.Page]) -> None:
    """Have the browser go where it was asked to. The last of a run: by then the browser knows all that this page
    wants to ask again and again, and stops asking when it leaves."""
    if leaving():
        with st.container(key=LINK):
            st.page_link(by_name[st.session_state[WAY][1]])
        st.html(FOLLOW, unsafe_allow_javascript=True)
