"""One colour per reason, the same in reports, notebooks and on the status page."""

from __future__ import annotations

from scheduler.core.decisions import PendingReason

COLOURS: dict[PendingReason, str] = {
    PendingReason.NEVER_FITS: "#1a1a1a",
    PendingReason.CAPACITY: "#0b3c6f",
    PendingReason.FRAGMENTATION: "#5b9bd5",
    PendingReason.BEHIND_HEAD: "#cfe3f5",
    PendingReason.HELD_BY_OTHERS: "#8c1c13",
    PendingReason.OWN_PARTIAL_HOLD: "#f08a4b",
    PendingReason.PERMIT_BACKOFF: "#fbe3c0",
    PendingReason.MEMBERS: "#8a8a8a",
    PendingReason.CONTROL_PLANE: "#2f7d4f",
    PendingReason.STARTING: "#bfe5c8",
}
