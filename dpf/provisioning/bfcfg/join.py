"""The join command of a card: a bootstrap token made through the API of its DPU cluster, no kubeadm and no admin kubeconfig.

A token belongs to one attempt at one DPU: its id follows from both, its secret is kept in the token's own Secret and read back,
so that whoever renders the bf.cfg of that attempt again renders the same bytes. Its description says whose it is.
"""

from __future__ import annotations

import hashlib
import secrets
import string
from datetime import datetime, timedelta

from dpf.provisioning.bfcfg import discovery
from dpf.runtime.client import Client
from dpf.runtime.errors import AlreadyExists, NotFound, Terminal
from dpf.runtime.k8s import Secret, encoded
from dpf.runtime.kubeconfig import Kubeconfig
from dpf.runtime.meta import ObjectMeta, now

NAMESPACE = "kube-system"
TOKEN_TYPE = "bootstrap.kubernetes.io/token"  # noqa: S105  (a Secret's type)
GROUPS = "system:bootstrappers:kubeadm:default-node-token"
LIFETIME = timedelta(hours=24)
"""kubeadm's default."""
ALPHABET = string.ascii_lowercase + string.digits


class TokenUnusable(Terminal):
    """The token of this attempt has ended, or is somebody else's; the next attempt gets another."""


def token_id(uid: str, attempt: int) -> str:
    """The public part of the token of an attempt: six characters."""
    return hashlib.sha256(f"{uid}/{attempt}".encode()).hexdigest()[:6]


async def join_command(client: Client, kubeconfig: Kubeconfig, dpu_name: str, identity: str) -> str:
    """The command that a card runs to join. One write; a read only if the token is there already.

    :param identity: the token's id, see :func:`token_id`.
    :raises TokenUnusable: if the token was made earlier and holds no more, or another of its id is there.
    :raises Waiting: if cards can't join the cluster; no token is made then.
    """
    way = await discovery.way(client, kubeconfig)
    secret = await _token_secret(client, dpu_name, identity)
    return command(way, f"{identity}.{secret}")


def command(way: discovery.Way, token: str) -> str:
    """The command's text."""
    pins = " ".join(f"--discovery-token-ca-cert-hash {pin}" for pin in way.pins)
    return f"kubeadm join {way.endpoint} --token {token} {pins} --v=5"


async def delete_token(client: Client, dpu_name: str, identity: str, *, used: bool = False) -> None:
    """Takes the token away; that it is gone already is fine, and another's of that id is left alone.

    :param used: the card has joined with it, so that it is known whose it is without a look.
    """
    token = Secret(metadata=ObjectMeta(name=_name(identity), namespace=NAMESPACE))
    if not used:
        try:
            token = await client.get(Secret, token.name, NAMESPACE)
        except NotFound:
            return
        if token.text("description") != _description(dpu_name):
            return
    await client.delete(token)


async def extend_token(client: Client, identity: str) -> datetime | None:
    """Lets the token hold for :data:`LIFETIME` from now, its secret as it was; None if there is no such token any more."""
    until = (now() + LIFETIME).replace(microsecond=0)
    secret = Secret(metadata=ObjectMeta(name=_name(identity), namespace=NAMESPACE))
    try:
        await client.merge_patch(secret, {"data": encoded({"expiration": _written(until)})})
    except NotFound:
        return None
    return until


def _written(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def _name(identity: str) -> str:
    return f"bootstrap-token-{identity}"


def _description(dpu_name: str) -> str:
    """Whose a token is. An id of 24 bits may be drawn twice among many; a name is one card's alone in its cluster,
    as its Node's."""
    return f"lets DPU {dpu_name} join; made by the DPF provisioning manager"


async def _token_secret(client: Client, dpu_name: str, identity: str) -> str:
    """The secret part of the token, made or read back."""
    secret = "".join(secrets.choice(ALPHABET) for _ in range(16))
    data: dict[str, bytes | str] = {
        "token-id": identity,
        "token-secret": secret,
        "expiration": _written(now() + LIFETIME),
        "usage-bootstrap-authentication": "true",
        "usage-bootstrap-signing": "true",
        "auth-extra-groups": GROUPS,
        "description": _description(dpu_name),
    }
    meta = ObjectMeta(name=_name(identity), namespace=NAMESPACE)
    try:
        await client.create(Secret(metadata=meta, type=TOKEN_TYPE, data=encoded(data)))
    except AlreadyExists:
        known = await client.get(Secret, _name(identity), NAMESPACE)
        if known.text("description") != _description(dpu_name):
            message = (
                f"a join token of the id that DPU {dpu_name} would have is another's; the next attempt has another id"
            )
            raise TokenUnusable("JoinTokenTaken", message) from None
        end = known.text("expiration")
        if not end or datetime.fromisoformat(end) <= now():
            message = f"the join token of DPU {dpu_name} has ended; the next attempt makes another"
            raise TokenUnusable("JoinTokenExpired", message) from None
        return known.text("token-secret")
    return secret
