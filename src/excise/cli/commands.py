"""The commands: their words, their flags, and what they do in one line. Declared here, once."""

from __future__ import annotations

from dataclasses import dataclass

from excise.config import flags


@dataclass(frozen=True)
class Group:
    """A heading of the help text and the settings under it, by field."""

    title: str
    fields: tuple[str, ...]


MODEL = Group(
    "The model",
    (
        "revision",
        "dtype",
        "dtypes",
        "device",
        "quantization",
        "max_memory",
        "offload_folder",
        "trust_remote_code",
        "chat_template",
        "template_arguments",
        "system_prompt",
        "writers",
        "config_only",
        "allow_partial",
        "allow_absent",
    ),
)
PROMPTS = Group(
    "Prompts  (SET: a .txt, .jsonl, .csv or .parquet file, a folder, or a data set on the hub, with a part "
    "such as FILE[:400] or NAME:train[:400])",
    (
        "target",
        "control",
        "target_train",
        "target_search",
        "target_held_out",
        "control_train",
        "control_search",
        "control_held_out",
        "column",
        "prefix",
        "suffix",
    ),
)
DIRECTION = Group(
    "The direction", ("kinds", "directions", "direction_from", "winsorise", "orthogonalise")
)
SEARCH = Group(
    "The search",
    ("trials", "startup_trials", "seed", "seeds", "search_seconds", "run_dir"),
)
SCORES = Group(
    "Scoring",
    ("max_new_tokens", "batch_size", "candidates", "exhaustive", "response_prefix", "markers"),
)
RESULT = Group("The result", ("select", "save", "adapter", "packed", "no_hardware"))
OUTPUT = Group("Output", ("yes", "json_lines"))

GROUPS = (MODEL, PROMPTS, DIRECTION, SEARCH, SCORES, RESULT, OUTPUT)


@dataclass(frozen=True)
class OwnFlag:
    """A flag that is no setting. name: as typed, without dashes. metavar: empty for a switch."""

    name: str
    metavar: str
    description: str


@dataclass(frozen=True)
class Command:
    """A command of the command line.

    usage: its words, as in the help text. least, most: how many words it takes after its name.
    fields: the settings that have a flag here. own: flags that are no settings. note: what its help text
    says at the end.
    """

    name: str
    usage: str
    summary: str
    least: int
    most: int
    fields: frozenset[str]
    own: tuple[OwnFlag, ...] = ()
    note: str = ""


def _all_fields() -> frozenset[str]:
    return frozenset(flag.field for flag in flags()) - {"model", "config_only"}


_LOADING = frozenset(MODEL.fields) - {"writers", "config_only", "allow_partial", "allow_absent"}

RUN = Command(
    "",
    "MODEL",
    "find the behaviour's direction, search, remove it, save the model",
    0,
    1,
    _all_fields(),
)
DEMO = Command(
    "demo", "", "the same on a small built-in model, in about five minutes", 0, 0, _all_fields()
)
INSPECT = Command(
    "inspect",
    "MODEL",
    "show layers, matrices and coverage; no search",
    0,
    1,
    _LOADING | {"writers", "config_only", "json_lines"},
)
EVALUATE = Command(
    "evaluate",
    "MODEL --against ORIGINAL",
    "compare two models: refusals and KL divergence",
    0,
    1,
    _LOADING | set(PROMPTS.fields) | set(SCORES.fields) | {"seed", "json_lines"},
    (OwnFlag("against", "ORIGINAL", "The model to compare with; required."),),
)
BENCH = Command(
    "bench",
    "MODEL|demo",
    "measure a run on this machine: seconds, tokens a second and memory of each stage",
    0,
    1,
    _LOADING
    | set(PROMPTS.fields)
    | set(DIRECTION.fields)
    | set(SCORES.fields)
    | {"writers", "trials", "seed", "json_lines"},
)
CHAT = Command(
    "chat",
    "RUN[:TRIAL]|MODEL",
    "talk to a model, or to a run's edit of its model",
    1,
    1,
    _LOADING | {"max_new_tokens", "select"},
    (
        OwnFlag(
            "generation-config",
            "greedy|model",
            "Say the most probable token, as where answers are scored, or follow the model's own generation "
            "configuration (sampling, penalties, beams), as servers do. Default: greedy.",
        ),
    ),
)
COMPARE = Command(
    "compare",
    "RUN[:TRIAL] RUN[:TRIAL]",
    "do two edits differ by more than chance? On held-out prompts, in pairs",
    2,
    2,
    _LOADING | {"max_new_tokens", "batch_size", "json_lines"},
)
EXPORT = Command(
    "export",
    "RUN[:TRIAL]|EDIT [MODEL] --save DIR|--adapter DIR",
    "write a run's edit as a model or an adapter, or an edit file as an adapter",
    1,
    2,
    _LOADING | set(RESULT.fields) | {"writers", "json_lines"},
    (OwnFlag("force", "", "Write an edit file's adapter for another model than its own."),),
)
DIFF = Command(
    "diff",
    "A B",
    "what differs between two checkpoints, at which rank, by which edit",
    2,
    2,
    frozenset(("revision", "trust_remote_code", "writers", "json_lines")),
    (
        OwnFlag("undo", "DIR", "Write an adapter that turns B back into A."),
        OwnFlag("edit", "FILE", "Keep the difference as an edit file of A."),
    ),
)
SHOW = Command(
    "show",
    "EDIT|RUN[:TRIAL]",
    "print an edit: base, figures, strengths over layers",
    1,
    1,
    frozenset(("json_lines",)),
    (
        OwnFlag(
            "plot", "FILE", "Plot strengths and directions over layers to this .png or .svg file."
        ),
    ),
)
UPLOAD = Command(
    "upload",
    "RUN[:TRIAL]|DIR --to OWNER/NAME",
    "put a saved model or adapter, or a run's edit, on the hub",
    1,
    1,
    _LOADING | {"writers", "select", "no_hardware", "yes", "json_lines"},
    (
        OwnFlag("to", "OWNER/NAME", "The repository; it is made if there is none. Required."),
        OwnFlag("as", "model|adapter", "What to write of a run. Default: model."),
        OwnFlag("public", "", "Make the new repository public; private without it."),
        OwnFlag("force", "", "Replace what the repository holds already."),
    ),
    "The token is had through HF_OIDC_RESOURCE if that is set, or else read from HF_TOKEN, "
    "HUGGING_FACE_HUB_TOKEN or what `hf auth login` keeps, or else asked for on a terminal; --yes and --json "
    "are for scripts: nothing is asked, and without a token the command fails.",
)
REPRODUCE = Command(
    "reproduce",
    "FILE DIR",
    "make a saved model again from its reproduce.json, and compare the two",
    2,
    2,
    (_LOADING - {"revision", "dtype", "dtypes", "quantization", "system_prompt"})
    | set(PROMPTS.fields[2:8])
    | {"target", "control", "no_hardware", "json_lines"},
    (
        OwnFlag("from", "MODEL", "Where the original model lies now, if it has moved."),
        OwnFlag("repeat-search", "", "Search again too, instead of taking the trial's parameters."),
    ),
)
APPLY = Command(
    "apply",
    "EDIT|RUN[:TRIAL] MODEL OUT",
    "write the edited copy of a checkpoint, shard by shard, without loading it",
    3,
    3,
    frozenset(("revision", "trust_remote_code", "writers", "packed", "yes", "json_lines")),
    (OwnFlag("force", "", "Apply to another checkpoint than the edit's own."),),
)
RUNS = Command("runs", "[ROOT]", "list the runs on disk", 0, 1, frozenset(("json_lines",)))

NAMED = {
    command.name: command
    for command in (
        DEMO,
        INSPECT,
        BENCH,
        EVALUATE,
        COMPARE,
        DIFF,
        CHAT,
        SHOW,
        EXPORT,
        APPLY,
        UPLOAD,
        REPRODUCE,
        RUNS,
    )
}
"""The commands that have a name; any other first word is a model."""
