"""The tables of the README and of some pages in docs/, written from the files in results/ and nothing else.

python tools/readme_tables.py            writes them between their markers
python tools/readme_tables.py --check    says which of them are not what the files say (part of `make check`)
"""

import argparse
import re
import sys
from collections.abc import Callable
from pathlib import Path

from mutoscope.commands.launching import seconds
from mutoscope.core.files import read_json, write_bytes
from mutoscope.studies import prompts as prompt_study
from mutoscope.studies.recall_report import NOTE, measure_table, tile_table, truth_table

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "results"
DOCUMENTS = ("README.md", "docs/memory.md", "docs/speed.md", "docs/text.md", "docs/wan-codec.md", "docs/wan.md")
WAN = ("wan-1.3b", "wan-14b")
RECALL_DOOM, RECALL_RING, LONG = "doom-cover/recall", "ring/recall", "long_session"
STEPS = (1, 2, 4)
PICTURES = {"recall against distance": "recall.png", "what was seen, the true return, and the dreamed ones": "returns.png"}
LAST = 15  # frame 16 in a list that begins at frame 1
Row = list[str]


def doom() -> str:
    """Every candidate on the held-out clips of the bundled world."""
    results = read_json(RESULTS / "doom-cover" / "evaluation" / "results.json")
    head = [
        "PSNR dB, k = 8",
        "SSIM, k = 8",
        "sharpness error, k = 16",
        "turn followed, k = 8 / 16 / 32",
        "turn-size error, k = 16",
        "Frechet, k = 8 / 16 / 32",
    ]
    rows = []
    for label, scores in results["candidates"].items():
        distances = {k: figure["value"] for k, figure in scores["frechet"].items()}
        rows.append([label, *_doom_cells(results, scores["metrics"], distances)])
    real = results["real"]
    rows.append(["real clips; Frechet: halves of them", *_doom_cells(results, real["metrics"], real["frechet_halves"])])
    return markdown(["", *head], rows)


def _doom_cells(results: dict, metrics: dict, distances: dict[str, float]) -> Row:
    def at(name: str, k: int, digits: int) -> str:
        return f"{metrics[name][k - 1]['value']:.{digits}f}" if name in metrics else "-"

    turns = " / ".join(at("turn_right", k, 2) for k in (8, 16, 32))
    frechet = " / ".join(f"{distances[str(k)]:.3f}" for k in (8, 16, 32))
    return [at("psnr", 8, 1), at("ssim", 8, 2), at("sharpness_error", 16, 2), turns, at("turn_error", 16, 2), frechet]


def comparisons() -> str:
    """The bundled student against the teacher cut to its steps, and against copy-last."""
    results = read_json(RESULTS / "doom-cover" / "evaluation" / "results.json")
    student = next(label for label in results["candidates"] if label.startswith("matching-2"))
    wanted = [
        ("teacher cut to 2 steps", "sharpness_error", (8, 16, 32)),
        ("teacher cut to 2 steps", "turn_error", (8, 16, 32)),
        ("teacher cut to 2 steps", "frechet", (8, 16, 32)),
        ("copy last", "ssim", (1, 4, 8)),
        ("copy last", "psnr", (1, 4, 8)),
    ]
    rows = []
    for second, metric, horizons in wanted:
        found = {
            row["horizon"]: row
            for row in results["comparisons"]
            if (row["first"], row["second"], row["metric"]) == (student, second, metric) and row["horizon"] in horizons
        }
        cells = [f"k = {k}: {interval(found[k]['difference'], 3)}, {found[k]['verdict']}" for k in horizons]
        rows.append([second, metric.replace("_", " "), *cells])
    return markdown(["2-step student minus", "metric", "", "", ""], rows)


def scroll() -> str:
    """Exact tile scores."""
    results = read_json(RESULTS / "scroll" / "evaluation" / "results.json")
    wide = read_json(RESULTS / "scroll-chunk" / "evaluation" / "results.json")
    rows = [*_tile_rows(results, ""), *_tile_rows(wide, ", chunks of 3")]
    forgetful = results["real"]["forgetful"]["tiles_window"]
    shares = [f"{forgetful[k - 1]['value']:.3f}" for k in (1, 4, 8)]
    real = results["real"]["forgetful"]["tiles_seen"]
    rows.append(["copies what is in view, forgets the rest", *shares, interval(forgetful[LAST], 3), interval(real[LAST], 3), "0"])
    rows.append(["chance", f"{results['real']['tile_chance']:.3f}", "", "", "", "", ""])
    head = ["seen within memory, k = 1", "k = 4", "k = 8", "k = 16", "of these in the real context, k = 16", "position error, k = 16"]
    return markdown(["", *head], rows)


def _tile_rows(results: dict, suffix: str) -> list[Row]:
    rows = []
    for label, scores in results["candidates"].items():
        share, place, real = (scores["metrics"][name] for name in ("tiles_window", "position_error", "tiles_seen"))
        cells = [f"{share[k - 1]['value']:.3f}" for k in (1, 4, 8)]
        error = f"{place[LAST]['value']:.2f}"
        rows.append([f"{label}{suffix}", *cells, interval(share[LAST], 3), interval(real[LAST], 3), error])
    return rows


def stages() -> str:
    """Every stage of the bundled world in the regime that it was trained for."""
    rows = []
    for row in read_json(RESULTS / "doom-cover" / "stages.json")["rows"]:
        rows.append(
            [row["stage"], row["regime"], *(f"{row[name][0]:.2f} +- {row[name][1]:.2f}" for name in ("psnr_db", "ssim", "sharpness"))]
        )
    return markdown(["stage", "regime", "PSNR dB", "SSIM", "sharpness (0 is real)"], rows)


def play() -> str:
    """What a browser saw."""
    rows = []
    for world in ("doom-cover", "scroll", "scroll-chunk"):
        for steps in STEPS:
            figures = read_json(RESULTS / world / f"play-{steps}.json")
            repeats = figures["content_rate"]["repeats"]
            keys, frames = ([row[name] for row in repeats] for name in ("key_to_pixels_ms", "frame_interval_ms"))
            content = figures["played"]["content_interval_ms"]
            cells = [spread(keys, "p50"), spread(keys, "p95"), f"{spread(frames, 'p95')} ({content:.0f})"]
            free = sorted(figures["free_running"]["frames_per_second"])
            rows.append([f"{world}, {steps} step{'s' * (steps > 1)}", *cells, f"{free[len(free) // 2]:.0f}"])
    head = ["action to photon p50, ms", "p95, ms", "frame interval p95 (content), ms", "free running, frames/s"]
    return markdown(["", *head], rows)


def recall_doom() -> str:
    """Recall in the bundled world: who is identified, how similar the return is, and that the picture moved."""
    return _recall(RECALL_DOOM, _camera_tables)


def _camera_tables(plain: dict) -> list[str]:
    measures = {"identified": "Returns that are nearest to their own true frame:", "ssim": "SSIM of the return:"}
    measures["moved"] = "Frames that move, of those that should:"
    parts = [part for measure, title in measures.items() for part in (title, measure_table(plain, measure))]
    pictures = [f"![{name}](../results/{RECALL_DOOM}/{file})" for name, file in PICTURES.items()]
    return [*parts, NOTE, "The true episodes:", truth_table(plain), *pictures]


def recall_ring() -> str:
    """Recall of landmarks in the ring of tiles."""
    return _recall(RECALL_RING, lambda plain: [tile_table(plain), NOTE, f"![recall against distance](../results/{RECALL_RING}/recall.png)"])


def long_sessions() -> str:
    """Every policy after many frames: bytes, time, states; and where a full memory stopped."""
    files = [file for file in (RESULTS / LONG / name for name in ("frames.json", "tokens.json", "anchored.json")) if file.is_file()]
    if not files:
        return f"Not measured yet: `benchmarks/long_session.py` has not written into `results/{LONG}`."
    rows = [_long_row(row) for file in files for row in read_json(file)["policies"]]
    full = read_json(files[0])["full"]
    head = ["policy", "frames", "bytes held", "change of bytes held", "of resident memory", "time late / early", "state since the middle"]
    stopped = f'`full` of {full["sizes"]} stopped at frame {full["stopped_at_frame"]}: "{full["error"]}"'
    return f"{markdown(head, rows)}\n\n{stopped}"


def _long_row(row: dict) -> Row:
    first, *_, last = row["looks"]
    change = row["change"]
    state = f"{change['state_norm since the middle']:+.1%}, {'finite' if last['finite'] else 'NOT FINITE'}" if "finite" in last else "-"
    held = [f"{last['held_bytes']:,}", f"{change['held_bytes']:+.1%}", f"{change['resident_bytes']:+.1%}"]
    return [row["policy"], f"{first['frame']:,} to {last['frame']:,}", *held, interval(row["late_over_early"]["ratio"], 3), state]


def memory_share() -> str:
    """What learned memories cost a frame of the bundled model."""
    file = RESULTS / LONG / "frames.json"
    if not file.is_file():
        return f"Not measured yet: `benchmarks/long_session.py` has not written into `results/{LONG}`."
    rows = []
    for item in read_json(file)["share_of_memory"]:
        without, with_it = item["median_ms"]
        rows.append([item["memory"], f"{without:.1f}", f"{with_it:.1f}", interval(item["share_of_frame"], 3)])
    return markdown(["memory beside a window of 8", "frame without it, ms", "with it", "share of the frame"], rows)


def _recall(folder: str, parts: Callable[[dict], list[str]]) -> str:
    file = RESULTS / folder / "recall.json"
    if not file.is_file():
        return f"Not measured yet: `mutoscope recall` has not written `results/{folder}/recall.json`."
    return "\n\n".join(parts(read_json(file)))


def prompts() -> str:
    """What the stages of the world of shapes make of their prompts."""
    return prompt_study.tables(read_json(RESULTS / "shapes" / "prompts" / "results.json")["rows"])


def what_fits() -> str:
    """The steps after which a stage or play fits, per size of memory: letters for what is done to it, a dash where nothing was enough."""
    letters: dict[str, str] = {}
    rows, memories = [], []
    for name in WAN:
        fits = read_json(RESULTS / "what_fits" / f"{name}.json")["fits"]
        memories = sorted({fit["device"]["memory_gib"] for fit in fits})
        for job in (job for job in dict.fromkeys(fit["name"] for fit in fits) if job not in ("matching-1", "matching-4")):
            found = {fit["device"]["memory_gib"]: fit for fit in fits if fit["name"] == job}
            rows.append([f"{name}, {job}", *(_fit_cell(found[memory], letters) for memory in memories)])
    legend = "\n".join(f"- **{letter}** {option}" for option, letter in letters.items())
    return f"{markdown(['', *(f'{memory:g} GiB' for memory in memories)], rows)}\n\n{legend}"


def _fit_cell(fit: dict, letters: dict[str, str]) -> str:
    """Options with how often each was taken, what is held at most, the time of an update or a chunk, and what it has come to."""
    if not fit["fits"]:
        return "-"
    taken = [step["option"] + ("" if step["ready"] else " (*proposed*)") for step in fit["steps"]]
    marks = []
    for option in dict.fromkeys(taken):
        letter = letters.setdefault(option, "abcdefghijklmnopqrstuvwxyz"[len(letters)])
        marks.append(letter + (f"x{taken.count(option)}" if taken.count(option) > 1 else ""))
    end = fit["steps"][-1] if fit["steps"] else fit["start"]
    told, units = end.get("words", ""), fit["end"]["units"]
    words = f", {told.removesuffix(' at a time')}" if "at a time" in told else ""
    words += f", {smaller[0]}" if (smaller := re.search(r"--memory [^\s;]+(?=:)", told)) else ""
    times = f"{seconds(end['seconds'])}" + (f", in all {seconds(units * end['seconds'])}" if units else "")
    return f"{' '.join(marks) or 'as it is'}: {end['bytes'] / 2**30:.1f} GiB, {times}{words}"


WAN_PARTS = {
    "attention": ("attention to the window", "layers x 4 x tokens x tokens read x dim"),
    "feed_forward": ("feed-forward", "layers x 4 x tokens x dim x ffn_dim"),
    "projections": ("projections of self-attention", "layers x 8 x tokens x dim^2"),
    "text": (
        "text: cross-attention and its projections",
        "layers x (4 x tokens x dim^2 + 4 x tokens x words x dim); the prompt was read before",
    ),
    "ends": ("patches, noise levels, head", ""),
    "total": ("all", ""),
}


def wan_arithmetic() -> str:
    """Operations of a denoising pass by part, then what a chunk takes and allows."""
    plain = read_json(RESULTS / "wan_arithmetic.json")
    streams = [plain["streams"][name] for name in WAN]
    rows = [[*words, *(f"{each['denoising_gflops'][part]:,.0f}" for each in streams)] for part, words in WAN_PARTS.items()]
    tables = [markdown(["part of one denoising pass", "operations", *(f"{name}, GFLOP" for name in WAN)], rows)]
    lines = [
        ["a commit, which ends with the last layer's attention, GFLOP", *(f"{each['commit_gflops']['total']:,.0f}" for each in streams)],
        ["two steps and the commit, GFLOP", *(f"{each['chunk_gflops']:,.0f}" for each in streams)],
        ["Wan's decoder for a latent frame, GFLOP", *(f"{each['codec_gflops']:,.0f}" for each in streams)],
        ["weights in bf16, read once per pass, GB", *(f"{each['bytes_per_pass']['weights'] / 1e9:.1f}" for each in streams)],
        ["cache in bf16, read once per pass, GB", *(f"{each['bytes_per_pass']['cache'] / 1e9:.1f}" for each in streams)],
    ]
    for device in streams[0]["bounds"]:
        found = [each["bounds"][device] for each in streams]
        name = f"{device} ({found[0]['flops'] / 1e12:.0f} TFLOP/s)"
        lines.append([f"{name}: products of a chunk, ms", *(f"{bound['compute_ms']:.1f}" for bound in found)])
        lines.append([f"{name}: reading of a chunk, ms", *(f"{bound['memory_ms']:.1f}" for bound in found)])
        lines.append([f"{name}: pixel frames/s at most, without codec", *(f"{bound['pixel_frames_per_second']:.0f}" for bound in found)])
        lines.append([f"{name}: pixel frames/s at most, with Wan's decoder", *(f"{bound['with_codec_per_second']:.0f}" for bound in found)])
    return "\n\n".join([*tables, markdown(["of a chunk: one frame, four pixel frames", *WAN], lines)])


def wan_decoders() -> str:
    """Bytes of one player's decoder; what lies on the host is told apart."""
    rows = []
    for row in read_json(RESULTS / "wan_arithmetic.json")["decoders"]:
        gib = {part: row[part] / 2**30 for part in ("weights", "state", "working")}
        tiled = row["tiles"] > 1
        label = f"{row['tiles']} {row['decoder']}" if tiled else row["decoder"]
        state = f"{gib['state']:.2f}" + (f" a tile, {gib['state'] * row['tiles']:.1f} in all" if tiled else "")
        rows.append([label, f"{gib['weights']:.2f}", state, f"{gib['working']:.2f}", f"{sum(gib.values()):.2f}"])
    return markdown(["decoder", "weights", "state", "working", "together on the device"], rows)


TABLES: dict[str, Callable[[], str]] = {
    "doom": doom,
    "comparisons": comparisons,
    "scroll": scroll,
    "stages": stages,
    "play": play,
    "recall-doom": recall_doom,
    "recall-ring": recall_ring,
    "long-sessions": long_sessions,
    "memory-share": memory_share,
    "prompts": prompts,
    "what-fits": what_fits,
    "wan-arithmetic": wan_arithmetic,
    "wan-decoders": wan_decoders,
}


def interval(figure: dict, digits: int) -> str:
    """value [low, high]."""
    return f"{figure['value']:.{digits}f} [{figure['low']:.{digits}f}, {figure['high']:.{digits}f}]"


def spread(rows: list[dict], name: str) -> str:
    """The middle repeat, with the least and the most."""
    values = sorted(row[name] for row in rows)
    return f"{values[len(values) // 2]:.0f} [{values[0]:.0f}, {values[-1]:.0f}]" if len(values) > 1 else f"{values[0]:.0f}"


def markdown(head: Row, rows: list[Row]) -> str:
    """A table."""
    lines = [f"| {' | '.join(head)} |", "|" + " --- |" * len(head), *(f"| {' | '.join(row)} |" for row in rows)]
    return "\n".join(lines)


def filled(text: str) -> str:
    """The text with every table between `<!-- table: NAME -->` and `<!-- end -->` written anew."""

    def table(found: re.Match) -> str:
        return f"<!-- table: {found[1]} -->\n{TABLES[found[1]]()}\n<!-- end -->"

    return re.sub(r"<!-- table: ([\w-]+) -->\n.*?<!-- end -->", table, text, flags=re.DOTALL)


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    treat = check if options.check else fill
    return max([treat(name) for name in DOCUMENTS])


def fill(name: str) -> int:
    """Write the tables of a document anew."""
    text = filled((ROOT / name).read_text(encoding="utf-8"))
    write_bytes(ROOT / name, text.encode())
    return _told(name, text)


def check(name: str) -> int:
    """1 and a message if the tables of a document are not what the files say."""
    text = (ROOT / name).read_text(encoding="utf-8")
    if text != filled(text):
        print(f"{name}: its tables are not what results/ says; run python tools/readme_tables.py", file=sys.stderr)
        return 1
    return _told(name, text)


def _told(name: str, text: str) -> int:
    print(f"{name}: {len(re.findall('<!-- table: ', text))} tables, as results/ says")
    return 0


if __name__ == "__main__":
    sys.exit(main())
