"""A real API server that has nothing but the CRDs."""

from __future__ import annotations

import pytest

from dpf.runtime.client import Client
from test.integration.api.rules import Server


@pytest.fixture
def server(host_client: Client, namespace: str) -> Server:
    return Server(host_client, namespace)
