from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from m3.core.joints import JOINT_NAMES, LIMBS
from m3.core.modalities import JOINTS, NUM_JOINT_BINS, PICTURE, ModalityTable
from m3.core.rng import SampleGenerator
from m3.masking.select import choose_and_pack, pack
from m3.model.aligned import NUM_POSE_FEATURES, PlacedPoses, placed_poses, pose_features
from m3.model.encoder_decoder import EncoderDecoder

NAMES = ["tok_rgb", "coords", "coords_next", "tok_rgb_next"]
SIDE = 4


def table() -> ModalityTable:
    return ModalityTable(NAMES, [65536, 8192, 8192, 65536], [16, 39, 39, 16], [1] * 4, [1] * 4, [20, 60], [20, 40])


def random_tokens(num: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    parts = []
    for vocabulary, length in zip(table().vocabularies, table().max_seq_lens):
        part = torch.randint(vocabulary.num_ids, (num, length), generator=generator)
        if vocabulary == JOINTS:
            part[:, 26:] = torch.randint(2, (num, 13), generator=generator)
        parts.append(part)
    return torch.cat(parts, 1)


def model(aligned: bool = True, seed: int = 0) -> EncoderDecoder:
    torch.manual_seed(seed)
    made = EncoderDecoder(
        table(), width=32, encoder_depth=1, decoder_depth=1, head_width=16, head="factorized", joints="relative",
        positions="joint", aligned=aligned,
    )  # fmt: skip
    for head in made.to_logits.parameters():
        torch.nn.init.normal_(head, std=0.1)
    return made.eval()


def known(*names: str, num: int = 2) -> torch.Tensor:
    mask = torch.zeros(num, table().num_tokens, dtype=torch.bool)
    for name in names:
        mask[:, table().columns(name)] = True
    return mask


def hidden_of(net: EncoderDecoder, tokens: torch.Tensor, inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return net(pack(tokens, inputs, table()), pack(tokens, targets, table()))


def naive_features(xy: np.ndarray, is_seen: np.ndarray, position: int) -> dict[tuple, float]:
    """Heat of each joint and limb at the middle of a token, computed one by one."""
    place = np.array([position % SIDE + 0.5, position // SIDE + 0.5])
    found = {}
    for j in range(13):
        distance = np.linalg.norm(xy[j] * SIDE - place)
        found["joint", j] = math.exp(-(distance**2) / (2 * 0.5**2)) * is_seen[j]
    for number, (first, second) in enumerate([*LIMBS, ("head", "left_shoulder"), ("head", "right_shoulder")]):
        a, b = (xy[JOINT_NAMES.index(name)] * SIDE for name in (first, second))
        distance = min(np.linalg.norm(a + t * (b - a) - place) for t in np.linspace(0, 1, 20_001))
        both = is_seen[JOINT_NAMES.index(first)] and is_seen[JOINT_NAMES.index(second)]
        found["limb", number] = math.exp(-(distance**2) / (2 * 0.5**2)) * both
    return found


def test_heat_falls_with_the_distance_from_joints_and_limbs():
    rng = np.random.default_rng(0)
    xy, is_seen = rng.uniform(size=(2, 13, 2)), rng.uniform(size=(2, 13)) < 0.8
    poses = PlacedPoses(torch.tensor(xy, dtype=torch.float32), torch.tensor(is_seen))
    sample, position = torch.tensor([0, 0, 1, 1]), torch.tensor([0, 6, 9, 15])
    features = pose_features(poses, sample, position, SIDE)
    assert features.shape == (4, NUM_POSE_FEATURES)
    for row in range(4):
        expected = naive_features(xy[sample[row]], is_seen[sample[row]], int(position[row]))
        for j in range(13):
            assert abs(features[row, j].item() - expected["joint", j]) < 1e-5
        for number in range(14):
            assert abs(features[row, 52 + number].item() - expected["limb", number]) < 1e-5


def test_a_known_pose_is_read_from_packed_tokens():
    tokens = random_tokens(3)
    is_known = known("coords_next", num=3)
    first = table().columns("coords_next").start
    is_known[0, first + 4] = False  # x of joint 4
    is_known[1, first + 26 + 5] = False  # the visibility of joint 5 is not known: it may be there
    poses = placed_poses(pack(tokens, is_known, table()), 2)
    ids = tokens[:, table().columns("coords_next")].view(3, 3, 13)
    expected = ids[:, 2] == 1
    expected[0, 4], expected[1, 5] = False, True
    assert torch.equal(poses.is_seen, expected)
    xy = ids[:, :2].transpose(1, 2).float() / (NUM_JOINT_BINS - 1)
    assert torch.allclose(poses.xy[expected], xy[expected])
    assert not placed_poses(pack(tokens, known("tok_rgb", num=3), table()), 2).is_seen.any()


def test_a_query_sees_the_token_at_its_place_and_the_poses():
    """Without attention (its outputs are set to 0) a query knows what is aligned with it, and nothing else."""
    net, tokens = model(), random_tokens(2)
    for name, parameter in net.named_parameters():
        if "attn_out_proj" in name or "out_proj" in name:
            torch.nn.init.zeros_(parameter)
    inputs, targets = known("tok_rgb", "coords", "coords_next"), known("tok_rgb_next")
    before = hidden_of(net, tokens, inputs, targets).view(2, 16, -1)
    changed = tokens.clone()
    changed[0, table().columns("tok_rgb").start + 5] = (tokens[0, table().columns("tok_rgb").start + 5] + 999) % 64_000
    differs = (hidden_of(net, changed, inputs, targets).view(2, 16, -1) != before).any(-1)
    assert differs.nonzero().tolist() == [[0, 5]]
    moved = tokens.clone()
    columns = table().columns("coords_next")
    moved[1, columns.start] = (tokens[1, columns.start] + 4000) % 8192
    moved[1, columns.start + 26] = 1
    differs = (hidden_of(net, moved, inputs, targets).view(2, 16, -1) != before).any(-1)
    assert differs[1].any() and not differs[0].any()


def test_results_do_not_depend_on_the_batch():
    net, tokens = model(), random_tokens(5)
    inputs, targets = known("tok_rgb", "coords", "coords_next", num=5), known("tok_rgb_next", num=5)
    together = hidden_of(net, tokens, inputs, targets).view(5, 16, -1)
    for row in range(5):
        alone = hidden_of(net, tokens[row : row + 1], inputs[row : row + 1], targets[row : row + 1])
        torch.testing.assert_close(alone, together[row], rtol=1e-4, atol=1e-5)


def test_pictures_that_are_not_square_are_refused():
    narrow = ModalityTable(["tok_rgb"], [65536], [12], [1], [1], [4, 4], [4, 4])
    with pytest.raises(ValueError, match="model.aligned=true needs square pictures, tok_rgb has 12 tokens"):
        EncoderDecoder(narrow, width=32, encoder_depth=1, decoder_depth=1, head_width=16, aligned=True)


def test_every_weight_learns():
    net = model()
    tokens = random_tokens(16)
    inputs, targets = choose_and_pack(tokens, table(), SampleGenerator(0, "budgets", torch.arange(16)))
    net.train()(inputs, targets).square().sum().backward()
    for name, parameter in net.aligned.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


def test_without_the_option_the_model_is_as_before():
    plain = model(aligned=False)
    assert plain.aligned is None and not any("aligned" in name for name in plain.state_dict())
    assert PICTURE in plain.vocabularies
