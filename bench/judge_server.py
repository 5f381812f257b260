"""A judge behind a real server: `python bench/judge_server.py MODEL.gguf ANSWERS.jsonl [--answers N]`.

Starts llama.cpp's server (llama-cpp-python[server] in an environment of its own, compiled on first use in
about eight minutes), judges labelled answers through it, and prints the time and the agreement with labels.
The answers are evenly spaced over the file. A small model may give no verdict; then the line of the error is
printed instead.
"""

from __future__ import annotations

import sys

if not __package__:
    sys.path[0] = sys.path[0].rpartition("/")[0]

import argparse
import socket
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.machine import environment
from excise.app.judge import AnswerRecord, read_records
from excise.errors import JudgeError
from excise.judges.judge import verdicts_of
from excise.judges.named import judge_of
from excise.judges.options import JudgeOptions
from excise.scorers.agreement import Agreement

_PACKAGE = "llama-cpp-python[server]"
_START_SECONDS = 120


@contextmanager
def running(python: Path, model: Path) -> Iterator[str]:
    """The URL of a server with the model, which ends with the block."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = [str(python), "-m", "llama_cpp.server", "--model", str(model), "--n_ctx", "4096"]
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen([*words, "--port", str(port)], stdout=log, stderr=log)
        try:
            for _ in range(_START_SECONDS):
                with socket.socket() as probe:
                    if probe.connect_ex(("127.0.0.1", port)) == 0:
                        break
                if process.poll() is not None:
                    break
                time.sleep(1)
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            process.terminate()
            process.wait()


def evenly(records: list[AnswerRecord], count: int) -> list[AnswerRecord]:
    """So many records, evenly spaced."""
    return [records[place * len(records) // count] for place in range(min(count, len(records)))]


def main() -> None:
    """Judge answers through a server, and print what came of it."""
    parser = argparse.ArgumentParser(description="a judge behind a real server")
    parser.add_argument("model", type=Path)
    parser.add_argument("answers")
    parser.add_argument("--answers", dest="count", type=int, default=30)
    parser.add_argument("--concurrency", type=int, default=2)
    parser.add_argument("--environment", type=Path, default=Path("build/llama-server"))
    given = parser.parse_args()
    python = environment(given.environment, [_PACKAGE])
    records = evenly(read_records(given.answers), given.count)
    with running(python, given.model) as url, tempfile.TemporaryDirectory() as cache:
        options = JudgeOptions(cache=Path(cache), concurrency=given.concurrency, timeout=300)
        judge = judge_of(f"openai:{url}#{given.model.stem}", options, print)
        started = time.perf_counter()
        try:
            verdicts = verdicts_of(judge, [record.exchange for record in records], print)
        except JudgeError as error:
            print(error)
            return
        seconds = time.perf_counter() - started
        again = time.perf_counter()
        verdicts_of(judge, [record.exchange for record in records], print)
        print(
            f"{len(records)} answers in {seconds:.0f} s; from the cache {time.perf_counter() - again:.2f} s"
        )
    print(Counter(verdict.outcome for verdict in verdicts))
    agreement = Agreement.of(
        (record.label, verdict.outcome)
        for record, verdict in zip(records, verdicts, strict=True)
        if record.label is not None
    )
    print(
        f"agreement {agreement.agreement}, recall {agreement.recall}, precision {agreement.precision}"
    )


if __name__ == "__main__":
    main()
