"""`hardware.strategy=fsdp`: weights, gradients and optimizer state are sharded over the ranks (PyTorch's FSDP2)."""

from __future__ import annotations

import torch
from pytorch_lightning.strategies import ModelParallelStrategy
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor

from m3.masking.select import pack
from m3.model.encoder_decoder import EncoderDecoder


def fsdp_strategy(num_devices: int) -> ModelParallelStrategy:
    """Data-parallel over all devices of all nodes. Checkpoints are single files of full tensors, as with DDP."""
    return ModelParallelStrategy(
        data_parallel_size=num_devices, tensor_parallel_size=1, save_distributed_checkpoint=False
    )


def shard(model: EncoderDecoder, mesh: DeviceMesh) -> None:
    """Shards each parameter along its first axis, in place; does nothing if the model is sharded already.

    Parameters of a block are gathered while it computes. The others are gathered from the forward pass to the end of
    the backward pass, because the loss reads the heads' weights in between.
    """
    if isinstance(model, FSDPModule):
        return
    for block in [*model.encoder, *model.decoder]:
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh, reshard_after_forward=False)


@torch.no_grad()
def dummy_forward(model: EncoderDecoder) -> None:
    """A forward pass of one token, for a rank without samples: the forward passes of others wait for its shards."""
    if isinstance(model, FSDPModule):
        tokens = torch.zeros(1, model.table.num_tokens, dtype=torch.int64, device=model.dec_context_proj.bias.device)
        is_first = torch.zeros_like(tokens, dtype=torch.bool)
        is_first[:, 0] = True
        token = pack(tokens, is_first, model.table)
        model(token, token)


def reshard(model: EncoderDecoder) -> None:
    """Frees the parameters gathered for a forward pass that no backward pass followed."""
    if isinstance(model, FSDPModule):
        model.reshard()


def full_tensor(tensor: Tensor) -> Tensor:
    """A sharded tensor as a plain one with all its values; other tensors are returned as they are."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
