"""Ogg (RFC 3533): pages of one or several streams, each page with a number and a checksum.

Streams that follow each other, a chain, are decoded one by one: libsndfile reads the first. FLAC in
Ogg is FLAC's own stream, in pages; without their headers libFLAC reads it.
"""

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from tokenizer.audio.containers.flac import read_flac
from tokenizer.audio.containers.others import check_no_other
from tokenizer.audio.containers.parts import BLOCK_BYTES, Part, find_bytes, joined, size_of, view
from tokenizer.audio.reasons import TRUNCATED, AudioError

MAGIC = b"OggS"
BEGINS, ENDS = 0x02, 0x04  # flags of a stream's first and last page
LARGEST_PAGE, LARGEST_HEADER = 65_307, 282  # bytes
VORBIS, OPUS, FLAC = b"\x01vorbis", b"OpusHead", b"\x7fFLAC"
FLAC_IN_OGG = 9  # bytes before a FLAC stream's own header
REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


@dataclass(frozen=True)
class Page:
    """start, body, stop: places in the file. serial: of its stream. number: of the page in it."""

    start: int
    body: int
    stop: int
    flags: int
    serial: int
    number: int
    head: bytes


def read_ogg(file: BinaryIO, start: int) -> Iterator[Part]:
    """The parts of a chain of streams, from byte `start` on.

    Raises AudioError(TRUNCATED) when a page is missing or damaged, or a stream lacks its last,
    and UNCLAIMED when a file of another kind follows.
    """
    stop, end = size_of(file), start
    link: list[tuple[int, int]] = []
    streams: dict[int, int] = {}  # of a link: serial → number of its last page
    open_streams, heads = set[int](), list[bytes]()
    chain: list[tuple[list[tuple[int, int]], list[bytes]]] = []
    for page in _pages(file, start, stop):
        if page.flags & BEGINS and not open_streams:
            streams, heads, link = {}, [], []
            chain.append((link, heads))
        if page.flags & BEGINS:
            open_streams.add(page.serial)
            heads.append(page.head)
        elif page.serial not in streams:
            raise AudioError(TRUNCATED, "an Ogg stream without its first page")
        elif page.number != (streams[page.serial] + 1) & 0xFFFFFFFF:
            raise AudioError(TRUNCATED, f"an Ogg page is missing or damaged at {page.start}")
        streams[page.serial] = page.number
        if page.flags & ENDS:
            open_streams.discard(page.serial)
        if link and link[-1][1] == page.start and heads[0][:5] != FLAC:
            link[-1] = (link[-1][0], page.stop)
        else:
            link.append((page.body if heads[0][:5] == FLAC else page.start, page.stop))
        end = page.stop
    if open_streams or not chain:
        raise AudioError(TRUNCATED, "the last Ogg page is missing or cut")
    if find_bytes(file, MAGIC, end) >= 0:
        raise AudioError(TRUNCATED, "an Ogg page behind the last stream is damaged")
    check_no_other(file, end)
    for link, heads in chain:
        yield from _parts(file, link, heads, whole=len(chain) == 1 and link == [(0, stop)])


def _parts(
    file: BinaryIO, link: list[tuple[int, int]], heads: list[bytes], whole: bool
) -> Iterator[Part]:
    if len(heads) == 1 and heads[0].startswith(FLAC):
        first = (link[0][0] + FLAC_IN_OGG, link[0][1])
        yield from read_flac(joined(file, [first, *link[1:]]), 0)
        return
    sound = view(file, 0, size_of(file)) if whole else joined(file, link)
    simple = len(heads) == 1 and heads[0].startswith((VORBIS, OPUS))
    yield Part(file=sound, format="ogg", sndfile=simple)


def is_page(data: bytes) -> bool:
    """Whether a whole page begins here, with its checksum."""
    size = page_size(data)
    return 0 < size <= len(data) and _sum_is_right(data[:size])


def page_size(data: bytes) -> int:
    """Bytes of the page that begins here; 0 if there is none, or its header is cut."""
    if len(data) < 27 or data[:5] != MAGIC + b"\0" or len(data) < 27 + data[26]:
        return 0
    return 27 + data[26] + sum(data[27 : 27 + data[26]])


def _sum_is_right(page: bytes) -> bool:
    # Ogg's CRC-32 takes bits from the other end than zlib's, and does not invert them.
    bits = (page[:22] + bytes(4) + page[26:]).translate(REVERSED)
    value = zlib.crc32(bits, 0xFFFFFFFF) ^ 0xFFFFFFFF
    return value.to_bytes(4, "big").translate(REVERSED) == page[22:26]


def _pages(file: BinaryIO, start: int, stop: int) -> Iterator[Page]:
    """Pages with the right checksum, in order; anything else is passed over."""
    base, data, at = start, b"", start
    while at < stop:
        if (at + LARGEST_PAGE > base + len(data) and base + len(data) < stop) or at < base:
            file.seek(at)
            base, data = at, file.read(BLOCK_BYTES)
        place = data.find(MAGIC, at - base)
        if place < 0:
            at = base + len(data) - (3 if base + len(data) < stop else 0)
            continue
        at = base + place
        if at + LARGEST_PAGE > base + len(data) and base + len(data) < stop:
            continue
        size = page_size(data[place : place + LARGEST_HEADER])
        page = data[place : place + size]
        if not size or len(page) < size or not _sum_is_right(page):
            at += 4
            continue
        serial, number = (int.from_bytes(page[i : i + 4], "little") for i in (14, 18))
        body = at + 27 + page[26]
        yield Page(
            start=at,
            body=body,
            stop=at + size,
            flags=page[5],
            serial=serial,
            number=number,
            head=page[body - at :][:8],
        )
        at += size
