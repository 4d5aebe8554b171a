"""What is in a collection's folder and what of it is read: every file found is either read or left out by name."""

from __future__ import annotations

import difflib
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath

from components import storage
from components.benchmarks import listing
from components.benchmarks.files import VIDEO_FOLDER, is_video
from components.benchmarks.listing import Found, shown
from components.manifest import Manifest, first_few

NOT_TEXT = "name is not UTF-8 (rename it)"
HIDDEN = "hidden, the name starts with a dot"
NO_VIDEO = "no ending of a video (a table may list it all the same)"
FOLDER = "folder that cannot be listed, or a link to a folder around it"
OUTSIDE = f"outside {VIDEO_FOLDER}/ (move it there)"
UNLISTED = "not in the annotations, or another file of the same video"

Form = Callable[[str], str]

# For so many missing files a similar name is looked for, among so many others.
HINTS = 20
CANDIDATES = 2000


@dataclass(frozen=True)
class Inventory:
    """The files of a collection.

    Args:
        read: The uris of listed videos that have a file.
        missing: The uris of listed videos without a file, in the order of the manifest.
        left_out: Files that nothing lists, below the collection's folder, by the reason.
    """

    read: frozenset[str]
    missing: tuple[str, ...]
    left_out: Mapping[str, tuple[str, ...]]

    def sum(self) -> str:
        """How many files were found, and what became of them."""
        left = sum(map(len, self.left_out.values()))
        return f"{len(self.read) + left:,} found = {len(self.read):,} read + {left:,} left out"

    def reasons(self) -> list[str]:
        """Why files are left out, with their number and the first few names. One line for each reason."""
        return [
            f"{len(names):,} left out: {reason}: {first_few([shown(name) for name in names])}"
            for reason, names in self.left_out.items()
        ]

    def hints(self) -> list[str]:
        """Which other file may be meant by a missing one, one line for each of the first few."""
        if not self.missing:
            return []
        others = [name for names in self.left_out.values() for name in names if is_video(name)]
        alike = [
            ({form(PurePosixPath(name).name): name for name in reversed(others)}, form, how) for form, how in ALIKE
        ]
        pairs = ((uri, _similar(storage.split(uri)[1], alike)) for uri in self.missing[:HINTS])
        return [f"{shown(uri)}: {hint}" for uri, hint in pairs if hint]


def take_stock(folder: str, manifest: Manifest) -> Inventory:
    """Compares the files of a folder with those that a manifest lists.

    The folder of videos is searched with all folders below it. In the collection's folder itself and next to listed
    files elsewhere below it, only files with the ending of a video count.

    Raises:
        DataError: A folder cannot be listed, or a storage does not answer.
    """
    listed = dict.fromkeys(video.uri for video in manifest.videos)
    read: set[str] = set()
    left_out: dict[str, set[str]] = {}
    for place, below, found in _entries(folder, listed):
        uri = storage.join(place, found.path) if found.is_text else None
        if uri in listed:
            read |= {uri} if found.is_there else set()
        elif below is not None and (reason := _reason(found, below, manifest.is_only_searched)):
            left_out.setdefault(reason, set()).add(below + found.path)
    return Inventory(
        frozenset(read),
        tuple(uri for uri in listed if uri not in read),
        {reason: tuple(sorted(names)) for reason, names in sorted(left_out.items())},
    )


def _entries(folder: str, listed: Iterable[str]) -> Iterator[tuple[str, str | None, Found]]:
    """Files with the folder that they were found in, and that folder's path below the collection's, if it is there."""
    videos = storage.join(folder, VIDEO_FOLDER)
    inside = [videos, folder]
    yield from ((videos, f"{VIDEO_FOLDER}/", found) for found in listing.walk(videos))
    yield from ((folder, "", found) for found in listing.names(folder))
    for place in sorted({storage.split(uri)[0] for uri in listed} - set(inside)):
        below = _below(folder, place)
        if below is None or not below.startswith(f"{VIDEO_FOLDER}/"):
            yield from ((place, below, found) for found in listing.names(place))


def _below(folder: str, place: str) -> str | None:
    """The path of ``place`` below ``folder`` with a slash at its end, or None if it is elsewhere."""
    path, root = PurePosixPath(storage.plain(place)), PurePosixPath(storage.plain(folder))
    return f"{path.relative_to(root)}/" if path.is_relative_to(root) else None


def _reason(found: Found, below: str, is_only_searched: bool) -> str | None:
    """Why a file that nothing lists is left out, or None if it is no file of the collection."""
    among_videos = below.startswith(f"{VIDEO_FOLDER}/")
    if not among_videos and (found.is_hidden or not is_video(found.path)):
        return None
    if found.is_folder:
        return FOLDER
    if not found.is_text:
        return NOT_TEXT
    if found.is_hidden:
        return HIDDEN
    if not is_video(found.path):
        return NO_VIDEO
    return OUTSIDE if is_only_searched and not among_videos else UNLISTED


def _similar(wanted: str, alike: list[tuple[dict[str, str], Form, str]]) -> str | None:
    """What a missing file may be called instead. ``alike`` has the other files by each form of their names."""
    for names, form, how in alike:
        if found := names.get(form(wanted)):
            return f"there is {shown(found)!r}: {how}"
    names = alike[0][0]
    near = difflib.get_close_matches(wanted, list(names)[:CANDIDATES], n=1, cutoff=0.7)
    return f"did you mean {shown(names[near[0]])!r}?" if near else None


def _same(name: str) -> str:
    return name


def _composed(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def _folded(name: str) -> str:
    return _composed(name).casefold()


def _stem(name: str) -> str:
    return PurePosixPath(_folded(name)).stem


# In which form two names are equal, and what then differs, from the nearest to the farthest.
ALIKE: tuple[tuple[Form, str], ...] = (
    (_same, "in another folder"),
    (_composed, "only the Unicode form differs (NFC or NFD), so copy the file's name into the annotations"),
    (_folded, "only upper and lower case differ"),
    (_stem, "with another ending"),
)
