"""A benchmark as a page of data: where it lies, how each release is asked, what the card says.

The pages are the TOML files of `pages/`; their keys are the fields of these classes and others
are refused. Profiles are shared: `pages/prompts/` holds those of each kind of question.
"""

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal

from ..errors import meant
from .tables import make

_FOLDER = Path(__file__).parent / "pages"


@dataclass(frozen=True, kw_only=True)
class Lookup:
    """A field that follows from a column: `values` maps what stands there to what it means."""

    column: str
    values: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class Source:
    """A place where the data of a page can be read.

    Fields:
        file: name of the TSV below $LMUData, or pattern of the files within `repo` or the folder.
        url: of that one file; repo, revision: of a data set on the hub; config: its name there,
            for messages.
        md5, size, rows: of that one file (`size` in bytes), where they are known; of several md5
            the last is the newest version.
        columns: our field (id, question, pictures, answers, options, video, hint) -> the column
            or columns that hold it. `fields` of an item holds all columns not named here.
        literals: our fields whose cells are Python or JSON lists written as text.
        answers_as: "letter": of an option, perhaps in brackets; "index": its number, from 0.
        words: text of an answer -> the word it stands for ("1" -> "Yes").
        missing: texts of cells that say nothing ("nan").
        where: column -> values; other rows are left out.
        patterns: a field -> text with {columns}, for what has no column of its own: an id of
            two columns, the path of a video or of its subtitles, a field that others call
            otherwise.
        marks: regular expression of what stands in a question where a picture belongs; it becomes
            `<image 1>` and so on. A group tells pictures apart, by number or by name; without
            one, every mark is the next picture.
        licence: what the user should know before a download.
    """

    kind: Literal["tsv", "parquet", "jsonl", "folder"]
    file: str = ""
    url: str = ""
    repo: str = ""
    revision: str = ""
    config: str = ""
    md5: tuple[str, ...] = ()
    size: int | None = None
    rows: int | None = None
    columns: Mapping[str, str | tuple[str, ...]] = field(default_factory=dict)
    literals: tuple[str, ...] = ()
    answers_as: Literal["text", "letter", "index"] = "text"
    words: Mapping[str, str] = field(default_factory=dict)
    missing: tuple[str, ...] = ()
    where: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    patterns: Mapping[str, str] = field(default_factory=dict)
    marks: str = ""
    licence: str = ""
    gated: bool = False
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Profile:
    """How a release is asked: the words around a question, and how the answer is generated.

    Fields:
        prompt: the user's message, with {pictures} where the pictures stand (text before and
            after it are separate parts of the message), {question}, {options}, {hint},
            {subtitles}, or {name} of any other field of the item.
        prompt_without_options: instead, where an item has no options; None: the same.
        options: around the lines of the options, {options}; nothing where there are none.
        option: one line of them: {letter}, {text}.
        hint, subtitles: around a hint or the subtitles; nothing where there are none.
        system: a system message; empty: none.
        interleaved: `<image 1>` in the text is replaced by the first picture, and so on; where
            there is no mark, the pictures stand at {pictures}.
        max_pictures: the first so many are shown; None: all.
        chain_of_thought: the model is asked to reason before it answers.
        where: field -> values; items of other values are asked with the profile `otherwise`.
        upsize: pictures of less than 1344 x 1344 pixels are enlarged first.
        max_slice_nums, use_image_id, max_inp_length: of the processor; None: the model's own.
        num_frames, fps: frames of a video, at most `num_frames` of them.
        shots: solved examples before the question, each written as `shot` ({pictures},
            {question}, {answer}). With `text_shots` they are shown without their pictures.
        dtype: of the published run; nothing is cast to it, it is only compared.
    """

    prompt: str = "{pictures}{question}"
    prompt_without_options: str | None = None
    options: str = "Options:\n{options}"
    option: str = "{letter}. {text}\n"
    hint: str = "Hint: {hint}\n"
    subtitles: str = "{subtitles}"
    system: str = ""
    interleaved: bool = False
    max_pictures: int | None = None
    max_new_tokens: int = 512
    num_beams: int = 1
    repetition_penalty: float = 1.0
    sampling: bool = False
    chain_of_thought: bool = False
    where: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    otherwise: str = ""
    upsize: bool = False
    max_slice_nums: int | None = None
    use_image_id: bool | None = None
    max_inp_length: int | None = None
    num_frames: int | None = None
    fps: float | None = None
    shots: int = 0
    text_shots: bool = False
    shot: str = "{pictures}{question} {answer}\n"
    dtype: str = ""


@dataclass(frozen=True, kw_only=True)
class Published:
    """What the card of a release says.

    Fields:
        value: in the unit of the page. rows: further rows of the metric that the card gives.
        profile: that it was measured with; "" is the release's plain one.
        sure: whether the value and its setting are from the card itself.
    """

    value: float
    profile: str = ""
    rows: Mapping[str, float] = field(default_factory=dict)
    sure: bool = True
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Part:
    """A term of a page that combines others: the mean of `pages`, divided by `divide`."""

    pages: tuple[str, ...]
    divide: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Page:
    """A benchmark.

    Fields:
        name: of its file and on the command line; aliases: names in VLMEvalKit and lmms-eval.
        what: it asks, in a few words.
        version: raised when prompts, data or scoring change.
        kind: which shared prompts of `pages/prompts/` it uses (mcq, yes-no, vqa ...).
        sources: tried in order.
        shot_sources: where solved examples are taken from, for few-shot pages.
        count: items, where known; sure of them: see `note`.
        judge: whether scoring asks a judge model; judge_model: that of the published scores.
        parts: of a page that only combines others; it has no source then.
        lookups: a field of items -> what it is for each value of a column.
        hidden: the references are not public; answers can be written, not scored.
    """

    name: str
    title: str
    version: int = 1
    what: str = ""
    kind: str = ""
    aliases: tuple[str, ...] = ()
    sources: tuple[Source, ...] = ()
    shot_sources: tuple[Source, ...] = ()
    profiles: Mapping[str, Profile] = field(default_factory=dict)
    metric: str = ""
    metric_options: Mapping[str, Any] = field(default_factory=dict)
    judge: Literal["none", "optional", "required"] = "none"
    judge_model: str = ""
    published: Mapping[str, Published] = field(default_factory=dict)
    unit: str = "%"
    less_is_better: bool = False
    count: int | None = None
    parts: tuple[Part, ...] = ()
    lookups: Mapping[str, Lookup] = field(default_factory=dict)
    hidden: bool = False
    note: str = ""

    def profile_for(self, release: str, cot: bool | None = None) -> tuple[str, Profile]:
        """The name of the profile that `release` is asked with, and the profile.

        A release without one of its own (4.5, nano) has "default". `cot` None takes the profile
        of the published score where there is one: with chain of thought where the card starred it.

        Raises:
            ValueError: chain of thought is asked for and the page has no such profile.
        """
        base = release if release in self.profiles else "default"
        thinking = f"{base}-cot"
        if cot is None:
            published = self.published.get(release)
            name = (published.profile if published else "") or base
        else:
            name = thinking if cot else base
        if name not in self.profiles:
            known = ", ".join(self.profiles)
            raise ValueError(f"{self.name} has no profile {name!r}. It has {known}.")
        return name, self.profiles[name]

    def profile_of(self, name: str, fields: Mapping[str, Any]) -> Profile:
        """The profile `name`, or the one it names for items with other `fields`."""
        profile = self.profiles[name]
        fits = all(str(fields.get(key)) in values for key, values in profile.where.items())
        return profile if fits else self.profiles[profile.otherwise]


_SHARED = ("decoding",)  # prompts/decoding.toml holds for every kind


@cache
def page_names() -> tuple[str, ...]:
    """The names of all pages, in the order of the alphabet."""
    names = (file.name for file in _FOLDER.iterdir() if file.name.endswith(".toml"))
    return tuple(sorted(name.removesuffix(".toml") for name in names))


def load_page(name: str) -> Page:
    """The page of a name, of an alias, or of a `.toml` file of the user's.

    Case is ignored, and - and _ are the same.

    Raises:
        ValueError: there is none, or the file is not a page.
    """
    if name.lower().endswith(".toml"):
        file = Path(name)
        try:
            text = file.read_text(encoding="utf-8")
        except OSError as error:
            raise OSError(f"The page {name!r} cannot be read: {error.strerror}.") from error
        return read_page(text, file.stem, str(file))
    known = _plain(name)
    if known not in page_names():
        known = _aliases().get(known, "")
    if not known:
        close = meant(_plain(name), (*page_names(), *_aliases()), "minicpmv evaluate --list")
        raise ValueError(f"Benchmark {name!r} is not known.{close}")
    return _shipped(known)


@cache
def _shipped(name: str) -> Page:
    return read_page((_FOLDER / f"{name}.toml").read_text(encoding="utf-8"), name, f"{name}.toml")


def _plain(name: str) -> str:
    return name.lower().replace("_", "-")


@cache
def _aliases() -> dict[str, str]:
    """Alias -> name of its page."""
    return {
        _plain(alias): name
        for name in page_names()
        for alias in _toml((_FOLDER / f"{name}.toml").read_text("utf-8"), name).get("aliases", ())
    }


def read_page(text: str, name: str, file: str) -> Page:
    """The page that the TOML `text` says; `file` is named in errors.

    Raises:
        ValueError: it is not TOML, a key is unknown or missing, or a value is of another type.
    """
    table, own = _extended(_toml(text, file), file, (name,))
    kind = table.get("kind", "")
    layers = [_prompts(each, file) for each in (*_SHARED, kind) if each]
    table["profiles"] = settle([*layers, *own], file)
    table["sources"] = [
        make(Source, each, f"{file}, source {number}")
        for number, each in enumerate(table.get("sources", ()), 1)
    ]
    table["shot_sources"] = [
        make(Source, each, f"{file}, source of shots {number}")
        for number, each in enumerate(table.get("shot_sources", ()), 1)
    ]
    table["parts"] = [make(Part, each, f"{file}, parts") for each in table.get("parts", ())]
    table["published"] = {
        release: make(
            Published,
            each if isinstance(each, dict) else {"value": each},
            f"{file}, published for {release}",
        )
        for release, each in table.get("published", {}).items()
    }
    page = make(Page, {"name": name, **table}, file)
    _check(page, file)
    return page


def _extended(
    table: dict[str, Any], file: str, names: tuple[str, ...]
) -> tuple[dict[str, Any], list[Mapping[str, Any]]]:
    """A table with what it `extends` below it, and the layers of their profiles.

    Names, aliases and published scores are never taken over.
    """
    profiles = table.pop("profiles", {})
    base = table.pop("extends", "")
    if not base:
        return table, [profiles]
    if base in names or base not in page_names():
        raise ValueError(f"{file} extends {base!r}, which is not another page.")
    below = _toml((_FOLDER / f"{base}.toml").read_text("utf-8"), base)
    below, layers = _extended(below, f"{base}.toml", (*names, base))
    own = ("aliases", "published", "title")
    kept = {key: value for key, value in below.items() if key not in own}
    return {**kept, **table}, [*layers, profiles]


def _check(page: Page, file: str) -> None:
    """What no single field can say."""
    for release, published in page.published.items():
        if published.profile and published.profile not in page.profiles:
            raise ValueError(
                f"{file}: the score of {release} names the profile {published.profile!r}; "
                f"the page has {', '.join(page.profiles)}."
            )
    for name, profile in page.profiles.items():
        if profile.where and profile.otherwise not in page.profiles:
            raise ValueError(
                f"{file}: profile {name!r} asks other items with {profile.otherwise!r}; "
                f"the page has {', '.join(page.profiles)}."
            )
    if bool(page.parts) == bool(page.metric):
        raise ValueError(f"{file}: a page has either a metric or parts.")


def settle(layers: Sequence[Mapping[str, Any]], file: str) -> dict[str, Profile]:
    """The profiles that tables say in layers, later ones stronger.

    Every layer maps names to fields; those of "all" hold for every name of the layer. A profile
    that `extends` another begins with all that the other says.
    """
    names = dict.fromkeys(name for layer in layers for name in layer if name != "all")

    def fields(name: str, below: tuple[str, ...]) -> dict[str, Any]:
        if name in below:
            raise ValueError(f"{file}: profile {name!r} extends itself.")
        own = [dict(layer.get(name, {})) for layer in layers]
        parents = [table.pop("extends") for table in own if "extends" in table]
        if not parents:
            said = [
                {**layer.get("all", {}), **table} for layer, table in zip(layers, own, strict=True)
            ]
        elif parents[-1] in names:
            said = [fields(parents[-1], (*below, name)), *own]
        else:
            raise ValueError(
                f"{file}: profile {name!r} extends {parents[-1]!r}, which is not there."
            )
        return {key: value for table in said for key, value in table.items()}

    return {name: make(Profile, fields(name, ()), f"{file}, profile {name}") for name in names}


@cache
def _prompts(kind: str, file: str) -> dict[str, Any]:
    path = _FOLDER / "prompts" / f"{kind}.toml"
    if not path.is_file():
        known = sorted(each.name.removesuffix(".toml") for each in path.parent.iterdir())
        raise ValueError(f"{file}: kind is {kind!r}; there are {', '.join(known)}.")
    return _toml(path.read_text(encoding="utf-8"), path.name)


def _toml(text: str, file: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{file} is not TOML: {error}.") from error
