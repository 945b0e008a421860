"""A plan as a short text for the address bar, and back."""

from __future__ import annotations

import base64
import binascii
import json
import zlib

from qbert_core.errors import InputError
from qbert_core.quantization import Plan, Site
from qbert_core.quantization.plan import SCHEMA, parse_plan

MAX_TEXT = 4000  # characters; a 24-layer plan by hand has a few hundred
MAX_JSON = 100_000  # bytes after decompression


def plan_to_text(plan: Plan) -> str:
    """Name, activation bits, clip and the sites' bits and groups in order, deflated, base64url."""
    entries = [[entry.bits, entry.groups] for _, entry in plan.entries]
    document = json.dumps([plan.name, plan.activation_bits, plan.clip, entries], separators=(",", ":"))
    return base64.urlsafe_b64encode(zlib.compress(document.encode(), 9)).decode().rstrip("=")


def plan_from_text(text: str, sites: tuple[Site, ...]) -> Plan:
    """The inverse for a model with these sites; `InputError` when the text is no such plan."""
    broken = InputError("the link's plan cannot be read; it may have been cut off when it was copied")
    try:
        if len(text) > MAX_TEXT:
            raise broken
        raw = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
        inflater = zlib.decompressobj()
        document = inflater.decompress(raw, MAX_JSON)
        if inflater.unconsumed_tail or not inflater.eof:
            raise broken
        name, activation_bits, clip, entries = json.loads(document)
        str(name).encode()  # half a surrogate pair is valid JSON that no page can be sent with
        pairs = [(bits, groups) for bits, groups in entries]
    except (ValueError, TypeError, RecursionError, binascii.Error, zlib.error):
        raise broken from None
    if len(pairs) != len(sites):
        raise InputError(f"the link's plan is for a model with {len(pairs)} sites, this one has {len(sites)}")
    named = {site.name: {"bits": b, "groups": g} for site, (b, g) in zip(sites, pairs, strict=True)}
    plan = {"schema": SCHEMA, "name": name, "activation_bits": activation_bits, "clip": clip, "sites": named}
    return parse_plan(plan, sites, "the link")
