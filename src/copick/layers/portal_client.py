"""Questions to a data portal, asked with its own client: few requests, needed columns only.

Tables are read page by page, by id (`id > last`, in order): rows that come or go meanwhile do no harm. One request asks for a
page of each table that is not done. A portal that cannot answer so much at once (502, 504, no answer in time) is asked for half.
"""

from __future__ import annotations

import copy
import functools
import logging
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, NamedTuple

from copick.errors import ConfigError, CopickError, FormatError, LayerError
from copick.util.urls import secrets_in, shown_url, without

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

logger = logging.getLogger(__name__)

ROWS, FEWEST_ROWS = 10_000, 100
"""Rows in one answer, of all tables together: at first, and at least."""
TRIES = 4
"""How often the same question is asked."""
BUSY = (408, 429, 500, 502, 503, 504)
"""Answers that may be others a moment later."""
TOO_MUCH = (500, 502, 503, 504)
"""Answers that may be others to a smaller question."""
_NO_GRAPHQL: tuple[type[Exception], ...] = (AssertionError, AttributeError, KeyError, TypeError)
"""What reading an answer raises that is JSON, but not what was asked for."""

Row = tuple[Any, ...]


class Table(NamedTuple):
    """Rows of one type that belong to runs."""

    field: str
    """What they are called in a query."""
    type: str
    columns: tuple[str, ...]
    """As GraphQL calls them; a dot goes on to what a row belongs to. The first is `id`."""
    run: tuple[str, ...] = ()
    """From a row to its run; empty: they are runs."""
    where: Mapping[str, Any] = {}
    """Only rows that are so."""

    def of(self, runs: Mapping[str, Any]) -> Table:
        """Only rows of the runs that are so."""
        return self._replace(where=_merged(self.where, _nested(self.run, runs)))


class PortalClient:
    """What answers at one address.

    Args:
        url: None = where the client package says that the portal is.
        name: Of the layer, for errors.
    """

    def __init__(self, url: str | None, timeout_s: float, name: str) -> None:
        self._url, self.timeout_s, self.name = url, timeout_s, name
        self._rows = ROWS

    @property
    def url(self) -> str:
        if self._url is not None:
            return self._url
        return str(_package(self.name)._client.DEFAULT_URL)

    @property
    def shown(self) -> str:
        """The address without a password."""
        return shown_url(self.url)

    def rows(self, *tables: Table) -> list[list[Row]]:
        """The rows of each table, by id.

        Raises:
            LayerError: The portal does not answer, or refuses to.
            FormatError: A condition has a value that its column cannot have.
        """
        found: list[list[Row]] = [[] for _ in tables]
        open_, largest = dict(enumerate(tables)), FEWEST_ROWS
        while open_:
            pages = {f"t{at}": (table, found[at][-1][0] if found[at] else 0) for at, table in open_.items()}
            answer, size = self._ask(pages)
            # A server may give fewer rows than were asked for: where a table ends, a page is smaller than others were.
            largest = max(largest, *(len(page) for page in answer.values()))
            for at in list(open_):
                page = answer[f"t{at}"]
                found[at] += page
                if not page or len(page) < min(size, largest):
                    del open_[at]
        return found

    def datasets(self, ids: Sequence[int]) -> list[Any]:
        """Datasets as objects of the portal's client, by id; what is got from them asks the portal. Raises LayerError."""
        dataset = _package(self.name).Dataset
        try:
            client = copy.copy(_client(self.url, self.name))
            client.get_client = self._session  # also for what is got from the datasets later
            found = dataset.find(client, [dataset.id._in([*ids])])
        except _failures() + _NO_GRAPHQL as error:
            raise self._failure(error) from error
        return sorted(found, key=lambda each: each.id)

    def columns(self, type_name: str) -> list[str]:
        """The names of the plain fields of a type."""
        from graphql import is_leaf_type
        from graphql.type import get_nullable_type

        fields = _client(self.url, self.name).schema.type_map[type_name].fields
        return [
            name
            for name, field in fields.items()
            if name != "_id" and is_leaf_type(get_nullable_type(field.type))
        ]

    def _query(self, pages: Mapping[str, tuple[Table, int]], size: int) -> Any:
        from gql.dsl import DSLQuery, dsl_gql

        ds = _client(self.url, self.name).ds
        fields = {}
        for alias, (table, last) in pages.items():
            field = getattr(ds.Query, table.field)(
                where=_merged(table.where, {"id": {"_gt": last}}),
                orderBy=[{"id": "asc"}],
                limitOffset={"limit": size},
            )
            fields[alias] = field.select(*_selection(ds, table.type, table.columns))
        return dsl_gql(DSLQuery(**fields))

    def _ask(self, pages: Mapping[str, tuple[Table, int]]) -> tuple[dict[str, list[Row]], int]:
        """A page of each table, from after the given id on, and the size of a full page."""
        import tenacity

        halved = 0

        def smaller(state: tenacity.RetryCallState) -> None:
            nonlocal halved
            error = state.outcome.exception() if state.outcome else None
            said = self._without_password(str(error))  # it may quote the address
            logger.info("the portal %s did not answer (%s); it is asked again", self.shown, said)
            if _is_too_much(error) and self._rows > FEWEST_ROWS:
                self._rows = max(self._rows // 2, FEWEST_ROWS)
                halved += _status(error) is not None  # silence takes long, and it may be that nobody is there

        def ask() -> tuple[dict[str, list[Row]], int]:
            size = self._rows // len(pages)
            return self._execute(self._query(pages, size), pages), size

        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception(_is_passing),
            stop=lambda state: state.attempt_number - halved >= TRIES,
            wait=tenacity.wait_random_exponential(multiplier=0.2, max=4),
            before_sleep=smaller,
            reraise=True,
        )
        try:
            answer: tuple[dict[str, list[Row]], int] = retrying(ask)
        except _failures() as error:
            raise self._failure(error) from error
        return answer

    def _execute(self, query: Any, pages: Mapping[str, tuple[Table, int]]) -> dict[str, list[Row]]:
        from gql.transport.exceptions import TransportProtocolError

        try:
            answer = self._session().execute(query)
            return {
                alias: [tuple(_value(row, column) for column in table.columns) for row in answer[alias]]
                for alias, (table, _) in pages.items()
            }
        except _NO_GRAPHQL as error:
            raise TransportProtocolError(
                f"no answer to the question ({type(error).__name__}: {error})"
            ) from error

    def _session(self) -> Any:
        """What asks, for no longer than `timeout_s`."""
        session = _client(self.url, self.name).get_client()
        # It would ask without a limit of time, and too much of the portal four times before anybody could ask for less.
        session.transport.default_timeout, session.transport.retries = self.timeout_s, 0
        session.transport.kwargs["hooks"] = {"response": _raise_if_busy}
        return session

    def _failure(self, error: Exception) -> CopickError:
        from gql.transport.exceptions import TransportQueryError
        from graphql import GraphQLError

        if isinstance(error, GraphQLError):
            return FormatError(f"layer {self.name!r}: the portal cannot be asked that: {error.message}")
        if isinstance(error, TransportQueryError):
            errors = error.errors if isinstance(error.errors, list) else [error]
            said = "; ".join(
                str(item.get("message", item) if isinstance(item, dict) else item) for item in errors
            )
            text = f"it refuses the question: {said[:500]}; is cryoet-data-portal of the portal's version?"
        elif _is_timeout(error):
            text = f"it did not answer within timeout_s={self.timeout_s:g}; try again, or raise timeout_s"
        else:
            text = f"{type(error).__name__}: {str(error)[:300]}; check the address and the network, and try again"
        return LayerError(
            f"layer {self.name!r}: the portal {self.shown} failed: {self._without_password(text)}"
        )

    def _without_password(self, text: str) -> str:
        return without(text, secrets_in(self.url, {}))


def _package(name: str) -> Any:
    try:
        import cryoet_data_portal
        import tenacity  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            f'layer {name!r}: needs a package that is not installed ({error}); try: pip install "copick[portal]"'
        ) from error
    return cryoet_data_portal


@functools.lru_cache(maxsize=8)
def _client(url: str, name: str) -> Any:
    """The client for an address: it parses its schema when it is made. It may be used by threads and after a fork."""
    return _package(name).Client(url=url)


def _selection(ds: Any, type_name: str, columns: Sequence[str]) -> list[Any]:
    """The fields of a query that give these columns."""
    from graphql import get_named_type

    below: dict[str, list[str]] = {}
    for column in columns:
        head, _, rest = column.partition(".")
        below.setdefault(head, []).extend([rest] if rest else [])
    fields = []
    for head, rests in below.items():
        field = getattr(getattr(ds, type_name), head)
        target = get_named_type(field.field.type).name
        fields.append(field.select(*_selection(ds, target, rests)) if rests else field)
    return fields


def _value(row: Any, column: str) -> Any:
    name, _, rest = column.partition(".")
    value = row[name]
    return _value(value, rest) if rest and value is not None else value


def _nested(path: Sequence[str], where: Mapping[str, Any]) -> Mapping[str, Any]:
    for name in reversed(path):
        where = {name: where}
    return where


def _merged(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """Both conditions. They must not be about the same column."""
    merged = dict(one)
    for name, condition in other.items():
        merged[name] = _merged(merged[name], condition) if name in merged else condition
    return merged


def _failures() -> tuple[type[Exception], ...]:
    from gql.transport.exceptions import TransportError
    from graphql import GraphQLError
    from requests.exceptions import RequestException

    return (TransportError, GraphQLError, RequestException, OSError)


def _raise_if_busy(response: Any, **_: Any) -> None:
    """Before the client looks for a refusal in the answer: a server that is busy may say so in the form of one.

    Of 500 the errors in the answer say more.
    """
    if response.status_code in BUSY and response.status_code != HTTPStatus.INTERNAL_SERVER_ERROR:
        response.raise_for_status()


def _status(error: BaseException | None) -> int | None:
    answer = getattr(getattr(error, "__cause__", None), "response", None)
    code = getattr(error, "code", getattr(answer, "status_code", None))
    return code if isinstance(code, int) else None


def _is_timeout(error: BaseException | None) -> bool:
    from requests.exceptions import Timeout
    from urllib3.exceptions import ReadTimeoutError

    cause = getattr(error, "__cause__", None)
    begun = getattr(cause, "__context__", None)  # an answer that stops coming is told in another way
    return isinstance(error, Timeout) or isinstance(cause, Timeout) or isinstance(begun, ReadTimeoutError)


def _is_too_much(error: BaseException | None) -> bool:
    from requests.exceptions import ChunkedEncodingError

    cut = isinstance(getattr(error, "__cause__", None), ChunkedEncodingError)
    return _status(error) in TOO_MUCH or _is_timeout(error) or cut


def _is_passing(error: BaseException) -> bool:
    """Whether the next try may end better. A question that is refused will be refused again."""
    from gql.transport.exceptions import TransportConnectionFailed
    from requests.exceptions import ConnectionError as NoConnection

    return (
        _status(error) in BUSY
        or _is_timeout(error)
        or isinstance(error, TransportConnectionFailed | NoConnection)
    )
