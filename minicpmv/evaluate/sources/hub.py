"""Downloads of the data of a page: TSV files by their address, data sets by huggingface_hub."""

import fnmatch
import sys
from pathlib import Path
from typing import Any

from tqdm import tqdm

from minicpmv.durable import put_in_place
from minicpmv.errors import first_line

from ..page import Page, Source
from .files import Found, _around, lmu_data, md5_of, wanted

try:
    import httpx2 as httpx  # huggingface_hub 2
except ImportError:
    import httpx  # type: ignore[no-redef, import-not-found]  # huggingface_hub 1

_CHUNK = 1 << 20
_TIMEOUT_S = 30.0


def fetch(page: Page) -> Found:
    """The files of `page`, from the cache of the hub or from the network.

    Raises:
        OSError: no source can be reached; it says which files to put where.
    """
    reasons = []
    for is_offline in (True, False):
        for source in page.sources:
            try:
                found = _from(page, source, is_offline)
            except (OSError, httpx.HTTPError, ValueError) as error:
                if not is_offline:
                    reasons.append(f"{source.repo or source.url}: {first_line(error)}")
                continue
            if found is not None:
                return found
    why = f" ({'; '.join(reasons)})" if reasons else ""
    raise OSError(
        f"The data of {page.name} is not here and cannot be downloaded{why}. {wanted(page)}"
    )


def _from(page: Page, source: Source, is_offline: bool) -> Found | None:
    if source.repo:
        files, root = _of_hub(page, source, is_offline)
        return Found(source, files, (root, *_around(files[0], page))) if files else None
    if source.url and not is_offline:
        file = download(source, lmu_data() / source.file)
        return Found(source, (file,), _around(file, page))
    return None


def _of_hub(page: Page, source: Source, is_offline: bool) -> tuple[tuple[Path, ...], Path]:
    """The files of a data set, and the folder that their names are relative to."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    if not is_offline:
        _say(page, source)
    keywords: dict[str, Any] = {"revision": source.revision or None}
    try:
        root = Path(
            snapshot_download(
                source.repo,
                repo_type="dataset",
                allow_patterns=[source.file],
                local_files_only=is_offline,
                **keywords,
            )
        )
    except LocalEntryNotFoundError as error:
        raise OSError(first_line(error)) from error
    except HfHubHTTPError as error:
        if source.gated:
            raise OSError(
                f"{first_line(error)} Its licence must be accepted on "
                f"https://huggingface.co/datasets/{source.repo}, and `hf auth login` run"
            ) from error
        raise OSError(first_line(error)) from error
    names = (each for each in root.rglob("*") if each.is_file())
    files = (
        each for each in names if fnmatch.fnmatch(each.relative_to(root).as_posix(), source.file)
    )
    return tuple(sorted(files)), root


def download(source: Source, target: Path) -> Path:
    """The file of `source.url`; a download that was interrupted goes on where it stopped.

    Raises:
        OSError, httpx.HTTPError: it cannot be fetched or written.
        ValueError: what came has another md5 than the page says.
    """
    _say(None, source)
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f"{target.name}.part")
    begun = part.stat().st_size if part.exists() else 0
    headers = {"Range": f"bytes={begun}-"} if begun else {}
    client = httpx.Client(follow_redirects=True, timeout=_TIMEOUT_S)
    with client, client.stream("GET", source.url, headers=headers) as response:
        is_whole = begun and response.status_code == 416  # nothing is left to send
        if not is_whole:
            response.raise_for_status()
            goes_on = response.status_code == 206
            total = int(response.headers.get("Content-Length", 0)) or None
            first = begun if goes_on else 0
            bar = tqdm(
                desc=target.name,
                initial=first,
                total=total and total + first,
                unit="B",
                unit_scale=True,
            )
            with bar, part.open("ab" if goes_on else "wb") as file:
                for chunk in response.iter_bytes(_CHUNK):
                    file.write(chunk)
                    bar.update(len(chunk))
    if source.md5 and (digest := md5_of(part)) not in source.md5:
        part.unlink()
        raise ValueError(
            f"{source.url} gave a file with the md5 {digest}; expected "
            f"{' or '.join(source.md5)}. It was deleted"
        )
    put_in_place(part, target)
    return target


def _say(page: Page | None, source: Source) -> None:
    """Name the download and its licence."""
    what = source.repo or source.url
    licence = f" Licence: {source.licence}." if source.licence else ""
    print(f"Downloading {source.file} of {what}.{licence}", file=sys.stderr)
