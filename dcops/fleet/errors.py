"""What the fleet refuses, beyond dcops.domain.errors."""

from dcops.domain.errors import Refused
from dcops.wire.frames import RefusalCode


class JoinRefused(Refused):
    """A machine may not join; `code` is a wire RefusalCode that the agent acts on."""

    def __init__(self, code: RefusalCode, message: str) -> None:
        super().__init__(message, code=code)


class ForeignGpu(Refused):
    """A node reports a GPU that another node, alive now, holds: one of the two is lying or cloned."""

    code = "foreign"

    def __init__(self, message: str, *, uuid: str, holder: str) -> None:
        super().__init__(message)
        self.uuid = uuid
        self.holder = holder
