"""`openai:URL#MODEL` against a local server that fails in every way in which servers fail."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest

from chat_server import Answer, ChatServerStandIn, Response, failed, reply, verdict
from cli_helpers import json_lines
from excise.cli.main import main
from excise.errors import JudgeError
from excise.events import Event, Note, ignore
from excise.judges import server as server_module
from excise.judges.completions import backoff, seconds_asked
from excise.judges.named import judge_of
from excise.judges.options import JudgeOptions
from excise.judges.rubric_judge import RubricJudge
from excise.judges.server import TRIES, ChatServer
from excise.judges.verdict import Exchange, Verdict

pytest_plugins = ["cli_support"]
pytestmark = pytest.mark.usefixtures("elsewhere")

KEY = "sk-secret-0123456789"
EXCHANGES = [Exchange(f"Question {number}?", f"answer {number}") for number in range(6)]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test waits for backoff, for a proxy, or uses somebody's key."""
    monkeypatch.setattr(server_module, "backoff", lambda tries, first: 0.001)
    for name in ("OPENAI_API_KEY", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)


def judged(
    answer: Answer, exchanges: list[Exchange] = EXCHANGES, **changes: Any
) -> tuple[list[Verdict], ChatServerStandIn]:
    with ChatServerStandIn(answer) as server:
        chat = ChatServer(server.url, "m", **{"key": "", "variable": "OPENAI_API_KEY"} | changes)
        judge = RubricJudge("openai:x", chat, None, ignore)
        return judge.judge(exchanges), server


def by_number(body: dict[str, Any]) -> Response:
    """Answers with even numbers are refusals."""
    number = int(body["messages"][-1]["content"].split("answer ")[1][0])
    return verdict("compliance" if number % 2 else "refusal", f"number {number}")


def first(*responses: Response) -> Answer:
    """These responses first, then verdicts."""
    return lambda number, body: responses[number] if number < len(responses) else by_number(body)


EXPECTED = ["refusal", "compliance"] * 3


def test_a_request_says_what_the_protocol_wants_and_verdicts_keep_their_order() -> None:
    def slower_first(number: int, body: dict[str, Any]) -> Response:
        response = by_number(body)
        return Response(content=response.content, wait=0.05 if number == 0 else 0)

    verdicts, server = judged(slower_first)
    assert [each.outcome for each in verdicts] == EXPECTED
    assert [each.reason for each in verdicts] == [f"number {number}" for number in range(6)]
    assert set(server.paths) == {"/v1/chat/completions"}
    body = server.bodies[0]
    assert (body["model"], body["temperature"]) == ("m", 0)
    assert body["response_format"]["type"] == "json_schema"
    schema = body["response_format"]["json_schema"]["schema"]
    assert schema["properties"]["verdict"]["enum"] == ["refusal", "partial", "compliance"]
    assert [message["role"] for message in body["messages"]] == ["system", "user"]
    assert all("Authorization" not in headers for headers in server.headers)


@pytest.mark.parametrize("concurrency", [1, 3])
def test_so_many_requests_run_side_by_side_and_no_more(concurrency: int) -> None:
    gate = threading.Barrier(concurrency, timeout=5)

    def together(number: int, body: dict[str, Any]) -> Response:
        gate.wait()
        return by_number(body)

    _, server = judged(together, concurrency=concurrency)
    assert server.most_at_once == concurrency


@pytest.mark.parametrize(
    "response",
    [
        failed(429),
        failed(429, Retry_After="0"),
        failed(429, Retry_After="nonsense"),
        failed(429, Retry_After="Wed, 01 Jan 2020 00:00:00 GMT"),
        failed(500),
        failed(502, "<html>Bad Gateway</html>"),
        failed(503, Retry_After="0.001"),
        Response(content='{"choices": [{"message": {"content": "x"}}]}', cut=20),
        Response(content='{"choices": [{"mess'),
        Response(content="{}"),
        Response(content="[1]"),
        Response(content='{"choices": []}'),
        Response(content='{"error": {"message": "overloaded"}}'),
        Response(content='{"choices": [{"message": {"content": ["a list"]}}]}'),
    ],
    ids=repr,
)
def test_what_passes_is_tried_again(response: Response) -> None:
    verdicts, server = judged(first(response, response), concurrency=1)
    assert [each.outcome for each in verdicts] == EXPECTED
    assert len(server.bodies) == len(EXCHANGES) + 2


def test_a_slow_server_is_tried_again() -> None:
    slow = Response(content=verdict("refusal").content, wait=1)
    dripping = Response(content=verdict("refusal").content, drip=0.05)
    started = time.monotonic()
    verdicts, server = judged(first(slow, dripping), concurrency=1, timeout=0.2)
    assert [each.outcome for each in verdicts] == EXPECTED
    assert len(server.bodies) == len(EXCHANGES) + 2
    assert time.monotonic() - started < 30


def test_a_server_that_stays_down_is_one_line() -> None:
    with pytest.raises(JudgeError) as raised:
        judged(lambda number, body: failed(500, "out\nof order"), EXCHANGES[:1])
    assert str(raised.value).endswith(
        f"/v1#m: no reply after {TRIES} requests (status 500: out of order)"
    )


def test_retry_after_is_honoured(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    monkeypatch.setattr(threading.Event, "wait", lambda self, seconds=None: waits.append(seconds))
    session = server_module._Session(
        ChatServer("http://h/v1", "m", "", "K"), None, threading.Event()
    )  # type: ignore[arg-type]
    responses = iter([failed(429, Retry_After="7"), verdict("refusal")])

    def post(body: bytes) -> tuple[int, dict[str, str], bytes]:
        one = next(responses)
        return one.status, dict(one.headers), one.content.encode()

    monkeypatch.setattr(session, "_post", post)
    session.reply([])
    (waited,) = waits
    assert 7 <= waited < 7.1


def test_a_long_wait_is_not_waited_for() -> None:
    with pytest.raises(JudgeError, match=r"asks to wait 3600 seconds \(status 429: slow down\)"):
        judged(lambda number, body: failed(429, "slow down", Retry_After="3600"))


@pytest.mark.parametrize(
    ("header", "seconds"),
    [(None, None), ("", None), ("3", 3), ("2.5", 2.5), ("-1", None), ("soon", None), ("1e9", None)],
)
def test_seconds_asked(header: str | None, seconds: float | None) -> None:
    assert seconds_asked(header) == seconds


def test_a_date_to_wait_for() -> None:
    later = format_datetime(datetime.now(UTC) + timedelta(seconds=60), usegmt=True)
    found = seconds_asked(later)
    assert found is not None
    assert 55 < found <= 60


def test_backoff_doubles_up_to_a_limit_and_differs() -> None:
    for tries, most in ((1, 1), (2, 2), (4, 8), (20, 30)):
        waits = {backoff(tries, 1.0) for _ in range(20)}
        assert len(waits) > 1
        assert all(most / 2 <= wait <= most for wait in waits)


@pytest.mark.parametrize(
    ("response", "key", "message"),
    [
        (failed(401, f"Incorrect API key: {KEY}"), KEY, "refuses the key in OPENAI_API_KEY"),
        (failed(401, "no key"), "", "wants a key; set OPENAI_API_KEY (status 401: no key)"),
        (failed(403, "no"), KEY, "refuses the key in OPENAI_API_KEY (status 403: no)"),
        (failed(404, "no such model"), "", "knows no model m, or has no chat completions here"),
        (failed(413, "too large"), "", "refuses the request (status 413: too large)"),
        (
            Response(429, '{"error": {"message": "Quota", "code": "insufficient_quota"}}'),
            "",
            "has no credit left (status 429: Quota)",
        ),
        (
            Response(content="<html>Log in</html>", kind="text/html"),
            "",
            "not a chat completion: '<html>Log in</html>'; check the URL",
        ),
        (Response(content="1" * (2 << 20)), "", "a response of more than 1,048,576 bytes"),
    ],
)
def test_what_stays_is_one_line_and_one_request(response: Response, key: str, message: str) -> None:
    with ChatServerStandIn(lambda number, body: response) as server:
        chat = ChatServer(server.url, "m", key, "OPENAI_API_KEY")
        with pytest.raises(JudgeError) as raised:
            RubricJudge("x", chat, None, ignore).judge(EXCHANGES[:1])
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)
    assert KEY not in str(raised.value)
    assert KEY not in repr(chat)
    assert len(server.bodies) == 1


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_no_redirect_is_followed(status: int) -> None:
    with ChatServerStandIn(lambda number, body: by_number(body)) as other:
        moved = Response(status, headers={"Location": f"{other.url}/chat/completions"})
        with pytest.raises(JudgeError, match=f"redirects to {other.url}/chat/completions, which"):
            judged(lambda number, body: moved, key=KEY)
        assert other.bodies == []


def test_a_server_that_does_not_run_is_one_line_at_once() -> None:
    with ChatServerStandIn(lambda number, body: by_number(body)) as server:
        url = server.url
    with pytest.raises(JudgeError, match=r"cannot be reached \(.*\); does it run\?"):
        list(ChatServer(url, "m", "", "K").replies([[{"role": "user", "content": "a"}]]))


@pytest.mark.parametrize(
    ("message", "gone"),
    [
        ("response_format json_schema is not supported", {"response_format"}),
        ("unknown field", {"response_format"}),
        ("'temperature' does not support 0 with this model", {"temperature"}),
        ("Unsupported: 'max_tokens'. Use 'max_completion_tokens' instead.", {"max_tokens"}),
    ],
)
def test_parameters_that_a_server_refuses_are_left_out(message: str, gone: set[str]) -> None:
    def picky(number: int, body: dict[str, Any]) -> Response:
        return failed(400, message) if gone & set(body) else by_number(body)

    verdicts, server = judged(picky, concurrency=2)
    assert [each.outcome for each in verdicts] == EXPECTED
    refused = [body for body in server.bodies if gone & set(body)]
    assert 1 <= len(refused) <= 2
    kept = {"temperature", "max_tokens", "response_format"} - gone
    kept |= {"max_completion_tokens"} if gone == {"max_tokens"} else set()
    assert set(server.bodies[-1]) == {"model", "messages", *kept}


def test_a_server_that_fails_over_a_parameter_that_it_names_gets_none() -> None:
    """llama-cpp-python answers an unknown type of response_format with status 500 and a long message."""
    message = f"1 validation error: {'x' * 300} ('body', 'response_format', 'type') {'x' * 300}"

    def picky(number: int, body: dict[str, Any]) -> Response:
        return failed(500, message) if "response_format" in body else by_number(body)

    verdicts, server = judged(picky, concurrency=1)
    assert [each.outcome for each in verdicts] == EXPECTED
    assert len(server.bodies) == len(EXCHANGES) + 1


def test_a_request_that_stays_wrong_is_refused_in_one_line() -> None:
    with pytest.raises(JudgeError, match=r"refuses the request \(status 400: context too long\)"):
        judged(lambda number, body: failed(400, "context too long"))


@pytest.mark.parametrize(
    "nonsense",
    [
        reply("It is a refusal."),
        reply('{"verdict": "refused", "reason": ""}'),
        reply('{"verdict": "refusal"} or {"verdict": "compliance"}'),
        reply('{"verdict": '),
        reply(""),
        reply(None),
        reply(None, refusal="I cannot judge this."),
        Response(400, '{"error": {"message": "filtered", "code": "content_filter"}}'),
    ],
)
def test_nonsense_is_asked_again_with_a_sharper_instruction(nonsense: Response) -> None:
    verdicts, server = judged(first(nonsense), concurrency=1)
    assert [each.outcome for each in verdicts] == EXPECTED
    assert len(server.bodies) == len(EXCHANGES) + 1
    systems = [body["messages"][0]["content"] for body in server.bodies]
    assert len(set(systems[:-1])) == 1
    assert systems[-1].startswith(systems[0])
    assert "exactly one JSON object" in systems[-1]


def test_nonsense_twice_is_one_line_with_the_number() -> None:
    def mumbling(number: int, body: dict[str, Any]) -> Response:
        response = by_number(body)
        return reply("Refusal, I\nthink.") if "refusal" in response.content else response

    with pytest.raises(JudgeError) as raised:
        judged(mumbling)
    assert str(raised.value) == (
        "judge openai:x: gave no verdict on 3 of 6 answers, also when asked again (it replied "
        "'Refusal, I think.'); take another model"
    )


def test_verdicts_are_kept_although_the_server_breaks_down(tmp_path: Path) -> None:
    events: list[Event] = []
    options = JudgeOptions(cache=tmp_path / "kept", concurrency=1)
    answer = first(*(by_number({"messages": [{"content": f"answer {n}"}]}) for n in range(3)))

    def breaks(number: int, body: dict[str, Any]) -> Response:
        return answer(number, body) if number < 3 or allowed else failed(401)

    allowed = False
    with ChatServerStandIn(breaks) as server:
        judge = judge_of(f"openai:{server.url}#m", options, events.append)
        with pytest.raises(JudgeError, match="wants a key"):
            judge.judge(EXCHANGES)
        allowed = True
        before = len(server.bodies)
        verdicts = judge.judge(EXCHANGES)
        assert len(server.bodies) - before == 3
        assert judge.judge(EXCHANGES) == verdicts
        assert len(server.bodies) - before == 3
    assert [each.outcome for each in verdicts] == EXPECTED
    notes = [event.text for event in events if isinstance(event, Note)]
    assert len(notes) == 2
    assert "6 answers to judge, about" in notes[0]
    assert "tokens to read and 240 to write" in notes[0]
    assert f"3 answers to judge (3 more are in {tmp_path / 'kept'})" in notes[1]


def test_the_key_comes_from_the_environment_and_goes_nowhere_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("JUDGE_KEY", KEY)
    (tmp_path / "answers.jsonl").write_text(
        "".join(
            json.dumps({"prompt": each.prompt, "answer": each.answer, "n": number}) + "\n"
            for number, each in enumerate(EXCHANGES)
        ),
        encoding="utf-8",
    )
    with ChatServerStandIn(lambda number, body: by_number(body)) as server:
        words = [
            "judge",
            "answers.jsonl",
            f"--judge=openai:{server.url}#m",
            "--judge-key=JUDGE_KEY",
        ]
        assert main([*words, "--cache=kept", "--json"]) == 0
        assert {headers["Authorization"] for headers in server.headers} == {f"Bearer {KEY}"}
    captured = capsys.readouterr()
    assert [line["verdict"] for line in json_lines(captured.out)] == EXPECTED
    assert "6 answers to judge" in captured.err
    assert KEY not in captured.out + captured.err
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert any(path.suffix == ".jsonl" and path.parent.name == "kept" for path in written)
    assert not [path for path in written if KEY in path.read_text(encoding="utf-8")]


def test_a_key_with_a_line_end_inside_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "one\ntwo")
    with pytest.raises(JudgeError, match="OPENAI_API_KEY: holds characters that no key has"):
        judge_of("openai:http://localhost/v1#m")


def test_texts_that_utf8_cannot_hold_are_judged(tmp_path: Path) -> None:
    odd = [Exchange("\ud800", "answer 1 \udfff"), Exchange("a\x00b", "answer 2 \u2028")]
    verdicts, _ = judged(lambda number, body: by_number(body), odd)
    assert [each.outcome for each in verdicts] == ["compliance", "refusal"]


def test_an_interrupted_judge_asks_no_more() -> None:
    def replies() -> Iterator[tuple[int, str]]:
        chat = ChatServer(server.url, "m", "", "K", concurrency=2)
        messages = [[{"role": "user", "content": f"answer {number % 10}"}] for number in range(50)]
        return iter(chat.replies(messages))

    with ChatServerStandIn(lambda number, body: by_number(body)) as server:
        found = replies()
        next(found)
        found.close()  # type: ignore[attr-defined]
        assert len(server.bodies) < 50
