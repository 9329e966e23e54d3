// What the player sees, in numbers: frames per second, key to pixels, frame intervals, frames that were never painted.

const KEPT = 400;

export function quantile(values, share) {
  if (!values.length) return null;
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[Math.max(Math.ceil(share * sorted.length), 1) - 1];
}

export class Meter {
  constructor(kept = KEPT) {
    this.kept = kept;
    this.channel = new MessageChannel();
    this.channel.port1.onmessage = () => this.painted(performance.now());
    this.clear();
  }

  clear() {
    this.latencies = [];
    this.intervals = [];
    this.presses = [];
    this.arrivals = [];
    this.numDecoded = 0;
    this.numUnpainted = 0;
    this.latest = null;
    this.lastPaint = null;
  }

  // Time that passes while nothing plays is no frame interval, and keys pressed then wait for nothing.
  interrupt() {
    this.presses = [];
    this.lastPaint = null;
  }

  pressed(id, timeStamp) {
    this.presses.push({ id, timeStamp });
  }

  // A frame is on the canvas. It is painted once an animation frame has come and its rendering is over.
  complete(inputId) {
    this.numDecoded += 1;
    this.arrivals.push(performance.now());
    if (this.arrivals.length > 60) this.arrivals.shift();
    if (this.latest !== null) {
      this.numUnpainted += 1;
      this.latest = inputId;
      return;
    }
    this.latest = inputId;
    requestAnimationFrame(() => this.channel.port2.postMessage(0));
  }

  painted(now) {
    const newest = this.latest;
    this.latest = null;
    if (newest === null) return;
    if (this.lastPaint !== null) this.keep(this.intervals, now - this.lastPaint);
    this.lastPaint = now;
    for (const press of this.presses) if (press.id <= newest) this.keep(this.latencies, now - press.timeStamp);
    this.presses = this.presses.filter((press) => press.id > newest);
  }

  keep(list, value) {
    list.push(value);
    if (list.length > this.kept) list.shift();
  }

  // Frames per second over the last two seconds.
  rate() {
    const now = performance.now();
    const recent = this.arrivals.filter((time) => now - time < 2000);
    return recent.length < 2 ? 0 : (1000 * (recent.length - 1)) / (recent.at(-1) - recent[0]);
  }
}
