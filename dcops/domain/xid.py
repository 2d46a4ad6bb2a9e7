"""What the common XID codes of NVIDIA drivers mean: https://docs.nvidia.com/deploy/xid-errors/."""

from typing import Literal

# critical: the GPU or its work is gone. warning: one program failed, or memory wears. info: recorded, nothing to do.
XidSeverity = Literal["info", "warning", "critical"]

XIDS: dict[int, tuple[XidSeverity, str]] = {
    8: ("warning", "GPU stopped processing"),
    13: ("warning", "graphics engine exception"),
    31: ("warning", "GPU memory page fault"),
    32: ("warning", "invalid or corrupted push buffer stream"),
    38: ("critical", "driver firmware error"),
    43: ("warning", "GPU stopped processing for one program"),
    45: ("warning", "preemptive cleanup after an earlier error"),
    46: ("critical", "GPU stopped processing"),
    48: ("critical", "double bit ECC error"),
    54: ("warning", "auxiliary power is not connected"),
    61: ("critical", "internal micro-controller breakpoint"),
    62: ("critical", "internal micro-controller halt"),
    63: ("info", "row remapping or page retirement recorded"),
    64: ("critical", "row remapping or page retirement failed"),
    68: ("warning", "video processor exception"),
    69: ("warning", "graphics engine class error"),
    74: ("critical", "NVLink error"),
    79: ("critical", "GPU has fallen off the bus"),
    92: ("warning", "high rate of single bit ECC errors"),
    94: ("warning", "contained memory error"),
    95: ("critical", "uncontained memory error"),
    109: ("warning", "context switch timeout"),
    110: ("critical", "security fault"),
    119: ("critical", "GSP firmware does not answer"),
    120: ("critical", "GSP firmware error"),
    121: ("warning", "chip-to-chip link error corrected"),
    122: ("critical", "SPI remote procedure failure"),
    123: ("critical", "power management controller failure"),
    136: ("critical", "link training failed"),
    137: ("warning", "NVLink memory access failed"),
    140: ("critical", "ECC error that was not recovered"),
    143: ("critical", "GPU initialization error"),
    144: ("warning", "NVLink: switch link error"),
    145: ("critical", "NVLink: receive link error"),
    146: ("critical", "NVLink: transmit link error"),
    149: ("critical", "NVLink: link layer error"),
    150: ("warning", "NVLink: link state change"),
    154: ("warning", "the recovery that the GPU asks for has changed"),
    155: ("warning", "NVLink: software error"),
    156: ("warning", "resource retirement recorded"),
    158: ("critical", "GPU fatal timeout"),
    160: ("warning", "memory channel retirement recorded"),
    161: ("critical", "memory channel retirement failed"),
}


def xid_severity(code: int) -> XidSeverity:
    """Return how bad this XID is; an unknown one is a warning."""
    return XIDS[code][0] if code in XIDS else "warning"


def xid_title(code: int) -> str:
    """Return "XID 79: GPU has fallen off the bus"; only the number if the code is unknown."""
    return f"XID {code}: {XIDS[code][1]}" if code in XIDS else f"XID {code}"
