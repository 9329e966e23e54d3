// Keys and touch: several at once, oldest press first. Every change is one numbered message.

const PLACES = {
  KeyQ: [1, 1], KeyW: [2, 1], KeyE: [3, 1], KeyA: [1, 2], KeyS: [2, 2], KeyD: [3, 2],
  ArrowUp: [2, 1], ArrowLeft: [1, 2], ArrowDown: [2, 2], ArrowRight: [3, 2],
};
const GLYPHS = { ArrowUp: "\u2191", ArrowLeft: "\u2190", ArrowDown: "\u2193", ArrowRight: "\u2192", Space: "space" };

// Letters that go into a text field are no keys of the world.
export const isTyped = (event) => event.target instanceof HTMLInputElement;

export class Keys {
  // `onChange(id, held)` sends; `onPress(id, timeStamp)` measures; both are called in that order.
  constructor(pads, onChange, onPress) {
    this.pads = pads;
    this.onChange = onChange;
    this.onPress = onPress;
    this.bindings = {};
    this.down = new Map();
    this.id = 0;
    addEventListener("keydown", (event) => this.keydown(event));
    addEventListener("keyup", (event) => this.release(event.code));
    addEventListener("blur", () => this.releaseAll());
  }

  bind(bindings) {
    if (JSON.stringify(bindings) === JSON.stringify(this.bindings)) return;
    this.releaseAll();
    this.bindings = bindings;
    const codes = Object.keys(bindings);
    const groups = [
      ["pad", codes.filter((code) => code.startsWith("Key"))],
      ["pad", codes.filter((code) => code.startsWith("Arrow"))],
      ["pad row", codes.filter((code) => !(code in PLACES))],
    ];
    this.pads.replaceChildren(...groups.filter(([, group]) => group.length).map(([name, group]) => this.pad(name, group)));
  }

  pad(className, codes) {
    const pad = document.createElement("div");
    pad.className = className;
    pad.append(...codes.map((code) => this.cap(code)));
    return pad;
  }

  // A key that shows what it does, lights up when it is held, and can be held with a finger or the mouse.
  cap(code) {
    const cap = document.createElement("div");
    const label = document.createElement("small");
    label.textContent = this.bindings[code].replaceAll("_", " ");
    cap.className = "key";
    cap.dataset.code = code;
    cap.append(GLYPHS[code] ?? code.replace(/^(Key|Digit)/, ""), label);
    if (code in PLACES) [cap.style.gridColumn, cap.style.gridRow] = PLACES[code];
    cap.addEventListener("pointerdown", (event) => {
      event.preventDefault();
      cap.setPointerCapture(event.pointerId);
      this.press(code, event);
    });
    for (const end of ["pointerup", "pointercancel", "lostpointercapture"]) cap.addEventListener(end, () => this.release(code));
    return cap;
  }

  keydown(event) {
    if (!(event.code in this.bindings) || event.ctrlKey || event.metaKey || event.altKey || isTyped(event)) return;
    event.preventDefault();
    if (!event.repeat) this.press(event.code, event);
  }

  press(code, event) {
    if (this.down.has(code)) return;
    this.down.set(code, this.bindings[code]);
    this.changed();
    if (event.isTrusted) this.onPress(this.id, event.timeStamp);
  }

  release(code) {
    if (this.down.delete(code)) this.changed();
  }

  releaseAll() {
    if (!this.down.size) return;
    this.down.clear();
    this.changed();
  }

  changed() {
    this.id += 1;
    this.onChange(this.id, this.held());
    for (const cap of this.pads.querySelectorAll(".key")) cap.classList.toggle("down", this.down.has(cap.dataset.code));
  }

  held() {
    return [...new Set(this.down.values())];
  }
}
