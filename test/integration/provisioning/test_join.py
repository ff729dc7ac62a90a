"""Join tokens on a real API server."""

from __future__ import annotations

import uuid

import pytest

from dpf.provisioning.bfcfg.join import NAMESPACE, TokenUnusable, delete_token, join_command, token_id
from dpf.runtime.client import Client
from dpf.runtime.errors import NotFound
from dpf.runtime.k8s import Secret


async def test_an_attempt_gets_one_token_however_often_it_is_asked_for(dpu_client: Client) -> None:
    kubeconfig, uid = dpu_client.transport.kubeconfig, str(uuid.uuid4())
    first = await join_command(dpu_client, kubeconfig, "d", token_id(uid, 0))
    assert first == await join_command(dpu_client, kubeconfig, "d", token_id(uid, 0))
    assert first != await join_command(dpu_client, kubeconfig, "d", token_id(uid, 1))
    assert first.startswith(f"kubeadm join {kubeconfig.server.removeprefix('https://')} --token {token_id(uid, 0)}.")


async def test_a_token_that_has_ended_is_not_given_again(dpu_client: Client) -> None:
    kubeconfig, identity = dpu_client.transport.kubeconfig, token_id(str(uuid.uuid4()), 0)
    await join_command(dpu_client, kubeconfig, "d", identity)
    secret = await dpu_client.get(Secret, f"bootstrap-token-{identity}", NAMESPACE)
    # Without an end it counts as ended; one in the past would be cleaned up by the cluster before we look.
    await dpu_client.merge_patch(secret, {"data": {"expiration": None}})
    with pytest.raises(TokenUnusable, match="the next attempt makes another"):
        await join_command(dpu_client, kubeconfig, "d", identity)


async def test_a_token_of_the_same_id_that_is_anothers_is_neither_given_nor_taken_away(dpu_client: Client) -> None:
    kubeconfig, identity = dpu_client.transport.kubeconfig, token_id(str(uuid.uuid4()), 0)
    first = await join_command(dpu_client, kubeconfig, "a", identity)
    with pytest.raises(TokenUnusable, match="is another's") as raised:
        await join_command(dpu_client, kubeconfig, "b", identity)
    assert raised.value.reason == "JoinTokenTaken"
    await delete_token(dpu_client, "b", identity)
    assert first == await join_command(dpu_client, kubeconfig, "a", identity)


@pytest.mark.parametrize("used", [False, True])
async def test_a_token_is_taken_away_with_its_dpu(dpu_client: Client, used: bool) -> None:
    identity = token_id(str(uuid.uuid4()), 0)
    await join_command(dpu_client, dpu_client.transport.kubeconfig, "d", identity)
    await delete_token(dpu_client, "d", identity, used=used)
    await delete_token(dpu_client, "d", identity, used=used)
    with pytest.raises(NotFound):
        await dpu_client.get(Secret, f"bootstrap-token-{identity}", NAMESPACE)
