"""What differs between the protocols of remote filesystems: packages, options, time limits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from copick.errors import ConfigError
from copick.layers.retries import patient
from copick.util.words import nearest

if TYPE_CHECKING:
    from collections.abc import Callable

OBJECT_STORES = {"s3", "s3a", "gs", "gcs", "abfs", "az"}
"""Protocols without directories."""


def filesystem_class(protocol: str) -> Any:
    """The fsspec class of a protocol. Raises ConfigError saying what to install or what the protocols are."""
    from fsspec import get_filesystem_class
    from fsspec.registry import available_protocols

    try:
        return get_filesystem_class(protocol)
    except ValueError:
        hint = nearest(protocol, available_protocols())
        raise ConfigError(f"there is no file system {protocol!r}{hint}") from None
    except ImportError as error:
        extra = {
            "s3": "s3",
            "s3a": "s3",
            "http": "http",
            "https": "http",
            "ssh": "ssh",
            "sftp": "ssh",
            "smb": "smb",
        }
        hint = f'; try: pip install "copick[{extra[protocol]}]"' if protocol in extra else ""
        raise ConfigError(f"{protocol}:// needs a package that is not installed ({error}){hint}") from error


def _http_options(options: dict[str, Any], timeout_s: float) -> None:
    import aiohttp

    client = options.get("client_kwargs") or {}
    if "timeout" not in client:
        limit = aiohttp.ClientTimeout(total=None, sock_connect=timeout_s, sock_read=timeout_s)
        client = {**client, "timeout": limit}
    options["client_kwargs"] = {"middlewares": (patient(timeout_s),), **client}


def _s3_options(options: dict[str, Any], timeout_s: float) -> None:
    given = options.get("config_kwargs") or {}
    limits = {
        "connect_timeout": timeout_s,
        "read_timeout": timeout_s,
        "retries": {"max_attempts": 2, "mode": "standard"},
    }
    options["config_kwargs"] = {**limits, **given}
    # Above 1, s3fs asks for the size of every file before it reads it: two requests for each chunk.
    options.setdefault("max_concurrency", 1)


def _ssh_options(options: dict[str, Any], timeout_s: float) -> None:
    options.setdefault("connect_timeout", timeout_s)
    # A server that goes silent is given up after three unanswered questions.
    options.setdefault("keepalive_interval", timeout_s / 3)
    options.setdefault("keepalive_count_max", 3)
    # sshfs trusts any server that answers. Empty means the user's own known_hosts, as for `ssh`; None still means any.
    options.setdefault("known_hosts", ())


_OPTIONS: dict[str, Callable[[dict[str, Any], float], None]] = {
    "http": _http_options,
    "https": _http_options,
    "s3": _s3_options,
    "s3a": _s3_options,
    "ssh": _ssh_options,
    "sftp": _ssh_options,
}


def with_timeouts(protocol: str, fs_args: dict[str, Any], timeout_s: float) -> dict[str, Any]:
    """`fs_args` with time limits, unless the user stated some. fsspec waits for ever by default."""
    options = dict(fs_args)
    if protocol in _OPTIONS:
        _OPTIONS[protocol](options, timeout_s)
    return options
