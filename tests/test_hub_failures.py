"""What stands between here and the hub is told as what it is, for models, prompts and uploads alike."""

from __future__ import annotations

import errno
import json
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

from excise.hub_access.failures import _CLIENT, failure, without_secrets
from excise.hub_access.request import HubRequest
from hub_stand_in import HubStandIn, run_python

TOKEN = "hf_SecretOfTheTests"
ASKED = HubRequest("owner/model")

ASK = """
import json, sys
from excise.config import PromptSource
from excise.errors import ExciseError
from excise.checkpoint.source import resolve
from excise.prompts.read import PromptDefaults, read
said = []
for kind, name in {names!r}:
    try:
        resolve(name) if kind == "model" else read(PromptSource.model_validate(name), PromptDefaults())
        said.append(["", ""])
    except ExciseError as error:
        said.append([type(error).__name__, str(error)])
print(json.dumps(said))
"""


@pytest.fixture
def hub() -> Iterator[HubStandIn]:
    with HubStandIn() as stand_in:
        yield stand_in


def said(
    hub: HubStandIn, home: Path, names: list[tuple[str, str]], **environment: str
) -> list[tuple[str, str]]:
    done = run_python(ASK.format(names=names), hub.environment(home) | environment)
    assert done.returncode == 0, done.stderr
    assert TOKEN not in done.stdout + done.stderr
    return [(kind, text) for kind, text in json.loads(done.stdout)]


MESSAGE = "X-Error-Message"
REFUSALS: dict[str, tuple[int, dict[str, str]]] = {
    "token": (401, {MESSAGE: "Invalid credentials in Authorization header"}),
    "rights": (403, {MESSAGE: f"No rights for {TOKEN}"}),
    "gated": (403, {"X-Error-Code": "GatedRepo"}),
    "closed": (403, {MESSAGE: "Access to this resource is disabled."}),
    "limit": (429, {"Retry-After": "17"}),
    "later": (429, {"ratelimit": '"api";r=0;t=55'}),
    "broken": (500, {}),
    "teapot": (418, {MESSAGE: "Tea"}),
}
LINES = {
    "token": "the hub refuses the token (the hub says: Invalid credentials in Authorization header); ",
    "rights": "the token has no read permission (the hub says: No rights for …); see its permissions at https://",
    "gated": "it is gated: accept its terms on ",
    "closed": "the hub has disabled it",
    "limit": "too many requests from here; try again in 17 seconds",
    "later": "too many requests from here; try again in 55 seconds",
    "broken": "the hub fails (status 500)",
    "teapot": "the hub refuses (status 418) (the hub says: Tea)",
}


def test_each_refusal_has_its_own_line_for_models_and_for_prompts(
    hub: HubStandIn, tmp_path: Path
) -> None:
    names: list[tuple[str, str]] = []
    for name, answer in REFUSALS.items():
        hub.refusals[f"owner/{name}"] = answer
        names += [("model", f"owner/{name}"), ("prompts", f"owner/{name}:train")]
    names += [("model", "owner/absent"), ("prompts", "owner/absent:train")]
    found = said(hub, tmp_path / "home", names, HF_TOKEN=TOKEN)
    for (_, name), (kind, text) in zip(names, found, strict=True):
        short = name.removeprefix("owner/").removesuffix(":train")
        if short == "absent":
            assert kind in ("ModelError", "PromptError")
            assert "on the hub; check the spelling, or log in if it is private" in text
            continue
        assert kind == "HubError"
        assert text.startswith(f"owner/{short}: {LINES[short]}")
        assert "out of reach" not in text
        assert "\n" not in text


def test_without_a_token_the_remedy_is_to_set_one(hub: HubStandIn, tmp_path: Path) -> None:
    for name in ("token", "rights", "limit", "gated"):
        hub.refusals[f"owner/{name}"] = REFUSALS[name]
    names = [("model", f"owner/{name}") for name in ("token", "rights", "limit", "gated")]
    for _, text in said(hub, tmp_path / "home", names):
        assert "set HF_TOKEN" in text


def test_a_revision_that_is_not_there_and_what_fails_in_the_middle(
    hub: HubStandIn, tmp_path: Path, model_folder: Path
) -> None:
    hub.add_model("owner/model", model_folder)
    hub.refusals["/resolve/"] = (403, {MESSAGE: "No"})
    ((kind, text),) = said(hub, tmp_path / "home", [("model", "owner/model")])
    assert kind == "HubError"
    assert text.startswith("owner/model: downloading it: the hub requires a token")


def test_offline_and_out_of_reach(hub: HubStandIn, tmp_path: Path) -> None:
    names = [("model", "owner/model"), ("prompts", "owner/prompts:train")]
    for _, text in said(hub, tmp_path / "home", names, HF_HUB_OFFLINE="1"):
        assert "HF_HUB_OFFLINE forbids access to the hub; unset it" in text
        assert "in the cache: none" in text
    hub.stop()
    proxy = {"HTTP_PROXY": "http://me:secret@127.0.0.1:9", "NO_PROXY": ""}
    for _, text in said(hub, tmp_path / "home", names, **proxy):
        assert ": the hub is out of reach (" in text
        assert "through the proxy of HTTP_PROXY" in text
        assert "secret" not in text


def caused(cause: BaseException, outer: Exception | None = None) -> Exception:
    made = outer or RuntimeError("a thread failed")
    made.__cause__ = cause
    return made


def test_a_full_disk_is_told_with_its_place_and_bytes() -> None:
    for error in (
        OSError(errno.ENOSPC, "No space left on device"),
        caused(OSError(errno.EDQUOT, "Disk quota exceeded")),
        RuntimeError("Data processing error: I/O error: No space left on device (os error 28)"),
        OSError("Not enough disk space. Needed: 1 GB (download: 1 GB)"),
    ):
        found = failure(error, ASKED)
        assert found.cause == "disk"
        assert " bytes free; make room, or set HF_HOME to " in found.text


def test_certificates_proxies_and_addresses_are_told_apart() -> None:
    certificate = ssl.SSLCertVerificationError(1, "[SSL: CERTIFICATE_VERIFY_FAILED] self-signed")
    for error, cause, text in (
        (caused(certificate, _CLIENT.ConnectError("x")), "unreachable", "set SSL_CERT_FILE"),
        (_CLIENT.ConnectError("[SSL: CERTIFICATE_VERIFY_FAILED]"), "unreachable", "SSL_CERT_FILE"),
        (caused(ssl.SSLError(1, "wrong version number")), "unreachable", "the server does not speak TLS"),
        (_CLIENT.ProxyError("403 Forbidden"), "unreachable", "the proxy refuses (403 Forbidden)"),
        (_CLIENT.ReadTimeout("timed out"), "unreachable", "the hub is out of reach (timed out)"),
        (_CLIENT.UnsupportedProtocol("Request URL is missing"), "unreachable", "is not a valid URL"),
        (OfflineModeIsEnabled("offline"), "offline", "unset it"),
        (PermissionError(errno.EACCES, "Permission denied", "/cache/x"), "other", "/cache/x cannot"),
        (json.JSONDecodeError("Expecting value", "<html>", 0), "unreachable", "a login page"),
    ):  # fmt: skip
        found = failure(error, ASKED)
        assert (found.cause, text in found.text) == (cause, True), found.text
        assert found.text.startswith("owner/model: ")


def test_secrets_are_taken_out_of_whatever_a_library_says() -> None:
    text = (
        f"GET https://x.hf.co/a/b?X-Amz-Signature=abc&c=d 'Bearer {TOKEN}' "
        "http://me:password@proxy:3128 typed-token"
    )
    assert without_secrets(text, "typed-token") == (
        "GET https://x.hf.co/a/b?… 'Bearer …' http://…@proxy:3128 …"
    )


def test_a_refusal_holds_no_token_of_the_request() -> None:
    request = _CLIENT.Request("GET", "http://x/", headers={"authorization": f"Bearer {TOKEN}"})
    response = _CLIENT.Response(403, headers={MESSAGE: f"not {TOKEN}"}, request=request)
    found = failure(HfHubHTTPError("no", response=response), ASKED)
    assert TOKEN not in found.text
    assert found.cause == "token"
