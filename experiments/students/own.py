"""A model of one's own, written as for any training in PyTorch, with the function that makes it."""

import torch
from torch import nn


class OwnModel(nn.Module):
    def __init__(self, num_tokens: int, context_length: int, width: int = 32, heads: int = 2):
        super().__init__()
        self.embedding = nn.Embedding(num_tokens, width)
        nn.init.normal_(self.embedding.weight, std=width**-0.5)
        self.head = nn.Linear(width, num_tokens, bias=False)
        self.head.weight = self.embedding.weight
        self.position = nn.Parameter(torch.zeros(context_length, width))
        self.dropout = nn.Dropout(0.1)
        block = nn.TransformerEncoderLayer(
            width, heads, 2 * width, 0.1, "gelu", batch_first=True, norm_first=True
        )
        self.blocks = nn.TransformerEncoder(
            block, 1, nn.LayerNorm(width), enable_nested_tensor=False
        )

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        length = tokens.shape[1]
        ahead = nn.Transformer.generate_square_subsequent_mask(length, tokens.device)
        embedded = self.dropout(self.embedding(tokens) + self.position[:length])
        hidden = self.blocks(embedded, ahead, is_causal=True)
        return self.head(hidden)


def make(num_tokens: int, context_length: int) -> nn.Module:
    return OwnModel(num_tokens, context_length)
