"""A training that is killed right after its state was saved."""

from fusegpt.recovery.resume import Checkpoint


class Killed(Exception):
    """The end of the process."""


class Dying(Checkpoint):
    """Saves after each step, and dies after one of them.

    Args:
        file: The resume file, of the run ``x``.
        step: How many steps are done when it dies.
        attempt: In which attempt.
    """

    def __init__(self, file, step=3, attempt=0):
        super().__init__(file, "x", every_seconds=0)
        self.last_step, self.last_attempt = step, attempt

    def save_when_due(self, optimizer, rows, steps, now):
        super().save_when_due(optimizer, rows, steps, now)
        if (self.attempt, len(rows)) == (self.last_attempt, self.last_step):
            raise Killed
