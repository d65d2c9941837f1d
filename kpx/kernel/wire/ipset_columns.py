"""Elements of one set that are made of packed keys, written many at once without becoming `Element`s in between."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import overload

from kpx.kernel.wire.attr import NLA_F_NESTED, attr
from kpx.kernel.wire.columns import Field, filled, number
from kpx.kernel.wire.ipset import ATTR_ADT, ELEMENTS_MAX_BYTES, Element, elements_prefix
from kpx.kernel.wire.ipset_element import ADDRESS, SECOND, layout_of, signature_of


class AlikeElements(Sequence[Element]):
    """
    Elements that have the same fields, of which some differ.

    Args:
        sample: the element of the first key.
        starts: for each field that differs (an index of `kpx.kernel.wire.ipset_element`) where in a key it begins; fields are as
            in an element, numbers in network order: a length and a protocol have one byte, a port has two.
        keys: at least one, all of one width.
    """

    def __init__(self, sample: Element, starts: Mapping[int, int], keys: Sequence[bytes]) -> None:
        self._sample = sample
        self._starts = starts
        self._keys = keys
        self._layout = layout_of(signature_of(sample))

    def __len__(self) -> int:
        return len(self._keys)

    @overload
    def __getitem__(self, index: int) -> Element: ...
    @overload
    def __getitem__(self, index: slice) -> AlikeElements: ...
    def __getitem__(self, index: int | slice) -> Element | AlikeElements:
        if isinstance(index, slice):
            return AlikeElements(self._sample, self._starts, self._keys[index])
        key, values = self._keys[index], list(self._sample)
        for field, start in self._starts.items():
            found = key[start : start + self._layout.spots[field][1]]
            values[field] = found if field in (ADDRESS, SECOND) else int.from_bytes(found, "big")
        return Element._make(values)

    def messages(self, name: str) -> Iterator[tuple[bytes, int, int]]:
        """Yield what `element_messages` would."""
        prefix, spots = elements_prefix(name), self._layout.spots
        template = self._layout.packer()(self._sample, 0)
        fields = [Field(spots[field][0], start, spots[field][1]) for field, start in self._starts.items()]
        stride = len(template)
        most = ELEMENTS_MAX_BYTES // stride
        for first in range(0, len(self._keys), most):
            keys = self._keys[first : first + most]
            packed = filled(template, fields, keys)
            number(packed, stride, stride - 4, range(first + 1, first + len(keys) + 1), big_endian=True)
            yield prefix + attr(ATTR_ADT | NLA_F_NESTED, bytes(packed)), first, first + len(keys)
