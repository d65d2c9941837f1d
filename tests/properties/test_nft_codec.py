"""nf_tables codecs: what we pack, pyroute2 reads as we meant it, and we read back ourselves."""

from __future__ import annotations

import hypothesis.strategies as st
from hypothesis import given
from pyroute2.netlink.nfnetlink.nftsocket import nft_chain_msg, nft_rule_msg, nft_set_elem_list_msg, nft_set_msg

from kpx.dataplanes.nftables.encode import range_elements
from kpx.dataplanes.nftables.observe import read_ranges
from kpx.dataplanes.nftables.schema import SCHEMAS, shape
from kpx.dataplanes.nftables.skeleton import HOOKS, skeleton
from kpx.kernel.wire import nft, nft_element
from kpx.kernel.wire.message import NLM_F_REQUEST, message, messages
from kpx.model.addresses import Address, Family, Prefix, parse_prefix
from kpx.model.facts import LocalDetector, NodeFacts

words = st.integers(1, 10)
keys = words.flatmap(lambda n: st.binary(min_size=4 * n, max_size=4 * n))
values = st.binary(min_size=4, max_size=20).map(lambda b: b[: len(b) & ~3])
chain_names = st.text("abcdefghijklmnopqrstuvwxyz-0123456789", min_size=1, max_size=30)
verdicts = st.tuples(st.sampled_from([nft.NFT_GOTO, nft.NFT_JUMP]), chain_names) | st.just((nft.NF_DROP, ""))
CODES = {nft.NFT_GOTO: "NFT_GOTO", nft.NFT_JUMP: "NFT_JUMP", nft.NF_DROP: "NF_DROP"}


def elements_message(packed: list[bytes]) -> bytes:
    ((payload, first, last),) = nft_element.element_messages(2, "kpx", "frontends", packed)
    assert (first, last) == (0, len(packed))
    return message(nft.NFNL_SUBSYS_NFTABLES << 8 | nft.NEWSETELEM, NLM_F_REQUEST, 1, payload)


@given(st.lists(st.tuples(keys, values), min_size=1, max_size=40))
def test_pyroute2_reads_the_elements_of_a_map_as_packed(pairs):
    raw = elements_message([nft_element.element(key, nft_element.value_data(value)) for key, value in pairs])
    decoded = nft_set_elem_list_msg(raw)
    decoded.decode()
    read = [
        (
            e.get_attr("NFTA_SET_ELEM_KEY").get_attr("NFTA_DATA_VALUE"),
            e.get_attr("NFTA_SET_ELEM_DATA").get_attr("NFTA_DATA_VALUE"),
        )
        for e in decoded.get_attr("NFTA_SET_ELEM_LIST_ELEMENTS")
    ]

    assert read == pairs


@given(st.lists(st.tuples(keys, verdicts), min_size=1, max_size=40))
def test_pyroute2_reads_the_elements_of_a_verdict_map_as_packed(pairs):
    raw = elements_message([nft_element.element(key, nft_element.verdict_data(*verdict)) for key, verdict in pairs])
    decoded = nft_set_elem_list_msg(raw)
    decoded.decode()
    read = []
    for item in decoded.get_attr("NFTA_SET_ELEM_LIST_ELEMENTS"):
        verdict = item.get_attr("NFTA_SET_ELEM_DATA").get_attr("NFTA_DATA_VERDICT")
        code, chain = verdict.get_attr("NFTA_VERDICT_CODE"), verdict.get_attr("NFTA_VERDICT_CHAIN") or ""
        read.append((item.get_attr("NFTA_SET_ELEM_KEY").get_attr("NFTA_DATA_VALUE"), (code, chain)))

    assert read == [(key, (CODES[code], chain)) for key, (code, chain) in pairs]


@given(st.lists(st.tuples(keys, values | verdicts, st.integers(0, 2**40)), min_size=1, max_size=40))
def test_elements_come_back_from_our_own_reader(items):
    packed = [
        nft_element.element(
            key, nft_element.verdict_data(*data) if isinstance(data, tuple) else nft_element.value_data(data), timeout_ms=timeout
        )
        for key, data, timeout in items
    ]
    raw = elements_message(packed)
    (one,) = messages(raw)

    assert [(e.key, e.data, e.timeout_ms) for e in nft_element.read_elements(raw, one.start, one.end)] == items


@given(words, st.data())
def test_the_fast_reader_and_the_walking_reader_agree(count, data):
    key = st.binary(min_size=4 * count, max_size=4 * count)
    items = data.draw(st.lists(st.tuples(key, values | verdicts | st.none()), min_size=1, max_size=40))
    pack = {bytes: nft_element.value_data, tuple: lambda v: nft_element.verdict_data(*v), type(None): lambda _: b""}
    raw = elements_message([nft_element.element(k, pack[type(v)](v)) for k, v in items])
    (one,) = messages(raw)
    fast = [(k, nft_element.read_data(packed)) for k, packed in nft_element.read_pairs(raw, one.start, one.end, 4 * count)]

    assert fast == [(e.key, e.data) for e in nft_element.read_elements(raw, one.start, one.end)] == items


@given(st.integers(1, 10).flatmap(lambda n: st.lists(st.binary(min_size=4 * n, max_size=4 * n), max_size=40)))
def test_members_are_packed_together_as_each_is_alone(keys_of_one_length):
    assert nft_element.members(keys_of_one_length) == [nft_element.element(key) for key in keys_of_one_length]


@given(
    st.tuples(st.integers(1, 10), st.integers(1, 5)).flatmap(
        lambda n: st.lists(
            st.tuples(st.binary(min_size=4 * n[0], max_size=4 * n[0]), st.binary(min_size=4 * n[1], max_size=4 * n[1])),
            max_size=40,
        )
    )
)
def test_pairs_are_packed_together_as_each_is_alone(items):
    packed = nft_element.pairs([key for key, _ in items], [value for _, value in items])

    assert packed == [nft_element.element(key, nft_element.value_data(value)) for key, value in items]


@given(st.lists(st.integers(0, 3), max_size=30), st.data())
def test_elements_of_any_length_are_split_without_a_message_that_is_too_long(sizes, data):
    """Verdicts differ in length; an element alone may be longer than the limit of all."""
    packed = [bytes(data.draw(st.integers(1, 25_000)) if size == 3 else 100 * size + 4) for size in sizes]
    parts = list(nft_element.element_messages(2, "kpx", "frontends", packed))

    assert [i for _, first, last in parts for i in range(first, last)] == list(range(len(packed)))
    totals = [sum(map(len, packed[first:last])) for _, first, last in parts]
    assert all(total <= nft_element.ELEMENTS_MAX_BYTES for total in totals)
    # As few as can be: what begins the next message would have been too much for this one.
    for total, (_, _, last) in zip(totals, parts[:-1], strict=False):
        assert total + len(packed[last]) > nft_element.ELEMENTS_MAX_BYTES


@given(st.integers(1, 3000), st.integers(1, 10))
def test_no_message_of_elements_is_too_long_for_an_attribute_and_none_is_lost(count, width):
    packed = [nft_element.element(index.to_bytes(4 * width, "big"), nft_element.value_data(b"abcd")) for index in range(count)]
    parts = list(nft_element.element_messages(2, "kpx", "endpoints", packed))

    assert all(len(payload) < 65_000 for payload, _, _ in parts)
    assert [i for _, first, last in parts for i in range(first, last)] == list(range(count))


@st.composite
def prefixes(draw: st.DrawFn) -> Prefix:
    width = draw(st.sampled_from([4, 16]))
    length = draw(st.integers(0, width * 8))
    text = Address(draw(st.binary(min_size=width, max_size=width)))
    return parse_prefix(str(Prefix(text, length)))


@given(prefixes())
def test_a_range_is_read_back_as_it_was_packed(prefix):
    raw = elements_message(range_elements(prefix))
    (one,) = messages(raw)

    assert read_ranges(nft_element.read_elements(raw, one.start, one.end)) == (prefix,)


def test_pyroute2_reads_every_constant_rule_chain_and_set():
    """An oracle for the expressions: pyroute2 knows each of them and finds nothing it cannot read."""
    facts = NodeFacts("n", local_detector=LocalDetector(prefixes=(parse_prefix("10.0.0.0/8"),)))
    known = set()
    for family in Family:
        for chain in skeleton(facts, family):
            decoded = nft_chain_msg(nft.new_chain(1, 2, "kpx", chain.name, HOOKS.get(chain.name)))
            decoded.decode()
            assert decoded.get_attr("NFTA_CHAIN_NAME") == chain.name
            for rule in chain.rules:
                read = nft_rule_msg(nft.new_rule(1, 2, "kpx", chain.name, rule.expressions, rule.comment))
                read.decode()
                names = [e.get_attr("NFTA_EXPR_NAME") for e in read.get_attr("NFTA_RULE_EXPRESSIONS")]
                assert len(names) == len(rule.expressions)
                assert all(e.get_attr("NFTA_EXPR_DATA")["attrs"] for e in read.get_attr("NFTA_RULE_EXPRESSIONS"))
                assert read.get_attr("NFTA_RULE_USERDATA") == rule.comment
                known.update(names)
        for schema in SCHEMAS:
            made = nft_set_msg(nft.new_set(1, 2, "kpx", schema.name, shape(schema, family), 1, schema.comment))
            made.decode()
            assert made.get_attr("NFTA_SET_NAME") == schema.name
            assert made.get_attr("NFTA_SET_KEY_LEN") == shape(schema, family).key_bytes

    assert {"payload", "meta", "ct", "lookup", "fib", "cmp", "bitwise", "immediate", "masq", "reject"} <= known
