"""From known tokens to generated ones: MaskGIT (Chang et al., CVPR 2022) on the packed encoder-decoder.

Modalities are generated one after another. Of the modality at hand the tokens decided so far join the
encoder's inputs, and only its undecided positions are queried. Each step proposes an id for all of them and
keeps the proposals it is surest of.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from m3.masking.select import pack
from m3.modalities import JOINTS, ModalityTable, Vocabulary
from m3.model.encoder_decoder import EncoderDecoder
from m3.sampling.schedules import SCHEDULES, Schedule, token_schedule
from m3.seeds import SampleGenerator

Pick = Literal["sample", "argmax", "mean", "median"]
PICKS: tuple[Pick, ...] = ("sample", "argmax", "mean", "median")
ORDINAL_PICKS = ("mean", "median")

_LOGITS_AT_ONCE = 2**23
"""Logits held at a time; a flat picture head has 64,000 for every queried position."""


@dataclass(frozen=True)
class SchemeSettings:
    """How one modality is generated. Constructed from `conf/sampling/*.yaml`, whose keys are these fields.

    modality: what is generated.
    num_steps: MaskGIT steps; a sample with fewer undecided tokens takes one step for each of them.
    schedule: tokens per step, "cosine" or "linear".
    temperature: divides the logits; 0 leaves only the likeliest id of each digit.
    top_p: the likeliest ids of each digit that together have this probability stay (Holtzman et al., ICLR
        2020); 1 keeps all.
    pick: what is taken from the distribution that is left. "sample" draws from it, "argmax" takes its
        likeliest id. "mean" and "median" are for ids with an order, joint positions: the best guesses in squared
        and in absolute error where the distribution is broad or has several peaks close together.
    noise: scale of the Gumbel noise on the confidence, annealed linearly to 0 at the last step and
        multiplied by the temperature, so that temperature 0 is deterministic. 0 decides strictly by confidence.

    Raises ValueError naming the key for an impossible value.
    """

    modality: str
    num_steps: int
    schedule: Schedule = "cosine"
    temperature: float = 1.0
    top_p: float = 1.0
    pick: Pick = "sample"
    noise: float = 0.0

    def __post_init__(self) -> None:
        key = f"sampling.{self.modality}"
        if self.num_steps < 1:
            raise ValueError(f"{key}.num_steps={self.num_steps}: need at least 1")
        if self.schedule not in SCHEDULES:
            raise ValueError(f"{key}.schedule={self.schedule!r}: choose one of {', '.join(SCHEDULES)}")
        if not 0 <= self.temperature < math.inf:
            raise ValueError(f"{key}.temperature={self.temperature}: need a finite value >= 0")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"{key}.top_p={self.top_p}: need 0 < top_p <= 1")
        if self.pick not in PICKS:
            raise ValueError(f"{key}.pick={self.pick!r}: choose one of {', '.join(PICKS)}")
        if not 0 <= self.noise < math.inf:
            raise ValueError(f"{key}.noise={self.noise}: need a finite value >= 0")

    def check(self, table: ModalityTable) -> None:
        """Raises ValueError naming the key where the scheme does not fit a model's modalities."""
        key, k = f"sampling.{self.modality}", table.index(self.modality)
        if self.num_steps > table.max_seq_lens[k]:
            raise ValueError(f"{key}.num_steps={self.num_steps}: {self.modality} has {table.max_seq_lens[k]} tokens")
        if self.pick in ORDINAL_PICKS and table.vocabularies[k] is not JOINTS:
            raise ValueError(f"{key}.pick={self.pick!r}: ids of {self.modality} have no order; choose sample or argmax")


@torch.inference_mode()
def generate(
    model: EncoderDecoder,
    tokens: Tensor,
    is_known: Tensor,
    schemes: Sequence[SchemeSettings],
    seed: int,
    sample: Tensor,
    epoch: int = 0,
    on_step: Callable[[], None] = lambda: None,
) -> Tensor:
    """Generate the unknown tokens of the schemes' modalities, in the schemes' order.

    Args:
        model: in eval mode.
        tokens: (B, S) int64; values at unknown positions are not read.
        is_known: (B, S) bool, True where a token is given; given tokens never change.
        schemes: what to generate and how. A modality that is generated is an input to the next.
        seed, sample, epoch: the draws of a row are a function of the seed, its modality, sample[b] and the
            epoch alone, sample being (B,) int64, so that a row does not depend on the batch it stands in.
        on_step: called after each step of each scheme, for a progress bar.

    Returns:
        (B, S) int64: `tokens` with the schemes' modalities filled in. Raises ValueError for a row that knows nothing.
    """
    if not is_known.any(dim=1).all():
        row = int(is_known.any(dim=1).int().argmin())
        raise ValueError(f"row {row} knows no token: the encoder needs at least one")
    tokens, is_known = tokens.clone(), is_known.clone()
    for scheme in schemes:
        scheme.check(model.table)
        generator = SampleGenerator(seed, f"sampling {scheme.modality}", sample, epoch)
        _maskgit(model, tokens, is_known, scheme, generator, on_step)
    return tokens


def _maskgit(
    model: EncoderDecoder,
    tokens: Tensor,
    is_known: Tensor,
    scheme: SchemeSettings,
    generator: SampleGenerator,
    on_step: Callable[[], None],
) -> None:
    """Fill the undecided tokens of one modality, in place, and mark them as known."""
    columns = model.table.columns(scheme.modality)
    vocabulary = model.table.vocabularies[model.table.index(scheme.modality)]
    counts = _counts((~is_known[:, columns]).sum(1), scheme).to(tokens.device)  # (B, T)
    num_steps = (counts > 0).sum(1, keepdim=True)  # (B, 1) steps that a row takes
    for step in range(counts.shape[1]):
        uniform = generator.uniform(tokens[:, columns].shape[1], _num_draws(vocabulary))  # (B, L, draws)
        rows = counts[:, step].nonzero()[:, 0]
        if not len(rows):  # everything was known
            on_step()
            continue
        proposal, confidence = _propose(model, tokens[rows], is_known[rows], scheme, uniform[rows])  # (B', L) both
        annealing = (1 - (step + 1) / num_steps[rows]).clamp(min=0)
        gumbel = -(-uniform[rows, :, -1].log()).log()
        confidence = confidence + scheme.noise * scheme.temperature * annealing * gumbel
        is_chosen = _most_confident(confidence, counts[rows, step])
        tokens[rows, columns] = torch.where(is_chosen, proposal, tokens[rows, columns])
        is_known[rows, columns] |= is_chosen
        on_step()


def _counts(num_undecided: Tensor, scheme: SchemeSettings) -> Tensor:
    """(B,) undecided tokens → (B, T) tokens to decide at each step, 0 once a row is done."""
    counts = torch.zeros(len(num_undecided), scheme.num_steps, dtype=torch.int64)
    for row, undecided in enumerate(num_undecided.tolist()):
        if undecided:
            schedule = token_schedule(scheme.schedule, undecided, min(scheme.num_steps, undecided))
            counts[row, : len(schedule)] = torch.tensor(schedule)
    return counts


def _num_draws(vocabulary: Vocabulary) -> int:
    """Uniform numbers for a position at a step: one per digit, and one for the noise."""
    return len(vocabulary.digits or (vocabulary.num_ids,)) + 1


def _propose(
    model: EncoderDecoder, tokens: Tensor, is_known: Tensor, scheme: SchemeSettings, uniform: Tensor
) -> tuple[Tensor, Tensor]:
    """An id (B, L) for each undecided position of the modality and its log-probability, −inf at known ones."""
    table, columns, k = model.table, model.table.columns(scheme.modality), model.table.index(scheme.modality)
    is_queried = torch.zeros_like(is_known)
    is_queried[:, columns] = ~is_known[:, columns]
    targets = pack(tokens, is_queried, table)
    hidden = model.decode(model.encode(pack(tokens, is_known, table)), targets)  # (M, D)

    legal = [table.num_legal_ids(scheme.modality, position) for position in range(table.max_seq_lens[k])]
    num_legal = torch.tensor(legal, device=tokens.device)[targets.position]  # (M,)
    uniform = uniform[targets.sample, targets.position]  # (M, draws)
    width = sum(logits.shape[1] for logits in model.digit_logits(hidden[:1], k))
    rows_at_once = max(1, _LOGITS_AT_ONCE // width)
    proposal = torch.zeros_like(tokens[:, columns])
    confidence = torch.full(proposal.shape, -math.inf, dtype=torch.float64, device=tokens.device)
    for rows in torch.arange(len(hidden), device=tokens.device).split(rows_at_once):
        logits = model.digit_logits(hidden[rows], k)  # one (R, V_d) for each digit
        digits, log_prob = pick_digits(logits, num_legal[rows], uniform[rows], scheme)
        where = targets.sample[rows], targets.position[rows]
        proposal[where] = model.ids_of(digits, k)
        confidence[where] = log_prob
    return proposal, confidence


def pick_digits(
    logits: Sequence[Tensor], num_legal: Tensor, uniform: Tensor, scheme: SchemeSettings
) -> tuple[tuple[Tensor, ...], Tensor]:
    """Choose each digit of R tokens.

    Args:
        logits: one (R, V_d) float tensor for each digit. A lone digit is the id itself, cut to the legal ids;
            several are legal in every combination.
        num_legal: (R,) int64, legal ids are 0 … num_legal − 1.
        uniform: (R, at least one per digit) float64 in (0, 1).

    Returns:
        One (R,) int64 per digit, and (R,) float64 log-probability of the choice, the sum over the digits, under
        the model's distribution over legal ids at temperature 1.
    """
    digits, total = [], torch.zeros(len(num_legal), dtype=torch.float64, device=num_legal.device)
    for d, digit_logits in enumerate(logits):
        digit_logits = digit_logits.float()
        if len(logits) == 1:
            ids = torch.arange(digit_logits.shape[1], device=digit_logits.device)
            digit_logits = digit_logits.masked_fill(ids >= num_legal[:, None], -math.inf)
        digit = _pick(digit_logits, uniform[:, d], scheme)
        digits.append(digit)
        total += digit_logits.log_softmax(-1).gather(1, digit[:, None])[:, 0].double()
    return tuple(digits), total


def _pick(logits: Tensor, uniform: Tensor, scheme: SchemeSettings) -> Tensor:
    """(R, V) logits, (R,) uniform numbers → (R,) int64 ids, as the scheme's temperature, top_p and pick say."""
    if scheme.temperature == 0 or scheme.pick == "argmax":
        return logits.argmax(-1)
    probs = (logits / scheme.temperature).softmax(-1)
    if scheme.top_p < 1:
        probs = _nucleus(probs, scheme.top_p)
    probs = probs.double()
    if scheme.pick == "mean":
        ids = torch.arange(probs.shape[1], dtype=torch.float64, device=probs.device)
        return (probs @ ids / probs.sum(-1)).round().long()
    level = uniform if scheme.pick == "sample" else torch.full_like(uniform, 0.5)
    cumulative = probs.cumsum(-1)
    total = cumulative[:, -1]
    # Strictly below the total, so that rounding never ends beyond the last id of positive probability.
    level = torch.minimum(level * total, torch.nextafter(total, torch.zeros_like(total)))
    return torch.searchsorted(cumulative, level[:, None], right=True)[:, 0]


def _nucleus(probs: Tensor, top_p: float) -> Tensor:
    """(R, V): 0 where the ids likelier than this one already have probability `top_p`, else unchanged."""
    ordered, order = probs.sort(dim=-1, descending=True, stable=True)
    is_kept = ordered.cumsum(-1) - ordered < top_p
    return torch.zeros_like(probs).scatter(-1, order, ordered * is_kept)


def _most_confident(confidence: Tensor, counts: Tensor) -> Tensor:
    """(B, L) bool, True at the counts[b] largest values of row b; of equals the first."""
    order = confidence.argsort(dim=1, descending=True, stable=True)
    rank = torch.empty_like(order).scatter(1, order, torch.arange(order.shape[1], device=order.device).expand_as(order))
    return rank < counts[:, None]
