"""A checkpoint: from a name to its files, wherever they lie.

One class for every way in: `minicpmv.load`, the Auto classes, strict loading, `minicpmv info`,
`minicpmv convert`. Imports neither torch nor transformers.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ..errors import ArgumentError, first_line
from .files import file_at, first_damage, read_index, read_json_file
from .headers import safetensors_headers
from .names import KNOWN, location_of

# Keywords of transformers' `from_pretrained` that say where files come from.
HUB_KEYWORDS = (
    "cache_dir",
    "force_download",
    "local_files_only",
    "proxies",
    "revision",
    "subfolder",
    "token",
)
# Every small file that a checkpoint of this family may have.
SMALL_FILES = (
    "config.json",
    "generation_config.json",
    "preprocessor_config.json",
    "video_preprocessor_config.json",
    "processor_config.json",
    "tokenizer_config.json",
    "tokenizer.json",
    "tokenizer.model",
    "vocab.json",
    "merges.txt",
    "added_tokens.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "chat_template.json",
    "quantize_config.json",
    "adapter_config.json",
)
_SECONDS = 10  # for the request whether a repository exists


def hub_keywords(keywords: Mapping[str, Any]) -> dict[str, Any]:
    """Those keywords of `from_pretrained` that say where files come from."""
    return {name: keywords[name] for name in HUB_KEYWORDS if keywords.get(name) is not None}


@dataclass(frozen=True)
class Checkpoint:
    """Where the files of a model come from: a folder, or a repository on the hub.

    Fields:
        name: as it was given.
        location: the folder, or the repository; what `from_pretrained` of transformers takes.
            Without a network the folder of the copy that the hub's cache keeps.
        keywords: of the hub, for `from_pretrained`; none for a folder.
        variant: as in transformers, "fp16" reads `model.fp16.safetensors`.
        commit: of the repository, as it was found; cached files of it need no request.
        listing: the files of the repository; None when it was not asked.
    """

    name: str
    location: str
    keywords: dict[str, Any] = field(default_factory=dict)
    variant: str | None = None
    commit: str | None = None
    listing: frozenset[str] | None = None

    @classmethod
    def find(cls, name_or_path: str | Path, **keywords: Any) -> "Checkpoint":
        """What a name means: a folder, a short name, "nano", or a repository, which must exist.

        One request asks the hub, before many downloads that would each wait for a network that is
        not there; without an answer the cached copy of the same revision is taken.

        Args:
            keywords: `revision`, `token`, `cache_dir`, `local_files_only`, `force_download`,
                `proxies`, `subfolder`; others are passed over, None is not given.

        Raises:
            ValueError: the name cannot be a model, or a keyword has no effect for a folder.
            OSError: the hub does not have it, or cannot be reached and no copy is cached.
        """
        name, given = str(name_or_path), hub_keywords(keywords)
        location = location_of(name)
        variant = keywords.get("variant")
        if Path(location).is_dir():
            for keyword in ("revision", "force_download"):
                if given.get(keyword):
                    raise ArgumentError(
                        f"`{keyword}={given[keyword]!r}` has no effect: {name!r} is a folder here, "
                        "and only names on the hub have revisions and downloads. Remove it."
                    )
            return cls(name, location, _of_a_folder(given), variant)
        if given.get("local_files_only"):
            return cls(name, location, given, variant)._kept(None)
        from huggingface_hub import HfApi
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError, HTTPError

        try:
            info = HfApi().model_info(
                location,
                revision=given.get("revision"),
                token=given.get("token"),
                timeout=_SECONDS,
            )
        except (HfHubHTTPError, HFValidationError) as error:
            response = getattr(error, "response", None)
            if response is not None and response.status_code >= 500:
                return cls(name, location, given, variant)._kept(error)
            raise OSError(
                f"The hub does not give {location!r}: {first_line(error)} A gated or private "
                f"repository needs 'hf auth login', or a token in $HF_TOKEN. Known: {KNOWN}."
            ) from error
        except (HTTPError, OSError) as error:
            return cls(name, location, given, variant)._kept(error)
        files = getattr(info, "siblings", None)
        listing = frozenset(file.rfilename for file in files) if files else None
        return cls(name, location, given, variant, getattr(info, "sha", None), listing)

    @classmethod
    def at(cls, location: str | Path, keywords: Mapping[str, Any]) -> "Checkpoint":
        """A folder or repository whose name is settled, from the keywords of `from_pretrained`.

        No request is sent.
        """
        location, given = str(location), hub_keywords(keywords)
        commit = keywords.get("_commit_hash")
        if commit is None:
            commit = getattr(keywords.get("config"), "_commit_hash", None)
        if Path(location).is_dir():
            given, commit = _of_a_folder(given), None
        return cls(location, location, given, keywords.get("variant"), commit)

    def _kept(self, error: Exception | None) -> "Checkpoint":
        """The copy in the cache, as a folder: huggingface_hub asks the network for a list of its
        own even where `local_files_only` is set."""
        if self.folder is not None:
            return Checkpoint(self.name, str(self.folder), {}, self.variant)
        revision, cache_dir = self.keywords.get("revision"), self.keywords.get("cache_dir")
        which = f" at revision {revision!r}" if revision else ""
        place = f" in {str(cache_dir)!r}" if cache_dir else ""
        if error is None:
            raise OSError(
                f"local_files_only=True, but no copy of {self.location!r}{which} is cached{place}. "
                "Leave it out once to download the files."
            )
        raise OSError(
            f"Model {self.location!r} is not a local folder, no copy{which} is cached{place}, and "
            f"the Hugging Face hub cannot be reached ({first_line(error)}). Check the name and "
            f"the network. Known: {KNOWN}."
        ) from error

    @property
    def is_folder(self) -> bool:
        return Path(self.location).is_dir()

    @property
    def folder(self) -> Path | None:
        """Where files lie on this disk: the folder itself, or the hub's copy when one is kept."""
        if self.is_folder:
            return Path(self.location, self.keywords.get("subfolder", ""))
        kept = self._from_cache("config.json")
        return kept.parent if isinstance(kept, Path) else None

    def find_file(self, name: str) -> Path | None:
        """A file, fetched from the hub when it is not here; None when there is none of that name.

        Raises:
            OSError: the hub cannot be reached, or does not give the file; or what stands in its
                place in a folder is no file.
        """
        if self.is_folder:
            return file_at(Path(self.location, self.keywords.get("subfolder", ""), name))
        if self.listing is not None and self._in_repository(name) not in self.listing:
            return None
        is_local = bool(self.keywords.get("local_files_only")) or _is_offline()
        if is_local or (self.commit is not None and not self.keywords.get("force_download")):
            kept = self._from_cache(name)
            if is_local or kept is not None:
                return kept if isinstance(kept, Path) else None
        return self._fetch(name)

    def file(self, name: str) -> Path:
        """As `find_file`; none is an error.

        Raises:
            OSError: there is no such file, or the hub cannot be reached.
        """
        path = self.find_file(name)
        if path is None:
            kind = "The model folder" if self.is_folder else "The repository"
            if name == "config.json":
                self.check_is_no_adapter()
            raise FileNotFoundError(f"{kind} {self.location!r} has no {name}.")
        return path

    def check_is_no_adapter(self) -> None:
        """
        Raises:
            OSError: there is an adapter, and no model of its own beside it.
        """
        names = ("config.json", "adapter_config.json")
        model, adapter = (self.find_file(name) is not None for name in names)
        if adapter and not model:
            raise FileNotFoundError(
                f"{self.location!r} is an adapter, no whole model. Merge it into its model first: "
                f"minicpmv merge {self.location} MERGED"
            )

    def fetched_again(self) -> "Checkpoint":
        """The same with every file that is needed fetched now; nothing is to be forced any more."""
        self.download()
        keywords = {key: value for key, value in self.keywords.items() if key != "force_download"}
        return replace(self, keywords=keywords)

    def download(self) -> Path:
        """The folder; from the hub, its small files and one kind of weights.

        Raises:
            OSError: the hub does not give them.
        """
        if self.is_folder:
            return Path(self.location, self.keywords.get("subfolder", ""))
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, HTTPError

        unused = ("proxies", "subfolder")
        keywords = {key: value for key, value in self.keywords.items() if key not in unused}
        if self.commit is not None:
            keywords["revision"] = self.commit
        small = [*SMALL_FILES, "*.index.json"]
        for pattern in ("*.safetensors", "*.bin"):
            patterns = [self._in_repository(name) for name in (*small, pattern)]
            try:
                fetched = snapshot_download(self.location, allow_patterns=patterns, **keywords)
            except (HfHubHTTPError, HTTPError, OSError) as error:
                raise OSError(
                    f"The files of {self.location!r} cannot be fetched: {first_line(error)}"
                ) from error
            folder = Path(fetched, self.keywords.get("subfolder", ""))
            if any(folder.glob(pattern)):
                break
        return folder

    def read_json(self, name: str) -> dict[str, Any]:
        """The object in a JSON file.

        Raises:
            ValueError: the file is not JSON, or holds no object.
            OSError: there is no such file, or the hub cannot be reached.
        """
        return read_json_file(self.file(name))

    def weight_files(self) -> list[Path]:
        """The weight files that `from_pretrained` reads, whole or in shards, safetensors first.

        Raises:
            OSError: there are none, or a shard is missing.
            ValueError: an index that cannot be read.
        """
        for whole in ("model.safetensors", "pytorch_model.bin"):
            paths = self._whole_or_shards(whole)
            if paths:
                return paths
        raise FileNotFoundError(
            f"{self.location!r} has no {self._variant_of('model.safetensors')} and no "
            f"{self._variant_of('pytorch_model.bin')}."
        )

    def safetensors_files(self, base: str = "model") -> list[Path]:
        """As `weight_files`, of safetensors alone, whose names begin with `base`."""
        paths = self._whole_or_shards(f"{base}.safetensors")
        if not paths:
            raise FileNotFoundError(
                f"{self.location!r} has no {base}.safetensors. Quantised weights are read from "
                "there."
            )
        return paths

    def _whole_or_shards(self, name: str) -> list[Path]:
        """The file of this name, or what its index names; empty without both."""
        whole = self.find_file(self._variant_of(name))
        if whole is not None:
            return [whole]
        index = self.find_file(self._variant_of(f"{name}.index.json"))
        if index is None:
            return []
        names = sorted(set(read_index(index).values()))
        shards = {shard: self.find_file(shard) for shard in names}
        missing = [shard for shard, path in shards.items() if path is None]
        if missing:
            raise FileNotFoundError(
                f"{self.location!r} has no {', '.join(missing)}, which {index.name} names. "
                "Download it again."
            )
        return [path for path in shards.values() if path is not None]

    def kept_weight_files(self) -> list[Path]:
        """Those weight files that are on this disk; empty where not all are."""
        try:
            return self.kept().weight_files()
        except FileNotFoundError:
            return []

    def kept(self) -> "Checkpoint":
        """The same checkpoint, read from files on this disk alone, without requests to the hub."""
        keywords = {key: value for key, value in self.keywords.items() if key != "force_download"}
        return replace(self, keywords={**keywords, "local_files_only": True})

    def tensor_names(self) -> set[str]:
        """Names of the tensors in safetensors files; of shards, without fetching the shards.

        Raises:
            OSError: there are none.
        """
        whole = self.find_file(self._variant_of("model.safetensors"))
        if whole is not None:
            return set(safetensors_headers(whole))
        return set(read_index(self.file(self._variant_of("model.safetensors.index.json"))))

    def damage(self) -> Exception | None:
        """What is wrong with the first file on this disk that cannot be read; None without one."""
        return self._first_damage("*.safetensors", "pytorch_model*.bin", is_thorough=True)

    def check(self) -> None:
        """Look at the small files on this disk; libraries pass over some that they cannot read.

        Raises:
            OSError, ValueError: names the first file that is damaged, or a pointer of git-lfs.
        """
        problem = self._first_damage(is_thorough=False)
        if problem is not None:
            raise problem

    def _first_damage(self, *weights: str, is_thorough: bool) -> Exception | None:
        folder = self.folder
        if folder is None:
            return None
        paths = [folder / name for name in SMALL_FILES]
        for pattern in ("*.index.json", *weights):
            paths += sorted(folder.glob(pattern))
        if self.is_folder:
            there = (path for path in paths if path.exists() or path.is_symlink())
        else:  # a link of the cache whose file is gone is fetched again
            there = (path for path in paths if path.is_file())
        return first_damage(there, is_thorough=is_thorough)

    @contextmanager
    def naming_damage(self) -> Iterator[None]:
        """Raise a library's error as one that names the damaged file behind it, if there is one.

        An error of this package says what is wrong by itself.
        """
        try:
            yield
        except Exception as error:  # libraries raise anything; it goes on unless a file is to blame
            problem = None if _is_ours(error) else self.damage()
            if problem is None:
                raise
            raise problem from error

    def _variant_of(self, name: str) -> str:
        """ "model.safetensors" -> "model.fp16.safetensors", as transformers writes it."""
        if self.variant is None:
            return name
        stem, _, end = name.rpartition(".")
        return f"{stem}.{self.variant}.{end}"

    def _in_repository(self, name: str) -> str:
        subfolder = self.keywords.get("subfolder")
        return f"{subfolder}/{name}" if subfolder else name

    def _from_cache(self, name: str) -> Path | bool | None:
        """A cached file; False where it is known not to exist; None when nothing is known."""
        from huggingface_hub import try_to_load_from_cache
        from huggingface_hub.errors import HFValidationError

        try:
            kept = try_to_load_from_cache(
                self.location,
                self._in_repository(name),
                cache_dir=self.keywords.get("cache_dir"),
                revision=self.commit or self.keywords.get("revision"),
            )
        except HFValidationError:
            return None  # a folder that is not there is no repository either
        if kept is None:
            return None
        return Path(kept) if isinstance(kept, str) else False

    def _fetch(self, name: str) -> Path | None:
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, HTTPError
        from huggingface_hub.errors import LocalEntryNotFoundError as NotKeptError

        keywords = {key: value for key, value in self.keywords.items() if key != "proxies"}
        if self.commit is not None:
            keywords["revision"] = self.commit
        try:
            return Path(hf_hub_download(self.location, name, **keywords))
        except EntryNotFoundError as error:
            if not isinstance(error, NotKeptError):
                return None
            raise OSError(
                f"{name} of {self.location!r} cannot be fetched: the Hugging Face hub cannot be "
                "reached. Check the network."
            ) from error
        except (HfHubHTTPError, HTTPError) as error:
            raise OSError(
                f"The hub does not give {name} of {self.location!r}: {first_line(error)}"
            ) from error


def _is_offline() -> bool:
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)


def _of_a_folder(keywords: Mapping[str, Any]) -> dict[str, Any]:
    """Only this one says anything about a folder."""
    return {name: value for name, value in keywords.items() if name == "subfolder"}


def _is_ours(error: Exception) -> bool:
    """Whether the last call before a plain error is in this package."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    home = trace.tb_frame.f_globals.get("__name__", "") if trace is not None else ""
    return isinstance(error, ValueError | OSError) and home.startswith("minicpmv.")


__all__ = ["HUB_KEYWORDS", "Checkpoint", "hub_keywords"]
