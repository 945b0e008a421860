"""Named entities in a sequence of tags, as conlleval and seqeval (Nakayama 2018) count them."""

from __future__ import annotations

from collections.abc import Sequence

Entity = tuple[str, int, int]  # type, first word, last word


def entities(tags: Sequence[str]) -> set[Entity]:
    """The entities of tags O, B-TYPE, I-TYPE.

    An I-TYPE that follows O or another type begins an entity, as in conlleval: a model may predict that.
    """
    found: set[Entity] = set()
    kind, start = "", 0
    for place, tag in enumerate((*tags, "O")):
        prefix, _, name = tag.partition("-")
        if kind and (prefix != "I" or name != kind):
            found.add((kind, start, place - 1))
            kind = ""
        if prefix in ("B", "I") and not kind:
            kind, start = name, place
    return found


def first_break(tags: Sequence[str]) -> int | None:
    """The first place where tags are not IOB2: an I-TYPE that does not go on with an entity of TYPE."""
    before = "O"
    for place, tag in enumerate(tags):
        if tag.startswith("I-") and before not in (f"B-{tag[2:]}", tag):
            return place
        before = tag
    return None
