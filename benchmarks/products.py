"""A linear layer's product in whole numbers and in fp32: which is the faster on this CPU, and whether it is the one
the engine takes.

Peer: torch's fp32 product of the same shape. A batch has 512 tokens, as in the evaluator; one thread.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from benchmarks.record import begin, goal, parser, ratio, rounds, save, spread, values
from qbert_core.parallel import torch_threads
from qbert_core.quantization.integer import integer_products_available, integer_products_pay

CLAIM = "The engine computes linear layers in whole numbers where that is faster, and only there"
TOKENS = 512
SHAPES = {  # rows, columns of the weight
    "384 x 384": (384, 384),
    "1536 x 384": (1536, 384),
    "384 x 1536": (384, 1536),
    "768 x 768": (768, 768),
    "3072 x 768": (3072, 768),
}


def timed(work: Callable[[], object], seconds: float = 0.1) -> Callable[[], dict[str, float]]:
    """Mean of as many calls as take about so long."""

    def measure() -> dict[str, float]:
        count, began = 0, time.perf_counter()
        while (took := time.perf_counter() - began) < seconds or not count:
            work()
            count += 1
        return {"seconds": took / count}

    return measure


def variants() -> dict[str, Callable[[], dict[str, float]]]:
    made = {}
    for name, (rows, columns) in SHAPES.items():
        codes = torch.randint(-128, 128, (TOKENS, columns), dtype=torch.int8)
        weight = torch.randint(-8, 8, (rows, columns), dtype=torch.int8)
        x, w = codes.float(), weight.float()
        made[f"int8, {name}"] = timed(lambda a=codes, b=weight: torch._int_mm(a, b.t()))
        made[f"fp32, {name}"] = timed(lambda a=x, b=w: a @ b.t())
    return made


def main() -> None:
    arguments = parser(__doc__, 10).parse_args()
    if not integer_products_available():
        raise SystemExit("this CPU's torch has no int8 product: there is nothing to choose")
    torch.manual_seed(arguments.seed)
    began = begin()
    with torch_threads(1):
        samples = rounds(variants(), arguments.repeats, seed=arguments.seed, patience=arguments.patience)
    rows, taken, other = [], [0.0] * arguments.repeats, [0.0] * arguments.repeats
    for name in SHAPES:
        whole, floating = values(samples, f"int8, {name}"), values(samples, f"fp32, {name}")
        rows.append([name, spread(whole), spread(floating), ratio(whole, floating)])
        ours, left = (whole, floating) if integer_products_pay() else (floating, whole)
        taken = [a + b for a, b in zip(taken, ours, strict=True)]
        other = [a + b for a, b in zip(other, left, strict=True)]
    columns = ["weight", "int8, seconds", "fp32, seconds", "int8 to fp32"]
    instructions = {
        "avx512_vnni": torch.cpu._is_vnni_supported(),
        "amx_tile": torch.cpu._is_amx_tile_supported(),
        "engine": "int8" if integer_products_pay() else "fp32",
    }
    save(
        "products", CLAIM, arguments, began, samples,
        [{"title": f"{TOKENS} tokens, int8 instructions: "
          + (", ".join(n for n in ("avx512_vnni", "amx_tile") if instructions[n]) or "none")
          + f"; the engine takes {instructions['engine']}", "columns": columns, "rows": rows}],
        [goal("The way the engine takes, to the other, all shapes", ratio(taken, other), 1)],
        measured=instructions,
    )  # fmt: skip


if __name__ == "__main__":
    main()
