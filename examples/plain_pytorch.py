"""Rows of random cellular automata in a plain PyTorch loop: computed where they are read, resumable at any step.

python examples/plain_pytorch.py --steps 100
"""

import argparse

import torch
from torch import nn
from torch.nn.functional import cross_entropy

import morphogen


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=100)
    steps = parser.parse_args().steps

    # "first_frame" leaves out what no rule can tell: the initial cells.
    data = morphogen.NcaDataset("tiny", seed=0, sequences=100_000, labels="shifted", loss_mask="first_frame")
    loader = torch.utils.data.DataLoader(data, batch_size=16, shuffle=True)
    model = nn.Sequential(nn.Embedding(data.vocab_size, 64), nn.Linear(64, data.vocab_size))  # yours goes here
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)

    for step, batch in zip(range(steps), loader, strict=False):
        loss = cross_entropy(model(batch["input_ids"]).flatten(0, 1), batch["labels"].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 10 == 0 or step == steps - 1:
            print(f"step {step}: loss {loss.item():.3f} nats")

    # The order of `morphogen train`, a share for each rank, and a state of two numbers.
    ordered = morphogen.plan_loader(data, batch=16, seed=1, rank=0, world=2, steps=steps)
    rows = iter(ordered)
    next(rows)
    state = ordered.state_dict()
    again = morphogen.plan_loader(data, batch=16, seed=1, rank=0, world=2, steps=steps)
    again.load_state_dict(state)
    print("goes on where it stopped:", state)


if __name__ == "__main__":
    main()
