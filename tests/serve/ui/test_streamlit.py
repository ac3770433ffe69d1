"""The small page, run by Streamlit's own tests (`-m slow`, where Streamlit is)."""

from pathlib import Path

import pytest

from minicpmv.serve.ui import launch

testing = pytest.importorskip("streamlit.testing.v1")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
PAGE = Path(launch.__file__).with_name("streamlit_page.py")


@pytest.fixture
def page(url, tmp_path, monkeypatch):
    monkeypatch.setenv(launch.STREAMLIT_BASE_URL, url)
    monkeypatch.setenv(launch.STREAMLIT_UPLOADS, str(tmp_path))
    return testing.AppTest.from_file(PAGE, default_timeout=60).run()


def test_the_page_offers_the_models_of_the_server(page):
    assert page.exception == []
    assert page.selectbox[0].options == ["tiny", "other"]


def test_the_temperature_waits_until_words_are_sampled(page):
    assert page.toggle[0].label == "Choice of words: sampled"
    assert page.slider[0].label == "Temperature"
    assert page.slider[0].disabled
    page.toggle[0].set_value(True).run()
    assert not page.slider[0].disabled


def test_a_server_that_is_not_there_is_told(page, monkeypatch):
    monkeypatch.setenv(launch.STREAMLIT_BASE_URL, "http://127.0.0.1:9")
    page.run()
    assert page.exception == []
    assert "cannot be reached" in page.error[0].value
