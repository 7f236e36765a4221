"""Errors after which the origin is probed and the file planned anew."""

from __future__ import annotations

from tasks.transfer.errors.base import Side, TransferError


class PlanVoidError(TransferError):
    """What the plan was made for is no longer so: probe and plan anew."""

    side = Side.ORIGIN


class SourceChanged(PlanVoidError):
    """The origin now sends another version of the file than the one that was planned."""

    def __init__(self, url: str, planned: str, seen: str) -> None:
        super().__init__(url, planned, seen)
        self.url, self.planned, self.seen = url, planned, seen

    def __str__(self) -> str:
        """Say what changed, what was kept, and what to run next."""
        return (
            f"{self.url} changed while it was being downloaded: planned for {self.planned}, the server "
            f"now sends {self.seen}. No part was merged; submit the URL again to download the new version."
        )


class RangesRefused(PlanVoidError):
    """The origin honoured a range when it was probed, and now sends the whole file instead."""

    def __init__(self, url: str, status: int) -> None:
        super().__init__(url, status)
        self.url, self.status = url, status

    def __str__(self) -> str:
        """Say what the server did and what to run next."""
        return (
            f"{self.url} answered {self.status} to a range request, though it honoured ranges when the job "
            f"was planned. No part was merged; submit the URL again."
        )
