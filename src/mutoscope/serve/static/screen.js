// Panes that decode and draw. A frame is complete when every pane has drawn its picture of it.

import { KIND } from "./wire.js";

// One canvas and the decoder of its stream.
class Pane {
  constructor(canvas, onDrawn, onBroken) {
    this.canvas = canvas;
    this.context = canvas.getContext("2d", { alpha: false });
    this.onDrawn = onDrawn;
    this.onBroken = onBroken;
    this.newest = -1;
    this.waiting = [];
  }

  show(picture) {
    if (picture.kind === KIND.JPEG) return this.showJpeg(picture);
    if (picture.kind === KIND.H264_KEY) this.configure(picture.payload);
    if (!this.decoder || this.decoder.state !== "configured") return;
    this.waiting.push(picture);
    const type = picture.kind === KIND.H264_KEY ? "key" : "delta";
    this.decoder.decode(new EncodedVideoChunk({ type, timestamp: picture.frame, data: picture.payload }));
  }

  async showJpeg(picture) {
    const image = await createImageBitmap(new Blob([picture.payload], { type: "image/jpeg" }));
    // Decoders may finish out of order: an older picture never covers a newer one.
    if (picture.frame > this.newest) {
      this.newest = picture.frame;
      this.context.drawImage(image, 0, 0, this.canvas.width, this.canvas.height);
    }
    image.close();
    this.onDrawn(picture);
  }

  // The stream's first parameter set names its profile and level.
  configure(payload) {
    this.close();
    const at = payload.findIndex((byte, i) => (byte & 31) === 7 && payload[i - 1] === 1 && payload[i - 2] === 0 && payload[i - 3] === 0);
    const codec = "avc1." + [...payload.slice(at + 1, at + 4)].map((byte) => byte.toString(16).padStart(2, "0")).join("");
    this.waiting = [];
    this.decoder = new VideoDecoder({ output: (frame) => this.draw(frame), error: (error) => this.onBroken(error) });
    this.decoder.configure({ codec, optimizeForLatency: true });
  }

  draw(frame) {
    const { width, height } = this.canvas;
    const scale = Math.floor(frame.displayWidth / width);
    this.context.drawImage(frame, 0, 0, width * scale, height * scale, 0, 0, width, height);
    frame.close();
    this.onDrawn(this.waiting.shift());
  }

  close() {
    if (this.decoder && this.decoder.state !== "closed") this.decoder.close();
    this.decoder = null;
  }
}

// All panes of the page. `onComplete(frame, inputId)` is called once per frame that every pane has drawn.
export class Screens {
  constructor(canvases, onComplete, onBroken) {
    this.onComplete = onComplete;
    this.counts = new Map();
    this.open = true;
    this.panes = canvases.map((canvas) => new Pane(canvas, (picture) => this.drawn(picture), onBroken));
  }

  show(picture) {
    this.panes[picture.pane]?.show(picture);
  }

  drawn({ frame, panes, inputId }) {
    const count = (this.counts.get(frame) ?? 0) + 1;
    this.counts.set(frame, count);
    if (count < panes || !this.open) return;
    for (const older of [...this.counts.keys()]) if (older <= frame) this.counts.delete(older);
    this.onComplete(frame, inputId);
  }

  close() {
    this.open = false;
    for (const pane of this.panes) pane.close();
  }
}
