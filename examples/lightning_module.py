"""The same rows in a Lightning module.

python examples/lightning_module.py --steps 100
"""

import argparse

import lightning
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader

import morphogen


class Model(lightning.LightningModule):
    def __init__(self, vocab_size: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Embedding(vocab_size, 64), nn.Linear(64, vocab_size))  # yours goes here

    def training_step(self, batch: dict[str, Tensor], _: int) -> Tensor:
        loss = cross_entropy(self.layers(batch["input_ids"]).flatten(0, 1), batch["labels"].flatten())
        self.log("loss", loss, prog_bar=True)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=1e-2)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=100)
    steps = parser.parse_args().steps

    data = morphogen.NcaDataset("tiny", seed=0, sequences=100_000, labels="shifted", loss_mask="first_frame")
    trainer = lightning.Trainer(
        max_steps=steps, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False
    )
    trainer.fit(Model(data.vocab_size), DataLoader(data, batch_size=16, shuffle=True))
    print(f"loss {float(trainer.callback_metrics['loss']):.3f} nats after {trainer.global_step} steps")


if __name__ == "__main__":
    main()
