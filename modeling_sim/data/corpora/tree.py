"""What lies in a folder: its visible files, each of them once, and text whatever program saved it."""

import codecs
import os
from collections import Counter
from collections.abc import Collection, Hashable
from pathlib import Path

from modeling_sim.data.audio import file_path
from modeling_sim.text import printable, say_once

# Folders that programs make without a dot, in lower case: of macOS' archives, of network disks, of Windows, of repairs.
_HIDDEN = {
    "__macosx", "@eadir", "@recycle", "#recycle", "$recycle.bin", "recycler", "system volume information", "lost+found",
}  # fmt: skip


_AUDIO = {
    ".3gp", ".aac", ".ac3", ".aif", ".aifc", ".aiff", ".amr", ".ape", ".au", ".caf", ".flac", ".m4a", ".m4b", ".mka",
    ".mkv", ".mov", ".mp3", ".mp4", ".mpc", ".nist", ".oga", ".ogg", ".opus", ".ra", ".shn", ".snd", ".sph", ".spx",
    ".voc", ".w64", ".wav", ".wave", ".webm", ".wma", ".wv",
}  # fmt: skip


def audio_files(root: str | Path, suffixes: Collection[str]) -> list[Path]:
    """Audio files below a folder, as `visible_files` gives them.

    A line is printed that counts the files of kinds of audio that are not among `suffixes`, and one of the files that
    have several names.

    Args:
        root: The folder.
        suffixes: In lower case, as in ".wav"; those of the files may be in either.
    """
    files = _visible_files(root)
    kinds = Counter(names[0].suffix.lower() for names in files)
    unread = [f"{kinds[kind]} {kind}" for kind in sorted((kinds.keys() & _AUDIO) - set(suffixes))]
    if unread:
        say_once(
            f"{printable(root)}: skips files of kinds that are not read here, {', '.join(unread)}; convert them to "
            f"{' or '.join(sorted(suffixes))}"
        )
    audio = [names for names in files if names[0].suffix.lower() in suffixes]
    linked = [names for names in audio if len(names) > 1]
    if linked:
        say_once(
            f"{printable(root)}: {len(linked)} recordings have several names by links and count once, such as "
            f"{printable(linked[0][0])}, which is {printable(linked[0][1])} too"
        )
    return [names[0] for names in audio]


def visible_files(root: str | Path) -> list[Path]:
    """Files below a folder, each of them once, sorted by path.

    What is hidden is skipped: names that begin with a dot (`.git`, `.ipynb_checkpoints`, macOS' `._name`), `__MACOSX`
    and their like. Links are followed, to hidden places as well, since git-annex keeps its files there. A file with
    several names, by links of either kind, has the first of those that are no symbolic link, else the first. A link to
    nothing is given too, so that a reader names it; pipes and devices are not.

    Args:
        root: The folder; its own name may be hidden.

    Raises:
        OSError: A folder cannot be listed.
    """
    return [names[0] for names in _visible_files(root)]


def _visible_files(root: str | Path) -> list[list[Path]]:
    """Names of every file."""
    found: list[tuple[bool, Path]] = []
    entered: set[str] = set()
    # Linked folders come after the tree itself, whose names are better than those of links into it.
    waiting = [Path(root)]
    for start in waiting:
        for folder, folders, names in os.walk(start, onerror=_refuse):
            place = os.path.realpath(folder)
            if place in entered:
                folders.clear()
                continue
            entered.add(place)
            folders[:] = sorted(filter(_is_visible, folders))
            waiting += [path for path in (Path(folder, name) for name in folders) if path.is_symlink()]
            found += [(path.is_symlink(), path) for path in (Path(folder, name) for name in filter(_is_visible, names))]
    files: dict[Hashable, list[Path]] = {}
    for is_link, path in sorted(found):
        if path.is_file() or (is_link and not path.exists()):
            files.setdefault(file_key(path), []).append(path)
    return sorted(files.values())


def file_key(path: str | Path) -> Hashable:
    """What two paths to one file share, by links of either kind; a path for a file that is not there."""
    place = file_path(path)
    try:
        status = os.stat(place)  # noqa: PTH116 - of bytes
    except OSError:
        return os.path.realpath(place)
    except ValueError:  # no path at all: a zero byte in it
        return place
    # Numbers of files are not unique on every network's file system: they count where a file says it has two names.
    return (status.st_dev, status.st_ino) if status.st_nlink > 1 else os.path.realpath(place)


def read_text(path: str | Path) -> str:
    """Text of a file in UTF-8, or in UTF-16 with its byte order mark; without marks, and with newlines as line ends.

    Raises:
        OSError: The file cannot be read.
        ValueError: It is of another encoding.
    """
    return decode_text(Path(path).read_bytes(), path)


def decode_text(content: bytes, path: str | Path) -> str:
    """The same of bytes that were read from a file."""
    encoding = "utf-16" if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8"
    try:
        text = content.decode(encoding)
        reason = "it has zero bytes" if "\0" in text else None
    except UnicodeDecodeError as error:
        text, reason = "", str(error)
    if reason is not None:
        raise ValueError(f"{printable(path)} is not text in UTF-8 ({reason}); save it again in that encoding")
    # Files that were joined have marks in the middle.
    return text.replace("\ufeff", "").replace("\r\n", "\n").replace("\r", "\n")


def _is_visible(name: str) -> bool:
    return not name.startswith(".") and name.lower() not in _HIDDEN


def _refuse(error: OSError) -> None:
    raise error
