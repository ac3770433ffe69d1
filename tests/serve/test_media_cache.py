"""Pictures that are remembered: bounded by bytes as they are kept, and by number."""

from PIL import Image

from minicpmv.serve.media_cache import MediaCache, num_bytes, num_pixels


def test_the_oldest_are_forgotten_by_bytes_and_by_number() -> None:
    image = Image.new("RGB", (16, 16))
    assert num_pixels([image, image]) == 512
    assert num_bytes([image, image]) == 2 * num_bytes(image) >= 2 * 4 * 256
    by_bytes = MediaCache(3 * num_bytes(image))
    by_number = MediaCache(1 << 30, max_items=3)
    for cache in (by_bytes, by_number):
        for key in "abc":
            cache.put(key, image)
        assert cache.get("a") is image
        cache.put("d", image)
        assert [key for key in "abcd" if cache.get(key)] == ["a", "c", "d"]
        assert cache.stats()["items"] == 3
        assert cache.stats()["bytes"] == 3 * num_bytes(image)


def test_what_is_larger_than_all_is_not_kept() -> None:
    cache = MediaCache(100)
    cache.put("a", Image.new("RGB", (16, 16)))
    assert cache.stats()["items"] == 0


def test_a_value_of_another_origin_is_none() -> None:
    cache = MediaCache(1 << 20)
    cache.put("a", Image.new("RGB", (16, 16)), b"1")
    assert cache.get("a", b"2") is None
    assert cache.get("a", b"1") is not None
    assert cache.get("a") is not None
    cache.clear()
    assert cache.get("a") is None
