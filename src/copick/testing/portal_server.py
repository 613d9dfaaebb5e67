"""A data portal on this machine: it answers what the portal's own client asks, from rows that a test adds.

    with PortalServer() as portal:
        dataset = portal.add("Dataset", title="mine")
        run = portal.add("Run", dataset_id=dataset, name="TS_1")
        client = cryoet_data_portal.Client(url=portal.url)
        assert cryoet_data_portal.Run.get_by_id(client, run).name == "TS_1"
        assert len(portal.requests) == 1

The schema is the one in the client package; nothing of it is stated here. An object-valued field `x` of a type is the row whose id
is `xId`; a field that is a connection holds the rows of the other type that point back. As the portal does, it answers without
an order that was not asked for, caps connections at 100, follows 4 relationships in a filter, and drops NULLs as SQL does.
"""

from __future__ import annotations

import json
import random
import re
import threading
import time
from collections import defaultdict
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from types import TracebackType
    from typing import Self

Row = dict[str, Any]

CONNECTION_CAP = 100
FILTER_DEPTH = 4


class PortalRequest(NamedTuple):
    """One question that reached the server."""

    fields: tuple[str, ...]
    """The tables that were asked for."""
    rows: int
    status: int


class Refusal(Exception):
    """What the portal answers with an error to."""


class Model:
    """What the schema says: types, their columns, and how they point at each other."""

    def __init__(self) -> None:
        import graphql

        spec = find_spec("cryoet_data_portal")
        assert spec is not None
        assert spec.origin is not None
        text = (Path(spec.origin).parent / "data" / "schema.graphql").read_text(encoding="utf-8")
        self.schema = graphql.build_schema(text, assume_valid=True)
        assert self.schema.query_type is not None
        self.types: dict[str, str] = {}
        for name, field in self.schema.query_type.fields.items():
            if graphql.is_list_type(graphql.get_nullable_type(field.type)):
                self.types[name] = graphql.get_named_type(field.type).name
        entities = {*self.types.values()}
        self.columns: dict[str, dict[str, Any]] = defaultdict(dict)
        self.to_one: dict[str, dict[str, str]] = defaultdict(dict)
        connections: dict[str, dict[str, str]] = defaultdict(dict)
        for name in entities:
            for key, field in self.schema.type_map[name].fields.items():  # type: ignore[attr-defined]
                target = graphql.get_named_type(field.type)
                if graphql.is_leaf_type(target):
                    self.columns[name][key] = field.type
                elif target.name in entities:
                    self.to_one[name][key] = target.name
                elif target.name.endswith("Connection"):
                    connections[name][key] = target.name.removesuffix("Connection")
        self.to_many: dict[str, dict[str, tuple[str, str]]] = defaultdict(dict)
        for name, fields in connections.items():
            for key, target in fields.items():
                (back,) = (own for own, other in self.to_one[target].items() if other == name)
                self.to_many[name][key] = (target, f"{back}Id")

    def filled(self, name: str, given: Mapping[str, Any], row_id: int) -> Row:
        """A row of a type: what is given (as the client calls it), and something for what must not be null."""
        import graphql

        known = {snake(key): key for key in self.columns[name]}
        if unknown := given.keys() - known.keys():
            raise TypeError(f"a {name} of the portal has no {', '.join(sorted(unknown))}")
        row: Row = dict.fromkeys(self.columns[name])
        for key, declared in self.columns[name].items():
            if graphql.is_non_null_type(declared):
                leaf = graphql.get_named_type(declared)
                row[key] = (
                    next(iter(leaf.values))
                    if isinstance(leaf, graphql.GraphQLEnumType)
                    else _SOMETHING.get(leaf.name, "")
                )
        row.update({known[key]: value for key, value in given.items()})
        row["id"] = row_id
        return row


_SOMETHING = {"Int": 0, "Float": 1.0, "Boolean": False, "DateTime": "2024-01-01T00:00:00+00:00", "ID": "0"}


@cache
def model() -> Model:
    """Of the client that is installed; it takes a while to read."""
    return Model()


class PortalServer:
    """Answers at `url` from construction to `close()`; a context manager.

    Attributes:
        requests: What was asked, in the order of arrival; clear it to start anew.
        fail_next: Statuses to answer the next questions with.
        refuse_next: Messages of errors to answer the next questions with.
        max_rows: Answers of more rows are a 502.
        latency_s: Seconds before each answer.
    """

    def __init__(self) -> None:
        self.model = model()
        self._under_way, self._idle = 0, threading.Condition()
        self.clear()
        self._shuffled = random.Random(0)
        self._lock = threading.Lock()
        self._server = _Server(("127.0.0.1", 0), _handler(self._answer))
        self._thread = threading.Thread(target=self._server.serve_forever, name="portal-server", daemon=True)
        self._thread.start()

    def clear(self) -> None:
        """Forget everything: rows, requests, faults. What somebody asked and did not wait for is answered first."""
        with self._idle:
            self._idle.wait_for(lambda: not self._under_way, timeout=30)
        self.tables: dict[str, dict[int, Row]] = defaultdict(dict)
        self.requests: list[PortalRequest] = []
        self.fail_next: list[int] = []
        self.refuse_next: list[str] = []
        self.max_rows: int | None = None
        self.latency_s = 0.0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}/graphql"

    def add(self, type_name: str, row_id: int | None = None, **fields: Any) -> int:
        """Add a row; its id. Fields are called as the client calls them."""
        table = self.tables[type_name]
        row_id = self._next_id(type_name) if row_id is None else row_id
        table[row_id] = self.model.filled(type_name, fields, row_id)
        return row_id

    def add_many(self, type_name: str, rows: Iterable[Mapping[str, Any]]) -> None:
        """Add many rows, which differ from the first in some fields."""
        table = self.tables[type_name]
        known = {snake(key): key for key in self.model.columns[type_name]}
        first: Row | None = None
        for row_id, fields in enumerate(rows, self._next_id(type_name)):
            first = first or self.model.filled(type_name, fields, row_id)
            table[row_id] = {**first, **{known[key]: value for key, value in fields.items()}, "id": row_id}

    def _next_id(self, type_name: str) -> int:
        """Ids of types overlap no more than they must, so that one that is taken for another is noticed."""
        table = self.tables[type_name]
        return max(table, default=1000 * [*self.tables].index(type_name)) + 1

    def _answer(self, body: bytes) -> tuple[int, bytes]:
        with self._idle:
            self._under_way += 1
        try:
            return self._answered(body)
        finally:
            with self._idle:
                self._under_way -= 1
                self._idle.notify_all()

    def _answered(self, body: bytes) -> tuple[int, bytes]:
        time.sleep(self.latency_s)
        with self._lock:
            if self.fail_next:
                return self._logged((), 0, self.fail_next.pop(0), b"<html>failed</html>")
            if self.refuse_next:
                error = {"errors": [{"message": self.refuse_next.pop(0)}], "data": None}
                return self._logged((), 0, 200, json.dumps(error).encode())
            return self._executed(json.loads(body))

    def _executed(self, question: Mapping[str, Any]) -> tuple[int, bytes]:
        import graphql

        rows = 0
        fields: list[str] = []

        def resolve(source: Any, info: Any, **arguments: Any) -> Any:
            nonlocal rows
            if info.parent_type.name == "Query":
                fields.append(info.field_name)
                found = self._page(
                    self._select(self.model.types[info.field_name], arguments.get("where") or {}), arguments
                )
                rows += len(found)
                return found
            return self._field(source, info.parent_type.name, info.field_name, arguments)

        result = graphql.graphql_sync(
            self.model.schema,
            question["query"],
            field_resolver=resolve,
            variable_values=question.get("variables"),
        )
        if self.max_rows is not None and rows > self.max_rows:
            return self._logged(fields, rows, 502, b"<html>Bad Gateway</html>")
        return self._logged(fields, rows, 200, json.dumps(result.formatted).encode())

    def _logged(self, fields: Iterable[str], rows: int, status: int, body: bytes) -> tuple[int, bytes]:
        self.requests.append(PortalRequest(tuple(fields), rows, status))
        return status, body

    def _field(self, source: Any, type_name: str, name: str, arguments: Mapping[str, Any]) -> Any:
        if name in self.model.to_one[type_name]:
            return self.tables[self.model.to_one[type_name][name]].get(source[f"{name}Id"])
        if name in self.model.to_many[type_name]:
            target, key = self.model.to_many[type_name][name]
            wanted = self._select(target, arguments.get("where") or {})
            first = arguments.get("first") or CONNECTION_CAP
            if first > CONNECTION_CAP:
                raise Refusal(f"Argument 'first' cannot be higher than {CONNECTION_CAP}.")
            rows = [row for row in wanted if row[key] == source["id"]]
            return {"edges": [{"node": row} for row in self._page(rows, arguments)[:first]]}
        return source[name]

    def _page(self, rows: list[Row], arguments: Mapping[str, Any]) -> list[Row]:
        order = arguments.get("orderBy") or []
        if not order:
            self._shuffled.shuffle(rows)
        for by in reversed(order):
            ((column, direction),) = by.items()
            rows.sort(
                key=lambda row: (row[column] is None, row[column]), reverse=direction.startswith("desc")
            )
        limits = arguments.get("limitOffset") or {}
        if limits.get("offset") is not None and limits.get("limit") is None:
            raise Refusal("Cannot use offset without limit")
        first = limits.get("offset") or 0
        return rows[first : first + limits["limit"]] if limits.get("limit") else rows[first:]

    def _select(self, type_name: str, where: Mapping[str, Any], depth: int = 0) -> list[Row]:
        """The rows of a type that fulfil a condition."""
        if depth > FILTER_DEPTH:
            raise Refusal("Max filter depth exceeded")
        rows = [*self.tables[type_name].values()]
        below = []
        for name, condition in where.items():
            if condition is None:
                continue
            if name in self.model.columns[type_name]:
                for operator, value in condition.items():
                    test = _TESTS[operator](frozenset(value) if isinstance(value, list) else value)
                    rows = [row for row in rows if test(row[name])]
            else:
                below.append((name, condition))
        for name, condition in below:
            if name in self.model.to_one[type_name]:
                found = self._select(self.model.to_one[type_name][name], condition, depth + 1)
                ids = {row["id"] for row in found}
                rows = [row for row in rows if row[f"{name}Id"] in ids]
            else:
                target, key = self.model.to_many[type_name][name]
                ids = {row[key] for row in self._select(target, condition, depth + 1)}
                rows = [row for row in rows if row["id"] in ids]
        return rows

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


def _unless_null(test: Callable[[Any, Any], bool]) -> Callable[[Any], Callable[[Any], bool]]:
    """A comparison as SQL makes it: nothing is known of NULL."""
    return lambda wanted: lambda value: value is not None and test(value, wanted)


def _like(value: str, pattern: str, flags: int = 0) -> bool:
    parts = re.split("([%_])", pattern)
    regex = "".join({"%": ".*", "_": "."}.get(part, re.escape(part)) for part in parts)
    return re.fullmatch(regex, value, re.DOTALL | flags) is not None


_TESTS: dict[str, Callable[[Any], Callable[[Any], bool]]] = {
    "_eq": _unless_null(lambda value, wanted: value == wanted),
    "_neq": _unless_null(lambda value, wanted: value != wanted),
    "_in": _unless_null(lambda value, wanted: value in wanted),
    "_nin": _unless_null(lambda value, wanted: value not in wanted),
    "_gt": _unless_null(lambda value, wanted: value > wanted),
    "_gte": _unless_null(lambda value, wanted: value >= wanted),
    "_lt": _unless_null(lambda value, wanted: value < wanted),
    "_lte": _unless_null(lambda value, wanted: value <= wanted),
    "_like": _unless_null(_like),
    "_ilike": _unless_null(lambda value, wanted: _like(value, wanted, re.IGNORECASE)),
    "_is_null": lambda wanted: lambda value: (value is None) == wanted,
}


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64


def _handler(answer: Callable[[bytes], tuple[int, bytes]]) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_POST(self) -> None:
            status, body = answer(self.rfile.read(int(self.headers["Content-Length"])))
            try:
                self.send_response(status)
                self.send_header("Content-Type", "application/json" if status == 200 else "text/html")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)
            except OSError:  # the client did not wait
                self.close_connection = True

        def log_message(self, *_: object) -> None:
            pass

    return Handler


def snake(name: str) -> str:
    """`s3OmezarrDir` → `s3_omezarr_dir`, as the client calls it."""
    return re.sub("([A-Z])", r"_\1", name).lower()
