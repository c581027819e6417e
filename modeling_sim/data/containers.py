"""What the container of a recording says about its own end, and whether the file bears it out.

libsndfile shortens a file that is cut, and stops where a header says so even if audio follows. So the chunks of WAV
and AIFF, the pages of Ogg (with their checksums) and the frames of MP3 are counted here, and a second header is looked
for in FLAC. Of WAV, AIFF and NIST only headers are read; the others are read from end to end but not decoded.
"""

import re
import struct
import zlib
from typing import BinaryIO, NamedTuple

# Sizes that writers leave who cannot know them, because they write to a pipe: 0, and near these.
_UNKNOWN_SIZES = (0x7FFFF000, 0x7FFFFFFF, 0xFFFFFFFF)


_MOST_HEADERS = 256  # by which such a size may differ from them: the bytes of the headers


_WAV = (b"RIFF", b"RIFX", b"RF64")


_JOINED = "several recordings joined in one file, of which only the first would be read; split them"


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


_TAGS = (b"TAG", b"APETAGEX", b"3DI", b"LYRICSBEGIN")  # that may follow the last frame of an MP3


def problem(file: BinaryIO, num_samples: int) -> str | None:
    """What is wrong with a file's container, in words; `None` for nothing, or a container that is not looked into.

    Args:
        file: The encoded file.
        num_samples: Samples that libsndfile finds in it.
    """
    size = file.seek(0, 2)
    file.seek(0)
    head = file.read(12)
    file.seek(0)
    if head[:4] in _WAV and head[8:] == b"WAVE":
        return _wav_problem(file, size)
    if head[:4] == b"fLaC":
        content = file.read()
        # The marker and the header of a STREAMINFO block, which may be the last block of metadata.
        again = max(content.find(b"fLaC" + kind + b"\0\0\x22", 4) for kind in (b"\0", b"\x80"))
        return _JOINED if again > 0 else None
    if head[:4] == b"OggS":
        return _ogg_problem(file.read())
    if head[:3] == b"ID3" or (len(head) > 1 and head[0] == 0xFF and head[1] & 0xE0 == 0xE0):
        return _mp3_problem(file.read(), num_samples)
    form = head[:4] == b"FORM" and len(head) == 12 and struct.unpack(">I", head[4:8])[0] + 8 > size + 1
    nist = re.search(rb"sample_count -i (\d+)", file.read(1024)) if head[:4] == b"NIST" else None
    return "truncated" if form or (nist and int(nist[1]) > num_samples) else None


def with_size(content: bytes) -> bytes | None:
    """A WAV whose writer left 0 for the size of its samples, with the size of what follows; `None` for other files."""
    place = content.find(b"data", 12)
    if content[:4] not in (b"RIFF", b"RIFX") or place < 0 or content[place + 4 : place + 8] != bytes(4):
        return None
    rest = len(content) - place - 8
    if rest == 0 or _end_of_chunks(content[place + 8 :]) == rest:
        return None  # really empty, other chunks follow
    order = "<" if content[:4] == b"RIFF" else ">"
    return content[: place + 4] + struct.pack(f"{order}I", rest) + content[place + 8 :]


def _wav_problem(file: BinaryIO, size: int) -> str | None:
    order = ">" if file.read(12)[:4] == b"RIFX" else "<"
    place, large_size = 12, None
    while place + 8 <= size:
        file.seek(place)
        name, length = struct.unpack(f"{order}4sI", file.read(8))
        if name == b"ds64":
            large_size = struct.unpack("<QQ", file.read(16))[1]
        if name != b"data":
            place += 8 + length + length % 2
            continue
        if length == 0xFFFFFFFF and large_size is not None:
            length = large_size
        elif length == 0 or any(abs(length - unknown) <= _MOST_HEADERS for unknown in _UNKNOWN_SIZES):
            return None  # the samples end with the file
        end = place + 8 + length
        if end > size:
            return f"truncated, its header announces {length} bytes of samples and {size - place - 8} are there"
        file.seek(end)
        rest = file.read(size - end)
        # A chunk of odd length is padded, though not by all writers.
        skipped = max(_end_of_chunks(rest), length % 2 and 1 + _end_of_chunks(rest[1:]))
        if len(rest) - skipped >= 8 and rest[skipped:][:3] != b"TAG":
            return f"goes on for {len(rest) - skipped} bytes after the samples that its header announces"
        return None
    return "truncated, it has no chunk of samples"


def _end_of_chunks(content: bytes, order: str = "<") -> int:
    """Where the RIFF chunks end that some bytes begin with."""
    place = 0
    while place + 8 <= len(content):
        name, length = struct.unpack(f"{order}4sI", content[place : place + 8])
        if name in _WAV or not re.fullmatch(rb"[ -~]{4}", name) or place + 8 + length > len(content):
            break
        place = min(place + 8 + length + length % 2, len(content))
    return place


def _ogg_problem(content: bytes) -> str | None:
    place, streams, ended = 0, {}, set()
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
    return None if ended == set(streams) else "truncated, its last page does not end the stream"


def _ogg_checksum(page: bytes) -> int:
    """CRC-32 with the bits in the other order than zlib has them, and nothing inverted."""
    reverse = 0xFFFFFFFF ^ zlib.crc32(page.translate(_REVERSED), 0xFFFFFFFF)
    return int(f"{reverse:032b}"[::-1], 2)


class _Mp3Frame(NamedTuple):
    """What the header of a frame says."""

    kind: tuple[int, ...]
    """MPEG version, layer and sampling rate, the same for all frames of a recording."""
    length: int
    num_samples: int


def _mp3_frame(header: bytes) -> _Mp3Frame | None:
    """A frame of its first four bytes; `None` for what is none."""
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


def _after_tags(content: bytes, place: int) -> int:
    """The next frame's place in an MP3, or the end: tags may come before the first frame and after the last."""
    header = content[place : place + 10]
    if header[:3] == b"ID3" and len(header) == 10:
        size = sum(byte << 7 * shift for byte, shift in zip(header[6:], (3, 2, 1, 0), strict=True))
        return _after_tags(content, place + 10 + size)
    return len(content) if header.startswith(_TAGS) or not header[:8].strip(b"\0") else place


def _mp3_problem(content: bytes, num_samples: int) -> str | None:
    place, num_frames, announced, first = _after_tags(content, 0), 0, None, None
    while place < len(content):
        frame = _mp3_frame(content[place : place + 4])
        if frame is None and first is None:
            return None  # not an MP3 as this function knows them; libsndfile decides
        first = first or frame
        if first is None or frame is None or frame.kind != first.kind:
            return f"damaged in its MPEG frame {num_frames}, at byte {place}"
        if place + frame.length > len(content):
            return f"truncated in its MPEG frame {num_frames}"
        tag = re.search(rb"(?:Xing|Info)...[\1\3\5\7\11\13\15\17](....)", content[place : place + 64], re.DOTALL)
        if tag and num_frames == 0 and announced is None:
            announced = struct.unpack(">I", tag[1])[0]  # the frame holds no audio, and is not counted
        else:
            num_frames += 1
        place = _after_tags(content, place + frame.length)
    return _mp3_length_problem(num_frames, announced, num_frames * first.num_samples if first else 0, num_samples)


def _mp3_length_problem(num_frames: int, announced: int | None, held: int, num_samples: int) -> str | None:
    """Whether an MP3 has as many frames as its Xing header says, or without one as many samples as are expected."""
    if announced is None and abs(held - num_samples) > 1152:
        return (
            f"an MP3 without a Xing header, whose length is taken for {num_samples} samples but whose frames hold "
            f"{held}; encode it anew"
        )
    if announced is not None and abs(num_frames - announced) > 1:
        how = "truncated" if num_frames < announced else "several recordings joined in one file, or a wrong header"
        return f"{how}: its header announces {announced} MPEG frames, and there are {num_frames}"
    return None
