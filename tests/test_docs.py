"""The code blocks of README.md, CONTRIBUTING.md and docs/, page by page.

Python runs. TOML and JSON are parsed, and a page's settings are validated. Of a shell block, every line has
to be a known command; a line of excise goes through the real command line, and what works on the local files
of these tests also runs. A block behind `<!-- not checked: REASON -->` is left alone.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from markdown_it import MarkdownIt

import excise
from conftest import tiny_model, tiny_tokenizer, write_prompts
from excise.cli.command import app, joined
from excise.cli.main import main
from excise.cli.mistakes import command_first
from excise.config import Settings, gather

pytest_plugins = ["cli_support"]

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
LANGUAGES = {"bash", "console", "json", "python", "text", "toml"}
"""`text` is output, formulas and other things that nothing runs."""
OTHER_COMMANDS = {"pip", "git", "cd", "vllm", "llama-server", "ollama"}
"""Commands of other programs that a page may name; they do not run here."""
ONLY_PARSED = {"upload", "demo", "bench", "chat"}
"""Commands of excise that need a network, minutes, or somebody who types."""
QUICK = {
    "EXCISE_TRIALS": "3",
    "EXCISE_STARTUP_TRIALS": "2",
    "EXCISE_MAX_NEW_TOKENS": "4",
    "EXCISE_BATCH_SIZE": "8",
    "EXCISE_DTYPE": "float32",
    "EXCISE_ALLOW_ABSENT": "true",
}
"""What makes the runs of the pages short. Flags on a page win over it, except --trials."""
_MARK = re.compile(r"<!-- not checked: (?P<reason>\S.*?) -->\s*", re.DOTALL)
_HUB = re.compile(r"[A-Za-z]\w*/[\w.-]+(:.*)?")
_MODEL_JUDGE = re.compile(r"(hf|llm|openai):.+")
_PLACEHOLDER = re.compile(r"[A-Z_]+(:[A-Z_]+)?")


@dataclass(frozen=True)
class Block:
    """A fenced block. line: where it begins in the page, from 1. checked: False behind a mark."""

    language: str
    text: str
    line: int
    checked: bool


def blocks_of(text: str) -> Iterator[Block]:
    """All blocks of code of a page, fenced ones and indented ones."""
    marked = False
    for token in MarkdownIt("commonmark").parse(text):
        line = 1 if token.map is None else token.map[0] + 1
        if token.type == "fence":
            yield Block(token.info.strip(), token.content, line, not marked)
        elif token.type == "code_block":
            yield Block("indented", token.content, line, not marked)
        marked = token.type == "html_block" and _MARK.fullmatch(token.content) is not None


def commands_of(block: Block) -> list[list[str]]:
    """The words of each command of a shell block, comments left out. Of a console block, what is typed."""
    text = block.text
    if block.language == "console":
        text = "\n".join(line[2:] for line in text.splitlines() if line.startswith("$ "))
    lines = text.replace("\\\n", " ").splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True))]


@pytest.fixture(scope="session")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with everything that the pages name: models, prompt files, a run, an edit file."""
    folder = tmp_path_factory.mktemp("pages")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for name, value in QUICK.items():
            patch.setenv(name, value)
        model = tiny_model()
        model.save_pretrained("my-model")
        tiny_tokenizer().save_pretrained("my-model")
        files = write_prompts(folder, 60)
        for name, part in (
            ("refused", "target"),
            ("disclaimed", "target"),
            ("ordinary", "control"),
        ):
            texts = [Path(path).read_text("utf-8") for key, path in files.items() if part in key]
            Path(f"{name}.txt").write_text("".join(texts), "utf-8")
        shutil.copy("ordinary.txt", "questions.txt")
        answer = {"prompt": "How?", "answer": "I'm sorry, I can't help.", "label": "refusal"}
        Path("answers.jsonl").write_text(json.dumps(answer), "utf-8")
        sets = ["--target", "refused.txt", "--control", "ordinary.txt"]
        assert main(["./my-model", *sets, "--run-dir", "runs/my-run", "--yes"]) == 0
        assert main(["export", "runs/my-run", "--save", "my-edited-model"]) == 0
        edit = next(Path("runs/my-run").glob("edit-*.safetensors"))
        shutil.copy(edit, "my-edit.safetensors")
    return folder


@pytest.fixture
def place(workshop: Path, tmp_path: Path, elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory of a page's own, with copies of what the pages name."""
    shutil.copytree(workshop, tmp_path, dirs_exist_ok=True)
    for name, value in QUICK.items():
        monkeypatch.setenv(name, value)
    # The tiny model shows no behaviour.
    monkeypatch.setattr(excise.Experiment, "require_behaviour", lambda self: None)
    return tmp_path


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_blocks_of_a_page(page: Path, request: pytest.FixtureRequest) -> None:
    blocks = list(blocks_of(page.read_text(encoding="utf-8")))
    unknown = [(one.language, one.line) for one in blocks if one.language not in LANGUAGES]
    assert not unknown, f"{page}: blocks are fenced and say one of {sorted(LANGUAGES)}: {unknown}"
    if any(one.language != "text" for one in blocks):
        folder = request.getfixturevalue("place")
        if any("--save my-edited-model" in one.text for one in blocks):
            # The page makes this folder itself.
            shutil.rmtree(folder / "my-edited-model")
        names: dict[str, object] = {"y": torch.linspace(-1, 1, 32)}
        for block in blocks:
            if block.checked:
                _check(block, names, folder, f"{page}:{block.line}")


def _check(block: Block, names: dict[str, object], folder: Path, where: str) -> None:
    if block.language == "python":
        text = re.sub(r"\btrials=\d+", "trials=3", block.text)
        exec(compile("\n" * block.line + text, where, "exec"), names)
    elif block.language == "json":
        json.loads(block.text)
    elif block.language == "toml":
        _check_settings(block.text, folder)
    elif block.language in ("bash", "console"):
        for words in commands_of(block):
            _check_command(words, where)


def _check_settings(text: str, folder: Path) -> None:
    """The text is TOML, and holds settings that excise takes."""
    path = folder / "page.toml"
    path.write_text(text, encoding="utf-8")
    tomllib.loads(text)
    try:
        gather({"model": "./my-model"}, {}, path)
    finally:
        path.unlink()


def _check_command(words: Sequence[str], where: str) -> None:
    words = list(words)
    while re.match(r"[A-Z_]+=", words[0]):
        words.pop(0)
    if ">" in words:
        words = words[: words.index(">")]
    program = Path(words[0]).name
    if program == "excise":
        _check_excise(words[1:], where)
    elif program == "make":
        _check_targets(words[1:], where)
    elif program == "python":
        _check_python(words[1:], where)
    else:
        assert program in OTHER_COMMANDS, f"{where}: {program}: not in the list of commands"


def _check_excise(arguments: Sequence[str], where: str) -> None:
    """The real command line takes the words; commands on the local files of these tests run."""
    name = _require_valid(arguments)
    remote = [
        one for one in arguments if _HUB.fullmatch(one) and not Path(one.split(":")[0]).exists()
    ]
    remote += [one for one in arguments if _MODEL_JUDGE.fullmatch(one)]
    made_up = [one for one in arguments if _PLACEHOLDER.fullmatch(one)]
    if not (remote or made_up or name in ONLY_PARSED):
        assert main(_quick(arguments)) == 0, f"{where}: excise {shlex.join(arguments)}"


def _quick(arguments: Sequence[str]) -> list[str]:
    """The same command line without --trials N, for which `QUICK` has a small number."""
    words = list(arguments)
    if "--trials" in words:
        del words[words.index("--trials") : words.index("--trials") + 2]
    return words


def _require_valid(arguments: Sequence[str]) -> str:
    """Raise unless the command line takes the words and the settings their values; returns the command."""
    command, bound, _ = app.parse_args(
        command_first(arguments), exit_on_error=False, print_error=False
    )
    typed = joined(bound.kwargs)
    settings = {name: one for name, one in typed.items() if name in Settings.model_fields}
    gather({"model": "./my-model", **settings}, {}, None)
    return "" if command.__name__ == "run" else command.__name__


def _check_targets(words: Sequence[str], where: str) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for word in words:
        assert "=" in word or re.search(rf"^{word}:", makefile, re.MULTILINE), (
            f"{where}: make {word}"
        )


def _check_python(words: Sequence[str], where: str) -> None:
    """Scripts, modules and paths that a line of Python names exist in the repository."""
    module = words[1] if words[0] == "-m" else None
    if module is not None and module != "pytest":
        assert (ROOT / f"{module.replace('.', '/')}.py").exists(), f"{where}: {module}"
    for word in words:
        if "/" in word and not word.startswith("-"):
            assert (ROOT / word.partition("::")[0]).exists(), (
                f"{where}: {word}: there is no such file"
            )


@pytest.mark.parametrize(
    "text",
    [
        "```bash\nexcise ./my-model --no-such-flag\n```",
        "```bash\nexcise show no-such-edit.safetensors\n```",
        "```bash\nmake no-such-target\n```",
        "```bash\nno-such-command\n```",
        "```bash\npython bench/no_such_script.py\n```",
        "```python\nraise ValueError\n```",
        "```toml\nno_such_setting = 1\n```",
        "```json\n{\n```",
    ],
)
def test_a_block_that_is_wrong_fails(text: str, place: Path) -> None:
    (block,) = blocks_of(text)
    with pytest.raises(Exception):  # noqa: B017, PT011 - whatever the block raises
        _check(block, {}, place, "page")


def test_a_mark_needs_a_reason_and_stands_for_one_block() -> None:
    marked = "<!-- not checked: needs a GPU -->\n\n```bash\na\n```\n\n"
    text = f"{marked}```bash\nb\n```\n<!-- not checked: -->\n\n    c\n"
    assert [(one.language, one.checked) for one in blocks_of(text)] == [
        ("bash", False),
        ("bash", True),
        ("indented", True),
    ]
