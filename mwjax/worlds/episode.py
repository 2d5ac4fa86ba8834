"""The one loop that acts in a world and collects what is seen, for whoever records, measures or plays."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from mwjax.data.actions import Action
from mwjax.worlds.policy import Policy
from mwjax.worlds.world import Observation, World

ATTEMPTS = 10  # starts that are drawn before what there is must do


class Episode(NamedTuple):
    """Action i led to observation i; action 0 is empty. Shorter than it should be where the world ended early."""

    actions: list[Action]
    observations: list[Observation]


def episode(world: World, acts: Policy | Sequence[Action], *, first: Observation, frames: int | None = None) -> Episode:
    """Act in a world that has just been reset and shows `first`, until there are `frames` frames or the world ends.

    acts: a policy that has been started, or an action for every frame, the one of frame 0 empty; `frames` is then their
    number unless it is given. An action is held for a step; where a step gives several frames, it belongs to each.
    """
    if frames is None:
        frames = len(acts)
    actions = [Action()]
    observations = [first]
    ended = False
    while len(observations) < frames and not ended:
        if isinstance(acts, Sequence):
            action = acts[len(observations)]
        else:
            action = acts.act(observations[-1], blind=world.is_blind(observations[-1]))
        seen, ended = world.step(action)
        actions += [action] * len(seen)
        observations += seen
    return Episode(actions[:frames], observations[:frames])


def play(world: World, policy: Policy, *, seed: int, frames: int) -> Episode:
    """An episode of a policy, from a start drawn from `seed`.

    Starts that see nothing, and episodes that end early, are drawn again, up to ten times in all.
    """
    rng = np.random.default_rng(seed)
    for _ in range(ATTEMPTS):
        first = world.reset(seed=int(rng.integers(2**31)))
        result = Episode([Action()], [first])
        if world.is_blind(first):
            continue
        policy.start(rng)
        result = episode(world, policy, first=first, frames=frames)
        if len(result.observations) == frames:
            break
    return result


def find_start(world: World, seeds: Iterable[int]) -> int:
    """The first of `seeds` whose start sees something; the very first if none does."""
    seeds = list(seeds)
    for seed in seeds:
        if not world.is_blind(world.reset(seed=seed)):
            return seed
    return seeds[0]
