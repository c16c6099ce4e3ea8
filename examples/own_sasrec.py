"""Your own SASRec in plain PyTorch, trained on a distilled dataset.

python examples/own_sasrec.py runs/ml-100k [STEPS]
"""

import sys

import torch
from torch import nn
from torch.utils.data import DataLoader

import farzi


class SASRec(nn.Module):
    def __init__(self, num_items, length, width=64, heads=1, layers=2, dropout=0.1):
        super().__init__()
        self.embedding = nn.Embedding(num_items, width)
        self.position = nn.Embedding(length, width)
        block = nn.TransformerEncoderLayer(
            width, heads, width, dropout, "gelu", batch_first=True, norm_first=True
        )
        self.blocks = nn.TransformerEncoder(
            block, layers, nn.LayerNorm(width), enable_nested_tensor=False
        )

    def forward(self, tokens):
        if tokens.is_floating_point():  # soft tokens (B, L, V): the mean of the embeddings
            embedded = tokens @ self.embedding.weight
        else:  # ids (B, L), as when it serves
            embedded = self.embedding(tokens)
        length = tokens.shape[1]
        ahead = nn.Transformer.generate_square_subsequent_mask(length, tokens.device)
        hidden = self.blocks(embedded + self.position.weight[:length], ahead, is_causal=True)
        return hidden @ self.embedding.weight.T


def train(data, steps=300, lr=0.01, batch_size=10):
    model = SASRec(data.vocabulary_size, data.length).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr)
    loader = DataLoader(data, batch_size=batch_size, shuffle=True)
    for _ in range(max(1, steps // len(loader))):
        for batch in loader:
            logits = model(batch["tokens"])
            loss = farzi.soft_cross_entropy(logits, batch["labels"], batch["mask"])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    print(f"loss {loss.item():.3f}")
    return model.eval()


if __name__ == "__main__":
    torch.manual_seed(0)
    data = farzi.load(sys.argv[1])
    model = train(data, *map(int, sys.argv[2:]))
    history = data.hard().originals()[0][:5]  # its original ids, as yours would be
    best = model(data.encode(history)[None])[0, -1].topk(10).indices
    print(history, "->", data.decode(best))
