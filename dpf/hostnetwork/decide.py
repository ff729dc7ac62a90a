"""What to do with what was seen of a card and the host's bridge: a pure function. ``hostnetwork.py`` carries it out."""

from __future__ import annotations

from dataclasses import dataclass

from dpf.host.network import BRIDGE, Link


@dataclass(frozen=True)
class Wanted:
    """What the pod asks for.

    :param slot: of the card, for example ``0000:90:00``.
    :param functions: virtual functions of each physical one.
    :param mtu: of virtual function 0; 0 leaves it as it is.
    """

    slot: str
    functions: int = 16
    mtu: int = 1500
    bridge: str = BRIDGE


@dataclass(frozen=True)
class Physical:
    """A physical function as it was seen.

    :param functions: virtual ones that it has; None if it can't have any.
    :param offered: virtual ones that its firmware can give.
    :param in_use: why the virtual ones that it has may not be taken away; empty if they may.
    """

    address: str
    functions: int | None = 0
    offered: int = 0
    in_use: str = ""


@dataclass(frozen=True)
class Seen:
    """The card and the bridge as they were seen.

    :param problem: what is wrong with the card itself.
    :param physical: function 0, and function 1 of a card with two ports.
    """

    problem: Problem | None = None
    physical: tuple[Physical, ...] = ()
    vf0: Link | None = None
    bridge: Link | None = None
    bridge_has_address: bool = False


@dataclass(frozen=True)
class Problem:
    """Why the host's network is not as it should be, and what to do about it."""

    reason: str
    message: str


@dataclass(frozen=True)
class MakeFunctions:
    """Makes virtual functions, after taking away those that there are."""

    address: str
    number: int
    anew: bool = False


@dataclass(frozen=True)
class Attach:
    """Puts virtual function 0 into the bridge."""

    device: Link
    bridge: Link


@dataclass(frozen=True)
class SetMtu:
    """Gives virtual function 0 its MTU."""

    device: Link
    mtu: int


@dataclass(frozen=True)
class SetUp:
    """Brings virtual function 0 up."""

    device: Link


Action = MakeFunctions | Attach | SetMtu | SetUp


@dataclass(frozen=True)
class Decision:
    """What to do now, and what is wrong that cannot be mended here. Neither: all is as it should be."""

    actions: tuple[Action, ...] = ()
    problem: Problem | None = None


def decide(wanted: Wanted, seen: Seen) -> Decision:
    """Each part is done as far as it goes: a second port in trouble does not keep the first from the bridge."""
    if seen.problem is not None:
        return Decision(problem=seen.problem)
    actions: list[Action] = []
    problems: list[Problem] = []
    for found in [*(_functions(wanted, each) for each in seen.physical), *_attachment(wanted, seen)]:
        if isinstance(found, Problem):
            problems.append(found)
        elif found is not None:
            actions.append(found)
    return Decision(tuple(actions), problems[0] if problems else None)


def _functions(wanted: Wanted, physical: Physical) -> Action | Problem | None:
    """More functions than are wanted do no harm. Another number is had by way of none, which takes them from who uses them."""
    have, number, address = physical.functions, wanted.functions, physical.address
    if have is None:
        message = f"{address} can't have virtual functions: switch SR-IOV on in the host's BIOS and the card's firmware (SRIOV_EN)"
        return Problem("NoSRIOV", message)
    if have >= number:
        return None
    if physical.offered < number:
        message = (
            f"{address} offers {physical.offered} virtual functions, {number} are wanted: NUM_OF_VFS of the DPUFlavor's nvconfig "
            "counts from the card's next reset on"
        )
        return Problem("TooFewFunctionsOffered", message)
    if have == 0:
        return MakeFunctions(address, number)
    if physical.in_use:
        message = (
            f"{address} has {have} virtual functions, {number} are wanted, and making them takes away those that there are: "
            f"{physical.in_use}; drain the host and take their devices down, or write 0 to its sriov_numvfs"
        )
        return Problem("FunctionsInUse", message)
    return MakeFunctions(address, number, anew=True)


def _attachment(wanted: Wanted, seen: Seen) -> list[Action | Problem]:
    """What is to be done with virtual function 0 and the bridge."""
    device, bridge, pf0 = seen.vf0, seen.bridge, seen.physical[0]
    problems: list[Action | Problem] = []
    if bridge is None:
        message = f"there is no bridge {wanted.bridge} on the host: make it, with an address"
        return [Problem("BridgeMissing", message)]
    if bridge.kind != "bridge":
        return [Problem("NotABridge", f"{wanted.bridge} is no bridge but {bridge.kind or 'a network card'}")]
    if not seen.bridge_has_address:
        problems.append(Problem("BridgeWithoutAddress", f"bridge {wanted.bridge} has no IPv4 address: give it one"))
    if device is None:
        if pf0.functions:
            message = (
                f"virtual function 0 of {pf0.address} has no network device on the host: it is just coming up, has no driver "
                "(sriov_drivers_autoprobe), or was given to a pod or a virtual machine"
            )
            problems.append(Problem("FunctionWithoutDevice", message))
        return problems
    actions: list[Action | Problem] = []
    # Until the bridge has an address it is waited for, as somebody may still be putting it together.
    if seen.bridge_has_address and device.master != bridge.index:
        actions.append(Attach(device, bridge))
    if wanted.mtu and device.mtu != wanted.mtu:
        actions.append(SetMtu(device, wanted.mtu))
    if not device.up:
        actions.append(SetUp(device))
    return actions + problems
