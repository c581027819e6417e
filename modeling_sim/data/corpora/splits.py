"""Rules that divide a corpus into a train and a test set; each depends on its arguments alone."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal
from unicodedata import normalize

import numpy as np

from modeling_sim.data.corpora.contract import UNKNOWN_SPEAKER
from modeling_sim.data.corpora.tree import read_text
from modeling_sim.text import say_once

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
    """Ids of a split's utterances; one printed line says what the split is by (`say_division`).

    Args:
        speakers: Speaker of every utterance id, in the order that the ids are to come in.
        split: "train", "test", or "all".
        rule: "list": the ids in `train.txt` or `test.txt`, which may be absent from `speakers`. "utterance": a seeded
            share of every speaker's utterances is the test set. "speaker": a seeded share of the speakers is.
        lists: Folder of `train.txt` and `test.txt`, for "list".
        test_fraction: Share of the test set, in (0, 1), for the other rules.
        seed: Seed of the draw, for the other rules.
        strata: Stratum of every speaker (the sex), for "speaker": each gives its share of test speakers.

    Raises:
        ValueError: An unknown split or rule, lists that share utterances, or too few speakers for "speaker".
        FileNotFoundError: A list that is not there.
    """
    if split == "all":
        return list(speakers)
    if split not in ("train", "test"):
        raise ValueError(f"`split` is {split!r}; choose 'train', 'test' or 'all'.")
    if rule == "list":
        folder = lists or Path()
        path, other = (find_list(folder, name) for name in ((split, "test" if split == "train" else "train")))
        if path is None:
            raise FileNotFoundError(
                f"{folder / split}.txt: no such list; give `lists`, or set `split_by` to 'utterance'"
            )
        ids = read_id_list(path)
        both = sorted(set(ids) & set(read_id_list(other))) if other is not None else []
        if both:
            raise ValueError(
                f"{path} and {other.name} share {len(both)} utterances, such as {both[0]!r}; a test set "
                "that was trained on tests nothing"
            )
        others = read_id_list(other) if other is not None else []
        parts = {split: ids, "test" if split == "train" else "train": others}
        say_division("list", {name: [speakers.get(utterance) for utterance in part] for name, part in parts.items()})
        return ids
    if rule == "utterance":
        test = share_of_each(speakers, test_fraction, seed)
    elif rule == "speaker":
        groups = defaultdict(set)
        for speaker in speakers.values():
            groups[strata.get(speaker) if strata else None].add(speaker)
        if len(set(speakers.values())) == 1:
            raise ValueError(
                f"`split_by` is 'speaker', but all utterances have one, {speaker!r}; name the speakers, or set it to "
                "'utterance'."
            )
        # A stratum of one speaker has none to give.
        divisible = [group for group in groups.values() if len(group) > 1] or [set(speakers.values())]
        chosen = set().union(*(whole_groups(group, test_fraction, seed) for group in divisible))
        test = {utterance for utterance, speaker in speakers.items() if speaker in chosen}
    else:
        raise ValueError(f"`split_by` is {rule!r}; choose 'list', 'utterance' or 'speaker'.")
    parts = {
        name: [utterance for utterance in speakers if (utterance in test) == (name == "test")]
        for name in ("train", "test")
    }
    say_division(rule, {name: [speakers[utterance] for utterance in part] for name, part in parts.items()})
    return parts[split]


def say_division(rule: str, speakers: Mapping[str, Sequence[str | None]]) -> None:
    """Print what a split is by and how many speakers each part has, once.

    It is a warning if parts share speakers, or may share them, except by lists.

    Args:
        rule: What it is by.
        speakers: Speaker of each utterance of each part, by the part's name; `None` or "unknown" for none.
    """
    named = {part: set(names) - {None, UNKNOWN_SPEAKER} for part, names in speakers.items() if names}
    counts = sorted(
        (
            f"{part} {len(speakers[part])} utterances of " + (f"{len(names)} speakers" if names else "unknown speakers")
            for part, names in named.items()
        ),
        reverse=True,  # "train" before "test"
    )
    line = f"split by {rule}: {', '.join(counts)}"
    train, *others = (named.pop("train", set()), *named.values())
    shared = train & set().union(*others)
    if shared:
        warning = "" if rule == "list" else "warning: "  # lists are someone's choice, as those of CPC are
        line += f"; {warning}{len(shared)} speakers of the training are in the other parts too"
    elif others and not (train and all(others)):
        line += "; warning: without speakers' names, those of the training may be in the other parts too"
    say_once(line)


def find_list(folder: Path, split: str) -> Path | None:
    """A split's list in a folder: `train.txt`, or `train_split.txt`, as the lists of CPC are published."""
    paths = (folder / f"{split}.txt", folder / f"{split}_split.txt")
    return next((path for path in paths if path.is_file()), None)


def read_id_list(path: str | Path) -> list[str]:
    """Utterance ids, one per line, with composed letters (NFC); empty lines are skipped."""
    return [normalize("NFC", line.strip()) for line in read_text(path).split("\n") if line.strip()]


def share_of_each(groups: Mapping[str, str], fraction: float, seed: int) -> set[str]:
    """A share of every group's members, drawn so that it does not depend on the other groups.

    Args:
        groups: Group (the speaker) of every member (an utterance id).
        fraction: Share, in (0, 1), rounded to whole members in each group.
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


def whole_groups(groups: Iterable[str], fraction: float, seed: int) -> set[str]:
    """A share of the groups (speakers, words): at least one, never all.

    Args:
        groups: The groups, in any order, repeated or not.
        fraction: Share of the groups, in (0, 1).
        seed: Seed of the draw.

    Raises:
        ValueError: There is only one group.
    """
    _check_fraction(fraction)
    distinct = sorted(set(groups))
    if len(distinct) < 2:
        raise ValueError(f"a split that shares no group needs two at least, and there is only {distinct}")
    number = min(max(1, round(fraction * len(distinct))), len(distinct) - 1)
    order = np.random.default_rng(seed).permutation(len(distinct))
    return {distinct[place] for place in order[:number]}


def _check_fraction(fraction: float) -> None:
    if not 0 < fraction < 1:
        raise ValueError(f"`test_fraction` is {fraction}; it must be in (0, 1), as in 0.2.")
