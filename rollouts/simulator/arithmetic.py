"""Problems made of bare numbers: sums, products, fractions, percentages, sequences.

Addition alone asks nothing about the form of the answer: its four phrasings are the whole vocabulary of very small
models that are trained for demonstrations, so the bundled prompts can be tried on a real one as well.
"""

from __future__ import annotations

import re
from fractions import Fraction
from itertools import pairwise
from random import Random

from rollouts.simulator.kinds import DECIMAL, NUMBER, Category, Problem, Solution, decimal_text, distinct_slips

BOXED = " Put your final answer in \\boxed{}."
"""Ending of every prompt except those of `ADDITION`."""

_SUMS = ("What is {a} + {b}?", "{a} plus {b} equals?", "Compute {a} + {b}.", "Add {a} and {b}.")
_SUM = re.compile(rf"{NUMBER} (?:\+|plus) {NUMBER}|Add {NUMBER} and {NUMBER}")
_PRODUCTS = ("Compute {a} × {b}.", "What is {a} times {b}?", "What is the product of {a} and {b}?")
_PRODUCT = re.compile(rf"{NUMBER} (?:×|times) {NUMBER}|product of {NUMBER} and {NUMBER}")
_FRACTION = re.compile(r"(?<!\d)(\d{1,6})/(\d{1,6}) ([+−×÷]) (\d{1,6})/(\d{1,6})(?!\d)")
_PART_OF = re.compile(rf"What is {DECIMAL}% of {DECIMAL}\?")
_REDUCED = re.compile(rf"costs \${DECIMAL}\. Its price is reduced by {DECIMAL}%")
_WHAT_PERCENT = re.compile(rf"{DECIMAL} is what percent of {DECIMAL}\?")
_SEQUENCE = re.compile(r"sequence ((?:-?\d{1,12}, ){3,9}-?\d{1,12})(?!\d)")


def _make_sum(rng: Random) -> Problem:
    a, b = rng.randrange(30), rng.randrange(30)
    return Problem(rng.choice(_SUMS).format(a=a, b=b), str(a + b), "math")


def _solve_sum(text: str) -> Solution | None:
    found = _SUM.search(text)
    if found is None:
        return None
    a, b = (int(number) for number in found.groups() if number is not None)
    total = a + b
    carries = a % 10 + b % 10 > 9
    forgot_carry = total - 10 if carries else total + 10
    return Solution(
        answer=str(total),
        slips=distinct_slips(str(total), forgot_carry, total + 1, total - 1, abs(a - b), total + 2, f"{a}{b}"),
        lead=f"{a} + {b} = ",
        tail=".",
        difficulty=min(1.0, 0.3 * carries + 0.008 * total),
    )


def _make_product(rng: Random) -> Problem:
    a, b = rng.randint(11, rng.choice((40, 400))), rng.randint(3, rng.choice((12, 99)))
    return Problem(rng.choice(_PRODUCTS).format(a=a, b=b) + BOXED, str(a * b), "math")


def _solve_product(text: str) -> Solution | None:
    found = _PRODUCT.search(text)
    if found is None:
        return None
    a, b = (int(number) for number in found.groups() if number is not None)
    product = a * b
    return Solution(
        answer=str(product),
        slips=distinct_slips(str(product), product - 10, product + a, product - b, product + 100, product + 1, a + b),
        lead=f"{a} × {b} = {a // 10 * 10} × {b} + {a % 10} × {b} = ",
        tail=".",
        difficulty=min(1.0, 0.2 * (len(str(a)) + len(str(b)) - 2) + 0.002 * b),
    )


def _combine(a: Fraction, sign: str, b: Fraction) -> Fraction:
    return {"+": a + b, "−": a - b, "×": a * b, "÷": a / b}[sign]


def _make_fraction(rng: Random) -> Problem:
    while True:
        (a, b), (c, d) = ((rng.randint(1, 11), rng.randint(2, 12)) for _ in range(2))
        sign = rng.choice("+−×÷")
        result = _combine(Fraction(a, b), sign, Fraction(c, d))
        if a < b and c < d and result > 0 and result.denominator > 1:
            question = f"Compute {a}/{b} {sign} {c}/{d} and give the result as a fraction in lowest terms."
            return Problem(question + BOXED, str(result), "math")


def _solve_fraction(text: str) -> Solution | None:
    found = _FRACTION.search(text)
    if found is None:
        return None
    a, b, c, d = (int(found[group]) for group in (1, 2, 4, 5))
    sign = found[3]
    if not (a and b and c and d):
        return None
    result = _combine(Fraction(a, b), sign, Fraction(c, d))
    straight = Fraction(a + c, b + d) if sign in "+−" else Fraction(a * d, b * c)
    others = (straight, 1 / straight, result + Fraction(1, b * d), result - Fraction(1, b), Fraction(a * c, b * d))
    return Solution(
        answer=str(result),
        slips=distinct_slips(str(result), *others),
        lead=f"Working with a denominator of {b * d if sign != '÷' else b * c}, {a}/{b} {sign} {c}/{d} gives ",
        tail=".",
        difficulty=min(1.0, 0.25 + 0.005 * b * d + 0.1 * (sign in "+−")),
    )


def _make_percentage(rng: Random) -> Problem:
    percent, whole = 5 * rng.randint(1, 19), 20 * rng.randint(2, 40)
    part = percent * whole // 100
    form = rng.randrange(3)
    if form == 0:
        return Problem(f"{part} is what percent of {whole}?{BOXED}", str(percent), "numeric")
    if form == 1:
        thing = rng.choice(("jacket", "lamp", "bicycle", "suitcase"))
        question = f"A {thing} costs ${whole}. Its price is reduced by {percent}%. What is the new price in dollars?"
        return Problem(question + BOXED, str(whole - part), "numeric")
    odd = whole + rng.choice((2, 6, 14))
    return Problem(f"What is {percent}% of {odd}?{BOXED}", decimal_text(Fraction(percent * odd, 100)), "numeric")


def _solve_percentage(text: str) -> Solution | None:
    if found := _PART_OF.search(text):
        percent, whole = Fraction(found[1]), Fraction(found[2])
        value, working = percent * whole / 100, f"{found[1]}% of {found[2]} is {found[2]} × {found[1]} / 100 = "
        wrong = (value / 10, value * 10, whole - value, value + 1)
    elif found := _REDUCED.search(text):
        whole, percent = Fraction(found[1]), Fraction(found[2])
        value, working = whole * (100 - percent) / 100, f"The reduction is {found[2]}% of {found[1]}, which leaves "
        wrong = (whole - value, whole - percent, value + whole / 10, value + 1)
    elif (found := _WHAT_PERCENT.search(text)) and Fraction(found[2]) > 0:
        part, whole = Fraction(found[1]), Fraction(found[2])
        value, working = part / whole * 100, f"{found[1]} / {found[2]} × 100 = "
        wrong = (100 - value, value / 10, whole - part, value + 5)
    else:
        return None
    answer = decimal_text(value)
    return Solution(
        answer=answer,
        slips=distinct_slips(answer, *map(decimal_text, wrong)),
        lead=working,
        tail=".",
        difficulty=min(1.0, 0.3 + 0.2 * (value.denominator > 1) + 0.0004 * float(whole)),
    )


def _make_sequence(rng: Random) -> Problem:
    start, step, growth = rng.randint(1, 20), rng.randint(2, 12), rng.randint(1, 4)
    form = rng.randrange(3)
    if form == 0:
        terms = [start + step * k for k in range(6)]
    elif form == 1:
        terms = [start * (growth + 1) ** k for k in range(6)]
    else:
        terms = [start + step * k + growth * k * (k - 1) // 2 for k in range(6)]
    shown = ", ".join(map(str, terms[:5]))
    return Problem(f"Which number comes next in the sequence {shown}?{BOXED}", str(terms[5]), "numeric")


def _solve_sequence(text: str) -> Solution | None:
    found = _SEQUENCE.search(text)
    if found is None:
        return None
    terms = [int(term) for term in found[1].split(", ")]
    steps = [after - before for before, after in pairwise(terms)]
    growths = [after - before for before, after in pairwise(steps)]
    if len(set(steps)) == 1:
        following, rule, difficulty = Fraction(terms[-1] + steps[-1]), f"Each term grows by {steps[-1]}", 0.1
    elif 0 not in terms and len({Fraction(b, a) for a, b in pairwise(terms)}) == 1:
        ratio = Fraction(terms[1], terms[0])
        following, rule, difficulty = terms[-1] * ratio, f"Each term is {ratio} times the last", 0.45
    elif len(set(growths)) == 1:
        following = Fraction(terms[-1] + steps[-1] + growths[-1])
        rule, difficulty = f"The differences grow by {growths[-1]} each time", 0.7
    else:
        return None
    wrong = (terms[-1] + steps[-1], following + 1, following - 2, following + steps[0], terms[-1] + steps[0])
    answer = decimal_text(following)
    return Solution(
        answer=answer,
        slips=distinct_slips(answer, *(decimal_text(Fraction(number)) for number in wrong)),
        lead=f"{rule}, so after {terms[-1]} comes ",
        tail=".",
        difficulty=difficulty,
    )


ADDITION = Category("addition", _make_sum, _solve_sum)
MULTIPLICATION = Category("multiplication", _make_product, _solve_product)
FRACTIONS = Category("fractions", _make_fraction, _solve_fraction)
PERCENTAGES = Category("percentages", _make_percentage, _solve_percentage)
SEQUENCES = Category("sequences", _make_sequence, _solve_sequence)
