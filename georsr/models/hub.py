"""Models on the Hugging Face hub: ``hf://OWNER/REPO[@REVISION][/FILE][#sha256=HEX]``."""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from pathlib import Path

from georsr._files import sha256
from georsr.errors import ModelError, UsageError

log = logging.getLogger(__name__)

SCHEME = "hf://"
_ADDRESS = re.compile(
    r"hf://(?P<repository>[\w.-]+/[\w.-]+)(?:@(?P<revision>[\w./-]+?))?"
    r"(?:/(?P<file>[^#@]+\.\w+))?(?:#sha256=(?P<sha256>[0-9a-f]{64}))?"
)
_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class Address:
    """Where a model lies on the hub."""

    repository: str
    """``OWNER/REPO``."""
    revision: str
    """Branch, tag or commit; a branch may change under your feet."""
    file: str | None
    """Path inside the repository; None: its only .safetensors file."""
    sha256: str | None
    """What the file's bytes have to be."""

    @classmethod
    def parse(cls, text: str) -> Address:
        """Read ``hf://...``; raises UsageError."""
        found = _ADDRESS.fullmatch(text)
        if found is None:
            raise UsageError(
                f"model {text}: expected hf://OWNER/REPO, with @REVISION, /FILE and #sha256=HEX "
                "as you like"
            )
        return cls(found["repository"], found["revision"] or "main", found["file"], found["sha256"])

    def __str__(self) -> str:
        file = f"/{self.file}" if self.file else ""
        return f"{SCHEME}{self.repository}@{self.revision}{file}"


def download(text: str, endpoint: str | None = None) -> Path:
    """The file that an address names, from the hub or from its cache on this machine.

    Parameters
    ----------
    text
        ``hf://OWNER/REPO[@REVISION][/FILE][#sha256=HEX]``.
    endpoint
        Address of the hub; None takes the public one, or that of ``HF_ENDPOINT``.

    Raises
    ------
    UsageError
        Not such an address.
    ModelError
        No such repository, revision or file; several files and none named; the hub cannot be
        reached and the cache does not have it; or the bytes are not those that were asked for.
    """
    from huggingface_hub import hf_hub_download

    address = Address.parse(text)
    # its client tells of every attempt; georsr says in one line what came of them
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    try:
        file = address.file or _only_file(address, endpoint)
        path = Path(
            hf_hub_download(address.repository, file, revision=address.revision, endpoint=endpoint)
        )
    except ModelError:
        raise
    except Exception as error:  # what the hub's client and its HTTP library raise
        raise ModelError(_refusal(address, error)) from error
    _check(address, path)
    return path


def _only_file(address: Address, endpoint: str | None) -> str:
    """The one weights file of a repository."""
    files = _listing(address, endpoint)
    weights = [name for name in files if name.endswith(".safetensors")]
    if len(weights) != 1:
        raise ModelError(
            f"{address}: holds {len(weights)} safetensors files, expected one; name the file: "
            f"{address}/FILE (there are {', '.join(sorted(files)[:5]) or 'none'})"
        )
    return weights[0]


def _listing(address: Address, endpoint: str | None) -> list[str]:
    """Names of the files of a repository: the hub's, or those in the cache."""
    from huggingface_hub import HfApi

    try:
        api = HfApi(endpoint=endpoint)
        return list(api.list_repo_files(address.repository, revision=address.revision))
    except Exception as error:
        cached = None if _answer(error) else _cached(address)
        if cached is None:
            raise
        return cached


def _cached(address: Address) -> list[str] | None:
    """Names of the files of a repository that this machine has; None: it has none of them."""
    from huggingface_hub import scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    try:
        repositories = scan_cache_dir().repos
    except CacheNotFound:
        return None
    for repository in repositories:
        if repository.repo_id == address.repository:
            for revision in repository.revisions:
                if address.revision in (revision.commit_hash, *revision.refs):
                    return [file.file_name for file in revision.files]
    return None


def _answer(error: BaseException) -> int | None:
    """The status code with which the hub answered, None if it did not."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    return None if status is None else int(status)


def _refusal(address: Address, error: Exception) -> str:
    if status := _answer(error):
        return (
            f"{address}: the hub answers {status} ({type(error).__name__}); check owner, name, "
            "revision and file, and log in ('hf auth login') if it is not public"
        )
    return (
        f"{address}: not in the cache of this machine, and the hub cannot be reached "
        f"({type(error).__name__}); fetch it where there is a network (hf download "
        f"{address.repository} --revision {address.revision}), or give the file itself"
    )


def _check(address: Address, path: Path) -> None:
    """Compare the bytes with what was asked for, and say how to ask for the very same again."""
    digest = sha256(path)
    if address.sha256 not in (None, digest):
        raise ModelError(
            f"{address}: its sha256 is {digest}, expected {address.sha256}; the file on the hub "
            "was changed, or the address is wrong"
        )
    # the cache keeps files as .../snapshots/COMMIT/FILE
    _, found, place = path.as_posix().rpartition("/snapshots/")
    if found and address.sha256 is None and not _COMMIT.fullmatch(address.revision):
        commit, _, name = place.partition("/")
        log.warning(
            "%s may change; this very file is %s#sha256=%s",
            address,
            Address(address.repository, commit, name, None),
            digest,
        )
