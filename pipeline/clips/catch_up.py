"""Keeping up with a live sender: how far reading has fallen behind, and which packets to drop to catch up."""

DRIFT = 0.001
"""Seconds a second that the sender's clock may be slower than ours: a lag that grows slower than this is none."""

BEHIND_SEC = 1.0
"""Packets are dropped from this lag on."""

CAUGHT_UP_SEC = 0.25
"""Decoding starts again, at a key frame, once the lag is this small."""

WITHOUT_KEY_SEC = 5.0
"""Decoding starts again without a key frame after so long: some senders have none and refresh in stripes."""


class CatchUp:
    """Decides packet by packet, from the sender's time stamps and the time of arrival in seconds."""

    def __init__(self) -> None:
        self.lag = 0.0
        """Seconds by which the last packet came later than the least delayed one did."""
        self.dropped = 0
        """Packets dropped so far."""
        self._least: float | None = None
        self._last = 0.0
        self._dropping_since: float | None = None

    def drops(self, stamp: float, *, now: float, key: bool) -> bool:
        """Whether to leave a packet undecoded.

        Args:
            stamp: the sender's time in seconds, from any start.
            now: our time in seconds, from any start.
            key: a picture that needs no other one.
        """
        delay = now - stamp
        least = delay if self._least is None else self._least + DRIFT * (now - self._last)
        self._least, self._last = min(least, delay), now
        self.lag = delay - self._least
        if self._dropping_since is None and self.lag > BEHIND_SEC:
            self._dropping_since = now
        elif self._dropping_since is not None and self.lag <= CAUGHT_UP_SEC:
            waited = now - self._dropping_since
            self._dropping_since = None if key or waited > WITHOUT_KEY_SEC else self._dropping_since
        self.dropped += self._dropping_since is not None
        return self._dropping_since is not None

    def restart(self) -> None:
        """Forget the sender's clock, which was set to another time."""
        self._least, self._dropping_since, self.lag = None, None, 0.0
