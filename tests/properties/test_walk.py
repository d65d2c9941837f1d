"""
The third voice: a packet that walks through the rows of a data plane comes to what policy says of it, on both alike.

Policy decides from Services; a walk goes by the bytes the kernel would get. Neither knows of the other.
"""

from __future__ import annotations

import pytest
from hypothesis import given, settings

from kpx.dataplanes.way import Way, outcomes
from kpx.model.addresses import Address, format_address, is_loopback
from kpx.policy.story import Outcome, Packet, Story
from tests.lab.walker import PLANES, PaperNode
from tests.properties.questions import Question, questions, sticky_services


@settings(max_examples=400)
@given(questions())
def test_a_walk_comes_to_what_policy_says(question: Question) -> None:
    """Every outcome and no other, through the rows of either data plane."""
    objects, facts, host, several = question
    node = PaperNode(objects, facts, host)
    for packet in several:
        story = node.story(packet)
        for plane in PLANES:
            ways = node.ways(plane, packet)
            assert outcomes(ways) == story.outcomes, told(plane, packet, story, ways)


@pytest.mark.parametrize("plane", PLANES)
@settings(max_examples=100)
@given(questions(sticky_services))
def test_a_client_stays_where_it_went_wherever_that_may_be(plane: str, question: Question) -> None:
    """
    A1, A2, A8: whatever address of a service port it asks next, as long as the endpoint is in the set for that way.

    And nothing else is bound by what was remembered: other clients, other service ports.
    """
    objects, facts, host, several = question
    node = PaperNode(objects, facts, host)
    for before in several[:2]:
        earlier = node.story(before)
        for way in node.ways(plane, before)[:2]:
            for packet in (*several, *from_the_same_client(before, several, host)):
                story = node.story(packet)
                ways = node.ways(plane, packet, way.memory)
                expected = after(earlier, before, way, story, packet)
                assert outcomes(ways) == expected, f"after {way}: {told(plane, packet, story, ways)}"
                again = node.ways(plane, packet, ways[-1].memory)
                assert outcomes(again) == after(story, packet, ways[-1], story, packet), told(plane, packet, story, again)


def from_the_same_client(before: Packet, several: list[Packet], host: frozenset[Address]) -> list[Packet]:
    """The packets as the client of an earlier one would send them, without those it cannot send."""
    return [
        packet._replace(source=before.source, interface=before.interface)
        for packet in several
        if len(packet.destination) == len(before.destination) and (before.source in host or not is_loopback(packet.destination))
    ]


def after(earlier: Story, before: Packet, way: Way, story: Story, packet: Packet) -> frozenset[Outcome]:
    """What may become of a packet once another went its way."""
    assert before.interface == packet.interface or before.source != packet.source, "no client moves from one interface to another"
    if earlier.service is None or earlier.service != story.service or before.source != packet.source:
        return story.outcomes
    kept = frozenset(one for one in story.outcomes if one.backend is not None and one.backend == way.outcome.backend)
    return kept or story.outcomes


def told(plane: str, packet: Packet, story: Story, ways: tuple[Way, ...]) -> str:
    """Both sides, for people."""
    client = format_address(packet.source or b"")
    steps = [*story.steps, *(str(met) for way in ways[:1] for met in way.met)]
    return "\n".join([f"{plane}: {packet} from {client} {packet.interface}", *steps])
