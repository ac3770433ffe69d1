"""The pages of the benchmarks: they can be read, every release has a profile, and what the cards
published stands there. The table of scores is written down here once more, by hand."""

import pytest

from minicpmv.evaluate.metrics import metric
from minicpmv.evaluate.page import Page, load_page, page_names, read_page
from minicpmv.evaluate.tables import make
from minicpmv.releases import RELEASES

VERSIONS = ("1.0", "2.0", "2.5", "2.6", "omnilmm")
# Of the cards: None where a card says nothing; a star where it asked for a chain of thought.
SCORES = {
    "opencompass-11": (47.5, 54.5, 65.1, None, None),
    "opencompass-8": (None, None, 58.8, 65.2, None),
    "ocrbench": (366, 605, 725, "852*", None),
    "textvqa-val": (60.6, 74.1, 76.6, 80.1, None),
    "docvqa-test": (38.2, 71.9, 84.8, 90.8, None),
    "mme": (1650.2, 1808.6, 2024.6, "2348.4*", 1935.8),
    "mmbench-en-test": (64.1, 69.1, 77.2, None, None),
    "mmbench-cn-test": (62.6, 66.5, 74.2, None, None),
    "mmbench-en-dev": (67.9, 69.6, None, None, 71.6),
    "mmbench-cn-dev": (65.3, 68.1, None, None, None),
    "mmbench-v11-test": (None, None, 72.0, 78.0, None),
    "mmmu-val": (38.3, 38.2, 45.8, "49.8*", 40.7),
    "cmmmu-val": (32.1, None, None, None, None),
    "mathvista-mini": (28.9, 38.7, 54.3, 60.6, 34.9),
    "llava-bench": (51.3, 69.2, 86.7, None, 72.0),
    "realworldqa": (51.2, 55.8, 63.5, None, None),
    "object-halbench": (21.6, 14.5, 10.3, 8.2, 9.7),
    "mmvet": (None, None, 52.8, 60.0, None),
    "ai2d": (None, None, 78.4, 82.1, None),
    "hallusionbench": (None, None, 42.4, "48.1*", None),
    "mmstar": (None, None, 51.8, 57.5, None),
    "scienceqa-test": (None, None, 89.0, None, None),
    "pope": (None, None, 87.2, None, None),
    "seedbench-img": (None, None, None, None, 71.1),
    "mmhal-bench": (None, None, None, None, 3.45),
    "mantis-eval": (None, None, None, 69.1, None),
    "blink-val": (None, None, None, 53.0, None),
    "mathverse-mv": (None, None, None, 84.9, None),
    "sciverse-mv": (None, None, None, 74.9, None),
    "mirb": (None, None, None, 53.8, None),
    "video-mme": (None, None, None, 60.9, None),
    "video-mme-subtitles": (None, None, None, 63.6, None),
    "video-chatgpt-generic": (None, None, None, 3.59, None),
    "video-chatgpt-temporal": (None, None, None, 2.73, None),
    "video-chatgpt-consistency": (None, None, None, 3.62, None),
    **{
        f"{name}-{shots}-shot": (None, None, None, score, None)
        for name, scores in {
            "textvqa": (43.9, 63.6, 64.6),
            "vizwiz": (33.8, 60.5, 63.4),
            "vqav2": (45.4, 65.5, 68.2),
            "okvqa": (23.9, 50.1, 51.4),
        }.items()
        for shots, score in zip((0, 4, 8), scores, strict=True)
    },
}
OTHER_LANGUAGES = {
    "ru": 104.4, "ja": 88.0, "vi": 87.0, "pt": 77.6, "de": 75.6, "ro": 75.6, "fr": 74.5,
    "es": 74.3, "cs": 71.6, "hu": 70.9, "tk": 69.6, "ko": 67.9, "th": 61.9, "lv": 58.4, "sr": 42.5,
}  # fmt: skip
FURTHER_ROWS = {
    ("mme", "1.0"): {"perception": 1452},
    ("object-halbench", "1.0"): {"mentions": 11.5},
    ("object-halbench", "2.0"): {"mentions": 7.8},
    ("object-halbench", "omnilmm"): {"mentions": 4.5},
    ("mmhal-bench", "omnilmm"): {"without hallucination": 68.8},
    ("video-chatgpt-generic", "2.6"): {"detail": 3.28, "context": 3.93},
}
PAGES = [load_page(name) for name in page_names()]


def named(page: Page) -> str:
    return page.name


def test_published_scores_are_those_of_the_cards():
    found = {}
    for page in PAGES:
        for version, published in page.published.items():
            star = "*" if published.profile.endswith("-cot") else ""
            found[page.name, version] = f"{published.value:g}{star}"
    expected = {
        (name, version): str(score) if isinstance(score, str) else f"{score:g}"
        for name, scores in SCORES.items()
        for version, score in zip(VERSIONS, scores, strict=True)
        if score is not None
    }
    for language, score in OTHER_LANGUAGES.items():
        expected[f"llava-bench-{language}", "2.5"] = f"{score:g}"
    assert found == expected
    rows = {
        (page.name, version): dict(published.rows)
        for page in PAGES
        for version, published in page.published.items()
        if published.rows
    }
    assert rows == FURTHER_ROWS


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_a_page_asks_every_release(page: Page):
    if page.parts:
        assert not page.sources
        for part in page.parts:
            assert all(load_page(name).metric for name in part.pages)
        return
    assert page.sources, "a page with a metric has data"
    for version in (*VERSIONS, *RELEASES, "4.5", "nano"):
        name, profile = page.profile_for(version)
        assert name.startswith(version if version in VERSIONS else "default")
        assert "{question}" in profile.prompt
        plain = page.profile_for(version, cot=False)[1]
        assert not plain.chain_of_thought
        beams, penalty = (3, 1.2) if version in VERSIONS else (1, 1.0)
        assert (plain.num_beams, plain.repetition_penalty) == (beams, penalty)
        assert not plain.sampling
        assert plain.max_pictures == (1 if version in ("1.0", "2.0", "omnilmm") else None)
        if version in VERSIONS:
            assert plain.dtype in ("float16", "bfloat16")


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_a_page_names_a_metric(page: Page):
    if page.metric:
        assert metric(page.metric, **page.metric_options).name == page.metric


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_a_source_says_where_its_file_is(page: Page):
    for source in (*page.sources, *page.shot_sources):
        assert source.file
        assert source.url or source.repo or source.note
        for md5 in source.md5:
            assert len(md5) == 32
            assert set(md5) <= set("0123456789abcdef")
        if source.url:
            assert source.url.endswith(f"/{source.file}")


def test_names_in_other_programs_lead_to_one_page():
    assert load_page("MMBench_DEV_EN_V11").name == "mmbench-en-v11-dev"
    assert load_page("mmmu_val").name == load_page("MMMU_DEV_VAL").name == "mmmu-val"
    names = [name.lower().replace("_", "-") for page in PAGES for name in page.aliases]
    assert len(names) == len(set(names))
    assert not set(names) & set(page_names())
    for page in PAGES:
        for alias in page.aliases:
            assert load_page(alias) == page


def test_an_unknown_name_is_answered_with_close_ones():
    with pytest.raises(ValueError, match=r"'ocrbnch' is not known. Close: ocrbench"):
        load_page("ocrbnch")


def test_prompts_of_2_5_stand_before_the_picture_and_of_2_6_behind_it():
    page = load_page("mmbench-en-test")
    before = (
        "Carefully read the following question and select the letter corresponding to the correct "
        "answer. Highlight the applicable choices without giving explanations.\n"
        "Please just indicate your choice."
    )
    asked = "{pictures}{hint}Question: {question}\n{options}"
    assert page.profiles["2.5"].prompt == before + asked
    assert page.profiles["2.5"].options == "Options:\n{options}"
    assert page.profiles["2.5"].max_new_tokens == 200
    assert page.profiles["2.6"].prompt == asked
    assert page.profiles["2.6"].options == (
        "Options:\n{options}\nAnswer with the option's letter from the given choices directly."
    )
    assert page.profiles["2.0"].options.endswith("correct answer from the options above. \n")
    assert page.profiles["2.0"].max_new_tokens == 20


def test_pictures_are_enlarged_where_the_family_did():
    enlarged = {page.name for page in PAGES if page.metric and page.profiles["2.6"].upsize}
    mmbench = {page.name for page in PAGES if page.name.startswith("mmbench") and page.metric}
    documents = {"textvqa-val", "docvqa-val", "docvqa-test"}
    assert enlarged == {"mmvet", "mmstar", "ai2d", "ai2d-no-mask", "ocrbench"} | mmbench | documents
    assert not any(page.profiles["2.5"].upsize for page in PAGES if page.metric)


def test_chain_of_thought_of_mme_is_for_cognition_only():
    page = load_page("mme")
    name, _ = page.profile_for("2.6")
    assert name == "2.6-cot"
    assert page.profile_of(name, {"category": "code_reasoning"}).chain_of_thought
    assert not page.profile_of(name, {"category": "OCR"}).chain_of_thought
    assert load_page("mme").profiles["2.5"].max_new_tokens == 3


def test_chain_of_thought_that_a_page_does_not_have():
    with pytest.raises(ValueError, match=r"'default-cot'\. It has"):
        load_page("mme").profile_for("4.5", cot=True)


def test_settings_of_a_page_stand_above_shared_ones_and_below_those_of_thought():
    text = """
        title = "t"
        kind = "mcq"
        metric = "mcq"
        [profiles.all]
        max_new_tokens = 7
        [profiles."2.6"]
        prompt = "own {question}"
    """
    profiles = read_page(text, "t", "t.toml").profiles
    assert {profile.max_new_tokens for profile in profiles.values()} == {7}
    assert profiles["2.6"].prompt == "own {question}"
    assert profiles["2.6-cot"].prompt.startswith("{pictures}Carefully")
    assert profiles["2.6-cot"].num_beams == 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('titel = "x"', "t.toml: the key 'titel' is not known; there are name, title"),
        ("title = 3\nmetric = 'mcq'", "t.toml: title is 3; expected str"),
        ("metric = 'mcq'", "t.toml: the key 'title' is missing"),
        ("title = ", "t.toml is not TOML"),
        ("title = 't'", "t.toml: a page has either a metric or parts"),
        ("title = 't'\nmetric = 'm'\nkind = 'quiz'", "kind is 'quiz'; there are decoding, "),
        ("title = 't'\nmetric = 'm'\n[[sources]]\nkind = 'csv'", "source 1: kind is 'csv'"),
        ("title = 't'\nmetric = 'm'\n[published]\n'2.6' = 'x'", "published for 2.6: value is 'x'"),
        (
            "title = 't'\nmetric = 'm'\n[published]\n'2.6' = {value = 1, profile = 'x'}",
            "names the profile 'x'; the page has 1.0",
        ),
        (
            "title = 't'\nmetric = 'm'\n[profiles.a]\nextends = 'b'",
            "profile 'a' extends 'b', which is not there",
        ),
        (
            "title = 't'\nmetric = 'm'\n[profiles.a]\nextends = 'a'",
            "profile 'a' extends itself",
        ),
        ("extends = 'nothing'", "extends 'nothing', which is not another page"),
    ],
)
def test_a_faulty_page_is_refused(text: str, message: str):
    with pytest.raises(ValueError, match=message):
        read_page(text, "t", "t.toml")


def test_a_page_of_the_users_own(tmp_path):
    file = tmp_path / "birds.toml"
    file.write_text("title = 'Birds'\nmetric = 'exact-match'\n", encoding="utf-8")
    assert load_page(str(file)).name == "birds"
    with pytest.raises(OSError, match="cannot be read"):
        load_page(str(tmp_path / "no.toml"))


def test_records_are_made_of_values_of_their_type():
    with pytest.raises(ValueError, match=r"page: count is 'many'; expected int \| None"):
        make(Page, {"name": "a", "title": "b", "count": "many"}, "page")
    assert make(Page, {"name": "a", "title": "b", "aliases": ["c"]}, "page").aliases == ("c",)
