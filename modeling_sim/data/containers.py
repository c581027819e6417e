"""Checks that the container of a recording is complete, and finds the length of files whose header does not give it.

libsndfile silently reads truncated files, and ignores audio after the end that a header announces. So this module
counts the chunks of WAV, the pages of Ogg (with their checksums) and the frames of MP3, and looks for a second header
in FLAC. FLAC, MP3 and Ogg are read from start to end but not decoded; of WAV, AIFF and others only headers are read.

Some complete files do not give their length: WAV and FLAC that were written to a pipe, MP3 without a Xing header.
`mended` finds the length and returns a header with it.
"""

import io
import re
import struct
import zlib
from collections.abc import Callable
from typing import Any, BinaryIO, NamedTuple

# Sizes in headers of programs that write to a pipe and cannot know them: 0, and close to these.
_UNKNOWN_SIZES = (0x7FFFF000, 0x7FFFFFFF, 0xFFFFFFFF)


_MOST_HEADERS = 256  # largest difference of such a size from them: the bytes of the headers


_WAV = (b"RIFF", b"RIFX", b"RF64", b"BW64")


_MOST_ZEROS = 2**16  # recorders may pad the file to a disk block after the last chunk


_LONGEST_PAGE = 65_307  # bytes of an Ogg page


_JOINED = "joined, several recordings in one file, of which only the first would be read; split them"


# Bits of each byte in reverse order.
_REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


# Kilobits per second of MPEG audio, by (MPEG version 1, layer).
_BITRATES = {
    (True, 1): range(32, 449, 32),
    (True, 2): (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (True, 3): (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (False, 1): (32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (False, 2): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (False, 3): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}


class Mended(NamedTuple):
    """What to read in place of a file: `head`, followed by the file's bytes from `start` to `end`."""

    head: bytes
    start: int
    end: int

    def of(self, file: BinaryIO) -> BinaryIO:
        """The mended file; `file` must stay open."""
        return io.BufferedReader(_Spliced(self, file))


class _Spliced(io.RawIOBase):
    def __init__(self, parts: Mended, file: BinaryIO) -> None:
        self.parts, self.file, self.place = parts, file, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0, /) -> int:
        size = len(self.parts.head) + self.parts.end - self.parts.start
        self.place = offset + (0, self.place, size)[whence]
        return self.place

    def readinto(self, buffer: Any, /) -> int:
        view, head = memoryview(buffer).cast("B"), self.parts.head
        if self.place < len(head):
            part = head[self.place : self.place + len(view)]
        else:
            place = self.parts.start + self.place - len(head)
            self.file.seek(place)
            part = self.file.read(max(0, min(len(view), self.parts.end - place)))
        view[: len(part)] = part
        self.place += len(part)
        return len(part)


def mended(file: BinaryIO) -> Mended | None:
    """A replacement for a complete file that libsndfile cannot read, or whose length it cannot find.

    These are WAV whose header gives 0 for the size of the samples, BW64, FLAC whose header gives 0 for their number,
    and MP3 without a Xing header or with more than an ID3 tag in front. `None` for all other files, and for damaged
    ones.

    Args:
        file: The encoded file.
    """
    size = file.seek(0, 2)
    head = _read(file, 0, 12)
    if head[:4] in (b"RIFF", b"RIFX"):
        return _mended_wav(file, size)
    if head[:4] == b"BW64":  # the same format as RF64
        return Mended(b"RF64", 4, size)
    place = _tag_size(head)
    start = _read(file, place, 64)
    if start[:4] == b"fLaC":
        return _mended_flac(file, place, size)
    if head[:3] != b"ID3" and _mp3_frame(head[:4]) is None and head[:8] != _APE:
        return None
    has_footer = place > 0 and head[5] & 0x10  # libsndfile does not support a footer of the tag
    if not has_footer and _mp3_frame(start[:4]) is not None and _announced_frames(start) is not None:
        return None
    return _mended_mp3(_read(file, 0, size))


def problem(file: BinaryIO, num_samples: int) -> str | None:
    """Describes what is wrong with a file's container; `None` if nothing is.

    Args:
        file: The encoded file.
        num_samples: Number of samples that libsndfile finds in it, or in the `mended` file.
    """
    size = file.seek(0, 2)
    head = _read(file, 0, 32)
    if head[:4] in _WAV and head[8:12] == b"WAVE":
        return _wav_problem(file, size)
    tag = _tag_size(head)
    if _read(file, tag, 4) == b"fLaC":
        content = _read(file, tag, size)
        # The marker and the header of a STREAMINFO block, which may be the last metadata block.
        again = re.match(rb"fLaC[\0\x80]\0\0\x22", content[content.rfind(b"fLaC") :])
        return _JOINED if again and content.rfind(b"fLaC") > 0 else None
    if head[:4] == b"OggS":
        return _ogg_problem(_read(file, 0, size))
    if tag or head[:8] == _APE or _mp3_frame(head[:4]) is not None:
        return _mp3_problem(_read(file, 0, size), num_samples)
    return _end_problem(file, head, size, num_samples)


def _end_problem(file: BinaryIO, head: bytes, size: int, num_samples: int) -> str | None:
    """Checks the length of a file in formats whose first bytes give it."""
    if head[:4] == b"NIST":
        announced = re.search(rb"sample_count -i (\d+)", _read(file, 0, 1024))
        is_complete = announced is None or int(announced[1]) <= num_samples
    elif head[:4] == b"FORM":  # AIFF, whose padding may be missing
        is_complete = struct.unpack(">I", head[4:8])[0] + 8 <= size + 1
    elif head[:4] == b"riff":  # W64
        is_complete = struct.unpack("<Q", head[16:24])[0] <= size
    elif head[:4] == b".snd":
        is_complete = head[8:12] == b"\xff" * 4 or sum(struct.unpack(">II", head[4:12])) <= size
    else:
        return "unsupported format, whose completeness cannot be checked; convert it to WAV or FLAC"
    return None if is_complete else "truncated"


def _read(file: BinaryIO, place: int, size: int) -> bytes:
    file.seek(place)
    return file.read(size)


def _tag_size(header: bytes) -> int:
    """Size in bytes of an ID3 tag at the start of a header; 0 for none."""
    if header[:3] != b"ID3" or len(header) < 10:
        return 0
    size = sum(byte << 7 * shift for byte, shift in zip(header[6:10], (3, 2, 1, 0), strict=True))
    return 10 + size + (10 if header[5] & 0x10 else 0)


def _mended_wav(file: BinaryIO, size: int) -> Mended | None:
    """Replaces a size of the samples of 0 by the number of bytes that follow."""
    order = ">" if _read(file, 0, 4) == b"RIFX" else "<"
    place, length = _data_chunk(file, size, order)
    if place is None or length != 0:
        return None
    rest = _read(file, place + 8, size)
    if _end_of_chunks(rest, order) == len(rest):
        return None  # it is really empty; other chunks may follow
    return Mended(_read(file, 0, place + 4) + struct.pack(f"{order}I", len(rest)), place + 8, size)


def _data_chunk(file: BinaryIO, size: int, order: str) -> tuple[int | None, int]:
    """Position of the chunk of samples in a WAV, `None` if there is none, and the size that it announces."""
    place, large_size = 12, None
    while place + 8 <= size:
        name, length = struct.unpack(f"{order}4sI", _read(file, place, 8))
        if name == b"data":
            return place, large_size if length == 0xFFFFFFFF and large_size is not None else length
        if name == b"ds64":
            large_size = struct.unpack("<QQ", file.read(16))[1]
        place += 8 + length + length % 2
    return None, 0


def _wav_problem(file: BinaryIO, size: int) -> str | None:
    order = ">" if _read(file, 0, 4) == b"RIFX" else "<"
    place, length = _data_chunk(file, size, order)
    if place is None:
        return "truncated, there is no chunk of samples"
    if length == 0 or any(abs(length - unknown) <= _MOST_HEADERS for unknown in _UNKNOWN_SIZES):
        return None  # the samples extend to the end of the file
    end = place + 8 + length
    if end > size:
        return f"truncated, its header announces {length} bytes of samples but it has {size - place - 8}"
    rest = _read(file, end, size - end)
    # A chunk of odd length should be padded, but not all programs do so.
    rest = rest[max(_end_of_chunks(rest, order), length % 2 and 1 + _end_of_chunks(rest[1:], order)) :]
    is_padding = len(rest) < 8 or rest.startswith(b"TAG") or (len(rest) <= _MOST_ZEROS and not rest.strip(b"\0"))
    return None if is_padding else f"joined or damaged, {len(rest)} bytes follow the samples that its header announces"


def _end_of_chunks(content: bytes, order: str) -> int:
    """End of the RIFF chunks at the start of some bytes."""
    place = 0
    while place + 8 <= len(content):
        name, length = struct.unpack(f"{order}4sI", content[place : place + 8])
        if name in _WAV or not re.fullmatch(rb"[ -~]{4}", name) or place + 8 + length > len(content):
            break
        place = min(place + 8 + length + length % 2, len(content))
    return place


def last_page_start(file: BinaryIO) -> int:
    """A sample at or before the start of the last page of an Ogg file."""
    size = file.seek(0, 2)
    tail = _read(file, max(0, size - 2 * _LONGEST_PAGE), 2 * _LONGEST_PAGE)
    place = tail.rfind(b"OggS")
    while (place := tail.rfind(b"OggS", 0, max(0, place))) >= 0:
        (end,) = struct.unpack("<q", tail[place + 6 : place + 14])
        if end >= 0:  # else no sample ends in this page
            return int(end)
    return 0


def _ogg_problem(content: bytes) -> str | None:
    place = 0
    streams: dict[int, int] = {}
    ended: set[int] = set()
    while place < len(content):
        if content[place : place + 4] != b"OggS":
            return f"damaged at byte {place}"
        header_end = place + 27 + (content[place + 26] if place + 26 < len(content) else 0)
        end = header_end + sum(content[place + 27 : header_end])
        if end > len(content) or header_end > len(content):
            return "truncated in its last page"
        flags, serial, number, checksum = struct.unpack("<5xB8xIII", content[place : place + 26])
        page = content[place : place + 22] + bytes(4) + content[place + 26 : end]
        if _ogg_checksum(page) != checksum:
            return f"damaged in the page at byte {place}"
        if flags & 2 and ended:
            return _JOINED
        if number != streams.get(serial, -1) + 1:
            return f"damaged, pages are missing before byte {place}"
        streams[serial] = number
        if flags & 4:
            ended.add(serial)
        place = end
    return None if ended == set(streams) else "truncated, there is no last page"


def _ogg_checksum(page: bytes) -> int:
    """CRC-32 with the bit order reversed compared with zlib, and without inversion."""
    reverse = 0xFFFFFFFF ^ zlib.crc32(page.translate(_REVERSED), 0xFFFFFFFF)
    return int(f"{reverse:032b}"[::-1], 2)


class _Mp3Frame(NamedTuple):
    """Header of a frame."""

    format: tuple[int, ...]
    """MPEG version, layer and sampling rate, the same for all frames of a recording."""
    length: int
    num_samples: int


def _mp3_frame(header: bytes) -> _Mp3Frame | None:
    """Parses the first four bytes of a frame; `None` if they are not a frame."""
    if len(header) < 4 or header[0] != 0xFF or header[1] & 0xE0 != 0xE0:
        return None
    version, layer = header[1] >> 3 & 3, 4 - (header[1] >> 1 & 3)  # versions: 0 is 2.5, 2 is 2, 3 is 1
    bitrate, rate = header[2] >> 4, header[2] >> 2 & 3
    if version == 1 or layer == 4 or bitrate in (0, 15) or rate == 3:
        return None
    hertz = (44100, 48000, 32000)[rate] >> {3: 0, 2: 1, 0: 2}[version]
    bits = 1000 * _BITRATES[version == 3, layer][bitrate - 1]
    padding = header[2] >> 1 & 1
    if layer == 1:
        return _Mp3Frame((version, layer, hertz), (12 * bits // hertz + padding) * 4, 384)
    num_samples = 576 if layer == 3 and version != 3 else 1152
    return _Mp3Frame((version, layer, hertz), num_samples // 8 * bits // hertz + padding, num_samples)


_APE = b"APETAGEX"


_XING = re.compile(rb"(?:Xing|Info)...[\1\3\5\7\11\13\15\17](....)", re.DOTALL)


class _Mp3(NamedTuple):
    """Frames of an MP3 from byte `start` to byte `end`, excluding a Xing header."""

    start: int
    end: int
    header: bytes
    """The first 4 bytes of the first frame; empty if the file is not a supported MP3."""
    num_frames: int
    announced: int | None
    problem: str | None


def _announced_frames(frame: bytes) -> int | None:
    """Number of frames in a Xing header, if the frame is one."""
    tag = _XING.search(frame[:64])
    return struct.unpack(">I", tag[1])[0] if tag else None


def _end_of_mp3(content: bytes) -> int:
    """Start of the tags at the end of an MP3."""
    end = len(content)
    while True:
        if content[max(0, end - 128) : end].startswith(b"TAG"):
            size = 128
        elif content[max(0, end - 32) : end].startswith(_APE):
            length, has_header = struct.unpack("<I4xI", content[end - 20 : end - 8])
            size = length + (32 if has_header >> 31 else 0)
        elif re.fullmatch(rb"\d{6}LYRICS200", content[max(0, end - 15) : end]):
            size = int(content[end - 15 : end - 9]) + 15
        else:
            return end
        if not 0 < size <= end:
            return end
        end -= size


def _start_of_mp3(content: bytes, end: int) -> int:
    """End of the tags and zeros at the start of an MP3."""
    place = 0
    while size := _tag_size(content[place : place + 10]):
        place += size
    if content.startswith(_APE, place):
        place += 32 + int.from_bytes(content[place + 12 : place + 16], "little")
    return place + len(content[place:end]) - len(content[place:end].lstrip(b"\0"))


def _mp3_frames(content: bytes) -> _Mp3:
    """Reads an MP3 frame by frame."""
    end, num_frames, announced = _end_of_mp3(content), 0, None
    place = _start_of_mp3(content, end)
    start, header = place, content[place : place + 4]
    first = _mp3_frame(header)
    if first is None:
        return _Mp3(start, end, b"", 0, None, None)
    what = None
    while place < end and what is None:
        frame = _mp3_frame(content[place : place + 4])
        if frame is None and (size := _tag_size(content[place : place + 10])):
            place += size
        elif frame is None and not content[place:end].strip(b"\0"):
            end = place
        elif frame is None or frame.format != first.format:
            what = f"damaged in its MPEG frame {num_frames}, at byte {place}"
        elif place + frame.length > end:
            what = f"truncated in its MPEG frame {num_frames}"
        else:
            if place == start:
                announced = _announced_frames(content[place : place + 64])
            if announced is None or place > start:
                num_frames += 1
            place += frame.length
    return _Mp3(start, end, header, num_frames, announced, what)


def _mended_mp3(content: bytes) -> Mended | None:
    """Removes tags at the start, and adds a Xing header."""
    mp3 = _mp3_frames(content)
    frame = _mp3_frame(mp3.header)
    if frame is None or frame.format[1] != 3 or mp3.problem is not None:
        return None
    if mp3.announced is not None:
        return Mended(b"", mp3.start, mp3.end)
    # A frame like the first one, but at a bitrate with enough room, and without a checksum.
    header = bytes([0xFF, mp3.header[1] | 1, 0x90 | mp3.header[2] & 0x0C, mp3.header[3]])
    version_1, mono = frame.format[0] == 3, header[3] >> 6 == 3
    side = (17 if mono else 32) if version_1 else (9 if mono else 17)
    xing = header + bytes(side) + b"Xing" + struct.pack(">II", 1, mp3.num_frames)
    own = _mp3_frame(header)
    return Mended(xing.ljust(own.length if own else 0, b"\0"), mp3.start, mp3.end)


def _mp3_problem(content: bytes, num_samples: int) -> str | None:
    mp3 = _mp3_frames(content)
    frame = _mp3_frame(mp3.header)
    if frame is None or mp3.problem is not None:
        return mp3.problem
    if mp3.announced is None:
        held = mp3.num_frames * frame.num_samples
        if abs(held - num_samples) > frame.num_samples:
            return f"damaged, decoded to {num_samples} samples, but its MPEG frames hold {held}; encode it again"
    elif abs(mp3.num_frames - mp3.announced) > 1:
        how = "truncated" if mp3.num_frames < mp3.announced else "joined or damaged"
        return f"{how}, its header announces {mp3.announced} MPEG frames but it has {mp3.num_frames}"
    return None


def _mended_flac(file: BinaryIO, place: int, size: int) -> Mended | None:
    """Adds the number of samples, which follows from the last frame if that is complete."""
    head = _read(file, place, 26)
    if len(head) < 26 or head[4] & 0x7F or int.from_bytes(head[21:26], "big") & (2**36 - 1):
        return None
    num_channels, bits = (head[20] >> 1 & 7) + 1, (head[20] & 1) << 4 | head[21] >> 4
    longest = 64 + struct.unpack(">H", head[10:12])[0] * num_channels * (bits // 8 + 1)
    if _read(file, max(0, size - 128), 3) == b"TAG":
        size -= 128
    tail = _read(file, max(0, size - longest), min(size, longest))
    num_samples = _flac_end(tail, struct.unpack(">H", head[10:12])[0])
    if num_samples is None:
        return None
    return Mended(head[:21] + (head[21] << 32 | num_samples).to_bytes(5, "big"), place + 26, size)


def _flac_end(tail: bytes, block_size: int) -> int | None:
    """Total samples of a FLAC, if a complete last frame is at the end of `tail`; `None` otherwise."""
    for sync in reversed(list(re.finditer(rb"\xff[\xf8\xf9]", tail))):
        header = tail[sync.start() : sync.start() + 16]
        if len(header) < 16 or header[2] >> 4 == 0:
            continue
        length = max(1, 8 - (header[4] ^ 0xFF).bit_length())  # of the number, in the coding of UTF-8
        number = header[4] & (0x7F >> length if length > 1 else 0x7F)
        for byte in header[5 : 4 + length]:
            number = number << 6 | byte & 0x3F
        place, code = 4 + length, header[2] >> 4
        block = 192 if code == 1 else 576 << (code - 2) if code < 6 else 256 << (code - 8) if code > 7 else 0
        if code in (6, 7):
            block = int.from_bytes(header[place : place + code - 5], "big") + 1
            place += code - 5
        place += {12: 1, 13: 2, 14: 2}.get(header[2] & 0x0F, 0)
        frame = tail[sync.start() : -2]
        if _CRC_8(header[:place]) == header[place] and _CRC_16(frame) == int.from_bytes(tail[-2:], "big"):
            return number + block if header[1] & 1 else number * block_size + block
    return None


def _crc(polynomial: int, bits: int) -> Callable[[bytes], int]:
    """A CRC with the given polynomial, without bit reversal and with initial value 0."""
    table = []
    for value in range(256):
        rest = value << (bits - 8)
        for _ in range(8):
            rest = rest << 1 ^ (polynomial if rest >> (bits - 1) else 0)
            rest &= (1 << bits) - 1
        table.append(rest)

    def checksum(content: bytes) -> int:
        value = 0
        for byte in content:
            value = (value << 8 & (1 << bits) - 1) ^ table[value >> (bits - 8) ^ byte]
        return value

    return checksum


_CRC_8, _CRC_16 = _crc(0x07, 8), _crc(0x8005, 16)
