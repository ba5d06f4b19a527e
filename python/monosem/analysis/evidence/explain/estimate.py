"""What a run will ask for, before it asks."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Estimate:
    """What a run will ask for: requests not on disk yet, tokens to read, and at most how many to write."""

    requests: int
    cached: int
    prompt_tokens: int
    completion_tokens: int

    def __add__(self, other: Estimate) -> Estimate:
        return Estimate(
            self.requests + other.requests,
            self.cached + other.cached,
            self.prompt_tokens + other.prompt_tokens,
            self.completion_tokens + other.completion_tokens,
        )

    def cost(self, price: tuple[float, float]) -> float:
        """In the currency of ``price``, which is per million tokens (read, written)."""
        return (self.prompt_tokens * price[0] + self.completion_tokens * price[1]) / 1e6

    def say(self, price: tuple[float, float] | None) -> str:
        text = (
            f"{self.requests:,} requests ({self.cached:,} more are answered on disk), about {self.prompt_tokens:,} "
            f"tokens to read and {self.completion_tokens:,} to write"
        )
        if price is None:
            return text + "; no price given (--price READ WRITE, per million tokens), so no cost"
        return text + f"; about {self.cost(price):,.2f} at {price[0]:g} / {price[1]:g} per million tokens"
