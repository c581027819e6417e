"""Lists the visible files of a folder, each once."""

import os
from collections import Counter
from collections.abc import Collection, Hashable
from pathlib import Path

from modeling_sim.data.audio import file_path
from modeling_sim.text import counted, printable, say_once

# Hidden folders without a leading dot, in lower case: of macOS archives, network disks, Windows, file system repairs.
_HIDDEN = {
    "__macosx",
    "@eadir",
    "@recycle",
    "#recycle",
    "$recycle.bin",
    "recycler",
    "system volume information",
    "lost+found",
}


_AUDIO = frozenset(
    str.split(
        ".3gp .aac .ac3 .aif .aifc .aiff .amr .ape .au .caf .flac .m4a .m4b .mka .mkv .mov .mp3 .mp4 .mpc .nist .oga "
        ".ogg .opus .ra .shn .snd .sph .spx .voc .w64 .wav .wave .webm .wma .wv"
    )
)


def audio_files(root: str | Path, suffixes: Collection[str]) -> list[Path]:
    """Audio files below a folder; see `visible_files`.

    Prints the number of audio files in other formats than `suffixes`, and of files with several names.

    Args:
        root: The folder.
        suffixes: In lower case, for example ".wav"; the case of the files' suffixes does not matter.
    """
    files = _visible_files(root)
    found = Counter(names[0].suffix.lower() for names in files)
    unread = [f"{found[suffix]} {suffix}" for suffix in sorted((found.keys() & _AUDIO) - set(suffixes))]
    if unread:
        say_once(
            f"{printable(root)}: skips files in unsupported formats, {', '.join(unread)}; convert them to "
            f"{' or '.join(sorted(suffixes))}"
        )
    audio = [names for names in files if names[0].suffix.lower() in suffixes]
    linked = [names for names in audio if len(names) > 1]
    if linked:
        say_once(
            f"{printable(root)}: {counted(len(linked), 'recording')} with several names by links; each counts once, "
            f"for example {printable(linked[0][0])}, which is also {printable(linked[0][1])}"
        )
    return [names[0] for names in audio]


def visible_files(root: str | Path) -> list[Path]:
    """Files below a folder, each once, sorted by path.

    Hidden files are skipped: names that begin with a dot (`.git`, `.ipynb_checkpoints`, macOS' `._name`), `__MACOSX`
    and similar folders. Links are followed, also to hidden folders, where git-annex stores its files. Of several names
    of a file, by symbolic or hard links, the first that is not a symbolic link is used, else the first. Broken links
    are included, so that readers report them; pipes and devices are not.

    Args:
        root: The folder; it may itself be hidden.

    Raises:
        OSError: A folder cannot be listed.
    """
    return [names[0] for names in _visible_files(root)]


def _visible_files(root: str | Path) -> list[list[Path]]:
    """All names of every file."""
    found: list[tuple[bool, Path]] = []
    entered: set[str] = set()
    # Visit linked folders after the tree itself, whose names take precedence.
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
    """A key that is equal for all paths to the same file, through symbolic or hard links."""
    place = file_path(path)
    try:
        status = os.stat(place)  # noqa: PTH116 - of bytes
    except OSError:
        return os.path.realpath(place)
    except ValueError:  # an invalid path, with a zero byte
        return place
    # Inode numbers are not unique on every network file system, so use them only for files with several names.
    return (status.st_dev, status.st_ino) if status.st_nlink > 1 else os.path.realpath(place)


def _is_visible(name: str) -> bool:
    return not name.startswith(".") and name.lower() not in _HIDDEN


def _refuse(error: OSError) -> None:
    raise error
