"""Where an input's queries go: finding its displacement, the profile, and what is left for its measurement.

An input's check and its share of the pilot come out of its queries while they are a small part of them (``GIVEN``). Beyond
that they add up to ``most_on_top`` rows, and the rest is taken from the measurement, as the profile is. The measurement
keeps half at either step, so that few queries may become more.
"""

from __future__ import annotations

from fimaudit.measurement.counterexample import ASKED, WITNESS_ROWS
from fimaudit.measurement.settings import Settings

__all__ = [
    "ON_TOP",
    "OWN_RUNGS",
    "PROFILE_DIRECTIONS",
    "PROFILE_RUNGS",
    "WALK_ROWS",
    "WITNESS_FROM",
    "after_extras",
    "after_finding",
    "extra_rows",
    "looks_for_witness",
    "most_on_top",
    "own_rungs",
    "profile_directions",
]

#: The base row and two directions: one contrast.
LEAST = 3
#: Rows that pilot and per-input checks may add to the queries; beyond so many rows, a quarter of that.
ON_TOP, FEW_ON_TOP = 0.10, 6
#: Part of its queries that a measurement gives to pilot and check before rows are added: its interval widens by half that.
GIVEN = 0.1
#: Directions a rung of the scale profile. The cheap one is on by default and paid from the queries: 16 a rung would cost
#: 16 % of them and take the median error of the spectral norm from 6.6 to 7.4 %, too near to what is promised; 8 leave it
#: at 7.0 %.
PROFILE_DIRECTIONS = {"off": 0, "cheap": 8, "full": 16}
#: Where fewer rows than this would be left for random main directions, the cheap profile is the walk along the slope alone:
#: of 50 queries 28 then become 41 (column "off" of benchmarks/regimes.py; fewer directions a rung would flag sound radii).
ENOUGH = 48
#: Rows along the slope, which show how far it holds. The cheap profile gives them: it takes a quarter fewer directions
#: where there is a radius to check.
WALK_ROWS = 4
#: Its l2 displacements in margin radii of the input: there the radius can be checked (``own_rungs``).
OWN_RUNGS = (0.5, 1.0)
#: And in ranges of one feature: what 0.3 to 8 is for images in [0, 1]. The cheap profile takes them only where there is no
#: radius.
PROFILE_RUNGS: dict[str, tuple[float, ...]] = {"off": (), "cheap": (1.0, 4.0), "full": (0.3, 1.0, 2.0, 4.0, 8.0)}
#: Queries from which a real change of decision is looked for unless it is refused.
WITNESS_FROM = 170


def most_on_top(queries: int) -> int:
    """Rows that an input's check and its share of the pilot add to its queries at most.

    >>> most_on_top(50), most_on_top(100), most_on_top(200), most_on_top(800)
    (5, 6, 6, 20)
    """
    return int(min(ON_TOP * queries, max(FEW_ON_TOP, ON_TOP / 4 * queries)))


def after_finding(queries: int, found: int, repeats: int) -> int:
    """Of so many queries, those left when the displacement is found.

    Args:
        queries: of the input, the base row included.
        found: rows of its check, of its own displacement, and its share of the pilot.
        repeats: of the base row.

    >>> after_finding(200, 9, 1), after_finding(100, 14, 1), after_finding(200, 50, 8), after_finding(22, 50, 1)
    (191, 90, 149, 11)
    """
    taken = max(found - most_on_top(queries), min(found, int(GIVEN * queries)))
    return max(LEAST, queries // 2, queries - taken - (repeats - 1))


def after_extras(queries: int, settings: Settings, separate: bool) -> int:
    """Of those, the ones left beside the rows of profile and witness.

    Args:
        queries: left when the displacement is found.
        settings: of the input's measurement.
        separate: whether the profile needs rows of its own at the local displacement.

    >>> after_extras(191, Settings(), False), after_extras(45, Settings(), False), after_extras(45, Settings(), True)
    (175, 41, 22)
    """
    return max(LEAST, queries // 2, queries - extra_rows(queries, settings, separate))


def extra_rows(queries: int, settings: Settings, separate: bool) -> int:
    """Rows that profile and witness take out of an input's queries, as for ``after_extras``.

    The profile's walk along the slope is the witness's first round, where there is one.

    >>> extra_rows(191, Settings(), True), extra_rows(191, Settings(witness=True), False), extra_rows(45, Settings(), False)
    (24, 24, 4)
    """
    directions = profile_directions(queries, settings, separate)
    profile = directions * _rungs(settings, separate) or WALK_ROWS * (settings.profile != "off")
    if not settings.witness:
        return profile
    if separate or not profile:
        return profile + WITNESS_ROWS
    spared = len(OWN_RUNGS) - len(own_rungs(settings, separate))
    return profile + WITNESS_ROWS - ASKED - spared * max(0, directions - WALK_ROWS // len(OWN_RUNGS))


def profile_directions(queries: int, settings: Settings, separate: bool) -> int:
    """Directions a rung of the profile, as for ``after_extras``; 0 where it is the walk alone."""
    directions = PROFILE_DIRECTIONS[settings.profile]
    walk_alone = settings.profile == "cheap" and not separate
    return 0 if walk_alone and queries - directions * _rungs(settings, separate) < ENOUGH else directions


def _rungs(settings: Settings, separate: bool) -> int:
    """Rungs of the profile that take rows."""
    if settings.profile == "off":
        return 0
    return len(PROFILE_RUNGS[settings.profile]) + (len(OWN_RUNGS) if settings.profile == "full" else 0) + separate


def own_rungs(settings: Settings, separate: bool) -> tuple[float, ...]:
    """Displacements of the profile in margin radii of the input, where it has one.

    The cheap profile beside a witness spares the one at half: the walk along the slope stops there too, and what it walks
    towards is a real change. Where the profile has rows of its own, as beside a whole Jacobian, they would serve nothing
    else, and the rung stays: some radii overstate at half of them only.

    Args:
        settings, separate: as for ``after_extras``.

    >>> own_rungs(Settings(), False), own_rungs(Settings(witness=True), False), own_rungs(Settings(witness=True), True)
    ((0.5, 1.0), (1.0,), (0.5, 1.0))
    """
    spares = settings.witness and settings.profile == "cheap" and not separate
    return OWN_RUNGS[1:] if spares else OWN_RUNGS


def looks_for_witness(asked: bool | None, queries: int) -> bool:
    """Whether a real change of decision is looked for: as was said, else from ``WITNESS_FROM`` queries on.

    >>> looks_for_witness(None, 169), looks_for_witness(None, 170), looks_for_witness(False, 200)
    (False, True, False)
    """
    return queries >= WITNESS_FROM if asked is None else asked
