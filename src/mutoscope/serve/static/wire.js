// What travels: the same protocol as serve/wire.py, from the page's side.

export const KIND = { JPEG: 1, H264_KEY: 2, H264_DELTA: 3 };
const VERSION = 1;
const HEADER_BYTES = 20;

// A page that was loaded from an older server.
function checkVersion(version) {
  if (version !== VERSION) throw new Error("the server speaks another version; reload the page");
}

// A binary message -> header fields and the coded picture.
export function parsePicture(buffer) {
  const view = new DataView(buffer);
  checkVersion(view.getUint8(0));
  return {
    kind: view.getUint8(1),
    pane: view.getUint8(2),
    panes: view.getUint8(3),
    inputId: view.getUint32(4, true),
    frame: view.getUint32(8, true),
    contentTime: view.getFloat64(12, true),
    payload: new Uint8Array(buffer, HEADER_BYTES),
  };
}

// What each pane's memory holds, from a "memory" message.
export function memoryOf(message) {
  checkVersion(message.version);
  return message.panes;
}

// "h264" where the browser decodes it (WebCodecs needs https or localhost), else "jpeg".
export async function bestPictureFormat() {
  if (new URLSearchParams(location.search).get("picture") === "jpeg") return "jpeg";
  if (!("VideoDecoder" in window)) return "jpeg";
  try {
    const { supported } = await VideoDecoder.isConfigSupported({ codec: "avc1.42c01f" });
    return supported ? "h264" : "jpeg";
  } catch {
    return "jpeg";
  }
}

// A web socket that comes back: `on.open()`, `on.message(object)`, `on.picture(header)`, `on.gone()`.
export class Link {
  constructor(on) {
    this.on = on;
    this.connect();
  }

  connect() {
    const scheme = location.protocol === "https:" ? "wss" : "ws";
    this.socket = new WebSocket(`${scheme}://${location.host}/ws`);
    this.socket.binaryType = "arraybuffer";
    this.socket.onopen = () => this.on.open();
    this.socket.onmessage = ({ data }) => {
      if (typeof data === "string") this.on.message(JSON.parse(data));
      else this.on.picture(parsePicture(data));
    };
    this.socket.onclose = () => {
      this.on.gone();
      setTimeout(() => this.connect(), 2000);
    };
  }

  send(message) {
    if (this.socket.readyState === WebSocket.OPEN) this.socket.send(JSON.stringify(message));
  }
}
