// The page: chooses worlds, draws them, sends keys, shows figures. No build step, no dependencies.

import { Keys, isTyped } from "./keys.js";
import { Meter, quantile } from "./meter.js";
import { Screens } from "./screen.js";
import { Strip, amount } from "./strip.js";
import { Link, bestPictureFormat, memoryOf } from "./wire.js";

const MAX_PANES = 3;
const part = (id) => document.getElementById(id);
const catalogue = await (await fetch("/api/worlds")).json();
const choices = new Map(catalogue.choices.map((choice) => [choice.id, choice]));
const meter = new Meter(Number(new URLSearchParams(location.search).get("keep")) || undefined);
const state = { panes: catalogue.panes, picture: await bestPictureFormat(), paused: false, recording: false, start: null, seed: null, prompt: null };
const counts = { received: 0, complete: 0, generated: 0, dropped: 0, errors: 0 };
let stats = {};
let screens = null;
let strips = [];

const link = new Link({ open, message: receive, picture: show, gone });
const keys = new Keys(part("pads"), (id, held) => link.send({ type: "input", id, held }), (id, time) => {
  if (!state.paused && screens) meter.pressed(id, time);
});

// Server to page.

function open() {
  // A new connection counts its inputs anew; ours only grow, which is all that it asks for.
  document.body.classList.remove("gone");
  openPanes(null, null);
}

function gone() {
  document.body.classList.add("gone");
  screens?.close();
  screens = null;
  meter.interrupt();
}

const RECEIVERS = {
  ready: buildPanes,
  state: applyState,
  stats: (message) => { stats = message; },
  memory: (message) => memoryOf(message).forEach((memory, index) => strips[index]?.update(memory)),
  recording: download,
  error: (message) => { counts.errors += 1; part("words").classList.remove("said"); toast(message.message); },
};

function receive(message) {
  RECEIVERS[message.type]?.(message);
}

function show(picture) {
  counts.received += 1;
  screens?.show(picture);
}

function complete(frame, inputId) {
  counts.complete += 1;
  link.send({ type: "ack", frame });
  meter.complete(inputId);
}

// The decoder gave up: pictures that stand alone from now on.
function broken(error) {
  if (state.picture === "jpeg") return;
  state.picture = "jpeg";
  toast(`H.264 failed in this browser (${error.message}); going on with JPEG`);
  link.send({ type: "picture", format: "jpeg" });
}

// Page to server.

function openPanes(start = state.start, seed = state.seed) {
  document.body.classList.add("waiting");
  meter.interrupt();
  link.send({ type: "open", panes: state.panes, start, seed, picture: state.picture, prompt: state.prompt });
}

function reset() {
  meter.interrupt();
  const chosen = part("start").value;
  link.send({ type: "reset", start: chosen === "" ? null : Number(chosen) });
}

function say(how) {
  const text = part("prompt").value.trim();
  if (!text) return;
  part("prompt").blur();
  part("words").classList.add("said");
  link.send({ type: "say", text, switch: how });
}

const pause = (paused) => link.send({ type: "pause", paused });

// Panes.

function buildPanes({ panes, bindings, starts, opening, prompts }) {
  screens?.close();
  document.body.classList.remove("waiting");
  strips = panes.map(() => new Strip());
  const cards = panes.map(card);
  part("panes").replaceChildren(...cards);
  part("panes").style.setProperty("--columns", panes.length);
  part("panes").classList.toggle("learned", panes.some(({ kind }) => kind === "learned"));
  part("add").disabled = panes.length >= MAX_PANES;
  screens = new Screens(cards.map((element) => element.querySelector("canvas")), complete, broken);
  keys.bind(bindings);
  const random = opening === null ? [option("", "at random")] : [];
  const options = [...random, ...starts.map((name, index) => option(index, name))];
  const before = part("start").value;
  part("start").replaceChildren(...options);
  if (options.some(({ value }) => value === before)) part("start").value = before;
  part("start-label").hidden = !starts.length;
  part("words").hidden = !prompts;
  part("hint").hidden = !Object.keys(bindings).length;
  part("prompts").replaceChildren(...(prompts?.known ?? []).map((text) => option(text, text)));
  // Keys that are held while the panes change stay held.
  keys.changed();
}

function card(pane, index) {
  const element = document.createElement("article");
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [pane.width, pane.height];
  const screen = document.createElement("div");
  const note = document.createElement("div");
  element.className = "pane";
  element.style.setProperty("--aspect", pane.width / pane.height);
  [screen.className, note.className] = ["screen", "note"];
  screen.append(canvas);
  note.append(document.createTextNode(pane.note), document.createElement("output"));
  element.append(chooser(pane, index), screen, strips[index].root, note);
  return element;
}

// The selects above a pane: which world, how many steps, which memory; only where there is something to choose.
function chooser(pane, index) {
  const row = document.createElement("div");
  row.className = "choose";
  row.append(select([...choices.values()].map(({ id, label }) => [id, label]), pane.id, "world", (id) => change(index, { choice: id })));
  if (pane.steps.length > 1) {
    const steps = pane.steps.map((count) => [count, count === 1 ? "1 step" : `${count} steps`]);
    row.append(select(steps, pane.chosen_steps, "denoising steps per frame", (count) => change(index, { steps: Number(count) })));
  }
  if (pane.policies.length > 1) {
    const policies = pane.policies.map((name) => [name, name]);
    row.append(select(policies, pane.chosen_policy, "what the model remembers", (policy) => change(index, { policy })));
  }
  if (state.panes.length > 1) row.append(removeButton(index));
  return row;
}

function change(index, choice) {
  const pane = "choice" in choice ? { steps: null, policy: null, ...choice } : { ...state.panes[index], ...choice };
  state.panes = state.panes.with(index, pane);
  openPanes();
}

function removeButton(index) {
  const button = document.createElement("button");
  [button.className, button.textContent, button.title] = ["remove", "\u00d7", "remove this pane"];
  button.onclick = () => { state.panes = state.panes.toSpliced(index, 1); openPanes(); };
  return button;
}

function addPane() {
  const shown = new Set(state.panes.map((pane) => pane.choice));
  const rate = choices.get(state.panes[0].choice).rate;
  const fitting = catalogue.choices.filter((choice) => choice.rate === rate);
  const next = fitting.find(({ id }) => !shown.has(id)) ?? fitting[0];
  state.panes = [...state.panes, { choice: next.id, steps: null, policy: null }];
  openPanes();
}

function select(entries, chosen, title, onChoose) {
  const element = document.createElement("select");
  element.title = title;
  element.append(...entries.map(([value, label]) => option(value, label)));
  element.value = chosen;
  element.onchange = () => { element.blur(); onChoose(element.value); };
  return element;
}

function option(value, label) {
  return new Option(label, value);
}

// State and figures.

function applyState(message) {
  Object.assign(state, { paused: message.paused, recording: message.recording, start: message.start, seed: message.seed, prompt: message.prompt });
  // A chosen start is shown as such; one that was drawn stays "at random".
  if (part("start").value !== "" && message.start !== null) part("start").value = message.start;
  if (message.prompt !== null && document.activeElement !== part("prompt")) part("prompt").value = message.prompt;
  part("words").classList.remove("said");
  document.body.classList.toggle("paused", state.paused);
  document.body.classList.toggle("recording", state.recording);
  part("pause").textContent = state.paused ? "Play on" : "Pause";
  part("record").textContent = state.recording ? "Stop and download" : "Record";
  document.body.classList.remove("waiting");
  if (state.paused) meter.interrupt();
}

function download({ url }) {
  const anchor = document.createElement("a");
  [anchor.href, anchor.download] = [url, "mutoscope.mp4"];
  anchor.click();
}

function toast(text) {
  part("toast").textContent = text;
  part("toast").hidden = false;
  clearTimeout(toast.timer);
  toast.timer = setTimeout(() => { part("toast").hidden = true; }, 8000);
}

const milliseconds = (value) => (value === null || value === undefined ? "\u2013" : `${Math.round(value)} ms`);
// What a memory holds and what it costs: of one pane, or the sum over all.
const memoryCost = (bytes, ms) => (bytes ? `${amount(bytes)}, ${ms.toFixed(1)} ms/frame` : "");
const sum = (values) => values.reduce((total, value) => total + value, 0);
const pair = (low, high) => (low === null || low === undefined ? "\u2013" : `${Math.round(low)} / ${milliseconds(high)}`);

function drawFigures() {
  const [bytes, costs] = [stats.memory_bytes ?? [], stats.memory_ms ?? []];
  part("rate").textContent = meter.rate().toFixed(1);
  part("latency").textContent = pair(quantile(meter.latencies, 0.5), quantile(meter.latencies, 0.95));
  part("generate").textContent = pair(stats.generate_p50_ms, stats.generate_p95_ms);
  part("memory").textContent = memoryCost(sum(bytes), sum(costs)) || "\u2013";
  part("dropped").textContent = (stats.dropped ?? 0) + meter.numUnpainted;
  document.querySelectorAll(".pane output").forEach((output, index) => { output.value = memoryCost(bytes[index], costs[index]); });
}

// Buttons and keys of the page itself.

part("title").textContent = catalogue.title;
part("pause").onclick = () => pause(!state.paused);
part("reset").onclick = reset;
part("start").onchange = () => { part("start").blur(); reset(); };
part("record").onclick = () => link.send({ type: "record", recording: !state.recording });
part("add").onclick = addPane;
part("words").onsubmit = (event) => { event.preventDefault(); say("recommit"); };
part("keep").onclick = () => say("keep");
part("cut").onclick = () => say("cut");
addEventListener("click", (event) => event.target.closest("button")?.blur());
addEventListener("keydown", (event) => {
  if (event.repeat || event.ctrlKey || event.metaKey || event.altKey || event.code in keys.bindings || isTyped(event)) return;
  if (event.code === "KeyP") pause(!state.paused);
  if (event.code === "KeyR") reset();
});
// A tab that nobody sees does not play.
document.addEventListener("visibilitychange", () => {
  if (document.hidden && !state.paused) [state.hidden] = [true, pause(true)];
  else if (!document.hidden && state.hidden) [state.hidden] = [false, pause(false)];
});
setInterval(drawFigures, 500);

// What tests and benchmarks read.
window.mutoscope = {
  state,
  counts,
  clear: () => { meter.clear(); Object.assign(counts, { received: 0, complete: 0, errors: 0 }); },
  report: () => ({ latencies: meter.latencies, intervals: meter.intervals, unpainted: meter.numUnpainted, ...counts, ...stats }),
  link,
};
