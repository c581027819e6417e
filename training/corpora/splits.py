"""Rules that divide a corpus into a train and a test set; each is a function of its arguments alone."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np


def read_id_list(path: str | Path) -> list[str]:
    """Utterance ids, one a line; empty lines are passed over."""
    return Path(path).read_text(encoding="utf-8").split()


def test_share_of_each(groups: Mapping[str, str], test_fraction: float, seed: int) -> set[str]:
    """Ids of a test set that takes a share of every group.

    Which of a group's utterances are taken does not depend on the other groups.

    Args:
        groups: Group (a speaker) of every utterance id.
        test_fraction: Share, in (0, 1), rounded to whole utterances in each group.
        seed: Seed of the draw.
    """
    _check_fraction(test_fraction)
    members = defaultdict(list)
    for utterance, group in groups.items():
        members[group].append(utterance)
    test: set[str] = set()
    for group, utterances in members.items():
        generator = np.random.default_rng([seed, *group.encode()])
        shuffled = generator.permutation(np.array(sorted(utterances), dtype=object))
        test.update(shuffled[: round(test_fraction * len(shuffled))])
    return test


def whole_test_groups(groups: Sequence[str], test_fraction: float, seed: int) -> set[str]:
    """Groups (speakers, words) that make a test set which shares none with the train set: at least one, never all.

    Args:
        groups: The groups, in any order, repeated or not.
        test_fraction: Share of the groups, in (0, 1).
        seed: Seed of the draw.

    Raises:
        ValueError: There is only one group.
    """
    _check_fraction(test_fraction)
    distinct = sorted(set(groups))
    if len(distinct) < 2:
        raise ValueError(f"a split without shared groups needs at least two, and there is only {distinct}")
    number = min(max(1, round(test_fraction * len(distinct))), len(distinct) - 1)
    return set(np.random.default_rng(seed).permutation(np.array(distinct, dtype=object))[:number])


def _check_fraction(test_fraction: float) -> None:
    if not 0 < test_fraction < 1:
        raise ValueError(f"`test_fraction` is {test_fraction}; it must be in (0, 1), as in 0.2.")
