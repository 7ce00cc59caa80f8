"""`dhhpc scale report --compare`: a study before and after a change, as a table and an exit code."""

from __future__ import annotations

from pathlib import Path


def compare_studies(before: Path, after: Path, tolerance: float, as_json: bool) -> None:
    """Print the change of every point and over all.

    Raises:
        DhhpcError: training has become slower beyond the tolerance; or the studies cannot be compared.
    """
    from dhhpc.errors import DhhpcError
    from dhhpc.scaling.studies.comparison import compare, named
    from dhhpc.scaling.studies.results import read_results

    try:
        found = compare(read_results(before), read_results(after))
    except DhhpcError as error:
        raise DhhpcError(f"{before} and {after}: {error}") from None
    verdict, overall = found.verdict(tolerance), found.overall
    if as_json:
        print(found.model_dump_json(indent=2))
    else:
        names = [
            named((each.variant or "", each.threads or 0, each.nodes, each.ranks or 0))
            for each in found.points
        ]
        width = max(map(len, [*names, "all points"])) + 2
        print(f"{'':{width}}{'before (s)':>11}{'after (s)':>11}{'ratio':>8}{'95 % interval':>17}")
        for name, each in zip(names, found.points, strict=True):
            print(
                f"{name:{width}}{each.before:11.2f}{each.after:11.2f}{each.ratio:8.3f}"
                f"{f'{each.low:.3f} to {each.high:.3f}':>17}"
            )
        over = f"{overall.ratio:8.3f}{f'{overall.low:.3f} to {overall.high:.3f}':>17}"
        print(f"{'all points':{width}}{'':22}{over}")
        what = "ratios of repeats, measured in turn," if found.in_turn else "runs of the same point"
        print(f"{what} differ by {found.deviation:.1%}; tolerance {tolerance:.1%}: {verdict}")
        if not found.in_turn:
            print(
                "not measured in turn: what else has changed on the machine counts, too; measure a repeat of "
                "one and of the other, `dhhpc scale run ... --repeats 1`, then `--repeats 2`, and so on"
            )
        for name in found.unmatched:
            print(f"measured by one study alone: {name}")
        if found.differing:
            print(f"the experiments differ in {', '.join(found.differing)}")
    if verdict == "slower":
        raise DhhpcError(
            f"{after}: training takes {overall.ratio:.3f} times as long as in {before} "
            f"({overall.low:.3f} to {overall.high:.3f}), more than --tolerance {tolerance:g} allows"
        )
