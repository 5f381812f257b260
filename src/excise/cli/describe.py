"""Describes events as lines of text, which the screen prints."""

from __future__ import annotations

from dataclasses import dataclass

from excise.app.events import Chosen, FrontJudged, PromptsLoaded, SeedsCompared
from excise.cli.human import duration, plural, size, sizes
from excise.cli.parameters import short
from excise.cli.value_text import value_text
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
from excise.search.front import title_of


@dataclass(frozen=True)
class Line:
    """A line with its label. style: a rich style for the text."""

    label: str
    text: str
    style: str = ""


WARNING = "yellow"
_WHY_ENDED = {
    "done": "all trials are done",
    "stopped": "stopped; finished trials are kept",
    "time": "the time limit is reached",
    "failing": "too many trials in a row failed; continuing with the successful trials",
}


def describe(event: Event) -> tuple[Line, ...]:
    """The lines for an event; most kinds of progress have no line."""
    return (
        _of_preparation(event) or _of_measurements(event) or _of_search(event) or _of_results(event)
    )


def _of_preparation(event: Event) -> tuple[Line, ...]:
    match event:
        case StageStarted(text=text):
            return (Line("", f"{text} …", "dim"),)
        case Note(text=text):
            return (Line("note", text),)
        case DeviceFound():
            limit = "" if event.limit is None else f" ({size(event.limit)} for weights)"
            return (Line("device", f"{event.device}, {size(event.memory)}{limit}"),)
        case ModelLoaded():
            text = f"{event.name} · {event.dtype} · {size(event.bytes)} · {duration(event.seconds)}"
            if len(event.places) > 1:
                text += f" · {sizes(event.places)}"
            failed = (Line("", f"failed before as {each}", WARNING) for each in event.attempts)
            return (Line("model", text), *failed)
        case PromptsLoaded():
            lines = []
            for kind, counts in event.counts.items():
                parts = (f"{count} {part.replace('_', '-')}" for part, count in counts.items())
                lines.append(Line(kind, f"{' · '.join(parts)} prompts, from {event.origins[kind]}"))
            return (*lines, *(Line("note", note) for note in event.notes))
    return ()


def _of_measurements(event: Event) -> tuple[Line, ...]:
    match event:
        case Examined():
            matrices = (
                f"{name} {plural(count, 'matrix', 'matrices')}"
                for name, count in event.matrices.items()
            )
            worst = min(range(len(event.coverage)), key=event.coverage.__getitem__)
            coverage = f"coverage {event.coverage[worst]:.3f} (worst layer: {worst})"
            return (Line("layers", " · ".join([str(event.layers), *matrices, coverage])),)
        case BatchReduced():
            text = f"out of memory; continuing with {event.slots} prompts at a time"
            return (Line("batch", text, WARNING),)
        case BatchSizeFound():
            return (Line("batch", f"{plural(event.slots, 'prompt')} at a time"),)
        case ResponsePrefixFound():
            skipped = f"begin with {event.text!r}, which is skipped"
            line = Line("prefix", f"answers {skipped if event.text else 'begin differently'}")
            if not event.template_arguments:
                return (line,)
            switch = as_text(event.template_arguments)
            return (Line("thoughts", f"switched off in the chat template by {switch}"), line)
        case BaselineMeasured():
            part = event.part.replace("_", "-")
            text = f"{event.refusals}/{event.prompts} target prompts refused ({part} prompts)"
            return (Line("baseline", text),)
        case DirectionsFound():
            kinds = ", ".join(event.kinds)
            return (Line("direction", f"{kinds}, one for each layer, {duration(event.seconds)}"),)
    return ()


def _of_search(event: Event) -> tuple[Line, ...]:
    match event:
        case SearchStarted():
            resumed = f", {event.done} of them done before" if event.done else ""
            return (Line("search", f"{plural(event.trials, 'trial')}{resumed}"),)
        case TrialFinished():
            parts = [f"{event.done}/{event.trials}", scores(event)]
            parts += [short(event.parameters), duration(event.seconds)]
            parts.append(f"elapsed {duration(event.elapsed)}")
            if event.remaining is not None:
                parts.append(f"about {duration(event.remaining)} left")
            parts.append(sizes(event.peak_memory))
            style = WARNING if event.reason else ""
            return (Line(f"trial {event.number}", " · ".join(parts), style),)
        case SearchEnded():
            return (Line("search", _WHY_ENDED[event.why]),)
        case FrontJudged():
            return (Line("judge", event.judged.told()),)
        case Chosen():
            return (Line("chosen", event.why),)
        case SeedsCompared():
            searches = plural(len(event.results), "search", "searches")
            return (Line("seeds", f"{searches}, their spread:"),)
    return ()


def _of_results(event: Event) -> tuple[Line, ...]:
    match event:
        case Streamed():
            label = {"write": "written", "verify": "verified"}[event.stage]
            return (Line(label, f"{size(event.done)} of {size(event.total)}"),)
        case Verified():
            edited = f"{plural(event.edited, 'tensor')} edited as the operator says"
            if event.kept != 1:
                edited += f"; {event.kept:.1%} of the edit remains after packing"
            return (Line("verified", f"{edited} · {event.untouched} untouched, bit-identical"),)
        case Saved():
            return (Line("saved", f"{event.what}: {event.path}"),)
        case UploadStarted():
            text = f"{plural(event.files, 'file')}, {size(event.bytes)}, to {event.repository}"
            return (Line("upload", text),)
        case FileUploaded():
            share = event.done / event.total if event.total else 1.0
            return (Line("", f"{event.name} · {size(event.bytes)} · {share:.0%}"),)
        case Uploaded():
            label = "already there" if event.unchanged else "uploaded"
            access = "private" if event.private else "public"
            return (Line(label, f"{event.url} ({access}), commit {event.commit[:12]}"),)
    return ()


def scores(event: TrialFinished) -> str:
    """The scores of a trial, or the reason of its failure."""
    if event.failed:
        return f"failed: {event.reason}"
    texts = []
    for name, value in value_texts(event).items():
        texts.append(f"{value} refused" if name == "refusals" else f"{title_of(name)} {value}")
    return ", ".join(texts)


def value_texts(event: TrialFinished) -> dict[str, str]:
    """The values of a scored trial; refusals of a dominated trial are a lower bound."""
    texts: dict[str, str] = {}
    for name, value in event.values.items():
        assert value is not None
        texts[name] = value_text(name, value, event.prompts)
        if event.dominated and name == "refusals":
            texts[name] = f"≥{texts[name]}"
    return texts
