"""One contract, every layer - a stack, and a stack of stacks, included."""

from __future__ import annotations

import functools
import http.server
import threading
from typing import TYPE_CHECKING, Any

import pytest

from copick.layers.memory import MemoryLayer
from copick.layers.stack import LayerStack
from copick.testing.layers import LayerTests, ReadOnlyLayerTests
from projects import files, fill

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from copick.layers.layer import Layer


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
    def layer(self, s3_bucket: str, s3_args: dict[str, Any]) -> Layer:
        return files(f"s3://{s3_bucket}/project", fs_args=s3_args)


class TestStack(LayerTests):
    @pytest.fixture
    def layer(self, tmp_path: Path) -> Layer:
        return LayerStack([MemoryLayer("a"), files(tmp_path), MemoryLayer("c", read_only=True)], "files")


class TestStackOfStacks(LayerTests):
    @pytest.fixture
    def layer(self) -> Layer:
        inner = LayerStack([MemoryLayer("a"), MemoryLayer("b")], "b")
        return LayerStack([MemoryLayer("top"), inner], inner.name)


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
    def layer(self, s3_bucket: str, s3_args: dict[str, Any]) -> Layer:
        fill(files(f"s3://{s3_bucket}/project", fs_args=s3_args))
        return files(f"s3://{s3_bucket}/project", fs_args=s3_args, read_only=True)


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
            thread = threading.Thread(target=server.serve_forever, daemon=True)
            thread.start()
            yield files(f"http://127.0.0.1:{server.server_port}/my%20project")
            server.shutdown()
            thread.join()
