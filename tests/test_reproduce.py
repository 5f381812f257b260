"""`reproduce.json`, and models made again from it: the same, within rounding, or different."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from cli_helpers import rewrite
from conftest import tiny_model, tiny_tokenizer, write_prompts
from excise.app.rebuild import settings_of
from excise.cli.main import main
from excise.cli.reproduce_command import lines
from excise.config import Inputs
from excise.errors import ReproductionError
from excise.reproduce.compare import TOLERANCE, compare_records
from excise.reproduce.fingerprint import fingerprint, sketch
from excise.reproduce.record import Reproduction, read_reproduction

pytest_plugins = ["cli_support"]
PARTS = ("train", "search", "held_out")
pytestmark = pytest.mark.usefixtures("elsewhere")


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory, small: list[str]) -> Path:
    """Folder of a run, a saved model and a saved adapter. Tests must not change it."""
    folder = tmp_path_factory.mktemp("saved")
    places = ["--save", str(folder / "model"), "--adapter", str(folder / "adapter")]
    arguments = [*small, "--run-dir", str(folder / "run"), "--select", "knee", "--yes"]
    assert main([*arguments, *places]) == 0
    return folder


def loaded(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text(encoding="utf-8")))


def test_every_tensor_of_a_saved_model_is_on_record_with_the_hash_of_its_bytes(
    saved: Path, model_folder: Path
) -> None:
    record = read_reproduction(saved / "model")
    tensors = load_file(saved / "model" / "model.safetensors")
    assert record.tensors.keys() == tensors.keys()
    for name, tensor in tensors.items():
        raw = tensor.numpy().tobytes()
        assert record.tensors[name].sha256 == hashlib.sha256(raw).hexdigest()
        assert record.tensors[name].shape == tuple(tensor.shape)
    before = load_file(model_folder / "model.safetensors")
    changed = {name for name in before if not torch.equal(before[name], tensors[name])}
    assert changed == {name for name, one in record.tensors.items() if one.sketch is not None}
    for change in record.changes:
        (name,) = change.tensors
        assert change.size == pytest.approx(float((tensors[name] - before[name]).norm()), rel=1e-4)


def test_the_record_says_what_the_model_was_made_from(saved: Path, model_folder: Path) -> None:
    record = read_reproduction(saved / "adapter" / "reproduce.json")
    run = loaded(saved / "run" / "result.json")
    assert record.made == "adapter"
    assert record.model.name == str(model_folder)
    assert record.model.digest == loaded(saved / "run" / "run.json")["model_digest"]
    assert record.trial.number == run["chosen"]["trial"]
    assert record.settings.kinds == ("discriminant", "orthogonal")
    assert record.prompts.target.train.prompts == 8
    parts = [(kind, part) for kind in ("target", "control") for part in PARTS]
    assert len({record.prompts.part(*one).digest for one in parts}) == 6
    assert record.circumstances.versions["torch"] == torch.__version__
    assert record.circumstances.hardware is not None
    assert record.circumstances.hardware["threads"] == torch.get_num_threads()
    assert "held-out prompts" in record.figures
    assert "in the worst of 4 layers" in record.figures


def test_hardware_is_left_out_on_request(saved: Path, small: list[str], tmp_path: Path) -> None:
    out = tmp_path / "adapter"
    assert main(["export", str(saved / "run"), "--adapter", str(out), "--no-hardware"]) == 0
    assert "hardware" not in loaded(out / "reproduce.json")["circumstances"]
    run = tmp_path / "run"
    assert main([*small, "--run-dir", str(run), "--yes", "--no-hardware"]) == 0
    assert "hardware" not in loaded(run / "result.json")["circumstances"]


@pytest.mark.parametrize("made", ["model", "adapter"])
def test_made_again_on_the_same_machine_it_is_the_same(
    saved: Path, tmp_path: Path, made: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "again"
    assert main(["reproduce", str(saved / made), str(out)]) == 0
    assert "Same: all " in capsys.readouterr().out
    for path in sorted((saved / made).glob("*.safetensors")):
        assert (out / path.name).read_bytes() == path.read_bytes()
    again, before = read_reproduction(out), read_reproduction(saved / made)
    assert again.tensors == before.tensors
    assert again.trial == before.trial
    # The record of a model made again makes the model once more.
    assert main(["reproduce", str(out / "reproduce.json"), str(tmp_path / "more")]) == 0


def test_the_search_repeated_finds_the_same_model(
    saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "again"
    assert main(["reproduce", str(saved / "model"), str(out), "--repeat-search", "--json"]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["result"] == "same"
    assert "another way" not in captured.err
    trials = loaded(out.with_name("again-run") / "result.json")["trials"]
    assert len(trials) == read_reproduction(out).trial.completed


def rewritten(record: Reproduction, folder: Path, change: Any) -> Reproduction:
    """The record of the same files after `change` was made to their tensors."""
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    sketched = {name for name, one in record.tensors.items() if one.sketch is not None}
    names = {torch.float32: "F32", torch.float16: "F16"}
    found = {
        name: fingerprint(
            names[tensor.dtype],
            tuple(tensor.shape),
            tensor.numpy().tobytes(),
            [tensor] if name in sketched else None,
        )
        for name, tensor in tensors.items()
    }
    return record.model_copy(update={"tensors": found})


@pytest.mark.parametrize(
    ("factor", "sameness"), [(0.0, "same"), (0.2, "within rounding"), (3.0, "different")]
)
def test_how_far_an_edit_moved_decides(
    saved: Path, tmp_path: Path, factor: float, sameness: str
) -> None:
    shutil.copytree(saved / "model", tmp_path / "model")
    record = read_reproduction(tmp_path / "model")
    moved = record.changes[1]

    def move(tensors: dict[str, torch.Tensor]) -> None:
        (name,) = moved.tensors
        noise = torch.randn(tensors[name].shape, generator=torch.Generator().manual_seed(0))
        tensors[name] += noise / noise.norm() * moved.size * TOLERANCE["float32"] * factor

    found = compare_records(record, rewritten(record, tmp_path / "model", move))
    assert found.sameness == sameness
    if factor:
        (difference,) = found.differences
        assert difference.tensors == moved.tensors
        assert difference.share == pytest.approx(TOLERANCE["float32"] * factor, rel=0.5)
        assert found.same == found.tensors - 1


def test_tensors_that_were_not_edited_have_to_be_the_same(saved: Path, tmp_path: Path) -> None:
    shutil.copytree(saved / "model", tmp_path / "model")
    record = read_reproduction(tmp_path / "model")

    def touch(tensors: dict[str, torch.Tensor]) -> None:
        tensors["model.norm.weight"] += 1e-7
        tensors["model.extra"] = torch.zeros(2)
        del tensors["lm_head.weight"]
        tensors["model.embed_tokens.weight"] = tensors["model.embed_tokens.weight"].half()

    found = compare_records(record, rewritten(record, tmp_path / "model", touch))
    assert found.sameness == "different"
    reasons = {each.tensors[0]: each.why for each in found.differences}
    assert reasons.pop("model.embed_tokens.weight").startswith("was F32 [96,")
    assert reasons == {
        "lm_head.weight": "is missing in the rebuilt model",
        "model.extra": "is missing in the record",
        "model.norm.weight": "was not edited, but differs: the original is another model",
    }


def test_stored_in_few_bits_a_small_move_may_be_a_whole_spacing() -> None:
    """Numbers that move by a share of τ are stored a spacing apart here and there: within the bound."""
    torch.manual_seed(0)
    exact = torch.randn(200, 300)
    change = torch.outer(torch.randn(200), torch.randn(300)) * 0.05
    size = float(change.norm())
    moved = exact + change * (1 + TOLERANCE["float32"])
    records = []
    for one in (exact + change, moved):
        norm, numbers = sketch([one.bfloat16()])
        digest = hashlib.sha256(one.bfloat16().view(torch.int16).numpy().tobytes()).hexdigest()
        stored = {
            "dtype": "BF16",
            "shape": [200, 300],
            "sha256": digest,
            "norm": norm,
            "sketch": numbers,
        }
        records.append(_record({"w": stored}, size))
    found = compare_records(records[0], records[1])
    assert found.sameness == "within rounding"
    # It moved by far more than τ alone would allow: the second term is needed.
    assert found.differences[0].share is not None
    assert found.differences[0].share > 2 * TOLERANCE["float32"]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_of_a_16_bit_run_it_is_said_that_another_machine_is_enough_to_differ(dtype: str) -> None:
    def record(digest: str, number: float) -> Reproduction:
        stored = {"dtype": "F32", "shape": [1], "sha256": digest, "norm": 1.0, "sketch": [number]}
        made = _record({"w": stored}, 1.0)
        then = made.circumstances.model_copy(update={"dtype": dtype})
        return made.model_copy(update={"circumstances": then})

    recorded, rebuilt = record("a", 0.0), record("b", 0.5)
    said = " ".join(lines(recorded, rebuilt, compare_records(recorded, rebuilt)))
    assert "Different, by more than rounding explains" in said
    assert (f"{dtype}, in which another machine alone can cause" in said) == (dtype != "float32")


def _record(tensors: dict[str, Any], size: float) -> Reproduction:
    prompts = {"origin": "p", "revision": None, "prompts": 1, "digest": "0"}
    return Reproduction.model_validate(
        {
            "format": 1,
            "made": "model",
            "model": {"name": "m", "revision": None, "digest": "0"},
            "seed": 0,
            "settings": {"model": "m"},
            "settings_digest": "",
            "prompts": {kind: dict.fromkeys(PARTS, prompts) for kind in ("target", "control")},
            "trial": {"number": 0, "parameters": {}, "strengths": [], "completed": 1, "facts": {}},
            "circumstances": {
                "dtype": "float32",
                "batch_size": 1,
                "rows": 32,
                "response_prefix": "",
                "versions": {},
            },
            "written_with": {},
            "figures": "",
            "tensors": tensors,
            "changes": [{"tensors": list(tensors), "size": size}],
        }
    )


def test_a_sketch_is_linear_and_estimates_distances() -> None:
    torch.manual_seed(1)
    a, b = torch.randn(5000), torch.randn(5000) * 0.01
    of_a, of_b, of_both = (torch.tensor(sketch([one])[1]) for one in (a, b, a + b))
    assert torch.allclose(of_a + of_b, of_both, atol=1e-4)
    assert sketch([a])[0] == pytest.approx(float(a.norm()), rel=1e-6)
    estimates = [
        float(torch.tensor(sketch([torch.randn(5000)])[1]).square().sum()) / 5000
        for _ in range(200)
    ]
    # Unbiased, with a relative standard deviation of √(2/16) = 0.35 for one and 0.025 for the mean.
    assert sum(estimates) / 200 == pytest.approx(1, abs=0.1)


def test_a_sketch_does_not_depend_on_how_many_numbers_are_taken_at_a_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    values = torch.randn(1003)
    whole = sketch([values])[1]
    monkeypatch.setattr("excise.reproduce.fingerprint._CHUNK", 64)
    assert sketch([values])[1] == pytest.approx(whole)


def test_matrices_one_after_the_other_are_sketched_as_one_tensor() -> None:
    # Each begins at a multiple of 64, as if zeros stood between them.
    first, second = torch.randn(10, 7), torch.randn(3, 50)
    whole = torch.cat([first.flatten(), torch.zeros(58), second.flatten()])
    (norm, numbers), (expected_norm, expected) = sketch(iter((first, second))), sketch([whole])
    assert norm == pytest.approx(expected_norm)
    assert numbers == pytest.approx(expected)


@pytest.mark.parametrize(
    "dtype", [torch.bfloat16, torch.float8_e4m3fn, torch.int64, torch.bool, torch.float64]
)
@pytest.mark.parametrize("shape", [(3, 5), (), (0, 3)])
def test_every_data_type_has_a_fingerprint(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    tensor = (torch.randn(shape) * 3).to(dtype)
    raw = tensor.reshape(-1).view(torch.uint8).numpy().tobytes()
    found = fingerprint("X", shape, raw, [tensor])
    assert found.sha256 == hashlib.sha256(raw).hexdigest()
    assert found.norm == pytest.approx(float(tensor.to(torch.float64).norm()))


def test_prompts_and_models_that_have_moved_are_named_in_one_line(
    small: list[str],
    model_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    model, flags = tmp_path / "original", write_prompts(tmp_path / "prompts", 8)
    shutil.copytree(model_folder, model)
    sets = [f"--{name.replace('_', '-')}={path}" for name, path in flags.items()]
    rest = [one for one in small[1:] if not one.startswith(("--target", "--control"))]
    arguments = [str(model), *sets, *rest, "--run-dir", str(tmp_path / "run"), "--yes"]
    assert main([*arguments, "--adapter", str(tmp_path / "saved")]) == 0
    capsys.readouterr()

    def said(*flags: str) -> str:
        assert main(["reproduce", str(tmp_path / "saved"), str(tmp_path / "out"), *flags]) == 2
        assert not (tmp_path / "out").exists()
        (line,) = capsys.readouterr().err.splitlines()
        return line

    train = Path(flags["target_train"])
    train.rename(tmp_path / "moved.txt")
    assert f"{train}: no such file; if the prompts have moved, name their new place" in said()
    shutil.copyfile(flags["control_train"], train)
    tiny_model(seed=5).save_pretrained(model)
    line = said()
    assert f"the model {model} (was " in line
    assert f"the target train prompts ({train})" in line
    assert "control" not in line
    assert "the model" not in said("--from", str(model_folder))
    model.rename(tmp_path / "elsewhere")
    assert "no such folder" in (line := said())
    assert line.endswith("if the model has moved, name its new place (--from MODEL)")
    # Prompts that only the search saw do not matter.
    Path(flags["control_search"]).write_text("one song\ntwo lake\n", encoding="utf-8")
    now = ["--from", str(model_folder), "--target-train", str(tmp_path / "moved.txt")]
    assert main(["reproduce", str(tmp_path / "saved"), str(tmp_path / "out"), *now]) == 0
    out = capsys.readouterr().out
    assert (
        "these prompts differ from the recorded prompts, but are not needed: the control search prompts"
        in out
    )
    assert "Same: all " in out


def test_what_came_from_the_hub_is_read_at_the_recorded_commit(saved: Path) -> None:
    record = loaded(saved / "adapter" / "reproduce.json")
    record["settings"]["target_train"] = {"source": "owner/set", "split": "train[:8]"}
    record["prompts"]["target"]["train"]["revision"] = "abc"
    record["model"] |= {"name": "owner/model", "revision": "def"}
    then = Reproduction.model_validate(record)
    settings = settings_of(then, Inputs())
    assert settings.target_train is not None
    assert (settings.target_train.source, settings.target_train.revision) == ("owner/set", "abc")
    assert (settings.model, settings.revision) == ("owner/model", "def")
    assert settings.dtypes == ("float32",)
    now = settings_of(
        then, Inputs({"target_train": "mine.txt", "model": "./here", "control": "all.txt"})
    )
    assert (str(now.target_train), now.model, now.revision) == ("mine.txt", "./here", None)
    assert (str(now.control), now.control_train) == ("all.txt", None)


def test_a_record_of_format_1_is_read_with_the_names_of_today(saved: Path, tmp_path: Path) -> None:
    record = read_reproduction(saved / "model")
    content = json.loads(record.text())
    content["format"] = 1
    content["circumstances"]["search"] = "tpe"
    content["settings"]["kinds"] = ["discriminant_weighted", "orthogonal"]
    kind = record.trial.parameters["kind"]
    content["trial"]["parameters"]["kind"] = {"discriminant": "discriminant_weighted"}.get(
        kind, kind
    )
    old = tmp_path / "reproduce.json"
    old.write_text(json.dumps(content), encoding="utf-8")
    assert read_reproduction(old).model_copy(update={"format": 2}) == record
    content["settings"]["kinds"] = ["discriminant", "leace"]
    old.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(ReproductionError, match=r"\(discriminant_tokens, leace\)"):
        read_reproduction(old)


def test_a_record_that_is_missing_damaged_or_of_another_kind(
    saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def told(content: str | None) -> str:
        path = tmp_path / "reproduce.json"
        path.unlink(missing_ok=True)
        if content is not None:
            path.write_text(content, encoding="utf-8")
        with pytest.raises(ReproductionError) as caught:
            read_reproduction(path)
        return str(caught.value)

    record = loaded(saved / "adapter" / "reproduce.json")
    assert told(None).endswith("no such file")
    assert "damaged: not JSON" in told("{")
    assert "not a reproduce.json of excise" in told('{"format": "x"}')
    assert "format 9 is newer than this excise reads (2)" in told(
        json.dumps({**record, "format": 9})
    )
    assert "damaged: seed: " in told(json.dumps({**record, "seed": "many"}))
    del (lacking := {**record, "prompts": {**record["prompts"]}})["prompts"]["control"]
    assert "damaged: prompts.control: Field required" in told(json.dumps(lacking))
    strange = {**record["settings"], "quantization": "three bits"}
    assert "damaged: settings.quantization: " in told(json.dumps({**record, "settings": strange}))
    assert "damaged: settings: " in told(json.dumps({**record, "settings": 3}))
    empty = json.dumps({**record, "tensors": {}})
    assert "holds no tensors and cannot be compared" in told(empty)
    # What a later version adds is left alone.
    assert told(json.dumps({**record, "made": "gguf"})).endswith("'model' or 'adapter'")
    (tmp_path / "reproduce.json").write_text(json.dumps({**record, "later": 1}))
    assert read_reproduction(tmp_path).seed == 0
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    assert main(["reproduce", str(saved / "adapter"), str(tmp_path / "full")]) == 2
    assert "already exists and is not empty" in capsys.readouterr().err


def test_a_record_that_lacks_a_setting_takes_its_default(saved: Path) -> None:
    record = loaded(saved / "adapter" / "reproduce.json")
    del record["settings"]["quantization"], record["packed"]
    then = Reproduction.model_validate(record)
    assert settings_of(then, Inputs()).quantization == "none"
    assert then.packed == "same"


def test_a_file_does_not_decide_that_code_is_run(
    saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record = loaded(saved / "adapter" / "reproduce.json")
    record["settings"]["trust_remote_code"] = True
    (tmp_path / "reproduce.json").write_text(json.dumps(record))
    assert main(["reproduce", str(tmp_path), str(tmp_path / "out")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "reproduce.json: trust_remote_code: asks to run code that comes with" in line
    assert line.endswith("type --trust-remote-code on this command line to run it")
    assert not (tmp_path / "out").exists()
    then = read_reproduction(tmp_path)
    assert settings_of(then, Inputs({"trust_remote_code": True})).trust_remote_code


def test_records_without_tensors_are_not_the_same() -> None:
    empty = _record({}, 0.0)
    with pytest.raises(ReproductionError, match="cannot be compared"):
        compare_records(empty, empty)


def test_a_run_of_an_older_excise_is_told_how_to_record_it(
    saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(saved / "run", tmp_path / "run")
    record = loaded(tmp_path / "run" / "result.json")
    del record["circumstances"]
    rewrite(tmp_path / "run" / "result.json", record)
    assert main(["export", str(tmp_path / "run"), "--adapter", str(tmp_path / "out")]) == 2
    assert "run the command that made it once more" in capsys.readouterr().err
    shutil.copyfile(saved / "run" / "result.json", tmp_path / "run" / "result.json")
    identity = loaded(tmp_path / "run" / "run.json")
    identity["settings"]["later"] = 1
    rewrite(tmp_path / "run" / "run.json", identity)
    assert main(["export", str(tmp_path / "run"), "--adapter", str(tmp_path / "out")]) == 2
    assert "is damaged or of another version of excise: later: " in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_different_edit_has_the_exit_status_of_one(
    saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record = loaded(saved / "adapter" / "reproduce.json")
    record["trial"]["strengths"] = [one * 0.9 for one in record["trial"]["strengths"]]
    (tmp_path / "reproduce.json").write_text(json.dumps(record))
    assert main(["reproduce", str(tmp_path), str(tmp_path / "out")]) == 4
    out = capsys.readouterr().out
    assert "Different, by more than rounding explains" in out
    assert "lora_B.weight: 1" in out
    assert "% of its size (rounding: up to 0.5" in out
    record["trial"]["strengths"] = [one * (1 + 1e-3) for one in record["trial"]["strengths"]]
    record["trial"]["strengths"] = [one / 0.9 for one in record["trial"]["strengths"]]
    (tmp_path / "reproduce.json").write_text(json.dumps(record))
    assert main(["reproduce", str(tmp_path), str(tmp_path / "near")]) == 3
    assert "Within rounding: the edit differs by at most 0." in capsys.readouterr().out


def test_experts_stored_one_by_one_are_one_change_of_many_tensors(
    small: list[str], tmp_path: Path
) -> None:
    from zoo import tiny

    folder = tmp_path / "experts"
    tiny("qwen2_moe").save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    # An orthogonal edit of every layer's experts, whatever a search would choose.
    arguments = [str(folder), *small[1:], "--run-dir", str(tmp_path / "run"), "--yes"]
    assert main([*arguments, "--kind", "orthogonal", "--adapter", str(tmp_path / "adapter")]) == 0
    record = loaded(tmp_path / "adapter" / "reproduce.json")
    record["made"] = "model"
    record["trial"]["strengths"] = [0.5] * len(record["trial"]["strengths"])
    (tmp_path / "reproduce.json").write_text(json.dumps(record))
    assert main(["reproduce", str(tmp_path), str(tmp_path / "model")]) == 4
    record = read_reproduction(tmp_path / "model")
    before = load_file(folder / "model.safetensors")
    after = load_file(tmp_path / "model" / "model.safetensors")
    largest = max(record.changes, key=lambda change: len(change.tensors))
    assert len(largest.tensors) > 1
    for change in record.changes:
        gaps = [float((after[name] - before[name]).square().sum()) for name in change.tensors]
        assert change.size == pytest.approx(sum(gaps) ** 0.5, rel=1e-3)
