"""What m3's training step is compared with: a 4M training as it is commonly written (nano4M), in m3's own words.

Every sample is padded to the largest budgets (128 + 128), masked on its own in a data loader (NumPy), attention is
written out (scores, mask, softmax, product), every position gets the logits of the whole 65,536-entry table, padding
too, and AdamW is PyTorch's default. The architecture is that of `model=m3 model.logits=table`, to the parameter; names
are those of published checkpoints. Nothing is slowed down: bench/step.py checks how much of the machine it uses.

`is_tuned` makes it what a good engineer gets out of it in a day, for a GPU: the attention kernel of PyTorch, one
compiled graph of model and loss, fused AdamW, no wait for the loss. It stays padded, so its shapes are fixed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, default_collate

from m3.core.modalities import ModalityTable
from m3.core.types import PackedTokens
from m3.training.optim import OptimConfig

NOT_A_TARGET = -100
"""Id of padding among the targets, which cross-entropy ignores."""


class PaddedBatch(NamedTuple):
    """B samples padded to N input and M target places; without the leading B for one sample.

    input_ids, input_positions, input_modalities: (B, N) int64. is_input: (B, N) bool, False in the padding.
    target_ids: (B, M) int64, NOT_A_TARGET in the padding; the other targets' fields as the inputs'.
    """

    input_ids: Tensor
    input_positions: Tensor
    input_modalities: Tensor
    is_input: Tensor
    target_ids: Tensor
    target_positions: Tensor
    target_modalities: Tensor
    is_target: Tensor


# Masking, sample by sample


def draw_budget(rng: np.random.Generator, alphas: Iterable[float], bounds: tuple[int, int], room: np.ndarray):
    """(K,) tokens of each modality: floor(p · n), left-over tokens by draws of their own, cut at `room` (K,)."""
    alphas = np.asarray(alphas, float)
    total = rng.integers(bounds[0], bounds[1] + 1)
    budget = np.floor(rng.dirichlet(alphas) * total).astype(np.int64)
    if left_over := total - budget.sum():
        np.add.at(budget, rng.dirichlet(alphas, size=left_over).argmax(1), 1)
    return np.minimum(budget, room)


def draw_columns(rng: np.random.Generator, table: ModalityTable) -> tuple[np.ndarray, np.ndarray]:
    """Columns of a sample's S tokens that are inputs, and those that are targets, each ascending."""
    lengths = np.array(table.max_seq_lens)
    num_inputs = draw_budget(rng, table.input_alphas, table.input_tokens_range, lengths)
    num_targets = draw_budget(rng, table.target_alphas, table.target_tokens_range, lengths - num_inputs)
    inputs, targets = [], []
    for offset, length, first, count in zip(table.offsets, lengths, num_inputs, num_targets):
        permutation = rng.permutation(length) + offset
        inputs.append(np.sort(permutation[:first]))
        targets.append(np.sort(permutation[first : first + count]))
    return np.concatenate(inputs), np.concatenate(targets)


def padded_sample(tokens: np.ndarray, inputs: np.ndarray, targets: np.ndarray, table: ModalityTable) -> PaddedBatch:
    """tokens: (S,) ids. inputs, targets: columns of them."""
    modality_of_column = np.repeat(np.arange(table.num_modalities), table.max_seq_lens)  # (S,)
    position_of_column = np.arange(table.num_tokens) - np.array(table.offsets)[modality_of_column]
    fields = []
    for columns, longest, pad_id in (
        (inputs, table.input_tokens_range[1], 0),
        (targets, table.target_tokens_range[1], NOT_A_TARGET),
    ):
        for values, padding in ((tokens, pad_id), (position_of_column, 0), (modality_of_column, 0)):
            padded = np.full(longest, padding, np.int64)
            padded[: len(columns)] = values[columns]
            fields.append(torch.from_numpy(padded))
        fields.append(torch.arange(longest) < len(columns))
    return PaddedBatch(*fields)


def padded_like(tokens: Tensor, inputs: PackedTokens, targets: PackedTokens, table: ModalityTable) -> PaddedBatch:
    """The packed tokens of `tokens` (B, S) as the baseline wants them."""
    offsets = torch.tensor(table.offsets)
    samples = []
    for b, row in enumerate(tokens):
        columns = [(offsets[side.modality] + side.position)[side.sample == b].numpy() for side in (inputs, targets)]
        samples.append(padded_sample(row.numpy(), *columns, table))
    return default_collate(samples)


class MaskedSamples(Dataset):
    """Sample i of `rows` (num_pairs, S), masked and padded."""

    def __init__(self, rows: np.ndarray, table: ModalityTable, seed: int) -> None:
        self.rows, self.table, self.seed = rows, table, seed

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, i: int) -> PaddedBatch:
        columns = draw_columns(np.random.default_rng([self.seed, i]), self.table)
        return padded_sample(self.rows[i].astype(np.int64), *columns, self.table)


# The model


class LayerNorm(nn.Module):
    """eps 1e-6; the bias is a buffer of zeros."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.register_buffer("bias", torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], self.weight, self.bias, eps=1e-6)


def attend(query: Tensor, key: Tensor, value: Tensor, is_key: Tensor, head_width: int, is_tuned: bool) -> Tensor:
    """(B, M, D) queries over (B, N, D) keys and values, of which `is_key` (B, N) are real → (B, M, D)."""
    query, key, value = (x.unflatten(2, (-1, head_width)).transpose(1, 2) for x in (query, key, value))  # (B, H, ·, E)
    if is_tuned:
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=is_key[:, None, None, :])
        return attended.transpose(1, 2).flatten(2)
    scores = (query @ key.transpose(2, 3)) * head_width**-0.5  # (B, H, M, N)
    scores = scores.masked_fill(~is_key[:, None, None, :], -math.inf)
    return (scores.softmax(-1) @ value).transpose(1, 2).flatten(2)


class SelfAttention(nn.Module):
    is_tuned = False

    def __init__(self, width: int, head_width: int) -> None:
        super().__init__()
        self.head_width = head_width
        self.qkv_proj = nn.Linear(width, 3 * width, bias=False)
        self.attn_out_proj = nn.Linear(width, width, bias=False)

    def forward(self, x: Tensor, is_real: Tensor) -> Tensor:
        attended = attend(*self.qkv_proj(x).chunk(3, dim=2), is_real, self.head_width, self.is_tuned)
        return self.attn_out_proj(attended)


class CrossAttention(nn.Module):
    is_tuned = False

    def __init__(self, width: int, head_width: int) -> None:
        super().__init__()
        self.head_width = head_width
        self.q_proj = nn.Linear(width, width, bias=False)
        self.kv_proj = nn.Linear(width, 2 * width, bias=False)
        self.attn_out_proj = nn.Linear(width, width, bias=False)

    def forward(self, x: Tensor, context: Tensor, is_context: Tensor) -> Tensor:
        key, value = self.kv_proj(context).chunk(2, dim=2)
        attended = attend(self.q_proj(x), key, value, is_context, self.head_width, self.is_tuned)
        return self.attn_out_proj(attended)


class MLP(nn.Module):
    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden, bias=False)
        self.fc2 = nn.Linear(hidden, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class EncoderBlock(nn.Module):
    def __init__(self, width: int, head_width: int, hidden: int) -> None:
        super().__init__()
        self.norm1, self.attn = LayerNorm(width), SelfAttention(width, head_width)
        self.norm2, self.mlp = LayerNorm(width), MLP(width, hidden)

    def forward(self, x: Tensor, is_real: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x), is_real)
        return x + self.mlp(self.norm2(x))


class DecoderBlock(nn.Module):
    def __init__(self, width: int, head_width: int, hidden: int) -> None:
        super().__init__()
        self.norm1, self.self_attn = LayerNorm(width), SelfAttention(width, head_width)
        self.query_norm, self.context_norm = LayerNorm(width), LayerNorm(width)
        self.cross_attn = CrossAttention(width, head_width)
        self.norm2, self.mlp = LayerNorm(width), MLP(width, hidden)

    def forward(self, x: Tensor, context: Tensor, is_real: Tensor, is_context: Tensor) -> Tensor:
        x = x + self.self_attn(self.norm1(x), is_real)
        x = x + self.cross_attn(self.query_norm(x), self.context_norm(context), is_context)
        return x + self.mlp(self.norm2(x))


class Trunk(nn.Module):
    def __init__(self, blocks: Iterable[nn.Module]) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)

    def forward(self, x: Tensor, *others: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x, *others)
        return x


class Nano4M(nn.Module):
    """`mlp_ratio` and the others as in `m3.model.encoder_decoder.EncoderDecoder`. is_tuned: see the module."""

    def __init__(
        self,
        table: ModalityTable,
        width: int,
        encoder_depth: int,
        decoder_depth: int,
        head_width: int,
        mlp_ratio: float,
        is_tuned: bool = False,
    ) -> None:
        super().__init__()
        self.is_tuned = is_tuned
        self.num_modalities, vocab_size = table.num_modalities, max(table.vocab_sizes)
        shape = (width, head_width, int(width * mlp_ratio))
        self.enc_tok_emb = nn.Embedding(vocab_size, width)
        self.enc_mod_emb = nn.Embedding(table.num_modalities, width)
        self.dec_mod_emb = nn.Embedding(table.num_modalities, width)
        frequency = 10_000.0 ** (-torch.arange(width // 2, dtype=torch.float64) / (width // 2))
        angle = torch.arange(max(table.max_seq_lens), dtype=torch.float64)[:, None] * frequency
        self.register_buffer("pos_emb", torch.cat([angle.sin(), angle.cos()], dim=1).float())
        self.encoder = Trunk(EncoderBlock(*shape) for _ in range(encoder_depth))
        self.decoder = Trunk(DecoderBlock(*shape) for _ in range(decoder_depth))
        self.enc_norm, self.dec_norm = LayerNorm(width), LayerNorm(width)
        self.dec_context_proj = nn.Linear(width, width)
        self.to_logits = nn.Linear(width, vocab_size, bias=False)
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)
            elif isinstance(module, SelfAttention | CrossAttention):
                module.is_tuned = is_tuned
        nn.init.zeros_(self.dec_context_proj.bias)
        nn.init.zeros_(self.to_logits.weight)

    def forward(self, batch: PaddedBatch) -> Tensor:
        """(B, M, V) logits, of the padding too."""
        positions = self.pos_emb[batch.input_positions]  # (B, N, D)
        x = self.enc_tok_emb(batch.input_ids) + self.enc_mod_emb(batch.input_modalities) + positions
        context = self.dec_context_proj(self.enc_norm(self.encoder(x, batch.is_input))) + positions
        y = self.dec_mod_emb(batch.target_modalities) + self.pos_emb[batch.target_positions]  # (B, M, D)
        return self.to_logits(self.dec_norm(self.decoder(y, context, batch.is_target, batch.is_input)))

    def loss(self, batch: PaddedBatch) -> Tensor:
        """Mean cross-entropy of each modality, averaged over all modalities (`loss.reduction=all`)."""
        logits = self(batch).flatten(0, 1)  # (B · M, V)
        losses = F.cross_entropy(logits, batch.target_ids.flatten(), ignore_index=NOT_A_TARGET, reduction="none")
        means = []
        for k in range(self.num_modalities):
            is_of_modality = ((batch.target_modalities == k) & batch.is_target).flatten()
            if self.is_tuned:  # the same without a shape that depends on data
                means.append((losses * is_of_modality).sum() / is_of_modality.sum().clamp(min=1))
                continue
            means.append(losses[is_of_modality].mean() if is_of_modality.any() else losses.new_zeros(()))
        return torch.stack(means).mean()


def published_weights(m3_weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Parameters of m3's model with `logits=table`, under the names of `Nano4M`."""
    renamed = {}
    for name, tensor in m3_weights.items():
        first, _, rest = name.partition(".")
        if first in ("encoder", "decoder"):
            rest = f"blocks.{rest}"
        renamed[f"{first}.{rest.removeprefix('table.')}"] = tensor
    return renamed


def train_steps(
    model: Nano4M,
    loader: DataLoader,
    optim: OptimConfig,
    device: torch.device,
    dtype: torch.dtype,
    after_step: Callable[[PaddedBatch, float | Tensor], None],
) -> None:
    """One step for each batch of the loader; `after_step` gets the batch and its loss, a tensor of a tuned model."""
    schedule = optim.schedule(num_devices=1)
    betas = tuple(optim.betas)
    optimizer = torch.optim.AdamW(
        model.parameters(), betas=betas, weight_decay=optim.weight_decay, fused=True if model.is_tuned else None
    )
    compute_loss = torch.compile(model.loss, dynamic=False) if model.is_tuned else model.loss
    for step, batch in enumerate(loader):
        for group in optimizer.param_groups:
            group["lr"] = schedule.lr_at(step)
        batch = PaddedBatch(*(field.to(device, non_blocking=True) for field in batch))
        with torch.autocast(device.type, dtype, enabled=dtype is not torch.float32):
            loss = compute_loss(batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), optim.clip_grad)
        optimizer.step()
        optimizer.zero_grad()
        after_step(batch, loss.detach() if model.is_tuned else loss.item())


# Generation


def unmasking_schedule(num_tokens: int, num_steps: int) -> list[int]:
    """Tokens of each step: equally many, and what is left over in the last one."""
    counts = [num_tokens // num_steps] * num_steps
    counts[-1] += num_tokens % num_steps
    return counts


class KnownTokens(NamedTuple):
    """The tokens of one sample that are known so far, in any order: (1, N) int64 each."""

    ids: Tensor
    positions: Tensor
    modalities: Tensor


def unpadded(known: KnownTokens, positions: Tensor, modality: int) -> PaddedBatch:
    """One sample's known tokens as inputs and queries (1, M) of a modality: nothing to pad."""
    modalities = torch.full_like(positions, modality)
    is_input, is_target = (torch.ones_like(x, dtype=torch.bool) for x in (known.ids, positions))
    return PaddedBatch(
        known.ids, known.positions, known.modalities, is_input,
        torch.zeros_like(positions), positions, modalities, is_target,
    )  # fmt: skip


def generate_roar(
    model: Nano4M,
    known: KnownTokens,
    modality: int,
    num_tokens: int,
    num_steps: int,
    generator: torch.Generator,
    on_step: Callable[[KnownTokens, Tensor, Tensor], None] = lambda known, positions, logits: None,
) -> KnownTokens:
    """One modality of one sample, in random order: nano4M's loop. Every step runs the encoder over all tokens known so
    far and the decoder over the positions of the step, and draws from the softmax over the whole table.

    on_step: gets what was known, the queried positions (1, M) and their logits (1, M, V).
    """
    order = torch.randperm(num_tokens, generator=generator, device=generator.device)
    for positions in order.split(unmasking_schedule(num_tokens, num_steps)):
        positions = positions[None]
        queries = unpadded(known, positions, modality)
        logits = model(queries)
        on_step(known, positions, logits)
        ids = torch.multinomial(logits[0].softmax(-1), 1, generator=generator)[:, 0]
        known = KnownTokens(
            torch.cat([known.ids, ids[None]], 1),
            torch.cat([known.positions, positions], 1),
            torch.cat([known.modalities, queries.target_modalities], 1),
        )
    return known
