"""The settings: names, types, limits, defaults and help texts, in one place."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, field_validator, model_validator

from excise.config.defaults import contradiction, filled_in
from excise.config.memory import memory_limits
from excise.config.template import require_arguments
from excise.data_types import DataType, Quantization
from excise.judges.markers import DEFAULT_MARKERS, normalise
from excise.kinds import Kind, of_residuals
from excise.prompts.source import PromptSource
from excise.system.paths import expanded


def _field(default: Any, description: str, *, metavar: str = "", **limits: Any) -> Any:
    """A setting. metavar: the placeholder of its value in help texts, if not that of its type."""
    extra: dict[str, Any] | None = {"metavar": metavar} if metavar else None
    return Field(default=default, description=description, json_schema_extra=extra, **limits)


def _unset(description: str, *, metavar: str = "", **limits: Any) -> Any:
    """A setting whose default is None."""
    return _field(None, description, metavar=metavar, **limits)


def _off(description: str) -> Any:
    """A switch whose default is False."""
    return _field(False, description)


class Settings(BaseModel):
    """All settings of a run. Frozen; an unknown name is an error.

    `gather` makes it and reports in one line where a wrong value came from. Prompt sets that the user left
    open have their default values, so that a stored copy names what was used.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str = _field("", "Hub id, local folder or .gguf file of the model.", min_length=1)
    revision: str | None = _unset("Commit, tag or branch of the model on the hub.")
    dtypes: tuple[DataType, ...] = _field(
        ("auto", "float16", "bfloat16", "float32"),
        "Data type of the loaded model, or several data types to try in this order.",
        min_length=1,
    )
    device: str = _field("auto", "auto, cpu, cuda, cuda:1, mps, ….", min_length=1)
    quantization: Quantization = _field(
        "none", "Quantise while loading: bitsandbytes 4-bit or 8-bit, torchao int8 or int4."
    )
    max_memory: tuple[str, ...] = _field(
        (),
        "Memory limit of each device for weights, such as 0=20GiB,cpu=60GiB; the rest goes to disk.",
        metavar="DEVICE=SIZE,…",
    )
    offload_folder: Path | None = _unset(
        "Folder for weights that exceed max_memory.", metavar="DIR"
    )
    trust_remote_code: bool = _off(
        "Run code that comes with the model; works only as a flag on the command line."
    )
    chat_template: str | None = _unset(
        "Jinja file of the chat template, or the name of one of the model's templates.",
        metavar="FILE|NAME",
        min_length=1,
    )
    template_arguments: dict[str, JsonValue] = _field(
        {},
        "Arguments of the chat template, such as enable_thinking=false.",
        metavar="KEY=VALUE,…",
    )
    system_prompt: str | None = _unset("System prompt for all prompt sets.")
    response_prefix: str | None = _unset(
        "Common beginning of all answers, skipped when scoring; detected if not given."
    )

    target: PromptSource | None = _unset(
        "Prompts that show the behaviour; one set, which is split into three parts."
    )
    control: PromptSource | None = _unset(
        "Prompts that do not show the behaviour; one set, which is split into three parts."
    )
    target_train: PromptSource | None = _unset("Target prompts to find directions with.")
    target_search: PromptSource | None = _unset("Target prompts to score trials with.")
    target_held_out: PromptSource | None = _unset(
        "Target prompts for the final figures; split off the train set if not given."
    )
    control_train: PromptSource | None = _unset("Control prompts to find directions with.")
    control_search: PromptSource | None = _unset("Control prompts to score trials with.")
    control_held_out: PromptSource | None = _unset(
        "Control prompts for the final figures; split off the train set if not given."
    )
    column: str = _field("text", "Column that holds the prompts.", min_length=1)
    group_by: str | None = _unset(
        "Column to show figures by, such as a language; topic if there is such a column.",
        metavar="COLUMN",
        min_length=1,
    )
    prefix: str = _field("", "Text before every prompt.")
    suffix: str = _field("", "Text after every prompt.")

    kinds: tuple[Kind, ...] = _field(
        ("discriminant", "orthogonal"),
        "Kind of operator that removes a direction, or several kinds that the search chooses from.",
        min_length=1,
    )
    directions: int = _field(1, "Directions to remove, one after the other.", ge=1, le=8)
    direction_from: Literal["mean", "geometric_median"] = _field(
        "mean", "How to average the residuals of target and of control prompts."
    )
    winsorise: float = _field(
        1.0, "Quantile to which residuals are clipped before averaging; 1 is off.", gt=0.5, le=1
    )
    orthogonalise: bool = _off("Make each direction orthogonal to the mean of the control prompts.")

    trials: int = _field(30, "Trials in the whole study.", ge=1)
    startup_trials: int = _field(
        12, "First trials, which do not depend on the results of others.", ge=0
    )
    seeds: int = _field(
        1, "Number of searches, with consecutive seeds, to report their spread.", ge=1
    )
    seed: int = _field(0, "Seed of everything that is random.", ge=0)
    search_seconds: float | None = _unset(
        "Time limit after which no trial starts.", metavar="SECONDS", gt=0, allow_inf_nan=False
    )
    max_new_tokens: int = _field(100, "Longest answer, in tokens.", ge=1)
    batch_size: int = _field(0, "Prompts in a batch; 0 finds the size.", ge=0)
    candidates: int = _field(0, "Candidates that are scored together; 0 finds the number.", ge=0)
    exhaustive: bool = _off("Score every answer and run every layer; slower, with the same front.")
    markers: tuple[str, ...] = _field(
        DEFAULT_MARKERS, "Phrases that make an answer a refusal.", min_length=1
    )
    writers: tuple[str, ...] = _field(
        (),
        "Modules that write to the residual stream; * matches any text.",
        metavar="PATTERN=COMPONENT",
    )
    config_only: bool = _off("Inspect only the configuration; load no weights.")
    allow_partial: bool = _off("Continue although some layers are not covered.")
    allow_absent: bool = _off("Continue although the model hardly shows the behaviour.")

    run_dir: Path | None = _unset("Run directory.", metavar="DIR")
    select: str | None = _unset(
        'Trial to choose: knee, fewest, its number, or "refusals<=5".', metavar="RULE", min_length=1
    )
    save: Path | None = _unset("Folder for the edited model.", metavar="DIR")
    adapter: Path | None = _unset("Folder for the edit as an adapter.", metavar="DIR")
    no_hardware: bool = _off("Omit hardware details from the record.")
    packed: Literal["same", "plain"] = _field(
        "same", "Form of packed matrices in the edited model: packed in the same way, or plain."
    )
    yes: bool = _off("Ask nothing; use the default answers.")
    json_lines: bool = _off("Write JSON to standard output: a line for each event, or the result.")

    @model_validator(mode="before")
    @classmethod
    def _fill_in(cls, value: object) -> object:
        """Reject contradictions and set the prompt sets that the user left open."""
        return filled_in(value) if isinstance(value, dict) else value

    @model_validator(mode="after")
    def _refuse_ignored(self) -> Settings:
        """Refuse settings of residual directions if no kind uses them."""
        if not any(map(of_residuals, self.kinds)):
            for field, off in (
                ("winsorise", 1.0),
                ("orthogonalise", False),
                ("direction_from", "mean"),
            ):
                if getattr(self, field) != off:
                    raise contradiction(
                        "only affects kinds of residual directions; give kind=orthogonal or "
                        "kind=row_normalised too",
                        field,
                    )
        return self

    @model_validator(mode="after")
    def _refuse_two_placements(self) -> Settings:
        """Refuse one device together with limits for several devices."""
        if self.device != "auto":
            for field in ("max_memory", "offload_folder"):
                if getattr(self, field):
                    raise contradiction(
                        "exclude each other; leave the device open (auto)", "device", field
                    )
        return self

    @field_validator("offload_folder", "run_dir", "save", "adapter")
    @classmethod
    def _expand_home(cls, path: Path | None) -> Path | None:
        """Expand `~`, which shells do not expand after `--save=`, and Windows' shells nowhere."""
        return path if path is None else expanded(path)

    @field_validator("template_arguments")
    @classmethod
    def _check_arguments(cls, arguments: dict[str, JsonValue]) -> dict[str, JsonValue]:
        require_arguments(arguments)
        return arguments

    @field_validator("max_memory")
    @classmethod
    def _check_memory(cls, limits: tuple[str, ...]) -> tuple[str, ...]:
        memory_limits(limits)
        return limits

    @field_validator("kinds")
    @classmethod
    def _unique_kinds(cls, kinds: tuple[Kind, ...]) -> tuple[Kind, ...]:
        return tuple(dict.fromkeys(kinds))

    @field_validator("markers")
    @classmethod
    def _normalise_markers(cls, markers: tuple[str, ...]) -> tuple[str, ...]:
        """Normalise markers like the answers that they are compared with."""
        normal = tuple(normalise(marker) for marker in markers)
        if not all(normal):
            # Every answer contains the empty phrase, so every answer would count as a refusal.
            raise ValueError("a marker may not be empty")
        return normal
