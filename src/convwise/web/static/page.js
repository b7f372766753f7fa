// The page of one study: asks its server for what is new, and shows it.

import { $, ask, drawn, el, isError, minutes, percent, put, say, short, show, span, study, text, THIN, told, Unanswered, whole, worth } from "./common.js";
import { base, renderTests } from "./whatif.js";

let offset = 0; // the server's clock minus ours, in seconds

// Now ------------------------------------------------------------------------------------------------

const PHASES = {
  waiting: "waiting for a study", running: "running", stopping: "stopping", writing: "writing the folder",
  finished: "finished", interrupted: "interrupted", stopped: "not running",
};

function render(state) {
  const before = study.state;
  study.state = state;
  offset = state.now - Date.now() / 1000;
  document.title = `${state.title} · convwise`;
  text("title", state.title);
  text("name", state.title);
  text("phase", PHASES[state.phase]);
  const alive = ["running", "stopping", "writing"].includes(state.phase);
  $("phase").className = `phase ${alive ? "alive" : state.phase}`;
  if (before && before.phase !== state.phase) say(`The study is ${PHASES[state.phase]}.`);
  renderNumbers(state);
  renderCards(state);
  renderDoing(state, alive);
  renderTrainings(state, before);
  renderEffects(state);
  renderTests(state);
  renderFiles(state);
  tick();
}

function renderNumbers(state) {
  const { choice, best } = state;
  const test = choice && { ...choice.test, ...choice.test.score }; // as the goal scores
  const lost = choice && !choice.chosen;
  const { name: scored, words, nothing } = state.scored;
  const title = words[0].toUpperCase() + words.slice(1);
  show("shorter", isError());
  text("score-head", isError() ? "Error" : title);
  text("change-head", isError() ? "Error" : "Points");
  text("effects-unit", isError() ? "as a change of the mean absolute error (a minus is better)" : "in percentage points");
  text("accuracy-is", !choice ? "Best so far, validation" : test.kind === "test" ? `${title}, sealed test` : `${title}, validation estimate`);
  const share = choice ? test[scored] : best && best[scored];
  const baseline = choice ? test.baseline : best && best.baseline;
  text("accuracy", told(share));
  const range = choice ? `${told(test.low)} to ${told(test.high)}, ${whole(test.n)} images` : "";
  put("accuracy-more", range, ...(range && baseline ? [el("br")] : []), baseline ? `${nothing}: ${told(baseline)}` : "");
  const cost = choice ? choice.cost : best;
  text("params", whole(cost && cost.params));
  text("macs", short(cost && cost.macs));
  show("banner", Boolean(lost) || (choice && !choice.kept));
  if (lost) put("banner", el("strong", {}, "No network was chosen. "), choice.notes[0] || "");
  else if (choice && !choice.kept) put("banner", el("strong", {}, "The goal was not reached. "), state.goal);
  show("against", Boolean(share) && state.bars.length > 1);
  put("bars", ...state.bars.flatMap(bar));
  $("bars").setAttribute("aria-label", state.bars.map(({ name, text: said, within }) => `${name}: ${said}${within ? ` (${within})` : ""}`).join("; "));
  const others = choice ? choice.against : [];
  show("compared", others.length > 0);
  put("compared", ...others.map((each) => el("li", {}, each)));
  const notes = choice ? choice.notes.slice(lost ? 1 : 0) : state.notes;
  show("notes", notes.length > 0);
  put("notes", ...notes.map((note) => el("li", {}, note)));
}

// The cards of the report: for each parameter its value, the reason, what others were worth, and what it rests on.
function renderCards({ cards, choice }) {
  show("answer", cards.length > 0);
  const whose = !choice ? "The network that the study starts with" : choice.chosen ? "The chosen network" : "The network that was trained";
  text("answer-is", `${whose}, parameter by parameter`);
  const key = JSON.stringify(cards);
  if ($("cards").dataset.key === key) return; // so that what was selected stays so
  $("cards").dataset.key = key;
  put("cards", ...cards.map((card) => el("li", {}, el("h3", {}, card.title), el("b", {}, ...breakable(card.value)),
    el("p", {}, card.because), ...card.tried.map((each) => el("p", { class: "tried" }, each)), el("span", { class: `tag ${card.tag}` }, card.tagged))));
}
const breakable = (value) => value.split(/(?=Pooling2D)/).flatMap((part, i) => (i ? [el("wbr"), part] : [part]));

// One of the bars of the report, with its interval; the last of them is this network's own.
function bar({ name, text: said, share, low, high }, i, all) {
  const line = el("i", { class: i === all.length - 1 ? "own" : "" });
  line.style.width = `${100 * share}%`;
  const interval = low === undefined ? null : el("u");
  if (interval) Object.assign(interval.style, { left: `${100 * low}%`, width: `${100 * (high - low)}%` });
  return [el("span", {}, name), el("div", {}, line, interval), el("em", {}, said)];
}

function renderDoing(state, alive) {
  const doing = (state.doing || "reading the images").replace(/^./, (first) => first.toUpperCase());
  const count = state.planned > 1 ? `: ${state.done} of ${state.planned}` : "";
  const said = {
    waiting: "No study has begun in this folder. This page shows it as soon as one does.",
    interrupted: "It was interrupted: this is the best network so far. The same command continues from here.",
    stopped: "It ended before there was anything to write. The same command continues from here.",
    finished: state.goal ? `Goal: ${state.goal}` : "",
  };
  text("doing", alive ? `${doing}${count}` : said[state.phase]);
  text("live", (alive ? state.live : []).map((each) => training(each, state.scored.nothing)).join(" · "));
  show("stop", alive);
  $("stop").disabled = !state.stoppable || state.phase !== "running";
  text("stop", state.phase === "stopping" ? "Taking the best…" : "Take the best now");
  text("stop-note", !alive ? "" : state.stoppable ? "Ends the search, as Ctrl-C does, and writes the best network so far." : "It can only be stopped where it was started.");
  show("report", Boolean(state.choice) && state.files.length > 0);
}

// A training that runs now: on the images that it learns from, as it was when it was last heard of.
function training({ trial, epochs, accuracy, baseline }, nothing) {
  const beside = baseline == null ? "" : ` (${nothing}: ${percent(baseline)})`;
  const right = accuracy == null ? "" : `, ${percent(accuracy)} of the training images right${beside}`;
  return `${trial}: epoch ${epochs.toFixed(1)}${right}`;
}

function tick() {
  if (!study.state) return;
  const { phase, ends, budget, choice } = study.state;
  const running = ["running", "stopping", "writing"].includes(phase);
  show("track", running && Boolean(budget && ends));
  if (running) {
    text("clock-is", "Time left");
    const left = ends && ends - (Date.now() / 1000 + offset);
    text("clock", ends ? minutes(left) : "–");
    text("clock-more", !budget ? "counted by trials" : left < -1 ? `${minutes(-left)} over` : `of ${minutes(budget)}`);
    if (budget && ends) {
      const spent = Math.min(100, Math.max(0, 100 * (1 - left / budget)));
      $("track").firstElementChild.style.width = `${spent}%`;
      $("track").setAttribute("aria-valuenow", Math.round(spent));
    }
  } else {
    text("clock-is", "Time taken");
    text("clock", choice && choice.seconds ? minutes(Math.round(choice.seconds)) : "–");
    text("clock-more", choice && choice.budget ? `of ${minutes(choice.budget)}` : "");
  }
}

$("stop").addEventListener("click", async () => {
  $("stop").disabled = true;
  try {
    await ask("stop", {});
    say("Taking the best network so far.");
  } catch (error) {
    text("stop-note", error.message);
  }
});

// Trainings and effects ---------------------------------------------------------------------------------

function renderTrainings(state, before) {
  const known = new Map(before ? before.trainings.map((each) => [each.id, each.parts.length]) : []);
  show("no-trainings", !state.trainings.length);
  show("trainings-table", state.trainings.length > 0);
  const ended = state.trainings.filter((each) => each.score).map((each) => each.score);
  const top = isError() ? Math.min(...ended) : Math.max(0, ...ended);
  put("landed", ...state.trainings.map((each) => {
    const fresh = before && known.get(each.id) !== each.parts.length;
    const score = el("td", { class: "n" }, each.failed ? "failed" : told(each.score));
    const mark = state.choice ? each.chosen && "chosen" : each.score === top && top && "best so far";
    return el("tr", { class: `${fresh ? "new" : ""} ${each.failed ? "failed" : ""}` },
      el("td", { class: "name" }, each.what, mark ? el("small", { class: "key chosen" }, mark) : null, each.failed ? el("small", {}, each.failed) : null),
      el("td", {}, spark(each.parts, state.trainings)), score,
      el("td", { class: "n" }, whole(each.params)), el("td", { class: "n" }, short(each.macs)), el("td", { class: "n" }, `${Math.round(each.seconds)}${THIN}s`));
  }));
  const landed = state.trainings.filter((each) => before && known.get(each.id) !== each.parts.length && each.score);
  if (landed.length) say(landed.map((each) => `${each.what}: ${told(each.score)}`).join(". "));
  if (!before || state.trainings.length !== before.trainings.length) plot("cost");
}

function spark(parts, all) {
  const scores = all.flatMap((each) => each.parts);
  const [low, high] = [Math.min(...scores), Math.max(...scores)];
  const most = Math.max(2, ...all.map((each) => each.parts.length));
  const at = (score, i) => [4 + (92 * i) / (most - 1), 20 - (16 * (score - low)) / (high - low || 1)];
  const path = parts.map((score, i) => `${i ? "L" : "M"}${at(score, i).map((n) => n.toFixed(1)).join(" ")}`).join("");
  const said = parts.map(told).join(", ");
  const ends = parts.length ? at(parts.at(-1), parts.length - 1) : null;
  return drawn("svg", { class: "spark", viewBox: "0 0 100 24", role: "img", "aria-label": said || "no part ended" },
    drawn("title", {}, said), drawn("path", { d: path }), ends && drawn("circle", { cx: ends[0], cy: ends[1], r: 2.6 }));
}

function renderEffects(state) {
  show("no-effects", !state.effects.length);
  show("effects-table", state.effects.length > 0);
  const key = JSON.stringify(state.effects.map((each) => [each.said, worth(each)]));
  if ($("measured").dataset.key === key) return;
  $("measured").dataset.key = key;
  put("measured", ...state.effects.map((each) => el("tr", {},
    el("td", { class: "name" }, each.parameter), el("td", { "data-of": "From" }, each.before), el("td", { "data-of": "To" }, each.after),
    el("td", { class: "n", "data-of": isError() ? "Error" : "Points" }, worth(each)),
    el("td", { class: "n", "data-of": "Interval" }, span(each)),
    el("td", { class: "n", "data-of": "After" }, each.seconds ? `${Number(each.seconds.toPrecision(3))}${THIN}s` : "equal epochs"),
    el("td", {}, el("span", { class: `key ${each.verdict.replace(" ", "-")}` }, each.verdict)))));
  plot("effects");
}

const undrawn = new Set(); // plots that nobody answered for: they are asked for again once somebody does

async function plot(name) {
  undrawn.delete(name);
  let svg = "";
  try {
    const answer = await fetch(`/api/plots/${name}`);
    if (answer.status === 200) svg = await answer.text();
  } catch {
    undrawn.add(name);
    return;
  }
  show(`${name}-figure`, Boolean(svg));
  if (svg) put(`${name}-plot`, document.importNode(new DOMParser().parseFromString(svg, "image/svg+xml").documentElement, true));
}

function renderFiles(state) {
  show("no-files", !state.files.length);
  put("file-list", ...state.files.map((name) => el("li", {}, el("span", {}, el("a", { href: `/files/${name}`, download: true }, name)))));
  show("again", Boolean(state.command));
  text("command", state.command);
}

// Asking, for as long as the page is open ---------------------------------------------------------------

let based = ""; // of which phase, network and images the network to change was last asked for

async function follow() {
  try {
    const state = await ask(`state?since=${encodeURIComponent(study.state ? study.state.version : "")}`);
    if (!$("lost").hidden) say("Connected again.");
    show("lost", false);
    if (state) render(state);
    [...undrawn].forEach(plot);
    const { phase, net, source } = study.state;
    const now = JSON.stringify([phase, net, source]);
    if (now !== based) await base();
    based = now;
  } catch (error) {
    if (!(error instanceof Unanswered)) throw error; // a fault of this page, which the browser tells
    text("lost", error.message.startsWith("This page belongs") ? error.message : "No answer from convwise. Trying again…");
    show("lost", true);
  } finally {
    setTimeout(follow, document.hidden ? 4000 : 1000);
  }
}

if (location.search) history.replaceState(null, "", location.pathname + location.hash); // the token is in the cookie now
setInterval(tick, 250);
follow();
