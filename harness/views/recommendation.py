"""What is recommended, for people: the best setting and the runners-up, what binds, what to relax, or what is nearest."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal

from plumbline.harness.cell import id_of
from plumbline.harness.rows import Row
from plumbline.harness.verdicts.figures import ACCURACY, DOUBTS, FIGURES, LATENCY, ORDERS, Figure, Order
from plumbline.harness.verdicts.recommendation import Answer, Question, Setting, apart
from plumbline.harness.views.table import NOTHING, tabulated
from plumbline.texts import number_of

AXES = ("model", "variant", "runtime", "precision", "batch", "image_size")  # the target is in the head
LEFT = ("setting", "lets in", "limit")
Untried = Mapping[str, "tuple[int, float | None]"]  # by limit: how many settings, and the value that is nearest to it


def text(
    answers: Sequence[Answer],
    question: Question,
    most: int = 5,
    style: str = "simple",
    problems: Sequence[str] = (),
    untried: Mapping[str, tuple[int, float | None]] = {},
) -> str:
    """Return what was asked, then each answer with `most` settings at most, then targets of which nothing was timed.

    `problems` say what of the runs could not be read. `untried` counts by limit the settings that it kept out without a trial,
    with the value of those that is nearest to it.
    """
    idle = [f"{_head(each)}: nothing was timed ({_counted(each.untimed)})" for each in answers if not each.timed]
    found = [paragraph for each in answers if each.timed for paragraph in _answer(each, question, most, style, untried)]
    unread = ["\n".join(f"- not read: {problem}" for problem in problems)] if problems else []
    return "\n\n".join(["\n".join(_asked(question)), *found, *idle, *unread])


def _asked(question: Question) -> Iterator[str]:
    for name, limit in question.limits.items():
        yield f"- {_limit(name, limit)}: {FIGURES[name].statistic}"
    orders = [ORDERS[name] for name in question.by]
    yield f"- best: {', then '.join(f'{_extreme(order)} {order.title}' for order in orders)}"


def _extreme(order: Order) -> str:
    return "least" if order.lower else "highest"


def _answer(answer: Answer, question: Question, most: int, style: str, untried: Untried) -> Iterator[str]:
    yield ("### " if style == "github" else "") + _head(answer)
    yield "\n".join(_population(answer, question))
    if answer.best is not None:
        yield from _found(answer, answer.best, question, most, style, untried)
    elif answer.settings:
        yield from _nothing(answer, question, most, style, untried)
    else:
        yield "nothing fits: no setting is left to choose from"
    if answer.overlooked is not None:
        row = answer.overlooked.row
        words = f"{_name(row)} was left out, and would be the best ({_order(row, question.order)})"
        yield f"- {words}: {_against(row)}"


def _head(answer: Answer) -> str:
    return f"{answer.target} on {answer.machine or 'an unknown machine'}" + (
        f" [{answer.machine_id}]" if answer.machine_id else ""
    )


def _population(answer: Answer, question: Question) -> Iterator[str]:
    """Say how many cells there are, and why some cannot be chosen."""
    timed = answer.rows - sum(answer.untimed.values())
    others = f"; the others: {_counted(answer.untimed)}" if answer.untimed else ""
    yield f"{timed} of {number_of(answer.rows, 'cell')} passed their checks and were timed{others}"
    for doubt, count in answer.aside.items():
        yield f"- left out: {count} {doubt}: {DOUBTS[doubt]}; --allow {doubt} takes them"
    if answer.unordered:
        yield f"- left out: {answer.unordered} of unknown {question.order.title}"
    if len(answer.pictures) > 1:
        yield f"- top-1 is of different pictures ({_counted(answer.pictures)}), and not comparable between these; see --model"
    for name, count in answer.unknown.items():
        yield f"- {FIGURES[name].title} is unknown for {count} of {number_of(answer.settings, 'setting')}; these cannot pass"


def _found(answer: Answer, best: Setting, question: Question, most: int, style: str, untried: Untried) -> Iterator[str]:
    order, fitting = question.order, answer.fitting
    yield f"recommended: {_name(best.row)}"
    yield _settings(fitting[:most], best, question, style)
    marks = {mark for each in fitting[:most] for mark in _marks(each.row)}
    equal = sum(not apart(each, best, order) for each in fitting[1:])
    lines = [
        f"{number_of(len(fitting), 'setting')} of {answer.settings} {'fits' if len(fitting) == 1 else 'fit'}"
        + (f"; {len(fitting) - most} more not shown" if len(fitting) > most else "")
    ]
    if equal:
        lines.append(
            f"{equal} of them cannot be told apart from the best: their 95 % intervals of {order.title} overlap, or are not known"
        )
    lines += [f"{mark} {words}" for mark, words in MARKS.items() if mark in marks]
    yield "\n".join(f"- {line}" for line in [*lines, *_binding(answer, best, question, untried)])
    yield from _steps(answer, question, style)


def without_trial(untried: Untried) -> Iterator[str]:
    """Say which limits kept settings out that were not tried, and what would let the nearest of them in, if that is known."""
    for name, (count, value) in untried.items():
        figure = FIGURES[name]
        end = "at least" if figure.most else "at most"
        known = "" if value is None else f"; {end} {_number(value, figure.scale)} {figure.unit}".rstrip()
        yield f"{figure.title} kept {number_of(count, 'setting')} out without a trial{known}"


def _binding(answer: Answer, best: Setting, question: Question, untried: Untried) -> Iterator[str]:
    """Say which limits keep better settings out, and what the next better one misses."""
    yield from without_trial(untried)
    if not answer.better and untried:
        yield "of those that were tried, none is better than the best, told apart from it, and kept out by a limit"
        return
    if not answer.better:
        yield "no limit binds: none keeps out a setting that is better, and told apart from the best"
        return
    counts = {name: sum(name in each.missed for each in answer.better) for name in question.limits}
    kept = ", ".join(f"{FIGURES[name].title} {count}" for name, count in counts.items() if count)
    are = "is better than the best" if len(answer.better) == 1 else "are better than the best"
    yield f"{number_of(len(answer.better), 'setting')} {are}, and kept out by limits: {kept}"
    following = answer.better[-1]
    missed = ", ".join(_missed(following, name) for name in following.missed)
    yield f"the next better one is {_name(following.row)} ({_gain(following, best, question.order)}); it misses {missed}"
    if not any(answer.steps.values()):
        yield "no limit, relaxed alone, lets a better one in"


def _missed(setting: Setting, name: str) -> str:
    excess = setting.excess[name]
    title = FIGURES[name].title
    return (
        f"{title}, which is not known" if excess is None else f"{title} by {_percent(excess)} ({_statistic(setting.row, name)})"
    )


def _nothing(answer: Answer, question: Question, most: int, style: str, untried: Untried) -> Iterator[str]:
    yield f"nothing fits: none of {number_of(answer.settings, 'setting')} is within all limits"
    yield "the nearest (sum of what it misses of each limit, as a share of that; first those of which all figures are known):"
    yield _nearest(answer.nearest[:most], question, style)
    yield "each limit by itself:"
    yield tabulated([_own(answer, name, limit) for name, limit in question.limits.items()], OWN, LEFT, style)
    if any(answer.steps.values()):
        yield from _steps(answer, question, style)
    else:
        yield f"no limit, relaxed alone, lets a setting in{' of those that were tried' if untried else ''}"
    if untried:
        yield "\n".join(f"- {line}" for line in without_trial(untried))


OWN = ["limit", "holds for", "best", "setting"]


def _own(answer: Answer, name: str, limit: float) -> list[str]:
    held = sum(each.excess[name] == 0 for each in answer.nearest)
    closest = answer.closest.get(name)
    shown = ["not known", NOTHING] if closest is None else [_statistic(closest.row, name), _name(closest.row)]
    return [_limit(name, limit), f"{held} of {answer.settings}", *shown]


def _nearest(settings: Sequence[Setting], question: Question, style: str) -> str:
    rows = []
    for each in settings:
        unknown, distance = each.distance
        known = _percent(distance) + (f", {unknown} not known" if unknown else "")
        rows.append(
            [
                _name(each.row),
                known,
                *(_beside(each, name) for name in question.limits),
                _order(each.row, question.order, unit=False),
            ]
        )
    return tabulated(rows, ["setting", "misses", *map(_headed, question.limits), _order_head(question.order)], LEFT, style)


def _beside(setting: Setting, name: str) -> str:
    excess = setting.excess[name]
    if excess is None:
        return "not known"
    value = _number(FIGURES[name].value(setting.row), FIGURES[name].scale)
    return f"{value} ({'+' if FIGURES[name].most else '-'}{_percent(excess)})" if excess else value


def _settings(settings: Sequence[Setting], best: Setting, question: Question, style: str) -> str:
    """Tabulate settings by what they are ordered by, latency, top-1, and what is limited."""
    orders = dict.fromkeys([*question.by, LATENCY, ACCURACY, *(name for name in question.limits if name in ORDERS)])
    figures = [name for name in question.limits if name not in ORDERS]
    heads = ["setting", *(_order_head(ORDERS[name]) for name in orders), *map(_headed, figures), "told\napart"]
    rows = [
        [
            _name(each.row) + _marks(each.row),
            *(_order(each.row, ORDERS[name], unit=False) for name in orders),
            *(_number(FIGURES[name].value(each.row), FIGURES[name].scale) for name in figures),
            NOTHING if each is best else "yes" if apart(each, best, question.order) else "no",
        ]
        for each in settings
    ]
    return tabulated(rows, heads, LEFT, style)


STEPS = ["limit", "relaxed to", "by", "lets in", "which has", "beside the best"]


def _steps(answer: Answer, question: Question, style: str) -> Iterator[str]:
    """Tabulate by limit the smallest relaxation that lets something (better) in, and the one that gains most."""
    rows = []
    for name, steps in answer.steps.items():
        for each in dict.fromkeys([0, len(steps) - 1]) if steps else ():
            setting = steps[each]
            rows.append([
                _limit(name, question.limits[name]),
                f"{relaxed(setting, FIGURES[name])} {FIGURES[name].unit}".rstrip(),
                _percent(setting.excess[name] or 0.0),
                _name(setting.row),
                _order(setting.row, question.order),
                NOTHING if answer.best is None else _gain(setting, answer.best, question.order),
            ])  # fmt: skip
    if rows:
        yield f"relaxing one limit alone lets {'in' if answer.best is None else 'better ones in'}, at the least and at the most:"
        yield tabulated(rows, STEPS, (*LEFT, "which has"), style)


def _name(row: Row) -> str:
    return id_of(AXES, (getattr(row, axis) for axis in AXES))


# What is said of a setting behind its name, as in the evaluation matrix.
MARKS = {
    "*": "arithmetic that the processor does not have, emulated",
    "!": "disturbed, or with a remark on its latency",
    "≈": "its energy is an estimate",
    "~": "its warm-up did not become steady",
}


def _marks(row: Row) -> str:
    there = row.latency_marks + ("≈" if row.energy_is_estimate else "")
    return "".join(mark for mark in MARKS if mark in there)


def _against(row: Row) -> str:
    emulated = [f"{row.precision} is emulated"] if row.emulated else []
    return "; ".join([*emulated, *filter(None, (row.disturbed, row.remarks))]) or "its energy is an estimate"


def _limit(name: str, limit: float) -> str:
    figure = FIGURES[name]
    return f"{figure.title} {'≤' if figure.most else '≥'} {limit / figure.scale:.6g} {figure.unit}".rstrip()


def _headed(name: str) -> str:
    figure = FIGURES[name]
    return f"{figure.title}\n{figure.unit}" if figure.unit else figure.title


def _order_head(order: Order) -> str:
    return f"{order.title}\n{order.unit}"


def _order(row: Row, order: Order, unit: bool = True) -> str:
    """Return a quantity with its interval, if it has one."""
    value, ends = order.value(row), order.ends(row)
    if value is None:
        return NOTHING
    between = "" if ends is None or ends[0] == ends[1] else f" ({'-'.join(_number(end, order.scale) for end in ends)})"
    return f"{_number(value, order.scale)}{between}" + (f" {order.unit}" if unit else "")


def _statistic(row: Row, name: str) -> str:
    figure = FIGURES[name]
    return f"{_number(figure.value(row), figure.scale)} {figure.unit}".rstrip()


def _number(value: float | None, scale: float) -> str:
    """Return three digits, of a thousand and more all of them."""
    if value is None:
        return NOTHING
    return f"{value / scale:.3g}" if abs(value / scale) < 1000 else f"{value / scale:.0f}"


def relaxed(setting: Setting, figure: Figure) -> str:
    """Return a setting's figure with three digits, rounded so that as a limit it lets the setting in."""
    value = figure.value(setting.row)
    if not value:
        return "0"
    digit = Decimal(10) ** (math.floor(math.log10(value / figure.scale)) - 2)
    shown = Decimal(value / figure.scale).quantize(digit, ROUND_CEILING if figure.most else ROUND_FLOOR)
    limit = float(shown) * figure.scale  # as the command line reads it
    if limit < value if figure.most else limit > value:
        shown += digit if figure.most else -digit
    return f"{shown:f}"


def _percent(share: float) -> str:
    """Return a share in percent, with two digits."""
    return f"{100 * share:.2g}%" if share < 0.995 else f"{100 * share:.0f}%"


def _gain(setting: Setting, best: Setting, order: Order) -> str:
    """Say how a setting differs from the best: in points of a share, else as a share of what the best one has."""
    value, than = order.value(setting.row), order.value(best.row)
    assert value is not None and than is not None, "settings are ordered by what is known"
    if order is ORDERS[ACCURACY]:
        return f"{100 * (value - than):+.2f} points"
    if than <= 0:  # energy beyond that at rest can be lost in noise
        return f"{(value - than) / order.scale:+.3g} {order.unit}"
    return f"{100 * (value / than - 1):+.3g}% {order.title}"


def _counted(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {word}" for word, count in counts.items())
