import pytest

from flowparts.util.masking import masked

SIGNED = "https://bucket.s3.amazonaws.com/a.csv?X-Amz-Credential=AKIA%2F1&X-Amz-Signature=abc&partNumber=2"
SHOWN = {
    "password": ("postgresql://user:pa/ss@word@host:5432/db", "postgresql://***@host:5432/db"),
    "token as user": ("https://ghp_abc@host/x", "https://***@host/x"),
    "signature": (
        SIGNED,
        "https://bucket.s3.amazonaws.com/a.csv?X-Amz-Credential=***&X-Amz-Signature=***&partNumber=2",
    ),
    "shared access": (
        "https://x.blob.core.windows.net/a?sv=1&sig=a%2Bb",
        "https://x.blob.core.windows.net/a?sv=1&sig=***",
    ),
    "in a sentence": ("can't read 'http://a:b@h/x': no", "can't read 'http://***@h/x': no"),
    "in HTML": ("<a href='https://h/x?a=1&amp;token=abc'>", "<a href='https://h/x?a=1&amp;token=***"),
    "nothing to hide": ("s3://bucket/key=1/a.csv", "s3://bucket/key=1/a.csv"),
    "no address": ("a@b.c?key=value", "a@b.c?key=value"),
}


@pytest.mark.parametrize(("text", "shown"), SHOWN.values(), ids=SHOWN)
def test_secrets_are_not_shown(text: str, shown: str) -> None:
    assert masked(text) == shown


def test_values_inside_of_lists_and_mappings_are_masked_and_others_left() -> None:
    assert masked({"a": ["http://u:p@h"], "b": 1, "c": None}) == {"a": ["http://***@h"], "b": 1, "c": None}
