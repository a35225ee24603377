"""The 4M encoder-decoder (Mizrahi et al., NeurIPS 2023) on packed tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, cast

import torch
from torch import Tensor, nn

from m3.core.modalities import ModalityTable, Vocabulary
from m3.core.types import PackedTokens
from m3.core.validation import check
from m3.model.aligned import AlignedPictures
from m3.model.attention import KERNELS, CrossAttention, Kernel, Segments, SelfAttention
from m3.model.blocks import DecoderBlock, EncoderBlock, Norm
from m3.model.embeddings import (
    INIT_STD,
    POSE_EMBEDDINGS,
    PoseTokens,
    PositionEmbedding,
    build_embedding,
)
from m3.model.heads import FactorizedHead, FlatHead, build_head

_MIMETIC_EMBEDDING_STD = 0.1
_MIMETIC_SHARPNESS = 2.0  # of the initial attention to a query's own position


@dataclass(frozen=True)
class Context:
    """Output of the encoder: (N, D) vectors of the input tokens, the segments of the samples, and the tokens."""

    rows: Tensor
    segments: Segments
    inputs: PackedTokens


class EncoderDecoder(nn.Module):
    """Predicts target tokens from input tokens; linear layers see real tokens only.

    Args:
        table: the modalities, in the order of the indices in `PackedTokens.modality`.
        width: D, a multiple of head_width.
        encoder_depth, decoder_depth: blocks.
        head_width: E.
        mlp_ratio: hidden width of an MLP over `width`.
        logits: "legal": each vocabulary has embeddings and logits for its legal ids; "table": all modalities share one
            vocabulary of `max(vocab_sizes)` ids (published).
        head: "flat" or "factorized" (pictures as six FSQ digits, displacements as cells along x and y; needs
            logits=legal).
        joints: "table" (independent joint ids, published), "ordinal" (neighboring ids have similar vectors), "digits"
            (embedded as ordinal, predicted as a coarse and a fine coordinate: ten times as fast) or "relative" (as
            ordinal; places are embedded relative to the box of their pose too, displacements by joint); the latter
            three need logits=legal.
        positions: "1d" (published), "2d" with rows and columns of pictures and wavelengths that fit each axis, or
            "joint", likewise with x, y and visibility embedded by joint.
        aligned: picture tokens are also given what the inputs have at their place: pictures, and poses as maps on
            their grid (`m3.model.aligned`); needs square pictures.
        init: "normal": linear and embedding weights from N(0, 0.02) (published); "mimetic": queries of the decoder
            attend to their own position from the start (see `_initialize_mimetic`).
    Attributes:
        is_compiled: see `choose_kernels`.
    Raises:
        ValueError naming the key for impossible or contradictory options.
    """

    is_compiled = False

    def __init__(
        self,
        table: ModalityTable,
        width: int = 512,
        encoder_depth: int = 6,
        decoder_depth: int = 6,
        head_width: int = 64,
        mlp_ratio: float = 4.0,
        logits: Literal["legal", "table"] = "legal",
        head: Literal["flat", "factorized"] = "flat",
        joints: Literal["table", "ordinal", "digits", "relative"] = "table",
        positions: Literal["1d", "2d", "joint"] = "1d",
        aligned: bool = False,
        init: Literal["normal", "mimetic"] = "normal",
    ) -> None:
        super().__init__()
        _check_options(width, encoder_depth, decoder_depth, head_width, mlp_ratio, logits, head, joints, init)
        self.table = table
        self.vocabularies = table.vocabularies
        if logits == "table":
            self.vocabularies = (Vocabulary("table", max(table.vocab_sizes)),) * table.num_modalities
        distinct = {vocabulary.name: vocabulary for vocabulary in self.vocabularies}

        self.enc_tok_emb = nn.ModuleDict({n: build_embedding(v, width, head, joints) for n, v in distinct.items()})
        self.enc_mod_emb = nn.Embedding(table.num_modalities, width)
        self.dec_mod_emb = nn.Embedding(table.num_modalities, width)
        self.pos_emb = PositionEmbedding(table, width, positions)
        self.aligned = AlignedPictures(table, width) if aligned else None
        self.encoder = nn.ModuleList(EncoderBlock(width, head_width, mlp_ratio) for _ in range(encoder_depth))
        self.enc_norm = Norm(width)
        self.dec_context_proj = nn.Linear(width, width)
        self.decoder = nn.ModuleList(DecoderBlock(width, head_width, mlp_ratio) for _ in range(decoder_depth))
        self.dec_norm = Norm(width)
        self.to_logits = nn.ModuleDict({n: build_head(v, width, head, joints) for n, v in distinct.items()})
        self._initialize()
        if init == "mimetic":
            self._initialize_mimetic()

    def choose_kernels(self, attention: Kernel = "auto", compile: bool = False) -> None:
        """Chooses how the blocks compute; results change by rounding only.

        Args:
            attention: see `m3.model.attention.packed_attention`.
            compile: `torch.compile` each block in place, for any number of tokens; names of weights do not change. The
                loss of flat heads is compiled too (`is_compiled`).
        Raises:
            ValueError naming the key for an unknown attention.
        """
        if attention not in KERNELS:
            raise ValueError(f"hardware.attention={attention!r}: choose {', '.join(KERNELS)}")
        for module in self.modules():
            if isinstance(module, SelfAttention | CrossAttention):
                module.kernel = attention
        self.is_compiled = compile
        if compile:
            for block in [*self.encoder, *self.decoder]:
                block.compile(dynamic=True)

    def encode(self, inputs: PackedTokens) -> Context:
        """N input tokens → their (N, D) context."""
        segments = Segments(inputs)
        positions = self.pos_emb(inputs.modality, inputs.position)
        x = self._embed_ids(inputs) + self.enc_mod_emb(inputs.modality) + positions  # (N, D)
        if self.aligned is not None:
            x = self.aligned.of_inputs(x, inputs)
        for block in self.encoder:
            x = block(x, segments)
        return Context(self.dec_context_proj(self.enc_norm(x)) + positions, segments, inputs)

    def decode(self, context: Context, targets: PackedTokens) -> Tensor:
        """M queries (modality and position, no ids) → (M, D) hidden vectors for the heads."""
        segments = Segments(targets)
        x = self.dec_mod_emb(targets.modality) + self.pos_emb(targets.modality, targets.position)  # (M, D)
        if self.aligned is not None:
            x = self.aligned.of_queries(x, context.inputs, targets)
        for block in self.decoder:
            x = block(x, context.rows, segments, context.segments)
        return self.dec_norm(x)

    def forward(self, inputs: PackedTokens, targets: PackedTokens) -> Tensor:
        """Hidden vectors (M, D) of the targets, given the inputs of the same samples."""
        return self.decode(self.encode(inputs), targets)

    @property
    def hidden_matrices(self) -> list[nn.Parameter]:
        """The weights between hidden vectors: those of the linear layers in the blocks and before the decoder."""
        blocks = (*self.encoder, *self.decoder, self.dec_context_proj)
        return [parameter for block in blocks for parameter in block.parameters() if parameter.ndim == 2]

    def head_of(self, modality: int) -> FlatHead | FactorizedHead:
        return cast(FlatHead | FactorizedHead, self.to_logits[self.vocabularies[modality].name])

    def digit_logits(self, hidden: Tensor, modality: int, num_ids: int | None = None) -> tuple[Tensor, ...]:
        """(M', D) hidden vectors of one modality → (M', V_d) logits for each digit d of its vocabulary.

        Digits are independent given the hidden vector. A flat head has one digit, the id itself.

        num_ids: only the logits for the first `num_ids` ids, where others are illegal.
        """
        return self.head_of(modality).digit_logits(hidden, num_ids)

    def num_logits(self, modality: int, num_ids: int | None = None) -> int:
        """Number of logits per token of a modality, over all digits, or for its first `num_ids` ids."""
        return self.head_of(modality).num_logits(num_ids)

    def digits_of(self, ids: Tensor, modality: int) -> tuple[Tensor, ...]:
        """(M',) ids → one (M',) tensor for each digit."""
        return self.head_of(modality).digits_of(ids)

    def is_predicted(self, ids: Tensor, modality: int) -> tuple[Tensor | None, ...]:
        """(M',) ids → for each digit (M',) bool, True where it belongs to the id; None where it always does."""
        return self.head_of(modality).is_predicted(ids)

    def ids_of(self, digits: tuple[Tensor, ...], modality: int) -> Tensor:
        """The inverse of `digits_of`."""
        return self.head_of(modality).ids_of(digits)

    def _initialize(self) -> None:
        """N(0, 0.02) for linear and embedding weights, 0 for the only bias; heads are 0 from their construction."""
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=INIT_STD)
        nn.init.zeros_(self.dec_context_proj.bias)

    def _initialize_mimetic(self) -> None:
        """Mimetic initialization (Trockman & Kolter, ICML 2023), here of cross-attention.

        Queries and keys start with the same random projection, so that their products compare position embeddings.
        Values and outputs start as an orthogonal map and its inverse, so that attended vectors are copied. Other
        linear layers preserve variance, and ids weigh as much as positions.
        """
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=module.in_features**-0.5)
            elif isinstance(module, nn.Embedding):
                nn.init.normal_(module.weight, std=_MIMETIC_EMBEDDING_STD)
        for attention in (module for module in self.decoder.modules() if isinstance(module, CrossAttention)):
            width = attention.q_proj.in_features
            copied = nn.init.orthogonal_(torch.empty(width, width))
            with torch.no_grad():
                attention.q_proj.weight.mul_(_MIMETIC_SHARPNESS)
                attention.kv_proj.weight.copy_(torch.cat([attention.q_proj.weight, copied]))
                attention.attn_out_proj.weight.copy_(copied.T)

    def _embed_ids(self, inputs: PackedTokens) -> Tensor:
        embedded: Tensor | None = None
        for name, embedding in self.enc_tok_emb.items():
            members = [k for k, vocabulary in enumerate(self.vocabularies) if vocabulary.name == name]
            if len(members) == self.table.num_modalities and not isinstance(embedding, POSE_EMBEDDINGS):
                return embedding(inputs.ids)
            rows = torch.cat([inputs.rows[k] for k in members])
            vectors: Tensor = embedding(self._tokens_of(embedding, inputs, rows, members))
            if embedded is None:
                embedded = vectors.new_zeros(len(inputs.ids), vectors.shape[1])
            embedded = embedded.index_copy(0, rows, vectors)
        assert embedded is not None  # every modality has a vocabulary
        return embedded

    @staticmethod
    def _tokens_of(embedding: nn.Module, inputs: PackedTokens, rows: Tensor, members: list[int]) -> Tensor | PoseTokens:
        """What an embedding takes of the inputs at `rows`, which are tokens of the modalities `members`."""
        ids = inputs.ids.index_select(0, rows)
        if not isinstance(embedding, POSE_EMBEDDINGS):
            return ids
        position, sample, modality = (each.index_select(0, rows) for each in
                                      (inputs.position, inputs.sample, inputs.modality))  # fmt: skip
        place = torch.searchsorted(torch.tensor(members, device=ids.device), modality)
        return PoseTokens(ids, position, sample * len(members) + place, len(inputs.lengths) * len(members))


def _check_options(
    width: int,
    encoder_depth: int,
    decoder_depth: int,
    head_width: int,
    mlp_ratio: float,
    logits: str,
    head: str,
    joints: str,
    init: str,
) -> None:
    check("model.mlp_ratio", mlp_ratio, float, low=0)
    for key, value, choices in (
        ("logits", logits, ("legal", "table")),
        ("head", head, ("flat", "factorized")),
        ("joints", joints, ("table", "ordinal", "digits", "relative")),
        ("init", init, ("normal", "mimetic")),
    ):
        if value not in choices:
            raise ValueError(f"model.{key}={value!r}: choose {' or '.join(choices)}")
    if logits == "table" and (head, joints) != ("flat", "table"):
        raise ValueError(
            f"model.logits=table shares one flat table: it needs head=flat, joints=table, not {head}, {joints}"
        )
    for key, value in (("width", width), ("head_width", head_width), ("encoder_depth", encoder_depth),
                       ("decoder_depth", decoder_depth)):  # fmt: skip
        check(f"model.{key}", value, int, low=1)
    if not int(width * mlp_ratio) >= 1:
        raise ValueError(f"model.mlp_ratio={mlp_ratio}: the MLPs of width {width} would be empty")
    if width % head_width:
        raise ValueError(f"model.width={width} must be a multiple of model.head_width={head_width}")
