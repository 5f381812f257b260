"""The model that the settings name: loaded, ready to be asked, its writers found and covered."""

from __future__ import annotations

from excise.anatomy.writers import Anatomy
from excise.checkpoint.source import ModelSource
from excise.config import Settings
from excise.config.memory import memory_limits
from excise.events import Emit
from excise.experiment.coverage import Coverage
from excise.experiment.inspection import examine_and_measure
from excise.experiment.runner import Runner
from excise.models.chat import Chat
from excise.models.load import LoadedModel, load
from excise.models.options import LoadOptions
from excise.models.quantization import stored_quantization
from excise.models.tokenizer import load_tokenizer
from excise.saving.options import SaveOptions


def in_data_type(settings: Settings, dtype: str, source: ModelSource) -> Settings:
    """`settings`, with one data type to load a checkpoint in; unchanged if its weights are or become packed.

    Packing decides what products are in, and that is not always the type of what is left unpacked.
    """
    if settings.quantization != "none" or stored_quantization(source) is not None:
        return settings
    return settings.model_copy(update={"dtypes": (dtype,)})


def open_model(
    settings: Settings, source: ModelSource, emit: Emit
) -> tuple[LoadedModel, Anatomy, Coverage, Runner]:
    """Load a model, find its writers and prove coverage. Raises ModelError if it cannot be loaded."""
    loaded, runner = load_runner(settings, source, emit)
    anatomy, coverage = examine_and_measure(loaded, settings.writers, settings.system_prompt, emit)
    return loaded, anatomy, coverage, runner


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


def load_runner(settings: Settings, source: ModelSource, emit: Emit) -> tuple[LoadedModel, Runner]:
    """Load a model, ready to be asked. Raises ModelError."""
    loaded = load(source, load_options(settings), emit=emit)
    runner = Runner(
        loaded.model,
        Chat(loaded.tokenizer, settings.response_prefix or "", loaded.call),
        markers=settings.markers,
        max_new_tokens=settings.max_new_tokens,
        slots=settings.batch_size or 1,
        emit=emit,
    )
    return loaded, runner
