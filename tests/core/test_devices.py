"""Which device "auto" is, and how a device that is not there is refused."""

from __future__ import annotations

import pytest
import torch

from m3.core.devices import default_device, lightning_accelerator, torch_device


@pytest.mark.parametrize(("has_gpu", "device", "accelerator"), [(True, "cuda", "gpu"), (False, "cpu", "cpu")])
def test_auto_is_the_gpu_where_there_is_one(monkeypatch, has_gpu: bool, device: str, accelerator: str) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: has_gpu)
    monkeypatch.setattr(torch, "empty", lambda *_, **__: None)  # such a device need not exist here
    assert default_device() == device
    assert torch_device("device", "auto") == torch.device(device)
    assert lightning_accelerator("auto") == accelerator


def test_a_named_device_is_taken() -> None:
    assert torch_device("device", "cpu") == torch.device("cpu")
    assert [lightning_accelerator(name) for name in ("cpu", "gpu")] == ["cpu", "gpu"]


@pytest.mark.parametrize("name", ["abacus", "cuda:99"])
def test_a_device_that_is_not_there_is_refused_by_its_key(name: str) -> None:
    with pytest.raises(ValueError, match=f"^captioner.device={name}: "):
        torch_device("captioner.device", name)
