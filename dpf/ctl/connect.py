"""How subcommands reach a cluster, and what they tell a user who does not get there.

A command is about all namespaces unless ``-n`` names one. A user who may not look into all of them gets the namespace of the
kubeconfig's context instead.
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

from dpf.ctl.output import complain
from dpf.runtime.client import Client
from dpf.runtime.errors import (
    ApiError,
    ConfigError,
    DpfError,
    Forbidden,
    NotFound,
    Unauthorized,
    Unavailable,
    first_of,
)
from dpf.runtime.kubeconfig import Kubeconfig
from dpf.runtime.meta import Object, T

FAILED = 1
"""Exit status of a command that could not do its work."""


class Session:
    """A connection for one command."""

    def __init__(self, client: Client, kubeconfig: Kubeconfig, namespace: str) -> None:
        self.client = client
        self.kubeconfig = kubeconfig
        self.namespace = namespace
        """The one that ``-n`` names, or empty."""

    async def find(self, kind: type[T], *, labels: str = "", name: str = "") -> list[T]:
        """Objects of a kind in the namespace, or in all that the user may look into; by name.

        :raises ConfigError: if the cluster does not know the kind.
        """
        fields = f"metadata.name={name}" if name else ""
        try:
            try:
                found = await self.client.list(kind, self.namespace, labels=labels, fields=fields)
            except Forbidden:
                if self.namespace or not kind.RESOURCE.namespaced:
                    raise
                self.namespace = self.kubeconfig.namespace
                found = await self.client.list(kind, self.namespace, labels=labels, fields=fields)
        except NotFound:
            raise ConfigError(missing(kind)) from None
        return sorted(found, key=lambda each: each.key)

    async def one(self, kind: type[T], name: str) -> T:
        """The object of that name, in whichever namespace it is.

        :raises ConfigError: if there is none or more than one.
        """
        if (found := await self.named(kind, name)) is not None:
            return found
        namespace, _, name = name.rpartition("/")
        where = f" in namespace {self.namespace or namespace}" if self.namespace or namespace else ""
        raise ConfigError(f"there is no {kind.RESOURCE.kind} {name!r}{where}")

    async def named(self, kind: type[T], name: str) -> T | None:
        """As :meth:`one`; None if there is none.

        :raises ConfigError: if there is more than one.
        """
        namespace, _, name = name.rpartition("/")
        found = [each for each in await self.find(kind, name=name) if not namespace or each.namespace == namespace]
        if len(found) > 1:
            places = ", ".join(each.namespace for each in found)
            raise ConfigError(f"{kind.RESOURCE.kind} {name} is in several namespaces ({places}): choose one with -n")
        return found[0] if found else None

    async def if_there(self, kind: type[T]) -> list[T]:
        """Objects of a kind; none if the cluster does not know it or the user may not read it."""
        try:
            return await self.find(kind)
        except (ConfigError, Forbidden):
            return []


def missing(kind: type[Object]) -> str:
    """What to do about a kind that the cluster does not know."""
    return (
        f"the cluster does not know {kind.RESOURCE}: DPF's CRDs are not installed there. Apply config/crd, "
        "or choose the cluster where they are with --kubeconfig"
    )


def either(names: Sequence[str], labels: str) -> None:
    """Has a user say which objects are meant in one way.

    :raises ConfigError: if both are given.
    """
    if names and labels:
        raise ConfigError("give names or labels (-l), not both: names say already which objects are meant")


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the flags that say which cluster and namespace."""
    parser.add_argument("--kubeconfig", type=Path, metavar="FILE", help="default: $KUBECONFIG, then ~/.kube/config")
    parser.add_argument("-n", "--namespace", default="", metavar="NS", help="default: all namespaces")


def run(arguments: argparse.Namespace, work: Callable[[Session], Awaitable[int]]) -> int:
    """Runs a command's work with a connection; returns its exit status, :data:`FAILED` after an error that was explained."""

    async def connected() -> int:
        kubeconfig = Kubeconfig.load(arguments.kubeconfig)
        async with Client(kubeconfig, field_owner="dpfctl") as client:
            try:
                return await work(Session(client, kubeconfig, arguments.namespace))
            except* ApiError as group:
                complain(f"error: {explain(first_of(group), kubeconfig)}")
            except* DpfError as group:
                complain(f"error: {first_of(group)}")
            return FAILED

    try:
        return asyncio.run(connected())
    except DpfError as error:
        # Without a usable kubeconfig there is no connection.
        complain(f"error: {error}")
        return FAILED


def explain(error: ApiError, kubeconfig: Kubeconfig) -> str:
    """An error of the API server, and what a user can do about it."""
    match error:
        case Unavailable(status=0):
            return f"{kubeconfig.server} does not answer: {error.message}. Is it up, and is it the one you mean?"
        case Unauthorized():
            return (
                f"{kubeconfig.server} does not accept the credentials of the kubeconfig: they are wrong or have expired"
            )
        case Forbidden():
            return f"not allowed: {error.message}. Ask an administrator for a role that allows it"
    return error.message
