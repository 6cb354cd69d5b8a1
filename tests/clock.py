"""A clock that only sleep moves, and tests."""


class Clock:
    """Called, it says what time it is, in seconds. `slept`: the pauses that were made."""

    def __init__(self) -> None:
        self.now = 0.0
        self.slept: list[float] = []

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds
