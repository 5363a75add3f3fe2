"""What a load is, and what a cell shows under it: the scenarios of `plumbline load`, in base units.

Of the scenarios, four are MLPerf LoadGen's, run by its own engine (harness/probe/loadgen.py); `camera` and `soak` are ours
(harness/timing.py), and `side-by-side` puts LoadGen's p90 beside ours.
"""

from __future__ import annotations

from msgspec import Struct

from plumbline.harness.readings import Readings

SINGLE, MULTI, SERVER, OFFLINE = "single-stream", "multi-stream", "server", "offline"
CAMERA, SOAK, BESIDE = "camera", "soak", "side-by-side"
LOADGEN = (SINGLE, MULTI, SERVER, OFFLINE)
SCENARIOS = (*LOADGEN, CAMERA, SOAK, BESIDE)
VALID, INVALID = "VALID", "INVALID"
STOPPED = "stopped"  # the verdict on a soak that became too hot
# Queries that LoadGen's early stopping takes at least, to say something at 99 %: of p90 64, of p99 662.
QUERIES = {SINGLE: 64, MULTI: 662, SERVER: 662, OFFLINE: 1}
STREAMS = 8  # samples in a query of MultiStream. Source: MLPerf inference rules, "Scenarios"
AGREES = 0.03  # by which LoadGen's p90 may differ from ours


class Scenario(Struct, frozen=True):
    """What to put a cell under.

    `seconds` is how long: of LoadGen its min_duration, for each try of `server`. `queries` are LoadGen's min_query_count (None:
    what its early stopping takes). `limit_s` is the latency that `server` keeps its p99 under. `rate_hz` is how many frames of
    `camera` arrive in a second, `deadline_s` after what time from its arrival a frame has to be done (None: one period), and
    `max_missed` the share that may miss it (None: any).
    """

    name: str
    seconds: float = 20.0
    queries: int | None = None
    limit_s: float | None = None
    rate_hz: float = 30.0
    deadline_s: float | None = None
    max_missed: float | None = None


class Run(Struct, frozen=True):
    """One test by LoadGen. `verdict` is its own, with its `reasons`.

    `percentile` of the latencies of its queries is `latency_s`, by LoadGen's rule (None of `offline`, which is one query), and
    `bound_s` its early-stopping estimate, an upper bound at 99 % (None where it gives none). `samples_per_s` is the rate that it
    reports, of what was done; and of `server` `asked_hz` the rate at which it let queries arrive.
    """

    verdict: str
    reasons: list[str]
    queries: int
    percentile: float
    latency_s: float | None
    bound_s: float | None
    samples_per_s: float | None
    asked_hz: float | None
    version: str


class Camera(Struct, frozen=True):
    """Frames that arrived at a rate, and what became of them.

    A frame that comes while another is inferred waits; a newer one takes its place, and it is `dropped`. `late` ones were
    done after the deadline. `missed` is the share of both, `missed_at_most` its exact upper bound at 99 % (Clopper & Pearson).
    `percentiles_s` are of the time from arrival to the end, of frames that were not dropped.
    """

    rate_hz: float
    deadline_s: float
    frames: int
    dropped: int
    late: int
    missed: float
    missed_at_most: float
    percentiles_s: dict[str, float]


class Soak(Struct, frozen=True):
    """Latency without a pause, a row a second: when it began, how many inferences, their median and p99.

    `temperatures` (°C) and `clocks_hz` are read after each second; None where the machine did not tell. `ratio` is the median of
    the last `window_s` over that of the first ones, from the rows' medians, with its 95 % interval (None: too few rows).
    `stopped` says why it ended early.
    """

    at_s: list[float]
    counts: list[int]
    medians_s: list[float]
    p99s_s: list[float]
    temperatures: list[float | None]
    clocks_hz: list[float | None]
    window_s: float
    ratio: float
    interval: tuple[float, float] | None
    stopped: str | None = None


class Beside(Struct, frozen=True):
    """SingleStream's p90 and ours, of as many inferences each, in turns in one process.

    `ratio` is the median over the rounds of LoadGen's over ours, `interval` its 95 % interval (None: too few rounds).
    """

    loadgen_s: list[float]
    ours_s: list[float]
    inferences: int
    ratio: float
    interval: tuple[float, float] | None

    @property
    def agrees(self) -> bool:
        """Whether the two are the same within 3 %, for certain."""
        return self.interval is not None and self.interval[0] >= 1 - AGREES and self.interval[1] <= 1 + AGREES


class Loaded(Struct, frozen=True):
    """What a scenario has shown: one of the four, or `unavailable`, the reason.

    `runs` are LoadGen's: of `server` all that the search has tried, in order.
    """

    scenario: Scenario
    runs: list[Run] = []
    camera: Camera | None = None
    soak: Soak | None = None
    beside: Beside | None = None
    disturbance: Readings = {}
    unavailable: str | None = None

    @property
    def run(self) -> Run | None:
        """LoadGen's run that counts: the last one, of `server` the one with the highest valid rate."""
        valid = [run for run in self.runs if run.verdict == VALID]
        best = max(valid, key=lambda run: run.asked_hz or 0.0, default=None)
        return best or (self.runs[-1] if self.runs else None)

    @property
    def wrong(self) -> str | None:
        """Why this is no pass: LoadGen's INVALID, a soak that was stopped, a limit that cannot be shown to hold; else None."""
        if self.unavailable is not None:
            return f"unavailable: {self.unavailable}"
        if self.soak is not None and self.soak.stopped is not None:
            return f"{STOPPED}: {self.soak.stopped}"
        if self.run is not None and self.run.verdict != VALID:
            return f"{self.run.verdict}: {'; '.join(self.run.reasons) or 'LoadGen gives no reason'}"
        limit = self.scenario.max_missed
        if self.camera is not None and limit is not None and self.camera.missed_at_most > limit:
            found = f"{self.camera.missed:.2%} of {self.camera.frames} frames missed, at most {self.camera.missed_at_most:.2%}"
            return f"expected at most {limit:.2%} of the deadlines missed (at 99 %), got {found}"
        if self.beside is not None and not self.beside.agrees:
            between = "{:.3f} to {:.3f}".format(*self.beside.interval) if self.beside.interval else "too few rounds"
            found = f"got a ratio of {self.beside.ratio:.3f} ({between})"
            return f"expected LoadGen's p90 within {AGREES:.0%} of ours for certain, {found}; measure when the machine is quiet"
        return None
