"""Check every causal-LM type of the installed transformers, and write docs/reference/architectures.md.

    python scripts/sweep.py                 all types, those checked before by this very code left out
    python scripts/sweep.py --shard 1/4     every fourth of them, from the first on
    python scripts/sweep.py llama mamba     only these
    python scripts/sweep.py --update NAME … only these, and put them on the page as it is

Results lie in .sweep/, one file a type, named after a digest of the code that they depend on. The page is
written once every type has one.
"""

# ruff: noqa: E402 - the checks are the tests' own
from __future__ import annotations

import argparse
import hashlib
import json
import sys
import tempfile
import traceback
from dataclasses import asdict
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

import torch
import transformers
from transformers.utils import logging

from architectures_page import PAGE, page, updated
from sweep import MismatchError, Row, check
from zoo import MODEL_TYPES

CACHE = ROOT / ".sweep"
_DEPENDS_ON = (
    "src/excise/anatomy",
    "src/excise/edits",
    "src/excise/engine",
    "src/excise/models",
    "tests/zoo*.py",
    "tests/sweep.py",
)


def digest() -> str:
    """16 hexadecimal digits of the code that a result depends on, and of transformers' version."""
    content = hashlib.sha256(f"{transformers.__version__} {torch.__version__}".encode())
    for pattern in _DEPENDS_ON:
        paths = (ROOT / pattern).glob("*.py") if "*" not in pattern else ROOT.glob(pattern)
        for path in sorted(paths):
            content.update(path.read_bytes())
    return content.hexdigest()[:16]


def main() -> int:
    """Run the sweep; returns 1 if a type failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("types", nargs="*", help="only these, checked again")
    parser.add_argument("--shard", default="1/1", help="N/M: the N-th of M parts")
    parser.add_argument("--update", action="store_true", help="put them on the page as it is")
    options = parser.parse_args()
    part, parts = map(int, options.shard.split("/"))
    logging.set_verbosity_error()
    torch.set_num_threads(1)
    folder = CACHE / digest()
    folder.mkdir(parents=True, exist_ok=True)
    failed = False
    for model_type in options.types or MODEL_TYPES[part - 1 :: parts]:
        path = folder / f"{model_type}.json"
        if path.exists() and not options.types:
            continue
        row = _checked(model_type)
        if row is None:
            failed = True
            continue
        print(f"{model_type}: {row.verdict} {row.coverage:.4f} {'; '.join(row.notes)}", flush=True)
        path.write_text(json.dumps(asdict(row)), encoding="utf-8")
    rows = [_read(path) for path in sorted(folder.glob("*.json"))]
    if options.update:
        rows = [row for row in rows if row.model_type in options.types]
        PAGE.write_text(updated(PAGE.read_text("utf-8"), rows, MODEL_TYPES), encoding="utf-8")
    elif {row.model_type for row in rows} == set(MODEL_TYPES):
        PAGE.write_text(page(rows), encoding="utf-8")
        print(f"wrote {PAGE}")
    return 1 if failed else 0


def _checked(model_type: str) -> Row | None:
    try:
        with tempfile.TemporaryDirectory() as folder:
            return check(model_type, Path(folder))
    except MismatchError as error:
        print(f"{model_type}: FAILED {error}", flush=True)
    except Exception:
        print(f"{model_type}: FAILED", flush=True)
        traceback.print_exc()
    return None


def _read(path: Path) -> Row:
    content = json.loads(path.read_text(encoding="utf-8"))
    return Row(**content | {"notes": tuple(content["notes"])})


if __name__ == "__main__":
    sys.exit(main())
