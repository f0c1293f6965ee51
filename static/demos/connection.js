/* A connection to a hub that comes back by itself.

   It knows what any customer knows: negotiate gives a URL, the URL opens a WebSocket, frames are JSON.

       start() → negotiate → socket → "connected" frame → onOpen
                    ↑                                        │ lost: closed, silent, unanswered
                    └── wait, longer each time ← onLost ─────┘
                 refused for good (a name that is taken, a hub that is not there) → onRefused, and it rests

   Each round is one AbortController: whatever belongs to an earlier round is deaf once it is aborted,
   so no late event can disturb a later round. Each round negotiates anew, since tokens expire.

   A frame sent with request() is answered by the service, or its promise is rejected: `Declined` when the
   service said no, `Lost` when the connection went before the answer came. After `Lost` nobody knows
   whether the service acted on the frame. */

const PROTOCOL = "json.webpubsub.azure.v1";
const FIRST_WAIT_MSECS = 500;
const LONGEST_WAIT_MSECS = 30_000;
// The service may ask us to wait longer, when we asked too often; there is a limit to that as well.
const LONGEST_ASKED_WAIT_MSECS = 300_000;
// A connection that lasted this long was a good one: the next wait is short again.
const STEADY_MSECS = 5_000;
// How long negotiate and handshake together, an acknowledgement, or a pong may take.
const PATIENCE_MSECS = 15_000;
// After this much silence we ask whether the service is still there: a dead network closes no socket.
const SILENCE_MSECS = 25_000;

/** The service answered a frame with "no"; `name` is its name for the reason. */
export class Declined extends Error {
  constructor({ name = "Error", message = "The service declined." } = {}) {
    super(message);
    this.name = name;
  }
}

/** The connection went before an answer came. */
export class Lost extends Error {}

/** Negotiate said no, and asking again would not help. */
class Refused extends Error {}

export class Connection {
  #address;
  #on;
  #query;
  #lifetime = null; // AbortController from start() to stop()
  #round = null; // AbortController of the present attempt
  #socket = null;
  #openedAt = null; // when the "connected" frame came, or null
  #failures = 0;
  #retryTimer = 0;
  #watchdog = 0;
  #goodbye = "";
  #lastAckId = 0; // never starts over, so that no two frames of this page share an id
  #waiting = new Map(); // ackId → {resolve, reject, timer}

  /** `on`: onOpen({userId, connectionId}), onMessage(frame), onLost({reason, wasOpen}), onRefused(message).
      `query` is added to the WebSocket's address, for the hub's connect handler. */
  constructor(address, on, query = {}) {
    this.#address = address;
    this.#on = on;
    this.#query = query;
  }

  get isOpen() {
    return this.#openedAt !== null;
  }

  start() {
    if (this.#lifetime) return;
    this.#lifetime = new AbortController();
    const { signal } = this.#lifetime;
    // The network changed, or somebody looks at the page again: find out now rather than later.
    const look = () => (this.isOpen ? this.#ping() : this.retryNow());
    window.addEventListener("online", look, { signal });
    window.addEventListener("offline", () => this.isOpen && this.#ping(), { signal });
    document.addEventListener("visibilitychange", () => document.hidden || look(), { signal });
    this.#failures = 0;
    this.#begin();
  }

  stop() {
    this.#lifetime?.abort();
    this.#lifetime = null;
    clearTimeout(this.#retryTimer);
    this.#retryTimer = 0;
    this.#end();
  }

  /** Do not wait for the next try. Does nothing unless one is being waited for. */
  retryNow() {
    if (!this.#retryTimer) return;
    clearTimeout(this.#retryTimer);
    this.#begin();
  }

  /** Send a frame; resolves when the service acknowledges it. */
  request(frame) {
    if (!this.isOpen) return Promise.reject(new Lost("There is no connection."));
    const ackId = ++this.#lastAckId;
    return new Promise((resolve, reject) => {
      // An answer that does not come means that the connection is ill, whatever it looks like.
      const timer = setTimeout(() => this.#lose("The service did not answer."), PATIENCE_MSECS);
      this.#waiting.set(ackId, { resolve, reject, timer });
      this.#socket.send(JSON.stringify({ ...frame, ackId }));
    });
  }

  async #begin() {
    this.#retryTimer = 0;
    this.#goodbye = "";
    const round = (this.#round = new AbortController());
    this.#watch(PATIENCE_MSECS, () => this.#lose("The service did not answer."));
    try {
      const url = await this.#negotiate(round.signal);
      if (!round.signal.aborted) this.#open(url, round.signal);
    } catch (error) {
      if (round.signal.aborted) return;
      if (error instanceof Refused) {
        this.stop();
        this.#on.onRefused(error.message);
      } else {
        this.#lose(error.name === "TypeError" ? "" : error.message, error.waitMsecs);
      }
    }
  }

  async #negotiate(signal) {
    const response = await fetch(this.#address, { signal, cache: "no-store", headers: { Accept: "application/json" } });
    const body = await response.json().catch(() => null);
    if (response.ok && typeof body?.url === "string") return body.url;
    const message = typeof body?.message === "string" ? body.message : `Negotiate answered with status ${response.status}.`;
    const passing = response.status >= 500 || [408, 425, 429].includes(response.status);
    if (!passing) throw new Refused(message);
    const waitSecs = Number(response.headers.get("Retry-After")) || 0; // it may also be a date: then we go by our own
    throw Object.assign(new Error(message), { waitMsecs: Math.min(waitSecs * 1000, LONGEST_ASKED_WAIT_MSECS) });
  }

  #open(url, signal) {
    const address = new URL(url);
    for (const [name, value] of Object.entries(this.#query)) address.searchParams.set(name, value);
    const socket = (this.#socket = new WebSocket(address, PROTOCOL));
    socket.addEventListener("message", (event) => this.#receive(event.data), { signal });
    socket.addEventListener("close", (event) => this.#lose(event.reason || this.#goodbye), { signal });
  }

  #receive(text) {
    const frame = JSON.parse(text);
    if (this.isOpen) this.#watch(SILENCE_MSECS, () => this.#ping());
    const receiver = this.#receivers[frame.type];
    if (receiver) receiver(frame);
  }

  // Other types of frames may come with later versions of the service; they are not for us.
  #receivers = {
    system: (frame) => {
      if (frame.event === "connected") {
        this.#openedAt = performance.now();
        this.#watch(SILENCE_MSECS, () => this.#ping());
        this.#on.onOpen({ userId: frame.userId ?? "", connectionId: frame.connectionId });
      } else if (frame.event === "disconnected") {
        this.#goodbye = String(frame.message ?? "");
      }
    },
    message: (frame) => this.#on.onMessage(frame),
    ack: (frame) => {
      const request = this.#waiting.get(frame.ackId);
      if (!request) return;
      this.#waiting.delete(frame.ackId);
      clearTimeout(request.timer);
      // A duplicate was done before: for the one who asks, that is success.
      if (frame.success || frame.error?.name === "Duplicate") request.resolve();
      else request.reject(new Declined(frame.error ?? {}));
    },
  };

  #ping() {
    this.#socket.send(JSON.stringify({ type: "ping" }));
    this.#watch(PATIENCE_MSECS, () => this.#lose("The service did not answer."));
  }

  #watch(msecs, alarm) {
    clearTimeout(this.#watchdog);
    this.#watchdog = setTimeout(alarm, msecs);
  }

  #lose(reason, atLeastMsecs = 0) {
    const wasOpen = this.isOpen;
    if (wasOpen && performance.now() - this.#openedAt >= STEADY_MSECS) this.#failures = 0;
    this.#end();
    const limit = Math.min(LONGEST_WAIT_MSECS, FIRST_WAIT_MSECS * 2 ** this.#failures++);
    // Half of the wait is chance, so that the clients of a service that fell over do not come back all at once.
    const wait = Math.max(atLeastMsecs, (limit / 2) * (1 + Math.random()));
    this.#retryTimer = setTimeout(() => this.#begin(), wait);
    this.#on.onLost({ reason, wasOpen });
  }

  #end() {
    this.#round?.abort();
    this.#openedAt = null;
    clearTimeout(this.#watchdog);
    this.#socket?.close();
    this.#socket = null;
    for (const { reject, timer } of this.#waiting.values()) {
      clearTimeout(timer);
      reject(new Lost("The connection was lost before an answer came."));
    }
    this.#waiting.clear();
  }
}
