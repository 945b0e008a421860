"""What the hidden state at each layer boundary of a plan depends on, as a chain of digests."""

from __future__ import annotations

import hashlib

from qbert_core.bert import BertConfig
from qbert_core.quantization import Plan, sites_of


def prefix_keys(config: BertConfig, plan: Plan) -> list[str]:
    """layers + 1 keys: key k names everything in the plan that the state before layer k depends on.

    Two plans with equal key k have bit-equal states there, whatever they do to later layers. Key 0
    covers the embedding tables; the last covers the whole plan.
    """
    entries = plan.sites
    keys = []
    digest = hashlib.sha256()
    for layer in (None, *range(config.layers)):
        effects: list[tuple[str, int, int, float, int]] = []
        for site in sites_of(config):
            entry = entries[site.name]
            if site.layer == layer and entry.quantized:
                activation = 0 if layer is None else plan.activation_bits
                groups = min(entry.groups, site.rows)
                effects.append((site.name, entry.bits, groups, plan.clip, activation))
        digest.update(repr((layer, effects)).encode())
        keys.append(digest.hexdigest())
    return keys
