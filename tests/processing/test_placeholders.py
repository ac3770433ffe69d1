import pytest

from minicpmv.processing.placeholders import IMAGE_MARKER, MARKER, RELEASED_TAGS, image_placeholder


def test_a_pair_of_tags_around_the_grid():
    text = image_placeholder((2, 1), 2, tag_every_slice=False)
    one = "<image><unk><unk></image>"
    assert text == f"{one}<slice>{one}\n{one}</slice>"


def test_a_pair_of_tags_around_every_slice():
    text = image_placeholder((2, 2), 1, tag_every_slice=True, image_id=12)
    row = "<slice><unk></slice>" * 2
    assert text == f"<image_id>12</image_id><image><unk></image>{row}\n{row}"


@pytest.mark.parametrize("tag_every_slice", [True, False])
@pytest.mark.parametrize("grid", [None, (1, 2), (3, 3), (9, 1)])
def test_every_slice_has_its_fillers(tag_every_slice, grid):
    tags = RELEASED_TAGS | {"unk": "*"}
    text = image_placeholder(grid, 5, tag_every_slice=tag_every_slice, tags=tags)
    assert text.count("*") == 5 * (1 + (grid[0] * grid[1] if grid else 0))
    assert text.count("\n") == (grid[0] - 1 if grid else 0)


def test_the_marker_matches_literally():
    assert MARKER.findall(f"{IMAGE_MARKER} (<image>x/</image>)") == [IMAGE_MARKER]
