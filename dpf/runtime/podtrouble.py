"""What keeps a pod from being ready, as far as its status tells."""

from __future__ import annotations

from dataclasses import dataclass

from dpf.runtime.conditions import find
from dpf.runtime.k8s import ContainerStatus, Pod

STARTING = frozenset({"", "PodInitializing", "ContainerCreating"})
"""Reasons of a waiting container that mean no trouble."""


@dataclass(frozen=True)
class Trouble:
    """A container that does not run, in the kubelet's words."""

    container: str
    reason: str
    message: str


def trouble(pod: Pod) -> Trouble | None:
    """The first container of the pod that is in trouble: its image can't be pulled, it crashes, its init step fails."""
    statuses = (*pod.status.init_container_statuses, *pod.status.container_statuses)
    return next((found for each in statuses if (found := _trouble(each)) is not None), None)


def _trouble(status: ContainerStatus) -> Trouble | None:
    waiting, ended = status.state.waiting, status.state.terminated
    last = status.last_state.terminated
    if ended is not None and ended.exit_code != 0:
        return Trouble(status.name, ended.reason or "Error", ended.message or f"exit code {ended.exit_code}")
    if waiting is not None and waiting.reason not in STARTING:
        # A container that crashes says why it ended; the kubelet only that it waits before the next try.
        said = last.message if last is not None and last.message else waiting.message
        return Trouble(status.name, waiting.reason, said or f"{status.restart_count} restarts")
    return None


def unschedulable(pod: Pod) -> str:
    """Why the scheduler finds no place for the pod; empty if it does."""
    found = find(pod.status.conditions, "PodScheduled")
    return found.message or found.reason if found is not None and found.status == "False" else ""
