"""Requests to web servers that are too busy are made again, as late as the server asks for."""

from __future__ import annotations

import datetime
import email.utils
import logging
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from aiohttp import ClientHandlerType, ClientRequest, ClientResponse
    from tenacity import RetryCallState

logger = logging.getLogger(__name__)

BUSY = frozenset(
    {
        HTTPStatus.TOO_MANY_REQUESTS,
        HTTPStatus.BAD_GATEWAY,
        HTTPStatus.SERVICE_UNAVAILABLE,
        HTTPStatus.GATEWAY_TIMEOUT,
    }
)
"""Answers that say "not now". 500 is none: the same question would get it again."""
TRIES = 3
FIRST_S, LONGEST_S = 0.1, 1.0
"""The first pause, and the longest, where the server does not say how long."""


def patient(patience_s: float) -> Callable[[ClientRequest, ClientHandlerType], Awaitable[ClientResponse]]:
    """A middleware of aiohttp's client that asks up to three times while the server is busy.

    It waits for as long as `Retry-After` says (RFC 9110, 10.2.3: seconds, or a date). All pauses together take no longer than
    `patience_s` seconds: a server that asks for more is told on as it answered.
    """
    import tenacity

    unasked = tenacity.wait_random_exponential(multiplier=FIRST_S, max=LONGEST_S)

    def pause(state: RetryCallState) -> float:
        said = seconds(_answer_of(state).headers.get("Retry-After"))
        return float(unasked(state)) if said is None else said

    def before_sleep(state: RetryCallState) -> None:
        answer = _answer_of(state)
        answer.release()
        logger.info("%s answers %d; asked again in %.1f s", answer.url, answer.status, state.upcoming_sleep)

    async def ask(request: ClientRequest, handler: ClientHandlerType) -> ClientResponse:
        asking = tenacity.AsyncRetrying(
            retry=tenacity.retry_if_result(lambda answer: answer.status in BUSY),
            stop=tenacity.stop_after_attempt(TRIES) | tenacity.stop_before_delay(patience_s),
            wait=pause,
            before_sleep=before_sleep,
            retry_error_callback=_answer_of,
        )
        answer: ClientResponse = await asking(handler, request)
        return answer

    return ask


def seconds(retry_after: str | None) -> float | None:
    """What the header says, from now on; None if it is not there or says nothing that can be waited for."""
    text = (retry_after or "").strip()
    if text.isascii() and text.isdigit():
        return float(text)
    try:
        date = email.utils.parsedate_to_datetime(text)
    except ValueError:
        return None
    now = datetime.datetime.now(date.tzinfo or datetime.UTC)
    return max((date.replace(tzinfo=now.tzinfo) - now).total_seconds(), 0.0)


def _answer_of(state: RetryCallState) -> Any:
    assert state.outcome is not None
    return state.outcome.result()
