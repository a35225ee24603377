"""From known tokens to generated ones, on the packed encoder-decoder.

Modalities are generated one after another. The tokens decided so far join the encoder's inputs, and only positions that
the step may decide are queried: with MaskGIT (Chang et al., CVPR 2022) all undecided ones, of which the most confident
proposals are kept; with ROAR (random order, Mizrahi et al., NeurIPS 2023) and AR only the next ones.
"""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from m3.core.modalities import DISPLACEMENT, FSQ_LEVELS, JOINTS, PICTURE, TEXT, ModalityTable, Vocabulary
from m3.core.rng import SampleGenerator
from m3.core.types import PackedTokens
from m3.masking.select import pack
from m3.model.encoder_decoder import Context, EncoderDecoder
from m3.sampling.guidance import Pass, passes, visible_to
from m3.sampling.orders import ORDERS
from m3.sampling.schedules import Schedule, temperature_factor, token_schedule
from m3.sampling.settings import ORDINAL_PICKS, DecodingConfig, Precision
from m3.sampling.token_sampling import digit_marginals, log_probability, propose_displacements, sample_digits
from m3.tokens.fsq import digits_to_ids
from m3.tokens.text import PAD_ID, is_after_end

_LOGITS_AT_ONCE = 2**23
"""Logits held at a time; a flat picture head has 64,000 for every queried position."""


@torch.inference_mode()
def generate(
    model: EncoderDecoder,
    tokens: Tensor,
    is_known: Tensor,
    schemes: Sequence[DecodingConfig],
    seed: int,
    sample: Tensor,
    epoch: int = 0,
    on_step: Callable[[], object] = lambda: None,
    displacement: Tensor | None = None,
) -> Tensor:
    """Generate the unknown tokens of the schemes' modalities, in the schemes' order.

    Args:
        model: in eval mode.
        tokens: (B, S) int64; values at unknown positions are not read.
        is_known: (B, S) bool, True where a token is given; given tokens never change. A row may have none.
        schemes: what to generate and how. A modality that is generated is an input to the next.
        seed, sample, epoch: the random numbers of a row are a function of seed, modality, sample[b] and epoch alone, so
            that a row does not depend on its batch; sample is (B,) int64.
        on_step: called after each step of each scheme, for a progress bar.
        displacement: (B, 13, 2) float64 that receives the displacements of the scheme for motion_next, in sides of the
            pose's box: what its pick reads out, which is finer than the cells that the tokens name. Those of joints
            that are not seen are what they would be if they were.

    Returns:
        (B, S) int64: `tokens` with the schemes' modalities filled in, a text up to its [EOS] and with padding after it.
        Raises ValueError naming the key for schemes that do not fit the model.
    """
    schemes = [scheme.for_table(model.table) for scheme in schemes]
    tokens, is_known = tokens.clone(), is_known.clone()
    for scheme in schemes:
        generator = SampleGenerator(seed, f"sampling {scheme.modality}", sample, epoch)
        with autocast(tokens.device, scheme.precision):
            _fill(model, tokens, is_known, scheme, generator, on_step, displacement)
    return tokens


def autocast(device: torch.device, precision: Precision) -> AbstractContextManager:
    """The context in which the model computes (`DecodingConfig.precision`)."""
    has_bf16 = device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0)
    if precision == "bf16" or (precision == "auto" and has_bf16):
        return torch.autocast(device.type, torch.bfloat16)
    return nullcontext()


def _fill(
    model: EncoderDecoder,
    tokens: Tensor,
    is_known: Tensor,
    scheme: DecodingConfig,
    generator: SampleGenerator,
    on_step: Callable[[], object],
    displacement: Tensor | None,
) -> None:
    """Fill the undecided tokens of one modality, in place, and mark them as known.

    A text is decided up to its [EOS]; the positions after it become padding and stay unknown.
    """
    columns = model.table.columns(scheme.modality)
    vocabulary = model.table.vocabularies[model.table.index(scheme.modality)]
    length = columns.stop - columns.start
    is_given = is_known[:, columns].clone()
    num_undecided = _undecided(tokens, is_known, columns, vocabulary).sum(1)  # (B,)
    counts = _counts(num_undecided.cpu(), scheme.schedule, scheme.num_steps or length)  # (B, T), on the host
    counts_here = counts.to(tokens.device)
    decided = (counts_here.cumsum(1) - counts_here) / num_undecided.clamp(min=1)[:, None]  # (B, T) shares before a step
    temperature = scheme.temperature * temperature_factor(scheme.temperature_schedule, decided.double())
    num_steps = (counts_here > 0).sum(1, keepdim=True)  # (B, 1) steps that a row takes
    order_of = ORDERS[scheme.order]
    order = None if order_of is None else order_of(generator, *is_known[:, columns].shape)
    made = passes(scheme.guidance, model.table)
    is_visible = _visible_columns(model.table, scheme.modality, tokens.device)
    rows, contexts = num_undecided.new_empty(0), list[Context]()  # (R,) rows that are encoded
    for step in range(counts.shape[1]):
        uniform = generator.uniform(length, _num_uniform(vocabulary))  # (B, L, draws)
        if step % scheme.encoder_interval == 0:
            rows = counts[:, step].nonzero()[:, 0].to(tokens.device)  # a row that is done stays so
            contexts = _encode(model, tokens[rows], is_known[rows] & is_visible, made) if len(rows) else []
        if contexts and counts[:, step].any():
            is_undecided = _undecided(tokens[rows], is_known[rows], columns, vocabulary)
            count = counts_here[rows, step]
            is_queried = is_undecided if order is None else _first(order[rows], is_undecided, count)
            targets = _queries(tokens[rows], is_queried, columns, model.table)
            guided = (one.coefficient * model.decode(context, targets) for one, context in zip(made, contexts))
            hidden = functools.reduce(operator.add, guided)
            proposal, confidence, read_out = _propose(
                model, hidden, targets, uniform[rows], temperature[rows, step], scheme
            )
            if order is None:
                annealing = (1 - (step + 1) / num_steps[rows]).clamp(min=0)
                gumbel = -(-uniform[rows, :, -1].log()).log()
                confidence = confidence + scheme.noise * scheme.temperature * annealing * gumbel
                is_queried = _first(-confidence, is_undecided, count)
            tokens[rows, columns] = torch.where(is_queried, proposal, tokens[rows, columns])
            is_known[rows, columns] |= is_queried
            if displacement is not None and read_out is not None and scheme.modality == "motion_next":
                displacement[rows] = torch.where(is_queried[..., None], read_out, displacement[rows])
            if vocabulary.name == TEXT:
                has_ended = ~_undecided(tokens, is_known, columns, vocabulary).any(1)
                counts[has_ended.cpu(), step + 1 :] = 0
        on_step()
    if vocabulary.name == TEXT:
        is_known[:, columns] &= is_given | ~is_after_end(tokens[:, columns], is_known[:, columns])
        tokens[:, columns] = tokens[:, columns].masked_fill(~is_known[:, columns], PAD_ID)


def _undecided(tokens: Tensor, is_known: Tensor, columns: slice, vocabulary: Vocabulary) -> Tensor:
    """(B, L) bool: the positions of a modality that are to be decided; of a text none after its [EOS]."""
    is_undecided = ~is_known[:, columns]
    if vocabulary.name == TEXT:
        is_undecided &= ~is_after_end(tokens[:, columns], is_known[:, columns])
    return is_undecided


def _counts(num_undecided: Tensor, schedule: Schedule, num_steps: int) -> Tensor:
    """(B,) undecided tokens → (B, T) tokens to decide at each step, 0 once a row is done."""
    counts = torch.zeros(len(num_undecided), num_steps, dtype=torch.int64)
    for row, undecided in enumerate(num_undecided.tolist()):
        if undecided:
            steps = token_schedule(schedule, undecided, min(num_steps, undecided))
            counts[row, : len(steps)] = torch.tensor(steps)
    return counts


def _visible_columns(table: ModalityTable, modality: str, device: torch.device) -> Tensor:
    """(S,) bool: inputs that training combines with this target. What is known besides them is left out, for the model
    has never seen it together with the target."""
    trained = table.inputs_for(modality)
    columns = [torch.full((length,), name in trained) for name, length in zip(table.modalities, table.max_seq_lens)]
    return torch.cat(columns).to(device)


def _num_uniform(vocabulary: Vocabulary) -> int:
    """Uniform numbers for a position at a step: one per digit, and one for the noise."""
    return len(vocabulary.digits or (vocabulary.num_ids,)) + 1


def _encode(model: EncoderDecoder, tokens: Tensor, is_known: Tensor, made: Sequence[Pass]) -> list[Context]:
    """What each pass of the guidance attends to."""
    return [model.encode(pack(tokens, visible_to(is_known, one), model.table)) for one in made]


def _queries(tokens: Tensor, is_queried: Tensor, columns: slice, table: ModalityTable) -> PackedTokens:
    """The queried positions (B, L) of one modality."""
    chosen = torch.zeros(tokens.shape, dtype=torch.bool, device=tokens.device)
    chosen[:, columns] = is_queried
    return pack(tokens, chosen, table)


def _propose(
    model: EncoderDecoder,
    hidden: Tensor,
    targets: PackedTokens,
    uniform: Tensor,
    temperature: Tensor,
    scheme: DecodingConfig,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """An id (B, L) for each queried position and, for MaskGIT, its log-probability (B, L); and the displacements
    (B, 13, 2) where the ids are such.

    Logits exist only for the ids that are legal at a position.

    hidden: (M, D) of the targets. uniform: (B, L, draws). temperature: (B,).
    """
    table, k = model.table, model.table.index(scheme.modality)
    read_out = None
    if table.vocabularies[k] == DISPLACEMENT:
        read_out = torch.zeros(*uniform.shape[:2], 2, dtype=torch.float64, device=hidden.device)
    proposal = torch.zeros(uniform.shape[:2], dtype=torch.int64, device=hidden.device)
    confidence = torch.zeros(proposal.shape, dtype=torch.float64, device=hidden.device)
    if not hidden.isfinite().all():
        raise ValueError(f"the model's outputs for {scheme.modality} are not finite: its weights are damaged, or too "
                         "large for sampling.precision; try fp32")  # fmt: skip
    legal = [table.num_legal_ids(scheme.modality, position) for position in range(table.max_seq_lens[k])]
    num_legal = torch.tensor(legal, device=hidden.device)[targets.position]  # (M,)
    for num_ids in sorted(set(legal)):
        of_these = (num_legal == num_ids).nonzero()[:, 0]
        if not len(of_these):
            continue
        for rows in of_these.split(max(1, _LOGITS_AT_ONCE // model.num_logits(k, num_ids))):
            logits = model.digit_logits(hidden[rows], k, num_ids)  # one (R, V_d) for each digit
            if table.vocabularies[k].name == TEXT:
                logits[0][:, PAD_ID] = -math.inf  # padding is never a target
            where = targets.sample[rows], targets.position[rows]
            if read_out is not None:
                ids, read_out[where] = propose_displacements(logits, uniform[where], temperature[where[0]], scheme)
                proposal[where] = ids
                if scheme.order == "maskgit":
                    digits, is_predicted = model.digits_of(ids, k), model.is_predicted(ids, k)
                    confidence[where] = log_probability(logits, digits, is_predicted)
                continue
            if scheme.pick in ORDINAL_PICKS and table.vocabularies[k] == JOINTS and len(logits) > 1:
                raise ValueError(
                    f"sampling.schemes.{scheme.modality}.pick={scheme.pick}: this model predicts "
                    f"{scheme.modality} digit by digit (model.joints=digits), and no digit alone is a place: choose "
                    "sample or argmax"
                )
            own = uniform[where], temperature[where[0]], scheme
            if scheme.pick in ORDINAL_PICKS and table.vocabularies[k] == PICTURE and len(logits) == 1:
                picked = sample_digits(digit_marginals(logits[0], FSQ_LEVELS), *own)  # an id as a whole has no order
                digits = (digits_to_ids(torch.stack(picked, -1)),)
            else:
                digits = sample_digits(logits, *own)
            proposal[where] = model.ids_of(digits, k)
            if scheme.order == "maskgit":
                confidence[where] = log_probability(logits, digits)
    return proposal, confidence, read_out


def _first(order: Tensor, is_candidate: Tensor, counts: Tensor) -> Tensor:
    """(B, L) bool, True at the counts[b] candidates of row b of the smallest `order`; of equals at the first."""
    order = order.clamp(max=torch.finfo(order.dtype).max)  # a proposal of probability 0 is a candidate all the same
    places = order.masked_fill(~is_candidate, math.inf).argsort(dim=1, stable=True)
    rank = torch.empty_like(places)
    rank.scatter_(1, places, torch.arange(places.shape[1], device=places.device).expand_as(places))
    return (rank < counts[:, None]) & is_candidate
