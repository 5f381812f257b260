"""The settings: names, types, limits, defaults and help texts, in one place."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    field_validator,
    model_validator,
)

from excise.config.defaults import contradiction, filled_in
from excise.config.memory import memory_limits
from excise.config.template import require_arguments
from excise.data_types import DataType, Quantization
from excise.kinds import Kind, of_residuals
from excise.prompts.source import PromptSource
from excise.scorers.markers import DEFAULT_MARKERS, normalise
from excise.system.paths import expanded


def _metavar(text: str) -> dict[str, Any]:
    return {"metavar": text}


class Settings(BaseModel):
    """Everything a user can decide about a run. Frozen; an unknown name is an error.

    Build it with `gather`, which says in one line where a wrong value came from. Where prompts were
    left open, the fields hold what was filled in: a stored copy says what was used.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str = Field(
        default="", min_length=1, description="Hub id, local folder or .gguf file of the model."
    )
    revision: str | None = Field(
        default=None, description="Commit, tag or branch of the model on the hub."
    )
    dtypes: tuple[DataType, ...] = Field(
        default=("auto", "float16", "bfloat16", "float32"),
        min_length=1,
        description="The data type to load the model in, or several to try in turn.",
    )
    device: str = Field(
        default="auto", min_length=1, description="auto, cpu, cuda, cuda:1, mps, …."
    )
    quantization: Quantization = Field(
        default="none",
        description="Pack the weights while loading: bitsandbytes 4-bit or 8-bit, torchao int8 or int4.",
    )
    max_memory: tuple[str, ...] = Field(
        default=(),
        description="Most that each device may hold of the weights, such as 0=20GiB,cpu=60GiB; the rest "
        "goes to disk.",
        json_schema_extra=_metavar("DEVICE=SIZE,…"),
    )
    offload_folder: Path | None = Field(
        default=None,
        description="Where weights go that max_memory leaves no room for.",
        json_schema_extra=_metavar("DIR"),
    )
    trust_remote_code: bool = Field(
        default=False,
        description="Run code that comes with the model; counts only where it is typed.",
    )
    chat_template: str | None = Field(
        default=None,
        min_length=1,
        description="Jinja file to use as the chat template, or the name of one of the model's own.",
        json_schema_extra=_metavar("FILE|NAME"),
    )
    template_arguments: dict[str, JsonValue] = Field(
        default={},
        description="What the chat template is given beside the messages, such as enable_thinking=false.",
        json_schema_extra=_metavar("KEY=VALUE,…"),
    )
    system_prompt: str | None = Field(
        default=None, description="System prompt of every prompt set."
    )
    response_prefix: str | None = Field(
        default=None,
        description="What every answer begins with, skipped when scoring; found if not given.",
    )

    target: PromptSource | None = Field(
        default=None, description="Prompts that show the behaviour, one set to be split three ways."
    )
    control: PromptSource | None = Field(
        default=None, description="Prompts that do not show it, one set to be split three ways."
    )
    target_train: PromptSource | None = Field(
        default=None, description="Target prompts to find directions with."
    )
    target_search: PromptSource | None = Field(
        default=None, description="Target prompts to score trials with."
    )
    target_held_out: PromptSource | None = Field(
        default=None,
        description="Target prompts for the final figures; cut off train if not given.",
    )
    control_train: PromptSource | None = Field(
        default=None, description="Control prompts to find directions with."
    )
    control_search: PromptSource | None = Field(
        default=None, description="Control prompts to score trials with."
    )
    control_held_out: PromptSource | None = Field(
        default=None,
        description="Control prompts for the final figures; cut off train if not given.",
    )
    column: str = Field(default="text", min_length=1, description="Column that holds the prompts.")
    prefix: str = Field(default="", description="Text put before every prompt.")
    suffix: str = Field(default="", description="Text put after every prompt.")

    kinds: tuple[Kind, ...] = Field(
        default=("discriminant", "orthogonal"),
        min_length=1,
        description="How a direction is taken out of a matrix; of several the search chooses.",
    )
    directions: int = Field(
        default=1, ge=1, le=8, description="Directions to remove, one after the other."
    )
    direction_from: Literal["mean", "geometric_median"] = Field(
        default="mean",
        description="What stands for the middle of the target and of the control prompts.",
    )
    winsorise: float = Field(
        default=1.0,
        gt=0.5,
        le=1,
        description="Quantile to clip residuals to before averaging; 1 is off.",
    )
    orthogonalise: bool = Field(
        default=False,
        description="Make each direction orthogonal to the mean of the control prompts.",
    )

    trials: int = Field(default=30, ge=1, description="Trials in the whole study.")
    startup_trials: int = Field(
        default=12, ge=0, description="Trials around the closed forms before the search learns."
    )
    seeds: int = Field(
        default=1, ge=1, description="Searches with seeds from --seed on, to report their spread."
    )
    seed: int = Field(default=0, ge=0, description="Seed of everything that is random.")
    search_seconds: float | None = Field(
        default=None,
        gt=0,
        allow_inf_nan=False,
        description="Propose no more trials after this long in one go.",
        json_schema_extra=_metavar("SECONDS"),
    )
    max_new_tokens: int = Field(default=100, ge=1, description="Longest answer, in tokens.")
    batch_size: int = Field(default=0, ge=0, description="Prompts at a time; 0 finds it out.")
    candidates: int = Field(
        default=0, ge=0, description="Candidates under way at a time; 0 finds it out."
    )
    exhaustive: bool = Field(
        default=False,
        description="Take no short cut: wait for every verdict, run every layer; the same front.",
    )
    markers: tuple[str, ...] = Field(
        default=DEFAULT_MARKERS, min_length=1, description="Phrases that make an answer a refusal."
    )
    writers: tuple[str, ...] = Field(
        default=(),
        description="Modules that write, as PATTERN=COMPONENT; * stands for anything.",
        json_schema_extra=_metavar("PATTERN=COMPONENT"),
    )
    config_only: bool = Field(
        default=False, description="Look at the configuration alone; load no weights."
    )
    allow_partial: bool = Field(
        default=False, description="Go on although not every layer is covered."
    )
    allow_absent: bool = Field(
        default=False, description="Go on although the model hardly shows the behaviour."
    )

    run_dir: Path | None = Field(
        default=None, description="Where the run is kept.", json_schema_extra=_metavar("DIR")
    )
    select: str | None = Field(
        default=None,
        min_length=1,
        description='Trial to take: knee, fewest, its number, or "refusals<=5".',
        json_schema_extra=_metavar("RULE"),
    )
    save: Path | None = Field(
        default=None, description="Save the edited model here.", json_schema_extra=_metavar("DIR")
    )
    adapter: Path | None = Field(
        default=None,
        description="Save the edit as an adapter here.",
        json_schema_extra=_metavar("DIR"),
    )
    no_hardware: bool = Field(
        default=False, description="Leave what the run was made on out of its record."
    )
    packed: Literal["same", "plain"] = Field(
        default="same",
        description="What packed matrices become in the edited model: packed the same way, or plain.",
    )
    yes: bool = Field(default=False, description="Ask nothing; take the default answer.")
    json_lines: bool = Field(
        default=False,
        description="JSON on standard output: events line by line, or the one result.",
    )

    @model_validator(mode="before")
    @classmethod
    def _fill_in(cls, value: object) -> object:
        """Reject contradictions; fill in the prompt sets that were left open."""
        return filled_in(value) if isinstance(value, dict) else value

    @model_validator(mode="after")
    def _nothing_without_effect(self) -> Settings:
        """Refuse what would be ignored: these shape residual directions alone."""
        if not any(map(of_residuals, self.kinds)):
            for field, off in (
                ("winsorise", 1.0),
                ("orthogonalise", False),
                ("direction_from", "mean"),
            ):
                if getattr(self, field) != off:
                    raise contradiction(
                        "has an effect on kinds of residual directions only; give kind=orthogonal or "
                        "kind=row_normalised with it",
                        field,
                    )
        return self

    @model_validator(mode="after")
    def _placed_once(self) -> Settings:
        """Refuse to name one device and to spread over several at once."""
        if self.device != "auto":
            for field in ("max_memory", "offload_folder"):
                if getattr(self, field):
                    raise contradiction(
                        "exclude each other; leave the device open (auto)", "device", field
                    )
        return self

    @field_validator("offload_folder", "run_dir", "save", "adapter")
    @classmethod
    def _at_home(cls, path: Path | None) -> Path | None:
        """Shells leave `~` alone behind `--save=`, and Windows' shells leave it alone everywhere."""
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
    def _each_once(cls, kinds: tuple[Kind, ...]) -> tuple[Kind, ...]:
        return tuple(dict.fromkeys(kinds))

    @field_validator("markers")
    @classmethod
    def _normalise_markers(cls, markers: tuple[str, ...]) -> tuple[str, ...]:
        """Answers are compared in normalised form, so markers have to be in it too."""
        normal = tuple(normalise(marker) for marker in markers)
        if not all(normal):
            # An empty phrase is found in every answer: everything would count as a refusal.
            raise ValueError("a marker may not be empty")
        return normal
