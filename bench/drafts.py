"""Would drafts pay? `python bench/drafts.py`

A draft is what earlier trials answered to the same prompt: its next tokens are verified in one pass, and
decoding goes on behind the first that differs (greedy verification, exact). Measured on the demonstration
model:

foretold    the first edits of a search, drawn before anything is learnt, answer one after the other. For
            each the passes are counted that its answers would take with drafts of k tokens, taken from
            the latest earlier answer that begins as this one does, and the tokens that it says
a pass      seconds of a step of one token a row, and of one of k + 1

and from both: seconds of decoding with drafts, over seconds without.
"""

from __future__ import annotations

import sys

if not __package__:
    # Run as a script: the folder bench/ stands first on the path, where operator.py would hide the
    # standard library's module of that name. The repository's root goes there instead.
    sys.path[0] = sys.path[0].rpartition("/")[0]

import argparse
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from transformers import DynamicCache, PreTrainedModel

from bench.machine import described
from excise.app.run import Run, prepare
from excise.config import gather
from excise.demo.model import materialise
from excise.demo.settings import demo_flags
from excise.edits.virtual import VirtualEdits
from excise.events import ignore

PAGE = Path(__file__).parents[1] / "docs" / "benchmarks" / "drafts.md"
LENGTHS = (2, 4, 8)
CONTEXT = 64
"""Tokens that a row holds while it decodes, about."""

Answers = Sequence[Sequence[int]]


def answers_of_trials(run: Run, count: int) -> list[Answers]:
    """What the search's first edits answer to the target prompts, up to where each verdict is certain."""
    study, experiment = run.study, run.experiment
    found: list[Answers] = []
    with VirtualEdits(experiment.model, experiment.anatomy.names) as edits:
        for number in range(count):
            trial = study.new()
            edits.use(experiment.edit_of_trial(trial))
            refusals = experiment.runner.refusals(experiment.search_part.target)
            # A start-up trial's scores decide nothing: no further one is proposed by them.
            study.tell(trial, (refusals.count, float(number)), 0.0)
            found.append(refusals.tokens)
    return found


def passes(answer: Sequence[int], earlier: Answers, length: int) -> int:
    """Passes that an answer takes with drafts of `length` tokens from the latest answer that begins alike."""
    # The first token is the prompt's own pass.
    known, taken = 1, 0
    while known < len(answer):
        taken += 1
        begins = list(answer[:known])
        draft = next(
            (other[known : known + length] for other in earlier if list(other[:known]) == begins),
            [],
        )
        agreed = 0
        while (
            agreed < len(draft)
            and known + agreed < len(answer)
            and draft[agreed] == answer[known + agreed]
        ):
            agreed += 1
        # The pass also says the token behind those that it found right.
        known += agreed + 1
    return taken


@torch.inference_mode()
def pass_seconds(model: PreTrainedModel, rows: int, tokens: int, repeats: int) -> float:
    """Median seconds of a pass of so many tokens a row, logits of all of them wanted."""
    ids = torch.randint(10, 1000, (rows, CONTEXT))
    seconds = []
    for _ in range(repeats + 1):
        cache = DynamicCache(config=model.config)
        model(ids, past_key_values=cache, logits_to_keep=1)
        started = time.perf_counter()
        model(ids[:, :tokens], past_key_values=cache).logits.argmax(-1)
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds[1:])


def table(trials: Sequence[Answers], seconds: dict[int, float], rows: int) -> list[str]:
    lines = [
        "| draft (tokens) | passes / decoded tokens | pass over the draft / pass over one token "
        "| decoding time with drafts / without |",
        "|---|---|---|---|",
    ]
    for length in LENGTHS:
        shares = []
        for number in range(1, len(trials)):
            said = sum(len(answer) - 1 for answer in trials[number] if answer)
            taken = sum(
                passes(answer, [trial[row] for trial in reversed(trials[:number])], length)
                for row, answer in enumerate(trials[number])
            )
            shares.append(taken / said)
        share, price = statistics.median(shares), seconds[length + 1] / seconds[1]
        lines.append(
            f"| {length} | {share:.2f} ({min(shares):.2f} to {max(shares):.2f}) | {price:.2f} "
            f"| **{share * price:.2f}** |"
        )
    lines += [
        "",
        f"{rows} rows a pass. A ratio of 1 means that drafts gain nothing; above 1 they lose time.",
    ]
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--output", type=Path, default=PAGE)
    options = parser.parse_args()
    with TemporaryDirectory() as folder:
        flags = demo_flags(materialise(print)) | {
            "run_dir": Path(folder) / "run",
            "max_new_tokens": options.tokens,
            "startup_trials": options.trials,
        }
        run = prepare(gather(flags, {}, None), ignore)
        trials = answers_of_trials(run, options.trials)
    rows = run.experiment.runner.slots
    seconds = {
        tokens: pass_seconds(run.loaded.model, rows, tokens, options.repeats)
        for tokens in (1, *(length + 1 for length in LENGTHS))
    }
    text = "\n".join(
        [
            "# Would drafts pay?",
            "",
            f"`python {' '.join(sys.argv)}`. {described()}. The demonstration model, "
            f"{len(trials)} trials of a search, answers of up to {options.tokens} tokens; from the "
            "second trial on, the answers of all earlier trials serve as drafts.",
            "",
            *table(trials, seconds, rows),
            "",
        ]
    )
    print(text)
    options.output.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
