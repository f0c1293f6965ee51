/* A reliable connection to a hub: a client of the subprotocol json.reliable.webpubsub.azure.v1 that comes back by itself.

   It knows what any customer knows: negotiate gives a URL, the URL opens a WebSocket, frames are JSON. The first frame,
   "connected", begins a session and gives its id and a reconnection token. The session outlives its sockets:

       start() → negotiate → socket → "connected" frame → onOpen: a new session
                    ↑                                        │ socket lost: closed, silent, offline → onLost
                    │ close code 1008, or 30 s of failures   ↓
                    └──────────────────────── the same URL with id and token
                                                             │ what was missed, then the pong to our ping
                                                             └→ onRecovered: the same session, nothing lost
       negotiate says no (a name that is taken, a hub that is not there) → onRefused, and it rests

   Nothing is lost in either direction, and nothing is doubled:
   - Each message from the service has a sequenceId: 1, 2, 3 … We acknowledge the last one now and then (sequenceAck).
     After a recovery the service sends again what it has no acknowledgement for; what we have seen is dropped.
   - Each frame of ours has an ackId. What is not acknowledged when the socket is lost is sent again in the recovered
     session, with the same ackId: if the service had acted on it, it answers "Duplicate" and does not act again.

   request() gives a promise of the answer. It is rejected with `Declined` when the service said no, and with `Lost` when the
   session went before the answer came: then nobody knows whether the service acted on the frame.

   Each attempt is one AbortController: whatever belongs to an earlier one is deaf once it is aborted. */

const PROTOCOL = "json.reliable.webpubsub.azure.v1";
// The service closes with this code when a session cannot be recovered, or is over.
const SESSION_OVER = 1008;
// Our own close code when a socket seems dead. With 1000, or with none, the service would end the session.
const SESSION_STAYS = 4000;
const RECOVERY_WAIT_MSECS = 1_000;
// So long failures to recover are taken to be passing. The service keeps a session for about as long.
const RECOVERY_MSECS = 30_000;
const FIRST_WAIT_MSECS = 500;
const LONGEST_WAIT_MSECS = 30_000;
// The service may ask us to wait longer, when we asked too often; there is a limit to that as well.
const LONGEST_ASKED_WAIT_MSECS = 300_000;
// A session that lasted this long was a good one: the next wait is short again.
const STEADY_MSECS = 5_000;
// How long the way to a session, an acknowledgement, or a pong may take.
const PATIENCE_MSECS = 15_000;
// After this much silence we ask whether the service is still there: a dead network closes no socket.
const SILENCE_MSECS = 25_000;
// The service holds 1,000 messages that are not acknowledged, so acknowledge after a second, or as soon as there are many.
const ACKNOWLEDGE_MSECS = 1_000;
const ACKNOWLEDGE_MESSAGES = 100;

const UNANSWERED = "The service did not answer.";

/** The service answered a frame with "no"; `name` is its name for the reason. */
export class Declined extends Error {
  constructor({ name = "Error", message = "The service declined." } = {}) {
    super(message);
    this.name = name;
  }
}

/** The session went before an answer came. */
export class Lost extends Error {}

/** Negotiate said no, and asking again would not help. */
class Refused extends Error {}

export class Connection {
  #address;
  #on;
  #query;
  #lifetime = null; // AbortController from start() to stop()
  #attempt = null; // AbortController of the present socket, or of the way to it
  #socket = null;
  #session = null; // {url, id, token, since, received, acknowledged, giveUpAt}
  #isOpen = false; // there is a session, and it has a socket
  #lostSession = false; // a session was lost since the last onOpen
  #failures = 0; // of attempts to begin a session
  #retryTimer = 0;
  #watchdog = 0;
  #isAsking = false; // the watchdog waits for an answer, not for silence
  #acknowledgeTimer = 0;
  #goodbye = "";
  #lastAckId = 0; // never starts over, so that no two frames of this page share an id
  #unanswered = new Map(); // ackId → {frame, resolve, reject}

  /** `on`: onOpen({userId, lostSession}), onRecovered(), onMessage(frame), onLost({reason, wasOpen}), onRefused(message).
      `lostSession`: there was a session before this one, and what it missed is gone. Between onLost and onRecovered,
      onMessage gets what was missed. `query` is added to the WebSocket's address, for the hub's connect handler. */
  constructor(address, on, query = {}) {
    this.#address = address;
    this.#on = on;
    this.#query = query;
  }

  get isOpen() {
    return this.#isOpen;
  }

  start() {
    if (this.#lifetime) return;
    this.#lifetime = new AbortController();
    const { signal } = this.#lifetime;
    // The network changed, or somebody looks at the page again: find out now rather than later.
    const look = () => (this.#isOpen ? this.#ping() : this.retryNow());
    window.addEventListener("online", look, { signal });
    window.addEventListener("offline", () => this.#retryTimer || this.#lose("This device is offline."), { signal });
    document.addEventListener("visibilitychange", () => document.hidden || look(), { signal });
    // Who closes the page does not come back to the session; who may come back (by "Back") finds it again.
    window.addEventListener("pagehide", (event) => event.persisted || this.stop(), { signal });
    this.#failures = 0;
    this.#begin();
  }

  /** End the session and rest. */
  stop() {
    this.#lifetime?.abort();
    this.#lifetime = null;
    clearTimeout(this.#retryTimer);
    this.#retryTimer = 0;
    this.#end();
    this.#forgetSession();
  }

  /** Do not wait for the next try. Does nothing unless one is being waited for. */
  retryNow() {
    if (this.#retryTimer) this.#begin();
  }

  /** Send a frame, now or when the session has a socket again; resolves when the service acknowledges it. */
  request(frame) {
    if (!this.#session) return Promise.reject(new Lost("There is no connection."));
    const ackId = ++this.#lastAckId;
    return new Promise((resolve, reject) => {
      this.#unanswered.set(ackId, { frame: { ...frame, ackId }, resolve, reject });
      if (this.#isOpen) this.#ask({ ...frame, ackId });
    });
  }

  // ── Getting a socket ─────────────────────────────────────────────────────────────────────────────────

  async #begin() {
    clearTimeout(this.#retryTimer);
    this.#retryTimer = 0;
    this.#goodbye = "";
    const { signal } = (this.#attempt = new AbortController());
    this.#watch(PATIENCE_MSECS, () => this.#lose(UNANSWERED));
    if (this.#session?.giveUpAt < performance.now()) this.#forgetSession();
    // Without a network at all no time is lost: the session may well be there when the network is.
    if (this.#session?.giveUpAt === Infinity && navigator.onLine) this.#session.giveUpAt = performance.now() + RECOVERY_MSECS;
    try {
      const url = this.#session?.url ?? (await this.#negotiate(signal));
      if (!signal.aborted) this.#open(url, signal);
    } catch (error) {
      if (signal.aborted) return;
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
    const session = this.#session;
    const address = new URL(url);
    const recovery = session ? { awps_connection_id: session.id, awps_reconnection_token: session.token } : {};
    for (const [name, value] of Object.entries({ ...this.#query, ...recovery })) address.searchParams.set(name, value);
    const socket = (this.#socket = new WebSocket(address, PROTOCOL));
    // A recovered session has no "connected" frame. The pong comes after all that was missed, and so ends the recovery.
    if (session) socket.addEventListener("open", () => this.#send({ type: "ping" }), { signal });
    socket.addEventListener("message", (event) => this.#receive(JSON.parse(event.data), url), { signal });
    socket.addEventListener("close", ({ code, reason }) => {
      if (code === SESSION_OVER) this.#forgetSession();
      this.#lose(reason || this.#goodbye);
    }, { signal });
  }

  // ── Frames ───────────────────────────────────────────────────────────────────────────────────────────

  #receive(frame, url) {
    this.#heard();
    if (frame.sequenceId !== undefined && !this.#isNew(frame.sequenceId)) return;
    // Other types of frames may come with later versions of the service; they are not for us.
    this.#receivers[frame.type]?.(frame, url);
  }

  #receivers = {
    system: (frame, url) => {
      if (frame.event === "connected") this.#connected(frame, url);
      else if (frame.event === "disconnected") this.#goodbye = String(frame.message ?? "");
    },
    message: (frame) => this.#on.onMessage(frame),
    pong: () => this.#isOpen || this.#recovered(),
    ack: (frame) => {
      const request = this.#unanswered.get(frame.ackId);
      if (!request) return;
      this.#unanswered.delete(frame.ackId);
      // A duplicate was done before: for the one who asks, that is success.
      if (frame.success || frame.error?.name === "Duplicate") request.resolve();
      else request.reject(new Declined(frame.error ?? {}));
    },
  };

  #connected({ connectionId, reconnectionToken, userId = "" }, url) {
    if (this.#session) {
      this.#session.token = reconnectionToken ?? this.#session.token;
      return;
    }
    this.#session = { url, id: connectionId, token: reconnectionToken, since: performance.now(), received: 0, acknowledged: 0, giveUpAt: Infinity };
    this.#isOpen = true;
    this.#heard();
    const lostSession = this.#lostSession;
    this.#lostSession = false;
    this.#on.onOpen({ userId, lostSession });
  }

  #recovered() {
    this.#session.giveUpAt = Infinity;
    this.#isOpen = true;
    this.#heard();
    for (const { frame } of this.#unanswered.values()) this.#ask(frame);
    this.#on.onRecovered();
  }

  /** Whether a message was not seen before; it is to be acknowledged either way. */
  #isNew(sequenceId) {
    const session = this.#session;
    const isNew = sequenceId > session.received;
    if (isNew) session.received = sequenceId;
    if (session.received - session.acknowledged >= ACKNOWLEDGE_MESSAGES) this.#acknowledge();
    else this.#acknowledgeTimer ||= setTimeout(() => this.#acknowledge(), ACKNOWLEDGE_MSECS);
    return isNew;
  }

  #acknowledge() {
    clearTimeout(this.#acknowledgeTimer);
    this.#acknowledgeTimer = 0;
    this.#session.acknowledged = this.#session.received;
    this.#send({ type: "sequenceAck", sequenceId: this.#session.received });
  }

  #send(frame) {
    this.#socket.send(JSON.stringify(frame));
  }

  /** Send a frame that will be answered. An answer that does not come means that the socket is dead, whatever it looks like. */
  #ask(frame) {
    this.#send(frame);
    if (this.#isAsking) return;
    this.#isAsking = true;
    this.#watch(PATIENCE_MSECS, () => this.#lose(UNANSWERED));
  }

  #ping() {
    this.#ask({ type: "ping" });
  }

  #heard() {
    this.#isAsking = false;
    if (this.#isOpen) this.#watch(SILENCE_MSECS, () => this.#ping());
    else this.#watch(PATIENCE_MSECS, () => this.#lose(UNANSWERED));
  }

  #watch(msecs, alarm) {
    clearTimeout(this.#watchdog);
    this.#watchdog = setTimeout(alarm, msecs);
  }

  // ── Losing it ────────────────────────────────────────────────────────────────────────────────────────

  #lose(reason, atLeastMsecs = 0) {
    const wasOpen = this.#isOpen;
    this.#end(SESSION_STAYS);
    const limit = this.#session ? RECOVERY_WAIT_MSECS : Math.min(LONGEST_WAIT_MSECS, FIRST_WAIT_MSECS * 2 ** this.#failures++);
    // Half of the wait is chance, so that the clients of a service that fell over do not come back all at once.
    const wait = Math.max(atLeastMsecs, (limit / 2) * (1 + Math.random()));
    this.#retryTimer = setTimeout(() => this.#begin(), wait);
    this.#on.onLost({ reason, wasOpen });
  }

  #end(closeCode) {
    this.#attempt?.abort();
    this.#isOpen = false;
    this.#isAsking = false;
    clearTimeout(this.#watchdog);
    clearTimeout(this.#acknowledgeTimer);
    this.#acknowledgeTimer = 0;
    this.#socket?.close(closeCode);
    this.#socket = null;
  }

  #forgetSession() {
    if (!this.#session) return;
    if (performance.now() - this.#session.since >= STEADY_MSECS) this.#failures = 0;
    this.#session = null;
    this.#lostSession = true;
    for (const { reject } of this.#unanswered.values()) reject(new Lost("The session was lost before an answer came."));
    this.#unanswered.clear();
  }
}
