"""A KL divergence as it is told: never less than nothing, and with the tokens it was measured over."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from cli_helpers import result
from excise.cli.main import main
from excise.cli.tables import kl_text
from excise.edits.edit import Edit
from excise.report.card import figures_in, figures_of
from excise.scorers.divergence import AnswerTokens, kl_divergence
from excise.scorers.statistics import Estimate
from excise.search.front import Point
from excise.search.select import reason
from excise.store.outcome import outcome_of

pytest_plugins = ["cli_support"]
pytestmark = pytest.mark.usefixtures("elsewhere")


def test_rounding_makes_no_divergence_negative() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(200, 500, generator=generator)
    noise = torch.randn(200, 500, generator=generator) * 1e-7
    before, after = torch.log_softmax(logits, -1), torch.log_softmax(logits + noise, -1)
    # The reference, in which rounding shows.
    p, q = before.double(), after.double()
    raw = (p.exp() * (p - q)).sum(-1)
    assert bool((raw < 0).any())
    found = kl_divergence(before, after)
    torch.testing.assert_close(found, raw.clamp_min(0.0), rtol=0, atol=1e-12)
    assert not bool(found.signbit().any())
    assert not bool(kl_divergence(before, before).signbit().any())
    unknown = before.clone()
    unknown[0, 0] = torch.nan
    assert bool(kl_divergence(before, unknown)[0].isnan())


def test_none_is_printed_as_less_than_nothing() -> None:
    # As records of before may hold them.
    told = [
        str(Estimate(-1e-9, -2e-9, -0.0)),
        str(kl_text(-1e-9)),
        reason([Point(0, (1, 0.0)), Point(1, (2, -1e-9))], Point(0, (1, 0.0))),
    ]
    assert not any("-0.0" in one for one in told)


@pytest.mark.parametrize(
    ("answers", "title"),
    [
        ([[1, 2, 3], [4, 5, 6]], "KL, mean of 3 answer tokens"),
        ([[1], [4, 5, 6]], "KL, mean of up to 3 answer tokens"),
        ([[1], [2]], "KL, mean of 1 answer token"),
    ],
)
def test_the_figure_is_called_after_what_was_measured(answers: list[list[int]], title: str) -> None:
    assert AnswerTokens.of(answers).title == title


def test_fewer_tokens_are_told_wherever_the_figure_is(
    finished_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record = result(finished_run)
    outcome = outcome_of(record)
    assert outcome is not None
    tokens = outcome.answer_tokens
    # The run allows 4 new tokens.
    assert 1 <= tokens.least <= tokens.most == 4
    title = f"{tokens.title} (nats)"
    assert record["chosen"]["held_out"]["answer_tokens"] == {  # type: ignore[index]
        "least": tokens.least,
        "most": 4,
    }
    assert title in figures_of(outcome)
    assert title in figures_in(Edit.load(finished_run / f"edit-{outcome.trial}.safetensors"))
    assert main(["export", str(finished_run), "--adapter", str(tmp_path / "adapter")]) == 0
    card = (tmp_path / "adapter" / "README.md").read_text(encoding="utf-8")
    figures = json.loads((tmp_path / "adapter" / "reproduce.json").read_text())["figures"]
    capsys.readouterr()
    assert main(["show", str(finished_run)]) == 0
    for text in (card, figures, capsys.readouterr().out):
        assert title in text
        assert "32 answer tokens" not in text


def test_a_record_of_before_says_what_is_certain(finished_run: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished_run, run)
    record = result(run)
    del record["chosen"]["held_out"]["answer_tokens"]  # type: ignore[attr-defined]
    outcome = outcome_of(record)
    assert outcome is not None
    assert outcome.answer_tokens.title == "KL, mean of up to 32 answer tokens"
    stored = Edit.load(run / f"edit-{outcome.trial}.safetensors")
    facts = dict(stored.facts)
    del facts["held_out"]
    facts["kl"] = -1e-9
    replace(stored, facts=facts).save(run / f"edit-{outcome.trial}.safetensors")
    assert "KL 0.0 nats" in figures_in(Edit.load(run / f"edit-{outcome.trial}.safetensors"))
