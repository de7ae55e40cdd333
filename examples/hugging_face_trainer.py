"""Pre-pre-train a Hugging Face Llama with transformers' Trainer, then carry its attention into a model for language.

python examples/hugging_face_trainer.py --steps 100
"""

import argparse
import tempfile

from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments

import morphogen

SIZES = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=100)
    steps = parser.parse_args().steps

    # "same": unshifted labels, as Hugging Face's models take them; they shift by themselves.
    data = morphogen.NcaDataset("tiny", seed=0, sequences=100_000, labels="same", loss_mask="first_frame")
    model = LlamaForCausalLM(LlamaConfig(vocab_size=data.vocab_size, **SIZES))
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            max_steps=steps,
            per_device_train_batch_size=8,
            learning_rate=1e-3,
            logging_steps=10,
            save_strategy="no",
            report_to=[],
            use_cpu=True,
        )
        result = Trainer(model=model, args=arguments, train_dataset=data).train()
    print(f"loss {result.training_loss:.3f} nats after {result.global_step} steps")

    language = LlamaForCausalLM(LlamaConfig(vocab_size=50_257, **SIZES))
    moved = morphogen.transfer(model.state_dict(), language, what="attn")
    print(f"carried over {len(moved)} tensors: {moved[0]}, …")


if __name__ == "__main__":
    main()
