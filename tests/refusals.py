"""What a job does with unusable arguments: exit status 2 and one line that says which."""


def assert_refused(done, *said: str) -> None:
    """Exit status 2 and one line on stderr with all of this in it; Ray was not started."""
    lines = done.stderr.splitlines()
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    assert len(lines) == 1, done.stderr
    for text in said:
        assert str(text) in lines[0]


def assert_refused_after_bar(done, *said: str) -> None:
    """As assert_refused, where a progress bar may come first."""
    done.stderr = done.stderr.splitlines()[-1]
    assert_refused(done, *said)
