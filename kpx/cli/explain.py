"""`kpx explain`: the story of one packet, as the manifests have it and as the kernel's rows have it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import click

from kpx import api
from kpx.agent.assemble import as_in_place, has_source, open_dataplane
from kpx.cli.destination import address_value, packet_value
from kpx.cli.differences import frontend_sentences, row_sentences
from kpx.cli.inputs import Wanted, kernel, meet, read_if_any, read_wanted
from kpx.cli.kernel_story import Held, affinity_steps, catching, client_entry, kernel_steps, kernel_verdict
from kpx.cli.listing import affinity_json, frontend_json
from kpx.cli.options import READING, config_options
from kpx.cli.output import Json, bold, emit, output_option, table, waiting
from kpx.cli.walking import Walked, walk_all, walk_differences, walk_json, walk_text
from kpx.dataplanes.base import Dataplane, KernelFrontend, Observed
from kpx.errors import CapabilityError, ConfigError
from kpx.model.addresses import Address, format_address
from kpx.model.facts import NodeFacts
from kpx.model.names import ObjectName
from kpx.policy.claims import NODE_PORT_ADDRESS
from kpx.policy.desired import ServiceProgram
from kpx.policy.explain import source_kind
from kpx.policy.story import Packet, Story
from kpx.settings.config import Config


@click.command(short_help="Tell what would happen to a packet, step by step, and why.")
@click.argument("packet", metavar="VIP:PORT[/PROTO]", callback=packet_value)
@click.option(
    "--from", "source", metavar="IP", callback=address_value, help="Address of the client; default: every kind of source is told."
)
@click.option("--offline", is_flag=True, help="Ask the manifests only, not the kernel; default: both.")
@output_option
@config_options(READING)
def explain(config: Config, packet: Packet, source: Address | None, offline: bool, output: str | None) -> None:
    """
    Tell what would happen to a packet, step by step, and why.

    VIP:PORT[/PROTO] is what a client addresses, for example 10.96.0.10:53/udp or [fd00::1]:80; PROTO is tcp (default),
    udp or sctp. With --manifests or --kubeconfig the story is told from the objects there and compared with the kernel;
    without them it is told from the kernel's rows alone.
    """
    packet = packet._replace(source=source)
    if offline and not has_source(config):
        raise ConfigError("--offline needs --manifests DIRECTORY or --kubeconfig FILE: there is nothing else to tell from")
    config = config if offline else as_in_place(config)
    wanted = read_wanted(config) if offline else read_if_any(config)
    facts = wanted.facts if wanted else api.node_facts_of(config)
    addresses = api.host_addresses().every()
    story = _telling(wanted, addresses)(packet) if wanted else None
    held, why_not = None, "not asked" if offline else ""
    if not offline:
        try:
            with kernel(config, "reading") as dataplane, waiting("reading the kernel"):
                held = _ask_kernel(dataplane, packet, facts, addresses, wanted, story)
        except CapabilityError as error:
            if wanted is None:
                raise
            why_not = str(error)
    walked = held.walked if held else _walk_on_paper(open_dataplane(config, kernel=False), packet, addresses, wanted)
    emit(output, _json(packet, story, held, why_not, walked), lambda: _text(packet, story, held, why_not, walked))


def _telling(wanted: Wanted, host: frozenset[Address]) -> Callable[[Packet], Story]:
    """Return what tells the story of a packet from the manifests."""
    return lambda packet: api.explain(packet, wanted.manifests.view, wanted.facts, wanted.programs, host)


def _walk_on_paper(dataplane: Dataplane, packet: Packet, host: frozenset[Address], wanted: Wanted | None) -> tuple[Walked, ...]:
    """Send the packet through the rows that the manifests want."""
    if wanted is None:
        return ()
    rows = api.render(dataplane, _met(packet, wanted), wanted.facts, wanted.manifests.view.service_cidrs.values())
    frontend = catching(packet, dataplane.frontends_of(rows), wanted.facts, host)
    return walk_all(
        dataplane, rows, packet, wanted.facts, host, frontend.source_ranges if frontend else (), _telling(wanted, host)
    )


def _met(packet: Packet, wanted: Wanted) -> dict[ObjectName, ServiceProgram]:
    """Return the programs whose rows a packet may meet."""
    return {
        name: program
        for name, program in wanted.programs.items()
        if packet.destination in program.cluster_ips
        or any(one.frontend.address in (packet.destination, NODE_PORT_ADDRESS) for _, one in program.frontends())
    }


def _ask_kernel(
    dataplane: Dataplane,
    packet: Packet,
    facts: NodeFacts,
    host: frozenset[Address],
    wanted: Wanted | None,
    story: Story | None,
) -> Held:
    """Read the kernel's rows and find the packet in them."""
    wanted = meet(wanted, dataplane) if wanted else None
    observed = dataplane.observe()
    frontend = catching(packet, dataplane.frontends_of(observed.rows), facts, host)
    refusal = None if frontend else dataplane.refusal_of(observed.rows, packet.destination, host)
    names = wanted.owners if wanted else {}
    entry = None
    if frontend and packet.source is not None and frontend.affinity_timeout_s is not None:
        entry = client_entry(packet.source, frontend.frontend, dataplane.affinity(), names)
    kind = source_kind(packet.source, facts, host)
    tell = _telling(wanted, host) if wanted else None
    ranges = frontend.source_ranges if frontend else ()
    walked: tuple[Walked, ...] = ()
    unwalked = ""
    try:
        walked = walk_all(dataplane, observed.rows, packet, facts, host, ranges, tell)
    except ValueError as error:  # a row that kpx would not write
        unwalked = f"its rows cannot be walked: {error}"
    if wanted is None or story is None:
        return Held(kind, frontend, entry, refusal, None, walked)
    said = _differences(dataplane, observed, frontend, packet, wanted, story)
    if observed.present:
        said += [unwalked] if unwalked else walk_differences(walked)
    return Held(kind, frontend, entry, refusal, tuple(said), walked)


def _differences(
    dataplane: Dataplane, observed: Observed, held: KernelFrontend | None, packet: Packet, wanted: Wanted, story: Story
) -> list[str]:
    """Return where the kernel is not as the story has it: its frontend, and all rows this packet meets."""
    if not observed.present:
        return ["nothing of kpx is in the kernel"]
    said = list(observed.differences)
    met = {
        name: program
        for name, program in wanted.programs.items()
        if packet.destination in program.cluster_ips or (story.service and name == story.service.service)
    }
    rows = api.render(dataplane, met, wanted.facts, wanted.manifests.view.service_cidrs.values())
    desired = {f.frontend: f for f in dataplane.frontends_of(rows)}
    said += frontend_sentences(held, desired.get(story.frontend) if story.frontend else None)
    actual = {
        region: {key: value for key, value in observed.rows.get(region, {}).items() if key in content}
        for region, content in rows.items()
    }
    mine = [o for o in api.diff(actual, rows).operations if dataplane.row_frontend(o.table, o.key) in (None, story.frontend)]
    told = {story.frontend} if said and story.frontend else set()
    return said + list(row_sentences(mine, told, wanted.owners, dataplane))


def _text(packet: Packet, story: Story | None, held: Held | None, why_not: str, walked: Sequence[Walked]) -> str:
    lines = [bold(f"{packet}" + (f" from {format_address(packet.source)}" if packet.source else ""))]
    steps = list(story.steps) if story is not None else []
    if held is not None:
        steps += [] if story is not None else kernel_steps(packet, held)
        steps += affinity_steps(packet, held)
    lines += [f"{number}. {step}" for number, step in enumerate(steps, 1)]
    lines.append(f"Verdict: {story.verdict if story else kernel_verdict(packet, held)}")
    if story is not None and story.endpoints:
        rows = [
            (str(e.backend), "in" if e.chosen else "out", e.why, "this node" if e.local else "elsewhere", e.slice_name)
            for e in story.endpoints
        ]
        lines += ["", table(("ENDPOINT", "POOL", "WHY", "WHERE", "SLICE"), rows)]
    if walked:
        whose = "the kernel's rows" if held else "the rows that the manifests want"
        lines += ["", f"The way through {whose}, rule by rule:", *walk_text(walked)]
    if held is None:
        lines += ["", f"The kernel was not consulted: {why_not}."]
    elif held.differences is not None:
        lines += ["", "The kernel agrees."] if not held.differences else ["", "The kernel differs:", *held.differences]
    return "\n".join(lines)


def _json(packet: Packet, story: Story | None, held: Held | None, why_not: str, walked: Sequence[Walked]) -> dict[str, Json]:
    told: dict[str, Json] = {"packet": str(packet), "from": format_address(packet.source) if packet.source else None}
    if story is not None:
        told |= story.to_json()
    else:
        steps, kind = (tuple(kernel_steps(packet, held)), held.source_kind) if held else ((), None)
        told |= Story(steps, kernel_verdict(packet, held), source_kind=kind).to_json()
    told["walk"] = walk_json(walked)
    if held is None:
        asked: dict[str, Json] = {"consulted": False, "reason": why_not, "frontend": None, "affinity": None}
        return told | {"kernel": asked | {"agrees": None, "differences": []}}
    asked = {"consulted": True, "reason": None}
    asked["frontend"] = frontend_json(held.frontend, story.service if story else None) if held.frontend else None
    asked["affinity"] = affinity_json(held.affinity) if held.affinity else None
    asked["agrees"] = None if held.differences is None else not held.differences
    asked["differences"] = list(held.differences or ())
    return told | {"kernel": asked}
