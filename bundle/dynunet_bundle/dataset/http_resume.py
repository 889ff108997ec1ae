"""Download of one file over HTTP that goes on where it was cut, by range requests (RFC 9110, 13 and 14)."""

import logging
import os
import re
import sys
import time
from collections.abc import Iterable, Iterator
from http import HTTPStatus
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import IO, Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener
from urllib.response import addinfourl

from tqdm import tqdm

from dynunet_bundle.errors import DatasetError, first_line
from dynunet_bundle.files import read_json, write_json
from dynunet_bundle.progress import LINE_INTERVAL_S

TIMEOUT_S = 60.0
"""How long a server may be silent."""

CHUNK_BYTES = 2**16
"""Read at once; as much is lost when the connection breaks."""

Response = HTTPResponse | addinfourl
"""urllib gives the first, and the second (HTTPError) for a status that it takes for a failure."""

AGAIN = "Run the same command again: it goes on where it stopped."

logger = logging.getLogger(__name__)


class _SameScheme(HTTPRedirectHandler):
    """Follows a redirect only within its scheme; urllib would go from https to http and ftp."""

    def redirect_request(
        self, req: Request, fp: IO[bytes], code: int, msg: str, headers: Any, newurl: str
    ) -> Request | None:
        if urlsplit(newurl).scheme != req.type:
            raise URLError(f"it redirects to {newurl}, which is not {req.type}")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def complete(url: str, part: Path, facts: Path) -> None:
    """Append to ``part`` what it lacks, or fill it anew where ``facts`` are not those of the server's archive.

    Args:
        url: the file on the server.
        part: the bytes so far; may be absent.
        facts: JSON of what they are bytes of; may be absent.

    Raises:
        DatasetError: if the server cannot be reached, or the connection broke; the bytes so far stay.
        OSError: if ``part`` cannot be written.
    """
    known = _read_facts(facts)
    done = part.stat().st_size if known and part.exists() else 0
    if done and done == known.get("size"):
        return
    response, done = _connect(url, done, known)
    with response, part.open("ab" if done else "wb") as file:
        current = _facts_of(response)
        if not done:
            # only after the old bytes are gone: they must never be taken for bytes of this archive
            write_json(facts, current)
        chunks = _chunks(response, url)
        for chunk in _shown(chunks, part.stem, done, current["size"]):
            file.write(chunk)
        file.flush()
        os.fsync(file.fileno())
        done = file.tell()
    if current["size"] not in (None, done):
        raise DatasetError(
            f"the connection to {url} was cut at {_mb(done)} of {_mb(current['size'])} MB. {AGAIN}"
        )


def _read_facts(path: Path) -> dict[str, Any]:
    """What the bytes so far belong to; empty where that is not known, and the download begins again."""
    try:
        content = read_json(path, DatasetError)
    except DatasetError:
        return {}
    return content if isinstance(content, dict) else {}


def _facts_of(response: Response) -> dict[str, Any]:
    """What tells this archive from a changed one, alike for a whole and a partial response; size in bytes."""
    headers = response.headers
    partial = response.status == HTTPStatus.PARTIAL_CONTENT
    text = headers["Content-Range" if partial else "Content-Length"] or ""
    size = re.search(r"(\d+)$", text)
    return {
        "etag": headers["ETag"],
        "last_modified": headers["Last-Modified"],
        "size": int(size[1]) if size else None,
    }


def _connect(url: str, done: int, known: dict[str, Any]) -> tuple[Response, int]:
    """Ask for all bytes from ``done`` on.

    Returns:
        The response and the byte that it begins with: ``done``, or 0 where the server has no ranges or its archive is
        not the ``known`` one any more.
    """
    if done:
        headers = {"Range": f"bytes={done}-"}
        etag = known.get("etag") or ""
        # RFC 9110, 13.1.5: a weak ETag must not stand in If-Range
        condition = known.get("last_modified") if not etag or etag.startswith("W/") else etag
        if condition:
            headers["If-Range"] = condition
        response = _open(url, headers)
        if response.status == HTTPStatus.OK:
            return response, 0
        begins = (response.headers["Content-Range"] or "").startswith(f"bytes {done}-")
        if (
            response.status == HTTPStatus.PARTIAL_CONTENT
            and begins
            and _facts_of(response) == known
        ):
            return response, done
        response.close()
    return _open(url, {}), 0


def _open(url: str, headers: dict[str, str]) -> Response:
    request = Request(url, headers=headers)  # noqa: S310 - https: download_task, _SameScheme
    try:
        response: Response = build_opener(_SameScheme).open(request, timeout=TIMEOUT_S)
    except HTTPError as error:
        if error.code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and headers:
            return error
        raise DatasetError(
            f"{url} answers {error.code} {error.reason}. Try later, or with another network or proxy."
        ) from error
    except (OSError, HTTPException) as error:
        raise DatasetError(
            f"cannot reach {url}: {_reason(error)}. Check the network and the proxy. {AGAIN}"
        ) from error
    return response


def _chunks(response: Response, url: str) -> Iterator[bytes]:
    while True:
        try:
            chunk = response.read(CHUNK_BYTES)
        except (OSError, HTTPException) as error:
            raise DatasetError(
                f"the connection to {url} broke: {_reason(error)}. {AGAIN}"
            ) from error
        if not chunk:
            return
        yield chunk


def _reason(error: Exception) -> str:
    """``<urlopen error [Errno 111] Connection refused>`` -> ``Connection refused``."""
    cause = getattr(error, "reason", error)
    if isinstance(cause, Exception):
        return getattr(cause, "strerror", None) or first_line(cause)
    return str(cause)


def _shown(chunks: Iterable[bytes], what: str, done: int, total: int | None) -> Iterator[bytes]:
    """Yield ``chunks`` and show how far they are, as ``progress`` does for cases; ``done``, ``total`` in bytes."""
    if sys.stderr.isatty():
        with tqdm(total=total, initial=done, desc=what, unit="B", unit_scale=True) as bar:
            for chunk in chunks:
                yield chunk
                bar.update(len(chunk))
        return
    of = f" of {_mb(total)}" if total is not None else ""
    logger.info("%s: %s at %s%s MB", what, "going on" if done else "starting", _mb(done), of)
    last = time.monotonic()
    for chunk in chunks:
        yield chunk
        done += len(chunk)
        now = time.monotonic()
        if now - last >= LINE_INTERVAL_S or done == total:
            logger.info("%s: %s%s MB", what, _mb(done), of)
            last = now


def _mb(num_bytes: int) -> str:
    return f"{num_bytes / 1e6:.1f}"
