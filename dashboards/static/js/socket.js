// One WebSocket per tab: subscribe to a panel, get a snapshot, then numbered updates. A missing number asks for a new
// snapshot. Without a WebSocket the page polls the same snapshot over HTTP.

import { clockTime } from "./format.js";
import { say } from "./words.js";

const POLL_MS = 2000;
const SILENCE_MS = 6000;
const SIGNED_OUT = 4401;

export class Live {
  // panel: { panel, ...arguments }; on: { snapshot(data), update(data) }; badge: the element that says how live we are
  constructor(panel, on, badge) {
    this.panel = panel;
    this.on = on;
    this.badge = badge;
    this.seq = null;
    this.failures = 0;
    this.ended = false;
    this.lastAt = null;
    this.connect();
    setInterval(() => this.watch(), 1000);
    addEventListener("pagehide", () => this.stop());
    document.addEventListener("visibilitychange", () => this.resume());
  }

  connect() {
    if (this.ended) return;
    const scheme = location.protocol === "https:" ? "wss:" : "ws:";
    this.opening = Date.now();
    try {
      this.socket = new WebSocket(`${scheme}//${location.host}/live/socket`);
    } catch {
      this.closed({ code: 0 }); // a browser or proxy that has none: polling stays
      return;
    }
    this.socket.onopen = () => this.subscribe(this.panel);
    this.socket.onmessage = (message) => this.receive(JSON.parse(message.data));
    this.socket.onclose = (event) => this.closed(event);
  }

  subscribe(panel) {
    this.panel = panel;
    this.seq = null;
    if (this.socket?.readyState === WebSocket.OPEN) this.socket.send(JSON.stringify({ type: "subscribe", ...panel }));
    else this.poll();
  }

  resync() {
    this.seq = null;
    if (this.socket?.readyState === WebSocket.OPEN) this.socket.send(JSON.stringify({ type: "resync" }));
  }

  receive(data) {
    if (!this.wants(data)) return;
    this.failures = 0;
    this.stopPolling();
    if (data.type === "snapshot") {
      this.seq = data.seq;
      this.accept("snapshot", data, "live");
    } else if (this.seq !== null && data.seq === this.seq + 1) {
      this.seq = data.seq;
      this.accept("update", data, "live");
    } else if (this.seq !== null && data.seq > this.seq) {
      this.resync();
    }
  }

  // An answer to an earlier subscription may still be under way.
  wants(data) {
    return Object.entries(this.panel).every(([key, value]) => data[key] === undefined || data[key] === value);
  }

  accept(kind, data, state) {
    this.lastAt = Date.now();
    this.show(state);
    if (document.visibilityState === "hidden") this.skipped = true;
    else this.on[kind](data);
  }

  // A hidden tab draws nothing; when it is seen again it starts from a fresh snapshot.
  resume() {
    if (document.visibilityState === "visible" && this.skipped) {
      this.skipped = false;
      this.resync();
    }
  }

  closed(event) {
    if (this.ended) return;
    if (event.code === SIGNED_OUT) {
      this.ended = true;
      this.show("lost", say("signed_out"));
      location.reload();
      return;
    }
    this.failures += 1;
    this.startPolling();
    setTimeout(() => this.connect(), Math.min(15000, 500 * 2 ** this.failures) * (0.5 + Math.random() / 2));
  }

  startPolling() {
    if (this.poller) return;
    this.poll();
    this.poller = setInterval(() => this.poll(), POLL_MS);
  }

  stopPolling() {
    clearInterval(this.poller);
    this.poller = null;
  }

  async poll() {
    const { panel, ...query } = this.panel;
    try {
      const answer = await fetch(`/live/${panel}?${new URLSearchParams(query)}`, { headers: { Accept: "application/json" }, redirect: "error" });
      if (answer.ok && (this.poller || this.seq === null)) this.accept("snapshot", await answer.json(), this.poller ? "polling" : "live");
    } catch {
      this.watch();
    }
  }

  watch() {
    if (this.lastAt !== null && Date.now() - this.lastAt > SILENCE_MS) this.show("lost");
    // A socket that opened but says nothing is as good as closed.
    if (this.socket?.readyState === WebSocket.OPEN && Date.now() - Math.max(this.lastAt ?? 0, this.opening) > 2 * SILENCE_MS) this.socket.close();
  }

  show(state, words) {
    if (!this.badge) return;
    const said = words ?? (state === "lost" ? say("lost", { time: clockTime(new Date(this.lastAt ?? Date.now())) }) : say(state));
    if (this.badge.dataset.state !== state || state === "lost") this.badge.textContent = said;
    this.badge.dataset.state = state;
  }

  stop() {
    this.ended = true;
    this.stopPolling();
    this.socket?.close();
  }
}
