"""The settings: names, types, limits, defaults and help texts, in one place."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    PrivateAttr,
    field_validator,
    model_validator,
)

from excise.config.defaults import contradiction, filled_in
from excise.config.memory import memory_limits
from excise.config.places import PlacedValue, Places, naming
from excise.config.template import require_arguments
from excise.data_types import DataType, Quantization
from excise.judges.named import JudgeName
from excise.judges.text import normalise
from excise.judges.verdict import Outcome
from excise.kinds import Kind, of_residuals
from excise.prompts.source import PromptSource
from excise.system.paths import expanded

_MOST_OBJECTIVES = 3


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
    _places: Places = PrivateAttr(default_factory=Places)

    model: str = _field("", "Hub id, local folder or .gguf file of the model.", min_length=1)
    revision: str | None = _unset("Commit, tag or branch of the model on the hub.")
    dtypes: tuple[DataType, ...] = _field(
        ("auto", "float16", "bfloat16", "float32"),
        "Data type of the loaded model, or several data types to try in this order.",
        min_length=1,
    )
    device: str = _field(
        "auto", "Device of the model: auto, cpu, cuda, cuda:1, mps, ….", min_length=1
    )
    quantization: Quantization = _field(
        "none", "Quantise while loading: bitsandbytes 4-bit or 8-bit, torchao int8 or int4."
    )
    max_memory: tuple[str, ...] = _field(
        (),
        "Memory limit of each device for weights, such as 0=20GiB,cpu=60GiB; the rest goes to disk.",
        metavar="DEVICE=SIZE,…",
    )
    offload_folder: Path | None = _unset(
        "Folder for weights that exceed these limits.", metavar="DIR"
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
        "Text that all answers begin with; scores leave it out. Detected if not given."
    )

    target: PromptSource | None = _unset(
        "Prompts that evoke the behaviour; one set, which is split into three parts."
    )
    control: PromptSource | None = _unset(
        "Prompts that do not evoke the behaviour; one set, which is split into three parts."
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
        "Kind of edit, or several that the search chooses from: discriminant, orthogonal, row_normalised.",
        min_length=1,
    )
    directions: int = _field(1, "Directions to remove, one after the other.", ge=1, le=8)
    direction_from: Literal["mean", "geometric_median"] = _field(
        "mean", "How to average the residuals of target and of control prompts."
    )
    winsorise: float = _field(
        1.0,
        "Clip the components of each activation vector at this quantile before averaging; 1 is off.",
        gt=0.5,
        le=1,
    )
    orthogonalise: bool = _off("Make each direction orthogonal to the mean of the control prompts.")

    objectives: tuple[str, ...] = _field(
        ("refusals", "kl"), "Scorers whose figures the search improves, two or three.", min_length=2
    )
    report: tuple[str, ...] = _field(
        (), "Further scorers, whose figures are reported on held-out prompts."
    )
    scorers: dict[str, dict[str, JsonValue]] = _field(
        {}, "Settings of scorers; in excise.toml tables [scorers.NAME].", metavar="JSON"
    )
    trials: int = _field(30, "Trials in the whole study.", ge=1)
    startup_trials: int = _field(
        12, "Number of first trials, which do not depend on the results of other trials.", ge=0
    )
    seeds: int = _field(
        1,
        "Number of searches with consecutive seeds; several show the spread of the results.",
        ge=1,
    )
    seed: int = _field(0, "Seed of everything that is random.", ge=0)
    search_seconds: float | None = _unset(
        "Time limit after which no trial starts.", metavar="SECONDS", gt=0, allow_inf_nan=False
    )
    max_new_tokens: int = _field(100, "Longest answer, in tokens.", ge=1)
    batch_size: int = _field(
        0, "Prompts that decode at a time; 0 chooses the number by memory.", ge=0
    )
    candidates: int = _field(0, "Edits that are scored side by side; 0 chooses the number.", ge=0)
    exhaustive: bool = _off(
        "Take no shortcuts: answer all prompts and run all layers in every trial. Slower, same front."
    )
    markers: tuple[str, ...] | None = _unset(
        "Phrases that make an answer a refusal wherever they stand; built-in lists if not given.",
        min_length=1,
    )
    judge: str | None = _unset(
        "Judge of answers: builtin, keywords, hf:NAME, llm:MODEL or openai:URL#MODEL. Default: builtin, or "
        "keywords with markers of your own.",
        metavar="JUDGE",
    )
    judge_labels: dict[str, Outcome] = _field(
        {},
        "What the labels of a classifier (hf:NAME) mean: refusal, partial or compliance.",
        metavar="LABEL=OUTCOME,…",
    )
    judge_concurrency: int = _field(8, "Requests to a judge's server at a time.", ge=1, le=256)
    judge_timeout: float = _field(
        120.0,
        "Seconds to wait for an answer of a judge's server.",
        metavar="SECONDS",
        gt=0,
        allow_inf_nan=False,
    )
    judge_key: str = _field(
        "OPENAI_API_KEY",
        "Environment variable that holds the key of a judge's server.",
        metavar="VARIABLE",
        min_length=1,
    )
    writers: tuple[str, ...] = _field(
        (),
        "Further modules that write to the residual stream, such as mixer.out=attn.o_proj; * matches any "
        "text.",
        metavar="PATTERN=COMPONENT",
    )
    config_only: bool = _off("Read only the configuration; load no weights.")
    allow_partial: bool = _off("Continue although some layers are not covered.")
    allow_absent: bool = _off("Continue although the model hardly shows the behaviour.")

    run_dir: Path | None = _unset(
        "Folder of the run. Default: runs/<model>-<digest of the settings>.", metavar="DIR"
    )
    select: str | None = _unset(
        'Trial to choose: knee, fewest, its number, "refusals<=5" or "kl<=0.1".',
        metavar="RULE",
        min_length=1,
    )
    save: Path | None = _unset("Folder for the edited model.", metavar="DIR")
    adapter: Path | None = _unset("Folder for the edit as an adapter.", metavar="DIR")
    no_hardware: bool = _off("Omit hardware details from records.")
    packed: Literal["same", "plain"] = _field(
        "same",
        "Edited matrices of a quantised checkpoint: in the same format again, or plain (unquantised).",
    )
    yes: bool = _off("Ask nothing; use the default answers.")
    json_lines: bool = _off(
        "Write JSON to standard output: one line for each event, or the result of the command."
    )

    @classmethod
    def placed(cls, values: Mapping[str, PlacedValue]) -> Settings:
        """The settings with these values, by field, which know the place of each. Raises ValidationError."""
        settings = cls.model_validate({field: each.value for field, each in values.items()})
        settings._places = Places(values)
        return settings

    def naming_places(self) -> AbstractContextManager[None]:
        """A context in which an error about one of these settings names the place of its value."""
        return naming(self._places.of)

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

    @field_validator("judge")
    @classmethod
    def _check_judge(cls, judge: str | None) -> str | None:
        if judge is not None:
            JudgeName.parse(judge)
        return judge

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

    @field_validator("objectives")
    @classmethod
    def _few_objectives(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        if len(names) > _MOST_OBJECTIVES:
            raise ValueError(
                f"{len(names)} objectives; give two or three, and name the others with --report"
            )
        if len(set(names)) < len(names):
            raise ValueError("an objective is given twice")
        return names

    @field_validator("kinds")
    @classmethod
    def _unique_kinds(cls, kinds: tuple[Kind, ...]) -> tuple[Kind, ...]:
        return tuple(dict.fromkeys(kinds))

    @field_validator("markers")
    @classmethod
    def _normalise_markers(cls, markers: tuple[str, ...] | None) -> tuple[str, ...] | None:
        """Normalise markers like the answers that they are compared with."""
        if markers is None:
            return None
        normal = tuple(normalise(marker) for marker in markers)
        if not all(normal):
            # Every answer contains the empty phrase, so every answer would count as a refusal.
            raise ValueError("a marker may not be empty")
        return normal
