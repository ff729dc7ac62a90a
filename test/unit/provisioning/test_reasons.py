"""For every reason of a wait somebody has decided whether a person is told."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import dpf.provisioning
from dpf.provisioning.dpu.story import ATTENTION

SOURCES = Path(dpf.provisioning.__file__).parent
REASON = {"waits": 1, "Waiting": 0, "wait": 2, "ending": 3, "_slow": 1}
"""Functions that are given a reason, and as which argument."""

PASSES = {
    "Provisioning": "what Initializing waits for is said next",
    "BFBNotReady": "BFBOverdue after --image-timeout",
    "DMSPodEnding": "PodsDoNotEnd after 5 minutes",
    "DMSPodMissing": "it is made in the same pass",
    "DMSPodStarting": "Error after --dms-pod-timeout",
    "DPUNodeEnding": "given up after --deletion-timeout",
    "DPUNodeGetError": "a loss of Ready, which is always told",
    "DPUNodeNotReady": "JoinOverdue after --join-timeout; of a DPU that was Ready it is told",
    "DownloadEnding": "of a BFB: it is told by the BFB's own controller",
    "DrainEnding": "DrainOverdue after --drain-timeout",
    "Draining": "DrainOverdue after --drain-timeout",
    "EarlierPodEnding": "PodsDoNotEnd after 5 minutes",
    "HostNetworkNotReady": "a loss of Ready, which is always told",
    "HostNotReady": "HostDoesNotComeBack after 30 minutes; of a DPU that was Ready it is told",
    "InUse": "of a BFB: it is told by the BFB's own controller",
    "Initializing": "HostNetworkOverdue after 15 minutes",
    "Installing": "Error after the installation's budget",
    "NotSeenYet": "looked at again in half a second",
    "PodEnded": "another is made within half a minute",
    "PodsEnding": "PodsDoNotEnd after 5 minutes",
    "ProvisioningFailed": "phase Error, which is always told",
    "Queued": "its turn comes: no installation holds its slot for longer than its budget",
    "Rebooting": "HostDoesNotComeBack after 30 minutes; of a DPU that is deleted it ends then",
    "WaitingForOtherDPU": "OtherDPUOverdue after an hour",
}
"""Reasons of waits that end by themselves or become others, and how."""

PASSED_ON = {
    "bfb/controller.py: reason",
    "dpu/deleting.py: turns.REBOOT_FAILED",
    "dpu/dmsserver.py: reason(pod)",
    "dpu/machine.py: error.reason",
    "dpu/machine.py: reason",
    "dpu/phases/node_effect.py: reason",
    "dpu/phases/ready.py: found[0].reason",
    "dpu/phases/ready.py: word",
    "dpu/podhealth.py: word",
    "dpu/steps.py: reason",
    "dpu/waiting.py: overdue",
    "dpu/waiting.py: reason",
    "dpucluster/allocator.py: error.reason",
}
"""Reasons that are no literals where a wait is made: those they come from are looked at where they are written, see ELSEWHERE."""

ELSEWHERE = {
    "DMSPodNotRunning",
    "DMSPodStarting",
    "ExistingRshimInstallDetected",
    "DPUNodeUnhealthy",
    "KubeletVersionSkew",
}
"""Reasons that functions return: the DMS pod's, and those of the health of the card's Node."""


def calls(tree: ast.Module) -> Iterator[ast.expr]:
    """The reasons that the module gives to waits."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name | ast.Attribute):
            continue
        name = node.func.id if isinstance(node.func, ast.Name) else node.func.attr
        if (place := REASON.get(name)) is not None and len(node.args) > place:
            yield node.args[place]
        yield from (each.value for each in node.keywords if each.arg == "overdue")


def words(expression: ast.expr, constants: dict[str, str]) -> list[str] | None:
    """What the expression can be; None if that can't be told."""
    match expression:
        case ast.Constant(value=str(text)):
            return [text]
        case ast.IfExp(body=body, orelse=orelse):
            found = [words(each, constants) for each in (body, orelse)]
            return None if None in found else [word for each in found for word in each or ()]
        case ast.Name(id=name) if name in constants:
            return [constants[name]]
    return None


def constants_of(tree: ast.Module) -> dict[str, str]:
    return {
        target.id: statement.value.value
        for statement in tree.body
        if isinstance(statement, ast.Assign) and isinstance(statement.value, ast.Constant)
        for target in statement.targets
        if isinstance(target, ast.Name) and isinstance(statement.value.value, str)
    }


def collected() -> tuple[set[str], set[str]]:
    """All reasons, and the expressions that are no literals."""
    reasons: set[str] = set()
    others: set[str] = set()
    for path in sorted(SOURCES.rglob("*.py")):
        tree = ast.parse(path.read_text())
        known = constants_of(tree)
        for expression in calls(tree):
            found = words(expression, known)
            if found is None:
                others.add(f"{path.relative_to(SOURCES)}: {ast.unparse(expression)}")
            reasons.update(found or ())
    return reasons, others


def test_for_every_reason_of_a_wait_it_is_decided_whether_a_person_is_told() -> None:
    reasons, others = collected()
    assert others == PASSED_ON
    undecided = (reasons | ELSEWHERE) - ATTENTION - PASSES.keys()
    assert not undecided, "put each into story.ATTENTION, or say here how it ends by itself"
    assert not ATTENTION & PASSES.keys()
    assert PASSES.keys() <= reasons | ELSEWHERE, "no longer used"
