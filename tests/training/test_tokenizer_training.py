from __future__ import annotations

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint

from m3.clips.canvas import CropCanvas
from m3.core.joints import Joints
from m3.tokens.mini import MiniTokenizer
from m3.training.muon import Muon, orthogonalized
from m3.training.rendered_frames import RenderedFrames, TrainFrames, held_out, person_box, photograph_pair
from m3.training.tokenizer import TokenizerTraining, box_weights, psnr, reconstruction_loss, stay_loss


def small_data(root) -> RenderedFrames:
    return RenderedFrames(
        root=str(root), labels=None, looks_per_clip=1, num_demo_clips=4, num_photographs=2, size=64,
        canvas_sizes=[32, 64], pixels_per_batch=8192, steps=4, seed=0,
    )  # fmt: skip


def small_training(root, **changes) -> TokenizerTraining:
    settings = dict(
        steps=4, warmup_steps=1, decay_steps=2, lr=2e-3, adam_lr=1e-3, weight_decay=0.01, clip_grad=1.0,
        ema_decay=0.5, pixels_per_batch=8192, edge_weight=0.1, box_weight=1.5, stay_weight=0.1, stay_tolerance=4.0,
        seed=0, export=str(root / "run" / "mini.safetensors"),
    )  # fmt: skip
    return TokenizerTraining(**(settings | changes))


def test_psnr_by_hand():
    truth = torch.zeros(2, 3, 4, 4)
    pictures = truth.clone()
    pictures[0] += 2 * 10 / 255  # ten gray levels everywhere: 20 log10(255 / 10) dB
    pictures[1, :, :2] += 2 * 10 / 255  # … in one half
    truth, pictures = truth - 1, pictures - 1
    assert psnr(pictures, truth).tolist() == pytest.approx([28.1308, 31.1411], abs=1e-3)


def test_loss_by_hand():
    truth = torch.zeros(1, 3, 2, 2)
    pictures = truth.clone()
    pictures[..., 1] = 0.4  # error 0.4 in one of two columns: root 0.4 / √2; edges 0.4 along x, 0 along y
    equal = torch.ones(1, 1, 2, 2)
    assert reconstruction_loss(pictures, truth, equal, 0.5).item() == pytest.approx(0.4 / 2**0.5 + 0.2, abs=1e-4)
    right = torch.tensor([0.5, 1.5]).expand(1, 1, 2, 2)  # the column with the error counts three times as much
    assert reconstruction_loss(pictures, truth, right, 0.0).item() == pytest.approx(0.4 * 0.75**0.5, abs=1e-4)


def test_pixels_in_the_box_count_more():
    weights = box_weights(torch.tensor([[1.0, 0, 3, 2], [0, 0, 0, 0]]), 4, 3.0)
    inside, outside = 4 / (4 * 4 / 16 + 12 / 16) / 4, 1 / (4 * 4 / 16 + 12 / 16)
    expected = torch.full((4, 4), outside)
    expected[:2, 1:3] = 4 * inside
    assert torch.allclose(weights[0, 0], expected) and (weights[1] == 1).all()


def test_tokens_may_change_where_the_picture_changes():
    frames = torch.zeros(1, 3, 16, 32)
    neighbors = frames.clone()
    neighbors[..., 16:] += 4 / 127.5  # by the tolerance
    levels = torch.zeros(1, 1, 2, 6)
    moved = levels + torch.tensor([0.5, 1.0])[:, None]
    expected = (3 + 6 * np.exp(-1)) / 2
    assert stay_loss(frames, neighbors, levels, moved, 4.0).item() == pytest.approx(expected, abs=1e-5)


def test_the_box_of_a_person_by_hand():
    xy = np.full((1, 13, 2), 20.0)
    xy[0, 0], xy[0, 1] = (10, 50), (90, 60)  # the second is invisible
    is_visible = np.ones((1, 13), bool)
    is_visible[0, 1] = False
    box = person_box(Joints(xy, is_visible), 0, 100)
    assert box == pytest.approx([0.07, 0.17, 0.23, 0.53])  # a tenth of 30 px around 10 … 20 and 20 … 50
    assert (person_box(Joints(xy, ~is_visible & False), 0, 100) == 0).all()


def test_learning_rates_rise_stay_and_fall(tmp_path):
    training = small_training(tmp_path, steps=10, warmup_steps=2, decay_steps=4)
    assert [training.lr_factor(step) for step in range(11)] == [0.5, 1, 1, 1, 1, 1, 1, 0.75, 0.5, 0.25, 0]
    with pytest.raises(ValueError, match="task.steps=5"):
        small_training(tmp_path, steps=5, warmup_steps=2, decay_steps=4)


@pytest.mark.parametrize("shape", [(8, 20), (20, 8)])
def test_orthogonalized_keeps_directions_and_levels_sizes(shape):
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    u, _, vh = torch.linalg.svd(matrix, full_matrices=False)
    inner = u.T @ orthogonalized(matrix) @ vh.T  # diagonal if the singular vectors are the same
    assert (inner - torch.diag(inner.diag())).abs().max() < 0.1
    assert 0.6 < inner.diag().min() and inner.diag().max() < 1.3


def test_muon_orthogonalizes_kernels_alone_and_adam_matches_torch():
    gradients = torch.Generator().manual_seed(1)
    parameters = [torch.nn.Parameter(torch.ones(4, 3, 2, 2)), torch.nn.Parameter(torch.ones(5, 1, 3, 3))]
    reference = torch.nn.Parameter(torch.ones(5, 1, 3, 3))
    muon = Muon(parameters, lr=0.1, adam_lr=0.01)
    adam = torch.optim.Adam([reference], lr=0.01, betas=(0.9, 0.98))
    for _ in range(3):
        before = parameters[0].detach().clone()
        for parameter in parameters:
            parameter.grad = torch.randn(parameter.shape, generator=gradients)
        reference.grad = parameters[1].grad.clone()
        muon.step()
        adam.step()
        step = (parameters[0] - before).detach()
        assert step.square().mean().sqrt().item() == pytest.approx(0.1 * 0.2, rel=0.25)
    assert torch.allclose(parameters[1], reference, atol=1e-6)


def test_other_weights_are_updated_as_by_torchs_adamw():
    gradients = torch.Generator().manual_seed(4)
    matrix, table, vector = (torch.nn.Parameter(torch.ones(size)) for size in ((4, 3), (7, 3), (3,)))
    muon = Muon([matrix, table, vector], 0.1, 0.01, betas=(0.9, 0.95), adam_weight_decay=0.2, kernels=[matrix])
    theirs = [torch.nn.Parameter(each.detach().clone()) for each in (table, vector)]
    groups = [{"params": theirs[:1], "weight_decay": 0.2}, {"params": theirs[1:], "weight_decay": 0.0}]
    adamw = torch.optim.AdamW(groups, lr=0.01, betas=(0.9, 0.95))
    for _ in range(4):
        for ours in (matrix, table, vector):
            ours.grad = torch.randn(ours.shape, generator=gradients)
        for ours, each in zip((table, vector), theirs):
            each.grad = ours.grad.clone()
        muon.step()
        adamw.step()
    for ours, each in zip((table, vector), theirs):
        torch.testing.assert_close(ours, each, rtol=0, atol=1e-6)


def test_a_step_that_is_not_finite_changes_nothing():
    parameters = [torch.nn.Parameter(torch.ones(4, 3)), torch.nn.Parameter(torch.ones(3))]
    muon = Muon(parameters, 0.1, 0.01, weight_decay=0.1)
    for parameter in parameters:
        parameter.grad = torch.full_like(parameter, torch.nan)
    muon.found_inf = torch.tensor(1.0)
    muon.step()
    assert all((parameter == 1).all() for parameter in parameters) and not muon.state


@pytest.mark.parametrize("shape", [(6, 10), (10, 6)])
def test_muon_of_matrices_equals_that_of_torch(monkeypatch, shape):
    # In float32, where both orthogonalize in bfloat16 and round at different places.
    monkeypatch.setattr(torch.Tensor, "bfloat16", lambda tensor: tensor.float())
    start = torch.randn(shape, generator=torch.Generator().manual_seed(2))
    gradients = torch.Generator().manual_seed(3)
    ours, theirs = (torch.nn.Parameter(start.clone()) for _ in range(2))
    muon = Muon([ours], lr=0.1, adam_lr=0.01, weight_decay=0.3, momentum=0.9)
    reference = torch.optim.Muon(
        [theirs], lr=0.1, weight_decay=0.3, momentum=0.9, nesterov=True, adjust_lr_fn="match_rms_adamw"
    )
    for _ in range(3):
        ours.grad = torch.randn(shape, generator=gradients)
        theirs.grad = ours.grad.clone()
        muon.step()
        reference.step()
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)
    assert (ours - start).abs().max() > 0.02


def test_every_tenth_label_is_held_out():
    ids = [f"{k:04d}" for k in range(1, 26)]
    assert held_out(ids) == ["0001", "0011", "0021"]


def test_a_batch_is_a_function_of_seed_and_step():
    rng = np.random.default_rng(0)
    pairs = rng.integers(0, 256, (9, 2, 64, 64, 3), dtype=np.uint8)
    boxes = np.tile(np.array([0.25, 0.25, 0.75, 1], np.float32), (9, 2, 1))
    first, second = (TrainFrames(pairs, boxes, [32, 48, 64], 9216, 20, seed=5) for _ in range(2))
    order = list(range(20))
    batches = {step: second[step] for step in reversed(order)}
    for step in order:
        for ours, again in zip(first[step], batches[step]):
            assert torch.equal(ours, again)
        frames, neighbors, boxes_px = batches[step]
        assert frames.shape == neighbors.shape and frames.dtype == neighbors.dtype == torch.uint8
        assert ((boxes_px >= 0) & (boxes_px <= frames.shape[-1])).all() and (boxes_px[:, :2] <= boxes_px[:, 2:]).all()
    shapes = {tuple(batch.frames.shape) for batch in batches.values()}
    assert shapes == {(9, 3, 32, 32), (4, 3, 48, 48), (2, 3, 64, 64)}
    assert not torch.equal(first[0].frames, TrainFrames(pairs, boxes, [32, 48, 64], 9216, 20, seed=6)[0].frames)


def test_a_box_follows_crops_and_mirroring():
    """A white square on black is where its box says, whatever was drawn; changed light keeps it the brightest."""
    pairs = np.zeros((1, 2, 64, 64, 3), np.uint8)
    pairs[:, :, 16:40, 8:24] = 255
    boxes = np.tile(np.array([8, 16, 24, 40], np.float32) / 64, (1, 2, 1))
    data = TrainFrames(pairs, boxes, [32, 48], 1, 30, seed=1)
    for step in range(30):
        frames, _, box = data[step]
        rows, columns = np.nonzero((frames[0].float().mean(0) > 128).numpy())
        if len(rows):
            found = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            assert np.abs(np.array(found) - box[0].numpy()).max() <= 1, step


def test_a_photograph_is_a_square_twice():
    pair = photograph_pair("camera", 3, 0, CropCanvas(64))
    assert pair.frames.shape == (2, 64, 64, 3) and (pair.frames[0] == pair.frames[1]).all()
    assert pair.frames.std() > 10 and not pair.boxes.any()
    assert (photograph_pair("camera", 3, 0, CropCanvas(64)).frames == pair.frames).all()


def test_pairs_are_rendered_once_and_whole(tmp_path):
    data = small_data(tmp_path)
    data.setup()
    written = {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert data.train_pairs.frames.shape == (6, 2, 64, 64, 3) and data.train_pairs.frames.dtype == np.uint8
    assert data.train_pairs.boxes.shape == (6, 2, 4) and data.train_pairs.boxes[:4].any((1, 2)).all()
    assert not any(name.endswith(".tmp") for name in written)
    again = small_data(tmp_path)
    again.setup()
    assert {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == written
    assert np.array_equal(again.train_pairs.frames, data.train_pairs.frames)


@pytest.mark.parametrize("canvas_sizes", [[], [40], [128]])
def test_impossible_canvas_sizes_are_named(tmp_path, canvas_sizes):
    with pytest.raises(ValueError, match="data.canvas_sizes"):
        RenderedFrames(str(tmp_path), None, 1, 1, 1, 64, canvas_sizes, 4096, 1, 0)


def fit(training: TokenizerTraining, data: RenderedFrames, max_steps: int, **settings) -> pl.Trainer:
    trainer = pl.Trainer(
        accelerator="cpu", max_steps=max_steps, max_epochs=-1, logger=False, enable_progress_bar=False,
        enable_model_summary=False, num_sanity_val_steps=0, limit_val_batches=0, precision=training.precision,
        gradient_clip_val=training.clip_grad, **settings,
    )  # fmt: skip
    trainer.fit(training, data)
    return trainer


def test_training_exports_averaged_weights_that_the_tokenizer_reads(tmp_path):
    training = small_training(tmp_path)
    before = {name: weight.clone() for name, weight in training.model.named_parameters()}
    fit(training, small_data(tmp_path / "frames"), 4, enable_checkpointing=False)
    assert all(not torch.equal(weight, before[name]) for name, weight in training.model.named_parameters())
    exported = MiniTokenizer(str(tmp_path / "run" / "mini.safetensors")).model.state_dict()
    for name, weight in training.ema_model.state_dict().items():
        assert torch.equal(exported[name], weight.half().float()), name


def test_a_checkpoint_holds_the_average_after_its_step(tmp_path):
    training = small_training(tmp_path)
    checkpoint = ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=2, save_top_k=-1)
    fit(training, small_data(tmp_path / "frames"), 2, callbacks=[checkpoint])
    saved = torch.load(tmp_path / "step=2.ckpt", weights_only=True)["state_dict"]
    for name, weight in training.state_dict().items():
        assert torch.equal(saved[name], weight), name
