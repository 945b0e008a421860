"""Runs in shards: every example once, and the products of the whole run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qbert_core.bert import BertConfig
from qbert_core.checkpoints import Checkpoint, load_checkpoint
from qbert_core.curvature import (
    Analysis,
    BlockHessian,
    LayerInputs,
    ShardedRun,
    ShardStates,
    blocks_of,
    sensitivity,
    shards_of_a_run,
)
from qbert_core.curvature.shards import SHARD_WORK, SHARDS, WHOLE_WORK, cut
from qbert_core.errors import InputError
from qbert_core.tasks import TASKS
from tests.dense import dense_hessian, random_examples
from tests.tiny import make_tiny

SST2 = TASKS["sst2"]


@given(st.lists(st.integers(1, 40), min_size=1, max_size=60), st.integers(1, 70))
@settings(deadline=None)
def test_shards_hold_every_example_once_and_about_equally_many_tokens(
    lengths: list[int], shards: int
) -> None:
    examples = random_examples(tuple(lengths))
    parts = cut(examples, shards)
    assert sorted(int(i) for part in parts for i in part) == list(range(len(lengths)))
    assert len(parts) <= shards
    assert all(len(part) for part in parts)
    tokens = [sum(lengths[i] for i in part) for part in parts]
    assert max(tokens) <= sum(lengths) / shards + max(lengths)


@pytest.mark.parametrize("shards", [2, 3, 7])
@pytest.mark.parametrize("name", ["bert.embeddings.word_embeddings", "bert.encoder.layer.0.attention"])
def test_products_in_shards_are_those_of_the_dense_hessian(tmp_path: Path, shards: int, name: str) -> None:
    folder = make_tiny(tmp_path / "tiny", layers=2, hidden=8, intermediate=12)
    checkpoint = load_checkpoint(str(folder)).to(torch.float64)
    granularity = "site" if "embeddings" in name else "module"
    blocks = blocks_of(checkpoint.config, granularity)
    index = next(i for i, block in enumerate(blocks) if block.name == name)
    examples = random_examples()
    analysis = Analysis(checkpoint, SST2, examples, blocks, 1.0, 0.01, 0, shards=shards)
    run = ShardedRun(analysis, 0)
    rows, states = run.rows(index), ShardStates()
    hessian = run.hessian(
        index,
        rows,
        lambda v, fast: [run.sums(states, index, shard, rows, v, fast) for shard in range(len(run.shards))],
    )
    dense = torch.from_numpy(dense_hessian(folder, blocks[index], examples))
    if rows:  # of the table, only the rows in use count
        width = checkpoint.config.hidden
        used = next(iter(rows.values()))
        places = (used[:, None] * width + torch.arange(width)).flatten()
        dense = dense[places][:, places]
    v = torch.randn(hessian.size, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(hessian.matvec(v), dense @ v, rtol=1e-9, atol=1e-12)


def test_what_a_process_kept_does_not_show_in_the_numbers(tiny: Checkpoint) -> None:
    """A shard stolen from another worker, a worker without memory, one that came late: the same sums."""
    analysis = Analysis(
        tiny, SST2, random_examples((9, 8, 7, 12, 3, 5)), blocks_of(tiny.config), 1.0, 0.01, 0, shards=3
    )
    run, v = ShardedRun(analysis, 0), torch.randn(2224, generator=torch.Generator().manual_seed(1))
    keeps, forgets = ShardStates(), ShardStates(keep_bytes=0)
    for index in (0, 2, 1, 0):
        for shard in (2, 0, 1, 1):
            one, other, fresh = (
                run.sums(states, index, shard, {}, v, fast=False)
                for states in (keeps, forgets, ShardStates(places=2))
            )
            assert torch.equal(one[0], other[0])
            assert torch.equal(one[0], fresh[0])
            assert one[1] == other[1] == len(run.shards[shard])


def test_a_block_computed_alone_is_the_one_computed_after_those_below_it(tiny: Checkpoint) -> None:
    examples = random_examples((9, 8, 7, 12, 3, 5))
    analysis = Analysis(tiny, SST2, examples, blocks_of(tiny.config), 1.0, 0.01, 0)
    v = torch.randn(2224, generator=torch.Generator().manual_seed(1))
    in_turn = LayerInputs(tiny, SST2, examples)
    for block in analysis.blocks:
        alone = LayerInputs(tiny, SST2, examples)
        alone.linearize()
        ours, theirs = BlockHessian(in_turn, block).matvec(v), BlockHessian(alone, block).matvec(v)
        assert torch.equal(ours, theirs)


def test_shards_say_the_same_of_a_model_as_the_whole(tiny: Checkpoint) -> None:
    examples = random_examples((9, 8, 7, 12, 3, 5, 10, 11))
    whole = sensitivity(tiny, SST2, examples, runs=2, fraction=0.75, tolerance=0.001)
    parts = sensitivity(tiny, SST2, examples, runs=2, fraction=0.75, tolerance=0.001, shards=4)
    assert (whole.shards, parts.shards) == (1, 4)
    assert parts.to_json()["shards"] == 4
    for ours, theirs in zip(parts.blocks, whole.blocks, strict=True):
        np.testing.assert_allclose(ours.lambdas, theirs.lambdas, rtol=2e-3)  # the tolerance of both


def test_the_size_of_the_problem_alone_decides_about_shards() -> None:
    base = BertConfig(
        head="sequence", labels=("a", "b"), layers=12, heads=12, hidden=768, intermediate=3072,
        vocabulary=30522, positions=512, token_types=2,
    )  # fmt: skip
    parameters = 12 * 7_087_872
    example = random_examples((40,))
    assert shards_of_a_run(base, example, 1.0) == 1
    for rows in (200, 2_000, 39_000, 392_702):
        examples = replace(
            example,
            input_ids=example.input_ids * rows,
            references=[0] * rows,
            first=np.arange(rows + 1),
        )
        shards = shards_of_a_run(base, examples, 1.0)
        work = rows * 40 * parameters / shards
        assert shards_of_a_run(base, examples, 1.0) == shards
        if rows * 40 * parameters <= WHOLE_WORK:
            assert shards == 1
        else:
            assert work <= SHARD_WORK[1]
            assert shards <= SHARDS or work > 0.9 * SHARD_WORK[1]


def test_no_shards_are_refused(tiny: Checkpoint) -> None:
    with pytest.raises(InputError, match="shards is 0; expected at least 1"):
        sensitivity(tiny, SST2, random_examples(), shards=0)
