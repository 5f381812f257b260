"""The fixtures of hubs that take uploads; taken with `pytest_plugins = ["upload_support"]`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants
from huggingface_hub.utils import close_session
from huggingface_hub.utils._xet import abort_xet_session

from hub_uploads import TOKEN, UploadStandIn
from hub_xet import XetStandIn


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[UploadStandIn]:
    """A hub in this process's reach; retries do not wait."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    close_session()
    with UploadStandIn(tmp_path / "hub", token=TOKEN, owner="me") as stand_in:
        monkeypatch.setattr(constants, "ENDPOINT", stand_in.endpoint)
        yield stand_in
    close_session()


@pytest.fixture
def xet_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[XetStandIn]:
    """A hub in this process's reach that takes uploads through xet; hf_xet keeps its files below tmp_path."""
    pytest.importorskip("hf_xet")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_XET_CACHE", str(tmp_path / "xet"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    close_session()
    abort_xet_session()  # It reads the environment when it begins.
    with XetStandIn(tmp_path / "hub", token=TOKEN, owner="me") as stand_in:
        monkeypatch.setattr(constants, "ENDPOINT", stand_in.endpoint)
        yield stand_in
    close_session()
    abort_xet_session()
