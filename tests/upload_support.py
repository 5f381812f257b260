"""The fixture of a hub that takes uploads; taken with `pytest_plugins = ["upload_support"]`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants
from huggingface_hub.utils import close_session

from hub_uploads import TOKEN, UploadStandIn


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
