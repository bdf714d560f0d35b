"""The error a person can mend: which argument, what is wrong with it, what to do."""


class UsageError(ValueError):
    """An argument that cannot be used. Jobs print it as one line and exit with 2."""

    def __init__(self, flag: str, value: object, problem: str, remedy: str):
        super().__init__(f"{flag} {value}: {problem}; {remedy}")
