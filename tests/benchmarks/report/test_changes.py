"""What counts as a change between two results."""

import pytest
from benchmark_sample import contender, result, scaling, spread

from latentrt.benchmarks.report.changes import Verdict, changes_between, per_run, time_verdict
from latentrt.benchmarks.report.schema import Arithmetic, BenchResult, Figure, OwnEmoji, Settings
from latentrt.engines.errors import RequestError

OURS = "latentrt fp32"


def ours(seconds: float, **fields: object) -> BenchResult:
    return result(contender(OURS, "latentrt_bundle", seconds), **fields)


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (spread(1.0, 9), spread(1.0, 9), Verdict.SAME),
        (spread(1.0, 9), spread(0.8, 9), Verdict.BETTER),
        (spread(1.0, 9), spread(1.3, 9), Verdict.WORSE),
        (spread(1.0, 99), spread(1.02, 99), Verdict.SAME),  # certain, and too small to matter
        (spread(1.0, 3), spread(0.5, 3), Verdict.BETTER),  # three runs, far apart
        (spread(1.0, 3), spread(0.95, 3), Verdict.SAME),  # three runs, too near
        (Figure.of([1.0, 2.0, 3.0]), Figure.of([2.5, 3.5, 4.5]), Verdict.SAME),  # three runs that overlap
        (Figure.of([1.0, 9.0] * 5), Figure.of([1.5, 9.5] * 5), Verdict.SAME),  # noise as large as all
    ],
)
def test_a_time_changed_or_not(old: Figure, new: Figure, expected: Verdict) -> None:
    """By the medians' ratio and by the test, or by the ranges where there are few samples."""
    assert time_verdict(old, new) is expected


def test_the_verdict_turns_round_with_the_results() -> None:
    """Better one way is worse the other."""
    there, back = changes_between(ours(1.0), ours(0.5)), changes_between(ours(0.5), ours(1.0))
    turned = {Verdict.BETTER: Verdict.WORSE, Verdict.WORSE: Verdict.BETTER, Verdict.SAME: Verdict.SAME}
    assert [turned[change.verdict] for change in there.changes] == [change.verdict for change in back.changes]
    assert any(change.verdict is Verdict.BETTER for change in there.changes)


def test_names_what_only_one_has() -> None:
    """A peer that is gone, a precision that is new."""
    new = result(contender(OURS, "latentrt_bundle", 1.0), contender("latentrt int8", "latentrt_bundle", 0.5))
    old = result(contender(OURS, "latentrt_bundle", 1.0), contender("diffusers", "diffusers_eager", 2.0))
    comparison = changes_between(old, new)
    assert (comparison.only_old, comparison.only_new) == (("diffusers",), ("latentrt int8",))
    assert {change.contender for change in comparison.changes} == {OURS}
    assert "only in the new one: latentrt int8" in comparison.lines()


def test_a_smaller_psnr_and_a_larger_memory_are_worse() -> None:
    """Beyond 1 dB and 2 %; less is noise."""
    old = result(contender(OURS, "latentrt_bundle", 1.0, psnr=90.0, peak_bytes=1000))
    new = result(contender(OURS, "latentrt_bundle", 1.0, psnr=80.0, peak_bytes=1100))
    verdicts = {change.figure: change.verdict for change in changes_between(old, new).changes}
    assert verdicts["worst PSNR"] is Verdict.WORSE
    assert verdicts["peak memory"] is Verdict.WORSE
    near = result(contender(OURS, "latentrt_bundle", 1.0, psnr=89.5, peak_bytes=1010))
    assert {change.verdict for change in changes_between(old, near).changes} == {Verdict.SAME}


def test_says_that_machines_differ() -> None:
    """Another processor and a busy machine."""
    base = ours(1.0)
    busy = base.machine.model_copy(update={"processor": "another", "background": Figure.of([0.5])})
    warnings = changes_between(base, ours(1.0, machine=busy)).warnings
    assert any("another machine: processor" in warning for warning in warnings)
    assert any("50 %" in warning or "50%" in warning for warning in warnings)


def test_refuses_results_of_different_work() -> None:
    """Twenty steps against forty."""
    settings = ours(1.0).settings
    longer = Settings(**{**settings.model_dump(), "steps": 40})
    with pytest.raises(RequestError, match="steps 20 and 40"):
        changes_between(ours(1.0), ours(1.0, settings=longer))
    with pytest.raises(RequestError, match="model emoji and other"):
        changes_between(ours(1.0), ours(1.0, model="other"))


def test_steps_of_one_run_count_once() -> None:
    """Many steps that are alike within each of few runs prove nothing: 3 runs of 50 overlap, so nothing changed."""
    old, new = [1.0, 1.2, 1.4], [1.3, 1.5, 1.7]
    rows = []
    for runs in (old, new):
        steps = Figure.of([seconds * (1 + place / 1e6) for seconds in runs for place in range(50)])
        base = contender(OURS, "latentrt_bundle", 1.0)
        assert base.latency
        latency = base.latency.model_copy(update={"picture": Figure.of([1.0, 1.0, 1.0]), "step": steps})
        rows.append(result(contender(OURS, "latentrt_bundle", 1.0, latency=latency)))
    before, after = (row.contenders[0].latency for row in rows)
    assert before
    assert after
    assert before.step
    assert after.step
    assert time_verdict(before.step, after.step) is Verdict.WORSE  # what all samples would say
    assert per_run(before.step, 3).samples == pytest.approx(old, rel=1e-4)
    verdicts = {change.figure: change.verdict for change in changes_between(*rows).changes}
    assert verdicts["step"] is Verdict.SAME


def test_throughput_and_scaling_are_compared() -> None:
    """At each value; here a batch became slower than ten single pictures would."""
    old = ours(1.0)
    slow = scaling((1, 2, 4), 10.0, 0.9)
    new = result(contender(OURS, "latentrt_bundle", 1.0, throughput=slow))
    verdicts = {change.figure: change.verdict for change in changes_between(old, new).changes}
    assert [verdicts[f"batch of {n}"] for n in (1, 2, 4)] == [Verdict.WORSE] * 3
    assert verdicts["picture of 4096"] is Verdict.SAME


@pytest.mark.parametrize(
    ("old", "new", "pictures", "expected"),
    [
        (0.9, 0.5, 400, Verdict.WORSE),
        (0.5, 0.9, 400, Verdict.BETTER),
        (0.9, 0.88, 400, Verdict.SAME),
        (0.9, 0.5, 8, Verdict.SAME),
        (1.0, 1.0, 8, Verdict.SAME),
    ],
)
def test_own_emoji_rates_changed_or_not(old: float, new: float, pictures: int, expected: Verdict) -> None:
    """By how many pictures there are."""
    one, other = (
        result(
            contender(
                OURS,
                "latentrt_bundle",
                1.0,
                own_emoji=OwnEmoji(rate=rate, pictures=pictures, references=900, guidance_scale=3.0),
            )
        )
        for rate in (old, new)
    )
    verdicts = {change.figure: change.verdict for change in changes_between(one, other).changes}
    assert verdicts["own-emoji rate"] is expected


def test_says_whose_arithmetic_is_another() -> None:
    """Its times are of other work; one that was not told says nothing."""
    told = [Arithmetic(products={kind: 3}, source="a profiler") for kind in ("fp32", "bf16")]
    old, new = (result(contender(OURS, "latentrt_bundle", 1.0, arithmetic=one)) for one in told)
    assert f"{OURS} computed in fp32, does in bf16" in changes_between(old, new).warnings
    assert changes_between(ours(1.0), new).warnings == ()


def test_says_which_settings_and_versions_differ() -> None:
    """Prompts, sampler, threads; a library's new version."""
    settings = ours(1.0).settings.model_copy(update={"prompts": ("cow",), "sampler": "Euler", "threads": 1})
    new = result(contender(OURS, "latentrt_bundle", 1.0, versions={"library": "2.0"}), settings=settings)
    said = "\n".join(changes_between(ours(1.0), new).warnings)
    assert "prompts differ: 'cat, frog & <toad>' and 'cow'" in said
    assert "sampler differ" in said
    assert "threads differ: 'None' and '1'" in said
    assert f"{OURS}: library was 1.2.3, is 2.0" in said
    assert changes_between(ours(1.0), ours(1.0)).warnings == ()
