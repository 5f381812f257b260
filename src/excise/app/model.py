"""The model that the settings name, and the experiment with it."""

from __future__ import annotations

from dataclasses import fields

from excise.checkpoint.source import ModelSource
from excise.config import Settings
from excise.config.memory import memory_limits
from excise.events import Emit
from excise.experiment.experiment import Experiment
from excise.experiment.options import Options
from excise.experiment.settle import Settled
from excise.models.load import LoadedModel, load
from excise.models.options import LoadOptions
from excise.models.quantization import stored_quantization
from excise.models.tokenizer import load_tokenizer
from excise.prompts.splits import Prompts
from excise.saving.options import SaveOptions


def in_data_type(settings: Settings, dtype: str, source: ModelSource) -> Settings:
    """`settings`, with one data type to load a checkpoint in; unchanged if its weights are or become packed.

    Packing decides what products are in, and that is not always the type of what is left unpacked.
    """
    if settings.quantization != "none" or stored_quantization(source) is not None:
        return settings
    return settings.model_copy(update={"dtypes": (dtype,)})


def given_template(settings: Settings, source: ModelSource) -> str | None:
    """The text of the chat template that the user gave a file for. Raises ModelError.

    It is read as for a run: a template that does not take prompts is not worth saving.
    """
    if settings.chat_template is None:
        return None
    return load_tokenizer(source, load_options(settings)).custom_template


def load_options(settings: Settings) -> LoadOptions:
    """How the settings say that a model is loaded."""
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


def save_options(
    settings: Settings, *, chat_template: str | None = None, force: bool = False
) -> SaveOptions:
    """How the settings say that the files of a model are read and written."""
    return SaveOptions(
        settings.packed, settings.writers, settings.trust_remote_code, chat_template, force
    )


def load_model(settings: Settings, source: ModelSource, emit: Emit) -> LoadedModel:
    """Load the model that the settings name. Raises ModelError."""
    return load(source, load_options(settings), emit=emit)


def experiment_of(
    settings: Settings,
    loaded: LoadedModel,
    prompts: Prompts,
    emit: Emit,
    *,
    known: Settled | None = None,
    rows: int = Options.rows,
) -> Experiment:
    """The experiment that the settings describe. known: what a run found out before; rows: see `Options`."""
    return Experiment.of(loaded, prompts, options_of(settings, rows), known=known, emit=emit)


def options_of(settings: Settings, rows: int = Options.rows) -> Options:
    """The options that the settings name alike. Whoever made them asks about an absent behaviour."""
    names = [field.name for field in fields(Options) if field.name in type(settings).model_fields]
    given = {name: getattr(settings, name) for name in names}
    return Options(**{**given, "rows": rows, "allow_absent": True})
