"""What conf/sampling says, and which tokens it gives."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from support.oracle import small_table

from m3.core.joints import JOINT_NAMES
from m3.core.modalities import ModalityTable
from m3.sampling.given import given_mask, joint_positions
from m3.sampling.settings import DecodingConfig, Sampling

CONF = Path(__file__).parents[2] / "conf"


def sampling(*overrides: str) -> Sampling:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return instantiate(compose("generate", list(overrides)).sampling).for_model(small_table())


@pytest.mark.parametrize("option", ["maskgit", "roar", "ar"])
@pytest.mark.parametrize("name", ["tok_rgb", "coords", "tok_rgb_next", "coords_next"])
def test_every_modality_can_be_generated_from_the_others(option, name):
    others = [other for other in small_table().modalities if other != name]
    made = sampling(f"sampling={option}", f"sampling.generate=[{name}]", f"sampling.given=[{','.join(others)}]")
    (scheme,) = made.chosen
    assert (scheme.modality, scheme.order) == (name, option)
    assert made.is_given(small_table()).sum() == 90 - small_table().max_seq_lens[small_table().index(name)]


def test_others_are_all_that_is_not_generated():
    others = [name for name in small_table().modalities if name != "tok_rgb_next"]
    assert sampling("sampling.given=others", "sampling.generate=[tok_rgb_next]").given == others
    assert sampling("experiment=pose_following").given == others
    assert [scheme.modality for scheme in sampling("experiment=pose_following").chosen] == ["tok_rgb_next"]


def test_the_order_of_generation_is_that_of_the_list():
    made = sampling("sampling.generate=[tok_rgb_next,coords_next]")
    assert [scheme.modality for scheme in made.chosen] == ["tok_rgb_next", "coords_next"]


def test_ar_takes_a_step_for_each_token():
    table = small_table()
    made = sampling("sampling=ar", "sampling.schemes.coords_next.num_steps=5").for_table(table)
    assert [scheme.num_steps for scheme in made] == [5, 6]


@pytest.mark.parametrize(
    "override, field, expected",
    [("order=roar", "order", "roar"), ("num_steps=3", "num_steps", 3), ("schedule=linear", "schedule", "linear"),
     ("temperature=0.5", "temperature", 0.5),
     ("temperature_schedule=inverse_sqrt", "temperature_schedule", "inverse_sqrt"),
     ("top_k=5", "top_k", 5), ("top_p=0.5", "top_p", 0.5),
     ("top_p_order=before_temperature", "top_p_order", "before_temperature"), ("pick=argmax", "pick", "argmax"),
     ("noise=2", "noise", 2), ("+precision=bf16", "precision", "bf16"), ("encoder_interval=3", "encoder_interval", 3)],
)  # fmt: skip
def test_a_key_reaches_its_scheme_alone(override, field, expected):
    plus = "+" if override.startswith("+") else ""
    coords, picture = sampling(f"{plus}sampling.schemes.coords_next.{override.removeprefix('+')}").chosen
    assert getattr(coords, field) == expected
    assert picture == sampling().chosen[1]


def test_the_old_name_of_a_schedule_works_with_a_warning(caplog):
    (coords, _) = sampling("sampling.schemes.coords_next.temperature_schedule=onex").chosen
    assert coords.temperature_schedule == "inverse_sqrt" and "onex is now inverse_sqrt" in caplog.text


def test_nothing_to_generate_is_refused():
    with pytest.raises(InstantiationException, match=r"sampling\.generate=\[\]: nothing to generate"):
        sampling("sampling.generate=[]")


def test_precision_is_that_of_all_schemes():
    assert [scheme.precision for scheme in sampling("sampling.precision=fp32").chosen] == ["fp32", "fp32"]


def test_guidance_from_the_command_line():
    made = sampling(
        "sampling.schemes.coords_next.guidance.scale=2",
        "sampling.schemes.coords_next.guidance.conditions=[tok_rgb,[coords,tok_rgb_next]]",
        "sampling.schemes.coords_next.guidance.weights=[1,0.5]",
    )
    assert made.chosen[0].guidance.groups == [("tok_rgb",), ("coords", "tok_rgb_next")]


def test_parts_of_a_modality_are_given():
    table = small_table()
    is_given = sampling("sampling.given=[{coords:[head,left_hip]},{tok_rgb:[0,5]}]").is_given(table)
    hip = JOINT_NAMES.index("left_hip")
    start = table.columns("coords").start
    assert is_given.nonzero()[:, 0].tolist() == [0, 5] + [start + 13 * part + j for part in range(3) for j in (0, hip)]
    assert not sampling("sampling.given=[]").is_given(table).any()


def test_joint_positions_by_hand():
    assert joint_positions(["head"]) == [0, 13, 26]
    assert sorted(joint_positions(JOINT_NAMES)) == list(range(39))
    assert joint_positions(["left_shoulder", "right_ankle"]) == [1, 12, 14, 25, 27, 38]
    with pytest.raises(ValueError, match="neck.*left_shoulder"):
        joint_positions(["neck"])


def test_a_modality_given_as_a_whole_is_given_at_each_position():
    table = small_table()
    expected = torch.zeros(table.num_tokens, dtype=torch.bool)
    expected[table.columns("coords_next")] = True
    assert torch.equal(given_mask(table, ["coords_next"]), expected)


@pytest.mark.parametrize(
    "given, message",
    [
        (["captions"], "no modality 'captions'"),
        ([{"coords": ["neck"]}], "coords: joints .'neck'."),
        ([{"coords": [39]}], "coords has positions 0 … 38"),
        ([{"tok_rgb": ["head"]}], "tok_rgb has no joints"),
        ([{"coords": None}], "coords: None is no list"),
        ([{"coords": "head"}], "coords: 'head' is no list"),
    ],
)
def test_what_cannot_be_given_is_named(given, message):
    with pytest.raises(ValueError, match=f"sampling.given: {message}"):
        given_mask(small_table(), given)


@pytest.mark.parametrize(
    "overrides, message",
    [
        (
            ["sampling.given=[coords]", "sampling.generate=[coords]"],
            "sampling.generate: coords is in sampling.given as a whole",
        ),
        (["sampling.generate=[coords_next,coords_next]"], "sampling.generate=.*each modality once"),
        (["sampling.given=[coords,{coords:[head]}]"], "sampling.given=.*each modality once"),
        (["sampling.given=[[coords]]"], "sampling.given: .*neither a modality"),
        (["sampling.given=coords"], "sampling.given='coords': need a list"),
        (
            ["sampling.generate=[tok_depth]", "~sampling.schemes.default"],
            "no scheme for tok_depth; add sampling.schemes.tok_depth",
        ),
    ],
)
def test_contradictions_name_their_key(overrides, message):
    with pytest.raises(Exception, match="Sampling") as caught:
        sampling(*overrides)
    assert isinstance(caught.value.__cause__, ValueError)
    with pytest.raises(ValueError, match=message):
        raise caught.value.__cause__


@pytest.mark.parametrize(
    "key, value", [("num_steps", 0), ("num_steps", 1.5), ("schedule", "sine"), ("temperature", -1.0),
                   ("temperature", float("nan")), ("top_p", 0.0), ("top_p", 1.5), ("pick", "mode"), ("noise", -1.0),
                   ("order", "maskgot"), ("temperature_schedule", "cosine"), ("precision", "fp8"), ("top_k", 0),
                   ("encoder_interval", 0)],
)  # fmt: skip
def test_impossible_settings_name_the_key(key, value):
    with pytest.raises(ValueError, match=f"sampling.schemes.coords_next.{key}="):
        DecodingConfig(**{"modality": "coords_next", "num_steps": 4, key: value})


def test_noise_is_of_maskgit_alone():
    with pytest.raises(ValueError, match="sampling.schemes.coords_next.noise=1.0: order=roar"):
        DecodingConfig("coords_next", 4, order="roar", noise=1.0)


def test_unknown_and_missing_keys_of_a_scheme_are_named():
    with pytest.raises(ValueError, match="sampling.schemes.coords.steps: unknown"):
        Sampling([], ["coords"], {"coords": {"num_steps": 4, "steps": 4}})
    with pytest.raises(ValueError, match="sampling.schemes.coords.num_steps: missing"):
        Sampling([], ["coords"], {"coords": {"order": "roar"}})
    with pytest.raises(ValueError, match="sampling.schemes.coords=None: need the keys"):
        Sampling([], ["coords"], {"coords": None})


def test_schemes_that_do_not_fit_the_model_name_the_key():
    table = small_table()
    with pytest.raises(ValueError, match="sampling.schemes.coords_next.num_steps=40.*39"):
        DecodingConfig("coords_next", 40).for_table(table)
    labeled = ModalityTable(["coords", "action"], [8192, 12], [39, 1], [1, 1], [1, 1], [8, 8], [8, 8])
    with pytest.raises(ValueError, match="sampling.schemes.action.pick='mean'"):
        DecodingConfig("action", 1, pick="mean").for_table(labeled)
    with pytest.raises(ValueError, match="captions"):
        DecodingConfig("captions", 4).for_table(table)


@pytest.mark.parametrize("name", ["tok_rgb_prev", "coords_prev"])
def test_the_frame_before_the_reference_is_not_generated(name):
    names = ("tok_rgb", "coords", "tok_rgb_prev", "coords_prev", "motion_prev")
    table = ModalityTable(names, [65536] * 5, (6, 39, 6, 39, 13), [1] * 5, [1] * 5, [8, 40], [8, 40])
    asked = Sampling([], [name], {"default": {"num_steps": 1}})
    with pytest.raises(ValueError, match=f"sampling.generate: {name} is of the frame before the reference, which"):
        asked.for_model(table)
    assert Sampling([], ["motion_prev"], asked.schemes).for_model(table).generate == ["motion_prev"]  # ends at it


def test_what_was_never_a_target_is_not_generated_unless_no_one_asks():
    never = replace(small_table(), target_alphas=[0, 0, 1, 1])
    schemes = {"default": {"num_steps": 1}}
    message = r"sampling.generate: coords was never a target of this run \(modalities.target_alphas\): choose from "
    with pytest.raises(ValueError, match=message + "tok_rgb_next, coords_next, or train"):
        Sampling(["tok_rgb"], ["coords"], schemes).for_model(never)
    assert Sampling("auto", "auto", schemes).for_model(never).generate == ["coords_next", "tok_rgb_next"]
    joints_alone = replace(small_table(), target_alphas=[0, 1, 0, 1])
    assert Sampling("auto", "auto", schemes).for_model(joints_alone).generate == ["coords_next"]
    reference_alone = replace(small_table(), target_alphas=[0, 1, 0, 0], target_tokens_range=[8, 39])
    with pytest.raises(ValueError, match="generate=auto: this run had no part of the successor .*: coords$"):
        Sampling("auto", "auto", schemes).for_model(reference_alone)
    mixed = replace(never, mixture=[{"weight": 1}, {"weight": 0.1, "target_alphas": [0, 1, 0, 0]}])
    assert Sampling(["tok_rgb"], ["coords"], schemes).for_model(mixed).generate == ["coords"]


@pytest.mark.parametrize(
    ("scheme", "words"),
    [
        ("tok_rbg_next", "did you mean tok_rgb_next?"),
        ("tok_depth_next", "choose from tok_rgb, coords, tok_rgb_next, coords_next"),
    ],
)
def test_a_scheme_of_no_modality_is_refused(scheme, words):
    with pytest.raises(ValueError, match=rf"^sampling\.schemes\.{scheme}: the model has no such modality; ") as error:
        sampling(f"+sampling.schemes.{scheme}={{num_steps: 3}}")
    assert str(error.value).endswith(words)


def test_schemes_of_other_models_modalities_stay_unused():
    assert "motion" in sampling("+sampling.schemes.motion={num_steps: 3}").schemes
