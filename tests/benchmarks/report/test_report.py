"""The report: its figures are the JSON's, it needs nothing beside itself, and a browser shows it without complaint."""

import json
import re
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from benchmark_sample import contender, result, scaling

from latentrt.benchmarks.report.markdown import markdown_table
from latentrt.benchmarks.report.page import FORMATS, bounds, operators, report_html, summary
from latentrt.benchmarks.report.schema import (
    Arithmetic,
    BenchResult,
    Contender,
    Figure,
    JudgedPictures,
    Layers,
    Weights,
)
from latentrt.benchmarks.report.weights import weights_table


class _Page(HTMLParser):
    """Figures by path and format, links, and the embedded JSON."""

    def __init__(self) -> None:
        super().__init__()
        self.figures: list[tuple[str, str, str]] = []
        self.links: list[str] = []
        self.ids: list[str] = []
        self.raw = ""
        self._open: tuple[str, str] | None = None
        self._in_raw = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {name: value or "" for name, value in attrs}
        if "data-path" in found:
            self._open = found["data-path"], found["data-format"]
        self.links += [found[name] for name in ("src", "href", "xlink:href") if name in found]
        self.ids += [found["id"]] if "id" in found else []
        self._in_raw = found.get("id") == "result"

    def handle_endtag(self, tag: str) -> None:
        self._open, self._in_raw = None, False

    def handle_data(self, data: str) -> None:
        if self._open is not None:
            self.figures.append((*self._open, data))
        if self._in_raw:
            self.raw += data


def parsed(one: BenchResult) -> _Page:
    page = _Page()
    page.feed(report_html(one))
    return page


def at(data: Any, path: str) -> Any:
    """Another reading of a dotted path than the report's own."""
    for part in path.split("."):
        data = None if data is None else data[int(part) if part.isdigit() else part]
    return data


def test_every_figure_is_the_jsons() -> None:
    """Each by its path, and all medians of all contenders among them."""
    data = json.loads(result().model_dump_json())
    page = parsed(result())
    assert page.figures
    for path, kind, text in page.figures:
        assert text == FORMATS[kind](at(data, path)), path
    shown = {path for path, _, _ in page.figures}
    for index in (0, 1):
        for place in ("latency.picture", "latency.step", "cold_start", "open"):
            assert f"contenders.{index}.{place}.median" in shown


def test_figures_read_as_they_should() -> None:
    """Written out here from the sample: 0.25 s a picture, steps of 10 ms, 75 MB, a worst PSNR of 95 dB, SSIM 0.999."""
    shown = {path: text for path, _, text in parsed(result()).figures}
    assert shown["contenders.0.latency.picture.median"] == "250 ms"
    assert shown["contenders.1.latency.picture.median"] == "500 ms"
    assert shown["contenders.0.latency.step.median"] == "10.0 ms"
    assert shown["contenders.0.latency.host_overhead.median"] == "250 µs"
    assert shown["contenders.0.cold_start.median"] == "1.25 s"
    assert shown["contenders.0.model_bytes"] == "40.0 MB"
    assert shown["contenders.0.packages_bytes"] == "190 MB"
    assert shown["contenders.0.quality.pictures.0.psnr"] == "95.0 dB"
    assert shown["contenders.0.quality.pictures.0.ssim"] == "0.999"
    assert shown["contenders.0.quality.pictures.0.flip"] == "0.012"
    assert shown["contenders.0.throughput.exponent"] == "0.90"
    assert shown["contenders.0.own_emoji.rate"] == "75 %"


def test_quality_of_each_engine_at_its_worst() -> None:
    """One table with latents, PSNR, SSIM and FLIP, each of the prompt where it is worst."""
    base = contender("latentrt int8", "latentrt_bundle", 0.2)
    assert base.quality
    first, second = base.quality.pictures
    pictures = (
        first.model_copy(update={"psnr": 20.0, "ssim": 0.9, "latent_relative_error": 0.1, "flip": 0.03}),
        second.model_copy(update={"psnr": 30.0, "ssim": 0.8, "latent_relative_error": 0.2, "flip": 0.02}),
    )
    quality = base.quality.model_copy(update={"pictures": pictures})
    rows = (base.model_copy(update={"quality": quality}), contender("diffusers", "diffusers_eager", 0.5, psnr=None))
    table = re.search(r'<table id="quality">.*?</table>', report_html(result(*rows)), re.S)
    assert table
    cells = re.findall(r"<td>(.*?)</td>", table[0], re.S)
    assert [re.sub(r"<[^>]+>", "", cell).strip() for cell in cells] == ["2.0e-01", "20.0 dB", "0.800", "0.030"]


def test_what_bounds_it_is_said_of_ours_and_the_fastest_peer() -> None:
    """1.2 GFLOP a step at 100 GFLOP/s are 12 ms; steps of 10, 20 and 40 ms reach 120, 60 and 30 % of that."""
    rows = [contender("latentrt fp32", "latentrt_bundle", 0.25), contender("quick", "any", 0.5)]
    rows.append(contender("slow", "any", 1.0))
    first, *others = bounds(result(*rows))
    assert "100 GFLOP/s" in first
    assert first.endswith("One step of the U-Net is 1.20 GFLOP: at that rate it takes 12.0 ms.")
    assert [line.partition(" of that peak")[0] for line in others] == [
        "latentrt fp32 takes 10.0 ms, 120 %",
        "quick takes 20.0 ms, 60 %",
    ]


def test_operators_of_a_call_in_one_table() -> None:
    """Those above a fiftieth of anyone's call, the longest first; products are held against the peak."""
    rows = (
        contender("fp32", "latentrt_bundle", 0.25, operators={"Conv": 0.018, "Add": 0.006, "Shape": 1e-5}),
        contender("int8", "latentrt_bundle", 0.2, operators={"QLinearConv": 0.004, "Add": 0.006}),
        contender("peer", "any", 0.5),
    )
    assert operators(result(*rows)) == ["Conv", "Add", "QLinearConv"]
    table = re.search(r'<table id="operators">.*?</table>', report_html(result(*rows)), re.S)
    assert table
    cells = [re.sub(r"<[^>]+>", " ", cell).split() for cell in re.findall(r"<td>(.*?)</td>", table[0], re.S)]
    assert cells == [
        ["18.0", "ms", "75", "%"], ["–"],
        ["6.00", "ms", "25", "%"], ["6.00", "ms", "60", "%"],
        ["–"], ["4.00", "ms", "40", "%"],
    ]  # fmt: skip
    said = bounds(result(*rows))[-2]
    assert said.startswith("Under the profiler a call of fp32's U-Net takes 24.0 ms: 18.0 ms for its products, 67 % of")


def test_summary_compares_equal_precisions() -> None:
    """fp32 with fp32 though int8 is faster; where we have no such precision, both are named."""
    ours = contender("latentrt fp32", "latentrt_bundle", 0.25), contender("peer", "any", 0.5)
    int8 = contender("latentrt int8", "latentrt_bundle", 0.125, precision="int8")
    assert summary(result(*ours, int8)) == [
        "Against peer, latentrt fp32 is 2.00× as fast for a picture and 2.00× as fast for a cold start."
    ]
    assert summary(result(int8, ours[1]))[0].endswith("cold start (int8 against fp32).")


def test_summary_compares_equal_arithmetic() -> None:
    """What was read back counts, not the precision that was asked for."""
    rows = (
        contender("latentrt fp32", "latentrt_bundle", 0.25, arithmetic=told("fp32")),
        contender("latentrt bf16", "latentrt_bundle", 0.125, precision="bf16", arithmetic=told("bf16")),
        contender("peer", "any", 0.5, arithmetic=told("bf16"), sampler="Euler"),
    )
    (line,) = summary(result(*rows))
    assert line.startswith("Against peer, Euler, latentrt bf16 is 4.00× as fast")


def test_says_which_arithmetic_was_used() -> None:
    """In the table, on the page with its counts, and nowhere in a result of before it was told."""
    mixed = Arithmetic(products={"int8": 60, "bf16": 12}, source="a profiler")
    rows = contender("ours", "latentrt_bundle", 0.25, arithmetic=mixed), contender("peer", "any", 0.5, sampler="Euler")
    page, table = report_html(result(*rows)), markdown_table(result(*rows)).splitlines()
    assert "<td>int8, bf16</td>" in page
    assert "the U-Net&#39;s products: 60 in int8, 12 in bf16 (a profiler)" in page
    assert table[0].split(" | ")[1] == "computes in"
    assert [line.split(" | ")[:2] for line in table[2:4]] == [["| ours", "int8, bf16"], ["| peer, Euler", "–"]]
    assert "computes in" not in markdown_table(result())


def told(kind: str) -> Arithmetic:
    return Arithmetic(products={kind: 3}, source="a profiler")


def test_throughput_has_a_column_for_every_batch_of_any() -> None:
    """A contender that failed at two pictures leaves its cell empty."""
    rows = (
        contender("one", "latentrt_bundle", 0.25, throughput=scaling((1, 4), 0.25, 1.0)),
        contender("other", "any", 0.5, throughput=scaling((1, 2), 0.5, 1.0)),
    )
    table = re.search(r'<table id="throughput">.*?</table>', report_html(result(*rows)), re.S)
    assert table
    assert re.findall(r'<th scope="col">(\w+)</th>', table[0]) == ["1", "2", "4", "exponent"]
    bodies = table[0].partition("<tbody>")[2].split("</tr>")[:2]
    cells = [[re.sub(r"<[^>]+>", " ", cell).split() for cell in re.findall(r"<td>(.*?)</td>", row)] for row in bodies]
    assert [row[:3] for row in cells] == [
        [["250", "ms", "4.00", "pictures/s"], [], ["1.00", "s", "4.00", "pictures/s"]],
        [["500", "ms", "2.00", "pictures/s"], ["1.00", "s", "2.00", "pictures/s"], []],
    ]


def test_holds_the_result_without_its_pictures() -> None:
    """For whoever has nothing but the page."""
    inside, whole = json.loads(parsed(result()).raw), json.loads(result().model_dump_json())
    assert inside["contenders"][0]["latency"] == whole["contenders"][0]["latency"]
    assert "picture" not in inside["contenders"][0]["quality"]["pictures"][0]


def test_needs_nothing_beside_itself() -> None:
    """Links lead within the page or hold their data; ids are unique."""
    page = parsed(result())
    assert page.links
    assert [link for link in page.links if not link.startswith(("data:", "#"))] == []
    assert len(page.ids) == len(set(page.ids))
    assert not re.search(r"url\((?!#)", report_html(result()))


def test_escapes_what_it_was_given() -> None:
    """A prompt and a reason with brackets."""
    page = report_html(result())
    assert "frog &amp; &lt;toad&gt;" in page
    assert "<toad>" not in page
    assert "no &lt;wheel&gt; here" in page


def test_no_private_colour_is_left_in_the_plots() -> None:
    """All are the page's variables, so that dark mode works."""
    plots = "".join(re.findall(r"<figure.*?</figure>", report_html(result()), re.S))
    assert "var(--series-0)" in plots
    assert not re.search(r"#01020[34]|#0203|#0204", plots)
    assert "currentColor" in plots


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        (
            {"contenders": (contender("latentrt fp32", "latentrt_bundle", 0.2, quality=None),), "reference": None},
            "against no reference",
        ),
        ({"peak": None, "work": None}, "<td>–</td>"),
        (
            {"machine": result().machine.model_copy(update={"background": Figure.of([0.6])})},
            "Other programs took 60 % of the processors",
        ),
    ],
)
def test_does_without_what_was_not_measured(fields: dict[str, Any], said: str) -> None:
    """Ours alone; no peak; a busy machine is said. None of it stands in a whole result."""
    assert said in report_html(result(**fields))
    assert said not in report_html(result(contender("latentrt fp32", "latentrt_bundle", 0.2)))


def with_weights() -> BenchResult:
    """Averaged and last weights, pruned ones, and both in fp8, which did not run here."""
    judged = JudgedPictures(pictures=32, steps=20, psnr_mean=32.84, psnr_worst=22.21)
    own = {"adapter": "latentrt_bundle", "seconds": 0.25}
    of_layers = {
        "all": Weights(averaged=True, bytes=30_100_000, zipped_bytes=17_500_000),
        "last": Weights(averaged=False, bytes=30_100_000, zipped_bytes=17_500_000),
        "pruned": Weights(pruned=Layers(done=39, of=133), bytes=30_100_000, zipped_bytes=14_700_000, judged=judged),
    }
    fp8 = Weights(pruned=Layers(done=32, of=133), rounded=Layers(done=129, of=133), bytes=8_300_000, judged=judged)
    return result(
        *(contender(name, weights=weights, **own) for name, weights in of_layers.items()),
        Contender(
            name="fp8", adapter="latentrt_bundle", model="m", precision="fp8", absent="no engine runs", weights=fp8
        ),
        contender("diffusers", "diffusers_eager", 0.5, psnr=None),
    )


def test_weights_in_one_table() -> None:
    """A row for each bundle, also for one that did not run; what none has is no column, and what none did no table."""
    table = weights_table(with_weights())
    assert table is not None
    assert table.columns == (
        "", "layers 2:4", "layers in eight bits", "averaged", "U-Net", "zipped", "step", "mean PSNR", "worst PSNR",
        "own emoji",
    )  # fmt: skip
    assert [list(row) for row in table.rows.values()] == [
        ["all", "–", "–", "yes", "30.1 MB", "17.5 MB", "10.0 ms", "–", "–", "75 %"],
        ["last", "–", "–", "no", "30.1 MB", "17.5 MB", "10.0 ms", "–", "–", "75 %"],
        ["pruned", "39 of 133", "–", "–", "30.1 MB", "14.7 MB", "10.0 ms", "32.8 dB", "22.2 dB", "75 %"],
        ["fp8", "32 of 133", "129 of 133", "–", "8.30 MB", "–", "–", "32.8 dB", "22.2 dB", "–"],
    ]
    page, shown = report_html(with_weights()), markdown_table(with_weights())
    for place in range(4):
        assert f'data-row="contenders.{place}"' in page
    assert "PSNR: of 32 pictures of 20 steps that a build" in page
    assert "their distance to the reference is no error" in page
    assert "| pruned | 39 of 133 | – | – | 30.1 MB |" in shown
    plain = contender("latentrt fp32", "latentrt_bundle", 0.25, weights=Weights(bytes=1))
    few = result(
        plain, contender("int8", "latentrt_bundle", 0.2, weights=Weights(rounded=Layers(done=1, of=2), bytes=1))
    )
    smaller = weights_table(few)
    assert smaller is not None
    assert smaller.columns == ("", "layers in eight bits", "U-Net", "step", "own emoji")
    for without in (result(plain), result()):
        assert weights_table(without) is None
        assert 'id="weights"' not in report_html(without)


def test_markdown_has_a_row_for_each_and_the_reasons_of_the_absent() -> None:
    """Columns that are all alike in number."""
    lines = markdown_table(result()).splitlines()
    rows = [line for line in lines if line.startswith("|")]
    assert len(rows) == 2 + 2
    assert len({line.count("|") for line in rows}) == 1
    assert lines[-1] == "OpenVINO was not measured: no \\<wheel\\> here."


@pytest.fixture
def visit(browser: Any, tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """Opens the sample's report as a window of that width and scheme; complaints and requests are on the page."""
    path = tmp_path / "report.html"
    path.write_text(report_html(result()), "utf-8")
    contexts = []

    def open_page(width: int, scheme: str) -> Any:
        contexts.append(browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme))
        page = contexts[-1].new_page()
        page.complaints, page.asked = [], []
        page.on("console", lambda message: page.complaints.append(message.text))
        page.on("pageerror", lambda error: page.complaints.append(str(error)))
        page.on("request", lambda request: page.asked.append(request.url))
        page.goto(path.as_uri())
        return page

    yield open_page
    for context in contexts:
        context.close()


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_browser_shows_it(visit: Callable[..., Any], width: int, scheme: str) -> None:
    """Without a word on the console or a request, within the window's width, with plots that have a size."""
    page = visit(width, scheme)
    assert page.complaints == []
    assert [url for url in page.asked if not url.startswith(("file:", "data:"))] == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    sizes = page.evaluate("[...document.querySelectorAll('figure svg')].map(e => e.getBoundingClientRect().height)")
    assert len(sizes) >= 5
    assert min(sizes) > 50
    broken = page.evaluate("[...document.images].filter(i => i.complete && !i.naturalWidth).length")
    assert broken == 0


def test_a_browser_reads_the_jsons_figures(visit: Callable[..., Any]) -> None:
    """What stands on the screen, cell by cell."""
    data = json.loads(result().model_dump_json())
    cells = visit(1280, "light").evaluate(
        "[...document.querySelectorAll('[data-path]')].map(e => [e.dataset.path, e.dataset.format, e.textContent])"
    )
    assert cells
    assert [text for _, _, text in cells] == [FORMATS[kind](at(data, path)) for path, kind, _ in cells]


def test_text_stands_out_in_both_schemes(visit: Callable[..., Any]) -> None:
    """Contrast of the text on the ground, and of a plot's text likewise, at least 7 to 1 (WCAG 2, AAA)."""
    for scheme in ("light", "dark"):
        page = visit(1280, scheme)
        colors = page.evaluate(
            "[document.body, document.querySelector('figure svg text')].map(e => [getComputedStyle(e).color,"
            " getComputedStyle(e).fill])"
        )
        ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
        for text in (colors[0][0], colors[1][1]):
            assert contrast(text, ground) >= 7


def contrast(one: str, other: str) -> float:
    def luminance(color: str) -> float:
        parts = [int(value) / 255 for value in re.findall(r"\d+", color)[:3]]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)
