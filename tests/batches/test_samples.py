"""Tokens that are derived when a sample is read, against the pairs that they come from."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from support.tiny_shards import small_manifest

from m3.batches.samples import SampleAssembler, lengths_unless_whole
from m3.core.modalities import ModalityTable
from m3.core.types import PairInfo
from m3.shards.manifest import StoredModality
from m3.tokens.displacement import displacement_tokens
from m3.tokens.text import END_ID, TextTokenizer, train_text_tokenizer

NAMES = ("captions", "coords", "motion_prev", "motion_next", "gap_prev", "gap_next", "seconds_prev", "seconds_next",
         "action")  # fmt: skip
LENGTHS = (12, 39, 13, 13, 1, 1, 1, 1, 1)
JOINTS = ("coords", "coords_next", "coords_prev")
TEXTS = TextTokenizer(train_text_tokenizer(["a jump", "a long long jump"] * 9, 300))
MANIFEST = replace(
    small_manifest(),
    modalities=tuple(StoredModality(name, (3, 13), "joints", 8192) for name in JOINTS),
    actions=("bowl", "jump"),
)


def table(names=NAMES, lengths=LENGTHS, num_actions: int = 2) -> ModalityTable:
    sizes = {"captions": 400, "action": num_actions}
    return ModalityTable(
        names, [sizes.get(name, 65536) for name in names], lengths, [1] * len(names), [1] * len(names), [1, 1], [1, 1]
    )


def pairs() -> list[PairInfo]:
    return [
        PairInfo("a-000004", "a", 4, 9, "jump", 50.0, previous=1, fps=30.0),
        PairInfo("a-000001", "a", 1, 4, "jump", 50.0, previous=None, fps=30.0),
        PairInfo("b-000090", "b", 90, 190, None, None, previous=80, fps=None),
    ]


def stored() -> tuple[np.ndarray, np.ndarray]:
    """Tokens (3, 117) and lengths (3, 3); the second pair has no previous frame, the third no joints."""
    rng = np.random.default_rng(0)
    poses = rng.integers(1000, 7000, (3, 3, 3, 13))
    poses[:, :, 2] = rng.random((3, 3, 13)) < 0.8
    lengths = np.array([[39, 39, 39], [39, 39, 0], [0, 0, 0]])
    tokens = poses.reshape(3, 3, 39) * (lengths > 0)[:, :, None]
    return tokens.reshape(3, 117).astype(np.uint16), lengths.astype(np.uint16)


def parts(texts=("a jump", "", "a long long jump")) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Modality → ids (3, L) and lengths (3,)."""
    run = table()
    assembler = SampleAssembler(MANIFEST, run, TEXTS)
    assert [each.name for each in assembler.needed] == list(JOINTS) and assembler.needs_facts
    tokens, lengths = assembler.assemble(*stored(), assembler.facts(pairs(), texts))
    assert tokens.shape == (3, run.num_tokens) and lengths.shape == (3, 9)
    return {name: (tokens[:, run.columns(name)], lengths[:, k]) for k, name in enumerate(run.modalities)}


def test_displacements_are_those_of_the_poses_and_absent_without_them() -> None:
    poses = stored()[0].astype(np.int64).reshape(3, 3, 3, 13)  # (pair, reference successor previous, …)
    found = parts()
    for name, earlier, later in (("motion_next", 0, 1), ("motion_prev", 2, 0)):
        ids, length = found[name]
        assert length.tolist() == ([13, 13, 0] if name == "motion_next" else [13, 0, 0])
        for n in np.flatnonzero(length):
            assert ids[n].tolist() == displacement_tokens(poses[n, earlier], poses[n, later]).tolist()
        assert (ids[length == 0] == 0).all()


def test_gaps_are_frames_and_seconds() -> None:
    found = parts()
    assert found["gap_prev"][0][:, 0].tolist() == [2, 0, 9] and found["gap_prev"][1].tolist() == [1, 0, 1]
    assert found["gap_next"][0][:, 0].tolist() == [4, 2, 63] and found["gap_next"][1].tolist() == [1, 1, 1]
    assert found["seconds_prev"][1].tolist() == [1, 0, 0] and found["seconds_next"][1].tolist() == [1, 1, 0]
    assert found["seconds_next"][0][0, 0] == round(6 * math.log2(5 / 30 * 120))


def test_labels_are_places_in_the_list_of_the_data() -> None:
    ids, length = parts()["action"]
    assert ids[:2, 0].tolist() == [1, 1] and length.tolist() == [1, 1, 0]


def test_captions_have_their_own_lengths() -> None:
    ids, length = parts()["captions"]
    assert length[1] == 0 and 0 < length[0] < length[2] <= 12
    assert ids[0, length[0] - 1] == END_ID and not ids[0, length[0] :].any()
    assert TEXTS.decode(ids[2]) == "a long long jump"


def test_a_trained_model_reads_data_without_labels_and_captions() -> None:
    run = table(("coords", "action", "captions"), (39, 1, 12))
    assembler = SampleAssembler(replace(MANIFEST, actions=()), run, None, needs_words=False)
    tokens, lengths = stored()[0][:, :39], stored()[1][:, :1]
    found = assembler.assemble(tokens, lengths, assembler.facts(pairs(), ["", "", ""]))
    assert found[0].shape == (3, 52) and found[1].tolist() == [[39, 0, 0], [39, 0, 0], [0, 0, 0]]


def test_whole_samples_have_no_lengths() -> None:
    run = table(("coords",), (39,))
    assert lengths_unless_whole(np.array([[39], [39]]), run) is None
    assert lengths_unless_whole(np.array([[39], [0]]), run).tolist() == [[39], [0]]


@pytest.mark.parametrize(
    "names, lengths, changes, message",
    [
        (
            ("motion_prev",),
            (13,),
            {"modalities": MANIFEST.modalities[:2]},
            "motion_prev needs coords_prev.*history=true",
        ),
        (("tok_rgb",), (16,), {}, "wants 16 tokens of tok_rgb, the data set has 0"),
        (("action",), (1,), {"actions": ()}, "the data set has no action; leave it out"),
        (("action",), (1,), {"actions": ("a", "b", "c")}, "vocab_sizes: 2 for action, the data set has 3 ids"),
        (("captions",), (8,), {}, "the data set has no captions; leave it out"),
    ],
)
def test_what_the_data_lack_is_named_with_its_remedy(names, lengths, changes, message: str) -> None:
    run = table((*names, "coords"), (*lengths, 39))
    with pytest.raises(ValueError, match=message):
        SampleAssembler(replace(MANIFEST, **changes), run, None)
