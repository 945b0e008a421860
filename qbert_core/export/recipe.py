"""A plan as an llm-compressor recipe, where the plan maps onto one.

llm-compressor's QuantizationModifier quantizes by compressed-tensors' schemes. Theirs have a range a
row (`channel`), a matrix (`tensor`) or a run of columns (`group`); a plan's groups are runs of rows. So a
plan maps where every quantized matrix has a row a group, or one group. Its calibration sees the minimum
and maximum of the weights only, so a plan that clips ranges does not map.

torchao has no recipe files, and its `PerAxis`, `PerTensor` and `PerGroup` are the same three shapes; a plan
that maps here maps there, by code.
"""

from __future__ import annotations

import json

from qbert_core.errors import InputError
from qbert_core.quantization import Plan
from qbert_core.quantization.sites import Site

HEAD = """# {name}: for llm-compressor's oneshot(model=..., recipe=...). Scale and zero point are theirs, by the same
# formula; a weight on the border between two codes may come out one step away from ours.
default_stage:
  default_modifiers:
    QuantizationModifier:
      ignore: []
      config_groups:
"""
GROUP = """        group_{number}:
          targets: {targets}
          weights: {weights}
"""
INPUTS = "          input_activations: {inputs}\n"


def recipe(plan: Plan, sites: tuple[Site, ...]) -> str:
    """The YAML text. Raises `InputError` that says why where the plan does not map.

    8-bit inputs become static, per tensor and asymmetric; their ranges are calibrated by llm-compressor on
    the data it is given.
    """
    if plan.clip < 100:
        raise InputError(
            f"the plan narrows ranges to the {plan.clip:g}th percentile; a recipe cannot say that"
        )
    groups: dict[tuple[int, str, bool], list[str]] = {}
    for site in sites:
        entry = plan.sites[site.name]
        if not entry.quantized:
            continue
        if entry.groups != 1 and entry.groups < site.rows:
            raise InputError(
                f"{site.name} has {entry.groups} groups of rows; a recipe knows one range a matrix (1 group) or "
                f"one a row ({site.rows} groups or more)"
            )
        strategy = "tensor" if entry.groups == 1 and site.rows > 1 else "channel"
        inputs = plan.activation_bits == 8 and site.layer is not None
        groups.setdefault((entry.bits, strategy, inputs), []).append(site.name)
    if not groups:
        raise InputError("the plan quantizes nothing, so there is nothing for a recipe to do")
    text = HEAD.format(name="".join(c if c.isprintable() else " " for c in plan.name))
    for number, ((bits, strategy, inputs), names) in enumerate(groups.items()):
        weights = {"num_bits": bits, "type": "int", "symmetric": False, "strategy": strategy}
        # JSON is YAML
        text += GROUP.format(number=number, targets=json.dumps(names), weights=json.dumps(weights))
        if inputs:
            asked = {"num_bits": 8, "type": "int", "symmetric": False, "strategy": "tensor", "dynamic": False}
            text += INPUTS.format(inputs=json.dumps(asked))
    return text
