"""The error a person can mend: which argument, what is wrong with it, what to do."""


class UsageError(ValueError):
    """An argument that cannot be used. Jobs print it as one line and exit with 2."""

    def __init__(self, flag: str, value: object, problem: str, remedy: str):
        super().__init__(f"{flag} {value}: {problem}; {remedy}")


def one_line(error: BaseException) -> str:
    """Kind and message of an error, short enough for one line."""
    text = " ".join(str(error).split()) or "no reason given"
    return f"{type(error).__name__}: {text}"[:300]
