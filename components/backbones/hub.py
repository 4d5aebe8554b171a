"""Files of Hugging Face repositories and of plain addresses: fetched once, compared with their checksums, kept.

huggingface_hub fetches, shows the progress, continues after a broken transfer and keeps the files in its cache. It does
not compare a file with its checksum, so this module does.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
from dataclasses import dataclass, replace
from pathlib import Path

import huggingface_hub
from filelock import FileLock
from huggingface_hub import errors
from open_clip import pretrained as open_clip_pretrained

from components.errors import BackboneError

logger = logging.getLogger(__name__)

PREFIX = "hf-hub:"
_NAME = re.compile(r"(?P<name>[\w.-]+/[\w.-]+)(@(?P<revision>[\w./-]+))?", re.ASCII)
_PIECE = 2**22
# What the HTTP clients of different releases raise if nobody answers.
_SILENT = re.compile(r"Connect|Timeout|Offline|Proxy|LocalEntryNotFound|RemoteProtocol|URLError|MaxRetry")


@dataclass(frozen=True)
class Repository:
    """A model repository.

    Attributes:
        name: ``owner/name``.
        revision: A branch, tag or commit. None is the main branch.
    """

    name: str
    revision: str | None = None

    @classmethod
    def parse(cls, text: str) -> Repository | None:
        """The repository that ``text`` names, with or without ``hf-hub:``. None if ``text`` has another form."""
        match = _NAME.fullmatch(text.removeprefix(PREFIX))
        return cls(match["name"], match["revision"]) if match else None

    def __str__(self) -> str:
        return self.name if self.revision is None else f"{self.name}@{self.revision}"

    def get(self, name: str) -> Path | None:
        """The local copy of a file, or None if the repository has no such file. A cached copy needs no network.

        Raises:
            BackboneError: There is no such repository, nobody answers, or the file differs from its checksum.
        """
        cached = huggingface_hub.try_to_load_from_cache(self.name, name, revision=self.revision)
        if isinstance(cached, str):
            path = Path(cached)
        elif cached is not None:
            return None  # the cache knows that this revision has no such file
        else:
            try:
                path = self._download(name)
            except errors.EntryNotFoundError as error:
                if isinstance(error, errors.LocalEntryNotFoundError):
                    raise self._failed(name, error) from None
                return None
            except Exception as error:  # the HTTP clients below raise many kinds, which mean the same to the user
                raise self._failed(name, error) from None
        _verify(path, f"{self}/{name}")
        return path

    def need(self, name: str) -> Path:
        """:meth:`get` for a file that has to exist.

        Raises:
            BackboneError: As for :meth:`get`, or the repository has no such file.
        """
        path = self.get(name)
        if path is None:
            raise BackboneError("no such file in the repository", where=f"{PREFIX}{self}", found=name)
        return path

    def at(self, path: Path) -> Repository:
        """The same repository at the commit of a file from :meth:`get`, so that all files are of one commit."""
        return replace(self, revision=path.parent.name)

    def _download(self, name: str) -> Path:
        # Later than its import, huggingface_hub reads no environment.
        endpoint = os.environ.get("HF_ENDPOINT")
        url = huggingface_hub.hf_hub_url(self.name, name, revision=self.revision, endpoint=endpoint)
        try:
            # hf_hub_download would try to reach a silent hub for half a minute.
            size = huggingface_hub.get_hf_file_metadata(url, endpoint=endpoint).size
            logger.info("fetching %s of %s (%.1f MB)", name, self, (size or 0) / 1e6)
        except errors.EntryNotFoundError:
            logger.debug("%s has no %s", self, name)  # hf_hub_download notes this in the cache
        path = huggingface_hub.hf_hub_download(self.name, name, revision=self.revision, endpoint=endpoint)
        return Path(path)

    def _failed(self, name: str, error: Exception) -> BackboneError:
        where, kind = f"{PREFIX}{self}", type(error).__name__
        if isinstance(error, errors.GatedRepoError):
            page = f"https://huggingface.co/{self.name}"
            return BackboneError(
                "the repository asks for a permission",
                where=where,
                cure=f"accept its terms at {page}, then set HF_TOKEN",
            )
        if isinstance(error, errors.RepositoryNotFoundError):
            return BackboneError("no such repository", where=where, cure="check the name; a private one needs HF_TOKEN")
        if isinstance(error, errors.RevisionNotFoundError):
            return BackboneError("no such revision of the repository", where=where, found=self.revision)
        if _SILENT.search(kind) or isinstance(error, ConnectionError):
            return BackboneError(
                f"{name} is not in the cache, and the hub does not answer ({kind})",
                where=where,
                cure=f"on a machine with a network run `python pipelines/weights.py MODEL {self} --to weights/`, "
                "copy the folder here and name it in backbone.pretrained",
            )
        return BackboneError(
            f"{name} cannot be fetched",
            where=where,
            found=f"{kind}: {str(error).splitlines()[0] if str(error) else ''}",
            cure="run it again",
        )


def _verify(path: Path, where: str) -> None:
    """Compares a cached file with the checksum that the hub gave. The cache uses it as the name of the file's content.

    Raises:
        BackboneError: They differ. The file is deleted, so that the next try fetches it again.
    """
    content = path.resolve()
    expected = content.name
    if not re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", expected):
        logger.warning("%s: this cache keeps no checksums, so the file is not compared with one", where)
        return
    # Large files have a SHA-256, others the hash of a Git object.
    digest = hashlib.sha256() if len(expected) == 64 else hashlib.sha1(usedforsecurity=False)
    if len(expected) == 40:
        digest.update(b"blob %d\0" % content.stat().st_size)
    with content.open("rb") as stream:
        while piece := stream.read(_PIECE):
            digest.update(piece)
    if digest.hexdigest() != expected:
        content.unlink()
        path.unlink(missing_ok=True)
        raise BackboneError(
            "the file differs from its checksum",
            where=where,
            found=digest.hexdigest(),
            expected=expected,
            cure="it was deleted: run it again",
        )


def fetch_url(url: str) -> Path:
    """The local copy of a file at an address that open_clip knows. open_clip compares it with the hash in the address.

    Raises:
        BackboneError: Nobody answers, or the file differs from its hash.
    """
    folder = Path.home() / ".cache" / "clip"
    folder.mkdir(parents=True, exist_ok=True)
    name = url.rsplit("/", 1)[-1]
    try:
        # open_clip writes straight to the final name.
        with FileLock(folder / f".{name}.lock"):
            return Path(open_clip_pretrained.download_pretrained_from_url(url, str(folder)))
    except (OSError, RuntimeError) as error:
        raise BackboneError(
            "weights cannot be fetched",
            where=url,
            found=f"{type(error).__name__}: {error}",
            cure="run it again with a network, or give a local file",
        ) from None
