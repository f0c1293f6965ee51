/* The moderated chat. The page may not send to the room: it sends the event "say" to the moderator, who sends the
   message on to the others, and answers with the text as it was sent and with statistics.

   The answer comes before the acknowledgement, so a message that is acknowledged shows what others see. */

import { caughtUp, missing } from "./absence.js";
import { hideLost, onRetry, showLost } from "./banner.js";
import { focusComposer, onWritten, say } from "./composer.js";
import { Connection, Declined } from "./connection.js";
import { tooLong } from "./lengths.js";
import { Outbox, newId } from "./outbox.js";
import { shortened } from "./payload.js";
import { Transcript } from "./transcript.js";

const MAX_NAME_CHARACTERS = 64;
const REMEMBERED = "hubwire.moderated";

const byId = (id) => document.getElementById(id);
const negotiate = byId("main").dataset.negotiate;
const entrance = byId("entrance");
const nameField = byId("name");
const signedIn = "signedIn" in nameField.dataset;

let connection = null;
let awaySince = null; // when messages of others stopped coming, or null
let missed = 0; // messages of others that have come since

const transcript = new Transcript("Messages");
byId("transcripts").append(transcript.element);

const unanswered = new Map(); // id → own message that the moderator has not answered yet
const outbox = new Outbox(
  async (message) => {
    message.refused = "";
    unanswered.set(message.id, message);
    try {
      await connection.request({ type: "event", event: "say", dataType: "json", data: { text: message.text, id: message.id } });
    } finally {
      unanswered.delete(message.id);
    }
    if (message.refused) throw new Declined({ message: message.refused });
  },
  ({ entry }, state, words, actions) => {
    if (state === "discarded") transcript.remove(entry);
    else transcript.setState(entry, state, words, actions);
  },
);

// ── Coming in ──────────────────────────────────────────────────────────────────────────────────────────

function enter(name) {
  connection?.stop();
  hideLost();
  showTrouble("");
  entrance.querySelector("button").textContent = "Entering…";
  const on = {
    onOpen: ({ userId, lostSession }) => opened(userId, name, lostSession),
    onRecovered: recovered,
    onMessage: received,
    onLost: (loss) => {
      if (loss.wasOpen) awaySince ??= new Date();
      showLost(loss);
    },
    onRefused: (message) => {
      hideLost();
      showEntrance(message);
    },
  };
  // The name goes with the WebSocket's address, where the moderator's connect handler finds it.
  connection = new Connection(negotiate, on, signedIn ? {} : { name });
  connection.start();
}

function opened(userId, name, lostSession) {
  hideLost();
  byId("you").textContent = userId;
  entrance.hidden = true;
  remember(name);
  if (awaySince) transcript.addNote(missing(awaySince, lostSession));
  awaySince = null;
  missed = 0;
  showStatistics({ messages: 0, masked: 0 }); // another session, another state
  outbox.flush();
  if (byId("chat").hidden) {
    byId("chat").hidden = false;
    transcript.show();
    focusComposer();
  }
}

function recovered() {
  hideLost();
  transcript.addNote(caughtUp(missed));
  awaySince = null;
  missed = 0;
  outbox.flush();
}

function showEntrance(trouble = "") {
  byId("chat").hidden = true;
  entrance.hidden = false;
  entrance.querySelector("button").textContent = "Enter";
  showTrouble(trouble);
  nameField.focus();
  nameField.select();
}

function showTrouble(trouble) {
  byId("name-trouble").textContent = trouble;
  if (trouble) nameField.setAttribute("aria-invalid", "true");
  else nameField.removeAttribute("aria-invalid");
}

entrance.addEventListener("submit", (event) => {
  event.preventDefault();
  const name = nameField.value.trim();
  const trouble = name ? tooLong("The name", name, MAX_NAME_CHARACTERS) : "Write a name first.";
  if (trouble) showEntrance(trouble);
  else enter(name);
});

byId("change-name")?.addEventListener("click", () => {
  if (outbox.count()) {
    say("Some of your messages have not been sent yet. Wait for them, or discard them, before you change your name.");
    return;
  }
  connection.stop();
  hideLost();
  awaySince ??= new Date();
  showEntrance();
  remember("");
});

// ── Messages ───────────────────────────────────────────────────────────────────────────────────────────

function received({ from, dataType, data }) {
  if (dataType !== "json" || typeof data !== "object" || data === null) return;
  if (from === "server") answered(data);
  else if (from === "group") heard(data);
}

/** The moderator's answer to a message of ours. */
function answered({ id, text, masked, refused, statistics }) {
  const message = unanswered.get(id);
  if (message && refused) message.refused = String(refused);
  else if (message) transcript.setText(message.entry, String(text), moderation(masked));
  if (statistics) showStatistics(statistics);
}

/** What the moderator has sent on of somebody else. Only the moderator can send here, so the author is right. */
function heard({ id, from, text, masked }) {
  const author = String(from);
  const entry = transcript.addMessage({ author, text: "", key: id ? JSON.stringify([author, String(id)]) : null });
  if (!entry) return;
  transcript.setText(entry, shortened(String(text)), moderation(masked));
  if (awaySince) missed += 1;
}

function moderation(masked) {
  if (!masked) return "";
  return masked === 1 ? "1 word masked" : `${Number(masked).toLocaleString()} words masked`;
}

function showStatistics({ messages, masked }) {
  byId("messages").textContent = Number(messages).toLocaleString();
  byId("masked").textContent = Number(masked).toLocaleString();
}

onWritten((words) => {
  if (outbox.isFull) return "Too many of your messages have not been sent yet. Wait for them, or discard some, before you write more.";
  const author = byId("you").textContent;
  const message = { text: words, id: newId() };
  message.entry = transcript.addMessage({ author, text: words, own: true, key: JSON.stringify([author, message.id]) });
  transcript.element.scrollTop = transcript.element.scrollHeight;
  outbox.add(message, connection.isOpen);
});

window.addEventListener("beforeunload", (event) => {
  if (outbox.count()) event.preventDefault();
});

// ── What a reload of this tab should not lose ──────────────────────────────────────────────────────────

function remember(name) {
  try {
    sessionStorage.setItem(REMEMBERED, name);
  } catch {
    // Storage may be off or full; then a reload asks for the name.
  }
}

function remembered() {
  try {
    return sessionStorage.getItem(REMEMBERED) ?? "";
  } catch {
    return "";
  }
}

// A window with little height has better use for it than a list of words.
if (window.matchMedia("(max-width: 720px)").matches) document.querySelector(".words").open = false;

onRetry(() => connection?.retryNow());
showEntrance();
const before = remembered();
if (before) {
  if (!signedIn) nameField.value = before;
  enter(before);
}
