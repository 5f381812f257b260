"""excise: find the direction a behaviour takes inside a language model, and remove it from the weights.

The names below are the public interface; docs/api.md describes them. Importing this package is light: what
needs PyTorch and transformers is imported when its name is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from excise.system.version import VERSION

if TYPE_CHECKING:
    from excise.benchmarks.benchmark import benchmark as benchmark
    from excise.benchmarks.options import BenchmarkOptions as BenchmarkOptions
    from excise.benchmarks.score import BenchmarkScore as BenchmarkScore
    from excise.checkpoint_diff.diff import diff as diff
    from excise.checkpoint_diff.difference import Diff as Diff
    from excise.demo.python import demo_model as demo_model
    from excise.demo.python import demo_prompts as demo_prompts
    from excise.edits.edit import Edit as Edit
    from excise.errors import BenchmarkError as BenchmarkError
    from excise.errors import ExciseError as ExciseError
    from excise.errors import HubError as HubError
    from excise.errors import JudgeError as JudgeError
    from excise.errors import ModelError as ModelError
    from excise.errors import OutOfMemoryError as OutOfMemoryError
    from excise.errors import PromptError as PromptError
    from excise.errors import ReproductionError as ReproductionError
    from excise.errors import RunError as RunError
    from excise.errors import SaveError as SaveError
    from excise.errors import ScorerError as ScorerError
    from excise.errors import SettingsError as SettingsError
    from excise.errors import TrialError as TrialError
    from excise.experiment.coverage import Coverage as Coverage
    from excise.experiment.experiment import Experiment as Experiment
    from excise.experiment.inspection import Inspection as Inspection
    from excise.experiment.inspection import inspect as inspect
    from excise.experiment.options import Options as Options
    from excise.experiment.scores import Baseline as Baseline
    from excise.experiment.scores import Scores as Scores
    from excise.experiment.scores import Statistics as Statistics
    from excise.experiment.study import Study as Study
    from excise.judges.judge import judge as judge
    from excise.judges.options import JudgeOptions as JudgeOptions
    from excise.judges.verdict import Exchange as Exchange
    from excise.judges.verdict import Judge as Judge
    from excise.judges.verdict import Verdict as Verdict
    from excise.models.load import LoadedModel as LoadedModel
    from excise.models.load import load as load
    from excise.models.options import LoadOptions as LoadOptions
    from excise.prompts.read import read_prompts as read_prompts
    from excise.prompts.sets import Prompt as Prompt
    from excise.prompts.sets import PromptSet as PromptSet
    from excise.prompts.splits import Prompts as Prompts
    from excise.saving.apply import apply as apply
    from excise.saving.options import SaveOptions as SaveOptions
    from excise.scorers.scorer import AlongAnswers as AlongAnswers
    from excise.scorers.scorer import Answers as Answers
    from excise.scorers.scorer import AnswerSet as AnswerSet
    from excise.scorers.scorer import BoundedScorer as BoundedScorer
    from excise.scorers.scorer import EditedModel as EditedModel
    from excise.scorers.scorer import Evidence as Evidence
    from excise.scorers.scorer import FirstToken as FirstToken
    from excise.scorers.scorer import ModelInUse as ModelInUse
    from excise.scorers.scorer import Score as Score
    from excise.scorers.scorer import Scorer as Scorer
    from excise.scorers.statistics import Estimate as Estimate
    from excise.scorers.statistics import Share as Share
    from excise.search.study import Trial as Trial

__version__ = VERSION

_MODULES = {
    "AlongAnswers": "scorers.scorer",
    "AnswerSet": "scorers.scorer",
    "Answers": "scorers.scorer",
    "Baseline": "experiment.scores",
    "BenchmarkError": "errors",
    "BenchmarkOptions": "benchmarks.options",
    "BenchmarkScore": "benchmarks.score",
    "BoundedScorer": "scorers.scorer",
    "Coverage": "experiment.coverage",
    "Diff": "checkpoint_diff.difference",
    "Edit": "edits.edit",
    "EditedModel": "scorers.scorer",
    "Estimate": "scorers.statistics",
    "Evidence": "scorers.scorer",
    "Exchange": "judges.verdict",
    "ExciseError": "errors",
    "Experiment": "experiment.experiment",
    "FirstToken": "scorers.scorer",
    "HubError": "errors",
    "Inspection": "experiment.inspection",
    "Judge": "judges.verdict",
    "JudgeError": "errors",
    "JudgeOptions": "judges.options",
    "LoadOptions": "models.options",
    "LoadedModel": "models.load",
    "ModelError": "errors",
    "ModelInUse": "scorers.scorer",
    "Options": "experiment.options",
    "OutOfMemoryError": "errors",
    "Prompt": "prompts.sets",
    "PromptError": "errors",
    "PromptSet": "prompts.sets",
    "Prompts": "prompts.splits",
    "ReproductionError": "errors",
    "RunError": "errors",
    "SaveError": "errors",
    "SaveOptions": "saving.options",
    "Score": "scorers.scorer",
    "Scorer": "scorers.scorer",
    "ScorerError": "errors",
    "Scores": "experiment.scores",
    "SettingsError": "errors",
    "Share": "scorers.statistics",
    "Statistics": "experiment.scores",
    "Study": "experiment.study",
    "Trial": "search.study",
    "TrialError": "errors",
    "Verdict": "judges.verdict",
    "apply": "saving.apply",
    "benchmark": "benchmarks.benchmark",
    "demo_model": "demo.python",
    "demo_prompts": "demo.python",
    "diff": "checkpoint_diff.diff",
    "inspect": "experiment.inspection",
    "judge": "judges.judge",
    "load": "models.load",
    "read_prompts": "prompts.read",
}
"""Public name to the module that defines it. No module of this package may have one of these names."""

__all__ = list(_MODULES)


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
