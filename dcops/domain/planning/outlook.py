"""What is expected of the jobs of a view: when running ones end, and when waiting ones start."""

from collections import Counter
from collections.abc import Iterable

from dcops.domain.planning.cluster import View
from dcops.domain.planning.decisions import Lack, Shortage
from dcops.domain.planning.estimate import Span
from dcops.domain.planning.forecast import Forecast
from dcops.domain.planning.workload import Job, Running


class Outlook:
    """Estimates made while a plan is made; the line it knows grows with every job that has to wait."""

    def __init__(self, view: View, now: float, grace_s: float) -> None:
        self._view, self._now = view, now
        self._leaving = Span(0.0, grace_s, 2 * grace_s)
        self._forecasts: dict[str | None, Forecast] = {}
        self._ahead: Counter[str | None] = Counter()

    def remaining(self, job: Job, ran_s: float) -> Span:
        """How much longer a job lasts that has run so long. Its time limit bounds what history says."""
        span = self._view.history.remaining(job.likeness, ran_s)
        left = job.time_limit_s - ran_s
        if left >= span.high_s:
            return span
        return Span(min(span.low_s, left), min(span.likely_s, left), left)

    def leaves_at(self, run: Running) -> float:
        """When a running job will likely be gone."""
        if run.stopping:
            return self._now + self._leaving.likely_s
        return self._now + self.remaining(run.job, run.ran_s(self._now)).likely_s

    def ends_by(self, job: Job) -> float:
        """When a queued job will have ended for all we know, if it starts now."""
        return self._now + self.remaining(job, job.ran_s).high_s

    def starts(self, job: Job, short: Shortage) -> Span | None:
        """When a waiting job starts: after those before it that wait for the same have started too."""
        if short.lack in (Lack.HARDWARE, Lack.CLOSED):
            return None
        if short.lack is Lack.MAKING_ROOM:
            return self._leaving
        line = job.project if short.lack is Lack.QUOTA else None
        if line not in self._forecasts:
            self._forecasts[line] = Forecast(self._leaving_times(line))
            self._ahead[line] = -short.available
        self._ahead[line] += job.gpus
        return self._forecasts[line].starts(self._ahead[line])

    def _leaving_times(self, project: str | None) -> Iterable[tuple[Span, int]]:
        for run in self._view.running:
            if project is None or run.job.project == project:
                yield self.remaining(run.job, run.ran_s(self._now)), run.job.gpus
