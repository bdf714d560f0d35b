"""fetch.py: a name that is nothing here is answered by what ships of the kind that is wanted."""

import pytest

from tokenizer.errors import UsageError
from tokenizer.storage.fetch import fetch_folder

TOKENIZERS = {"wavlm-tiny-d1024", "wavlm-tiny-km256", "wavlm-tiny-km1024"}


@pytest.mark.parametrize(
    "kind, shipped",
    [("a tokenizer", TOKENIZERS), ("a WavLM", {"wavlm-tiny"}), ("a language model", set())],
)
def test_what_ships_of_the_kind_is_named(kind, shipped):
    with pytest.raises(UsageError, match=f"give the folder or URL of {kind}") as raised:
        fetch_folder("nothing", kind)
    named = set(str(raised.value).replace(",", " ").split())
    assert named & (TOKENIZERS | {"wavlm-tiny"}) == shipped
