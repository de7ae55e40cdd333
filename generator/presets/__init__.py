"""Specs that come with the package, as TOML files whose comments say what each is for."""

import tomllib
from importlib.resources import files

from generator.errors import SpecError
from generator.registry import GenerationSpec, parse_spec


def list_presets() -> list[str]:
    """Names of all presets, sorted."""
    return sorted(
        entry.name.removesuffix(".toml") for entry in files(__name__).iterdir() if entry.name.endswith(".toml")
    )


def preset_text(name: str) -> str:
    """The TOML of a preset, comments included. SpecError for an unknown name."""
    if name not in list_presets():
        raise SpecError(f"preset: {name!r} is unknown; allowed are {', '.join(list_presets())}; choose one")
    return (files(__name__) / f"{name}.toml").read_text(encoding="utf-8")


def load_preset(name: str) -> GenerationSpec:
    """The spec of a preset. SpecError for an unknown name."""
    return parse_spec(tomllib.loads(preset_text(name)))
