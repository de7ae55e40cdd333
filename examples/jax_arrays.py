"""The same rows as NumPy arrays, for JAX: any slice of sequences by index, no DataLoader needed.

python examples/jax_arrays.py --steps 100
"""

import argparse

import jax
import jax.numpy as jnp
import numpy as np

import morphogen


def loss_of(weights: dict[str, jax.Array], tokens: jax.Array) -> jax.Array:
    logits = weights["embed"][tokens[:, :-1]] @ weights["head"]  # your model goes here
    chosen = jnp.take_along_axis(jax.nn.log_softmax(logits), tokens[:, 1:, None], axis=-1)
    return -chosen.mean()


@jax.jit
def update(weights: dict[str, jax.Array], tokens: jax.Array) -> tuple[dict[str, jax.Array], jax.Array]:
    loss, slope = jax.value_and_grad(loss_of)(weights, tokens)
    return jax.tree.map(lambda weight, g: weight - 0.5 * g, weights, slope), loss


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=100)
    steps = parser.parse_args().steps

    spec = morphogen.load_preset("tiny")
    keys = jax.random.split(jax.random.key(0))
    weights = {
        "embed": jax.random.normal(keys[0], (spec.vocab_size, 64)) * 0.1,
        "head": jax.random.normal(keys[1], (64, spec.vocab_size)) * 0.1,
    }
    for step in range(steps):
        rows = np.arange(step * 16, (step + 1) * 16)  # each process of a job takes its own
        tokens = morphogen.generate_rows(spec, 0, rows).astype(np.int32)
        weights, loss = update(weights, jnp.asarray(tokens))
    print(f"loss {float(loss):.3f} nats after {steps} steps")


if __name__ == "__main__":
    main()
