"""The page of `bench/trial.py`: what a round measured, and the tables made of all of them."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bench.machine import described
from excise.app.run import Run
from excise.edits.edit import Edit

STAGES = ("kl", "refusals")
BOUNDED = "excise, in turn"


@dataclass(frozen=True)
class Round:
    """One edit, scored by all.

    seconds: of each way, and of excise's stages. verdicts: of each way, one a prompt. same_answers: where
    heretic's answer begins with what excise said until its verdict. misjudged: of heretic's answers, on
    which excise's function disagrees with its verdict. floors, whole: operations of each stage, the shared
    beginning run once, or by every prompt. peak: bytes resident at most while excise scored. dominated: in
    turn, an edit before was at least as good, and the refusals counted are those certain when it was left.
    edit: as excise has it, None if it cannot.
    """

    edit: Edit | None
    seconds: Mapping[str, float]
    verdicts: Mapping[str, Sequence[bool]]
    kl: Mapping[str, float]
    same_answers: Sequence[bool]
    misjudged: int
    floors: Mapping[str, int]
    whole: Mapping[str, int]
    peak: int
    dominated: bool


def page(
    run: Run,
    done: Sequence[Round],
    rate: float,
    memory: Mapping[str, int],
    memory_of_heretic: int,
    start_seconds: float,
    *,
    rows: str,
) -> str:
    part = run.experiment.search_part
    before = run.store.origin.load_seconds + sum(run.experiment.seconds.values())

    def seconds(way: str) -> float:
        return statistics.median(one.seconds[way] for one in done)

    def spread(way: str) -> str:
        values = [one.seconds[way] for one in done]
        return f"{min(values):.2f} to {max(values):.2f}"

    ours = seconds("excise")
    lines = [
        f"{described()}. {run.settings.model}, {run.loaded.dtype}, {len(part.target)} "
        f"target and {len(part.control)} control prompts, {run.settings.max_new_tokens} new "
        f"tokens, heretic 1.4.0 with row_normalization = {rows!r}, {len(done)} of its edits scored by "
        f"all in turn; {run.experiment.runner.slots} slots.",
        "",
        "| | seconds a trial, median | range | times excise | refusals | KL (nats) |",
        "|---|---|---|---|---|---|",
    ]
    bounded = (BOUNDED,) if BOUNDED in done[0].seconds else ()
    for way in ("heretic", "simple", "excise", *bounded):
        refusals = ", ".join(
            "≥ " * (way == BOUNDED and one.dominated) + str(sum(one.verdicts[way])) for one in done
        )
        kl = ", ".join(f"{one.kl[way]:.4f}" for one in done)
        lines.append(
            f"| {way} | {seconds(way):.2f} | {spread(way)} | {seconds(way) / ours:.2f} "
            f"| {refusals} | {kl} |"
        )
    lines += [
        "",
        f"| excise's stage | seconds, median | floor (s), {rate / 1e9:,.0f} GFLOP/s | times the floor "
        "| floor if every prompt ran its beginning (s) |",
        "|---|---|---|---|---|",
    ]
    for stage in STAGES:
        floor = statistics.median(one.floors[stage] for one in done) / rate
        ratio = statistics.median(one.seconds[stage] * rate / one.floors[stage] for one in done)
        whole = statistics.median(one.whole[stage] for one in done) / rate
        lines.append(
            f"| {stage} | {seconds(stage):.2f} | {floor:.2f} | {ratio:.2f} | {whole:.2f} |"
        )
    differing = {
        "heretic": [0, 0],
        "simple": [0, 0],
    }
    for one in done:
        for way, counts in differing.items():
            for mine, other, same in zip(
                one.verdicts["excise"], one.verdicts[way], one.same_answers, strict=True
            ):
                counts[0] += mine != other
                counts[1] += mine != other and same
    asked = sum(len(one.same_answers) for one in done)
    same = sum(sum(one.same_answers) for one in done)
    lines += [
        "",
        f"Of {asked} answers {same} are equal to heretic's, word for word, up to the token where excise "
        f"ended them. Verdicts that differ from heretic's: {differing['heretic'][0]}, on identical answers "
        f"{differing['heretic'][1]}; from the simple implementation's: {differing['simple'][0]}. heretic's "
        f"own answers judged by excise's function: {sum(one.misjudged for one in done)} differ.",
        "",
        "Resident memory: "
        + ", ".join(
            f"{name} {size / 2**20:,.0f} MiB ({size / memory['loaded model']:.2f})"
            for name, size in memory.items()
        )
        + f"; heretic's process at most {memory_of_heretic / 2**20:,.0f} MiB. Before its first trial "
        f"heretic took {start_seconds:.0f} s, excise {before:.0f} s, one after "
        "the other.",
    ]
    return "\n".join(lines) + "\n"
