"""Describes events as lines of text, which the screen prints."""

from __future__ import annotations

from dataclasses import dataclass
from functools import singledispatch

from excise.app.events import Chosen, PromptsLoaded, SeedsCompared
from excise.cli.human import duration, plural, size, sizes
from excise.cli.parameters import short
from excise.config.template import as_text
from excise.events import Event, Note, StageStarted
from excise.experiment.events import (
    BaselineMeasured,
    BatchReduced,
    BatchSizeFound,
    DirectionsFound,
    Examined,
    ResponsePrefixFound,
)
from excise.hub.events import FileUploaded, Uploaded, UploadStarted
from excise.models.events import DeviceFound, ModelLoaded
from excise.saving.events import Saved, Streamed, Verified
from excise.search.events import SearchEnded, SearchStarted, TrialFinished


@dataclass(frozen=True)
class Line:
    """A line with its label. style: a rich style for the text."""

    label: str
    text: str
    style: str = ""


WARNING = "yellow"


@singledispatch
def describe(event: Event) -> tuple[Line, ...]:
    """The lines for an event; most kinds of progress have no line."""
    return ()


@describe.register
def _(event: StageStarted) -> tuple[Line, ...]:
    return (Line("", f"{event.text} …", "dim"),)


@describe.register
def _(event: Note) -> tuple[Line, ...]:
    return (Line("note", event.text),)


@describe.register
def _(event: DeviceFound) -> tuple[Line, ...]:
    limit = "" if event.limit is None else f" ({size(event.limit)} for weights)"
    return (Line("device", f"{event.device}, {size(event.memory)}{limit}"),)


@describe.register
def _(event: ModelLoaded) -> tuple[Line, ...]:
    failed = tuple(Line("", f"failed before as {attempt}", WARNING) for attempt in event.attempts)
    text = f"{event.name} · {event.dtype} · {size(event.bytes)} · {duration(event.seconds)}"
    if len(event.places) > 1:
        text += f" · {sizes(event.places)}"
    return (Line("model", text), *failed)


@describe.register
def _(event: Examined) -> tuple[Line, ...]:
    matrices = [
        f"{name} {plural(count, 'matrix', 'matrices')}" for name, count in event.matrices.items()
    ]
    worst = min(range(len(event.coverage)), key=event.coverage.__getitem__)
    coverage = f"coverage {event.coverage[worst]:.3f} (worst layer: {worst})"
    return (Line("layers", " · ".join([str(event.layers), *matrices, coverage])),)


@describe.register
def _(event: PromptsLoaded) -> tuple[Line, ...]:
    lines: list[Line] = []
    for kind, counts in event.counts.items():
        parts = " · ".join(f"{count} {part.replace('_', '-')}" for part, count in counts.items())
        lines.append(Line(kind, f"{parts} prompts, from {event.origins[kind]}"))
    return (*lines, *(Line("note", note) for note in event.notes))


@describe.register
def _(event: BatchReduced) -> tuple[Line, ...]:
    return (Line("batch", f"out of memory; going on with {event.slots} at a time", WARNING),)


@describe.register
def _(event: BatchSizeFound) -> tuple[Line, ...]:
    return (Line("batch", f"{plural(event.slots, 'prompt')} at a time"),)


@describe.register
def _(event: ResponsePrefixFound) -> tuple[Line, ...]:
    begin = f"begin with {event.text!r}, which is skipped" if event.text else "begin differently"
    line = Line("prefix", f"answers {begin}")
    if not event.template_arguments:
        return (line,)
    switch = as_text(event.template_arguments)
    return (Line("thoughts", f"switched off in the chat template by {switch}"), line)


@describe.register
def _(event: BaselineMeasured) -> tuple[Line, ...]:
    part = event.part.replace("_", "-")
    text = f"{event.refusals}/{event.prompts} target prompts refused ({part} prompts)"
    return (Line("baseline", text),)


@describe.register
def _(event: DirectionsFound) -> tuple[Line, ...]:
    kinds = ", ".join(event.kinds)
    return (Line("direction", f"{kinds}, one for each layer, {duration(event.seconds)}"),)


@describe.register
def _(event: SearchStarted) -> tuple[Line, ...]:
    resumed = f", {event.done} of them done before" if event.done else ""
    return (Line("search", f"{plural(event.trials, 'trial')}{resumed}"),)


@describe.register
def _(event: TrialFinished) -> tuple[Line, ...]:
    parts = [f"{event.done}/{event.trials}", scores(event)]
    parts += [short(event.parameters), duration(event.seconds)]
    parts.append(f"elapsed {duration(event.elapsed)}")
    if event.remaining is not None:
        parts.append(f"about {duration(event.remaining)} left")
    parts.append(sizes(event.peak_memory))
    return (Line(f"trial {event.number}", " · ".join(parts), WARNING if event.reason else ""),)


def scores(event: TrialFinished) -> str:
    """The scores of a trial, or the reason of its failure."""
    if event.refusals is None or event.kl is None:
        return f"failed: {event.reason}"
    return f"{refusals_text(event)} refused, KL {event.kl:z.4f}"


def refusals_text(event: TrialFinished) -> str:
    """Refusals of a trial; for a dominated trial the number is a lower bound."""
    return f"{'≥' if event.dominated else ''}{event.refusals}/{event.prompts}"


@describe.register
def _(event: SearchEnded) -> tuple[Line, ...]:
    why = {
        "done": "all trials are done",
        "stopped": "stopped; finished trials are kept",
        "time": "the time limit is reached",
        "failing": "too many trials in a row failed; going on with the others",
    }[event.why]
    return (Line("search", why),)


@describe.register
def _(event: Chosen) -> tuple[Line, ...]:
    return (Line("chosen", event.why),)


@describe.register
def _(event: SeedsCompared) -> tuple[Line, ...]:
    return (Line("seeds", f"{plural(len(event.results), 'search', 'searches')}, their spread:"),)


@describe.register
def _(event: Streamed) -> tuple[Line, ...]:
    word = {"write": "written", "verify": "verified"}[event.stage]
    return (Line(word, f"{size(event.done)} of {size(event.total)}"),)


@describe.register
def _(event: Verified) -> tuple[Line, ...]:
    kept = "" if event.kept == 1 else f"; {event.kept:.1%} of the edit remains after packing"
    edited = f"{plural(event.edited, 'tensor')} edited as the operator says{kept}"
    return (Line("verified", f"{edited} · {event.untouched} untouched, bit-identical"),)


@describe.register
def _(event: Saved) -> tuple[Line, ...]:
    return (Line("saved", f"{event.what}: {event.path}"),)


@describe.register
def _(event: UploadStarted) -> tuple[Line, ...]:
    text = f"{plural(event.files, 'file')}, {size(event.bytes)}, to {event.repository}"
    return (Line("upload", text),)


@describe.register
def _(event: FileUploaded) -> tuple[Line, ...]:
    share = event.done / event.total if event.total else 1.0
    return (Line("", f"{event.name} · {size(event.bytes)} · {share:.0%}"),)


@describe.register
def _(event: Uploaded) -> tuple[Line, ...]:
    what = "already there" if event.unchanged else "uploaded"
    who = "private" if event.private else "public"
    return (Line(what, f"{event.url} ({who}), commit {event.commit[:12]}"),)
