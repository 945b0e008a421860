"""Step 2: what a layer holds."""

from __future__ import annotations

import streamlit as st

from app.cards import Card, cards
from app.figures import (
    Holding,
    fmt_count,
    fmt_lambda,
    fmt_mb,
    fmt_percent,
    holding_bars,
    layer_label,
    weight_histogram,
)
from app.lessons.plans import MATRIX_NAMES
from app.lessons.questions import Question, Truth, parts_question, parts_truth
from app.lessons.settings import Settings
from app.views.steps.base import HIDDEN, Step
from app.weights import OneGroup
from qbert_core.quantization import Site, sites_of
from qbert_core.quantization.size import MB

BARS = 220  # pixels


class EncoderStep(Step):
    def begin(self) -> None:
        self._seen = self.look(OneGroup(self.site.name, 8, 1, 0))

    def controls(self) -> None:
        self.choose_matrix()

    def question(self, asked: Settings) -> Question:
        return parts_question()

    def truth(self, asked: Settings) -> Truth | None:
        return parts_truth(self._of_layer(asked.layer))

    def show(self) -> None:
        site, of_layer = self.site, self._of_layer(self.settings.layer)
        seen = self._seen.found if self._seen else None
        name = f"{layer_label(self.settings.layer)} {MATRIX_NAMES[self.settings.matrix]}"
        share = site.params / sum(other.params for other in of_layer)
        everything = sum(other.params for other in sites_of(self.config))
        span = (
            ("\N{EN DASH}", "")
            if seen is None
            else (fmt_lambda(seen.lowest), f"highest {fmt_lambda(seen.highest)}")
        )
        items = [
            Card(name, f"{site.rows}\N{MULTIPLICATION SIGN}{site.columns}", ("rows × columns",)),
            Card("Weights", fmt_count(site.params), (fmt_mb(4 * site.params / MB) + " in fp32",)),
            Card(
                "Share",
                fmt_percent(share) if self.revealed else "?",
                ("of its layer’s weights", f"{fmt_percent(site.params / everything)} of the model’s")
                if self.revealed
                else ("predict first,", "then reveal"),
            ),
            Card("Lowest weight", span[0], (span[1],)),
        ]
        said = f"From the weights of {self.workspace.checkpoint.name}"
        st.html(cards(items, outdated=seen is None, state=said, plan="", n=0, lines=2))
        st.markdown(f"## The weights of {name}")
        edges, counts = ([], []) if seen is None else (seen.edges.tolist(), seen.counts.tolist())
        self.draw("matrix", (edges, counts), lambda dark: weight_histogram(edges, counts, dark=dark))
        st.markdown("## Attention and FFN by layer")
        held = self._held() if self.revealed else []
        chosen = layer_label(self.settings.layer)
        self.draw(
            "layers",
            (self.revealed, chosen),
            lambda dark: holding_bars(held, chosen=chosen, waiting=HIDDEN, dark=dark, height=BARS),
        )

    def _of_layer(self, layer: int) -> list[Site]:
        return [site for site in sites_of(self.config) if site.layer == layer]

    def _held(self) -> list[Holding]:
        return [
            Holding(
                layer_label(layer),
                kind,
                4 / MB * sum(site.params for site in self._of_layer(layer) if site.kind == kind),
            )
            for layer in range(self.config.layers)
            for kind in ("attention", "ffn")
        ]
