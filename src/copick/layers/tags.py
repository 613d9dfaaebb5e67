"""What tells one version of a file from another without its content: its etag, or when it was changed and how large it is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from copick.layers.places import RemotePlace

_CHANGED = (
    "ETag", "etag", "Content-MD5", "Last-Modified", "LastModified", "last_modified", "updated", "mtime", "modified",
    "last_write_time",
)  # fmt: skip
_SIZE = ("Content-Length", "ContentLength", "size")
_NO_HEAD = {403, 405, 501}
"""What servers say that answer GET alone."""


def described(facts: Mapping[str, Any]) -> str | None:
    """The tag made of what a server or a filesystem says of a file; None if that tells no versions apart."""
    changed = [str(facts[name]) for name in _CHANGED if facts.get(name)]
    sizes = [str(facts[name]) for name in _SIZE if facts.get(name) is not None]
    return " ".join(changed + sizes[:1]) if changed else None


def tag_at(place: RemotePlace, path: str) -> str | None:
    """The tag of a file, with one request. Raises FileNotFoundError, or what the filesystem raises."""
    fs, name = place.fs, place.name_of(path)
    if place.is_http:
        from fsspec.asyn import sync

        tag: str | None = sync(fs.loop, _head, fs, name)
        return tag
    if place.protocol in {"s3", "s3a"}:
        bucket, key, _ = fs.split_path(name)
        return described(fs.call_s3("head_object", Bucket=bucket, Key=key, **fs.req_kw))
    fs.invalidate_cache(name)
    return described(fs.info(name))


def read_at(place: RemotePlace, path: str) -> tuple[bytes, str | None]:
    """The content of a file and its tag, with one request where the protocol allows. Raises as `tag_at` does."""
    from fsspec.asyn import sync

    fs, name = place.fs, place.name_of(path)
    if place.is_http:
        content, tag = sync(fs.loop, _get, fs, name)
    elif place.protocol in {"s3", "s3a"}:
        content, tag = sync(fs.loop, _get_object, fs, name)
    else:
        tag = tag_at(place, path)  # first: a change in between is found when the tag is next compared
        content = fs.cat_file(name)
    return bytes(content), tag


def _http_options(fs: Any) -> dict[str, Any]:
    # Servers give a compressed answer another etag.
    return {**fs.kwargs, "headers": {**fs.kwargs.get("headers", {}), "Accept-Encoding": "identity"}}


async def _head(fs: Any, url: str) -> str | None:
    session = await fs.set_session()
    async with session.head(fs.encode_url(url), allow_redirects=True, **_http_options(fs)) as answer:
        if answer.status in _NO_HEAD:
            return None
        fs._raise_not_found_for_status(answer, url)
        return described(answer.headers)


async def _get(fs: Any, url: str) -> tuple[bytes, str | None]:
    session = await fs.set_session()
    async with session.get(fs.encode_url(url), **_http_options(fs)) as answer:
        fs._raise_not_found_for_status(answer, url)
        return await answer.read(), described(answer.headers)


async def _get_object(fs: Any, name: str) -> tuple[bytes, str | None]:
    bucket, key, _ = fs.split_path(name)
    found = await fs._call_s3("get_object", Bucket=bucket, Key=key, **fs.req_kw)
    try:
        return await found["Body"].read(), described(found)
    finally:
        found["Body"].close()
