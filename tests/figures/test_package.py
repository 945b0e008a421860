"""What the figures share with each other and with whoever shows them."""

from __future__ import annotations

import subprocess
import sys

from app.figures import alt_text, chart_config, empty_figure, kl_heatmap


def test_figures_need_neither_streamlit_nor_the_engine() -> None:
    code = (
        "import sys, app.figures; "
        "print([m for m in sys.modules if m.split('.')[0] in ('streamlit', 'torch', 'qbert_core')])"
    )
    assert (
        subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
        == "[]\n"
    )


def test_the_mode_bar_is_a_camera_that_saves_svg() -> None:
    config = chart_config("attention-kl")
    assert config["displaylogo"] is False
    assert config["toImageButtonOptions"] == {"format": "svg", "filename": "attention-kl"}
    assert {"zoom2d", "pan2d", "select2d", "lasso2d"} <= set(config["modeBarButtonsToRemove"])


def test_the_same_data_make_the_same_figure() -> None:
    """Streamlit remounts a chart whose JSON changed, so equal data must give equal JSON."""
    first, second = (kl_heatmap([[0.1, 0.2]], dark=True).to_json() for _ in range(2))
    assert first == second


def test_a_figure_describes_itself_for_screen_readers() -> None:
    figure = kl_heatmap([[0.1, 0.3], [0.2, None]], dark=False)
    assert alt_text(figure) == (
        "Attention KL of 2 layers by 2 heads: mean 0.200 nats, highest 0.300 nats in layer 1, head 2."
    )


def test_a_message_cannot_be_markup() -> None:
    assert "<a" not in empty_figure("<a href='x'>y</a>", dark=False, height=100).layout.annotations[0].text
