"""A progress report that remembers."""

from __future__ import annotations

from pipelines.progress import Progress


class Ears(Progress):
    """Remembers what was said, what was warned of, and both in their order."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.warned: list[str] = []
        self.heard: list[str] = []

    def say(self, message: str) -> None:
        self.said.append(message)
        self.heard.append(message)

    def warn(self, message: str) -> None:
        self.warned.append(message)
        self.heard.append(message)
