"""The shape of API bodies and errors, and the helper by which each operation declares the errors it can answer."""

from typing import Annotated, Any, Final

from django.http import HttpResponse, JsonResponse
from ninja import Schema
from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from dcops.domain.errors import (
    Conflict,
    Forbidden,
    Invalid,
    NotFound,
    NotSignedIn,
    Refused,
    TooMany,
    Unavailable,
)

# What PostgreSQL can hold and compare with; anything else is a 422 before it gets there.
Text = Annotated[str, StringConstraints(max_length=200, pattern=r"^[^\x00]*$")]


class Body(BaseModel):
    """Base of every request body: an object, and nothing in it that we do not know."""

    model_config = ConfigDict(extra="forbid")


class Err(Schema):
    """Why something was refused: a code for programs, a sentence for people, the wrong field if there is one."""

    code: str
    message: str
    field: str | None = Field(default=None)


STATUS: Final[dict[type[Refused], int]] = {
    NotSignedIn: 401,
    Forbidden: 403,
    NotFound: 404,
    Conflict: 409,
    Invalid: 422,
    TooMany: 429,
    Unavailable: 503,
}


def answers(model: Any, *, status: int = 200) -> dict[int, Any]:
    """Return ninja's `response=` for an operation that answers `model`, with every error it may answer instead."""
    errors = (400, *STATUS.values())
    return {status: model, **dict.fromkeys(errors, Err)}


def status_of(error: Refused) -> int:
    """Return the HTTP status of a refusal."""
    return next((code for kind, code in STATUS.items() if isinstance(error, kind)), 409)


def error_response(error: Refused) -> HttpResponse:
    """Return a refusal as JSON with its status, and Retry-After where waiting helps."""
    body: dict[str, str] = {"code": error.code, "message": error.message}
    if error.field:
        body["field"] = error.field
    response = JsonResponse(body, status=status_of(error))
    if isinstance(error, TooMany):
        response["Retry-After"] = str(error.retry_after_s)
    if isinstance(error, NotSignedIn):
        response["WWW-Authenticate"] = "Bearer"
    response["Cache-Control"] = "no-store"
    return response
