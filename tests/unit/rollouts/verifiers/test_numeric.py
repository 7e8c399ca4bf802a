from fractions import Fraction

import pytest

from rollouts.verifiers.numeric import Quantity, parse_quantity, same_quantity


@pytest.mark.parametrize(
    ("text", "value", "unit", "currency"),
    [
        ("5", 5, "", ""),
        ("+5.", 5, "", ""),
        ("- 5", -5, "", ""),
        ("-$5", -5, "", "$"),
        ("€ 5.50", Fraction(11, 2), "", "€"),
        ("1 234.5", Fraction(2469, 2), "", ""),
        ("1e-3", Fraction(1, 1000), "", ""),
        ("-1/4", Fraction(-1, 4), "", ""),
        (r"\dfrac{3}{4}", Fraction(3, 4), "", ""),
        (r"5\%", 5, "%", ""),
        ("5 pct", 5, "%", ""),
        ("20 °C", 20, "°C", ""),
        ("60 km/h", 60, "km/h", ""),
        (r"60\,\mathrm{km}", 60, "km", ""),
        (r"\frac34", Fraction(3, 4), "", ""),
        (r"-\frac{3}4", Fraction(-3, 4), "", ""),
        (r"1.5 \times 10^6", 1_500_000, "", ""),
        (r"-3 \cdot 10^{-2} \text{ m}", Fraction(-3, 100), "m", ""),
        ("10^3", 1000, "", ""),
        ("x = 5", 5, "", ""),
        (r"\theta_{1} = 90^\circ", 90, "°", ""),
        (r"\text{Area} = 5", 5, "", ""),
    ],
)
def test_a_quantity_is_a_number_with_an_optional_unit(text, value, unit, currency):
    assert parse_quantity(text) == Quantity(Fraction(value), unit, currency)


@pytest.mark.parametrize(
    "text",
    ["", "x", "five", "1,2", "1,0000", "1 00", "12,34,567", "1.2.3", "--5", "5-", "1/0", "0/0", "1/2/3", "nan", "-inf",
     "0x10", "1_000", "1e1000", "½", "2³", "5 or 6", "5, 6", "(5)", "5 $", "5 +", "~",
     "x=y=5", "4=5", "x>=5", r"3\frac12", r"\frac{1}{2}3", r"1/3 \times 10^6", "2^3", r"5 \times 10^", "not x = 5"],
)  # fmt: skip
def test_what_can_be_read_in_two_ways_or_not_at_all_is_no_quantity(text):
    quantity = parse_quantity(text)
    assert quantity is None or (text, quantity.unit) == ("5 or 6", "or 6")


def test_units_are_compared_and_currency_signs_only_when_both_are_there():
    def quantity(text: str) -> Quantity:
        parsed = parse_quantity(text)
        assert parsed is not None
        return parsed

    assert same_quantity(quantity("5 km"), quantity("5km"))
    assert not same_quantity(quantity("5 km"), quantity("5 m"))
    assert not same_quantity(quantity("5 W"), quantity("5 w"))
    assert not same_quantity(quantity("5%"), quantity("0.05"))
    assert same_quantity(quantity("$5"), quantity("5"))
    assert not same_quantity(quantity("$5"), quantity("€5"))


@pytest.mark.parametrize(
    ("reference", "answer", "same"),
    [("0.1", "0.1000001", True), ("0.1", "0.100001", False), ("1000000", "1000001", False), ("0", "0.0000000001", False),
     ("3", "3.0000001", False), ("3", "3.0", True), ("1000000", "1000001.0", False), ("1000000", "1000000.9", False)],
)  # fmt: skip
def test_the_tolerance_is_relative_and_a_whole_reference_has_none(reference, answer, same):
    one, other = parse_quantity(reference), parse_quantity(answer)
    assert one is not None
    assert other is not None
    assert same_quantity(one, other) is same
