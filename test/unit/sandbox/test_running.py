"""Waiting for a control plane to begin its work."""

from __future__ import annotations

import pytest

from dpf.sandbox.api import Api
from dpf.sandbox.controlplane import running
from dpf.sandbox.processes import NotReady
from test.unit.runtime.scripted import ScriptedServer, event, serving, stream
from test.unit.runtime.widgets import widget


async def works(*lines: bytes) -> None:
    async with serving(ScriptedServer(stream(*lines))) as client:
        kubeconfig = client.transport.kubeconfig
        async with Api(kubeconfig, user_agent="test") as api:
            await running._works(api, kubeconfig.server)


async def test_a_control_plane_works_when_its_first_service_account_is_there() -> None:
    await works(event("ADDED", widget("other", 1)), event("ADDED", widget("default", 2)))


async def test_one_that_does_not_begin_is_named_with_what_to_look_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """The sandbox tells it as its failure; whatever else were raised would end it without a word."""
    monkeypatch.setattr(running, "START_TIMEOUT", 0.05)
    with pytest.raises(
        NotReady, match=r"http://127\.0\.0\.1:.* has made no ServiceAccount in 0\.05 s; look at its log"
    ):
        await works(event("ADDED", widget("other", 1)))
