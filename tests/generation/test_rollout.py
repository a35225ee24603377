from __future__ import annotations

import numpy as np
import pytest
import torch
from support.oracle import Oracle, given_references, small_table

from m3.core.frames import TokenFrames
from m3.core.types import PackedTokens, PairInfo
from m3.generation.rollout import RowTokens, check_schemes, find_chains, num_steps, roll_out, true_frames
from m3.sampling.settings import DecodingConfig
from m3.tokens.base import PictureTokenizer
from m3.tokens.joints import JointCodec
from m3.vocabularies import DecodingContext, decode, interpreters_of

NUM_PICTURE_IDS = 64000


def pair(clip: str, reference: int, successor: int) -> PairInfo:
    return PairInfo(f"{clip}-{reference:06d}", clip, reference, successor, "jump", 50.0)


# Rows out of order, as shuffled shards have them. Clip b lacks the pair 6 → 9, which fell into another split.
PAIRS = [
    pair("b", 9, 12), pair("a", 3, 5), pair("b", 0, 4), pair("a", 0, 3), pair("c", 2, 3), pair("b", 4, 6),
    pair("a", 5, 9), pair("a", 9, 10), pair("a", 10, 14),
]  # fmt: skip


def test_chains_follow_the_successors_of_a_clip():
    assert [chain.rows for chain in find_chains(PAIRS, 3, "disjoint")] == [(3, 1, 6), (7, 8), (2, 5), (0,), (4,)]
    assert [chain.rows for chain in find_chains(PAIRS, 3, "first")] == [(3, 1, 6), (2, 5), (4,)]
    chain = find_chains(PAIRS, 6, "first")[0]
    assert chain.rows == (3, 1, 6, 7, 8) and [p.reference for p in chain.pairs] == [0, 3, 5, 9, 10]


def test_disjoint_chains_use_every_pair_once_even_where_references_interleave():
    dense = [pair("a", frame, frame + 2) for frame in range(9)]
    chains = find_chains(dense, 2, "disjoint")
    assert sorted(row for chain in chains for row in chain.rows) == list(range(9))
    assert chains[0].rows == (0, 2) and chains[1].rows == (1, 3)


def test_max_samples_spreads_over_the_split():
    pairs = [pair(f"{clip:03d}", 0, 1) for clip in range(100)]
    chains = find_chains(pairs, 6, "first", max_samples=5)
    assert [chain.rows[0] for chain in chains] == [0, 25, 50, 74, 99]
    assert len(find_chains(pairs, 6, "first", max_samples=None)) == 100


@pytest.mark.parametrize(
    "key, changes",
    [("frames=0", {"num_frames": 0}), ("starts='all'", {"starts": "all"}), ("max_samples=0", {"max_samples": 0})],
)
def test_impossible_values_name_the_key(key, changes):
    with pytest.raises(ValueError, match=f"rollout.{key}"):
        find_chains(PAIRS, **{"num_frames": 6, "starts": "first", **changes})


def table_rows(pairs: list[PairInfo]) -> RowTokens:
    """Token rows that name their frame: picture tokens are the frame number, joints 100 plus it."""
    table = small_table()
    rows = np.zeros((len(pairs), table.num_tokens), np.uint16)
    for n, p in enumerate(pairs):
        rows[n, table.columns("tok_rgb")], rows[n, table.columns("tok_rgb_next")] = p.reference, p.successor
        rows[n, table.columns("coords")], rows[n, table.columns("coords_next")] = 100 + p.reference, 100 + p.successor
    lengths = np.tile(table.max_seq_lens, (len(pairs), 1))
    return RowTokens(table, np.arange(len(pairs)), rows, lengths)


def test_truth_is_the_chain_of_pairs():
    chains = find_chains(PAIRS, 4, "first")
    truth = true_frames(table_rows(PAIRS), small_table(), chains, num_frames=4)
    assert {name: ids.shape for name, ids in truth.ids.items()} == {"tok_rgb": (3, 5, 6), "coords": (3, 5, 39)}
    assert truth.ids["tok_rgb"][:, :, 2].tolist() == [[0, 3, 5, 9, 10], [0, 4, 6, 0, 0], [2, 3, 0, 0, 0]]
    assert truth.ids["coords"][0, :, 38].tolist() == [100, 103, 105, 109, 110]
    assert truth.is_present.tolist() == [[True] * 5, [True] * 3 + [False] * 2, [True] * 2 + [False] * 3]
    assert all((known == truth.is_present[..., None]).all() for known in truth.is_known.values())


class Walker(Oracle):
    """x and y tokens grow by 10 a frame; picture tokens grow by the successor's first x token; all joints visible."""

    def encode(self, inputs: PackedTokens) -> dict:
        places = zip(inputs.sample.tolist(), inputs.modality.tolist(), inputs.position.tolist())
        return dict(zip(places, inputs.ids.tolist()))

    def decode(self, context: dict, targets: PackedTokens) -> torch.Tensor:
        hidden = []
        for b, k, position in zip(targets.sample.tolist(), targets.modality.tolist(), targets.position.tolist()):
            growth = 10 if k == 3 else context[b, 3, 0]  # a picture before its joints is a KeyError
            hidden.append(1 if k == 3 and position >= 26 else context[b, k - 2, position] + growth)
        return torch.tensor(hidden).float()[:, None]

    def digit_logits(self, hidden: torch.Tensor, modality: int, num_ids: int) -> tuple[torch.Tensor, ...]:
        return (torch.nn.functional.one_hot(hidden[:, 0].long(), NUM_PICTURE_IDS)[:, :num_ids] * 50.0,)


SCHEMES = [DecodingConfig("coords_next", 3), DecodingConfig("tok_rgb_next", 2)]


def references(num_samples: int) -> TokenFrames:
    coords = np.arange(num_samples)[:, None] * 1000 + np.arange(39)
    coords[:, 26:] = 1
    return given_references({"tok_rgb": np.arange(num_samples)[:, None] + np.arange(6) * 7, "coords": coords})


def test_each_frame_is_the_reference_of_the_next():
    steps = []
    given = references(2)
    sample = torch.arange(2)
    out = roll_out(Walker(), given, SCHEMES, 3, 0, sample, batch_size=1, on_step=lambda: steps.append(1))
    assert len(steps) == 2 * 3 * (3 + 2) == num_steps(SCHEMES, 3, 2, batch_size=1) and out.is_present.all()
    assert all(known.all() for known in out.is_known.values())
    x = given.ids["coords"][:, :1, :26] + 10 * np.arange(4)[:, None]
    assert (out.ids["coords"][:, :, :26] == x).all() and (out.ids["coords"][:, :, 26:] == 1).all()
    growth = np.cumsum(np.concatenate([np.zeros((2, 1), int), x[:, 1:, 0]], 1), 1)  # (2, 4)
    assert (out.ids["tok_rgb"] == given.ids["tok_rgb"][:, :1] + growth[:, :, None]).all()


def test_a_horizon_uses_only_what_came_before_it():
    model = Oracle(scale=1.0)
    sample = torch.tensor([5, 6, 7])
    short = roll_out(model, references(3), SCHEMES, 2, seed=4, sample=sample, batch_size=8)
    long = roll_out(model, references(3), SCHEMES, 4, seed=4, sample=sample, batch_size=8)
    assert all((short.ids[name] == long.ids[name][:, :3]).all() for name in ("coords", "tok_rgb"))
    assert (long.ids["coords"][:, 1] != long.ids["coords"][:, 2]).any()  # horizons draw anew


def test_samples_do_not_depend_on_their_batch():
    model, given = Oracle(scale=1.0), references(4)
    whole = roll_out(model, given, SCHEMES, 2, seed=4, sample=torch.arange(4), batch_size=3)
    rows = torch.tensor([3, 1])
    part = roll_out(model, given[rows.numpy()], SCHEMES, 2, seed=4, sample=rows, batch_size=8)
    assert all((part.ids[name] == whole.ids[name][[3, 1]]).all() for name in ("coords", "tok_rgb"))


@pytest.mark.parametrize("schemes", [SCHEMES[:1], [*SCHEMES, SCHEMES[0]], []])
def test_schemes_must_generate_a_whole_successor(schemes):
    with pytest.raises(ValueError, match="sampling generates .* needs"):
        check_schemes(schemes, small_table())
    with pytest.raises(ValueError, match="sampling generates .* needs"):
        roll_out(Oracle(), references(1), schemes, 2, seed=0, sample=torch.arange(1), batch_size=1)


class FlatTokenizer(PictureTokenizer):
    """A picture of one gray: the id of its first token."""

    name, fingerprint = "flat", ""

    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        raise NotImplementedError

    def decode(self, ids: torch.Tensor) -> torch.Tensor:
        assert ids.shape[1:] == (2, 3 - 1)
        return (ids[:, :1, :1, None] / 127.5 - 1).expand(-1, 3, 32, 32).float()


def test_decoding_and_the_baseline():
    codec = JointCodec(32)
    xy = np.random.default_rng(0).uniform(0, 32, (1, 3, 13, 2))
    coords = codec.encode(xy, np.ones((1, 3, 13), bool)).reshape(1, 3, 39).astype(np.int64)
    ids = {"tok_rgb": np.array([[[10] * 4, [20] * 4, [30] * 4]]), "coords": coords}
    is_known = {name: np.ones(each.shape, bool) for name, each in ids.items()}
    tokens = TokenFrames(ids, is_known, np.array([[True, True, False]]))
    frames = decode(tokens, interpreters_of(small_table()), DecodingContext(FlatTokenizer(), 32))
    pictures, poses = frames.values["tok_rgb"], frames.values["coords"]
    assert pictures.shape == (1, 3, 32, 32, 3) and pictures.dtype == np.uint8
    assert pictures[0, :, 5, 5, 1].tolist() == [10, 20, 0]
    assert abs(poses.xy - xy).max() < 32 / 8191 and poses.is_visible.all()
    still = frames.still()
    assert (still.values["tok_rgb"] == 10).all() and (still.values["coords"].xy == poses.xy[:, :1]).all()
