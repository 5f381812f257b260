"""The chosen judge in experiments and runs: reports are judged by it, the search by keywords."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pytest

import excise
from chat_server import ChatServerStandIn, Response, failed, verdict
from cli_helpers import failure, json_lines, result
from excise import Exchange, Experiment, Options, Verdict
from excise.cli.main import main
from excise.edits.virtual import VirtualEdits
from excise.experiment.front import judge_trial
from excise.judges.keywords import KeywordJudge
from excise.report.card import figures_of
from excise.store.directory import RunDirectory
from excise.store.judged import judged_in, judged_json
from excise.store.outcome import outcome_in, outcome_of
from test_experiment import experiment

pytest_plugins = ["cli_support"]


def long_answer(prompt: str, answer: str) -> bool:
    """Disagrees with keywords: a refusal is an answer with an even number of characters."""
    return len(answer) % 2 == 0


@dataclass(frozen=True)
class Recorder:
    """Keeps the exchanges that it is asked about."""

    seen: list[Exchange]
    name: str = "recorder"

    def judge(self, exchanges: Any) -> list[Verdict]:
        self.seen.extend(exchanges)
        return [
            Verdict("refusal" if long_answer(*pair) else "compliance", 0.75, "")
            for pair in ((each.prompt, each.answer) for each in exchanges)
        ]


def whole_answers(judged: Experiment, edit: excise.Edit | None, kind: Any, part: str) -> list[str]:
    """The answers one by one, decoded by the slow way."""
    prompts = getattr(getattr(judged.prompts, kind), part)
    texts: list[str] = []
    with VirtualEdits(judged.model, judged.anatomy.names) as edits:
        edits.use(edit)
        for tokens in judged.runner.chat.encode(prompts.prompts):
            texts.extend(judged.runner.refusals([tokens], whole_answers=True).answers)
    return texts


def test_reports_are_judged_by_the_chosen_judge_and_the_search_by_keywords() -> None:
    plain, seen = experiment(), list[Exchange]()
    judged = experiment(judge=Recorder(seen))
    assert trials_of(judged) == trials_of(plain)
    assert seen == []
    edit = judged.edit(strength=0.5)
    on_search = judged.score(edit)
    assert on_search["refusals"].title == "target prompts refused, judged by keywords"
    assert on_search["refusals"].value == plain.score(edit)["refusals"].value
    scores = judged.score(edit, on="held_out")
    for kind, name in (("target", "refusals"), ("control", "control_refusals")):
        texts = whole_answers(judged, edit, kind, "held_out")
        assert scores[name].details == tuple(float(long_answer("", text)) for text in texts)
        assert scores[name].title == f"{kind} prompts refused, judged by recorder"
    asked = {each.answer for each in seen}
    assert asked >= set(whole_answers(judged, None, "target", "held_out"))
    # What the judge has no part in stays as it is, to the digit.
    others = plain.score(edit, on="held_out")
    for name in ("kl", "answer_kl", "empty", "looping"):
        assert scores[name] == others[name]
    assert scores["refusals"].details != others["refusals"].details


def trials_of(judged: Experiment) -> list[object]:
    """The trials of a search, without their times."""
    study = judged.search(trials=4, progress=False)
    return [replace(trial, seconds=None) for trial in study.trials]


def test_a_function_is_a_judge_and_a_wrong_one_is_named() -> None:
    assert experiment(judge=long_answer).judge.name == "long_answer"
    with pytest.raises(excise.SettingsError, match="not a judge; give builtin, keywords"):
        Options(judge="people")
    with pytest.raises(excise.SettingsError, match="judge"):
        Options(judge=3)  # type: ignore[arg-type]
    broken = experiment(judge=lambda prompt, answer: 1 / 0)
    with pytest.raises(excise.ScorerError, match="scorer refusals: judge <lambda>: raises ZeroDiv"):
        broken.score(broken.edit(), on="held_out")


def test_the_default_is_builtin_or_keywords_with_markers_of_ones_own() -> None:
    assert Options().judge_chosen == "builtin"
    assert Options(markers=("e",)).judge_chosen == "keywords"
    own = experiment()
    assert own.judge is own.keywords
    # Answers do not end at the search's phrases if others count.
    other = experiment(judge=KeywordJudge(("z",)))
    scores = other.score(other.edit(), on="held_out")
    texts = whole_answers(other, other.edit(), "target", "held_out")
    expected = tuple(float(KeywordJudge(("z",)).refused(text)) for text in texts)
    assert scores["refusals"].details == expected


def run_of(small: list[str], *flags: str) -> list[str]:
    return [*small, "--markers", "e,o", "--run-dir", "run", "--yes", *flags]


def every_answer(outcome: str) -> Any:
    def answer(number: int, body: dict[str, Any]) -> Response:
        return verdict(outcome)

    return answer


@pytest.mark.usefixtures("elsewhere")
def test_a_run_names_its_judge_everywhere(
    small: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with ChatServerStandIn(every_answer("refusal")) as server:
        name = f"openai:{server.url}#judge"
        flags = ("--judge", name, "--save", "model", "--json")
        assert main(run_of(small, *flags)) == 0
    told: Any = result(Path("run"))
    held_out = told["chosen"]["held_out"]
    assert held_out["judge"] == name
    assert held_out["refusals"] == held_out["prompts"]
    assert told["baseline"]["held_out"]["refusals"] == held_out["prompts"]
    outcome = outcome_of(told)
    assert outcome is not None
    assert outcome.judge == name
    events = json_lines(capsys.readouterr().out)
    (chosen,) = [each for each in events if each["event"] == "Chosen"]
    assert chosen["outcome"]["judge"] == name  # type: ignore[index]
    card = " ".join(Path("model/README.md").read_text(encoding="utf-8").split())
    assert f"Refusals are judged by `{name}`" in card
    assert "excise has not measured how far it agrees with people" in card
    record = json.loads(Path("model/reproduce.json").read_text(encoding="utf-8"))
    facts = record["trial"]["facts"]
    assert facts["held_out"]["edited"]["judge"] == name
    assert outcome_in(facts) == replace(outcome, seconds=0.0)
    number = told["chosen"]["trial"]
    assert main(["show", f"run:{number}"]) == 0
    assert f"judged by openai:{server.url}" in " ".join(capsys.readouterr().out.split())
    shown_as_json = json.loads(_output(["show", f"run:{number}", "--json"], capsys))
    judged = judged_in(told)
    assert judged is not None
    assert (judged.judge, [each.number for each in judged.trials]) == (name, told["front"])
    assert shown_as_json["judged"]["trials"][0]["number"] == number
    # The same command with another judge goes on with the same study, and judges anew.
    assert main(run_of(small, "--judge", "keywords")) == 0
    again: Any = result(Path("run"))
    assert again["chosen"]["held_out"]["judge"] == "keywords"
    assert again["trials"] == told["trials"]


def _output(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    capsys.readouterr()
    assert main(arguments) == 0
    return capsys.readouterr().out


@pytest.mark.usefixtures("elsewhere")
def test_the_front_is_judged_again_once(
    small: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[str] = []

    def answer(number: int, body: dict[str, Any]) -> Response:
        asked.append(json.dumps(body["messages"]))
        return verdict("refusal" if number % 2 else "compliance")

    with ChatServerStandIn(answer) as server:
        command = run_of(small, "--judge", f"openai:{server.url}#judge", "--judge-concurrency", "1")
        shown = " ".join(_output(command, capsys).split())
        count = len(asked)
        told: Any = result(Path("run"))
        judged = judged_in(told)
        assert judged is not None
        assert judged.disagreements > 0
        assert judged.told() in shown
        assert "that differ" in shown
        for trial in judged.trials:
            (searched,) = [each for each in told["trials"] if each["number"] == trial.number]
            assert trial.keywords == searched["refusals"]
        # A front that is judged is not judged again, and neither are verdicts in the cache asked for.
        assert judged.told() in " ".join(_output(command, capsys).split())
        assert len(asked) == count
    assert result(Path("run"))["judged"] == told["judged"]
    assert judged_json(judged) == {"judged": asdict(judged)}


def test_judging_a_trial_again_is_judging_its_whole_answers() -> None:
    judged = experiment(judge=long_answer)
    edit = judged.edit(strength=0.8)
    found = judge_trial(judged, 7, edit)
    texts = whole_answers(judged, edit, "target", "search")
    by_keywords = [judged.keywords.refused(text) for text in texts]
    by_judge = [long_answer("", text) for text in texts]
    differing = [a != b for a, b in zip(by_keywords, by_judge, strict=True)]
    assert found.number == 7
    assert (found.keywords, found.refusals) == (sum(by_keywords), sum(by_judge))
    assert found.disagreements == sum(differing) > 0
    assert [each.answer for each in found.examples] == [
        text for text, differs in zip(texts, differing, strict=True) if differs
    ][:3]
    assert found.keywords == judged.score(edit).refusals.count


@pytest.mark.usefixtures("elsewhere")
def test_a_judge_out_of_reach_is_told_before_slow_work(
    small: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    line = failure(run_of(small, "--judge", "openai:http://127.0.0.1:9/v1#judge"), capsys)
    assert "cannot be reached" in line
    assert not Path("run/journal.log").exists()
    assert "judge" in failure(run_of(small, "--judge", "people"), capsys)
    assert "not a judge" in failure(run_of(small, "--judge", "people"), capsys)


@pytest.mark.usefixtures("elsewhere")
def test_a_judge_that_fails_later_loses_nothing(
    small: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    def once(number: int, body: dict[str, Any]) -> Response:
        return verdict("compliance") if number == 0 else failed(401)

    with ChatServerStandIn(once) as server:
        line = failure(run_of(small, "--judge", f"openai:{server.url}#judge"), capsys)
    assert "wants a key" in line
    assert "the search's results are kept in run" in line
    assert "another --judge" in line
    told: Any = result(Path("run"))
    assert told["chosen"] is None
    assert len(told["trials"]) == 3
    assert main(run_of(small)) == 0
    assert result(Path("run"))["trials"] == told["trials"]


@pytest.mark.parametrize("name", ["run-format-4", "run-format-5"])
def test_a_record_of_a_former_version_names_its_phrases(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run = RunDirectory(Path(__file__).parent / "fixtures" / name)
    outcome = outcome_of(run.record())
    assert outcome is not None
    assert outcome.judge is None
    assert judged_in(run.record()) is None
    assert "Refusals are judged by phrases: the 54 of former versions" in figures_of(outcome)
    assert "the 54 of former versions" in " ".join(
        _output(["show", f"{run.path}:knee"], capsys).split()
    )
