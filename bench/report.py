"""What was measured, as Markdown and as a figure. Imports no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

SHORT = {
    "batch_topk": "BatchTopK",
    "topk": "TopK",
    "matryoshka": "Matryoshka (5)",
    "jumprelu": "JumpReLU",
    "relu": "ReLU",
}
KINDS = tuple(SHORT)
OURS, PEER = "#2f7ed8", "#6b7785"


def markdown(results: dict[str, Any]) -> str:
    """The whole report; sections that have not been measured are left out, contenders that were not are listed."""
    run, sections = results["run"], results["sections"]
    parts = [
        "# matryo beside its peers",
        "",
        f"{run['machine']}, {run['threads']} threads, torch {run['torch']}, fp32. Medians of interleaved rounds with "
        "their 90 % interval (order statistics; the range when there are fewer than five rounds). `docs/bench.md` says "
        "how each number is measured.",
        "",
        *_overview(sections),
    ]
    for name, section in sections.items():
        if section.get("state") == "failed":
            parts += [f"## {section['title']}", "", f"Failed: {section['why']}", ""]
        elif name.startswith("step-"):
            parts += _steps(section, sections.get(f"memory-{name.removeprefix('step-')}"))
        elif name.startswith(("dead-", "encode-")):
            parts += _steps(section, None)
        elif name in ("sizes", "active"):
            parts += _growth(section, "n = 8,192, per latent" if name == "sizes" else "k = 32")
        elif name == "grid":
            parts += _grid(section)
        elif name.startswith("memory-") and f"step-{name.removeprefix('memory-')}" not in sections:
            parts += _memory(section)
    parts += ["## What differs", ""]
    parts += [f"* **{library}**: {notes}." for library, notes in results.get("notes", {}).items()]
    return "\n".join(parts) + "\n"


def _overview(sections: dict[str, Any]) -> list[str]:
    """One row per library, one column per kind: × the product, and how many times longer than matryo."""
    kinds = [kind for kind in KINDS if "rows" in sections.get(f"step-{kind}", {})]
    cells: dict[str, dict[str, str]] = {}
    for kind in kinds:
        for row in sections[f"step-{kind}"]["rows"]:
            if row["state"] == "measured":
                own = row["times_ours"]
                theirs = f" ({own['median']:.1f}×)" if own and row["library"] != "matryo" else ""
                cells.setdefault(_name(row), {})[kind] = f"{row['ratio']['median']:.2f}{theirs}"
    if not cells:
        return []
    columns = ["step / encoder product (times matryo's)", *[SHORT[kind] for kind in kinds]]
    table = [[name, *[found.get(kind, "–") for kind in kinds]] for name, found in cells.items()]
    return ["## All kinds", "", *_table(columns, table), ""]


def _head(section: dict[str, Any]) -> list[str]:
    shape = section["shape"]
    speed = f", the product at {section['product_gflops']:.0f} GFLOP/s" if section.get("product_gflops") else ""
    sizes = f"d = {shape['d_in']:,}, n = {shape['n_latents']:,}, batch {shape['batch']:,}, k = {shape['k']}"
    run = section["run"]
    timed = f"{run['rounds']} rounds after {run['warm']} of warm-up, "
    told = f"{'' if section['title'].startswith('Memory') else timed}{run['date']}, commit {run['commit']}"
    return [f"## {section['title']}", "", f"{sizes}{speed}; {told}.", ""]


def _steps(section: dict[str, Any], memory: dict[str, Any] | None) -> list[str]:
    """One table of libraries: time, ratios, memory, and the check that the work was the work asked for."""
    extra = {_name(row): row for row in memory.get("rows", [])} if memory else {}
    rows = section["rows"]
    with_fvu = any("fvu" in row for row in rows)
    with_dead = any("dead" in row for row in rows)
    columns = ["", "version", "rounds", "s", "× product", "× matryo"]
    columns += ["extra MB"] if extra else []
    columns += ["L0"] if any("l0" in row for row in rows) else []
    columns += ["FVU"] if with_fvu else []
    columns += ["dead"] if with_dead else []
    table, absent = [], []
    for row in rows:
        name = _name(row)
        if row["state"] != "measured":
            absent.append(f"{name}: {row['state']} ({row['why']})")
            continue
        own = row["times_ours"]
        cells = [f"**{name}**" if row["library"] == "matryo" else name, row["version"] or "", str(row["ratio"]["n"])]
        cells += [f"{row['seconds']['median']:.3f}", _spread(row["ratio"]), _spread(own) if own else "–"]
        if extra:
            other = extra.get(name, {})
            cells.append(f"{other['extra_mb']:.0f}" if other.get("state") == "measured" else other.get("state", "–"))
        cells += [f"{row['l0']:.1f}" if "l0" in row else "–"] if "L0" in columns else []
        cells += [f"{row['fvu_before']:.4f} → {row['fvu']:.4f}" if "fvu" in row else "–"] if with_fvu else []
        cells += [f"{row['dead']:,}" if "dead" in row else "–"] if with_dead else []
        table.append(cells)
        absent += [f"{name}, in doubt: {doubt}" for doubt in row.get("doubts", [])]
    for name, row in extra.items():
        if row["state"] != "measured":
            absent.append(f"memory of {name}: {row['state']} ({row['why']})")
    lines = [*_head(section), *_table(columns, table), ""]
    if absent:
        lines += ["Not measured, or in doubt:", "", *[f"* {line}" for line in absent], ""]
    return lines


def _memory(section: dict[str, Any]) -> list[str]:
    """Memory where no step was timed."""
    table = []
    for row in section["rows"]:
        told = f"{row['extra_mb']:.0f}" if row["state"] == "measured" else f"{row['state']}: {row['why']}"
        table.append([_name(row), row["version"] or "", told])
    return [*_head(section), *_table(["", "version", "extra MB"], table), ""]


def _growth(section: dict[str, Any], reference: str) -> list[str]:
    """Steps of growing size: `× product` over the reference row's, and the same of the seconds as they are."""
    columns = ["n", "k", "s", "× product", "µs per token", f"over {reference}", "the same, plain seconds"]
    table = []
    for row in section["rows"]:
        shape = row["shape"]
        if row["state"] != "measured":
            table.append([f"{shape['n_latents']:,}", str(shape["k"]), row["why"], "", "", "", ""])
            continue
        table.append(
            [
                f"{shape['n_latents']:,}",
                str(shape["k"]),
                f"{row['seconds']['median']:.3f}",
                _spread(row["ratio"]),
                f"{row['microseconds_per_token']:.0f}",
                _spread(row["relative"]),
                _spread(row["relative_seconds"]),
            ]
        )
    return [*_head(section), *_table(columns, table), ""]


def _grid(section: dict[str, Any]) -> list[str]:
    count = section["saes"]
    columns = ["", "s per step"]
    table = [
        ["one SAE alone", _spread(section["alone_seconds"], 3)],
        [f"{count} SAEs in one pass", _spread(section["grid_seconds"], 3)],
        ["reading and scaling the batch", _spread(section["data_seconds"], 4)],
        ["the encoder product", _spread(section["product_seconds"], 3)],
    ]
    share = section["per_sae_over_alone"]
    told = f"Time per SAE in the grid over one alone, both less the data's: **{share:.2f}**."
    return [*_head(section), *_table(columns, table), "", told, ""]


def _name(row: dict[str, Any]) -> str:
    return f"{row['library']}, {row['variant']}" if row["variant"] else row["library"]


def _spread(found: dict[str, float], digits: int = 2) -> str:
    return f"{found['median']:.{digits}f} ({found['low']:.{digits}f}–{found['high']:.{digits}f})"


def _table(columns: list[str], rows: list[list[str]]) -> list[str]:
    lines = [columns, ["---"] * len(columns), *rows]
    return ["| " + " | ".join(cells) + " |" for cells in lines]


def figure(results: dict[str, Any], path: Path) -> None:
    """Every library's step as a multiple of the encoder product, by kind, on a logarithmic axis."""
    import matplotlib as mpl
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    sections = results["sections"]
    shown = [(kind, sections[f"step-{kind}"]) for kind in KINDS if "rows" in sections.get(f"step-{kind}", {})]
    bars = [(SHORT[kind], row) for kind, section in shown for row in section["rows"] if row["state"] == "measured"]
    if not bars:
        return
    with mpl.rc_context({"svg.hashsalt": "matryo", "svg.fonttype": "none", "font.size": 9}):
        drawing = Figure(figsize=(7.2, 0.5 + 0.24 * (len(bars) + 1.6 * len(shown))), layout="constrained")
        FigureCanvasSVG(drawing)
        axes = drawing.subplots()
        y, labels, title = 0.0, [], None
        for heading, row in bars:
            if heading != title:
                y += 1.6 if title else 0.6
                axes.text(0.0, y - 0.85, heading, weight="bold", transform=axes.get_yaxis_transform(), ha="left")
                title = heading
            ratio = row["ratio"]
            error = [[ratio["median"] - ratio["low"]], [ratio["high"] - ratio["median"]]]
            colour = OURS if row["library"] == "matryo" else PEER
            axes.barh(y, ratio["median"] - 1, left=1, xerr=error, color=colour, height=0.7, ecolor="#222222")
            axes.text(ratio["high"] * 1.04, y, f"{ratio['median']:.2f}", va="center")
            labels.append((y, _name(row)))
            y += 1
        axes.set_yticks([at for at, _ in labels], [name for _, name in labels])
        axes.set(xscale="log", xlabel="seconds per training step, as a multiple of the encoder product beside it")
        ticks = [1, 1.5, 2, 3, 5, 10, 20, 30]
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.minorticks_off()
        axes.set_xlim(0.8, 1.3 * max(row["ratio"]["high"] for _, row in bars))
        axes.axvline(1, color="#222222", linewidth=0.8)
        axes.invert_yaxis()
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="x", alpha=0.2)
        axes.set_axisbelow(True)
        drawing.savefig(path, format="svg", facecolor="white", metadata={"Date": None, "Creator": None})
