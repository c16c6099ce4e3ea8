"""Your own GRU4Rec in plain PyTorch, trained on a distilled dataset.

python examples/own_gru4rec.py runs/ml-100k [STEPS]
"""

import sys

import torch
from torch import nn
from torch.utils.data import DataLoader

import farzi


class GRU4Rec(nn.Module):
    def __init__(self, num_items, width=64):
        super().__init__()
        self.embedding = nn.Embedding(num_items, width)
        self.gru = nn.GRU(width, width, batch_first=True)

    def forward(self, tokens):
        if tokens.is_floating_point():  # soft tokens (B, L, V): the mean of the embeddings
            embedded = tokens @ self.embedding.weight
        else:  # ids (B, L), as when it serves
            embedded = self.embedding(tokens)
        hidden, _ = self.gru(embedded)
        return hidden @ self.embedding.weight.T


def train(data, steps=300, lr=0.01, batch_size=10):
    model = GRU4Rec(data.vocabulary_size)
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr)
    loader = DataLoader(data, batch_size=batch_size, shuffle=True)
    step = 0
    while step < steps:
        for batch in loader:
            logits = model(batch["tokens"])
            loss = farzi.soft_cross_entropy(logits, batch["labels"], batch["mask"])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            step += 1
    print(f"loss {loss.item():.3f} after {step} steps")
    return model


def recommend(model, data, history, k=10):
    tokens = data.encode(history)  # original ids to tokens, and back
    best = model(tokens[None])[0, -1].topk(k).indices
    return data.decode(best)


if __name__ == "__main__":
    torch.manual_seed(0)
    data = farzi.load(sys.argv[1])
    model = train(data, *map(int, sys.argv[2:]))
    history = data.hard().originals()[0][:5]
    print(history, "->", recommend(model, data, history))
