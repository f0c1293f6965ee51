/* The log stream: joins the group "stream" and prints every line that comes.

   Lines may come faster than a page can draw, so they wait in a list and are drawn together, once per frame of the
   screen. The waiting list is as bounded as the page is; what falls out of either is counted. */

import { caughtUp, missing } from "./absence.js";
import { hideLost, onRetry, showLost } from "./banner.js";
import { Connection, Declined } from "./connection.js";
import { following } from "./following.js";
import { readable } from "./payload.js";

const GROUP = "stream";
const MAX_LINES = 1000;

// Programs colour their logs for terminals; these codes would be noise here.
const TERMINAL_CODES = /\u001b\[[0-9;?]*[ -/]*[@-~]/g;

const byId = (id) => document.getElementById(id);
const lines = byId("lines");
const status = byId("status");
const pause = byId("pause");
const clock = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", second: "2-digit" });

let waiting = []; // rows {className, at, text} that are not drawn yet
let paused = false;
let drawing = false;
let received = 0;
let dropped = 0; // while paused or in the background, unseen
let awaySince = null; // when lines stopped coming, or null
let missed = 0; // lines that have come since

function add(className, text) {
  waiting.push({ className, at: new Date(), text });
  if (waiting.length > MAX_LINES) {
    waiting.shift();
    dropped += 1;
  }
  schedule();
}

function schedule() {
  if (drawing) return;
  drawing = true;
  requestAnimationFrame(draw);
}

function draw() {
  drawing = false;
  showCount();
  if (paused || !waiting.length) return;
  if (dropped) {
    // The note takes the place of the oldest line, or it would be the first to fall out.
    const { at } = waiting.shift();
    dropped += 1;
    waiting.unshift({ className: "note", at, text: `${dropped.toLocaleString()} lines were not kept: more came than this page holds.` });
  }
  const rows = waiting.map(row);
  waiting = [];
  dropped = 0;
  byId("nothing-yet")?.remove();
  following(lines, () => {
    lines.append(...rows);
    while (lines.childElementCount > MAX_LINES) lines.firstElementChild.remove();
  });
}

function row({ className, at, text }) {
  const made = document.createElement("div");
  made.className = className;
  const time = document.createElement("time");
  time.dateTime = at.toISOString();
  time.textContent = clock.format(at);
  const words = document.createElement("span");
  words.dir = "auto";
  words.textContent = text;
  made.append(time, " ", words);
  return made;
}

function showCount() {
  const kept = received > MAX_LINES ? `, the last ${MAX_LINES.toLocaleString()} kept` : "";
  const total = `${received.toLocaleString()} ${received === 1 ? "line" : "lines"}${kept}`;
  byId("count").textContent = paused && waiting.length ? `${total}, ${waiting.length.toLocaleString()} waiting` : total;
}

function showStatus(state, words) {
  status.dataset.state = state;
  status.textContent = words;
}

pause.addEventListener("click", () => {
  paused = !paused;
  pause.setAttribute("aria-pressed", String(paused));
  pause.textContent = paused ? "Resume" : "Pause";
  schedule();
});

byId("clear").addEventListener("click", () => {
  waiting = [];
  dropped = 0;
  received = 0;
  lines.replaceChildren();
  schedule();
});

const connection = new Connection(byId("main").dataset.negotiate, {
  async onOpen({ lostSession }) {
    hideLost();
    showStatus("waiting", "Joining…");
    if (awaySince) add("note", missing(awaySince, lostSession));
    awaySince = null;
    missed = 0;
    try {
      await connection.request({ type: "joinGroup", group: GROUP });
      showStatus("live", "Live");
    } catch (error) {
      if (error instanceof Declined) showStatus("bad", `Cannot join the group: ${error.message}`);
      // Lost: onLost has said so.
    }
  },
  onRecovered() {
    hideLost();
    showStatus("live", "Live");
    add("note", caughtUp(missed));
    awaySince = null;
    missed = 0;
  },
  onMessage(frame) {
    if (frame.from !== "group" || frame.group !== GROUP) return;
    received += 1;
    if (awaySince) missed += 1;
    add("line", readable(frame).replace(TERMINAL_CODES, ""));
  },
  onLost(loss) {
    if (loss.wasOpen) awaySince ??= new Date();
    showStatus("waiting", "Not connected");
    showLost(loss);
  },
  onRefused(message) {
    hideLost();
    showStatus("bad", message);
  },
});

onRetry(() => connection.retryNow());
connection.start();
