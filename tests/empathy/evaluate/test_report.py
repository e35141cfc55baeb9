"""The report's tables and figures say what they show."""

import re

import numpy as np
import pytest

from matryo.empathy.envs import Coexistence, Sharing, World
from matryo.empathy.envs.drawing import draw_game
from matryo.empathy.evaluate import Comparison, Group
from matryo.empathy.evaluate.intervals import Interval
from matryo.empathy.report.page import Findings, write_report
from matryo.empathy.report.plots import draw_curves, draw_groups

METRICS = ("steps", "others_killed", "got_killed", "total", "coins", "other_coins", "equality")


def made_group(name, seeds):
    values = {metric: tuple(np.linspace(0.2, 0.8, seeds).tolist()) for metric in METRICS}
    return Group(name, tuple(range(seeds)), values, {metric: Interval(0.5, 0.3, 0.7) for metric in METRICS})


@pytest.mark.parametrize("world", [Sharing(), Coexistence()])
def test_to_take_coins_slowly_is_no_improvement(tmp_path, world):
    """Steps are survival in Coexistence; in Sharing they are the time until the coins are gone."""
    groups = {name: made_group(name, 3) for name in ("empathic-b0.5", "empathic-b1")}
    one = Interval(0.1, 0.0, 0.2)
    compared = [
        Comparison("empathic-b0.5", "empathic-b1", metric, one, one, 3)
        for metric in ("others_killed", "equality", "steps")
    ]
    episodes = {}
    if not world.has_coins:
        from matryo.empathy.agents import RandomAgent
        from matryo.empathy.evaluate import play

        played = play(world, lambda views: RandomAgent(0).select_action(views), 1, 3, 0, 0.0)
        episodes = {(name, 0): played[0] for name in groups}
    found = Findings(world, {0.0: groups}, {0.0: compared}, episodes, {}, ["about"])
    write_report([found], tmp_path / "r.html", "title")
    page = (tmp_path / "r.html").read_text(encoding="utf-8")
    rows = [re.findall(r"<td[^>]*>(.*?)</td>", row) for row in re.findall(r"<tr>(.*?)</tr>", page, re.DOTALL)]
    shown = [row[1] for row in rows if row and row[0].startswith("β = 1 −")]
    assert shown == (["equality"] if world.has_coins else ["kills", "steps"])
    assert ("steps survived" in page) != world.has_coins


def test_one_seed_has_no_interval_and_one_point_is_seen():
    assert draw_groups([made_group("random", 1)], "steps", "steps").count("<path") < draw_groups(
        [made_group("random", 2)], "steps", "steps"
    ).count("<path")
    curve = draw_curves({"empathic-b1": ([400.0], np.array([[0.25, 0.5]]))}, "kills")
    assert re.search(r"<use [^>]*fill: #2f7ed8", curve), "a marker, as a line through one point is none"


def test_only_who_carries_a_weapon_is_drawn_with_one():
    class Unarmed(Coexistence):
        has_weapons = False

    armed, unarmed = (
        draw_game(world, world.start(np.zeros((1, world.start_draws)))) for world in (Coexistence(), Unarmed())
    )
    assert not World.has_weapons and (armed != unarmed).any()
    assert (armed == draw_game(Coexistence(), Coexistence().start(np.zeros((1, 0))))).all()
