from __future__ import annotations

import pytest
import torch

from m3.tokens.base import NoTokenizer


def test_without_a_tokenizer_nothing_is_encoded_or_decoded():
    tokenizer = NoTokenizer()
    assert (tokenizer.name, tokenizer.fingerprint) == ("none", "")
    with pytest.raises(ValueError, match="tokenizer=none"):
        tokenizer.encode(torch.zeros(1, 3, 16, 16))
    with pytest.raises(ValueError, match="tokenizer=none"):
        tokenizer.decode(torch.zeros(1, 1, 1, dtype=torch.int64))
