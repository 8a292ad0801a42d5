"""Videos held out when training a classifier: whole source groups, from every class."""

from __future__ import annotations

import collections

import numpy as np
import pytest
import tensorflow as tf

from tganv2_tf.data.records import source_group
from tganv2_tf.training.classifiers.held_out import hold_out, id_filter


def ucf101(classes: int, groups: int, clips: int) -> dict[str, int]:
    """Returns labels by video name, as in UCF101."""
    return {
        f"v_Class{label}_g{group:02d}_c{clip:02d}": label
        for label in range(classes)
        for group in range(1, groups + 1)
        for clip in range(1, clips + 1)
    }


@pytest.mark.parametrize(("groups", "of_a_class"), [(1, 0), (2, 1), (10, 1), (16, 2), (25, 2), (100, 10)])
def test_a_tenth_of_the_groups_of_each_class_is_held_out_whole(groups, of_a_class):
    labels = ucf101(3, groups, 4)
    chosen = hold_out(labels)
    assert chosen.items() <= labels.items()
    assert collections.Counter(chosen.values()) == (dict.fromkeys(range(3), 4 * of_a_class) if of_a_class else {})
    rest = labels.keys() - chosen.keys()
    assert not {source_group(name) for name in chosen} & {source_group(name) for name in rest}
    assert {labels[name] for name in rest} == {0, 1, 2}, "every class can still be learned"


def test_segments_of_a_video_stay_together_and_other_names_are_their_own_group():
    labels = {f"run/{video}.mp4#{segment:04d}": 0 for video in "abcdef" for segment in range(1, 4)}
    chosen = hold_out(labels)
    assert len(chosen) == 3 and len({name.partition("#")[0] for name in chosen}) == 1


def test_the_choice_depends_on_names_alone():
    labels = ucf101(4, 12, 3)
    backwards = dict(reversed(labels.items()))
    assert hold_out(labels) == hold_out(backwards)
    groups = {name.split("_")[2] for name in hold_out(labels)}
    assert len(groups) > 1, "not the first group of each class"


def test_among_in_a_pipeline():
    names = tf.data.Dataset.from_tensor_slices(["a", "b", "c"])
    for wanted, expected in ((True, [True, False, True]), (False, [False, True, False])):
        assert np.array(list(names.map(id_filter(["c", "a"], wanted)))).tolist() == expected
    assert not any(names.map(id_filter([]))) and all(names.map(id_filter([], wanted=False)))
