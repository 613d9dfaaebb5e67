"""One contract, every layer - a stack, a stack of stacks, what waits to be passed on, and the cache included."""

from __future__ import annotations

import functools
import http.server
import os
import threading
import uuid
from typing import TYPE_CHECKING, Any

import pytest

from copick.config import CopickConfigCache
from copick.layers.cached import CachedLayer, open_cache
from copick.layers.memory import MemoryLayer
from copick.layers.stack import LayerStack
from copick.testing.layers import LayerTests, ReadOnlyLayerTests, features, fill, tomogram
from projects import files

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from copick.layers.layer import Layer

    Cached = Callable[[Layer], Layer]


@pytest.fixture
def cached(tmp_path: Path, own_managers: None) -> Cached:
    """Puts a layer behind a cache of its own."""
    config = CopickConfigCache(root=str(tmp_path / "cache"))

    def behind(layer: Layer) -> Layer:
        manager = open_cache(config)
        assert manager is not None
        return CachedLayer(layer, config, manager=manager)

    return behind


@pytest.fixture(scope="session")
def connection(s3_server: str) -> Any:
    """A filesystem with a bucket. Opening one takes longer than a test."""
    import fsspec

    fs = fsspec.filesystem("s3", endpoint_url=s3_server, key="test", secret="test")
    fs.mkdir("copick-contract")
    return fs


@pytest.fixture
def on_s3(connection: Any, s3_args: dict[str, Any]) -> Callable[..., Layer]:
    """Opens an empty project on S3; another call, the same project."""
    folder = f"copick-contract/{uuid.uuid4().hex}"

    def opened(**fields: Any) -> Layer:
        layer = files(f"s3://{folder}", fs_args=s3_args, **fields)
        layer.place._open = (os.getpid(), connection, folder)  # type: ignore[attr-defined]
        return layer

    return opened


class TestMemory(LayerTests):
    @pytest.fixture
    def layer(self) -> Layer:
        return MemoryLayer("memory")


class TestLocal(LayerTests):
    @pytest.fixture
    def layer(self, tmp_path: Path) -> Layer:
        return files(tmp_path / "project")


class TestFsspecMemory(LayerTests):
    @pytest.fixture
    def layer(self) -> Iterator[Layer]:
        import fsspec

        yield files("memory://copick-contract")
        fs = fsspec.filesystem("memory")
        if fs.exists("/copick-contract"):
            fs.rm("/copick-contract", recursive=True)


class TestS3(LayerTests):
    @pytest.fixture
    def layer(self, on_s3: Callable[..., Layer]) -> Layer:
        return on_s3()


class TestCached(LayerTests):
    @pytest.fixture
    def layer(self, tmp_path: Path, cached: Cached) -> Layer:
        return cached(files(tmp_path / "project"))


class TestCachedS3(LayerTests):
    arrays = (tomogram, features)

    @pytest.fixture
    def layer(self, on_s3: Callable[..., Layer], cached: Cached) -> Layer:
        return cached(on_s3())


class TestStack(LayerTests):
    @pytest.fixture
    def layer(self, tmp_path: Path) -> Layer:
        return LayerStack([MemoryLayer("a"), files(tmp_path), MemoryLayer("c", read_only=True)], "files")


class TestStackOfStacks(LayerTests):
    @pytest.fixture
    def layer(self) -> Layer:
        inner = LayerStack([MemoryLayer("a"), MemoryLayer("b")], "b")
        return LayerStack([MemoryLayer("top"), inner], inner.name)


class TestPending(LayerTests):
    """Changes go to a local folder first, and are passed on at once."""

    propagate = True

    @pytest.fixture
    def layer(self, tmp_path: Path, cached: Cached) -> Layer:
        below = [cached(files(tmp_path / "project")), MemoryLayer("c", read_only=True)]
        pending = files(tmp_path / "pending", "pending")
        return LayerStack(below, "files", strategy="cache", pending=pending, propagate=self.propagate)


class TestKept(TestPending):
    """Changes stay in the local folder until `flush`."""

    propagate = False


class TestReadOnlyMemory(ReadOnlyLayerTests):
    @pytest.fixture
    def layer(self) -> Layer:
        layer = MemoryLayer("memory")
        fill(layer)
        layer.read_only = True
        return layer


class TestReadOnlyLocal(ReadOnlyLayerTests):
    @pytest.fixture
    def layer(self, tmp_path: Path) -> Layer:
        fill(files(tmp_path))
        return files(tmp_path, read_only=True)


class TestReadOnlyS3(ReadOnlyLayerTests):
    @pytest.fixture
    def layer(self, on_s3: Callable[..., Layer]) -> Layer:
        fill(on_s3())
        return on_s3(read_only=True)


class TestReadOnlyCached(ReadOnlyLayerTests):
    @pytest.fixture
    def layer(self, tmp_path: Path, cached: Cached) -> Layer:
        fill(files(tmp_path / "project"))
        return cached(files(tmp_path / "project", read_only=True))


class TestReadOnlyStack(ReadOnlyLayerTests):
    @pytest.fixture
    def layer(self, tmp_path: Path) -> Layer:
        fill(files(tmp_path))
        return LayerStack([files(tmp_path, read_only=True), MemoryLayer("empty", read_only=True)], None)


class TestHttp(ReadOnlyLayerTests):
    @pytest.fixture
    def layer(self, tmp_path: Path) -> Iterator[Layer]:
        fill(files(tmp_path / "my project"))

        class Quiet(http.server.SimpleHTTPRequestHandler):
            def log_message(self, *_: object) -> None:
                pass

        handler = functools.partial(Quiet, directory=str(tmp_path))
        with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
            thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
            thread.start()
            yield files(f"http://127.0.0.1:{server.server_port}/my%20project")
            server.shutdown()
            thread.join()
