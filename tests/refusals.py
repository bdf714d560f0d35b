"""Checks that a job refuses unusable arguments: exit status 2, and one line that names them."""


def assert_refused(done, *parts: object) -> None:
    """Exit status 2, and one line on stderr that contains all parts; Ray was not started."""
    lines = done.stderr.splitlines()
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    assert len(lines) == 1, done.stderr
    for text in parts:
        assert str(text) in lines[0]


def assert_refused_after_bar(done, *parts: object) -> None:
    """As assert_refused, where a progress bar may come first."""
    done.stderr = done.stderr.splitlines()[-1]
    assert_refused(done, *parts)
