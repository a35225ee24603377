"""The packed model against a naive padded one, and the figures of the design."""

from __future__ import annotations

import dataclasses
import hashlib
import math

import pytest
import torch
import torch.nn.functional as F
from support.masking import M3, generator, random_tokens
from support.small_models import SMALL, small_model, summed
from torch import Tensor

from m3.core.types import PackedTokens
from m3.loss import (
    _fused_loss_and_gradient,
    modality_scores,
    num_targets,
    reduce_losses,
    training_loss,
    weighted_cross_entropy,
)
from m3.masking.select import choose, pack
from m3.model import attention
from m3.model.blocks import _LinearOfGelu
from m3.model.encoder_decoder import EncoderDecoder


def packed_pair(num_samples: int) -> tuple[PackedTokens, PackedTokens]:
    tokens = random_tokens(num_samples)
    is_input, is_target = choose(tokens, M3, generator(num_samples))
    return pack(tokens, is_input, M3), pack(tokens, is_target, M3)


def naive_norm(x: Tensor, norm: torch.nn.LayerNorm) -> Tensor:
    x = x - x.mean(-1, keepdim=True)
    return x / (x.pow(2).mean(-1, keepdim=True) + 1e-6).sqrt() * norm.weight


def naive_attention(query: Tensor, key: Tensor, value: Tensor, is_real_key: Tensor, head_width: int) -> Tensor:
    """(B, Q, D), (B, N, D), (B, N, D), (B, N) bool → (B, Q, D), one head after the other."""
    heads = []
    for head in range(query.shape[-1] // head_width):
        part = slice(head * head_width, (head + 1) * head_width)
        scores = query[..., part] @ key[..., part].transpose(1, 2) / math.sqrt(head_width)
        scores = scores.masked_fill(~is_real_key[:, None], -math.inf)
        heads.append(scores.softmax(-1) @ value[..., part])
    return torch.cat(heads, -1)


def naive_mlp(x: Tensor, mlp: torch.nn.Module) -> Tensor:
    hidden = x @ mlp.fc1.weight.T
    return hidden * 0.5 * (1 + torch.erf(hidden / math.sqrt(2))) @ mlp.fc2.weight.T


def naive_logits(model: EncoderDecoder, tokens: Tensor, inputs: list[Tensor], targets: list[Tensor]) -> list[Tensor]:
    """Padded to the longest sample, as the papers draw it; `logits=table` with one shared vocabulary.

    inputs, targets: for each sample the columns of its tokens. Returns (num targets, V) logits per sample.
    """
    columns_to_place = [(k, p) for k, length in enumerate(M3.max_seq_lens) for p in range(length)]
    width, head_width = SMALL["width"], SMALL["head_width"]

    def padded(chosen: list[Tensor], vector) -> tuple[Tensor, Tensor]:
        longest = max(map(len, chosen))
        x = torch.zeros(len(chosen), longest, width, dtype=torch.float64)
        is_real = torch.zeros(len(chosen), longest, dtype=torch.bool)
        rows = [torch.stack([vector(b, int(c)) for c in columns]) for b, columns in enumerate(chosen)]
        for b, row in enumerate(rows):
            x = x.index_put((torch.tensor(b), torch.arange(len(row))), row)
            is_real[b, : len(row)] = True
        return x, is_real

    def position(c: int) -> Tensor:
        k, p = columns_to_place[c]
        i = torch.arange(width // 2, dtype=torch.float64)
        angle = p / 10_000 ** (i / (width // 2))
        return torch.cat([angle.sin(), angle.cos()])

    table = model.enc_tok_emb["table"].weight
    x, is_real = padded(
        inputs,
        lambda b, c: table[tokens[b, c]] + model.enc_mod_emb.weight[columns_to_place[c][0]] + position(c),
    )
    input_positions, _ = padded(inputs, lambda b, c: position(c))
    for block in model.encoder:
        query, key, value = (naive_norm(x, block.norm1) @ block.attn.qkv_proj.weight.T).split(width, -1)
        x = x + naive_attention(query, key, value, is_real, head_width) @ block.attn.attn_out_proj.weight.T
        x = x + naive_mlp(naive_norm(x, block.norm2), block.mlp)
    projection = model.dec_context_proj
    context = naive_norm(x, model.enc_norm) @ projection.weight.T + projection.bias + input_positions
    y, is_target = padded(targets, lambda b, c: model.dec_mod_emb.weight[columns_to_place[c][0]] + position(c))
    for block in model.decoder:
        query, key, value = (naive_norm(y, block.norm1) @ block.self_attn.qkv_proj.weight.T).split(width, -1)
        y = y + naive_attention(query, key, value, is_target, head_width) @ block.self_attn.attn_out_proj.weight.T
        query = naive_norm(y, block.query_norm) @ block.cross_attn.q_proj.weight.T
        key, value = (naive_norm(context, block.context_norm) @ block.cross_attn.kv_proj.weight.T).split(width, -1)
        y = y + naive_attention(query, key, value, is_real, head_width) @ block.cross_attn.attn_out_proj.weight.T
        y = y + naive_mlp(naive_norm(y, block.norm2), block.mlp)
    logits = naive_norm(y, model.dec_norm) @ model.to_logits["table"].weight.T
    return [logits[b, : len(columns)] for b, columns in enumerate(targets)]


def test_packed_loss_and_gradients_equal_a_naive_padded_model() -> None:
    tokens = random_tokens(3)
    is_input, is_target = choose(tokens, M3, generator(3))
    model = small_model(logits="table")
    inputs, targets = pack(tokens, is_input, M3), pack(tokens, is_target, M3)
    hidden = model(inputs, targets)
    sums, counts = [], []
    for k in range(4):
        rows = targets.modality == k
        sums.append(summed(hidden[rows], targets.ids[rows], model.head_of(k)))
        counts.append(rows.sum())
    loss = reduce_losses(torch.stack(sums), torch.stack(counts), "present")
    loss.backward()
    ours = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}

    model.zero_grad()
    columns = [[mask[b].nonzero().squeeze(1) for b in range(3)] for mask in (is_input, is_target)]
    logits = torch.cat(naive_logits(model, tokens, *columns))
    ids = torch.cat([tokens[b, chosen] for b, chosen in enumerate(columns[1])])
    nll = -logits.log_softmax(-1)[torch.arange(len(ids)), ids]
    modality = torch.cat([torch.bucketize(c, torch.tensor(M3.offsets), right=True) - 1 for c in columns[1]])
    naive = torch.stack([nll[modality == k].mean() for k in range(4) if (modality == k).any()]).mean()
    naive.backward()
    assert loss.item() == pytest.approx(naive.item(), rel=1e-6)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(ours[name], parameter.grad, rtol=1e-5, atol=1e-7, msg=lambda m, n=name: f"{n}: {m}")


def test_parameters_of_the_m3_recipe() -> None:
    with torch.device("meta"):
        model = EncoderDecoder(M3)
    outside = ("enc_tok_emb", "enc_mod_emb", "dec_mod_emb", "to_logits")
    assert sum(p.numel() for name, p in model.named_parameters() if not name.startswith(outside)) == 44_322_304


@pytest.mark.parametrize(
    ("options", "picture_ids", "joint_ids"),
    [
        ({}, 64_000, 8_192),
        ({"head": "factorized"}, 64_000, 8_192),
        ({"joints": "ordinal", "positions": "2d"}, 64_000, 8_192),
        ({"logits": "table"}, 65_536, 65_536),
    ],
)
def test_first_losses_are_those_of_equal_odds(options: dict, picture_ids: int, joint_ids: int) -> None:
    model = EncoderDecoder(M3, **SMALL, **options)
    inputs, targets = packed_pair(8)
    hidden = model(inputs, targets)
    for k, num_ids in enumerate([picture_ids, joint_ids] * 2):
        rows = targets.modality == k
        loss = summed(hidden[rows], targets.ids[rows], model.head_of(k)) / rows.sum()
        assert float(loss) == pytest.approx(math.log(num_ids), abs=1e-4)


@pytest.mark.parametrize("options", [{}, {"head": "factorized", "joints": "ordinal"}, {"logits": "table"}])
def test_the_loss_is_minus_the_log_probability_of_the_digits(options: dict) -> None:
    model = small_model(**options)
    inputs, targets = packed_pair(2)
    hidden = model(inputs, targets)
    for k in range(4):
        rows = targets.modality == k
        log_p = torch.zeros(int(rows.sum()), dtype=torch.float64)
        digits = model.digits_of(targets.ids[rows], k)
        for logits, digit in zip(model.digit_logits(hidden[rows], k), digits):
            log_p += logits.log_softmax(-1).gather(1, digit[:, None]).squeeze(1)
        assert torch.equal(model.ids_of(digits, k), targets.ids[rows])
        loss = summed(hidden[rows], targets.ids[rows], model.head_of(k))
        assert float(loss) == pytest.approx(-float(log_p.sum()), rel=1e-5)


def test_samples_do_not_see_each_other() -> None:
    model = small_model()
    tokens = random_tokens(4)
    is_input, is_target = choose(tokens, M3, generator(4))
    together = model(pack(tokens, is_input, M3), pack(tokens, is_target, M3))
    alone = [model(*(pack(tokens[b : b + 1], m[b : b + 1], M3) for m in (is_input, is_target))) for b in range(4)]
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-9, atol=1e-9)


def test_targets_see_each_other_but_not_their_ids() -> None:
    model = small_model()
    inputs, targets = packed_pair(1)
    hidden = model(inputs, targets)
    blind = dataclasses.replace(targets, ids=torch.zeros_like(targets.ids))
    assert torch.equal(model(inputs, blind), hidden)
    tokens = random_tokens(1)
    is_queried = torch.zeros_like(tokens, dtype=torch.bool)
    is_queried[0, torch.tensor(M3.offsets)[targets.modality[1:]] + targets.position[1:]] = True
    fewer = pack(tokens, is_queried, M3)
    assert not torch.allclose(model(inputs, fewer), hidden[1:])


def test_two_dimensional_positions_tell_rows_from_columns() -> None:
    embedding = EncoderDecoder(M3, **SMALL, positions="2d").pos_emb.embedding[0].view(16, 16, 32)
    assert torch.equal(embedding[3, :, :16], embedding[3, :1, :16].expand(16, -1))
    assert torch.equal(embedding[:, 5, 16:], embedding[:1, 5, 16:].expand(16, -1))
    assert len(embedding.flatten(0, 1).unique(dim=0)) == 256


def test_a_mimetic_decoder_looks_at_its_own_position_first() -> None:
    tokens = random_tokens(1)
    is_input, is_target = torch.zeros(2, *tokens.shape, dtype=torch.bool)
    is_input[:, M3.columns("tok_rgb")], is_target[:, M3.columns("tok_rgb_next")] = True, True
    share_of_own = {}
    for init in ("mimetic", "normal"):
        torch.manual_seed(0)
        model = EncoderDecoder(
            M3, width=128, head_width=32, encoder_depth=1, decoder_depth=1, positions="2d", init=init
        )
        targets = pack(tokens, is_target, M3)
        before = model(pack(tokens, is_input, M3), targets)
        shares = []
        for position in range(0, 256, 15):  # change one reference token: which successor queries notice?
            changed = tokens.clone()
            changed[0, position] = (tokens[0, position] + 1) % 64_000
            moved = (model(pack(changed, is_input, M3), targets) - before).norm(dim=1)
            shares.append(float(moved[position] / moved.mean()))
        share_of_own[init] = min(shares)
    assert share_of_own["mimetic"] > 4 and share_of_own["normal"] < 2


@pytest.mark.parametrize("label_smoothing", [0.0, 0.2])
@pytest.mark.parametrize(
    ("autocast", "tolerance"), [(None, 1e-5), (torch.bfloat16, 2e-2), (torch.float16, 3e-3)], ids=str
)
def test_chunked_cross_entropy_equals_the_whole(autocast, tolerance: float, label_smoothing: float) -> None:
    rng = torch.Generator().manual_seed(0)
    hidden = torch.randn(1_300, 8, generator=rng, requires_grad=True)
    model = EncoderDecoder(M3, **SMALL)
    head = model.head_of(0)
    head.weight = torch.nn.Parameter(torch.randn(5_000, 8, generator=rng))
    ids = torch.randint(5_000, (1_300,), generator=rng)
    weights = torch.tensor([1e-4, 3e-6])[torch.arange(1_300) % 2]  # as small as those of an average over a big batch
    nll = F.cross_entropy(hidden @ head.weight.T, ids, reduction="none", label_smoothing=label_smoothing)
    expected = torch.autograd.grad((nll * weights).sum(), [hidden, head.weight])
    with torch.autocast("cpu", dtype=autocast, enabled=autocast is not None):
        loss, ours_nll = weighted_cross_entropy(hidden, ids, weights, head, label_smoothing)
    torch.testing.assert_close(ours_nll, nll, rtol=tolerance, atol=4 * tolerance)
    torch.testing.assert_close(loss, (nll * weights).sum(), rtol=tolerance, atol=0)
    for ours, theirs in zip(torch.autograd.grad(65_536 * loss, [hidden, head.weight]), expected):
        assert (ours / 65_536 - theirs).norm() <= tolerance * theirs.norm()
    with pytest.raises(RuntimeError, match="were used already"):
        torch.autograd.grad(loss, [hidden])


@pytest.mark.parametrize("options", [{}, {"head": "factorized", "joints": "ordinal"}, {"logits": "table"}])
def test_label_smoothing_and_scores_equal_those_of_whole_logits(options: dict, monkeypatch) -> None:
    monkeypatch.setattr("m3.loss.CHUNK", 50)
    model = small_model(**options)
    inputs, targets = packed_pair(4)
    hidden = model(inputs, targets).detach().requires_grad_()
    factors = torch.arange(1, 5, dtype=torch.float64)
    loss, sums = training_loss(model, hidden, targets, factors, label_smoothing=0.3)
    plain, num_right = modality_scores(model, hidden, targets)
    assert num_targets(targets).tolist() == [len(rows) for rows in targets.rows]
    total = torch.zeros((), dtype=torch.float64)
    for k, name in enumerate(M3.modalities):
        rows = targets.modality == k
        ids, position = targets.ids[rows], targets.position[rows]
        digits, is_right = model.digits_of(ids, k), torch.ones(len(ids), dtype=torch.bool)
        expected, unsmoothed = torch.zeros(2, dtype=torch.float64)
        for logits, digit in zip(model.digit_logits(hidden[rows], k), digits):
            expected = expected + F.cross_entropy(logits, digit, reduction="sum", label_smoothing=0.3)
            unsmoothed = unsmoothed + F.cross_entropy(logits, digit, reduction="sum")
            likeliest = logits.argmax(1)
            if len(digits) == 1:
                legal = [M3.num_legal_ids(name, int(p)) for p in position]
                likeliest = torch.stack([row[:n].argmax() for row, n in zip(logits, legal)])
            is_right &= likeliest == digit
        assert float(sums[k]) == pytest.approx(float(expected), rel=1e-5)
        assert float(plain[k]) == pytest.approx(float(unsmoothed), rel=1e-5)
        assert int(num_right[k]) == int(is_right.sum())
        total = total + (k + 1) * expected
    wanted = [hidden, *model.to_logits.parameters()]
    ours = torch.autograd.grad(loss, wanted)
    for one, other in zip(ours, torch.autograd.grad(total, wanted)):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_likeliest_of_a_visibility_token_is_one_of_two() -> None:
    model = small_model()
    is_chosen = torch.zeros(1, M3.num_tokens, dtype=torch.bool)
    is_chosen[:, M3.columns("coords")] = True
    tokens = torch.zeros(1, M3.num_tokens, dtype=torch.long)
    targets = pack(tokens, is_chosen, M3)
    with torch.no_grad():
        model.head_of(1).weight.zero_()
        model.head_of(1).weight[0, 0], model.head_of(1).weight[5, 0] = 1.0, 2.0  # 5 is the likeliest, then 0
    hidden = torch.ones(39, SMALL["width"], dtype=torch.float64)
    assert modality_scores(model, hidden, targets)[1].tolist() == [0, 13, 0, 0]


def test_a_head_without_targets_has_the_gradient_zero() -> None:
    for options in ({}, {"head": "factorized", "joints": "ordinal"}):
        model = small_model(**options)
        for k in range(2):
            hidden = torch.zeros(0, SMALL["width"], dtype=torch.float64)
            loss = summed(hidden, torch.zeros(0, dtype=torch.long), model.head_of(k), 0.1)
            assert float(loss) == 0
            for gradient in torch.autograd.grad(loss, list(model.head_of(k).parameters())):
                assert not gradient.any()


def test_averages_by_hand() -> None:
    sums, counts = torch.tensor([8.0, 3.0, 0.0]), torch.tensor([2, 3, 0])
    assert float(reduce_losses(sums, counts, "present")) == pytest.approx((4 + 1) / 2)
    assert float(reduce_losses(sums, counts, "all")) == pytest.approx((4 + 1 + 0) / 3)
    assert float(reduce_losses(sums, counts, "token")) == pytest.approx(11 / 5)


@pytest.mark.parametrize(
    ("options", "key"),
    [
        ({"head": "flatt"}, "model.head"),
        ({"logits": "table", "head": "factorized"}, "model.logits"),
        ({"width": 33}, "model.width"),
        ({"positions": "3d"}, "model.positions"),
        ({"decoder_depth": 0}, "model.decoder_depth"),
    ],
)
def test_contradicting_options_are_refused_by_name(options: dict, key: str) -> None:
    with pytest.raises(ValueError, match=key):
        EncoderDecoder(M3, **{**SMALL, **options})


def test_neighboring_joint_ids_have_neighboring_vectors_and_visibility_its_own() -> None:
    torch.manual_seed(0)
    embedding = EncoderDecoder(M3, **SMALL, joints="ordinal").enc_tok_emb["joints"]
    rows = embedding.rows()
    torch.testing.assert_close(embedding(torch.arange(8_192)), rows)
    similarity = torch.nn.functional.cosine_similarity(rows[4_000], rows[[4_001, 4_020, 4_400, 6_000]])
    assert similarity[0] > 0.999 and similarity[1] > 0.8 and (similarity[1:3] < similarity[0:2]).all()
    assert similarity[3] < 0.7
    assert (rows[0] - rows[1]).norm() > 10 * (rows[2] - rows[3]).norm()


@pytest.mark.parametrize(
    "options", [{}, {"head": "factorized", "joints": "ordinal", "positions": "2d", "init": "mimetic"}]
)
def test_gradients_are_the_same_bits_every_time(options: dict) -> None:
    torch.manual_seed(0)
    model = EncoderDecoder(M3, width=128, head_width=32, encoder_depth=1, decoder_depth=1, **options)
    inputs, targets = packed_pair(48)  # thousands of tokens: enough for every operation to use several threads
    num_threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        found = set()
        for _ in range(8):
            model.zero_grad()
            hidden = model(inputs, targets)
            rows = targets.modality == 1
            loss = hidden.square().sum() + summed(hidden[rows], targets.ids[rows], model.head_of(1))
            loss.backward()
            grads = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
            found.add(hashlib.sha256(b"".join(grad.numpy().tobytes() for grad in grads)).hexdigest())
    finally:
        torch.set_num_threads(num_threads)
    assert len(found) == 1


def test_gelu_computed_again_has_the_gradients_of_gelu_kept() -> None:
    x, weight = torch.randn(5, 12, dtype=torch.float64), torch.randn(7, 12, dtype=torch.float64)
    x.requires_grad_(), weight.requires_grad_()
    assert torch.autograd.gradcheck(_LinearOfGelu.apply, (x, weight))
    torch.testing.assert_close(_LinearOfGelu.apply(x, weight), F.gelu(x) @ weight.T)
    with torch.autocast("cpu", torch.bfloat16):  # as in a block: bfloat16 from a linear layer, float32 weights
        low, master = x.detach().bfloat16().requires_grad_(), weight.detach().float().requires_grad_()
        out = _LinearOfGelu.apply(low, master)
    out.sum().backward()
    assert (out.dtype, low.grad.dtype, master.grad.dtype) == (torch.bfloat16, torch.bfloat16, torch.float32)
    (F.gelu(x) @ weight.T).sum().backward()
    torch.testing.assert_close(master.grad.double(), weight.grad, rtol=0.02, atol=0.02)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
def test_what_a_compiler_gets_is_the_loss_and_its_gradient(dtype: torch.dtype, label_smoothing: float) -> None:
    """Against torch's cross-entropy and autograd, in float64, from the same logits."""
    torch.manual_seed(0)
    logits, ids = (3 * torch.randn(7, 64)).to(dtype), torch.randint(0, 64, (7,))
    nll, gradient = _fused_loss_and_gradient(logits, ids, label_smoothing, 8.0)
    exact = logits.double().requires_grad_()
    truth = F.cross_entropy(exact, ids, reduction="none", label_smoothing=label_smoothing)
    truth.sum().backward()
    assert exact.grad is not None and gradient.dtype == dtype
    tolerance = 1e-12 if dtype == torch.float64 else 1e-2
    torch.testing.assert_close(nll.double(), truth.detach(), rtol=tolerance, atol=tolerance * 1e-2)
    torch.testing.assert_close(gradient.double(), 8 * exact.grad, rtol=tolerance, atol=tolerance)


@pytest.mark.slow
def test_compiled_blocks_compute_the_same() -> None:
    """For any number of tokens, and under the same names."""
    plain, compiled = small_model().float(), small_model().float()
    compiled.choose_kernels("padded", compile=True)
    for num_samples in (2, 3, 5):
        losses = []
        for model in (plain, compiled):
            inputs, targets = packed_pair(num_samples)
            losses.append(training_loss(model, model(inputs, targets), targets, torch.ones(4))[0])
            losses[-1].backward()
        assert losses[1].item() == pytest.approx(losses[0].item(), rel=1e-5)
    for (name, ours), (other, theirs) in zip(compiled.named_parameters(), plain.named_parameters(), strict=True):
        assert name == other and float((ours.grad - theirs.grad).norm()) <= 1e-4 * float(theirs.grad.norm())
    with pytest.raises(ValueError, match=r"hardware\.attention='flash'"):
        plain.choose_kernels("flash")


@pytest.mark.parametrize("num_queries", [(1, 3, 2), (15, 0, 7), (16, 1, 1)])
def test_few_queries_find_the_same_without_keys_and_values(num_queries, monkeypatch) -> None:
    """Against the same layer with gradients, which projects every token of the context; heads of width 16."""
    torch.manual_seed(0)
    layer = attention.CrossAttention(width=64, head_width=16).double()
    context_lengths = [5, 5, 5]
    x, context = torch.randn(sum(num_queries), 64).double(), torch.randn(15, 64).double()
    queries, keys = (attention.Segments(packed_lengths(lengths)) for lengths in (num_queries, context_lengths))
    expected = layer(x, context, queries, keys).detach()
    projected = []
    layer.kv_proj.register_forward_hook(lambda *_: projected.append(1))
    with torch.no_grad():
        torch.testing.assert_close(layer(x, context, queries, keys), expected)
    assert len(projected) == (max(num_queries) >= 16)
    uneven = attention.Segments(packed_lengths([9, 1, 5]))  # has padding
    with torch.no_grad():
        found = layer(x, context, queries, uneven)
    torch.testing.assert_close(found, layer(x, context, queries, uneven).detach())


def packed_lengths(lengths: list[int]) -> PackedTokens:
    """So many tokens of each sample."""
    lengths = torch.tensor(lengths)
    sample = torch.arange(len(lengths)).repeat_interleave(lengths)
    zeros = torch.zeros_like(sample)
    return PackedTokens(zeros, zeros, zeros, sample, lengths, int(lengths.max()), (torch.arange(len(sample)),))


@pytest.mark.parametrize("kernel", ["varlen", "padded"])
def test_the_kernel_is_the_chosen_one(monkeypatch, kernel: str) -> None:
    calls = []
    monkeypatch.setattr(attention, "varlen_attn", lambda query, *_: calls.append("varlen") or torch.zeros_like(query))
    model = small_model()
    model.choose_kernels(kernel)
    model(*packed_pair(2))
    assert len(calls) == (2 + 2 * 2 if kernel == "varlen" else 0)


@pytest.mark.gpu
def test_packed_attention_on_a_gpu_equals_the_padded_one() -> None:
    """In half precision from compute capability 8.0 on `packed_attention` leaves padding out altogether."""
    model = small_model().float()
    inputs, targets = packed_pair(8)
    padded = model(inputs, targets)
    tokens = random_tokens(8)
    is_input, is_target = choose(tokens, M3, generator(8))
    on_gpu = [pack(tokens.cuda(), is_chosen.cuda(), M3) for is_chosen in (is_input, is_target)]
    packed = model.cuda().bfloat16()(*on_gpu)
    torch.testing.assert_close(packed.float().cpu(), padded, rtol=0.1, atol=0.1)


def test_a_sample_without_inputs_attends_to_nothing() -> None:
    """Its queries get 0 from cross-attention, among samples with inputs and alone; the others do not notice."""
    model, tokens = small_model(), random_tokens(3)
    is_input, is_target = choose(tokens, M3, generator(3))
    is_input[1] = False

    def hidden_of(rows: list[int]) -> Tensor:
        inputs, targets = (pack(tokens[rows], chosen[rows], M3) for chosen in (is_input, is_target))
        return model(inputs, targets)

    alone, together = [hidden_of([b]) for b in range(3)], hidden_of([0, 1, 2])
    torch.testing.assert_close(torch.cat(alone), together, rtol=1e-12, atol=1e-12)
    targets = pack(tokens[1:2], is_target[1:2], M3)
    x = model.dec_mod_emb(targets.modality) + model.pos_emb(targets.modality, targets.position)
    x, is_real = x[None], torch.ones(1, len(targets.ids), dtype=torch.bool)
    for block in model.decoder:
        query, key, value = block.self_attn.qkv_proj(naive_norm(x, block.norm1)).chunk(3, -1)
        x = x + block.self_attn.attn_out_proj(naive_attention(query, key, value, is_real, SMALL["head_width"]))
        x = x + naive_mlp(naive_norm(x, block.norm2), block.mlp)
    torch.testing.assert_close(alone[1], naive_norm(x, model.dec_norm)[0], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("options", [{}, {"joints": "ordinal"}, {"logits": "table"}])
def test_logits_of_the_first_ids_alone(options: dict[str, str]) -> None:
    model, hidden = small_model(**options), torch.randn(5, SMALL["width"], dtype=torch.float64)
    for num_ids in (2, 100, 8192):
        (some,), (every,) = model.digit_logits(hidden, 1, num_ids), model.digit_logits(hidden, 1)
        torch.testing.assert_close(some, every[:, :num_ids], rtol=1e-12, atol=1e-12)
