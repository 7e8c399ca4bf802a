import pytest

from rollouts.canonical_text import canonical_text, has_raised_or_fraction


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("  a \t\r\n b  ", "a b"),
        ("a\u00a0b\u2009c\u3000d", "a b c d"),
        ("\uff11\uff12 \ufb01ne", "12 fine"),
        ("cafe\u0301", "caf\u00e9"),
        ("Case", "Case"),
        ("", ""),
    ],
)
def test_texts_that_read_the_same_have_one_spelling(text, canonical):
    assert canonical_text(text) == canonical
    assert canonical_text(canonical) == canonical


@pytest.mark.parametrize("text", ["10²", "1½", "x₁", "¾", "5⁻¹"])
def test_raised_digits_and_fractions_stay_what_they_are(text):
    assert canonical_text(f" {text} ") == text
    assert has_raised_or_fraction(text)


def test_ordinary_text_has_no_raised_digits():
    assert not has_raised_or_fraction("1/2 of 10^2 °C")


def test_only_white_space_reads_as_nothing():
    """Whoever asks whether a text is empty may strip it instead."""
    characters = [chr(code) for code in range(0x3100)]
    assert [c for c in characters if not canonical_text(c)] == [c for c in characters if not c.strip()]
