"""Rules that divide a corpus into a training and a test set; each only depends on its arguments."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal
from unicodedata import normalize

import numpy as np

from modeling_sim.data.corpora.contract import UNKNOWN_SPEAKER
from modeling_sim.files import nearest, read_text
from modeling_sim.text import counted, say_once

SplitRule = Literal["list", "utterance", "speaker"]


def split_ids(
    speakers: Mapping[str, str],
    *,
    split: str,
    rule: SplitRule,
    lists: Path | None = None,
    test_fraction: float = 0.2,
    seed: int = 0,
    strata: Mapping[str, str] | None = None,
) -> list[str]:
    """Ids of a split's utterances; prints the rule and the sizes (see `say_division`).

    Args:
        speakers: Speaker of every utterance id, in the order of the result.
        split: "train", "test", or "all"; for "list" also the name of any other list, such as "development".
        rule: "list": the ids in `train.txt` or `test.txt`, which may be absent from `speakers`. "utterance": the test
            set is a random fraction of every speaker's utterances. "speaker": it is a random fraction of the speakers.
        lists: Folder of `train.txt`, `test.txt` and any others, for "list".
        test_fraction: Fraction of the test set, in (0, 1), for the other rules.
        seed: Seed of the draw, for the other rules.
        strata: Stratum (sex) of every speaker, for "speaker": `test_fraction` applies to each stratum.

    Raises:
        ValueError: The split or the rule is unknown, the lists share utterances, `test_fraction` leaves the split
            empty, or there is only one speaker for "speaker".
        FileNotFoundError: A list does not exist.
    """
    if split == "all":
        return list(speakers)
    if rule == "list":
        return _listed(speakers, split, lists or Path())
    if split not in ("train", "test"):
        raise ValueError(
            f"`split` is {split!r}{nearest(split, ('train', 'test', 'all'))} Choose 'train', 'test' or 'all'."
        )
    if rule == "utterance":
        test = share_of_each(speakers, test_fraction, seed)
    elif rule == "speaker":
        groups = defaultdict(set)
        for speaker in speakers.values():
            groups[strata.get(speaker) if strata else None].add(speaker)
        if len(set(speakers.values())) == 1:
            raise ValueError(
                f"`split_by` is 'speaker', but all utterances have the speaker {speaker!r}; name the speakers, or set "
                "it to 'utterance'."
            )
        # A stratum with one speaker cannot be divided.
        divisible = [group for group in groups.values() if len(group) > 1] or [set(speakers.values())]
        chosen = set().union(*(share_of_groups(group, test_fraction, seed) for group in divisible))
        test = {utterance for utterance, speaker in speakers.items() if speaker in chosen}
    else:
        raise ValueError(f"`split_by` is {rule!r}; choose 'list', 'utterance' or 'speaker'.")
    parts = {
        name: [utterance for utterance in speakers if (utterance in test) == (name == "test")]
        for name in ("train", "test")
    }
    if speakers and not parts[split]:
        if len(speakers) == 1:
            raise ValueError(f"split {split!r} is empty, as one utterance cannot be divided; use split 'all'.")
        raise ValueError(
            f"`test_fraction` is {test_fraction}, which leaves split {split!r} empty, as the number of test utterances "
            f"per speaker is rounded; {'increase' if split == 'test' else 'decrease'} it, or set `split_by` to "
            "'speaker'."
        )
    say_division(rule, {name: [speakers[utterance] for utterance in part] for name, part in parts.items()})
    return parts[split]


def _listed(speakers: Mapping[str, str], split: str, folder: Path) -> list[str]:
    """Ids of a list; raises like `split_ids`."""
    path = find_list(folder, split)
    if path is None:
        raise FileNotFoundError(
            f"{folder / split}.txt does not exist; set `lists` to its folder, or `split_by` to 'utterance'"
        )
    parts = {split: read_id_list(path)}
    for name in {"train", "test"} - {split}:
        other = find_list(folder, name)
        parts[name] = read_id_list(other) if other is not None else []
        if both := sorted({*parts[split]} & {*parts[name]}):
            raise ValueError(
                f"{path} and {name}.txt share {counted(len(both), 'utterance')}, for example {both[0]!r}; keep each "
                "in one list"
            )
    say_division("list", {name: [speakers.get(utterance) for utterance in part] for name, part in parts.items()})
    return parts[split]


def say_division(rule: str, speakers: Mapping[str, Sequence[str | None]]) -> None:
    """Prints once the rule of a split, and the number of utterances and speakers of each part.

    It warns if parts share speakers, or may share them, unless the rule is "list".

    Args:
        rule: The rule.
        speakers: Speaker of each utterance of each part, by name of the part; `None` or "unknown" if not known.
    """
    named = {part: set(names) - {None, UNKNOWN_SPEAKER} for part, names in speakers.items() if names}
    counts = sorted(
        (
            f"{part} {counted(len(speakers[part]), 'utterance')} of "
            + (counted(len(names), "speaker") if names else "unknown speakers")
            for part, names in named.items()
        ),
        reverse=True,  # "train" before "test"
    )
    line = f"split by {rule}: {', '.join(counts)}"
    train, *others = (named.pop("train", set()), *named.values())
    shared = train & set().union(*others)
    if shared:
        warning = "" if rule == "list" else "warning: "  # lists are chosen on purpose, like those of CPC
        line += f"; {warning}train shares {counted(len(shared), 'speaker')} with the other parts"
    elif others and not (train and all(others)):
        line += "; warning: speakers are not named, so those of train may also be in the other parts"
    say_once(line)


def find_list(folder: Path, split: str) -> Path | None:
    """The list of a split in a folder: `train.txt`, or `train_split.txt` as published for CPC."""
    paths = (folder / f"{split}.txt", folder / f"{split}_split.txt")
    return next((path for path in paths if path.is_file()), None)


def read_id_list(path: str | Path) -> list[str]:
    """Utterance ids, one per line, with composed characters (NFC); empty lines are skipped."""
    return [normalize("NFC", line.strip()) for line in read_text(path).split("\n") if line.strip()]


def share_of_each(groups: Mapping[str, str], fraction: float, seed: int) -> set[str]:
    """Draws a fraction of every group's members, independently of the other groups.

    Args:
        groups: Group (speaker) of every member (utterance id).
        fraction: Fraction in (0, 1); its product with the size of each group is rounded.
        seed: Seed of the draw.
    """
    _check_fraction(fraction)
    members = defaultdict(list)
    for member, group in groups.items():
        members[group].append(member)
    share: set[str] = set()
    for group, names in members.items():
        order = np.random.default_rng([seed, *group.encode()]).permutation(len(names))
        share.update(np.array(sorted(names), dtype=object)[order[: round(fraction * len(names))]])
    return share


def share_of_groups(groups: Iterable[str], fraction: float, seed: int) -> set[str]:
    """Draws a fraction of the groups (speakers, words): at least one, never all.

    Args:
        groups: The groups, in any order, possibly repeated.
        fraction: Fraction of the groups, in (0, 1).
        seed: Seed of the draw.

    Raises:
        ValueError: There is only one group.
    """
    _check_fraction(fraction)
    distinct = sorted(set(groups))
    if len(distinct) < 2:
        raise ValueError(f"`groups` has {len(distinct)} group, {distinct}; a split without shared groups needs two")
    number = min(max(1, round(fraction * len(distinct))), len(distinct) - 1)
    order = np.random.default_rng(seed).permutation(len(distinct))
    return {distinct[place] for place in order[:number]}


def _check_fraction(fraction: float) -> None:
    if not 0 < fraction < 1:
        raise ValueError(f"`test_fraction` is {fraction}; it must be in (0, 1), for example 0.2.")
