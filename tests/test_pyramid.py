"""The arithmetic of the levels."""

import pytest

from tganv2_tf.errors import ConfigError
from tganv2_tf.pyramid import PyramidSpec


def rows(spec, batch_size):
    return [(level.number, level.frames, level.size, level.batch_size(batch_size)) for level in spec.levels]


def test_levels_of_the_papers_bs64():
    # Paper, Table 1 (N_l = 64, 32, 16, 8) and the architecture: resolution doubles when the frames are halved.
    spec = PyramidSpec(16, 192, (2, 2, 2), (2, 2, 2))
    assert rows(spec, 64) == [(1, 16, 24, 64), (2, 8, 48, 32), (3, 4, 96, 16), (4, 2, 192, 8)]
    assert (spec.num_up_blocks, spec.base_size) == (6, 3)


@pytest.mark.parametrize(
    ("frame_strides", "batch_strides", "batch", "expected"),
    [
        ((2, 2, 2), (1, 1, 1), 8, [8, 8, 8, 8]),
        ((1, 1, 1), (2, 1, 1), 8, [8, 4, 4, 4]),
        ((1, 1, 1), (1, 1, 1), 4, [4, 4, 4, 4]),
        ((2, 2, 2), (2, 2, 2), 256, [256, 128, 64, 32]),
    ],
)
def test_batches_of_the_papers_table_1(frame_strides, batch_strides, batch, expected):
    spec = PyramidSpec(16, 192, frame_strides, batch_strides)
    assert [level.batch_size(batch) for level in spec.levels] == expected


def test_one_level_and_five_levels():
    assert rows(PyramidSpec(3, 8, (), ()), 2) == [(1, 3, 8, 2)]
    five = PyramidSpec(32, 384, (2, 2, 2, 2), (2, 2, 2, 2))
    assert rows(five, 32)[-1] == (5, 2, 384, 2)
    assert five.base_size == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((16, 191, (2, 2, 2), (2, 2, 2)), "--resolution=191 .* multiple of 64"),
        ((16, 0, (2,), (2,)), "--resolution=0"),
        ((12, 192, (2, 2, 2), (2, 2, 2)), "--num_frames=12 .* multiple of 8"),
        ((16, 192, (2, 2, 2), (2, 2)), "--batch_strides=2,2 has 2 .* --frame_strides=2,2,2 has 3"),
        ((16, 192, (2, 0, 2), (2, 2, 2)), "--frame_strides=2,0,2"),
    ],
)
def test_numbers_that_do_not_divide_are_refused_by_name(arguments, message):
    with pytest.raises(ConfigError, match=message):
        PyramidSpec(*arguments)
