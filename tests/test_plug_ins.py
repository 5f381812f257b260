"""Scorers of other authors: found by name, refused in one line, and checked by the suite for authors."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import pytest
from torch import Tensor

import excise
from conftest import tiny_model, tiny_tokenizer
from excise import SettingsError
from excise.config import Stored, gather
from excise.config.digest import study_settings
from excise.judges.keywords import KeywordJudge
from excise.models.chat import Chat
from excise.scorers.answers import RefusalScorer
from excise.scorers.builtin import BUILT_IN
from excise.scorers.named import require_known, scorers_of
from excise.scorers.scorer import (
    AlongAnswers,
    Better,
    EditedModel,
    Evidence,
    FirstToken,
    Need,
    Score,
)
from excise.testing import check_scorer
from test_objectives import Letters, Norm, Tokens, Variation
from test_scorers import Given

pytest_plugins = ["cli_support"]

SOURCE = '''
from dataclasses import dataclass
from typing import ClassVar

import excise

print("the module runs")


@dataclass(frozen=True)
class Marks:
    """How many answers hold a mark."""

    mark: str = "e"
    fails: bool = False
    name: ClassVar[str] = "marks"
    unit: ClassVar[str] = "prompts"
    better: ClassVar[str] = "more"
    needs: ClassVar[tuple] = (excise.Answers("control", tokens=3),)

    def score(self, evidence):
        if self.fails:
            raise RuntimeError("the disk is full")
        texts = evidence[self.needs[0]].texts
        found = [self.mark in text for text in texts]
        return excise.Score.counted(found, title="answers with a mark", better="more")
'''
JUDGE = KeywordJudge()


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module in the working directory."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own_marks.py").write_text(SOURCE, encoding="utf-8")
    yield "own_marks:Marks"
    sys.modules.pop("own_marks", None)


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """An installed package with an entry point."""
    site = tmp_path / "site"
    (site / "marks-1.0.dist-info").mkdir(parents=True)
    (site / "packaged_marks.py").write_text(SOURCE, encoding="utf-8")
    about = site / "marks-1.0.dist-info"
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: marks\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[excise.scorers]\nmarks = packaged_marks:Marks\n")
    monkeypatch.syspath_prepend(str(site))
    yield "marks"
    sys.modules.pop("packaged_marks", None)


def test_a_scorer_of_a_module_and_of_a_package_take_their_settings(
    module: str, package: str, capsys: pytest.CaptureFixture[str]
) -> None:
    require_known([module, package, "kl"], {"marks": {"mark": "x"}})
    assert capsys.readouterr().out == "", "naming a scorer runs nothing of it"
    for name in (module, package):
        (scorer,) = scorers_of([name], JUDGE, {"marks": {"mark": "x"}})
        assert (scorer.name, scorer.mark) == ("marks", "x")  # type: ignore[attr-defined]
        check_scorer(scorer)
    assert capsys.readouterr().out.split("\n")[:2] == ["the module runs"] * 2


@pytest.mark.parametrize(
    ("names", "settings", "said"),
    [
        (["marksx"], {}, "scorer marksx: unknown; there are refusals, .*, and module:Class"),
        (["nowhere:Marks"], {}, r"scorer nowhere:Marks: cannot be loaded \(No module named"),
        (["own_marks:Other"], {}, r"scorer own_marks:Other: cannot be loaded \(.*no attribute"),
        (["own_marks:excise"], {}, "scorer own_marks:excise: .*not callable"),
        (["own_marks:Marks"], {"marks": {"colour": 1}}, "unexpected keyword argument 'colour'"),
        (["answer_kl"], {"answer_kl": {"tokens": 0}}, "scorers.answer_kl: tokens 0: give a whole"),
        (["answer_kl"], {"answer_kl": {"token": 8}}, "scorers.answer_kl: .*unexpected keyword"),
        (["kl", "kl"], {}, "scorer kl: given twice"),
    ],
)
def test_a_scorer_that_cannot_be_had_is_refused_in_one_line(
    module: str, names: list[str], settings: dict[str, Any], said: str
) -> None:
    with pytest.raises(SettingsError, match=said) as caught:
        scorers_of(names, JUDGE, settings)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("scorer", "said"),
    [
        (3, "scorer int: has no name, unit, better, needs, score"),
        (Given((), lambda evidence: None, name="My figure"), "its name is 'My figure'; give lower"),
        (Given((), lambda evidence: None, name="number"), "has another meaning in records"),
        (Given((), lambda evidence: None, name="kl"), "its name kl is that of a scorer of excise"),
        (Given((), lambda evidence: None, better="lower"), "better is 'lower'; give less or more"),  # type: ignore[arg-type]
        (Given(("answers",), lambda evidence: None), "needs 'answers', which is no need"),  # type: ignore[arg-type]
        (Given((), lambda evidence: None, unit=None), "its unit is None, which is no text"),  # type: ignore[arg-type]
    ],
)
def test_what_is_no_scorer_is_refused_in_one_line(scorer: Any, said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        scorers_of([scorer], JUDGE)
    with pytest.raises(AssertionError, match=said.replace("scorer int", "scorer .*")):
        check_scorer(scorer)


def test_settings_of_a_scorer_that_there_is_not_are_refused() -> None:
    with pytest.raises(
        SettingsError, match=r"scorers\.answerkl: there are settings, but no scorer"
    ):
        require_known(["kl"], {"answerkl": {}})


@pytest.mark.parametrize("place", ["toml", "environment", "stored"])
def test_only_a_flag_runs_code_that_it_names(place: str, tmp_path: Path) -> None:
    named = "own_marks:Marks"
    toml = tmp_path / "excise.toml"
    toml.write_text(f'report = ["{named}"]\n' if place == "toml" else "")
    environment = {"EXCISE_REPORT": f"length,{named}"} if place == "environment" else {}
    stored = Stored("run.json", {"report": [named]}) if place == "stored" else None
    with pytest.raises(SettingsError, match="names code, and only a flag can let it run"):
        gather({"model": "tiny"}, environment, toml, stored)
    typed = gather({"model": "tiny", "report": named}, environment, toml, stored)
    assert typed.report == (named,)


def test_objectives_and_settings_of_scorers_are_settings(tmp_path: Path) -> None:
    toml = tmp_path / "excise.toml"
    toml.write_text(
        'objectives = ["refusals", "answer_kl"]\n[scorers.answer_kl]\ntokens = 8\n[scorers.length]\n'
    )
    settings = gather({"model": "tiny"}, {}, toml)
    assert settings.objectives == ("refusals", "answer_kl")
    assert settings.scorers == {"answer_kl": {"tokens": 8}, "length": {}}
    stored = study_settings(settings)
    assert stored["objectives"] == ["refusals", "answer_kl"]
    assert stored["scorers"] == {"answer_kl": {"tokens": 8}}
    usual = study_settings(gather({"model": "tiny", "report": "length"}, {}, None))
    assert not {"objectives", "scorers", "report"} & usual.keys()
    flags = {"model": "tiny", "scorers": '{"answer_kl": {"tokens": 4}}'}
    assert gather(flags, {}, None).scorers == {"answer_kl": {"tokens": 4}}
    for wrong, said in (
        ("refusals", "--objectives=refusals: must name at least"),
        ("refusals,kl,empty,length", "4 objectives; give two or three"),
        ("kl,kl", "an objective is given twice"),
    ):
        with pytest.raises(SettingsError, match=said):
            gather({"model": "tiny", "objectives": wrong}, {}, None)


@pytest.mark.parametrize("name", BUILT_IN)
def test_scorers_of_excise_pass_the_suite_for_authors(name: str, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("two eggs and a cup of flour " * 8, encoding="utf-8")
    questions = tmp_path / "questions.jsonl"
    questions.write_text(
        '{"question": "read book", "choices": ["sing song", "photo of lake"], "answer": 0}'
    )
    settings = {
        "perplexity": {"text": str(text), "window": 16, "stride": 8},
        "multiple_choice": {"questions": str(questions)},
    }
    (scorer,) = scorers_of([name], JUDGE, settings)
    check_scorer(scorer, model=excise.ModelInUse(tiny_model(), Chat(tiny_tokenizer()), 4))


@pytest.mark.parametrize("scorer", [Letters(), Tokens(), Variation()])
def test_sound_scorers_pass_the_suite_for_authors(scorer: Any) -> None:
    check_scorer(scorer)


@dataclass(frozen=True)
class Unsound(Tokens):
    """Counts unfinished answers as if they had all their tokens yet to come."""

    name: str = "unsound"

    def lower_bound(self, known: Evidence) -> float:
        known_answers = [found for found in known.found.values() if not all(found.finished)]
        return 99.0 if known_answers else super().lower_bound(known)


@dataclass
class Forgetful:
    """Gives another figure each time."""

    calls: int = 0
    name: ClassVar[str] = "forgetful"
    unit: ClassVar[str] = "points"
    better: ClassVar[Better] = "less"
    needs: ClassVar[tuple[Need[Any], ...]] = ()

    def score(self, evidence: Evidence) -> Score:
        self.calls += 1
        return Score(self.calls, self.calls, self.calls, 1, self.unit)


@dataclass(frozen=True)
class Loose(RefusalScorer):
    """A bound that is not the value in the end."""

    judge: Any = field(default_factory=KeywordJudge)

    @property
    def name(self) -> str:
        return "loose"

    def lower_bound(self, known: Evidence) -> float:
        return 0.0


def batch_mean(original: Tensor, edited: Tensor) -> Tensor:
    return (original - original.mean(0)).square().sum(-1)


FAULTY: list[tuple[Any, str]] = [
    (Unsound(), "scorer unsound: its bound 99 is worse than its value"),
    (Forgetful(), "scorer forgetful: the same evidence gives"),
    (Loose(), "scorer loose: with all evidence its bound is 0, and its value"),
    (Norm(), "scorer norm: needs the edited model; give check_scorer a model"),
    (Given((), lambda evidence: Score(1, 2, 3, 1, "points")), "does not hold the value 1"),
    (Given((), lambda evidence: Score(1, 1, 1, 1, "nats")), "in 'nats', the scorer says 'points'"),
    (
        Given((FirstToken(batch_mean),), lambda evidence: Score(1, 1, 1, 1, "points")),
        "depends on the other tokens of the call",
    ),
    (
        Given((AlongAnswers(lambda p, q: q),), lambda evidence: Score(1, 1, 1, 1, "points")),
        r"its comparison of 5 tokens returned \[5, 11\]",
    ),
]


@pytest.mark.parametrize(("scorer", "said"), FAULTY, ids=lambda each: getattr(each, "name", ""))
def test_the_suite_for_authors_finds_what_is_wrong(scorer: Any, said: str) -> None:
    with pytest.raises(AssertionError, match=said):
        check_scorer(scorer)


def test_a_scorer_that_runs_the_model_is_checked_with_a_model() -> None:
    check_scorer(Norm(), model=excise.ModelInUse(tiny_model(), Chat(tiny_tokenizer()), 4))
    assert EditedModel() in Norm().needs
