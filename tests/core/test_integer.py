"""Linear layers in whole numbers, against 64-bit integers and float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qbert_core.checkpoints import Checkpoint
from qbert_core.quantization import ActivationRanges, Quantizer, fake_quantize, preset_named, sites_of
from qbert_core.quantization.integer import (
    integer_linear,
    integer_products_available,
    integer_products_pay,
    quantize_input,
)
from qbert_core.quantization.quantizer import centred_codes

pytestmark = pytest.mark.skipif(
    not integer_products_available(), reason="this CPU's torch has no int8 product"
)


@settings(deadline=None, max_examples=60)
@given(
    bits=st.integers(1, 8),
    rows=st.integers(1, 40),
    columns=st.integers(2, 70),
    tokens=st.integers(1, 20),
    groups=st.integers(1, 50),
    shift=st.floats(-2, 2),
    seed=st.integers(0, 2**16),
)
def test_the_product_is_the_exact_integer_sum(bits, rows, columns, tokens, groups, shift, seed):
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(rows, columns, generator=generator) + shift
    x = torch.randn(tokens, columns, generator=generator) * 3
    low, high = min(float(x.min()), 0.0), max(float(x.max()), 0.0)
    scale = np.float32(high - low) / np.float32(255)
    zero = float(np.round(np.float32(-low) / scale))
    bias = torch.zeros(rows)

    codes = quantize_input(x, float(scale), zero)
    made = integer_linear(weight, bits, groups, 100.0)(codes, bias)

    q, row_scale, _ = centred_codes(weight, bits, groups)
    p = np.clip(np.rint(x.numpy() / scale) + np.float32(zero), 0, 255).astype(np.int64) - int(zero)
    exact = p @ q.numpy().astype(np.int64).T  # 64-bit integers
    expected = exact * row_scale.numpy().astype(np.float64) * np.float64(scale)
    # three fp32 roundings: the sum, the two scales, their product
    np.testing.assert_allclose(made.numpy(), expected, rtol=4 * 2.0**-24, atol=1e-30)


@settings(deadline=None, max_examples=40)
@given(bits=st.integers(1, 8), rows=st.integers(1, 30), groups=st.integers(1, 40), seed=st.integers(0, 2**16))
def test_codes_times_scale_are_fake_quantization_to_the_last_bit(bits, rows, groups, seed):
    weight = torch.randn(rows, 24, generator=torch.Generator().manual_seed(seed))
    codes, scale, zero = centred_codes(weight, bits, groups)
    assert torch.equal(codes * scale[:, None], fake_quantize(weight, bits, groups))
    assert torch.equal(codes, codes.round())
    assert bool(((codes + zero[:, None]) >= 0).all())
    assert bool(((codes + zero[:, None]) <= 2**bits - 1).all())


def test_a_quantized_model_gives_the_same_layers_in_whole_numbers_and_in_floating_point(tiny: Checkpoint):
    config = tiny.config
    linear_sites = [site for site in sites_of(config) if site.layer is not None]
    ranges = ActivationRanges({site.name: (-3.0, 4.0) for site in linear_sites}, "made up", 0)
    for name in ("qbert-8", "qbert-3", "directq-2", "qbert-mp-2-4"):
        plan = preset_named(config, "sst2", name)
        whole = Quantizer(tiny, ranges, integers=True).model(plan).linear
        floating = Quantizer(tiny, ranges, integers=False).model(plan).linear
        assert whole is not None
        assert floating is not None
        for site in linear_sites:
            x = torch.randn(2, 5, site.columns, generator=torch.Generator().manual_seed(1))
            torch.testing.assert_close(whole(site.name, x), floating(site.name, x), rtol=1e-5, atol=1e-5)


def test_sites_with_full_precision_inputs_stay_in_floating_point(tiny: Checkpoint):
    plan = preset_named(tiny.config, "sst2", "baseline")
    model = Quantizer(tiny, ActivationRanges({}, "none", 0)).model(plan)
    assert model.linear is None
    assert all(model.weights[name] is tensor for name, tensor in tiny.weights.items())


@pytest.mark.parametrize("instructions", [False, True])
def test_whole_numbers_are_the_way_only_where_the_cpu_has_instructions_for_them(
    tiny: Checkpoint, monkeypatch: pytest.MonkeyPatch, instructions: bool
):
    monkeypatch.setattr(torch.cpu, "_is_vnni_supported", lambda: instructions)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    integer_products_pay.cache_clear()
    try:
        config = tiny.config
        ranges = ActivationRanges(
            {site.name: (-3.0, 4.0) for site in sites_of(config) if site.layer is not None}, "made up", 0
        )
        plan = preset_named(config, "sst2", "qbert-4")
        model = Quantizer(tiny, ranges).model(plan)
        name = "bert.encoder.layer.0.output.dense.weight"
        # in whole numbers the encoder's own weights stay as they are, unused
        assert (model.weights[name] is tiny.weights[name]) == instructions
    finally:
        integer_products_pay.cache_clear()
