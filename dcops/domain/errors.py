"""What can be refused, and how it is said. Every message is one sentence for a person and says what to do.

Refused                 code, message, field
├── NotSignedIn         401  who are you?
├── Forbidden           403  you may not
├── NotFound            404  missing, or not yours to see: both look the same
├── Conflict            409  the thing is not in a state that allows this
├── Invalid             422  a value cannot be used
├── TooMany             429  wait `retry_after_s`
└── Unavailable         503  a part of dcops is away
"""


class Refused(Exception):
    """dcops will not do what was asked. `code` is for programs, `message` for people, `field` names the wrong value."""

    code = "refused"

    def __init__(self, message: str, *, code: str = "", field: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.code = code or type(self).code
        self.field = field


class NotSignedIn(Refused):
    """Nobody, or a credential that no longer counts."""

    code = "not_signed_in"


class Forbidden(Refused):
    """The actor is known and may not do this."""

    code = "forbidden"


class NotFound(Refused):
    """No such thing, or none that this actor may see."""

    code = "not_found"


class Conflict(Refused):
    """The thing is in a state that does not allow this; look again."""

    code = "conflict"


class Invalid(Refused):
    """A value cannot be used; `field` names it."""

    code = "invalid"


class TooMany(Refused):
    """Too many tries; wait `retry_after_s` seconds."""

    code = "too_many"

    def __init__(self, message: str, *, retry_after_s: int) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class Unavailable(Refused):
    """A part that is needed does not answer; try again later."""

    code = "unavailable"
