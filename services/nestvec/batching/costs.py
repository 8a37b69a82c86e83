"""What a batch takes: a fixed part and one for each token, learned from recent batches."""

from __future__ import annotations

# Of what is known, how much is kept with each further batch: about the last thirty count.
_KEPT = 0.97
# The first ones of a model allocate and compile; two are no line.
_FEWEST = 4
# Below this spread (relative variance of sizes) a line through them would be noise.
_SPREAD = 0.01


class BatchCosts:
    """A line through the sizes and times of recent batches, by decayed least squares.

    Sizes are tokens as the model sees them: rows times the longest. Not shared between threads.
    """

    def __init__(self) -> None:
        self._batches = 0
        self._weight = self._tokens = self._seconds = 0.0
        self._tokens_squared = self._product = 0.0

    def note(self, tokens: int, seconds: float) -> None:
        """A batch of `tokens` took `seconds`."""
        self._batches += 1
        self._weight = self._weight * _KEPT + 1.0
        self._tokens = self._tokens * _KEPT + tokens
        self._seconds = self._seconds * _KEPT + seconds
        self._tokens_squared = self._tokens_squared * _KEPT + tokens * tokens
        self._product = self._product * _KEPT + tokens * seconds

    @property
    def known(self) -> bool:
        """Whether enough batches have run to say anything."""
        return self._batches >= _FEWEST

    def tokens_within(self, seconds: float) -> float:
        """The size whose part for each token takes `seconds`, or as long as the fixed part where
        that is longer: a smaller batch would spend most of its time on what every batch costs.
        Infinite while nothing is known.
        """
        if not self.known:
            return float("inf")
        fixed_s, token_s = self._line()
        return max(seconds, fixed_s) / token_s if token_s > 0.0 else float("inf")

    def seconds_for(self, tokens: int) -> float:
        """What that many tokens take in batches as the recent ones; 0 while nothing is known."""
        return tokens * self._seconds / self._tokens if self.known and self._tokens else 0.0

    def seconds_of(self, tokens: int, batches: int = 1) -> float:
        """What that many tokens take in that many batches; 0 while nothing is known."""
        if not self.known or not tokens:
            return 0.0
        fixed_s, token_s = self._line()
        return batches * fixed_s + tokens * token_s

    def _line(self) -> tuple[float, float]:
        """Seconds of any batch, and seconds a token."""
        mean_s = self._seconds / self._tokens if self._tokens else 0.0
        spread = self._weight * self._tokens_squared - self._tokens**2
        if spread <= _SPREAD * self._tokens**2:
            return 0.0, mean_s
        slope_s = (self._weight * self._product - self._tokens * self._seconds) / spread
        slope_s = min(max(slope_s, 0.0), mean_s)
        return (self._seconds - slope_s * self._tokens) / self._weight, slope_s
