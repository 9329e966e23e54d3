"""The report as Markdown tables, from the same plain data that stands in results.json."""

from mutoscope.evaluate.metrics.detectors import DETECTORS
from mutoscope.evaluate.metrics.stability import STATISTICS

SHOWN_FRAMES = (1, 2, 4)


def markdown(plain: dict, pictures: list[str]) -> str:
    """The whole report."""
    protocol = plain["protocol"]
    parts = [f"# Evaluation on `{protocol['world']['name']}`", *protocol["notes"], _origin(plain["provenance"])]
    parts += [f"Left out: {reason}." for reason in protocol["left_out"]]
    parts += [f"![{name}]({name})" for name in pictures]
    parts += [_metric_table(plain, name) for name in plain["metrics"] if _has_metric(plain, name)]
    parts += [table(plain) for table in (_frechet_table, _stability_table, _comparison_table)]
    return "\n\n".join(part for part in parts if part) + "\n"


def table(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def cell(interval: dict) -> str:
    """`value [low, high]` with three significant decimals; a dash where nothing could be measured."""
    if interval["value"] is None:
        return "-"
    return (
        f"{interval['value']:.3f}"
        if interval["low"] is None
        else f"{interval['value']:.3f} [{interval['low']:.3f}, {interval['high']:.3f}]"
    )


def _origin(origin: dict) -> str:
    return f"Made {origin['date']} at commit {origin['commit']} on {origin['processor']} (accelerator: {origin['accelerator']})."


def _has_metric(plain: dict, name: str) -> bool:
    return any(name in candidate["metrics"] for candidate in plain["candidates"].values())


def _shown(plain: dict) -> list[int]:
    return sorted({*SHOWN_FRAMES, *plain["protocol"]["config"]["horizons"]})


def _metric_table(plain: dict, name: str) -> str:
    info, shown = plain["metrics"][name], _shown(plain)
    rows = [_metric_row(label, candidate["metrics"], name, shown) for label, candidate in plain["candidates"].items()]
    if name in plain["real"]["metrics"]:
        rows.append(_metric_row("real clips", plain["real"]["metrics"], name, shown))
    if name in plain["real"].get("forgetful", {}):
        rows.append(_metric_row("copies what is in view, forgets the rest", plain["real"]["forgetful"], name, shown))
    title = f"## {info['title']}\n\n{info['span'].capitalize()}; better: {info['better']}."
    if name.startswith("tiles_") and "tile_chance" in plain["real"]:
        title += f" Chance is {plain['real']['tile_chance']:.3f}."
    return f"{title}\n\n{table(['', *(f'k = {horizon}' for horizon in shown)], rows)}"


def _metric_row(label: str, metrics: dict, name: str, shown: list[int]) -> list[str]:
    columns = metrics.get(name, [])
    return [label, *(cell(columns[horizon - 1]) if horizon <= len(columns) else "-" for horizon in shown)]


def _frechet_table(plain: dict) -> str:
    halves = plain["real"]["frechet_halves"]
    if not halves:
        return ""
    rows = [[label, *(cell(candidate["frechet"][horizon]) for horizon in halves)] for label, candidate in plain["candidates"].items()]
    rows.append(["two halves of the real clips", *(f"{distance:.3f}" for distance in halves.values())])
    title = "## Frechet video distance (NOT the published FVD)\n\nFrames 1 to k; better: lower. The halves hold half as many clips "
    title += "each, of other episodes; candidates begin from the very frames of the clips that they are compared with."
    return f"{title}\n\n{table(['', *(f'k = {horizon}' for horizon in halves)], rows)}"


def _stability_table(plain: dict) -> str:
    if "stability" not in plain["real"]:
        return ""
    config, real = plain["protocol"]["config"], plain["real"]["stability"]
    names = ["all four", *STATISTICS, *DETECTORS]
    played = {label: candidate["stability"] for label, candidate in plain["candidates"].items() if candidate["stability"]}
    rows = [[label, *(cell(found[name]) for name in names)] for label, found in played.items()]
    rows.append(
        ["real clips, each in the range of the others", f"{real['share_inside_other_real_clips'] or 0:.3f}", *["-"] * (len(names) - 1)]
    )
    bounds = "; ".join(f"{name} {low:.4g} to {high:.4g}" for name, (low, high) in real["range"].items())
    title = (
        f"## Stability over {config['stability_frames']} frames of play, {config['stability_seeds']} seeds\n\n"
        f"Share of {config['stability_window']}-frame windows whose mean lies in the 1-99 % range of {real['windows']} real windows "
        f"({bounds}), and share in which a detector fires (better: 0)."
    )
    return f"{title}\n\n{table(['', *names], rows)}"


def _comparison_table(plain: dict) -> str:
    groups: dict[tuple[str, str, str], list[dict]] = {}
    for item in plain["comparisons"]:
        groups.setdefault((item["first"], item["second"], item["metric"]), []).append(item)
    rows = [_comparison_row(key, items, plain["protocol"]["config"]["horizons"]) for key, items in groups.items()]
    if not rows:
        return ""
    title = "## Paired comparisons\n\nDifference first - second at the horizons; verdicts by 95 % intervals of the paired difference."
    return f"{title}\n\n{table(['first', 'second', 'metric', 'difference', 'better at k', 'worse at k', 'undecided at k'], rows)}"


def _comparison_row(key: tuple[str, str, str], items: list[dict], horizons: list[int]) -> list[str]:
    told = "; ".join(f"k = {item['horizon']}: {cell(item['difference'])}" for item in items if item["horizon"] in horizons)
    found = [[str(item["horizon"]) for item in items if item["verdict"] == verdict] for verdict in ("better", "worse", "undecided")]
    return [*key, told, *(", ".join(places) or "-" for places in found)]
