"""The paper's plans, for a model of any depth.

The mixed-precision tables name layers of a 12-layer BERT. For a model of L layers, its layer j
covers the stretch [12 j / L, 12 (j + 1) / L) of the paper's twelve. K = round(12-layer count x L / 12)
layers get the higher bits: those whose stretch holds the largest share of the paper's high layers;
among equals the one nearer to the middle of the paper's high layers, then the lower one. For L = 12
this is the paper's table itself.
"""

from __future__ import annotations

from qbert_core.bert import BertConfig
from qbert_core.errors import InputError
from qbert_core.quantization.plan import FULL, Plan, uniform_plan
from qbert_core.quantization.sites import sites_of

GROUPS = 128  # the paper's choice after Table 2
EMBEDDING_BITS = 8
PAPER_LAYERS = 12
# Q-BERT's appendix, 1-based layers of BERT-base; (low, high) bits -> task -> layers with high bits
MIXED = {
    (2, 4): {
        "sst2": (3, 4, 5, 7, 8, 9),
        "mnli": (4, 5, 6, 7, 8),
        "conll03": (4, 5, 6, 7, 8),
        "squad": (4, 5, 6, 7, 8),
    },
    (2, 3): {
        "sst2": (4, 5, 6, 7, 8, 9),
        "mnli": (5, 6, 7, 8),
        "conll03": (2, 3, 4, 5),
        "squad": (4, 5, 6, 7, 8, 9),
    },
}


def presets(config: BertConfig, task: str) -> list[Plan]:
    """baseline; directq and qbert at 8, 4, 3, 2 bits; qbert-mp-2-4 and qbert-mp-2-3 for `task`."""
    sites = sites_of(config)
    plans = [uniform_plan(sites, "baseline", bits=FULL, groups=1, embedding_bits=FULL, activation_bits=FULL)]
    for method, groups in (("directq", 1), ("qbert", GROUPS)):
        for bits in (8, 4, 3, 2):
            plans.append(
                uniform_plan(
                    sites,
                    f"{method}-{bits}",
                    bits=bits,
                    groups=groups,
                    embedding_bits=EMBEDDING_BITS,
                    activation_bits=8,
                )
            )
    for (low, high), by_task in MIXED.items():
        plans.append(
            uniform_plan(
                sites,
                f"qbert-mp-{low}-{high}",
                bits=low,
                groups=GROUPS,
                embedding_bits=EMBEDDING_BITS,
                activation_bits=8,
                layer_bits=dict.fromkeys(map_layers(by_task[task], config.layers), high),
            )
        )
    return plans


def preset_named(config: BertConfig, task: str, name: str) -> Plan:
    """The preset called `name`; `InputError` names those there are."""
    plans = {plan.name: plan for plan in presets(config, task)}
    if name not in plans:
        raise InputError(f"{name}: no such file and no such preset; presets are {', '.join(plans)}")
    return plans[name]


def map_layers(paper: tuple[int, ...], layers: int) -> list[int]:
    """The paper's 1-based high layers of 12 -> the 0-based high layers of a model with `layers`.

    >>> map_layers((4, 5, 6, 7, 8, 9), 6)
    [1, 2, 3]
    """
    count = round(len(paper) * layers / PAPER_LAYERS)
    middle = sum(p - 0.5 for p in paper) / len(paper)
    width = PAPER_LAYERS / layers

    def order(j: int) -> tuple[float, float, int]:
        start, end = j * width, (j + 1) * width
        overlap = sum(max(0.0, min(end, p) - max(start, p - 1)) for p in paper)
        # rounded: equal shares must tie whatever 12 / layers is in binary
        return (-round(overlap / width, 9), round(abs((start + end) / 2 - middle), 9), j)

    return sorted(sorted(range(layers), key=order)[:count])
