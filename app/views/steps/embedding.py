"""Step 1: the tables, their share of the bytes, and what few bits for them cost."""

from __future__ import annotations

import streamlit as st

from app.cards import Card, cards
from app.figures import (
    Holding,
    fmt_count,
    fmt_interval,
    fmt_mb,
    fmt_percent,
    fmt_signed_points,
    holding_bars,
    layer_label,
)
from app.lessons.plans import tables_plan
from app.lessons.questions import Question, Truth, loss_truth, metric_word, tables_question
from app.lessons.settings import TABLE_BITS, Settings
from app.measured import Measured, measured_words
from app.views.steps.base import Step
from qbert_core.quantization import fp32_size, plan_size, sites_of
from qbert_core.quantization.plan import FULL
from qbert_core.quantization.size import MB

TABLES = {"word": "Word", "position": "Pos.", "token_type": "Type"}  # as short as the axis needs them


class EmbeddingStep(Step):
    def begin(self) -> None:
        self.measure(self.workspace.baseline, "learn baseline")
        self.measure(tables_plan(self.config, self.asked.tables), "learn asked")
        self.measure(tables_plan(self.config, self.settings.tables))

    def controls(self) -> None:
        self.slide("Bits of the tables", "tables", TABLE_BITS, lambda b: "fp32" if b == FULL else str(b))

    def question(self, asked: Settings) -> Question:
        return tables_question(asked, metric_word(self.workspace.task))

    def truth(self, asked: Settings) -> Truth | None:
        before = self.complete(self.workspace.baseline)
        after = self.complete(tables_plan(self.config, asked.tables))
        return loss_truth(self.workspace.task, before, after) if before and after else None

    def show(self) -> None:
        plan = tables_plan(self.config, self.settings.tables)
        now = self.measured(plan)
        full, size = fp32_size(self.config), plan_size(self.config, plan)
        share = full["embedding"] / full["total"]
        items = [
            Card("Tables in fp32", fmt_mb(full["embedding"]), (f"{fmt_percent(share)} of the bytes",)),
            Card("Encoder in fp32", fmt_mb(full["encoder"]), (f"{self.config.layers} layers",)),
            Card(
                "Size now", fmt_mb(size.size_mb), (f"tables {fmt_mb(size.embedding_mb)},", "the rest in fp32")
            ),
            metric_card(self, now),
        ]
        show_cards(self, items, now, "From the model’s shape")
        st.markdown("## Where the bytes are")
        self.draw(
            "holdings", "tables", lambda dark: holding_bars(self._held(), chosen=None, waiting="", dark=dark)
        )

    def _held(self) -> list[Holding]:
        found = []
        for site in sites_of(self.config):
            if site.layer is None:
                name = site.name.removeprefix("bert.embeddings.").removesuffix("_embeddings")
                found.append(Holding(TABLES[name], "embedding", 4 * site.params / MB))
        encoder = fp32_size(self.config)["encoder"] / self.config.layers
        return found + [Holding(layer_label(i), "layer", encoder) for i in range(self.config.layers)]


def metric_card(step: Step, now: Measured) -> Card:
    """The task's metric with n and interval, not before the class has predicted."""
    if not step.revealed:
        return Card(step.metric, "?", ("predict first,", "then reveal"))
    if now.result is None:
        return Card(step.metric, "\N{EN DASH}", ("", ""))
    metric = step.workspace.task.metric
    value, base = now.result.score.metrics[metric], now.result.baseline.metrics[metric]
    return Card(
        step.metric,
        fmt_percent(value),
        (
            f"fp32 {fmt_percent(base)}, {fmt_signed_points(value - base)}",
            f"95 %: {fmt_interval(*now.result.score.interval)}",
            f"n = {fmt_count(now.result.n)}",
        ),
    )


def show_cards(step: Step, items: list[Card], now: Measured, source: str) -> None:
    """A row of numbers over which stands which plan they are of, where the metric is among them; before it is,
    the `source` of the others."""
    if now.error:
        st.error(now.error, icon=":material/error:")
    shown = step.revealed and now.result is not None
    hidden = f"{source}; {step.metric} is still hidden"
    said = measured_words(step.workspace, now) if step.revealed else hidden
    st.html(
        cards(
            items,
            outdated=now.outdated and step.revealed,
            state=said,
            plan=now.result.plan.digest if shown and now.result else "",
            n=now.result.n if shown and now.result else 0,
        )
    )
