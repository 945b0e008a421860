"""The plans the lessons measure, and the matrices they look at."""

from __future__ import annotations

from qbert_core.allocation import allocate_by_rank, rank
from qbert_core.bert import BertConfig
from qbert_core.curvature import Sensitivity
from qbert_core.quantization import Plan, Site, preset_named, sites_of
from qbert_core.quantization.plan import FULL, uniform_plan
from qbert_core.quantization.presets import EMBEDDING_BITS, GROUPS

BITS = (2, 4)  # low and high, of the last lesson
MATRIX_NAMES = ("Query", "Key", "Value", "Output", "FFN in", "FFN out")
MOST, LEAST, PAPER = CHOICES = ("Most sensitive", "Least sensitive", "The paper’s")


def matrix_of(config: BertConfig, layer: int, matrix: int) -> Site:
    """One of the six matrices of a layer, in the order of `MATRIX_NAMES`."""
    return [site for site in sites_of(config) if site.layer == layer][matrix]


def group_count(word: str, config: BertConfig, rows: int) -> int:
    """How many groups a word of `COUNTS` means for a matrix of so many rows; at most one a row."""
    count = {"heads": config.heads, "rows": rows}.get(word)
    return min(int(word) if count is None else count, rows)


def tables_plan(config: BertConfig, bits: int) -> Plan:
    """Only the embedding tables quantized."""
    return uniform_plan(
        sites_of(config), f"tables at {bits} bits", bits=FULL, groups=GROUPS, embedding_bits=bits,
        activation_bits=FULL,
    )  # fmt: skip


def count_plan(config: BertConfig, word: str) -> Plan:
    """4 bits with this group count everywhere; embedding and activations at 8, as in the presets."""
    rows = max(config.hidden, config.intermediate)
    groups = {"heads": config.heads, "rows": rows}.get(word) or int(word)
    return uniform_plan(
        sites_of(config), f"4 bits, groups: {word}", bits=4, groups=groups, embedding_bits=EMBEDDING_BITS,
        activation_bits=8,
    )  # fmt: skip


def paper_plan(config: BertConfig, task: str) -> Plan:
    """The paper's 2/4 plan, scaled to the model's depth."""
    return preset_named(config, task, "qbert-mp-2-4")


def high_layers(config: BertConfig, plan: Plan) -> list[int]:
    """The layers, from 0, whose first matrix has the high bits."""
    return [
        layer
        for layer in range(config.layers)
        if plan.sites[matrix_of(config, layer, 0).name].bits == BITS[1]
    ]


def paper_high(config: BertConfig, task: str) -> int:
    """How many layers of such a model the paper's plan gives 4 bits."""
    return len(high_layers(config, paper_plan(config, task)))


def choice_plans(config: BertConfig, task: str, sensitivity: Sensitivity, high: int) -> dict[str, Plan]:
    """Choice -> plan with 4 bits for `high` layers and 2 for the others; the paper's has its own layers."""
    first = [layer for layer, _ in rank(sensitivity)]
    most = allocate_by_rank(sensitivity, BITS, high=high)
    least = {layer: BITS[layer in first[len(first) - high :]] for layer in first}
    return {
        MOST: _by_layer(config, "most sensitive 4, others 2", most),
        LEAST: _by_layer(config, "least sensitive 4, others 2", least),
        PAPER: paper_plan(config, task),
    }


def _by_layer(config: BertConfig, name: str, bits: dict[int, int]) -> Plan:
    return uniform_plan(
        sites_of(config), name, bits=BITS[0], groups=GROUPS, embedding_bits=EMBEDDING_BITS, activation_bits=8,
        layer_bits=bits,
    )  # fmt: skip
