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

from app import downloads, going, presses, runs, selection  # noqa: E402
from app.focus import keep_focus  # noqa: E402
from app.history import ONE_ENTRY  # noqa: E402
from app.listening import listening  # noqa: E402
from app.marked import marked_layer  # noqa: E402
from app.sidebar import sidebar  # noqa: E402
from app.turning import turning  # noqa: E402
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
/* four jobs, the model and the data in the height of a laptop's window */
[data-testid="stSidebarUserContent"] [data-testid=stVerticalBlock]{gap:.4rem}
[data-testid="stSidebarUserContent"] [data-testid=stMarkdown] p{font-size:.875rem}
h1{padding:0 0 .3rem!important}
[data-testid=stButtonGroup]>:not(label) button{min-height:2.5rem} /* as the fields beside it */
h2{padding:.2rem 0 .4rem!important}
/* Streamlit's own colours are too pale to read here */
[data-testid=stCaptionContainer]{color:inherit!important;opacity:.75}
:is([data-testid=stTab][aria-selected=true],[data-testid=stButtonGroup] [data-selected=true],
  [data-testid=stSliderThumbValue]),:is([data-testid=stTab][aria-selected=true],
  [data-testid=stButtonGroup] [data-selected=true]) *{color:inherit!important}
/* a browser at 150 %, or a small window: what stands side by side comes one below the other */
@media (max-width:1080px){
  .stMain [data-testid=stHorizontalBlock]:has([data-testid=stPlotlyChart])>[data-testid=stColumn]{min-width:100%}
  .stMain [data-testid=stColumn]:has([data-testid=stWidgetLabel]){min-width:8.5rem}
  .stMain [data-testid=stColumn]:has([data-testid=stCheckbox]){min-width:12rem}
  .stMain [data-testid=stColumn]:not(:has([data-testid=stColumn])):has([data-testid=stSelectbox]){min-width:12rem}
  .stMain [data-testid=stColumn]:has(>[data-testid=stVerticalBlock]>:only-child>
    :is([data-testid=stButton],[data-testid=stDownloadButton],[data-testid=stButtonGroup])){min-width:max-content}
}
/* buttons that show an icon: their names are there for screen readers, and to be found */
:is(.st-key-undo,.st-key-redo,.st-key-reset,.st-key-learn-back,.st-key-learn-next,[class*=st-key-cancel-job-])
  button [data-testid=stMarkdownContainer]{position:absolute;width:1px;height:1px;overflow:hidden;clip-path:inset(50%)}
.st-key-going{display:none}
/* no chart yet */
[class*="st-key-outlined-"]:not(:has(.js-plotly-plot)) .layer-outline{display:none}
</style>"""
bits_page = st.Page(bits.page, title="Bits", icon=":material/tune:", default=True)
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


def home() -> None:
    st.switch_page(bits_page, query_params=st.query_params.to_dict())


# The home page has no path of its own; people who saw /sensitivity try /bits.
also_home = st.Page(home, title="Bits", url_path="bits", visibility="hidden")
sections = {
    "Tune": [bits_page, sensitivity_page, attention_page, examples_page, also_home],
    "Experiments": [compare_page, landscape_page, finetune_page],
    "Take away": [export_page, learn_page],
}
by_name = {shows.url_path: shows for section in sections.values() for shows in section} | {"bits": bits_page}
downloads.keep_files_for_those_who_ask()
runs.begin()
pressed = presses.made()
page = st.navigation(sections)
going.on(page)
st.html(STYLE)
selection.changed()  # a run of the whole page shows it everywhere
sidebar(by_name)
with st.sidebar:  # where the room it takes is not seen
    st.html(ONE_ENTRY, unsafe_allow_javascript=True)
    listening()
    turning()
    keep_focus()
page.run()
with st.sidebar:
    marked_layer()
    going.follow(by_name)
presses.forget(pressed)
