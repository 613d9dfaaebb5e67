"""An S3 store on this machine that counts what it is asked, and may be slow, or fail.

    with S3Server(latency_s=0.02) as server:
        server.put("bucket", {"some/key": b"content"})
        assert fsspec.filesystem("s3", **server.fs_args).cat("bucket/some/key") == b"content"
        assert server.requests[-1].method == "GET"

What answers is moto, through real sockets. All servers of a process share their buckets: that is how moto keeps them.
"""

from __future__ import annotations

import json
import threading
import time
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import parse_qs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from types import TracebackType
    from typing import Self


class S3Request(NamedTuple):
    """One request that reached the server."""

    method: str
    path: str
    query: dict[str, str]


class S3Server:
    """Answers at `url` from construction to `close()`; a context manager.

    Args:
        latency_s: Seconds before each answer; requests overlap.
        fault: Asked for each request: a status to answer instead, or None.
    """

    def __init__(
        self, latency_s: float = 0.0, *, fault: Callable[[S3Request], int | None] | None = None
    ) -> None:
        from moto.moto_server.werkzeug_app import (
            DomainDispatcherApplication,
            MotoRequestHandler,
            create_backend_app,
        )
        from werkzeug.serving import make_server

        self.latency_s, self.fault = latency_s, fault
        self.requests: list[S3Request] = []
        """What was asked, in the order of arrival; clear it to start anew."""

        class Quiet(MotoRequestHandler):
            def log_request(self, *_: object) -> None:
                pass

        self._app = DomainDispatcherApplication(create_backend_app)
        self._server = make_server("127.0.0.1", 0, self._answer, threaded=True, request_handler=Quiet)
        self._thread = threading.Thread(target=self._server.serve_forever, name="s3-server", daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    @property
    def fs_args(self) -> dict[str, Any]:
        """How s3fs reaches it."""
        return {"endpoint_url": self.url, "key": "test", "secret": "test"}

    def put(self, bucket: str, files: Mapping[str, bytes]) -> None:
        """Put files there, by key, without a request for each; the bucket is made."""
        if bucket not in self._backend.buckets:
            self._backend.create_bucket(bucket, "us-east-1")
        for key, content in files.items():
            self._backend.put_object(bucket, key, content)

    def publish(self, bucket: str) -> None:
        """Let anybody read and list it, as a public data set."""
        allowed = {
            "Effect": "Allow",
            "Principal": "*",
            "Action": ["s3:GetObject", "s3:HeadObject", "s3:ListBucket"],
            "Resource": [f"arn:aws:s3:::{bucket}", f"arn:aws:s3:::{bucket}/*"],
        }
        policy = json.dumps({"Version": "2012-10-17", "Statement": [allowed]})
        self._backend.put_bucket_policy(bucket, policy.encode())

    def remove(self, bucket: str) -> None:
        """Remove the bucket, with all that is in it."""
        del self._backend.buckets[bucket]

    @property
    def _backend(self) -> Any:
        from moto.core.models import DEFAULT_ACCOUNT_ID
        from moto.s3.models import s3_backends

        return s3_backends[DEFAULT_ACCOUNT_ID]["aws"]

    def _answer(self, environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        query = {
            name: values[-1]
            for name, values in parse_qs(environ["QUERY_STRING"], keep_blank_values=True).items()
        }
        request = S3Request(environ["REQUEST_METHOD"], environ["PATH_INFO"], query)
        self.requests.append(request)
        time.sleep(self.latency_s)
        status = self.fault(request) if self.fault else None
        if status is not None:
            body = b"<Error><Code>Fault</Code><Message>a fault was injected</Message></Error>"
            start(
                f"{status} fault", [("Content-Type", "application/xml"), ("Content-Length", str(len(body)))]
            )
            return [] if request.method == "HEAD" else [body]
        answer: Iterable[bytes] = self._app(environ, start)
        return answer

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
