import random

from rollouts.policy.refusal_noise import RefusalNoise
from rollouts.policy.refusal_row import RefusalRow


def test_the_first_refusal_cuts_nothing_by_itself_and_those_that_follow_cut_deeper() -> None:
    row = RefusalRow()
    cuts = [row.refused(0.0)]
    for at in (1.0, 2.0, 3.0, 4.0):
        row.answered(at, 10.0, has_room=True)
        row.look(at)
        cuts.append(row.refused(at))
    assert cuts == [1.0, 0.95, 0.85, 0.75, 0.75]


def test_what_was_sent_before_a_cut_makes_no_row() -> None:
    row = RefusalRow()
    row.refused(0.0)
    assert row.refused(0.01) is None
    row.answered(0.02, 10.0, has_room=False)
    assert row.refused(0.03) is None
    assert row.length == 1


def test_an_answer_to_what_was_sent_after_the_cut_ends_the_row() -> None:
    row = RefusalRow()
    row.refused(0.0)
    row.answered(2.0, 1.5, has_room=True)
    assert row.length == 0


def test_several_requests_that_were_not_refused_end_the_row_before_they_are_answered() -> None:
    row = RefusalRow()
    row.refused(0.0)
    for _ in range(3):
        row.answered(1.0, 60.0, has_room=True)
    row.look(2.0)
    assert row.length == 1
    row.answered(2.0, 60.0, has_room=True)
    row.look(2.01)
    assert row.length == 0


def ignored(noise: RefusalNoise, levels: list[int], share: float, *, seconds: float = 0.02) -> list[int]:
    """Run 300 requests at each level, of which a share is refused; return the levels to which it would go back."""
    rng, now, back = random.Random(1), 0.0, []
    for level in levels:
        for _ in range(300):
            now += seconds
            if rng.random() >= share:
                noise.answered(level)
            elif (told := noise.refused(now, level, surprising=True)) is not None:
                back.append(told)
    return back


def test_refusals_that_go_on_at_half_the_level_are_noise() -> None:
    noise = RefusalNoise()
    assert ignored(noise, [64], 0.1) == []
    back = ignored(noise, [31], 0.1)
    assert back[0] == 64
    assert len(back) > 10
    assert set(back[1:]) == {31}


def test_refusals_that_stop_at_half_the_level_are_none() -> None:
    noise = RefusalNoise()
    assert ignored(noise, [64], 0.1) == []
    assert ignored(noise, [31], 0.0) == []
    assert ignored(noise, [31], 0.02) == []


def test_a_server_that_refuses_most_is_heeded_whatever_was_thought() -> None:
    noise = RefusalNoise()
    assert ignored(noise, [64, 31], 0.1)
    assert noise.refused(13.0, 64, surprising=False) == 64
    for _ in range(64):
        noise.refused(13.0, 64, surprising=False)
    assert noise.refused(13.0, 64, surprising=False) is None


def test_rare_refusals_are_forgotten() -> None:
    assert ignored(RefusalNoise(), [64, 31], 0.1, seconds=100.0) == []
