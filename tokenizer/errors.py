"""The error a person can mend: what is wrong with what was given, and what to do."""


class UsageError(ValueError):
    """Something that was given cannot be used.

    problem, remedy: what is wrong, and what to do about it. value: what was given. argument: the
    parameter or settings field it was given as. Whoever raises the error leaves out what it does
    not know, and whoever called it may fill that in.
    """

    def __init__(
        self, problem: str, remedy: str = "", *, value: object = None, argument: str | None = None
    ) -> None:
        super().__init__(problem)
        self.problem, self.remedy = problem, remedy
        self.value, self.argument = value, argument

    def __str__(self) -> str:
        given = " ".join(str(part) for part in (self.argument, self.value) if part is not None)
        text = f"{given}: {self.problem}" if given else self.problem
        return f"{text}; {self.remedy}" if self.remedy else text

    def __reduce__(self) -> tuple:
        # Ray sends errors from one process to another.
        return _rebuilt, (type(self), self.problem, self.__dict__)


class TrainingFailed(RuntimeError):
    """Training cannot go on; the message says why and what to do."""


def _rebuilt(kind: type, problem: str, fields: dict) -> UsageError:
    error = kind(problem)
    error.__dict__.update(fields)
    return error


def one_line(error: BaseException) -> str:
    """Kind and message of an error, short enough for one line."""
    text = " ".join(str(error).split()) or "no reason given"
    return f"{type(error).__name__}: {text}"[:300]
