"""The optimiser, with every parameter in exactly one named group.

Only matrices that mix features are decayed. Embedding rows and norm gains are not: a row that is rarely seen would
shrink for nothing, and a gain of zero switches its channel off. Muon is for those same matrices without the head: its
update has the same size in every direction, which suits maps between features and not tables of tokens.

Where ranks share the rows of each tensor (FSDP) all of this holds as it stands: moments are cut as their parameters
are, and Muon's products of matrices gather what they need.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from trainer import lowbit
from trainer.config import OptimizerConfig

Rule = Literal["adamw", "adamw8bit", "muon"]


@dataclass(frozen=True)
class Group:
    """A named set of parameters that are moved by one rule and share rate and decay.

    ``transferred`` ones came from another model: they may be frozen for a while, or decay toward where they began.
    """

    name: str
    parameters: tuple[str, ...]
    rule: Rule
    decayed: bool
    transferred: bool


def parameter_groups(model: nn.Module, rule: str = "adamw", transferred: Collection[str] = ()) -> list[Group]:
    """Groups ``hidden``, ``head``, ``embedding``, ``norm`` (empty ones left out), names in model order.

    Those in ``transferred`` make groups of their own, ``hidden/transferred`` and so on. A tied head is one tensor with
    the embedding and belongs to ``embedding``. A model may name more gains and biases in
    ``vectors``. ``rule`` is ``OptimizerConfig.name``.
    """
    names: dict[tuple[str, bool], list[str]] = {
        (kind, moved): [] for kind in ("hidden", "head", "embedding", "norm") for moved in (False, True)
    }
    for name, parameter in model.named_parameters():
        if parameter.ndim < 2 or name in getattr(model, "vectors", ()):
            kind = "norm"
        elif ".embed_" in name:
            kind = "embedding"
        else:
            kind = "head" if name.startswith("lm_head") else "hidden"
        names[kind, name in transferred].append(name)

    def rule_of(kind: str, moved: bool) -> Rule:
        if rule == "adamw8bit":
            return "adamw8bit"
        by_muon = kind == "hidden" and (rule == "muon" or (rule == "hybrid" and not moved))
        return "muon" if by_muon else "adamw"

    return [
        Group(
            name=f"{kind}/transferred" if moved else kind,
            parameters=tuple(members),
            rule=rule_of(kind, moved),
            decayed=kind in ("hidden", "head"),
            transferred=moved,
        )
        for (kind, moved), members in names.items()
        if members
    ]


@dataclass(frozen=True)
class Rates:
    """Learning rate and decay of one group at one step; ``momentum`` is Muon's. A ``frozen`` group stands still."""

    lr: float
    weight_decay: float
    momentum: float | None = None
    frozen: bool = False


class Optimizer:
    """AdamW and Muon as one: each group moved by its own rule, with what ``set_rates`` last said.

    ``transferred`` names the tensors that came from elsewhere; ``anchors`` holds the weights that some of them decay
    toward, float32 and where the parameters are.
    """

    def __init__(
        self,
        model: nn.Module,
        config: OptimizerConfig,
        transferred: Collection[str] = (),
        anchors: Mapping[str, Tensor] | None = None,
    ) -> None:
        self.groups = parameter_groups(model, config.name, transferred)
        self._parameters = dict(model.named_parameters())
        self._anchors = dict(anchors or {})
        self._parts: list[torch.optim.Optimizer] = []
        if adamw := self._torch_groups("adamw"):
            self._parts.append(
                torch.optim.AdamW(adamw, lr=config.lr, betas=config.betas, eps=config.eps, fused=True, weight_decay=0.0)
            )
        if adamw8bit := self._torch_groups("adamw8bit"):
            self._parts.append(lowbit.adamw8bit(adamw8bit, config.lr, config.betas, config.eps))
        if muon := self._torch_groups("muon"):
            own = config.muon
            self._parts.append(
                torch.optim.Muon(
                    muon,
                    lr=own.lr or config.lr,
                    momentum=own.momentum,
                    ns_steps=own.ns_steps,
                    adjust_lr_fn=own.adjust,
                    weight_decay=0.0,
                )
            )
        self._part_of = {
            name: part for part in self._parts for group in part.param_groups for name in group["group"].parameters
        }
        self.set_rates({group.name: Rates(config.lr, config.weight_decay) for group in self.groups})

    def _torch_groups(self, rule: Rule) -> list[dict[str, Any]]:
        return [
            {"params": [self._parameters[name] for name in group.parameters], "group": group}
            for group in self.groups
            if group.rule == rule
        ]

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """torch's groups of all rules; each has its ``Group`` under "group"."""
        return [group for part in self._parts for group in part.param_groups]

    def set_rates(self, rates: Mapping[str, Rates]) -> None:
        """What the next ``step`` uses, by group name."""
        for group in self.param_groups:
            wanted = rates[group["group"].name]
            group["lr"] = wanted.lr
            group["frozen"] = wanted.frozen
            group["weight_decay"] = wanted.weight_decay if group["group"].decayed else 0.0
            if group["group"].rule == "muon" and wanted.momentum is not None:
                group["momentum"] = wanted.momentum

    def drop_frozen(self) -> None:
        """Forget the gradients of frozen groups: they count in no norm, gather no moments and stay as they are."""
        for group in self.param_groups:
            if group["frozen"]:
                for parameter in group["params"]:
                    parameter.grad = None

    @torch.no_grad()
    def step(self) -> None:
        """One update, decay toward anchors included."""
        for part in self._parts:
            part.step()
        for group in self.param_groups:
            # The rules have shrunk w by rate·decay·w before adding their update; adding rate·decay·anchor makes it
            # w - rate·decay·(w - anchor).
            pull = group["lr"] * group["weight_decay"]
            for name, parameter in zip(group["group"].parameters, group["params"], strict=True):
                if pull and name in self._anchors and not group["frozen"]:
                    parameter.add_(self._anchors[name], alpha=pull)

    def zero_grad(self) -> None:
        """Let go of all gradients."""
        for part in self._parts:
            part.zero_grad(set_to_none=True)

    def load_state(self, name: str, key: str, value: Tensor) -> None:
        """Let ``value`` be state ``key`` of parameter ``name``; it is shared by ranks as the parameter is."""
        parameter, part = self._parameters[name], self._part_of[name]
        part.state[parameter][key] = lowbit.as_state(part, parameter, key, value.to(parameter.device))

    def states(self) -> Iterator[tuple[str, Tensor, Mapping[str, Any]]]:
        """(name, parameter, its state) of every parameter."""
        for part in self._parts:
            for group in part.param_groups:
                for name, parameter in zip(group["group"].parameters, group["params"], strict=True):
                    yield name, parameter, part.state[parameter]

    def describe(self) -> dict[str, dict[str, Any]]:
        """What is moved how: for each group its rule, number of tensors and of parameters, and whether it decays."""
        return {
            group.name: {
                "rule": group.rule,
                "tensors": len(group.parameters),
                "parameters": sum(self._parameters[name].numel() for name in group.parameters),
                "decayed": group.decayed,
            }
            for group in self.groups
        }
