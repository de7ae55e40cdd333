"""A training run as it goes: a live panel on a terminal, plain lines in a log, from the step loop's own events."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table

from orchestration.console.foreign import styled
from orchestration.console.progress import LINE_INTERVAL_S, console

Event = dict[str, Any]

# Events that are worth a line of their own, whatever they carry.
NOTED = ("resume", "skipped_checkpoint", "worker_lost", "resize", "repair", "waiting", "waited", "cache_off", "warning")


class TrainingView:
    """What is known of a run after some events; knows no console. ``now`` is the caller's clock in seconds."""

    def __init__(self, steps: int) -> None:
        self.steps = steps
        self.last: Event = {}
        self.evals: dict[str, Event] = {}
        self._started: tuple[float, int] | None = None  # when the first step of this attempt was seen, and which

    def take(self, event: Event, now: float) -> list[str]:
        """Take one event in; returns the lines that are worth a log's space whatever the display."""
        kind = event["event"]
        if kind == "start":
            self._started = None
            return start_lines(event)
        if kind == "step":
            self.last = event
            self._started = self._started or (now, event["step"])
        elif kind == "eval":
            self.evals[event["dataset"]] = event
            return [f"eval at step {event['step']:,}: {eval_text(event)}"]
        elif kind in NOTED:
            details = " ".join(f"{key}={value}" for key, value in event.items() if key != "event")
            return [f"{kind.replace('_', ' ')}: {details}"]
        return []

    def eta_s(self, now: float) -> float | None:
        """Seconds to go at the pace of this attempt so far, evaluations and checkpoints included; None: not known."""
        if self._started is None:
            return None
        since, first = self._started
        done = self.last["step"] - first
        return (now - since) / done * (self.steps - self.last["step"]) if done > 0 else None

    def figures(self, now: float) -> dict[str, str]:
        """The last step's figures as they are shown; those that are not known are not there."""
        last = self.last
        if not last:
            return {}
        found = {"loss": f"{last['loss']:.4f}"}
        if "cell_updates_per_s" in last:
            found["cell updates/s"] = f"{last['cell_updates_per_s']:,.0f}"
        else:
            found["tokens/s"] = f"{last['tokens_per_s']:,.0f}"
        if "mfu" in last:
            found["MFU"] = f"{last['mfu']:.1%}"
        if "data_wait" in last:
            found["data wait"] = f"{last['data_wait']:.1%}"
        found["gradient norm"] = f"{last['grad_norm']:.3g}"
        found["lr"] = f"{last['lr']:.3g}"
        if (eta := self.eta_s(now)) is not None:
            found["ETA"] = str(timedelta(seconds=round(eta)))
        return found

    def line(self, now: float) -> str:
        """One line for a log."""
        step = self.last.get("step", 0)
        figures = "  ".join(f"{name} {value}" for name, value in self.figures(now).items())
        return f"step {step:,}/{self.steps:,} ({100 * step / self.steps:.0f} %)  {figures}"

    def panel(self, title: str, now: float) -> RenderableType:
        """The live display: progress, a table of figures, the last evaluation of each dataset."""
        step = self.last.get("step", 0)
        head = Table.grid(padding=(0, 2))
        head.add_row(title, ProgressBar(total=self.steps, completed=step, width=40), f"{step:,}/{self.steps:,}")
        figures = self.figures(now)
        table = Table(*figures, box=None, padding=(0, 2, 0, 0), header_style="dim")
        if figures:
            table.add_row(*figures.values())
        evals = [styled(f"eval at step {each['step']:,}: {eval_text(each)}") for each in self.evals.values()]
        return Group(head, table, *evals)


def eval_text(event: Event) -> str:
    """Dataset, loss, perplexity, and bits per byte of text or the gate of synthetic data."""
    if "loss" not in event:  # a task's metrics
        metrics = (f"{name.removesuffix(',none')} {value:.4f}" for name, value in event.items() if "," in name)
        return "  ".join([event["dataset"], *metrics])
    text = f"{event['dataset']}  loss {event['loss']:.4f}"
    for name in ("accuracy", "overlap"):  # of a lattice; a language model's perplexity says more than its accuracy
        if name in event and "perplexity" not in event:
            return f"{text}  {name} {event[name]:.4f}"
    text += f"  perplexity {event['perplexity']:,.2f}"
    if "bits_per_byte" in event:
        text += f"  bits/byte {event['bits_per_byte']:.4f}"
    if answers := event.get("answers"):
        text += f"  answers: accuracy {answers['accuracy']:.4f}"
        text += f", whole {answers['whole']:.4f}" if "whole" in answers else ""
    if gate := event.get("gate"):
        text += f"  gate {'passed' if gate['passed'] else 'not passed'} (unigram entropy {gate['entropy']:.3f})"
    return text


def start_lines(event: Event) -> list[str]:
    """The size of the run, and which tensors each rule updates."""
    groups = (f"{name} {group['tensors']} by {group['rule']}" for name, group in event["groups"].items())
    size = f"{event['cells']:,} cells" if "cells" in event else f"{event['batch_tokens']:,} tokens a step"
    return [
        f"{event['parameters']:,} parameters, {event['world']} workers, {event['precision']}, {size}, "
        f"from step {event['step']:,}",
        f"tensors by group: {', '.join(groups)}",
    ]


@contextmanager
def training_display(
    title: str, steps: int, *, console: Console = console, clock: Callable[[], float] = time.monotonic
) -> Iterator[Callable[[Event], None]]:
    """Show one run of ``steps`` steps; yields an ``on_event`` for the step loop."""
    view = TrainingView(steps)
    started = clock()
    if console.is_terminal:
        with Live(view.panel(title, started), console=console, refresh_per_second=4) as live:

            def show(event: Event) -> None:
                for said in view.take(event, clock()):
                    if event["event"] != "eval":  # the panel has it
                        console.print(f"  {said}")
                live.update(view.panel(title, clock()))

            yield show
    else:
        console.print(f"{title} …")
        last = started

        def write(event: Event) -> None:
            nonlocal last
            now = clock()
            for said in view.take(event, now):
                console.print(f"  {said}")
            if event["event"] == "step" and (now - last >= LINE_INTERVAL_S or event["step"] == steps):
                last = now
                console.print(f"  {view.line(now)}")

        yield write
    console.print(styled(("✓", "green"), f" {title} ({clock() - started:.1f}s)"))
