// What both parts of the page use: elements, numbers in words, questions to the server.

export const study = { state: null }; // what is on the screen
export const $ = (id) => document.getElementById(id);
const SVG = "http://www.w3.org/2000/svg";
export const THIN = "\u202f"; // a narrow space that does not break

// Building: text is always text, so that no name of a file or class is ever read as markup.
export function el(tag, attributes = {}, ...children) {
  const made = attributes.xmlns ? document.createElementNS(SVG, tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (name !== "xmlns" && value !== undefined && value !== false) made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children.filter((each) => each !== null && each !== undefined).map((each) => (each.nodeType ? each : String(each))));
  return made;
}
export const drawn = (tag, attributes, ...children) => el(tag, { ...attributes, xmlns: true }, ...children);
export const show = (id, visible) => ($(id).hidden = !visible);
export const put = (id, ...children) => $(id).replaceChildren(...children);
export function text(id, words) {
  if ($(id).textContent !== words) $(id).textContent = words;
}
export const say = (words) => text("said", words);

// Numbers, as the report says them
export const percent = (share) => (share === null || share === undefined ? "–" : `${(100 * share).toFixed(1)}${THIN}%`);
export const whole = (n) => (n === null || n === undefined ? "–" : n.toLocaleString("en"));
export const points = (share) => `${share < 0 ? "−" : "+"}${Math.abs(100 * share).toFixed(1)}`;
export const by = (pair) => (pair ? pair.join("×") : "–");
// A score is told as an accuracy, or as the error of a number: state.scored says which.
export const isError = () => Boolean(study.state && study.state.scored.name === "error");
const figures = (n) => (n === null || n === undefined ? "–" : Number(n.toPrecision(3)).toLocaleString("en").replace("-", "−"));
export const told = (value) => (isError() ? figures(value) : percent(value));
const changed = (each) => each.error_change ?? each.accuracy_change;
const moved = (change) => (isError() ? `${change > 0 ? "+" : ""}${figures(change)}` : points(change));
export const worth = (each) => moved(changed(each));
export const span = (each) => `${moved(each.low)} to ${moved(each.high)}`;
export function short(n, unit = "") {
  if (n === null || n === undefined) return "–";
  for (const [size, letter] of [[1e9, "G"], [1e6, "M"], [1e3, "k"]])
    if (Math.abs(n) >= size) return `${Number((n / size).toPrecision(3))}${THIN}${letter}${unit}`;
  return unit ? `${n}${THIN}${unit}` : `${n}`;
}
export function minutes(seconds) {
  const left = Math.max(0, Math.floor(seconds));
  return `${Math.floor(left / 60)}:${String(left % 60).padStart(2, "0")}`;
}
export const plain = (value) => (Array.isArray(value) ? value.join(value.length === 2 ? "×" : ", ") : value === true ? "yes" : value === false ? "no" : String(value));

/** Nobody answered, or the answer was an error, whose words these are. */
export class Unanswered extends Error {}

export async function ask(name, body) {
  const request = body === undefined ? { signal: AbortSignal.timeout(30000) } : {
    method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body),
  };
  let answer, said;
  try {
    answer = await fetch(`/api/${name}`, request);
    said = await answer.text();
  } catch (error) {
    throw new Unanswered(error.message);
  }
  if (answer.status === 403) throw new Unanswered(said); // the token is another one by now
  const told = said ? JSON.parse(said) : null;
  if (!answer.ok) throw new Unanswered(told.error);
  return told;
}
