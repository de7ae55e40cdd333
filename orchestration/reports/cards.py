"""The README.md of what is exported: a card as the Hugging Face Hub reads it, and as people do.

Its front matter names licence, tags and datasets; the text says what the thing was made from, with digests, what it
scored and how to load it. What a licence allows is the owner's to say: "unknown" until they do.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from datalake import Lake, Manifest, ModelVersion, lineage
from datalake.errors import NotFoundError
from datalake.registry.datasets import DatasetVersion
from orchestration.console.foreign import as_json, in_code, in_markdown
from orchestration.errors import InvalidRequestError

README = "README.md"


class _Markdown(str):
    """What is Markdown already, and no text to be escaped."""


UNKNOWN = "unknown"
_SIZES = [(10**3, "n<1K"), (10**4, "1K<n<10K"), (10**5, "10K<n<100K"), (10**6, "100K<n<1M"), (10**7, "1M<n<10M"),
          (10**8, "10M<n<100M"), (10**9, "100M<n<1B")]  # fmt: skip
_SCORES = {"loss": "loss (nats a token)", "perplexity": "perplexity", "bits_per_byte": "bits per byte",
           "accuracy": "accuracy"}  # fmt: skip


def check_license(license: str) -> str:
    """``license`` if the Hub could know it by that: lower-case letters, digits, . and -; else InvalidRequestError."""
    if not re.fullmatch(r"[a-z0-9][a-z0-9.-]{0,63}", license):
        raise InvalidRequestError(
            f"license = {license!r}: must be an identifier of the Hub, such as apache-2.0, mit, cc-by-4.0 or other"
        )
    return license


def model_card(lake: Lake, version: ModelVersion, config: Mapping[str, Any], license: str, tokenizer: bool) -> bytes:
    """The card of a model version whose folder has ``config`` (its config.json) and perhaps a ``tokenizer``."""
    from huggingface_hub import EvalResult, ModelCardData

    from trainer.model_config import beyond_llama  # imports torch, and a dataset's card needs none of it

    tree = lineage(lake, version.ref)
    task = "text-generation"
    own = beyond_llama(config)
    scored = {ref: scores for ref, scores in version.metrics.items() if isinstance(scores, Mapping)}
    data = ModelCardData(
        license=check_license(license),
        library_name="morphogen" if own else "transformers",
        pipeline_tag=task,
        tags=["morphogen", *sorted({dataset["kind"] for dataset in tree["datasets"]})],
        datasets=sorted({_name(ref) for ref in version.datasets}) or None,
        model_name=version.name,
        eval_results=[
            EvalResult(
                task_type=task, dataset_type=_name(ref), dataset_name=ref, metric_type=key, metric_value=scores[key]
            )
            for ref, scores in scored.items()
            for key in _SCORES
            if isinstance(scores.get(key), int | float)
        ]
        or None,
    )
    named = ("num_hidden_layers", "hidden_size", "num_attention_heads", "vocab_size", "max_position_embeddings")
    parts = [
        f"# {in_markdown(version.ref)}",
        f"A causal language model ({in_markdown(config['model_type'])} architecture) trained with Morphogen in run "
        f"{in_code(version.run)}{_trained(lake, version.run)}.",
        _table(["size", ""], [(name, config[name]) for name in named]),
        "## What it was trained on",
        _table(
            ["dataset", "kind", "tokens", "made by", "SHA-256 of its tokens"],
            [_dataset_row(dataset) for dataset in tree["datasets"]],
        ),
        "## Where it comes from",
        _origins(tree, version),
        "## Scores",
        _scores(scored),
        "## How to load it",
        _code("python", *_loading(own, tokenizer)),
        _ending(config, tokenizer),
    ]
    return _card(data, parts)


def _loading(own: str, tokenizer: bool) -> list[str]:
    """Lines of Python that load a folder's model; ``own``: what of it no class of transformers computes."""
    if own:
        return [
            f"# No class of transformers computes {own}. These weights are a plain state dict.",
            "from pathlib import Path",
            "",
            "from trainer.foreign import open_weights",
            "from trainer.hf_layout import open_model",
            "",
            'folder = Path("path/of/this/folder")',
            "weights = open_weights(folder, {path.name for path in folder.iterdir()})",
            'model = open_model((folder / "config.json").read_bytes(), weights.items())',
        ]
    return [
        "from transformers import AutoModelForCausalLM" + (", AutoTokenizer" if tokenizer else ""),
        "",
        'model = AutoModelForCausalLM.from_pretrained("path/of/this/folder")',
        *(['tokenizer = AutoTokenizer.from_pretrained("path/of/this/folder")'] if tokenizer else []),
    ]


def dataset_card(version: DatasetVersion, manifest: Manifest, format: str, license: str, first: str) -> bytes:
    """The card of a dataset version that is exported in ``format``, one of ``export_formats.Format``.

    ``first`` is the name of the first of its files.
    """
    from huggingface_hub import DatasetCardData

    files = {"parquet": "*.parquet", "huggingface": "*.parquet", "jsonl": "sequences*.jsonl"}.get(format)
    spec, text = manifest.source.spec, manifest.kind == "text"
    family = "text" if text else str(spec.get("family", "synthetic"))
    data = DatasetCardData(
        license=check_license(license),
        pretty_name=version.ref,
        tags=["morphogen", manifest.kind, *([] if family == manifest.kind else [family])],
        task_categories=["text-generation"],
        size_categories=next((name for most, name in _SIZES if manifest.sequences < most), "n>1T"),
        configs=[{"config_name": "default", "data_files": files}] if files else None,
    )
    made = f"{in_code(spec['tokenizer'])} tokens of text" if "tokenizer" in spec else f"family {in_code(family)}"
    facts = [
        ("sequences", f"{manifest.sequences:,}"),
        ("tokens of each", f"{manifest.seq_len:,}"),
        ("vocabulary", f"{manifest.vocab_size:,}"),
        ("tokens", f"{manifest.tokens:,}"),
        ("what they are", _Markdown(made)),
        ("made by", version.params or "no registered parameter set"),
        ("seed", manifest.source.seed),
        ("generator", manifest.source.generator),
        ("SHA-256 of the spec", _Markdown(in_code(manifest.source.spec_digest))),
        ("digest of all tokens", _content(manifest.content_digest)),
    ]
    dtype = manifest.token_dtype
    ids, stem = f"little-endian uint{8 * dtype.itemsize}", first.removesuffix(".bin")
    load = {
        "parquet": [
            "import numpy as np, pyarrow.parquet as pq",
            "",
            f'rows = pq.read_table("{first}")["tokens"].to_pylist()  # one sequence a row, as bytes',
            f'tokens = np.frombuffer(rows[0], dtype="{dtype.str}")',
        ],
        "jsonl": [
            "import json",
            "",
            f'tokens = json.loads(next(open("{first}")))["tokens"]  # one sequence a line',
        ],
        "bin": [
            "import numpy as np",
            "",
            f'tokens = np.memmap("{first}", dtype="{dtype.str}", mode="r").reshape(-1, {manifest.seq_len})',
        ],
        "huggingface": [
            "from datasets import load_dataset",
            "",
            'rows = load_dataset("parquet", data_files="train-*.parquet", split="train")  # one sequence a row',
            'tokens = rows[0]["input_ids"]',
        ],
        "llmc": [
            "import numpy as np",
            "",
            "# 256 int32 (magic 20240520, version 1, number of tokens), then the tokens; more files follow.",
            f'tokens = np.memmap("{first}", dtype="<u2", mode="r", offset=1024)',
        ],
        "megatron": [
            "import numpy as np",
            "",
            f'# What Megatron\'s IndexedDataset("{stem}") maps; the index lies in {stem}.idx.',
            f'tokens = np.memmap("{first}", dtype="{dtype.str}", mode="r").reshape(-1, {manifest.seq_len})',
        ],
        "litdata": [
            "from litdata import StreamingDataset, TokensLoader",
            "",
            f'rows = StreamingDataset(".", item_loader=TokensLoader({manifest.seq_len}))',
            "tokens = rows[0]  # one sequence",
        ],
    }[format]
    parts = [
        f"# {in_markdown(version.ref)}",
        f"A dataset of token ids, exported from a Morphogen lake. {_reproduced(text)}",
        _table(["fact", ""], facts),
        "## How to load it",
        _code("python", *load),
        f"Token ids are {ids} in the binary formats. `manifest.json` lists every shard with its "
        "digest, `lineage.json` says what it was made from.",
        "## What made it",
        _code("json", as_json(dict(sorted(spec.items())), indent=2)),
    ]
    return _card(data, parts)


def _trained(lake: Lake, run: str) -> str:
    try:
        result = lake.runs.get(run).state.get("result") or {}
    except NotFoundError:
        return ""
    facts = result.get("facts", {})
    if not facts:
        return ""
    tokens = result["step"] * facts["batch_tokens"]
    return f": {facts['parameters']:,} parameters, {result['step']:,} steps, {tokens:,} tokens predicted"


def _dataset_row(dataset: Mapping[str, Any]) -> Sequence[Any]:
    params = dataset["params"]["ref"] if dataset["params"] else "-"
    digest = _content(dataset["content_digest"])
    return dataset["ref"], dataset["kind"], f"{dataset['tokens']:,}", params, digest


def _content(digest: str | None) -> _Markdown:
    return _Markdown(in_code(digest) if digest else "none: a computed dataset, fixed by spec, seed and generator")


def _origins(tree: Mapping[str, Any], version: ModelVersion) -> str:
    lines = [
        f"- published {in_markdown(version.created)} from run {in_code(version.run)}; its digest is "
        f"{in_code(version.digest)}"
    ]
    lines += [
        f"- parameter set {in_markdown(params['ref'])} ({in_code(params['digest'])})" for params in tree["params"]
    ]
    lines += _ancestors(tree["parents"], "- weights from")
    return "\n".join([*lines, "", "`lineage.json` holds the whole tree."])


def _ancestors(parents: Iterable[Mapping[str, Any]], said: str) -> list[str]:
    lines = []
    for parent in parents:
        model, data = parent["model"], ", ".join(dataset["ref"] for dataset in parent["datasets"])
        trained = f", trained on {in_markdown(data)}" if data else ""
        lines.append(f"{said} {in_markdown(model['ref'])} ({in_code(model['digest'])}){trained}")
        lines += [f"  {line}" for line in _ancestors(parent["parents"], "- which has weights from")]
    return lines


def _scores(scored: Mapping[str, Mapping[str, Any]]) -> str:
    if not scored:
        return "It was published without held-out scores."
    columns = [key for key in _SCORES if any(key in scores for scores in scored.values())]
    rows = [
        (ref, *(f"{scores[key]:.4f}" if isinstance(scores.get(key), int | float) else "-" for key in columns))
        for ref, scores in scored.items()
    ]
    return _table(["held-out dataset", *(_SCORES[key] for key in columns)], rows)


def _ending(config: Mapping[str, Any], tokenizer: bool) -> str:
    if tokenizer:
        return (
            f"Token {config['eos_token_id']} ends a text: generation stops at it. In training a text also began after "
            f"it, so a prompt may begin with it. Sequences had {config['max_position_embeddings']:,} tokens."
        )
    return (
        "Its tokens were made by no text tokenizer, so none is here, and no token ends generation: say how many tokens "
        "you want (`max_new_tokens`)."
    )


def _reproduced(text: bool) -> str:
    if text:
        return "It was cut from documents as the spec below says."
    return "It is a pure function of the spec and the seed below: whoever has them can compute it again, bit for bit."


def _name(ref: str) -> str:
    return ref.partition("@")[0]


def _table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    lines = [columns, [_Markdown("---")] * len(columns), *rows]
    written = ([cell if isinstance(cell, _Markdown) else in_markdown(cell) for cell in line] for line in lines)
    return "\n".join("| " + " | ".join(line) + " |" for line in written)


def _code(language: str, *lines: str) -> str:
    return "\n".join([f"```{language}", *lines, "```"])


def _card(data: Any, parts: Sequence[str]) -> bytes:
    return ("---\n" + data.to_yaml() + "\n---\n\n" + "\n\n".join(parts) + "\n").encode()
