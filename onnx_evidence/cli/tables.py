"""What commands print for people: tables, and what they say above and below them."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from onnx_evidence.cuts import PLAIN_AXES
from onnx_evidence.evidence import CONFIDENCE
from onnx_evidence.explainer import Explainer
from onnx_evidence.export import CELLS, ROUNDING, TOLERANCE, Checked
from onnx_evidence.files import fit, several, shown, visible
from onnx_evidence.methods import QUALITIES, WITH_RELEVANCE, Header, Settings
from onnx_evidence.preprocessing import in_words, make_preprocess

# Where cells are put that are not measured.
_PLACES = {"nominal": "but taken from kernels and strides", "even": "so they are spaced evenly over the picture"}
# Bits that rounding costs, from which on they are printed: the last digit of the table.
_SEEN = 0.01


def explain_header(explainer: Explainer) -> str:
    """Device, method, cuts and background in use, a line each, then the table's head."""
    device, settings = explainer.deployed.device, explainer.settings
    cuts = ", ".join(f"{each.cut.name} ({_times(each.cut.grid)}, {each.summary()})" for each in explainer.engines)
    return shown(
        f"device: {device.name} ({device.reason}){_elsewhere(explainer.record['elsewhere'])}",
        f"method: {settings.method} ({explainer.reason})",
        f"cuts: {cuts}",
        *_held(explainer),
        *([f"Warning: {explainer.record['shallow']}"] if explainer.record["shallow"] else []),
        f"removed features are replaced by {explainer.background}{_error_words(explainer)}",
        f"{'image':24} {'class':24} {'p':>8} {'log-odds':>9}  {'strongest for':>28}  {'strongest against':>28}"
        f"{'   for / against / missed' if explainer.method.accounts else ''}",
    )


def _held(explainer: Explainer) -> list[str]:
    """What their maps are held against, where they are."""
    settings = explainer.settings
    if settings.combine != WITH_RELEVANCE:
        return []
    return [
        f"held against relevance, which says where bits lie ({settings.rules} rules; --combine agreement leaves it out)"
    ]


def explain_row(entry: dict[str, Any]) -> str:
    """One line of the table: bits with their place as (row, column) of the photograph.

    Below it stands a line for every cut where rounding costs bits that would be seen.
    """
    return "\n".join([_row(entry), *_rounding(entry["cuts"])])


def _rounding(cuts: Sequence[dict[str, Any]]) -> list[str]:
    seen = [cut for cut in cuts if abs(cut.get("rounding_bits") or 0.0) >= _SEEN]
    words = "  rounding: split at {name}, the model has {rounding_bits:+.2f} bits more than the file (certificate "
    return [shown(words.format(**cut) + f"{cut['certificate']:.1g})") for cut in seen]


def _row(entry: dict[str, Any]) -> str:
    label = entry["label"] if entry["versus"] is None else f"{entry['label']} / {entry['versus_label']}"
    return (
        f"{fit(Path(entry['image']).name)} {fit(label)} {entry['probability']:8.4f} {entry['log_odds_bits']:+9.2f}"
        f"  {_place(entry['strongest_for']):>28}  {_place(entry['strongest_against']):>28}{_account(entry['budget'])}"
    )


def unmet(entry: dict[str, Any]) -> list[str]:
    """One line per cut that says nothing, or whose path or windows ran out of steps or samples too early."""
    asked, tolerance = entry["settings"]["completeness"], entry["settings"]["tolerance"]
    paths = [
        f"{visible(entry['image'])}: the path at {cut['name']!r} misses {cut['budget']['gap_share']:.1%} of the bits "
        f"after {cut['budget']['steps']} steps; {asked:.1%} was asked for"
        for cut in entry["cuts"]
        if "budget" in cut and cut["budget"]["gap_share"] > asked
    ]
    whole = entry["budget"]["gap_share"] if entry["budget"] else 0.0
    if whole > asked and not paths:
        paths = [
            f"{visible(entry['image'])}: the map misses {whole:.1%} of the bits, as its cuts partly cancel each other; "
            f"none of them misses more than the {asked:.1%} that was asked for"
        ]
    windows = [
        f"{visible(entry['image'])}: {cut['windows_unmet']} of {cut['windows']} windows at {cut['name']!r} are not "
        f"known to ±{tolerance:g} bits after {cut['samples']} samples: raise --tolerance or --samples"
        for cut in entry["cuts"]
        if cut.get("windows_unmet")
    ]
    return _silent(entry) + paths + windows


def _silent(entry: dict[str, Any]) -> list[str]:
    names = [cut["name"] for cut in entry["cuts"] if cut.get("silent")]
    if names and len(names) == len(entry["cuts"]):
        return [f"{visible(entry['image'])}: nothing that was done to the cells changed a score: the map says nothing"]
    return [
        f"{visible(entry['image'])}: nothing that was done to the cells of {name!r} changed a score: it is left out of "
        "the map"
        for name in names
    ]


def unaccounted(shares: Sequence[float], settings: Settings) -> str | None:
    """What to say where a quality that saves steps leaves much of the bits unaccounted.

    ``shares`` are of the bits, that each map misses; None where every map is as complete as by default, or `unmet` has
    said it.
    """
    missed = [share for share in shares if share > Settings.completeness]
    if not missed or settings.completeness <= Settings.completeness:
        return None
    by = f" by --quality {settings.quality}" if "completeness" in QUALITIES[settings.quality] else ""
    usual = f"{Settings.completeness:.0%}"
    who = "the map leaves" if len(shares) == 1 else f"{len(missed)} of {len(shares)} maps leave"
    # Rounded up: what is more than 5 % is not said to be 5 %.
    return (
        f"{who} more than {usual} of {'its' if len(shares) == 1 else 'their'} bits unaccounted, up to "
        f"{math.ceil(1000 * max(missed)) / 10:g}%: {settings.completeness:.0%} may be missed{by}; the default adds "
        f"steps until at most {usual} are"
    )


def unplaced(entry: dict[str, Any]) -> list[str]:
    """What to say of cuts whose cells lie where they were not measured to look: one line each."""
    return [
        f"layer {visible(cut['name'])!r}: where its cells look is not measured, {_PLACES[cut['field']]}: "
        f"{cut['field_reason']}; places are known to {cut['resolution_pixels']:g} pixels of the input"
        for cut in entry["cuts"]
        if cut.get("field") in _PLACES
    ]


def _account(budget: dict[str, Any] | None) -> str:
    if budget is None:
        return ""
    return f"   {budget['for_bits']:+.1f} / {budget['against_bits']:+.1f} / {budget['gap_share']:.1%}"


def _error_words(explainer: Explainer) -> str:
    """What ± means, for methods that draw."""
    return f"; ± is a {CONFIDENCE:.0%} interval" if explainer.method.has_error(explainer.settings) else ""


def _place(extreme: dict[str, Any]) -> str:
    interval = extreme["interval"]
    error = "" if interval is None else f" ± {(interval[1] - interval[0]) / 2:.2f}"
    return f"{extreme['bits']:+.2f}{error} at ({extreme['row']}, {extreme['col']})"


def inspection_table(report: dict[str, Any]) -> str:
    """The report of ``inspect``, from `cli.inspection.inspect_model`, for people."""
    shape = " x ".join(str(side or "N") for side in report["input"]["shape"])
    lines = [
        f"model        {report['model']} (opset {report['opset']}, {report['multiply_adds'] / 1e6:.0f} million "
        "multiply-adds)",
        f"input        {report['input']['name']}: {shape}, {report['input']['dtype']}, {report['input']['layout']}",
        *([f"explains     {_explains(report['explains'])}"] if report["explains"] else []),
        *([f"taken in     {_taken_in(report)}"] if report["changes"] else []),
        f"output       {_output(report['output'], report['classes'])}",
        f"labels       {'recorded' if report['labels'] else 'missing: pass --labels FILE to name classes'}",
        *_preprocess(report["preprocess"], report["preprocess_source"]),
        f"backward     {_backward(report['without_rule'])}",
        f"device       {report['device']} ({report['device_reason']}){_elsewhere(report['elsewhere'])}",
        "",
        f"  {'cut':32} {'operator':18} {'shape':>16} {'tail':>6} {'stride':>8} {'field':>10}  for --layer auto",
    ]
    for cut in report["cuts"]:
        mark = "*" if cut["auto"] else " "
        lines.append(
            f"{mark} {fit(cut['name'], 32)} {cut['op_type']:18} {_times(cut['shape']):>16} {cut['tail_share']:6.1%} "
            f"{_times(cut['stride']):>8} {_field(cut):>10}  {cut['auto'] or cut['left']}"
        )
        if cut["auto"] and cut["axes"] not in ("", PLAIN_AXES):
            lines.append(f"    axes: {cut['axes']}")
    lines += ["", "* taken by --layer auto" if report["auto"] else f"--layer auto: {report['auto_refusal']}"]
    lines += [f"--method auto: {report['instead']}, on pixels"] if report["instead"] else []
    lines += [f"Warning: {report['shallow']}"] if report["shallow"] else []
    return shown(*lines, *_golden(report))


def _elsewhere(found: dict[str, dict[str, int]] | None) -> str:
    """Nodes that the device did not run, in words; '' for the CPU's own provider."""
    if found == {}:
        return "; every node of the file ran there"
    kinds = {name: ", ".join(f"{count} {kind}" for kind, count in each.items()) for name, each in (found or {}).items()}
    return "".join(f"; not there, but by {name}: {words}" for name, words in kinds.items())


def _taken_in(report: dict[str, Any]) -> str:
    words = report["proof"]["words"] if report["proof"] else "the same arithmetic"
    return f"{'; '.join(report['changes'])}: {words}"


def _output(settled: dict[str, Any], classes: int) -> str:
    logits = "" if settled["logits"] == settled["name"] else f"; logits at {settled['logits']!r}"
    kind = f"{classes} {'independent labels' if settled['classes'] == 'independent' else 'classes'}"
    kind = "2 classes, made of one number" if settled["binary"] else kind
    note = f" ({settled['note']})" if settled["note"] else ""
    others = f"; not looked at: {', '.join(settled['others'])}" if settled["others"] else ""
    return f"{settled['name']}: {kind}, {settled['kind']}{logits}{note}{others}"


def _golden(report: dict[str, Any]) -> list[str]:
    """One line per picture that something is expected of, or the classes that the model gives first."""
    lines = [f"{Path(each['picture']).name}: {_said(each['top'])}" for each in report.get("pictures", [])]
    for each in report.get("golden", []):
        sure = "" if each["expected"] is None else f" {each['expected']:g}"
        gives = f"the model gives {_said(each['top'])}" if each["top"] else "no preprocessing is known"
        own = "" if each["given"] is None or each["given"] in each["top"] else f" ({_said([each['given']])})"
        hints = "; ".join(
            f"with --preprocess {name} it would give {_said([it])}" for name, it in each["presets"].items()
        )
        verdict = "right" if each["right"] else "WRONG"
        line = f"{verdict}  {Path(each['picture']).name}: expected {each['label']}{sure}, {gives}{own}"
        lines.append(f"{line}; {hints}" if hints else line)
    return ["", *lines] if lines else []


def _said(top: Sequence[dict[str, Any]]) -> str:
    return ", ".join(f"{each['label']} {each['probability']:.4f}" for each in top)


def golden_failure(answers: Sequence[dict[str, Any]]) -> str | None:
    """What to say loudly where the golden check (``golden`` of the report) failed; None where it did not."""
    wrong = sum(not each["right"] for each in answers)
    if not wrong:
        return None
    return (
        f"GOLDEN CHECK FAILED: the model does not say what is expected, {wrong} of {len(answers)} times: its maps "
        "would mislead; check the preprocessing, then --labels and --output"
    )


def _field(cut: dict[str, Any]) -> str:
    return "everything" if cut["sees_everything"] else _times(cut["receptive_field"])


def _backward(missing: Sequence[str]) -> str:
    return f"no rule for {', '.join(missing)}" if missing else "every operator has a rule"


def _times(sides: Sequence[int] | None) -> str:
    return " x ".join(str(side) for side in sides) if sides else "?"


def _preprocess(settings: dict[str, Any] | None, source: str | None) -> list[str]:
    if settings is None:
        return ["preprocess   missing: pass --preprocess FILE.toml or a preset (see 'onnx-evidence preprocess --help')"]
    return [f"preprocess   {in_words(make_preprocess(settings, 'report'))}", f"             from: {source}"]


def cost_table(report: dict[str, Any]) -> str:
    """The report of ``bench``, from `evaluation.measure_cost`, for people."""
    share = report["rate"] / report["rate_of_convolution"]
    rows = list(report["qualities"].values())
    lines = [
        f"device {report['device']}, {several(report['threads'], 'thread')}{_elsewhere(report['elsewhere'])}",
        f"opened in {report['opening_ms']:.0f} ms",
        f"a plain pass: {report['plain_ms']:.1f} ms for {report['multiply_adds'] / 1e6:.3g} million multiply-adds: "
        f"{report['rate'] / 1e9:.3g} x 10^9 a second, {share:.0%} of what one large convolution gets here",
        "",
        f"{'ms per map':22}{''.join(f'{quality:>18}' for quality in report['qualities'])}",
    ]
    for name, words in report["stages"].items():
        parts = [(row["stages_ms"][name], row["stages_ms"][name] / sum(row["stages_ms"].values())) for row in rows]
        lines.append(f"{words:22}{''.join(f'{each:11.1f}{part:7.0%}' for each, part in parts)}")
    lines += [
        _row_of("all", [row["ms"] for row in rows]),
        _row_of("plain passes, undrawn", [row["plain_passes"] for row in rows]),
        "",
    ]
    lines += [f"a plain pass in batches: {_by(each, 'ms a picture')}" for each in [report["batches_ms"]] if each]
    lines += [f"a plain pass by threads: {_by(each, 'ms')}" for each in [report["threads_ms"]] if each]
    count = several(report["pictures"], "picture")
    for quality, each in report["forecast"].items():
        undrawn = report["forecast_without_figures"][quality]
        lines.append(f"{count} at {quality}, by --workers: {_lasting(each)}; with --no-figures {_lasting(undrawn)}")
    return shown(*lines)


def _lasting(found: dict[str, float]) -> str:
    """How long runs of so many workers take, in units that are read at a glance."""
    units = ((7200, 3600, "h"), (120, 60, "min"), (0, 1, "s"))
    in_words = {
        count: next(f"{seconds / unit:.3g} {name}" for least, unit, name in units if seconds >= least)
        for count, seconds in found.items()
    }
    return ", ".join(f"{count}: {words}" for count, words in in_words.items())


def _row_of(words: str, values: Sequence[float]) -> str:
    return f"{words:22}" + "".join(f"{value:11.1f}{'':7}" for value in values)


def _by(found: dict[str, float], unit: str) -> str:
    return ", ".join(f"{count}: {value:.3g} {unit}" for count, value in found.items())


def export_table(info: dict[str, Any], path: Path, growth: float) -> str:
    """What was exported, from the record of an `export.Exported`, for people."""
    settings, proof, outputs = info["settings"], info["proof"], info["outputs"]
    versus = "" if info["versus"] is None else f", rather than {info['versus_label']}"
    given = "" if info["input"] is None else f" (the input {info['input']!r}: class numbers, int64)"
    used = "computed once more for evidence" if info["apart"] else "used for evidence"
    return shown(
        f"{path}: {growth:+.1%} in size; what the file computes is {used}",
        f"  output {outputs['evidence']!r}: {_unit(info['unit'])}, for each of: "
        f"{', '.join(info['target_labels'])}{given}{versus}",
        f"  output {outputs['budget']!r}: bits with all features, without, for, against, unaccounted",
        *_of_pictures(info),
        f"method: {settings['method']}, {settings['steps']} steps from each of: {info['background']}",
        f"cuts: {', '.join(info['cuts'])}, {_combined(info)}",
        f"proved on {several(proof['pictures'], 'picture')} of noise: the file's own outputs are "
        f"{_own(proof['outputs_apart'])}, evidence of a patch is within {proof['apart_bits']:.1g} bits of what "
        f"'explain' gives with as many steps; up to {proof['gap_share']:.1%} of the bits are unaccounted",
    )


def _explains(info: dict[str, Any]) -> str:
    """What an exported model says of its own."""
    settings, outputs = info["settings"], ", ".join(repr(name) for name in info["outputs"].values())
    versus = "" if info["versus"] is None else f" rather than {info['versus_label']}"
    pictures = "" if info["picture"] is None else f", of decoded pictures in {info['picture']['input']!r}"
    return (
        f"itself: {', '.join(info['target_labels'])}{versus}, in {outputs}{pictures} ({settings['method']}, "
        f"{settings['steps']} steps, {', '.join(info['cuts'])}; version {info['version']})"
    )


def _of_pictures(info: dict[str, Any]) -> list[str]:
    """What is said of decoded pictures that go in."""
    if (picture := info["picture"]) is None:
        return []
    apart = info["proof"]["levels_apart"]
    made = (
        "as it is made outside, to the bit" if apart == 0 else f"within {apart:.2g} of 255 levels of what it is outside"
    )
    return [
        f"  input {picture['input']!r}: decoded pictures, uint8 RGB (N, height, width, 3); what goes into the model is "
        f"{made}",
        f"  output {picture['evidence']!r}: the same evidence in bits per pixel of the picture",
    ]


def _combined(info: dict[str, Any]) -> str:
    return "the mean over backgrounds" if info["unit"] == CELLS else f"combined by {info['settings']['combine']}"


def _unit(unit: str) -> str:
    return unit if unit == CELLS else f"{unit} of the input"


def _own(apart: float) -> str:
    """How far an exported model's outputs are from the file's."""
    if apart > ROUNDING:
        return f"{apart:.1g} of the largest off"
    return "the same to the bit" if apart == 0 else f"within {apart:.1g} of the largest, by rounding, of what they were"


def checked_table(found: Checked, path: Path) -> str:
    """What came of checking an exported model, for people."""
    lines = [
        f"{path}: on {found.device} its self-test is within {found.apart_bits:.1g} bits of what it gave where it was "
        f"made (at most {TOLERANCE:g})"
    ]
    if (proof := found.proof) is not None:
        lines.append(
            f"on {several(proof.pictures, 'picture')} of noise its own outputs are {_own(proof.outputs_apart)}, its "
            "evidence is within "
            f"{proof.apart_bits:.1g} bits of what 'explain' gives"
        )
    return shown(*lines, "right" if found.passed else "WRONG")


def background_table(header: Header, path: Path) -> str:
    """What was fitted and written, how well it predicts, and how much had to be clipped."""
    lines = [f"{path}: fitted from {several(header.pictures, 'picture')}"]
    lines += [
        f"  {cut.name}: window {cut.window}, patch {cut.patch}, held-out R2 {cut.r2:.3f}, "
        f"{cut.clipped:.2%} of drawn values clipped"
        for cut in header.cuts
    ]
    if header.pictures < 100:
        lines.append("  fewer than 100 pictures: the fit is rough; 100 to 500 are good")
    return shown(*lines)


def links_table(report: dict[str, Any]) -> str:
    """The report of ``links``, from `Walked.report`, for people."""
    lines = [f"{report['question']}, cut {report['cut']}", f"  {'map':24} {'simplified':44} rank correlation"]
    for number, step in enumerate(report["steps"], start=1):
        correlation = "" if step["correlation"] is None else f"{step['correlation']:+.2f} with {number - 1}"
        lines.append(f"{number} {step['name']:24} {step['change']:44} {correlation}")
    lines.append(f"one window's path and its exact removal differ by at most {report['proof_bits']:.2g} bits")
    return shown(*lines)


def sanity_table(report: dict[str, Any]) -> str:
    """The report of ``sanity``, from `SanityTest.run`, for people."""
    lines = [f"  {'check':22} {'changed':28} {'same map':>16} {'same |map|':>16} {'by chance':>9}  worst"]
    for check in report["checks"]:
        verdict = "pass" if check["passed"] else "FAIL"
        lines.append(f"{verdict:4}  {check['name']:20} {check['what']:28} {_sanity_numbers(check)}")
    notes = [
        f"  {check['name']}: could not be made: {check['problem']}" for check in report["checks"] if check["problem"]
    ]
    failed = sum(not check["passed"] for check in report["checks"])
    verdict = (
        f"{failed} of {len(report['checks'])} checks failed" if failed else f"all {len(report['checks'])} checks passed"
    )
    return shown(*lines, *notes, verdict)


def _sanity_numbers(check: dict[str, Any]) -> str:
    """Numbers with their limits: rank correlations, or a share of the bits."""
    if check["problem"]:
        return "not made"
    share = check["kind"] != "rank correlation"
    value = f"{check['value']:.0%} of bits" if share else f"{check['value']:+.2f}"
    limit = f"{check['limit']:.0%}" if share else f"{check['limit']:.1f}"
    size = "" if check["size"] is None else f"{check['size']:+.2f} (<= {check['size_limit']:.1f})"
    chance = "" if check["chance"] is None else f"{check['chance']:+.2f}"
    worst = f"{check['worst_value']:.0%}" if share else f"{check['worst_value']:+.2f}"
    return f"{f'{value} (<= {limit})':>16} {size:>16} {chance:>9}  {worst} {Path(check['worst']).name}"
