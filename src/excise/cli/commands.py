"""The commands: arguments, flags and help texts.

A command imports its modules when it is called, so that `--help` does not wait for PyTorch.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Annotated, Literal

from excise.cli.command import (
    DIRECTION,
    GROUPS,
    JUDGE,
    MODEL,
    PARTS,
    PLACES,
    PROMPTS,
    RESULT,
    RESUMES,
    SCORES,
    Word,
    command,
    flag,
)
from excise.config import Inputs, Settings

_ALL = {field for group in GROUPS.values() for field in group} - {"config_only"}
_LOADING = set(MODEL) - {"writers", "config_only", "allow_partial", "allow_absent"}
_TOKEN = (
    "The token comes from HF_OIDC_RESOURCE, HF_TOKEN, HUGGING_FACE_HUB_TOKEN or `hf auth login`, in this "
    "order; without them the command asks for it on a terminal. With --yes or --json it asks nothing, and "
    "fails without a token."
)


@command("", "MODEL", _ALL, PLACES, RESUMES)
def run(model: Word | None = None, /, **typed: object) -> int:
    """Find the direction of a behaviour in MODEL, remove it with little damage, and save the model."""
    from excise.cli.run_command import run

    return run(_settings(model, typed))


@command("demo", "", _ALL, PLACES, RESUMES)
def demo(**typed: object) -> int:
    """Run the whole job on a small built-in model, in four to five minutes."""
    from excise.cli.demo_command import demo

    return demo(_inputs(typed))


@command("inspect", "MODEL", {*_LOADING, "writers", "config_only", "json_lines"}, PLACES)
def inspect(model: Word | None = None, /, **typed: object) -> int:
    """Show the layers, matrices and coverage of MODEL, without a search."""
    from excise.cli.inspect_command import inspect

    return inspect(_settings(model, typed))


_PROFILED = {*_LOADING, *PROMPTS, *DIRECTION, *SCORES, "writers", "trials", "seed", "json_lines"}


@command("bench", "MODEL|demo", _PROFILED, PLACES)
def bench(model: Word | None = None, /, **typed: object) -> int:
    """Measure a run on this machine: seconds, tokens a second and memory of each stage."""
    from excise.cli.bench_command import bench

    return bench(model, _inputs(typed))


_EVALUATED = {*_LOADING, *PROMPTS, *SCORES, "seed", "json_lines"}


@command("evaluate", "RUN[:TRIAL]|EDIT|MODEL --against ORIGINAL", _EVALUATED, PLACES)
def evaluate(
    word: Word | None = None,
    /,
    *,
    against: Annotated[
        str | None,
        flag("The original model, to compare with. Runs and edits name theirs.", "ORIGINAL"),
    ] = None,
    benchmarks: Annotated[
        str | None,
        flag(
            "Measure on benchmarks of lm-evaluation-harness instead of prompts: piqa,arc_easy,gsm8k,…. Needs "
            "the extra `eval`.",
            "NAME,…",
        ),
    ] = None,
    benchmark_limit: Annotated[
        int | None, flag("Ask only the first documents of each benchmark.", "N")
    ] = None,
    benchmark_tasks: Annotated[
        str | None,
        flag("Folder with task files of your own, whose Python functions will run.", "DIR"),
    ] = None,
    benchmark_plain_text: Annotated[
        bool, flag("Ask benchmarks as plain text, without the chat template.")
    ] = False,
    force: Annotated[bool, flag("Measure an edit file on another model than its own.")] = False,
    **typed: object,
) -> int:
    """Measure an edit or a model before and after: refusals and KL, or benchmarks."""
    from excise.benchmarks.options import BenchmarkOptions
    from excise.cli.evaluate_command import Measurement, evaluate

    options = BenchmarkOptions(
        limit=benchmark_limit, tasks=benchmark_tasks, plain_text=benchmark_plain_text
    )
    return evaluate(word, _inputs(typed), Measurement(against, benchmarks, options, force))


_COMPARED = {*_LOADING, "max_new_tokens", "batch_size", *JUDGE, "json_lines"}


@command("compare", "RUN[:TRIAL] RUN[:TRIAL]", _COMPARED, PLACES)
def compare(first: Word, second: Word, /, **typed: object) -> int:
    """Test on held-out prompts whether two edits differ by more than chance."""
    from excise.cli.compare_command import compare

    return compare((first, second), _inputs(typed))


@command("diff", "A B", {"revision", "trust_remote_code", "writers", "json_lines"}, PLACES)
def diff(
    first: Word,
    second: Word,
    /,
    *,
    undo: Annotated[str | None, flag("Write an adapter that turns B into A.", "DIR")] = None,
    edit: Annotated[str | None, flag("Save the difference as an edit file of A.", "FILE")] = None,
    **typed: object,
) -> int:
    """Compare two checkpoints: tensors that differ, rank of each change, and the edit that explains it."""
    from excise.cli.diff_command import diff

    return diff((first, second), _inputs(typed), undo=undo, edit=edit)


_JUDGED = {"dtypes", "device", "batch_size", "markers", *JUDGE, "json_lines"}


@command("judge", "ANSWERS.jsonl|-", _JUDGED, PLACES)
def judge(
    answers: Word,
    /,
    *,
    cache: Annotated[
        str | None,
        flag("Folder that keeps the verdicts of chat models. Default: the user's cache.", "DIR"),
    ] = None,
    **typed: object,
) -> int:
    """Judge answers: refusal, partial or compliance; with labels also the agreement with people."""
    from excise.cli.judge_command import judge

    return judge(answers, _inputs(typed), cache=cache)


_DECODING = (
    "How to choose tokens: greedy, as for scores, or by the model's own generation configuration (sampling, "
    "penalties, beams), as servers do."
)


@command("chat", "RUN[:TRIAL]|MODEL", {*_LOADING, "max_new_tokens", "select"}, PLACES)
def chat(
    word: Word,
    /,
    *,
    generation_config: Annotated[
        Literal["greedy", "model"], flag(_DECODING, "greedy|model")
    ] = "greedy",
    **typed: object,
) -> int:
    """Chat with a model, or with an edit of a run."""
    from excise.cli.chat_command import chat

    return chat(word, _inputs(typed), generation=generation_config)


@command("show", "EDIT|RUN[:TRIAL]", {"json_lines"})
def show(
    word: Word,
    /,
    *,
    plot: Annotated[
        str | None,
        flag("Plot strengths and directions over layers to a .png or .svg file.", "FILE"),
    ] = None,
    **typed: object,
) -> int:
    """Print an edit: base model, measured figures, and the strength in each layer."""
    from excise.cli.show_command import show

    return show(word, _inputs(typed), plot=plot)


_DESTINATIONS = "RUN[:TRIAL]|EDIT [MODEL] --save DIR|--adapter DIR"


@command("export", _DESTINATIONS, {*_LOADING, *RESULT, "writers", "json_lines"}, PLACES)
def export(
    word: Word,
    model: Word | None = None,
    /,
    *,
    force: Annotated[
        bool, flag("Write the adapter of an edit file for another model than its own.")
    ] = False,
    **typed: object,
) -> int:
    """Write a run's edit as a model or an adapter, or an edit file as an adapter."""
    from excise.cli.export_command import export

    return export(word, model, _inputs(typed), force=force)


_APPLIED = {"revision", "trust_remote_code", "writers", "packed", "yes", "json_lines"}


@command("apply", "EDIT|RUN[:TRIAL] MODEL OUT", _APPLIED, PLACES)
def apply(
    edit: Word,
    model: Word,
    out: Word,
    /,
    *,
    force: Annotated[bool, flag("Apply the edit to another checkpoint than its own.")] = False,
    **typed: object,
) -> int:
    """Write the edited copy of a checkpoint, shard by shard, without loading it."""
    from excise.cli.apply_command import apply

    return apply((edit, model, out), _inputs(typed), force=force)


_UPLOADED = {*_LOADING, "writers", "select", "no_hardware", "yes", "json_lines"}


@command("upload", "RUN[:TRIAL]|DIR --to OWNER/NAME", _UPLOADED, PLACES, _TOKEN)
def upload(
    word: Word,
    /,
    *,
    to: Annotated[str, flag("The repository; created if it does not exist.", "OWNER/NAME")],
    form: Annotated[
        Literal["model", "adapter"] | None,
        flag(
            "The form in which a run's edit is uploaded. Default: model.", "model|adapter", "--as"
        ),
    ] = None,
    public: Annotated[bool, flag("Create a public repository instead of a private one.")] = False,
    force: Annotated[bool, flag("Replace the files that the repository already holds.")] = False,
    **typed: object,
) -> int:
    """Upload a saved model or adapter, or a run's edit, to the hub."""
    from excise.cli.upload_command import upload

    return upload(word, _inputs(typed), to=to, form=form, public=public, force=force)


_OF_A_RECORD = _LOADING - {"revision", "dtypes", "quantization", "system_prompt"}
_REPRODUCED = {*_OF_A_RECORD, *PARTS, "target", "control", "no_hardware", "json_lines"}


@command("reproduce", "FILE DIR", _REPRODUCED)
def reproduce(
    file: Word,
    folder: Word,
    /,
    *,
    original: Annotated[
        str | None,
        flag("Where the original model is now, if it has moved.", "MODEL", "--from"),
    ] = None,
    repeat_search: Annotated[
        bool, flag("Repeat the search too, instead of using the recorded parameters.")
    ] = False,
    **typed: object,
) -> int:
    """Rebuild a saved model from its reproduce.json (FILE) in DIR, and compare the two."""
    from excise.cli.reproduce_command import reproduce

    return reproduce(file, folder, _inputs(typed), original=original, repeat_search=repeat_search)


@command("runs", "[ROOT]", {"json_lines"})
def runs(root: Word | None = None, /, **typed: object) -> int:
    """List the runs on disk."""
    from excise.cli.runs_command import runs

    return runs(root, _inputs(typed))


def _inputs(typed: Mapping[str, object]) -> Inputs:
    return Inputs(typed, os.environ)


def _settings(model: str | None, typed: Mapping[str, object]) -> Settings:
    """The settings in force. The environment or excise.toml may name the model too."""
    return _inputs(typed).with_flags(model=model).settings()
