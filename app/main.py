"""The dashboard. Start it with `make run`."""

from __future__ import annotations

import sys
from pathlib import Path

# `streamlit run app/main.py` puts app/ on the path, not the project
ROOT = str(Path(__file__).resolve().parents[1])
if ROOT not in sys.path:
    sys.path.insert(0, ROOT)

import streamlit as st  # noqa: E402

st.set_page_config(
    page_title="Q-BERT Studio",
    page_icon=str(Path(ROOT) / "assets" / "logo.png"),
    layout="wide",
    initial_sidebar_state=232,
)

from app import selection  # noqa: E402
from app.marked import marked_layer  # noqa: E402
from app.sidebar import sidebar  # noqa: E402
from app.views import (  # noqa: E402
    attention,
    bits,
    compare,
    examples,
    export,
    finetune,
    landscape,
    learn,
    sensitivity,
)

STYLE = """<style>
.block-container{padding:2.6rem 1.6rem 3rem;max-width:1500px}
[data-testid="stSidebarUserContent"]{padding-top:.5rem}
h1{padding:0 0 .1rem!important}
.st-key-plan-tables [data-testid="stElementToolbar"]{display:none} /* it covers undo, redo and reset */
[class*="st-key-outlined-"]:not(:has(.js-plotly-plot)) .layer-outline{display:none} /* no chart yet */
h6{padding:.2rem 0 0!important;margin-bottom:-.9rem}
</style>"""

bits_page = st.Page(bits.page, title="Bits", icon=":material/tune:", url_path="bits", default=True)
sensitivity_page = st.Page(
    sensitivity.page, title="Sensitivity", icon=":material/insights:", url_path="sensitivity"
)
attention_page = st.Page(
    attention.page, title="Attention", icon=":material/visibility:", url_path="attention"
)
examples_page = st.Page(examples.page, title="Examples", icon=":material/rule:", url_path="examples")
compare_page = st.Page(compare.page, title="Compare", icon=":material/compare_arrows:", url_path="compare")
landscape_page = st.Page(
    landscape.page, title="Loss landscape", icon=":material/landscape:", url_path="landscape"
)
finetune_page = st.Page(
    finetune.page, title="Finetune", icon=":material/model_training:", url_path="finetune"
)
export_page = st.Page(export.page, title="Export", icon=":material/ios_share:", url_path="export")
learn_page = st.Page(learn.page, title="Learn", icon=":material/school:", url_path="learn")
page = st.navigation(
    {
        "Tune": [bits_page, sensitivity_page, attention_page, examples_page],
        "Experiments": [compare_page, landscape_page, finetune_page],
        "Take away": [export_page, learn_page],
    }
)
if st.session_state.pop("go_to_bits", False):
    st.switch_page(bits_page)
if st.session_state.pop("go_to_attention", False):
    st.switch_page(attention_page)
st.html(STYLE)
selection.changed()  # a run of the whole page shows it everywhere
with_jobs = (sensitivity_page, compare_page, landscape_page, finetune_page, export_page, learn_page)
sidebar({shows.url_path: shows for shows in with_jobs})
page.run()
marked_layer()
