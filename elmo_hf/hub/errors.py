"""The exception of this package, and one-line messages for the Hub's errors."""

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from time import sleep
from typing import TypeVar

from huggingface_hub.errors import (
    HfHubHTTPError,
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

Result = TypeVar("Result")

# The httpx exception for requests without an answer, found through the Hub client's own exception.
NoAnswer: type[Exception] = next(base for base in HfHubHTTPError.__mro__ if base.__name__ == "HTTPError")
# Status codes of a busy Hub, number of retries, and seconds to wait if the answer does not tell.
BUSY, PATIENCE, WAIT = (429, 503), 5, 2.0

_REMEDIES = {
    400: "the Hub does not accept it",
    401: "the token is missing or not valid: `hf auth login`, or set HF_TOKEN",
    403: "the token may not write there: choose a name of your own, or a token with write access",
    409: "the name is taken, or another client is writing to it: choose another name, or try again",
    412: "it has changed since this push began, by another push: look at it, and push again",
    413: "the Hub does not accept files of this size",
    429: "the Hub still asks to wait: try again later",
}


class HubError(ValueError):
    """A folder that cannot be published, or a name that is not found; the message gives the cause and the remedy."""


def patiently(call: Callable[[], Result]) -> Result:
    """Make a request to the Hub, and repeat it while the Hub asks to wait.

    The Hub client itself waits in most of its requests, but not in commits.
    """
    for _ in range(PATIENCE):
        try:
            return call()
        except HfHubHTTPError as error:
            response = getattr(error, "response", None)
            if response is None or response.status_code not in BUSY:
                raise
            sleep(_asked_for(response.headers))
    return call()


def _asked_for(headers: Mapping[str, str]) -> float:
    """Seconds to wait according to the answer's headers."""
    if (after := headers.get("retry-after", "")).isdecimal():
        return float(after)
    # RFC draft of rate limit headers: "api";r=0;t=55
    if found := re.search(r";t=(\d+)", headers.get("ratelimit", "")):
        return float(found[1]) + 1
    return WAIT


@contextmanager
def told(name: str) -> Iterator[None]:
    """Context manager that turns errors about the repository `name` into a one-line `HubError`."""
    try:
        yield
    except OfflineModeIsEnabled as error:
        raise HubError(f"{name}: HF_HUB_OFFLINE is set, and the Hub is asked: unset it") from error
    except LocalTokenNotFoundError as error:
        raise HubError(f"{name}: {_REMEDIES[401]}") from error
    except (HfHubHTTPError, NoAnswer, RuntimeError) as error:
        # Uploads of large files wrap the original error.
        cause = error if not isinstance(error, RuntimeError) or error.__cause__ is None else error.__cause__
        if not isinstance(cause, (HfHubHTTPError, NoAnswer)):
            raise
        raise HubError(f"{name}: {_reason(cause)}") from error


def _reason(error: BaseException) -> str:
    response = getattr(error, "response", None)
    if response is None:
        return (
            f"no answer from the Hub ({' '.join(str(error).split()) or type(error).__name__}): look at the network and "
            "try again; nothing was committed, and large files that arrived whole are not sent again"
        )
    said = getattr(error, "server_message", None)
    said = f" ({' '.join(str(said).split())})" if said else ""
    if isinstance(error, RevisionNotFoundError):
        return f"no such revision{said}: name a branch that is there, or make one with --branch"
    if isinstance(error, RepositoryNotFoundError) and response.status_code != 401:
        return f"no such model, or a private one that the token does not open{said}"
    remedy = _REMEDIES.get(response.status_code, "try again later")
    return f"the Hub answered {response.status_code}: {remedy}{said}"
