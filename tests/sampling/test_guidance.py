"""Guidance against its formula, computed pass by pass from a real model's logits."""

from __future__ import annotations

import pytest
import torch
from support.oracle import Oracle, real_model, reference_only, small_table

from m3.masking.select import pack
from m3.sampling.guidance import Guidance, passes
from m3.sampling.sampler import generate
from m3.sampling.settings import DecodingConfig


def logits_with(model, tokens, is_known, without: list[str]) -> torch.Tensor:
    """(B, 6, 64000) logits of tok_rgb_next; modalities in `without` are left out of the inputs."""
    is_known = is_known.clone()
    for name in without:
        is_known[:, model.table.columns(name)] = False
    is_queried = torch.zeros_like(is_known)
    is_queried[:, model.table.columns("tok_rgb_next")] = True
    hidden = model(pack(tokens, is_known, model.table), pack(tokens, is_queried, model.table))
    return model.digit_logits(hidden, 2)[0].view(len(tokens), 6, -1)


GUIDANCES = {
    "one": (Guidance(3.0, ["coords"]), lambda f: f(["coords"]) + 3.0 * (f([]) - f(["coords"]))),
    "joint": (
        Guidance(2.0, [["coords", "tok_rgb"]]),
        lambda f: f(["coords", "tok_rgb"]) + 2.0 * (f([]) - f(["coords", "tok_rgb"])),
    ),
    "weighted": (
        Guidance(1.5, ["coords", "tok_rgb"], [0.5, 2.0]),
        lambda f: (
            f(["coords", "tok_rgb"])
            + 1.5 * 0.5 * (f(["tok_rgb"]) - f(["coords", "tok_rgb"]))
            + 1.5 * 2.0 * (f(["coords"]) - f(["coords", "tok_rgb"]))
        ),
    ),
    "none": (Guidance(1.0, ["coords"]), lambda f: f([])),
    "away": (Guidance(0.0, ["coords"]), lambda f: f(["coords"])),
}


@pytest.mark.parametrize("name", GUIDANCES)
def test_guided_logits_follow_the_formula(name):
    guidance, formula = GUIDANCES[name]
    model, (tokens, is_known) = real_model(), reference_only(4)
    expected = formula(lambda without: logits_with(model, tokens, is_known, without)).argmax(-1)
    scheme = DecodingConfig("tok_rgb_next", 1, temperature=0.0, guidance=guidance)
    out = generate(model, tokens, is_known, [scheme], 0, torch.arange(4))
    assert torch.equal(out[:, model.table.columns("tok_rgb_next")], expected)
    if name != "none":
        plain = DecodingConfig("tok_rgb_next", 1, temperature=0.0)
        assert not torch.equal(out, generate(model, tokens, is_known, [plain], 0, torch.arange(4)))


@pytest.mark.parametrize("order", ["maskgit", "roar", "ar"])
def test_all_passes_query_the_same_positions_and_differ_in_the_condition_alone(order):
    model, (tokens, is_known) = Oracle(), reference_only(2)
    guidance = {"scale": 2.0, "conditions": ["coords"]}
    scheme = DecodingConfig("coords_next", 6, order=order, pick="argmax", guidance=guidance)
    generate(model, tokens, is_known, [scheme], 0, torch.arange(2))
    assert len(model.queries) == 12
    for without, conditional in zip(model.queries[::2], model.queries[1::2]):
        assert without[1] == conditional[1]
        assert conditional[0] - without[0] == {(b, 1, p) for b in range(2) for p in range(39)}
        assert without[0] < conditional[0]


def test_a_guide_without_influence_costs_no_pass():
    table = small_table()
    assert [one.coefficient for one in passes(Guidance(1.0, ["coords"]), table)] == [1.0]
    assert [one.left_out for one in passes(Guidance(1.0, ["coords"]), table)] == [()]
    assert len(passes(Guidance(2.0, ["coords", "tok_rgb"], [1.0, 0.0]), table)) == 2
    assert sum(one.coefficient for one in passes(Guidance(7.5, ["coords", "tok_rgb"], [0.3, 2]), table)) == 1


def test_the_unconditional_pass_may_have_no_input_at_all():
    model, (tokens, is_known) = real_model(), reference_only(2)
    guidance = {"scale": 2.0, "conditions": [["coords", "tok_rgb"]]}
    out = generate(model, tokens, is_known, [DecodingConfig("tok_rgb_next", 3, guidance=guidance)], 0, torch.arange(2))
    assert (out[:, model.table.columns("tok_rgb_next")] < 64000).all()


@pytest.mark.parametrize(
    "values, key",
    [
        ({"scale": 2.0}, "scale=2.0"),
        ({"scale": float("nan"), "conditions": ["coords"]}, "scale=nan"),
        ({"conditions": ["coords_next"]}, "conditions="),
        ({"conditions": ["coords", ["coords", "tok_rgb"]]}, "conditions="),
        ({"conditions": [[]]}, "conditions="),
        ({"conditions": ["coords"], "weights": [1, 2]}, "weights="),
        ({"conditions": ["coords"], "weights": ["a"]}, "weights='a'"),
        ({"conditions": ["coords"], "weights": 0.5}, "weights=0.5: need a list"),
        ({"conditions": [3]}, "conditions=.*need a list of modalities"),
        ({"conditions": [[3]]}, "conditions=.*need a list of modalities"),
        ({"conditions": "coords"}, "conditions='coords': need a list"),
        ({"weight": [1]}, "weight: unknown"),
    ],
)
def test_impossible_values_name_the_key(values, key):
    with pytest.raises(ValueError, match=rf"sampling\.schemes\.coords_next\.guidance\.{key}"):
        DecodingConfig("coords_next", 4, guidance=values)


def test_no_guidance_is_a_mapping_too():
    with pytest.raises(ValueError, match=r"sampling\.schemes\.coords_next\.guidance=None: need its keys, scale"):
        DecodingConfig("coords_next", 4, guidance=None)


def test_a_condition_that_the_model_does_not_have_is_named():
    scheme = DecodingConfig("coords_next", 4, guidance={"scale": 2, "conditions": ["captions"]})
    with pytest.raises(ValueError, match="sampling.schemes.coords_next.guidance.conditions: no modality 'captions'"):
        scheme.for_table(small_table())
