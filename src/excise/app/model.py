"""The prompts, the model and the experiment that settings describe."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from pathlib import Path

from excise.checkpoint.source import ModelSource, resolve
from excise.config import Settings
from excise.config.memory import memory_limits
from excise.config.prompt_sources import prompt_sources
from excise.events import Emit
from excise.experiment.experiment import Experiment
from excise.experiment.options import Options
from excise.experiment.settle import Settled
from excise.judges.keywords import KeywordJudge
from excise.judges.options import JudgeOptions
from excise.judges.verdict import Judge
from excise.models.load import LoadedModel, load
from excise.models.options import LoadOptions
from excise.models.quantization import stored_quantization
from excise.models.tokenizer import load_tokenizer
from excise.prompts.read import load_parts
from excise.prompts.splits import Prompts
from excise.saving.options import SaveOptions
from excise.scorers.named import require_known, scorers_of
from excise.scorers.scorer import Scorer
from excise.search.objective import Objective
from excise.search.select import check_selection


def in_data_type(settings: Settings, dtype: str, source: ModelSource) -> Settings:
    """`settings` with one data type to load a checkpoint in; unchanged if its weights are or become packed.

    Packed weights have their own compute type, which may differ from the type of the unpacked weights.
    """
    if settings.quantization != "none" or stored_quantization(source) is not None:
        return settings
    return settings.model_copy(update={"dtypes": (dtype,)})


def given_template(settings: Settings, source: ModelSource) -> str | None:
    """The text of the chat template file that the settings name, None without one. Raises ModelError.

    The tokenizer is loaded, because that also checks that the template renders prompts.
    """
    if settings.chat_template is None:
        return None
    return load_tokenizer(source, load_options(settings)).custom_template


def prompts_of(settings: Settings) -> Prompts:
    """Read the prompts that the settings name. Raises PromptError or HubError."""
    return load_parts(prompt_sources(settings))


def source_of(settings: Settings) -> ModelSource:
    """The files of the model that the settings name. Raises ModelError or HubError."""
    return resolve(settings.model, settings.revision, code=settings.trust_remote_code)


def load_options(settings: Settings) -> LoadOptions:
    """The settings that load a model."""
    return LoadOptions(
        dtypes=settings.dtypes,
        device=settings.device,
        quantization=settings.quantization,
        max_memory=memory_limits(settings.max_memory),
        offload_folder=settings.offload_folder,
        trust_remote_code=settings.trust_remote_code,
        chat_template=settings.chat_template,
        template_arguments=settings.template_arguments,
        system_prompt=settings.system_prompt,
    )


def save_options(settings: Settings, *, force: bool = False) -> SaveOptions:
    """The settings that read and write the files of a model."""
    trusted = settings.trust_remote_code
    return SaveOptions(settings.packed, settings.writers, trusted, force=force)


def load_model(settings: Settings, source: ModelSource, emit: Emit) -> LoadedModel:
    """Load the model that the settings name. Raises ModelError."""
    return load(source, load_options(settings), emit=emit)


@dataclass(frozen=True)
class AskedScorers:
    """The scorers that settings name: those of the objectives, and further ones for reports.

    judge: of reports; None if it is not made yet.
    """

    objectives: tuple[Scorer, ...]
    report: tuple[Scorer, ...]
    judge: Judge | None = None

    @classmethod
    def of(cls, settings: Settings) -> AskedScorers:
        """Make the scorers. Raises SettingsError, also for a selection that names no objective."""
        require_known([*settings.objectives, *settings.report], settings.scorers)
        judge = KeywordJudge(settings.markers)
        objectives, report = (
            scorers_of(names, judge, settings.scorers)
            for names in (settings.objectives, settings.report)
        )
        if settings.select is not None:
            check_selection(settings.select, tuple(map(Objective.of, objectives)))
        return cls(objectives, report)


def experiment_of(
    settings: Settings,
    loaded: LoadedModel,
    prompts: Prompts,
    emit: Emit,
    *,
    known: Settled | None = None,
    rows: int = Options.rows,
    scorers: AskedScorers | None = None,
) -> Experiment:
    """The experiment that the settings describe.

    known: values measured earlier; rows: see `Options`. scorers: those of the settings, if they are made.
    """
    options = options_of(settings, rows)
    if scorers is not None:
        judge = scorers.judge or options.judge
        options = replace(
            options, objectives=scorers.objectives, report=scorers.report, judge=judge
        )
    return Experiment.of(loaded, prompts, options, known=known, emit=emit)


def options_of(settings: Settings, rows: int = Options.rows) -> Options:
    """The options that have a setting of the same name. A run itself handles an absent behaviour."""
    names = [field.name for field in fields(Options) if field.name in type(settings).model_fields]
    given = {name: getattr(settings, name) for name in names}
    judge_options = judge_options_of(settings)
    return Options(**{**given, "rows": rows, "allow_absent": True, "judge_options": judge_options})


def judge_name(settings: Settings) -> str:
    """The judge that the settings name; keywords if they name none but have markers of their own."""
    return settings.judge or ("builtin" if settings.markers is None else "keywords")


def judge_options_of(settings: Settings, cache: Path | None = None) -> JudgeOptions:
    """How the settings set up a judge. cache: the folder of verdicts that cost much."""
    return JudgeOptions(
        markers=settings.markers,
        labels=settings.judge_labels,
        # The chat template and the quantisation of the settings are those of the model that is judged.
        loading=LoadOptions(dtypes=settings.dtypes, device=settings.device),
        batch_size=settings.batch_size or JudgeOptions.batch_size,
        cache=cache,
        concurrency=settings.judge_concurrency,
        timeout=settings.judge_timeout,
        key=settings.judge_key,
    )
