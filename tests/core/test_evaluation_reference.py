"""A trained checkpoint is compared with the one it came from."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pandas as pd
import pytest

from qbert_core.checkpoints import Checkpoint, load_checkpoint
from qbert_core.errors import InputError
from qbert_core.evaluation import Evaluator
from qbert_core.quantization import calibrate, fake_quantize, preset_named, sites_of
from qbert_core.tasks import task_named
from tests.tiny import WORDS, make_tiny

TASK = task_named("sst2")


@pytest.mark.parametrize("name", ["qbert-2", "qbert-4", "qbert-mp-2-3"])
def test_weights_that_are_already_quantized_measure_as_the_plan_does(tiny: Checkpoint, name: str) -> None:
    generator = np.random.default_rng(0)
    sentences = [" ".join(generator.choice(WORDS, generator.integers(1, 30))) for _ in range(40)]
    table = pd.DataFrame({"sentence": sentences, "label": generator.integers(0, 2, 40)})
    examples = TASK.examples(table, tiny, "made up")
    ranges = calibrate(tiny, TASK, examples)
    plan = replace(preset_named(tiny.config, "sst2", name), activation_bits=32)
    expected = Evaluator(tiny, TASK, examples, ranges).evaluate(plan)

    rounded = {
        site.parameter: fake_quantize(
            tiny.weights[site.parameter], plan.sites[site.name].bits, plan.sites[site.name].groups
        )
        for site in sites_of(tiny.config)
    }
    trained = replace(tiny, weights=MappingProxyType({**tiny.weights, **rounded}))
    evaluator = Evaluator(trained, TASK, examples, ranges, reference=tiny)
    found = evaluator.evaluate(preset_named(tiny.config, "sst2", "baseline"))
    assert found.predictions == expected.predictions
    assert found.score == expected.score
    assert found.baseline == expected.baseline
    assert found.flips == expected.flips
    assert found.attention_kl == expected.attention_kl
    assert any(value > 0 for row in found.attention_kl or () for value in row)


def test_a_reference_of_another_shape_is_refused(tiny: Checkpoint, tmp_path: Path) -> None:
    other = load_checkpoint(make_tiny(tmp_path / "other", layers=2))
    examples = TASK.examples(pd.DataFrame({"sentence": ["good"], "label": [1]}), tiny, "made up")
    ranges = calibrate(tiny, TASK, examples)
    with pytest.raises(InputError, match="other and tiny differ in shape or labels"):
        Evaluator(tiny, TASK, examples, ranges, reference=other)
