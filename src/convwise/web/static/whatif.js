// What if: controls from what each layer declares, answers of the server's calculus, experiments, files.

import { $, ask, by, drawn, el, isError, percent, plain, put, say, short, show, span, study, text, THIN, whole, worth } from "./common.js";

let net = null; // {net: id, input, layers: [{name, op, controls}]}
let changes = restored(); // [{layer, parameter, value}]
let pictures = [];
let picture = 0;
let answer = null;

function restored() {
  try {
    return JSON.parse(sessionStorage.getItem("changes")) || [];
  } catch {
    return [];
  }
}
const layer = () => net.layers.find((each) => each.name === $("layer").value) || net.layers[0];
const same = (a, b) => JSON.stringify(a) === JSON.stringify(b);
const changed = (control) => changes.find((each) => each.layer === control.layer && each.parameter === control.parameter);
const controlOf = (change) => net.layers.flatMap((each) => each.controls).find((each) => each.layer === change.layer && each.parameter === change.parameter);

/** The network that changes are of: again where the study has another one by now. */
export async function base() {
  const told = await ask("layers");
  if (!told.net) return; // none yet
  show("no-net", false);
  show("bench", true);
  const running = ["running", "stopping", "writing"].includes(study.state.phase);
  text("base-is", running ? "You start from the advised network; once the study has ended, from the chosen one." : "You start from the chosen network.");
  renderTests(study.state);
  if (!pictures.length) look();
  if (net && net.net === told.net) return;
  net = told;
  changes = changes.filter((each) => controlOf(each));
  const before = sessionStorage.getItem("layer") || (net.layers.find((each) => each.op === "Conv2D") || net.layers[0]).name;
  put("layer", ...net.layers.map((each) => el("option", { value: each.name }, `${each.name} (${each.op})`)));
  $("layer").value = net.layers.some((each) => each.name === before) ? before : net.layers[0].name;
  controls();
  compute();
}

async function look() {
  const told = await ask("pictures").catch((error) => ({ pictures: [], why: error.message }));
  pictures = told.pictures;
  if (!pictures.length) return put("thumbs", el("p", { class: "note" }, `Without a picture: ${told.why}.`));
  put("thumbs", ...pictures.map((each, i) => el("button", { type: "button", "aria-pressed": String(i === picture), "aria-label": `Image ${i + 1}`, onclick: () => { picture = i; pick(); } }, el("img", { src: each, alt: "" }))));
  if (answer && !answer.problem) sight();
}
function pick() {
  [...$("thumbs").children].forEach((each, i) => each.setAttribute("aria-pressed", String(i === picture)));
  sight();
}

// Controls ------------------------------------------------------------------------------------------

function controls() {
  put("parameters", ...layer().controls.filter((each) => each.asked).map(field));
  const others = layer().controls.filter((each) => !each.asked).map(field);
  put("others", ...others);
  show("more", others.length > 0);
  if (!layer().controls.length) put("parameters", el("p", { class: "empty" }, "This layer has nothing to change."));
}

function field(control) {
  const id = `${control.layer}-${control.parameter}`;
  const now = changed(control) ? changed(control).value : control.value;
  const value = el("div", { class: "value" });
  const say = (text) => (control.meanings[text] ? `${control.meaning}; ${text}: ${control.meanings[text]}` : control.meaning);
  const hint = el("small", { id: `${id}-hint` }, say(now));
  const set = (given) => {
    hint.textContent = say(given);
    change(control, given);
  };
  const number = (at, start, name, of = value) => {
    const input = el("input", { type: "number", id: at, min: control.kind === "count" ? 1 : 0, step: control.kind === "number" ? "any" : 1, value: start, "aria-describedby": hint.id, "data-of": id });
    if (name) input.setAttribute("aria-label", `${control.parameter}, ${name}`);
    of.append(input);
    return input;
  };
  const read = (input) => (input.value === "" ? null : Number(input.value));
  if (control.kind === "pair") {
    const rows = number(id, now[0], "rows");
    value.append("×");
    const columns = number(`${id}-columns`, now[1], "columns");
    let square = now[0] === now[1];
    rows.addEventListener("input", () => {
      if (square) columns.value = rows.value;
      set([read(rows), read(columns)]);
    });
    columns.addEventListener("input", () => {
      square = rows.value === columns.value;
      set([read(rows), read(columns)]);
    });
  } else if (control.kind === "padding") {
    padding(control, id, now, value, number, read, set);
  } else if (control.kind === "flag") {
    const box = el("input", { type: "checkbox", id, checked: now, "aria-describedby": hint.id, onchange: () => set(box.checked) });
    value.append(box);
  } else if (control.kind === "word") {
    const list = el("select", { id, "aria-describedby": hint.id, "data-of": id, onchange: () => set(list.value) }, ...control.options.map((each) => el("option", { value: each, selected: each === now }, each)));
    value.append(list);
  } else {
    const input = number(id, now, "");
    input.addEventListener("input", () => set(read(input)));
  }
  return el("div", { class: "field" }, el("label", { for: id }, control.parameter), value, hint);
}

function padding(control, id, now, value, number, read, set) {
  const own = Array.isArray(now);
  const list = el("select", { id, "aria-describedby": `${id}-hint`, "data-of": id }, ...["same", "valid", "own"].map((each) => el("option", { value: each, selected: own ? each === "own" : each === now }, each)));
  const sides = el("div", { class: "value four", role: "group", "aria-label": "own padding" });
  const inputs = ["top", "bottom", "left", "right"].map((name, i) => number(`${id}-${name}`, own ? now[i] : 0, name, sides));
  const given = () => (list.value === "own" ? inputs.map(read) : list.value);
  sides.hidden = !own;
  list.addEventListener("change", () => {
    sides.hidden = list.value !== "own";
    set(given());
  });
  inputs.forEach((each) => each.addEventListener("input", () => set(given())));
  value.append(list, sides);
}

function change(control, value) {
  changes = changes.filter((each) => each.layer !== control.layer || each.parameter !== control.parameter);
  if (!same(value, control.value)) changes.push({ layer: control.layer, parameter: control.parameter, value });
  compute();
}

// Answers -------------------------------------------------------------------------------------------

let busy = false;
let again = false;
export async function compute() {
  sessionStorage.setItem("changes", JSON.stringify(changes));
  sessionStorage.setItem("layer", $("layer").value);
  if (busy) return void (again = true); // one at a time: the last wish is answered
  busy = true;
  const begun = performance.now();
  try {
    const at = [Number($("at-row").value), Number($("at-column").value)];
    const told = await ask("what-if", { changes, layer: layer().name, at });
    if (told.net !== net.net) await base();
    render(told);
    $("bench").dataset.ms = (performance.now() - begun).toFixed(1);
  } catch (error) {
    render({ problem: { where: "", what: error.message, expected: "", fix: "" }, together: [] });
  }
  busy = false;
  if (again) {
    again = false;
    compute();
  }
}

function render(told) {
  const wrong = told.problem;
  show("problem", Boolean(wrong));
  for (const input of document.querySelectorAll("[data-of]")) input.removeAttribute("aria-invalid");
  put("changes", ...changes.map((each) => el("li", {}, `${each.layer}.${each.parameter} ${plain(controlOf(each).value)} → ${plain(each.value)}`,
    el("button", { type: "button", "aria-label": `Undo the change of ${each.layer}.${each.parameter}`, onclick: () => undo(each) }, "undo"))));
  if (wrong) return refuse(wrong, told.together);
  answer = told;
  totals(told);
  show("findings", told.findings.length > 0);
  put("findings", ...told.findings.map((each) => el("li", {}, each)));
  layers(told);
  sight();
  buttons();
}

function refuse(wrong, together) {
  const last = changes.at(-1);
  if (last) document.querySelectorAll(`[data-of="${CSS.escape(`${last.layer}-${last.parameter}`)}"]`).forEach((each) => each.setAttribute("aria-invalid", "true"));
  const said = [wrong.where && `${wrong.where}: `, wrong.what, wrong.expected && `; expected ${wrong.expected}`, "."].filter(Boolean).join("");
  put("problem", el("strong", {}, "This is not possible. "), said, wrong.fix ? ` Fix: ${wrong.fix}.` : "");
  if (together.length) {
    const names = together.map((each) => each.layer).join(" and ");
    $("problem").append(el("button", { type: "button", onclick: () => { changes.push(...together); controls(); compute(); } }, `Change ${names} too: their maps are joined`));
  }
  buttons();
}

function undo(gone) {
  changes = changes.filter((each) => each !== gone);
  controls();
  compute();
  $("layer").focus();
}

function totals({ total, rows }) {
  const row = rows.find((each) => each.name === layer().name);
  const entry = (name, now, was, shown) => {
    const share = was && typeof was === "number" ? ` (${now < was ? "−" : "+"}${Math.abs(100 * (now / was - 1)).toFixed(0)}${THIN}%)` : "";
    const kind = typeof now === "number" ? (now < was ? "better" : "worse") : "";
    return el("div", {}, el("dt", {}, name), el("dd", {}, shown(now), el("small", {}, same(now, was) ? "as it is" : el("span", { class: kind }, `was ${shown(was)}${share}`))));
  };
  put("totals", entry("Parameters", total.after.params, total.before.params, whole), entry("Multiply-accumulates", total.after.macs, total.before.macs, short),
    entry("Memory at once", total.after.peak_bytes, total.before.peak_bytes, (n) => short(n, "B")), entry(`Output of ${row.name}`, row.after.shape, row.before.shape, by));
}

function layers({ rows }) {
  const cell = (now, was, shown) => el("td", { class: `n ${same(now, was) ? "" : "moved"}` }, same(now, was) ? null : el("s", {}, shown(was)), shown(now));
  put("layers", ...rows.map((row) => el("tr", { "aria-current": String(row.name === layer().name) },
    el("td", { class: "name" }, el("button", { type: "button", class: "link", onclick: () => choose(row.name) }, row.name), el("small", {}, `${row.op}${row.settings ? ` · ${row.settings}` : ""}`)),
    cell(row.after.shape, row.before.shape, by), cell(row.after.params, row.before.params, (n) => (n ? whole(n) : "")), cell(row.after.macs, row.before.macs, (n) => (n ? short(n) : "")), cell(row.after.field, row.before.field, by))));
}

function choose(name) {
  $("layer").value = name;
  controls();
  compute();
  $("layer").focus();
}

function sight() {
  if (!answer) return;
  const [height, width] = answer.input;
  const { before, after } = answer.seen;
  const svg = $("sight");
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  const box = (found, kind) => drawn("rect", { class: kind, x: found.box.x, y: found.box.y, width: found.box.width, height: found.box.height });
  const image = pictures[picture] && drawn("image", { href: pictures[picture], width, height, preserveAspectRatio: "none", class: Math.max(height, width) < 100 ? "pixelated" : "" });
  const parts = [image, after && box(after, "halo"), after && box(after, "edge"), before && !same(before.box, after && after.box) && box(before, "was")];
  svg.replaceChildren(...parts.filter(Boolean));
  const told = (found) => `${by(found.size)} px`;
  const now = after ? `One output of ${layer().name} sees ${told(after)}: ${percent(after.share)} of this image` : `Every output of ${layer().name} sees the whole image`;
  text("sight-says", after && before && !same(before.size, after.size) ? `${now}. Before, dashed: ${told(before)}.` : `${now}.`);
  svg.setAttribute("aria-label", now);
}

// Experiments and files -----------------------------------------------------------------------------

function buttons() {
  const state = study.state;
  const tested = state.tests.some((each) => each.running);
  const ended = state.choice !== null;
  $("test").disabled = !ended || tested || !changes.length || !$("problem").hidden;
  $("take").disabled = !$("problem").hidden;
  show("test-stop", tested);
  text("test-note", !ended ? "A change can be tested once the study has ended, because both need the whole machine." :
    "Test it: the network is trained on your images as it is and with the change, seed by seed, until the budget is spent.");
}

export function renderTests(state) {
  if (net) buttons();
  const kept = $("tests").dataset.key;
  const key = JSON.stringify(state.tests);
  if (kept === key) return;
  $("tests").dataset.key = key;
  put("tests", ...state.tests.toReversed().map((test) => el("div", { class: "test" }, el("h3", {}, test.asked.replace(/ &$/, "")), ...result(test))));
}

function result(test) {
  if (test.error) return [el("p", {}, test.error)];
  if (!test.answer) {
    const { done, planned, seconds_left: left } = test.progress;
    return [el("p", {}, planned ? `Trainings: ${done} of ${planned}.` : "Getting ready.", left ? ` About ${Math.round(left)}${THIN}s left.` : ""), ...test.notes.map((each) => el("p", { class: "note" }, each))];
  }
  const told = test.answer.effects.flatMap((each) => [
    el("p", { class: "worth" }, `${worth(each)}${isError() ? "" : " points"} `, el("small", { class: `key ${each.verdict.replace(" ", "-")}` }, each.verdict)),
    interval(each),
    el("p", {}, `95 % interval ${span(each)}, ${each.runs} ${each.runs === 1 ? "pair" : "pairs"} of trainings of ${Number(each.seconds.toPrecision(3))} s; a step takes ${each.time_ratio.toFixed(2)} times as long.`),
  ]);
  const not = test.answer.not_measured.map((each) => el("p", {}, `Not measured: ${each.because}`));
  return [...told, ...not, ...test.answer.notes.map((each) => el("p", { class: "note" }, each))];
}

function interval(each) {
  const { low, high, verdict } = each, change = each.error_change ?? each.accuracy_change;
  const most = Math.max(Math.abs(low), Math.abs(high), isError() ? 0 : 0.005) * 1.1 || 1;
  const x = (share) => 200 + (190 * share) / most;
  const colour = { matters: "var(--accent)", "no difference": "var(--muted)", "not resolved": "var(--second)" }[verdict];
  const line = drawn("line", { class: "span", x1: x(low), x2: x(high), y1: 12, y2: 12, stroke: colour });
  return drawn("svg", { class: "interval", viewBox: "0 0 400 34", role: "img", "aria-label": `from ${span(each)}${isError() ? "" : " points"}` },
    drawn("line", { class: "zero", x1: 200, x2: 200, y1: 0, y2: 22 }), line, drawn("circle", { cx: x(change), cy: 12, r: 5, fill: colour }),
    drawn("text", { x: 200, y: 33 }, "0"));
}

$("controls").addEventListener("submit", (event) => event.preventDefault());
$("layer").addEventListener("change", () => { controls(); compute(); });
for (const id of ["at-row", "at-column"]) $(id).addEventListener("input", compute);
$("test").addEventListener("click", async () => {
  $("test").disabled = true;
  try {
    await ask("test", { changes, budget: $("budget").value });
    say("The test has begun.");
  } catch (error) {
    text("test-note", error.message);
  }
});
$("test-stop").addEventListener("click", async () => {
  try {
    await ask("test/stop", {});
  } catch (error) {
    text("test-note", error.message);
  }
});
$("take").addEventListener("click", async () => {
  $("take").disabled = true;
  put("taken", el("p", { class: "note" }, "Writing…"));
  try {
    const told = await ask("export", { changes });
    const trained = told.trained ? "with its trained weights" : "untrained; train it as you would your own, or test it here first";
    put("taken", el("div", { class: "test" }, el("h3", {}, "This one"), el("p", {}, `In ${told.folder}, ${trained}.`),
      el("ul", { class: "columns" }, ...told.files.map((each) => el("li", {}, el("span", {}, el("a", { href: `/files/${each}`, download: true }, each.split("/").pop())))))));
  } catch (error) {
    put("taken", el("p", { class: "banner" }, error.message));
  }
  $("take").disabled = false;
});
