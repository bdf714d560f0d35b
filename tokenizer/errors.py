"""The error that a user can correct: what is wrong with what was given, and what to do."""

import errno
from collections.abc import Callable

# What the system says where there is no room, or none for this user.
DISK_FULL = (errno.ENOSPC, errno.EDQUOT)


class UsageError(ValueError):
    """Something that was given cannot be used.

    problem, remedy: what is wrong, and what to do about it. value: what was given. argument: the
    parameter or settings field it was given as. mentions: other fields that problem and remedy
    name. Whoever raises the error leaves out what it does not know; a caller may fill that in.
    """

    def __init__(
        self,
        problem: str,
        remedy: str = "",
        *,
        value: object = None,
        argument: str | None = None,
        mentions: tuple[str, ...] = (),
    ) -> None:
        super().__init__(problem)
        self.problem, self.remedy = problem, remedy
        self.value, self.argument, self.mentions = value, argument, mentions

    def __str__(self) -> str:
        given = " ".join(str(part) for part in (self.argument, self.value) if part is not None)
        text = f"{given}: {self.problem}" if given else self.problem
        return f"{text}; {self.remedy}" if self.remedy else text

    def __reduce__(self) -> tuple:
        # Ray sends errors from one process to another.
        return _rebuilt, (type(self), self.problem, self.__dict__)

    def rename(self, name: Callable[[str], str]) -> None:
        """Replace the names of parameters and fields, as by the flags of a command line."""
        if self.argument:
            self.argument = name(self.argument)
        for field in self.mentions:
            self.problem = self.problem.replace(field, name(field))
            self.remedy = self.remedy.replace(field, name(field))


class TrainingFailed(RuntimeError):
    """Training cannot go on; the message says why and what to do."""


class ClusterFailed(RuntimeError):
    """The cluster can no longer do the work; the message says why and what to do."""


def _rebuilt(kind: type, problem: str, fields: dict) -> UsageError:
    error = kind(problem)
    error.__dict__.update(fields)
    return error


def one_line(error: BaseException) -> str:
    """Type and message of an error, at most 300 characters on one line."""
    text = " ".join(str(error).split()) or "no reason given"
    return f"{type(error).__name__}: {text}"[:300]


def is_disk_full(error: Exception) -> bool:
    """Whether an error says that a disk has no room."""
    return isinstance(error, OSError) and error.errno in DISK_FULL
