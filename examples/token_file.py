"""A training script of the kind that memory-maps one file of uint16 tokens and draws windows from it.

morphogen data export code@1 exported --format bin
python examples/token_file.py exported/tokens.bin --steps 100
"""

import argparse

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("file")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--block", type=int, default=64)
    options = parser.parse_args()

    tokens = np.memmap(options.file, dtype="<u2", mode="r")
    vocab_size = int(tokens.max()) + 1
    model = nn.Sequential(nn.Embedding(vocab_size, 64), nn.Linear(64, vocab_size))  # yours goes here
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    generator = torch.Generator().manual_seed(0)

    for _ in range(options.steps):
        starts = torch.randint(len(tokens) - options.block, (16,), generator=generator)
        window = torch.stack([torch.from_numpy(tokens[at : at + options.block + 1].astype(np.int64)) for at in starts])
        loss = cross_entropy(model(window[:, :-1]).flatten(0, 1), window[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    print(f"loss {loss.item():.3f} nats after {options.steps} steps on {len(tokens):,} tokens")


if __name__ == "__main__":
    main()
