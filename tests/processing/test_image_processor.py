import json

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoImageProcessor

from minicpmv.processing import MiniCPMVImageProcessor, MiniCPMVImageProcessorPil
from minicpmv.processing.pixels import cut

from ..helpers.golden import CHECKPOINTS
from ..helpers.pictures import picture


def small_processor(**settings) -> MiniCPMVImageProcessorPil:
    settings = {"scale_resolution": 32, "patch_size": 4, "max_slice_nums": 6} | settings
    return MiniCPMVImageProcessorPil(**settings)


def unpatchified(strip: np.ndarray, rows: int, cols: int) -> np.ndarray:
    """The picture (channels, height, width) a strip was made of."""
    channels, side, _ = strip.shape
    patches = strip.reshape(channels, side, rows, cols, side)
    return patches.transpose(0, 2, 1, 3, 4).reshape(channels, rows * side, cols * side)


def test_cells_put_together_are_the_refined_image():
    image_processor = small_processor()
    image = picture(50, 90)
    plan = image_processor.plan(image.size)
    rows, cols = plan.grid
    refined = image.resize(plan.refined[::-1], Image.Resampling.BICUBIC)
    features = image_processor(image, do_pad=False)
    cells = [
        unpatchified(strip, *size)
        for strip, size in zip(
            features["pixel_values"][1:], features["target_sizes"][1:].tolist(), strict=True
        )
    ]
    lines = [np.concatenate(cells[row * cols : (row + 1) * cols], axis=2) for row in range(rows)]
    expected = (np.asarray(refined, np.float32).transpose(2, 0, 1) / 255 - 0.5) / 0.5
    np.testing.assert_allclose(np.concatenate(lines, axis=1), expected, atol=1e-6)


def test_the_overview_comes_before_the_cells():
    image_processor = small_processor()
    image = picture(50, 90)
    plan = image_processor.plan(image.size)
    slices = cut(image, plan)
    assert [piece.size[::-1] for piece in slices] == plan.sizes
    assert slices[0] == image.resize(plan.overview[::-1], Image.Resampling.BICUBIC)


def test_rows_of_a_batch_are_the_rows_of_each_image():
    image_processor = small_processor()
    images = [picture(50, 90), picture(20, 20), picture(10, 200)]
    together = image_processor(images, return_tensors="pt")
    assert together["num_slices"] == [1 + rows * cols for rows, cols in together["grids"]]
    start = 0
    for image, num_slices in zip(images, together["num_slices"], strict=True):
        alone = image_processor(image, return_tensors="pt")
        rows = slice(start, start + num_slices)
        length = alone["pixel_values"].shape[-1]
        assert torch.equal(together["target_sizes"][rows], alone["target_sizes"])
        assert torch.equal(together["pixel_values"][rows, ..., :length], alone["pixel_values"])
        assert not together["pixel_values"][rows, ..., length:].any()
        start += num_slices


def test_nested_images_keep_their_samples():
    image_processor = small_processor()
    images = [[picture(20, 20), picture(50, 90)], [], [picture(30, 30)]]
    features = image_processor(images, return_released_layout=True)
    assert [len(sizes) for sizes in features["image_sizes"]] == [2, 0, 1]
    assert features["tgt_sizes"][1].shape == (0, 2)
    flat = image_processor(images, return_tensors="pt")
    assert len(flat["pixel_values"]) == sum(map(len, features["pixel_values"]))


@pytest.mark.parametrize(
    "size", [(1, 1000), (1000, 1), (3, 400), (400, 3), (1, 1), (2, 2), (13, 7)]
)
def test_thin_and_tiny_images_work(size):
    features = small_processor()(Image.new("RGB", size))
    assert np.prod(features["target_sizes"], axis=1).max() * 4 == features["pixel_values"].shape[-1]


def test_slice_mode_false_takes_the_image_as_it_is():
    image_processor = small_processor(slice_mode=False)
    image = picture(18, 25)
    features = image_processor(image, do_pad=False)
    assert features["target_sizes"].tolist() == [[4, 6]]
    pixels = unpatchified(features["pixel_values"][0], 4, 6)
    expected = (np.asarray(image, np.float32).transpose(2, 0, 1)[:, :16, :24] / 255 - 0.5) / 0.5
    np.testing.assert_allclose(pixels, expected, atol=1e-6)
    with pytest.raises(ValueError, match="holds no patch"):
        image_processor(picture(3, 25))


def test_the_same_image_in_other_forms_gives_the_same_pixels():
    image_processor = small_processor()
    image = picture(40, 30)
    array = np.asarray(image)
    expected = image_processor(image, return_tensors="pt")["pixel_values"]
    for form in (array, array.transpose(2, 0, 1), torch.from_numpy(array.copy()), array / 255):
        assert torch.equal(image_processor(form, return_tensors="pt")["pixel_values"], expected)


def test_rescaling_and_normalising_can_be_changed():
    image = Image.new("RGB", (32, 32), (255, 0, 51))
    image_processor = small_processor()
    raw = image_processor(image, do_rescale=False, do_normalize=False)["pixel_values"]
    assert np.unique(raw).tolist() == [0, 51, 255]
    scaled = image_processor(image, image_mean=[1.0, 0.0, 0.0], image_std=0.5)["pixel_values"][0]
    np.testing.assert_allclose(scaled[:, 0, 0], [0, 0, 0.4], atol=1e-6)


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"max_slices": 2}, TypeError, "does not know 'max_slices'.*max_slice_nums"),
        ({"max_slice_nums": 0}, ValueError, "max_slice_nums is 0"),
        ({"max_slice_nums": "4"}, ValueError, "max_slice_nums is '4'"),
        ({"slice_mode": "no"}, ValueError, "slice_mode is 'no'"),
        ({"max_slice_nums": True}, ValueError, "max_slice_nums is True"),
        ({"patch_size": -1}, ValueError, "patch_size is -1"),
        ({"compat": "old"}, ValueError, "compat is 'old'"),
        ({"do_resize": False}, ValueError, "do_resize has no effect"),
        ({"image_mean": [0.5, 0.5]}, ValueError, "image_mean has 2 values"),
    ],
)
def test_a_setting_without_effect_or_sense_is_an_error(settings, error, message):
    with pytest.raises(error, match=message):
        small_processor()(picture(8, 8), **settings)


def test_none_means_the_processors_own_setting():
    image_processor = small_processor()
    image = picture(50, 90)
    assert (
        image_processor(image, max_slice_nums=None)["num_slices"]
        == image_processor(image)["num_slices"]
    )


def test_released_method_names_speak_width_first():
    image_processor = MiniCPMVImageProcessorPil()
    assert image_processor.get_sliced_grid((896, 448)) == [2, 1]
    assert image_processor.get_sliced_grid((896, 448), never_split=True) is None
    assert image_processor.get_sliced_grid((100, 100)) is None
    overview, cells, grid = image_processor.slice_image(picture(448, 896))
    assert (overview.size, grid) == ((630, 322), [2, 1])
    assert [[cell.size for cell in row] for row in cells] == [[(448, 448), (448, 448)]]
    assert image_processor.slice_image(picture(20, 30))[1:] == ([], None)
    assert image_processor.get_slice_image_placeholder((9, 9), use_image_id=False).startswith(
        "<image>"
    )


def test_released_files_load_and_are_written_back(later_version, tmp_path):
    released = json.loads((CHECKPOINTS[later_version] / "preprocessor_config.json").read_text())
    image_processor = MiniCPMVImageProcessorPil.from_pretrained(CHECKPOINTS[later_version])
    image_processor.save_pretrained(tmp_path)
    written = json.loads((tmp_path / "preprocessor_config.json").read_text())
    for key in released.keys() - {"auto_map", "processor_class"}:
        assert written[key] == released[key], key
    again = MiniCPMVImageProcessorPil.from_pretrained(tmp_path)
    assert again.to_dict() == image_processor.to_dict()


def test_the_two_names_of_mean_are_one():
    assert MiniCPMVImageProcessorPil(norm_mean=[0.1, 0.2, 0.3]).image_mean == (0.1, 0.2, 0.3)
    with pytest.raises(ValueError, match="two names of one setting"):
        MiniCPMVImageProcessorPil(norm_std=[1, 1, 1], image_std=[2, 2, 2])


def test_auto_image_processor_finds_ours_by_the_released_name(version):
    found = AutoImageProcessor.from_pretrained(CHECKPOINTS[version])
    assert isinstance(found, MiniCPMVImageProcessorPil)
    for backend in ("pil", "torchvision"):
        found = AutoImageProcessor.from_pretrained(CHECKPOINTS[version], backend=backend)
        assert isinstance(found, MiniCPMVImageProcessorPil)
    assert issubclass(MiniCPMVImageProcessor, MiniCPMVImageProcessorPil)


def test_an_unknown_release_is_named():
    with pytest.raises(ValueError, match=r"9\.9"):
        MiniCPMVImageProcessorPil(version="9.9")
