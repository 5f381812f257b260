"""The kinds of file that excise reads: how a good one is made, and the calls that read it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

import pyarrow
import pyarrow.parquet
from safetensors import safe_open
from safetensors.torch import save_file
from transformers import AutoTokenizer

import fuzz_mutators
from excise.checkpoint.gguf_file import read_gguf
from excise.hub.folder import open_upload
from excise.models.chat import Chat
from excise.models.template import choose_template
from excise.prompts.read import PromptDefaults, read
from excise.prompts.sets import Prompt
from excise.prompts.source import PromptSource
from excise.search.study import Proposals
from excise.store.stored_study import open_study
from fuzz_guard import Outcome, called, ran
from fuzz_mutators import Mutator

PROMPTS = tuple(
    f"How do I bake a {thing} in a red pot?" for thing in ("cake", "fish", "bread", "pie")
)


@dataclass(frozen=True)
class Kind:
    """A kind of file.

    damaged: the file that is damaged, inside the folder `good`. use: reads it and all around it, given a
    folder that is a copy of `good`. guarded: whether excise can tell any damage, so that a result has to be
    that of the good file.
    """

    good: Path
    damaged: str
    use: Callable[[Path, int], list[Outcome]]
    mutators: tuple[Mutator, ...]
    guarded: bool = False


def kinds(root: Path, model: Path, sharded: Path, gguf: Path, run: Path) -> Mapping[str, Kind]:
    """All kinds, their good files in folders under `root`.

    model, sharded: folders with a tiny checkpoint, the latter with an index. gguf: a tiny GGUF file. run: a
    finished run directory.
    """
    edit = next(run.glob("edit-*.safetensors")).name
    adapter = root / "adapter"
    made = called(["export", str(run), "--adapter", str(adapter / "folder")], 0)
    assert made.status == 0, made
    whole = {
        name: _copied(run, root / name / "run") for name in ("edit", "run", "result", "journal")
    }
    found = {
        "edit": Kind(
            whole["edit"].parent, f"run/{edit}", _show_edit(edit), fuzz_mutators.BINARY, True
        ),
        "old edit": Kind(
            _with_old_edit(run / edit, root / "old edit"),
            f"run/{edit}",
            _show_edit(edit),
            fuzz_mutators.BINARY,
        ),
        **_old_run_kinds(run, root),
        "run": Kind(whole["run"].parent, "run/run.json", _read_run, fuzz_mutators.JSON, True),
        "result": Kind(
            whole["result"].parent, "run/result.json", _read_run, fuzz_mutators.JSON, True
        ),
        "journal": Kind(
            whole["journal"].parent, "run/journal.log", _read_study, fuzz_mutators.JSON, True
        ),
        "adapter": Kind(adapter, "folder/adapter_config.json", _upload, fuzz_mutators.JSON),
        "adapter weights": Kind(
            adapter, "folder/adapter_model.safetensors", _upload, fuzz_mutators.BINARY
        ),
        "record": Kind(adapter, "folder/reproduce.json", _upload, fuzz_mutators.JSON),
        "config": Kind(
            _copied(model, root / "config" / "model").parent,
            "model/config.json",
            _inspect,
            fuzz_mutators.JSON,
        ),
    }
    for name, file in (("weights", "model.safetensors"),):
        folder = _copied(model, root / name / "model").parent
        shutil.copy(run / edit, folder / "edit.safetensors")
        found[name] = Kind(folder, f"model/{file}", _apply, fuzz_mutators.BINARY)
    folder = _copied(sharded, root / "index" / "model").parent
    shutil.copy(run / edit, folder / "edit.safetensors")
    found["index"] = Kind(folder, "model/model.safetensors.index.json", _apply, fuzz_mutators.JSON)
    folder = root / "gguf"
    folder.mkdir(parents=True)
    shutil.copy(gguf, folder / "model.gguf")
    found["gguf"] = Kind(folder, "model.gguf", _inspect_gguf, fuzz_mutators.BINARY)
    found |= _prompt_kinds(root)
    found["template"] = _template_kind(root, model)
    return found


def _old_run_kinds(run: Path, root: Path) -> dict[str, Kind]:
    """The files of a run directory as format 4 had them, without checksums."""
    found: dict[str, Kind] = {}
    for name, file, use in (
        ("old run", "run.json", _read_run),
        ("old result", "result.json", _read_run),
        ("old journal", "journal.log", _read_study),
    ):
        folder = _copied(run, root / name / "run")
        for other in ("run.json", "result.json"):
            content = json.loads((folder / other).read_text(encoding="utf-8")) | {"format": 4}
            del content["sha256"]
            (folder / other).write_text(json.dumps(content, indent=1), encoding="utf-8")
        lines = [
            json.loads(line)
            for line in (folder / "journal.log").read_text(encoding="utf-8").splitlines()
        ]
        bare = [{key: value for key, value in line.items() if key != "crc"} for line in lines]
        text = "".join(json.dumps(line) + "\n" for line in bare)
        (folder / "journal.log").write_text(text, encoding="utf-8")
        found[name] = Kind(folder.parent, f"run/{file}", use, fuzz_mutators.JSON)
    return found


def _with_old_edit(edit: Path, folder: Path) -> Path:
    """A folder with the edit as format 3 had it, without a checksum."""
    (folder / "run").mkdir(parents=True)
    with safe_open(edit, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in ("u", "v", "strengths")}
        header = json.loads(file.metadata()["excise"]) | {"format": 3}
    del header["sha256"]
    save_file(tensors, folder / "run" / edit.name, {"excise": json.dumps(header)})
    return folder


def _copied(folder: Path, destination: Path) -> Path:
    return Path(shutil.copytree(folder, destination))


def _prompt_kinds(root: Path) -> dict[str, Kind]:
    contents = {
        "txt": ("\n".join(PROMPTS) + "\n").encode(),
        "csv": (
            "id,text\n" + "".join(f'{n},"{text}"\n' for n, text in enumerate(PROMPTS))
        ).encode(),
        "jsonl": "".join(json.dumps({"text": text, "id": 3}) + "\n" for text in PROMPTS).encode(),
        "json": json.dumps([{"messages": chat, "topic": "food"} for chat in _chats()]).encode(),
    }
    found: dict[str, Kind] = {}
    for name, content in contents.items():
        folder = root / name
        folder.mkdir(parents=True)
        (folder / f"prompts.{name}").write_bytes(content)
        how = fuzz_mutators.JSON if name in ("json", "jsonl") else fuzz_mutators.TEXT
        found[name] = Kind(folder, f"prompts.{name}", _read_prompts(f"prompts.{name}"), how)
    texts = {"text": list(PROMPTS), "id": list(range(len(PROMPTS)))}
    for name, table in (("parquet", texts), ("parquet of chats", {"messages": _chats()})):
        folder = root / name
        folder.mkdir(parents=True)
        pyarrow.parquet.write_table(pyarrow.table(table), folder / "prompts.parquet")
        found[name] = Kind(
            folder, "prompts.parquet", _read_prompts("prompts.parquet"), fuzz_mutators.BINARY
        )
    return found


def _chats() -> list[list[dict[str, str]]]:
    return [
        [{"role": "system", "content": "Be brief."}, {"role": "user", "content": text}]
        for text in PROMPTS
    ]


def _template_kind(root: Path, model: Path) -> Kind:
    folder = root / "template"
    folder.mkdir(parents=True)
    tokenizer = AutoTokenizer.from_pretrained(model)
    (folder / "chat.jinja").write_text(str(tokenizer.chat_template), encoding="utf-8")

    def use(place: Path, size: int) -> list[Outcome]:
        def encode() -> object:
            own = deepcopy(tokenizer)
            call, _ = choose_template(own, str(place / "chat.jinja"), {}, None)
            return Chat(own, "", call).encode([Prompt("hello", None)])

        return [ran(encode, size)]

    return Kind(folder, "chat.jinja", use, fuzz_mutators.TEXT)


def _show_edit(name: str) -> Callable[[Path, int], list[Outcome]]:
    def use(place: Path, size: int) -> list[Outcome]:
        path = str(place / "run" / name)
        return [called(["show", path], size), called(["show", path, "--json"], size)]

    return use


def _read_run(place: Path, size: int) -> list[Outcome]:
    return [
        called(["show", f"{place / 'run'}:fewest"], size),
        called(["runs", str(place), "--json"], size),
    ]


def _read_study(place: Path, size: int) -> list[Outcome]:
    return [ran(lambda: open_study(place / "run" / "journal.log", Proposals(0, 2)).trials(), size)]


def _upload(place: Path, size: int) -> list[Outcome]:
    return [ran(lambda: open_upload(place / "folder").made, size)]


def _inspect(place: Path, size: int) -> list[Outcome]:
    return [called(["inspect", str(place / "model"), "--config-only"], size)]


def _inspect_gguf(place: Path, size: int) -> list[Outcome]:
    return [ran(lambda: read_gguf(place / "model.gguf"), size)]


def _apply(place: Path, size: int) -> list[Outcome]:
    words = [str(place / "edit.safetensors"), str(place / "model"), str(place / "out")]
    return [called(["apply", *words, "--force"], size)]


def _read_prompts(name: str) -> Callable[[Path, int], list[Outcome]]:
    def use(place: Path, size: int) -> list[Outcome]:
        return [ran(lambda: read(PromptSource(source=str(place / name)), PromptDefaults()), size)]

    return use
