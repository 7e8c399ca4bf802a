"""Problems made of words: units, short stories, letters, multiple choice."""

from __future__ import annotations

import re
from fractions import Fraction
from random import Random

from rollouts.simulator.arithmetic import BOXED
from rollouts.simulator.kinds import DECIMAL, NUMBER, Category, Problem, Solution, decimal_text, distinct_slips

_UNITS = {
    ("kilometers", "meters"): 1000,
    ("kilograms", "grams"): 1000,
    ("liters", "milliliters"): 1000,
    ("meters", "centimeters"): 100,
    ("hours", "minutes"): 60,
    ("minutes", "seconds"): 60,
    ("days", "hours"): 24,
    ("feet", "inches"): 12,
}
"""Smaller units in one larger unit."""
_CONVERT = re.compile(rf"Convert {DECIMAL} ([a-z]{{1,20}}) to ([a-z]{{1,20}})")

_NAMES = ("Mia", "Noah", "Amara", "Kenji", "Lena", "Omar", "Sofia", "Ravi")
_THINGS = ("pencils", "apples", "stickers", "marbles", "buttons")
_BOXES = re.compile(rf"has {NUMBER} boxes with {NUMBER} (\w+) in each\. \w+ gives away {NUMBER} ")
_TRAIN = re.compile(rf"at {NUMBER} km per hour for {NUMBER} hours and then at {NUMBER} km per hour for {NUMBER} hours")
_SAVINGS = re.compile(rf"saves \${NUMBER} every week and already has \${NUMBER}\. How many weeks .{{0,60}}\${NUMBER}\?")

_WORDS = (
    "instructor",
    "puzzle",
    "window",
    "garden",
    "penguin",
    "library",
    "station",
    "musician",
    "bicycle",
    "volcano",
    "harvest",
    "lantern",
    "orchestra",
    "committee",
    "balloon",
    "dinosaur",
    "elephant",
    "festival",
    "mountain",
    "umbrella",
    "notebook",
    "sandwich",
    "telescope",
    "waterfall",
    "blanket",
    "cinnamon",
    "parallel",
    "successful",
    "mississippi",
    "strawberry",
    "bookkeeper",
    "refrigerator",
)
_BACKWARDS = re.compile(r'Write the word "([a-z]{2,40})" backwards')
_COUNT = re.compile(r'How many times does the letter "([a-z])" occur in the word "([a-z]{1,40})"')
_SORT = re.compile(r'Put the letters of the word "([a-z]{2,40})" in alphabetical order')

_LETTERS = "ABCD"
_CHOICE = re.compile(
    r"Which of these numbers is (the largest|divisible by \d{1,3}|a prime number)\?"
    r"\s+A\) (\d{1,6})\s+B\) (\d{1,6})\s+C\) (\d{1,6})\s+D\) (\d{1,6})(?!\d)"
)


def _make_conversion(rng: Random) -> Problem:
    (large, small), factor = rng.choice(list(_UNITS.items()))
    if rng.random() < 0.5:
        amount = Fraction(rng.randint(3, 60), rng.choice((1, 2)))
        return _conversion(amount, large, small, amount * factor)
    result = Fraction(rng.randint(3, 60), 2)
    return _conversion(result * factor, small, large, result)


def _conversion(amount: Fraction, unit: str, other: str, result: Fraction) -> Problem:
    return Problem(f"Convert {decimal_text(amount)} {unit} to {other}.{BOXED}", decimal_text(result), "numeric")


def _solve_conversion(text: str) -> Solution | None:
    found = _CONVERT.search(text)
    if found is None:
        return None
    amount, unit, other = Fraction(found[1]), found[2], found[3]
    if (unit, other) in _UNITS:
        factor, sign = Fraction(_UNITS[unit, other]), "×"
    elif (other, unit) in _UNITS:
        factor, sign = Fraction(1, _UNITS[other, unit]), "/"
    else:
        return None
    count = factor if sign == "×" else 1 / factor
    value = amount * factor
    answer = decimal_text(value)
    wrong = map(decimal_text, (value / 10, value * 10, amount / factor, value * 2, value + 1))
    return Solution(
        answer=answer,
        slips=distinct_slips(answer, *wrong),
        lead=f"{found[1]} {unit} {sign} {count} gives ",
        tail=f" {other}.",
        difficulty=0.2 + 0.25 * (sign == "/") + 0.2 * (count in (12, 24, 60)) + 0.15 * (value.denominator > 1),
    )


def _make_story(rng: Random) -> Problem:
    name, things = rng.choice(_NAMES), rng.choice(_THINGS)
    form = rng.randrange(3)
    if form == 0:
        boxes, each = rng.randint(4, 15), rng.randint(6, 24)
        given = rng.randint(3, boxes * each - 5)
        question = (
            f"{name} has {boxes} boxes with {each} {things} in each. {name} gives away {given} {things}. "
            f"How many {things} are left?"
        )
        return Problem(question + BOXED, str(boxes * each - given), "numeric")
    if form == 1:
        slow, first, fast, then = rng.randint(40, 70), rng.randint(2, 5), rng.randint(75, 120), rng.randint(2, 6)
        question = (
            f"A train travels at {slow} km per hour for {first} hours and then at {fast} km per hour for {then} hours. "
            "How many km does it travel in all?"
        )
        return Problem(question + BOXED, str(slow * first + fast * then), "numeric")
    weekly, owned, weeks = rng.randint(5, 30), rng.randint(10, 90), rng.randint(4, 20)
    question = (
        f"{name} saves ${weekly} every week and already has ${owned}. "
        f"How many weeks does it take until {name} has ${weekly * weeks + owned}?"
    )
    return Problem(question + BOXED, str(weeks), "numeric")


def _solve_story(text: str) -> Solution | None:
    if found := _BOXES.search(text):
        boxes, each, given = int(found[1]), int(found[2]), int(found[4])
        value, size = boxes * each - given, boxes * each
        wrong = (size, boxes + each - given, value + 10, value - each, size + given)
        lead, tail = f"There are {boxes} × {each} {found[3]}. Without {given} that leaves ", "."
    elif found := _TRAIN.search(text):
        a, b, c, d = (int(number) for number in found.groups())
        value = size = a * b + c * d
        wrong = ((a + c) * (b + d), value - a, value + c, value - 10, a * b)
        lead, tail = f"The two parts are {a} × {b} km and {c} × {d} km, together ", " km."
    elif (found := _SAVINGS.search(text)) and int(found[1]) > 0:
        weekly, owned, wanted = (int(number) for number in found.groups())
        (value, rest), size = divmod(wanted - owned, weekly), wanted
        if rest or value < 0:
            return None
        wrong = (wanted // weekly, value + 1, value - 1, (wanted + owned) // weekly, wanted - owned)
        lead, tail = f"${wanted} − ${owned} is missing, and at ${weekly} a week that takes ", " weeks."
    else:
        return None
    return Solution(str(value), distinct_slips(str(value), *wrong), lead, tail, min(1.0, 0.35 + 0.001 * size))


def _make_letters(rng: Random) -> Problem:
    word = rng.choice(_WORDS)
    form = rng.randrange(3)
    if form == 0:
        return Problem(f'Write the word "{word}" backwards.{BOXED}', word[::-1], "exact_match")
    if form == 1:
        ordered = "".join(sorted(word))
        return Problem(f'Put the letters of the word "{word}" in alphabetical order.{BOXED}', ordered, "exact_match")
    letter = rng.choice(word)
    question = f'How many times does the letter "{letter}" occur in the word "{word}"?'
    return Problem(question + BOXED, str(word.count(letter)), "exact_match")


def _swap(word: str, at: int) -> str:
    """`word` with the letters at `at` and `at + 1` exchanged."""
    return word[:at] + word[at : at + 2][::-1] + word[at + 2 :]


def _solve_letters(text: str) -> Solution | None:
    if found := _COUNT.search(text):
        letter, word = found[1], found[2]
        count = word.count(letter)
        slips = distinct_slips(str(count), max(count - 1, 0), count + 1, count + 2)
        difficulty = min(1.0, 0.1 + 0.25 * count)
        return Solution(str(count), slips, f'Going through "{word}" letter by letter I find ', ".", difficulty)
    if found := _BACKWARDS.search(text):
        result, how = found[1][::-1], "from the last letter to the first"
    elif found := _SORT.search(text):
        result, how = "".join(sorted(found[1])), "letter by letter in alphabetical order"
    else:
        return None
    middle = len(result) // 2
    wrong = (_swap(result, middle), result[:middle] + result[middle + 1 :], _swap(result, 0), result + result[-1])
    return Solution(
        answer=result,
        slips=distinct_slips(result, *wrong, found[1]),
        lead=f'Writing "{found[1]}" {how} gives ',
        tail=".",
        difficulty=min(1.0, 0.08 * len(result)),
    )


def _is_prime(number: int) -> bool:
    # Trial division is enough: the pattern lets six digits through.
    return number > 1 and all(number % divisor for divisor in range(2, int(number**0.5) + 1))


def _fits(number: int, property_: str, numbers: list[int]) -> bool:
    if property_ == "the largest":
        return number == max(numbers)
    if property_ == "a prime number":
        return _is_prime(number)
    divisor = int(property_.rsplit(" ", 1)[1])
    return divisor > 0 and number % divisor == 0


def _make_choice(rng: Random) -> Problem:
    property_ = rng.choice(("the largest", "a prime number", f"divisible by {rng.randint(3, 12)}"))
    while True:
        numbers = rng.sample(range(20, 200), 4)
        fitting = [at for at, number in enumerate(numbers) if _fits(number, property_, numbers)]
        if len(fitting) == 1:
            break
    options = "\n".join(f"{letter}) {number}" for letter, number in zip(_LETTERS, numbers, strict=True))
    question = f"Which of these numbers is {property_}?\n{options}\nPut the letter of your answer in \\boxed{{}}."
    return Problem(question, _LETTERS[fitting[0]], "exact_match")


def _solve_choice(text: str) -> Solution | None:
    found = _CHOICE.search(text)
    if found is None:
        return None
    property_, *options = found.groups()
    numbers = [int(option) for option in options]
    fitting = [at for at, number in enumerate(numbers) if _fits(number, property_, numbers)]
    if len(fitting) != 1:
        return None
    right = _LETTERS[fitting[0]]
    others = sorted((letter for letter in _LETTERS if letter != right), key=lambda x: numbers[_LETTERS.index(x)] % 7)
    return Solution(
        answer=right,
        slips=distinct_slips(right, *others),
        lead=f"Looking at all four, the number that is {property_} stands at ",
        tail=".",
        difficulty={"t": 0.05, "d": 0.5, "a": 0.65}[property_[0]],
    )


CONVERSIONS = Category("unit_conversion", _make_conversion, _solve_conversion)
STORIES = Category("word_problem", _make_story, _solve_story)
LETTERS = Category("letters", _make_letters, _solve_letters)
CHOICES = Category("multiple_choice", _make_choice, _solve_choice)
