"""``dpfctl sandbox``: brings the whole system up on this machine, shows it, breaks it, takes it down."""

from __future__ import annotations

import argparse
import asyncio
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

from dpf.ctl import output
from dpf.ctl.lifecycle import bring_up, refusal, take_down
from dpf.ctl.output import Clock, complain, say, yaml_of
from dpf.ctl.samples import kamaji_cluster, samples
from dpf.runtime.log import Level
from dpf.sandbox import control
from dpf.sandbox.control import ControlError, NotRunning
from dpf.sandbox.fleet.faults import Fault
from dpf.sandbox.layout import Inventory, Layout, default_data_dir
from dpf.sandbox.managers import MANAGERS
from dpf.sandbox.settings import Settings


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the subcommands of ``dpfctl sandbox``."""
    commands = parser.add_subparsers(dest="sandbox_command", required=True, metavar="COMMAND")
    fleet = argparse.ArgumentParser(add_help=False)
    fleet.add_argument("--dpus", type=int, default=4, metavar="N", help="simulated DPUs (default: %(default)s)")
    fleet.add_argument("--dpus-per-host", type=int, default=1, metavar="M", help="cards in one host (default: 1)")
    fleet.add_argument("--no-delays", action="store_true", help="cards install and boot at once; for measurements")
    for_debugging = argparse.ArgumentParser(add_help=False)
    for_debugging.add_argument(
        "--without",
        action="append",
        default=[],
        choices=MANAGERS,
        help="leave this manager out, to run it from a shell; its kubeconfig is DIR/kubeconfig/MANAGER.conf",
    )
    for_debugging.add_argument(
        "--log-level",
        default="info",
        choices=get_args(Level),
        help="what the managers log at least (default: %(default)s)",
    )
    place = argparse.ArgumentParser(add_help=False)
    place.add_argument(
        "--data-dir",
        type=Path,
        default=None,
        metavar="DIR",
        help=f"the sandbox's folder, in which nothing else may be before `up` (default: {default_data_dir()})",
    )
    form = argparse.ArgumentParser(add_help=False)
    form.add_argument("-o", "--output", choices=["table", "json"], default="table", help="default: table")

    def add(name: str, run: Callable[[argparse.Namespace], int], help_: str, *parents: argparse.ArgumentParser) -> Any:
        command = commands.add_parser(name, help=help_, description=help_, parents=[*parents, place])
        command.set_defaults(run=run)
        return command

    add("up", up, "bring a sandbox up and leave it running; the samples are not applied", fleet, for_debugging)
    add("env", env, "print the variables that point kubectl at the sandbox, for eval")
    samples_ = add("samples", print_samples, "print sample manifests made fit for the sandbox, for kubectl apply -f -")
    samples_.add_argument("--kamaji", action="store_true", help="a DPUCluster of type kamaji instead of a DPUSet")
    add("ps", ps, "list the processes of the sandbox", form)
    kill_ = add("kill", kill, "kill a process with SIGKILL; it comes back as under a kubelet")
    kill_.add_argument("process", help="a name that `ps` lists, or a host")
    add("cards", cards, "list the simulated cards and what was done to them", form)
    fault_ = add("fault", fault, "make something go wrong with a card, or right again")
    fault_.add_argument("card", help="a DPU that `cards` lists")
    fault_.formatter_class = argparse.RawDescriptionHelpFormatter
    fault_.epilog = "faults:\n" + "\n".join(f"  {each:<25}{each.meaning}" for each in Fault)
    fault_.add_argument(
        "kind", nargs="?", choices=[each.value for each in Fault], metavar="FAULT", help="the fault to set, see below"
    )
    fault_.add_argument("--clear", action="store_true", help="clear the card's fault")
    add("down", down, "end the sandbox and remove its data")
    add("demo", demo, "bring a sandbox up, provision all its DPUs before your eyes, take it down", fleet).set_defaults(
        without=[], log_level="info"
    )


def layout_of(arguments: argparse.Namespace) -> Layout:
    """The paths of the sandbox that a command is about."""
    return Layout((arguments.data_dir or default_data_dir()).expanduser().resolve())


def up(arguments: argparse.Namespace) -> int:
    """``dpfctl sandbox up``."""
    layout = layout_of(arguments)
    if not _possible(arguments):
        return 2
    if why := refusal(layout):
        complain(f"error: {why}")
        return 1
    return bring_up(layout, arguments, Clock().tell)


def _possible(arguments: argparse.Namespace, *, least: int = 0) -> bool:
    """Whether there can be such a fleet; complains if not."""
    wrong = f"it takes --dpus {least} or more" if arguments.dpus < least else ""
    try:
        Inventory(arguments.dpus, arguments.dpus_per_host, "127.16.0.0")
    except ValueError as error:
        wrong = str(error)
    if wrong:
        complain(f"error: {wrong}")
    return not wrong


def env(arguments: argparse.Namespace) -> int:
    """``dpfctl sandbox env``."""
    layout = layout_of(arguments)
    settings = _settings(layout)
    for name, value in environment(layout, settings).items():
        say(f"export {name}={shlex.quote(value)}")
    return 0


def environment(layout: Layout, settings: Settings) -> dict[str, str]:
    """The variables that point programs at a sandbox."""
    return {
        "KUBECONFIG": str(layout.host_kubeconfig),
        "DPF_DPU_KUBECONFIG": str(layout.dpu_kubeconfig),
        "DPF_BFB_URL": settings.bfb_url,
    }


def print_samples(arguments: argparse.Namespace) -> int:
    """``dpfctl sandbox samples``."""
    settings = _settings(layout_of(arguments))
    found = [kamaji_cluster(settings)] if arguments.kamaji else samples(settings)
    say(yaml_of(found))
    return 0


def ps(arguments: argparse.Namespace) -> int:
    """``dpfctl sandbox ps``."""
    layout = layout_of(arguments)
    output.show(_ask(layout, layout.control_socket, "GET", "/processes"), arguments.output)
    return 0


def kill(arguments: argparse.Namespace) -> int:
    """``dpfctl sandbox kill``."""
    layout = layout_of(arguments)
    _ask(layout, layout.control_socket, "POST", f"/processes/{arguments.process}/kill")
    say(f"{arguments.process} killed")
    return 0


def cards(arguments: argparse.Namespace) -> int:
    """``dpfctl sandbox cards``."""
    layout = layout_of(arguments)
    output.show(_ask(layout, layout.fleet_socket, "GET", "/cards"), arguments.output)
    return 0


def fault(arguments: argparse.Namespace) -> int:
    """``dpfctl sandbox fault``."""
    if bool(arguments.kind) == arguments.clear:
        complain(f"error: name one of {', '.join(Fault)}, or give --clear")
        return 2
    layout, body = layout_of(arguments), {"fault": arguments.kind or ""}
    _ask(layout, layout.fleet_socket, "PUT", f"/cards/{arguments.card}/fault", body)
    say(f"{arguments.card}: {arguments.kind or 'no fault'}")
    return 0


def down(arguments: argparse.Namespace) -> int:
    """``dpfctl sandbox down``. That there is none is no error."""
    take_down(layout_of(arguments))
    return 0


def demo(arguments: argparse.Namespace) -> int:
    """``dpfctl sandbox demo``."""
    if not _possible(arguments, least=1):
        return 2
    # Only this command needs rich, which takes a tenth of a second to import.
    from dpf.ctl.demo import run_demo

    return run_demo(arguments)


def _settings(layout: Layout) -> Settings:
    try:
        return Settings.read(layout)
    except FileNotFoundError:
        raise _none(layout) from None


def _ask(layout: Layout, socket: Path, method: str, path: str, body: Any = None) -> Any:
    try:
        return asyncio.run(control.ask(socket, method, path, body))
    except NotRunning:
        raise _none(layout) from None


def _none(layout: Layout) -> ControlError:
    return ControlError(
        f"no sandbox runs in {layout.data_dir}; `dpfctl sandbox up` starts one, --data-dir names another"
    )
