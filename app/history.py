"""Whether the address of this run is one the person went to, and how the browser notes ours.

The browser sends its address with every message, and a message that left before our last change of the address
arrived still holds the one before. Taken for a choice, that would undo the newest edit. Within a session only
Back and Forward lead to another address: one that is typed or pasted begins a new session.
"""

from __future__ import annotations

from collections.abc import Sized

from streamlit.runtime.scriptrunner import get_script_run_ctx

# An address that a page completes by itself is no place to go back to: from there the page would complete it
# again, and Back would lead nowhere. So it takes the place of the one before: where that held no plan
# (Streamlit's navigation opens /examples, and the page then writes /examples?plan=..), and after Back and
# Forward until the person does something.
ONE_ENTRY = """<script>
if (!history.oneEntry) {
  const push = history.pushState.bind(history);
  let travelled = false;
  history.oneEntry = true;
  addEventListener('popstate', () => { travelled = true; }, true);
  for (const deed of ['pointerdown', 'keydown']) addEventListener(deed, () => { travelled = false; }, true);
  history.pushState = (state, title, url) => {
    const completed = travelled || !new URLSearchParams(location.search).has('plan');
    (completed && new URL(url, location).pathname === location.pathname
      ? history.replaceState.bind(history) : push)(state, title, url);
  };
}
</script>"""


def went_back() -> bool:
    """Whether Back or Forward led here."""
    context = get_script_run_ctx()
    return context is not None and context.is_history_navigation


def leads(kept: Sized) -> bool:
    """Whether a page takes its choices from the address: on a session's arrival, while it has kept none, and
    after Back and Forward."""
    return not kept or went_back()
