// The memory strip under a pane: a cell per slot, as the server's ledger tells it. What the server did not send is not shown.

const MARKS = { sink: "sink", chosen: "back", mosaic: "parts", open: "now", state: "state", archive: "host" };
const BESIDE = ["state", "archive"];

const count = (number, name) => `${number} ${name}${number === 1 ? "" : "s"}`;
export const amount = (bytes) => {
  if (bytes < 1e3) return `${bytes} B`;
  return bytes < 1e6 ? `${(bytes / 1e3).toFixed(bytes < 1e4 ? 1 : 0)} kB` : `${(bytes / 1e6).toFixed(bytes < 1e7 ? 1 : 0)} MB`;
};
const element = (tag, className) => Object.assign(document.createElement(tag), { className });

// One slot: its picture, how many frames ago that was, and its bytes.
class Cell {
  constructor(slot) {
    this.root = element("li", "slot");
    this.root.dataset.slot = slot;
    this.thumb = element("div", "thumb");
    this.image = new Image();
    this.image.alt = "";
    this.age = element("b", "");
    this.bytes = element("small", "");
    this.thumb.append(this.image);
    this.root.append(this.thumb, this.age, this.bytes);
  }

  // A picture belongs to the frame it came with; the slot's next frame needs one of its own.
  show(entry, frameSeconds) {
    const { dataset } = this.root;
    const isNew = dataset.frame !== String(entry.frame);
    if (entry.picture) this.image.src = `data:image/jpeg;base64,${entry.picture}`;
    else if (isNew) this.image.removeAttribute("src");
    Object.assign(dataset, { kind: entry.kind, frame: String(entry.frame), age: String(entry.age) });
    this.thumb.dataset.mark = MARKS[entry.kind] ?? "";
    dataset.state = entry.kind === "empty" || BESIDE.includes(entry.kind) ? entry.kind : this.image.hasAttribute("src") ? "shown" : "not shown";
    this.age.textContent = BESIDE.includes(entry.kind) ? "all" : entry.age ?? "\u2013";
    this.bytes.textContent = amount(entry.bytes);
    this.root.title = describe(entry, frameSeconds);
  }
}

function describe({ slot, kind, frame, age, bytes }, frameSeconds) {
  const place = `slot ${slot}, ${bytes.toLocaleString("en")} bytes`;
  if (kind === "empty") return `${place}: empty`;
  if (kind === "state") return `learned memory, ${bytes.toLocaleString("en")} bytes: what all earlier frames left, the same size for ever`;
  if (kind === "archive") return `on the host, ${bytes.toLocaleString("en")} bytes: frames that left the slots and may come back, the same size for ever`;
  const old = `frame ${frame}, ${count(age, "frame")} (${(age * frameSeconds).toFixed(1)} s) old`;
  return `${place}: ${old}${kind === "sink" ? ", never forgotten" : ""}${kind === "chosen" ? ", chosen for what is in it" : ""}${kind === "mosaic" ? ", parts of several frames" : ""}${kind === "open" ? ", being drawn" : ""}`;
}

export class Strip {
  constructor() {
    this.root = element("section", "strip");
    this.root.hidden = true;
    this.head = element("p", "");
    this.list = element("ol", "");
    this.cells = new Map();
    this.root.setAttribute("aria-label", "what the model remembers");
    this.root.append(this.head, this.list);
  }

  update({ slots, num_slots, num_remembered, frame_seconds }) {
    this.root.hidden = !slots.length;
    const hidden = num_slots - slots.filter(({ kind }) => !BESIDE.includes(kind)).length;
    const milliseconds = Math.round(1000 * frame_seconds);
    const rest = hidden ? ` \u00b7 ${count(hidden, "slot")} not drawn` : "";
    this.head.textContent = `remembers ${num_remembered} of ${num_slots} \u00b7 age in frames of ${milliseconds} ms${rest}`;
    const cells = slots.map((entry) => this.cell(entry, frame_seconds));
    // Only a changed order touches the page's layout.
    if (cells.some((cell, index) => this.list.children[index] !== cell) || this.list.children.length > cells.length) {
      this.list.replaceChildren(...cells);
    }
  }

  cell(entry, frameSeconds) {
    if (!this.cells.has(entry.slot)) this.cells.set(entry.slot, new Cell(entry.slot));
    const cell = this.cells.get(entry.slot);
    cell.show(entry, frameSeconds);
    return cell.root;
  }
}
