"""Judges: the simulated world over its socket, and a person at the prompt."""

import tempfile
import threading
from multiprocessing.connection import Listener
from pathlib import Path

import pytest

from actdistill_ros.sim.protocol import WORLD, endpoint, recv_json, send_json
from actdistill_ros.trials.judges import Operator, World
from actdistill_ros.trials.protocol import Skipped, Trial, TrialsError

LIFT = Trial("models/a", "lift", 3)


@pytest.fixture
def folder():
    with tempfile.TemporaryDirectory(prefix="w") as name:
        yield Path(name)


class FakeWorld:
    """Answers what it is given, in order, then hangs up; `asked` is what it heard."""

    def __init__(self, folder: Path, *answers: dict) -> None:
        self.asked: list[dict] = []
        self._listener = Listener(endpoint(folder, WORLD), family="AF_UNIX")
        self._thread = threading.Thread(target=self._serve, args=(answers,), daemon=True)
        self._thread.start()

    def _serve(self, answers) -> None:
        with self._listener.accept() as connection:
            for answer in answers:
                self.asked.append(recv_json(connection))
                send_json(connection, answer)

    def close(self) -> None:
        self._thread.join(5)
        self._listener.close()


def test_the_world_stages_after_the_arm_was_let_go_and_judges(folder):
    order, pauses = [], []
    world = FakeWorld(
        folder,
        {"enabled": True},
        {"enabled": False},
        {"instruction": "lift the red block", "task": "lift"},
        {"success": False, "reason": "on the table"},
        {"success": True, "reason": "in the air"},
        {"success": False, "reason": "fell down"},
        {"rtf": 0.98},
    )
    judge = World(folder, "tabletop-hard", lambda: order.append(len(world.asked)), held_out=True, pause=pauses.append)
    assert judge.stage(LIFT) == "lift the red block"
    assert order == [0]
    # The scene is set only once the motors are without power.
    assert [request["op"] for request in world.asked] == ["status", "status", "reset"] and len(pauses) == 1
    assert world.asked[2] == {"op": "reset", "suite": "tabletop-hard", "held_out": True, "task": "lift", "seed": 3}
    assert judge.look() is None
    assert judge.look().words == "in the air"
    assert (judge.decide().verdict, world.asked[-1]) == ("failure", {"op": "verdict"})
    assert judge.real_time_factor() == 0.98
    judge.close()
    world.close()


def test_a_world_that_refuses_or_goes_away_ends_the_trials_with_its_words(folder):
    world = FakeWorld(folder, {"enabled": False}, {"error": "unknown suite 'x'; known suites: tabletop"})
    judge = World(folder, "x", lambda: None)
    with pytest.raises(TrialsError, match="refused 'reset': unknown suite 'x'"):
        judge.stage(LIFT)
    world.close()
    with pytest.raises(TrialsError, match="went away at 'verdict'"):
        judge.look()
    judge.close()


def test_no_world_is_said_with_the_remedy(folder):
    with pytest.raises(TrialsError, match=r"no simulated world listens at .*world.sock .* hardware:=sim"):
        World(folder, "tabletop", lambda: None)


class Person:
    """Answers questions in order; the end of the answers is the end of standard input."""

    def __init__(self, *answers: str, typed: tuple[str, ...] = ()) -> None:
        self.answers, self.typed_lines, self.questions = list(answers), list(typed), []

    def ask(self, question: str) -> str:
        self.questions.append(question)
        if not self.answers:
            raise EOFError
        return self.answers.pop(0)

    def typed(self) -> str | None:
        return self.typed_lines.pop(0) if self.typed_lines else None


def operator(person: Person) -> Operator:
    return Operator(lambda trial: f"please {trial.task}", person.ask, person.typed)


def test_the_operator_is_told_what_to_set_up_and_gives_the_verdict():
    person = Person("", "maybe", "Y")
    judge = operator(person)
    assert judge.stage(LIFT) == "please lift"
    assert "lift, seed 3" in person.questions[0] and "please lift" in person.questions[0]
    assert judge.decide().verdict == "success"  # "maybe" was asked again
    assert len(person.questions) == 3


def test_the_operator_may_end_a_running_trial():
    judge = operator(Person(typed=("\n", "n\n")))
    assert judge.look() is None and judge.look().verdict == "failure" and judge.look() is None


def test_the_operator_may_skip_before_and_after():
    with pytest.raises(Skipped):
        operator(Person("s")).stage(LIFT)
    assert operator(Person("s")).decide().verdict == "unjudged"


def test_a_given_sentence_wins_over_the_made_up_one():
    assert operator(Person("")).stage(Trial("m", "lift", 3, "wipe the table")) == "wipe the table"


def test_nobody_at_the_prompt_is_said():
    with pytest.raises(TrialsError, match="nobody is at the prompt"):
        operator(Person()).decide()
