"""Bits under a size budget for the plan on screen: what predicts the harm, and the frontier of plans."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from app.job import Job
from app.registries import weights
from app.sweeps import finished_sensitivity
from app.weights import ErrorsByWidth
from app.workspace import Workspace
from qbert_core.allocation import PlanFrontier, curvatures, make_unit, sites_of_unit
from qbert_core.bert import BertConfig
from qbert_core.curvature import Sensitivity, block_named, blocks_of
from qbert_core.errors import InputError
from qbert_core.quantization import Plan, Site, SitePlan, sites_of

GROUPS = 128  # of a site that had no groups, because it was not quantized
ALL_WIDTHS = tuple(range(1, 9))  # bits


@dataclass(frozen=True)
class Objective:
    """What predicts the harm: block -> s in s |W - Q(W)|^2 / 2. `name` is what pages call it."""

    name: str
    weights: tuple[tuple[str, float], ...]
    basis: str  # what s comes from, in words


def objectives(workspace: Workspace, jobs: Sequence[Job]) -> list[Objective]:
    """The best first: by curvature where a finished analysis has it, and by the weights' error alone."""
    config, found = workspace.checkpoint.config, []
    for granularity, name in (("layer", "Ω, by layer"), ("module", "Ω, attention and FFN apart")):
        document = finished_sensitivity(workspace, jobs, granularity)
        if document:
            sensitivity = Sensitivity.from_json(document)
            weights = tuple(curvatures(config, sensitivity).items())
            found.append(
                Objective(name, weights, f"Ω of {_runs(document)}, n = {document['examples']:,} each")
            )
    layers = tuple((block.name, 1.0) for block in blocks_of(config, "layer"))
    more = "" if found else "; an analysis on page Sensitivity adds curvature"
    found.append(Objective("Error of the weights", layers, f"the error of the weights alone{more}"))
    return found


def _runs(document: dict[str, Any]) -> str:
    runs = int(document["runs"])
    return f"{runs} run{'s' if runs != 1 else ''}"


def group_counts(plan: Plan) -> dict[str, int]:
    """Site -> the groups it gets: those it has."""
    return {site: entry.groups if entry.quantized else GROUPS for site, entry in plan.entries}


@dataclass(frozen=True)
class Harm:
    """What an objective predicts of plans with these group counts, in layers that are not locked."""

    config: BertConfig
    objective: Objective
    locked: frozenset[int]
    groups: dict[str, int]  # site -> count
    errors: dict[str, tuple[float, ...]]  # site -> mean of (w' - w)^2 at 1, 2 .. 8 bits

    def of(self, plan: Plan) -> float:
        """The harm of `plan` itself, which need not be one of the frontier's."""
        entries = plan.sites
        return sum(
            0.5 * weight * self._moved(site, entries[site.name])
            for name, weight in self._units()
            for site in sites_of_unit(self.config, name)
            if entries[site.name].quantized
        )

    def frontier(self, plan: Plan, widths: Collection[int]) -> PlanFrontier:
        """Every plan that differs from `plan` in the bits of layers that are not locked and that no other one
        beats in size and harm. Raises `InputError` when nothing is left to choose."""
        units = self._units()
        if not units:
            raise InputError("Every layer is locked. Unlock one to share a budget out.")
        if not widths:
            raise InputError("No width is chosen. Choose at least one.")
        made = [
            make_unit(self.config, name, weight, sorted(widths), self.groups, self._moved)
            for name, weight in units
        ]
        return PlanFrontier(self.config, plan, made, self.groups)

    def _units(self) -> list[tuple[str, float]]:
        return [
            (name, weight)
            for name, weight in self.objective.weights
            if block_named(self.config, name).layer not in self.locked
        ]

    def _moved(self, site: Site, entry: SitePlan) -> float:
        return site.params * self.errors[site.name][entry.bits - 1]


def harm(
    workspace: Workspace, plan: Plan, objective: Objective, locked: Collection[int], *, ask: bool
) -> Harm | None:
    """For plans with the groups of `plan`; None until the weights have been looked at, which is begun only
    where `ask` says so. Raises `InputError` when that failed."""
    config, groups, errors = workspace.checkpoint.config, group_counts(plan), {}
    look = weights().look if ask else weights().known
    free = [site for site in sites_of(config) if site.layer is not None and site.layer not in locked]
    for site in free:  # to the end: all are asked for at once
        answer = look(workspace, ErrorsByWidth(site.name, groups[site.name], ALL_WIDTHS))
        if answer and answer.error:
            raise InputError(answer.error)
        if answer:
            errors[site.name] = answer.found
    if len(errors) < len(free):
        return None
    return Harm(config, objective, frozenset(locked), groups, errors)
