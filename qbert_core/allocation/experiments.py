"""The paper's experiments as lists of plans: methods, group counts, modules, one site at a time.

Every list starts with the fp32 model and goes on with what tells most. Two variants may hold the same
plan under two names (two rules that choose the same layers): their digests are equal.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from qbert_core.allocation.ranking import rank
from qbert_core.bert import BertConfig
from qbert_core.curvature import Sensitivity
from qbert_core.errors import InputError
from qbert_core.quantization import Plan, Site, SitePlan, preset_named, sites_of
from qbert_core.quantization.plan import FULL, uniform_plan
from qbert_core.quantization.presets import EMBEDDING_BITS, GROUPS

GROUP_WORDS = ("heads", "128-equivalent", "rows")
WIDTH_OF_BERT_BASE = 768
PAIRS = ((2, 4), (2, 3))  # the paper's mixed widths, low and high
RULES = ("qbert-mp", "hawq", "reverse")  # how a method picks the layers with the higher width


@dataclass(frozen=True)
class Variant:
    """A plan in an experiment. `plan.name` is the variant's name, `method` what made it."""

    method: str
    plan: Plan

    @property
    def name(self) -> str:
        return self.plan.name


def methods(
    config: BertConfig, task: str, sensitivity: Sensitivity, high: int | None = None
) -> tuple[Variant, ...]:
    """The paper's Table 1: baseline; directq and qbert at 8, 4, 3, 2 bits; mixed precision 2/4 and 2/3.

    `high` layers get the higher width, by five choices of layers: the largest Omega (`qbert-mp`), the
    largest |mean(lambda)| (`hawq`), the SMALLEST Omega (`reverse`, the control: if curvature says
    anything it must do worse), and the layers of the paper's appendix for this `task`
    (`qbert-mp-paper`). Without `high` every pair of widths takes the number of layers the paper's
    preset has at this depth. With another number than the preset's, `qbert-mp-paper` is left out, so that all
    mixed plans of a pair are equally large.

    Raises `InputError` for `high` out of range and a sensitivity of other layers.
    """
    found = sorted(block.layer for block in sensitivity.blocks)
    ranking = {
        "qbert-mp": [layer for layer, _ in rank(sensitivity, "omega")],
        "hawq": [layer for layer, _ in rank(sensitivity, "mean")],
    }
    ranking["reverse"] = ranking["qbert-mp"][::-1]
    if found != list(range(config.layers)):
        raise InputError(f"the sensitivity is of layers {found}; the model has 0..{config.layers - 1}")
    check_high(config, high)
    mixed: list[list[Variant]] = []
    for low, top in PAIRS:
        rows: list[Variant] = []
        paper = preset_named(config, task, f"qbert-mp-{low}-{top}")
        own = len(preset_layers(config, task, low, top))
        count = own if high is None else high
        for rule in RULES:
            layer_bits = dict.fromkeys(ranking[rule][:count], top)
            plan = uniform_plan(
                sites_of(config),
                f"{rule}-{low}-{top}-high-{count}",
                bits=low,
                groups=GROUPS,
                embedding_bits=EMBEDDING_BITS,
                activation_bits=8,
                layer_bits=layer_bits,
            )
            rows.append(Variant(rule, plan))
        if count == own:
            rows.append(Variant("qbert-mp-paper", replace(paper, name=f"{paper.name}-paper")))
        mixed.append(rows)
    two_four, two_three = mixed

    def uniform(*widths: int) -> list[Variant]:
        return [
            Variant(method, preset_named(config, task, f"{method}-{bits}"))
            for bits in widths
            for method in ("qbert", "directq")
        ]

    return (
        baseline(config, task),
        *two_four,
        *uniform(4, 2),
        *two_three,
        *uniform(3, 8),
    )


def group_counts(
    config: BertConfig, task: str, counts: Sequence[str], plan: Plan | None
) -> tuple[Variant, ...]:
    """The paper's Table 2: the same bits at every group count, the counts in the order given.

    The bits are those of `plan`, by default 4-bit weights with 8-bit embedding and activations. A count
    is a whole number or a word: `heads` (a group a head), `128-equivalent` (the rows a group that
    128 groups are in BERT-base: 768 / 128 = 6 of a matrix with as many rows as the model is wide, so
    width / 6 groups for every matrix; the paper fixes the count, a matrix with more rows has more
    rows a group) or `rows` (a row a group). A count above a matrix' rows means a group a row; the
    plan says what is applied. Raises `InputError` for another word or a count below 1.
    """
    start = plan or preset_named(config, task, "qbert-4")
    variants = [baseline(config, task)]
    for count in counts:
        wanted = group_count(config, count)
        changes = {
            site.name: replace(start.sites[site.name], groups=min(wanted or site.rows, site.rows))
            for site in sites_of(config)
        }
        method = "directq" if wanted == 1 else "qbert"
        variants.append(Variant(method, start.with_sites(changes, f"groups-{count}")))
    return tuple(variants)


def group_count(config: BertConfig, count: str) -> int | None:
    """Groups a matrix for a word of `group_counts` or a number; None for a group a row."""
    if count == "rows":
        return None
    if count == "heads":
        return config.heads
    if count == "128-equivalent":
        return max(1, round(GROUPS * config.hidden / WIDTH_OF_BERT_BASE))
    if not count.isdecimal() or int(count) < 1:
        raise InputError(
            f"group count {count!r}; expected whole numbers from 1 or the words {', '.join(GROUP_WORDS)}, "
            f"for example 1,heads,128,rows"
        )
    return int(count)


def modules(config: BertConfig, task: str) -> tuple[Variant, ...]:
    """The paper's Table 3 and the text around it: one kind of module quantized, the rest fp32.

    - `word-B`, `position-B`, `embedding-B`: that table, or all three, at B of 8, 4, 2 bits; the encoder and
      its activations stay fp32. `word-4-position-8` is the text's cheap setting (token types at 8).
    - `attention-B`, `ffn-B`: that half of every encoder layer at B of 8, 4, 3, 2 bits, the inputs of its
      matrices at 8 bits; the embedding and the other half stay fp32.
    - `attention-1-2-mp`, `ffn-1-2-mp`: that half at 1 bit, at 2 bits in the layers to which the paper's
      2/3 preset gives the higher width. The paper does not say which layers its 1/2 setting chose.

    All at the paper's group count, 128.
    """
    sites = sites_of(config)
    tables = {
        "word": ("word_embeddings",),
        "position": ("position_embeddings",),
        "embedding": ("word_embeddings", "position_embeddings", "token_type_embeddings"),
    }

    def table(name: str, bits: int) -> Variant:
        chosen = {s.name: bits for s in sites if s.name.rpartition(".")[2] in tables[name]}
        return Variant("qbert", _only(config, f"{name}-{bits}", chosen))

    def half(kind: str, bits: int) -> Variant:
        chosen = {s.name: bits for s in sites if s.kind == kind}
        return Variant("qbert", _only(config, f"{kind}-{bits}", chosen))

    high = preset_layers(config, task, 2, 3)

    def mixed(kind: str) -> Variant:
        chosen = {s.name: 2 if s.layer in high else 1 for s in sites if s.kind == kind}
        return Variant("qbert-mp", _only(config, f"{kind}-1-2-mp", chosen))

    cheap = {s.name: 4 if s.name.endswith("word_embeddings") else 8 for s in sites if s.kind == "embedding"}
    return (
        baseline(config, task),
        *(table(name, 4) for name in tables),
        *(half(kind, 2) for kind in ("attention", "ffn")),
        *(mixed(kind) for kind in ("attention", "ffn")),
        Variant("qbert", _only(config, "word-4-position-8", cheap)),
        *(table(name, 2) for name in tables),
        *(half(kind, bits) for bits in (3, 4) for kind in ("attention", "ffn")),
        *(table(name, 8) for name in tables),
        *(half(kind, 8) for kind in ("attention", "ffn")),
    )


def one_at_a_time(config: BertConfig, task: str, plan: Plan | None) -> tuple[Variant, ...]:
    """Every encoder layer and embedding table quantized alone (`only-..`, the rest fp32), and everything
    quantized but that one (`without-..`); between them the whole plan.

    Bits and groups are those of `plan`, by default the preset qbert-2: which layers can be taken to the
    lower width of the paper's mixed precision. Parts at 32 bits in the plan are left out. Both
    halves run from the last layer to the first: a plan that shares all before layer i with one measured
    before is computed from there.
    """
    whole = plan or preset_named(config, task, "qbert-2")
    parts: dict[str, list[str]] = {f"layer-{layer}": [] for layer in reversed(range(config.layers))}
    for site in sites_of(config):
        if whole.sites[site.name].quantized:
            parts.setdefault(_part(site), []).append(site.name)
    parts = {part: names for part, names in parts.items() if names}
    if not parts:
        raise InputError(f"plan {whole.name} quantizes nothing; give one with bits below 32 somewhere")

    def left_at_fp32(names: Iterable[str], name: str) -> Plan:
        changes = {site: SitePlan(FULL, whole.sites[site].groups) for site in names}
        return whole.with_sites(changes, name)

    def others(names: Sequence[str]) -> list[str]:
        return [site for site in whole.sites if site not in names]

    return (
        baseline(config, task),
        *(Variant("only", left_at_fp32(others(names), f"only-{part}")) for part, names in parts.items()),
        Variant("whole", whole),
        *(Variant("without", left_at_fp32(names, f"without-{part}")) for part, names in parts.items()),
    )


def baseline(config: BertConfig, task: str) -> Variant:
    """The fp32 model."""
    return Variant("baseline", preset_named(config, task, "baseline"))


def preset_layers(config: BertConfig, task: str, low: int, high: int) -> set[int]:
    """The layers to which the paper's preset for these widths gives the higher one."""
    sites = preset_named(config, task, f"qbert-mp-{low}-{high}").sites
    return {s.layer for s in sites_of(config) if s.layer is not None and sites[s.name].bits == high}


def check_high(config: BertConfig, high: int | None) -> None:
    """Raise `InputError` unless `high` is a number of this model's layers (or None)."""
    if high is not None and not 0 <= high <= config.layers:
        raise InputError(f"high is {high}; expected 0 to {config.layers}, the number of layers")


def _part(site: Site) -> str:
    if site.layer is not None:
        return f"layer-{site.layer}"
    return site.name.rpartition(".")[2].removesuffix("_embeddings").replace("_", "-")


def _only(config: BertConfig, name: str, bits: dict[str, int]) -> Plan:
    """Some sites at these bits and the paper's groups, the others fp32."""
    entries = tuple((site.name, SitePlan(bits.get(site.name, FULL), GROUPS)) for site in sites_of(config))
    return Plan(name, 8, entries)
