/* The chat room. A room is a group of the hub; whoever is in the group sees what is sent to it.

   Who wrote a message is what the service says (`fromUserId`), never what the message says. */

import { caughtUp, missing } from "./absence.js";
import { hideLost, onRetry, showLost } from "./banner.js";
import { focusComposer, onWritten, say } from "./composer.js";
import { Connection, Declined, Lost } from "./connection.js";
import { tooLong } from "./lengths.js";
import { Outbox, newId } from "./outbox.js";
import { readable } from "./payload.js";
import { Transcript } from "./transcript.js";

const FIRST_ROOM = "lobby";
const MAX_ROOMS = 50;
const MAX_NAME_CHARACTERS = 64; // of people and of rooms
const REMEMBERED = "hubwire.chat";

const byId = (id) => document.getElementById(id);
const negotiate = byId("main").dataset.negotiate;
const entrance = byId("entrance");
const nameField = byId("name");
const newRoom = byId("new-room");
const roomField = byId("room-name");

const rooms = new Map(); // name → {name, transcript, button, badge, unread, missed}
let current = null;
let connection = null;
let awaySince = null; // when messages of others stopped coming, or null

const outbox = new Outbox(
  ({ room, text, id }) =>
    connection.request({ type: "sendToGroup", group: room, noEcho: true, dataType: "json", data: { text, id } }),
  ({ room, entry }, state, words, actions) => {
    const { transcript } = rooms.get(room);
    if (state === "discarded") transcript.remove(entry);
    else transcript.setState(entry, state, words, actions);
  },
);

// ── Coming in ──────────────────────────────────────────────────────────────────────────────────────────

function enter(name) {
  connection?.stop();
  hideLost();
  showTrouble(nameField, "");
  entrance.querySelector("button").textContent = "Entering…";
  // A visitor who is signed in has the name of the account; negotiate knows it.
  const asked = "signedIn" in nameField.dataset ? "" : `?userId=${encodeURIComponent(name)}`;
  connection = new Connection(negotiate + asked, {
    onOpen: ({ userId, lostSession }) => opened(userId || name, lostSession),
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
  });
  connection.start();
}

function opened(name, lostSession) {
  hideLost();
  byId("you").textContent = name;
  entrance.hidden = true;
  const cameIn = byId("chat").hidden;
  byId("chat").hidden = false;
  remember();
  for (const room of rooms.values()) {
    if (awaySince) room.transcript.addNote(missing(awaySince, lostSession));
    room.missed = 0;
    join(room);
  }
  awaySince = null;
  // The service handles frames in the order they come, so we are in the rooms before this is sent.
  outbox.flush();
  if (cameIn) {
    current.transcript.show();
    focusComposer();
  }
}

function recovered() {
  hideLost();
  awaySince = null;
  for (const room of rooms.values()) {
    if (room.missed || room === current) room.transcript.addNote(caughtUp(room.missed));
    room.missed = 0;
  }
  outbox.flush();
}

function showEntrance(trouble = "") {
  byId("chat").hidden = true;
  entrance.hidden = false;
  entrance.querySelector("button").textContent = "Enter";
  showTrouble(nameField, trouble);
  nameField.focus();
  nameField.select();
}

function showTrouble(field, trouble) {
  byId(field.getAttribute("aria-describedby")).textContent = trouble;
  if (trouble) field.setAttribute("aria-invalid", "true");
  else field.removeAttribute("aria-invalid");
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
  remember();
});

// ── Rooms ──────────────────────────────────────────────────────────────────────────────────────────────

function addRoom(name) {
  const button = document.createElement("button");
  button.type = "button";
  const label = document.createElement("bdi");
  label.className = "room-label";
  label.textContent = name;
  const badge = document.createElement("span");
  badge.className = "badge";
  button.append(label, badge);
  button.addEventListener("click", () => show(room));
  const item = document.createElement("li");
  item.append(button);
  byId("rooms").append(item);

  const room = { name, button, badge, item, unread: 0, missed: 0, transcript: new Transcript(`Messages in ${name}`) };
  byId("transcripts").append(room.transcript.element);
  rooms.set(name, room);
  return room;
}

async function join(room) {
  room.transcript.setBusy(true);
  try {
    await connection.request({ type: "joinGroup", group: room.name });
  } catch (error) {
    // Lost: we join all rooms in the next session.
    if (error instanceof Declined) room.transcript.addNote(`You cannot join this room: ${error.message}`, "note bad");
  }
  room.transcript.setBusy(false);
}

async function leave(room) {
  if (rooms.size === 1) return say("This is your only room. Join another one before you leave it.");
  if (outbox.count(room.name)) {
    return say("Some of your messages in this room have not been sent yet. Wait for them, or discard them, before you leave.");
  }
  rooms.delete(room.name);
  room.item.remove();
  room.transcript.element.remove();
  show(rooms.values().next().value);
  current.button.focus();
  try {
    await connection.request({ type: "leaveGroup", group: room.name });
  } catch (error) {
    if (!(error instanceof Lost)) say(`The service did not let you leave \u2068${room.name}\u2069: ${error.message}`);
  }
}

function show(room) {
  current?.transcript.hide();
  current?.button.removeAttribute("aria-current");
  current = room;
  room.button.setAttribute("aria-current", "true");
  room.button.scrollIntoView({ block: "nearest", inline: "nearest" });
  room.transcript.show();
  byId("room-title").textContent = room.name;
  say("");
  countUnread(room, 0);
  history.replaceState(null, "", `#room=${encodeURIComponent(room.name)}`);
  remember();
}

function countUnread(room, unread) {
  room.unread = unread;
  const spoken = document.createElement("span");
  spoken.className = "unseen";
  spoken.textContent = " unread";
  room.badge.replaceChildren(...(unread ? [String(Math.min(unread, 999)), spoken] : []));
  showTotal();
}

function showTotal() {
  let total = 0;
  for (const { unread } of rooms.values()) total += unread;
  document.title = `${total ? `(${total}) ` : ""}Chat · Hubwire`;
}

/** The room of that name, joined if it is new; null when there are too many. */
function openRoom(name) {
  let room = rooms.get(name);
  if (!room) {
    if (rooms.size >= MAX_ROOMS) return null;
    room = addRoom(name);
    if (connection) join(room);
  }
  show(room);
  return room;
}

newRoom.querySelector("form").addEventListener("submit", (event) => {
  event.preventDefault();
  const name = roomField.value.trim();
  let trouble = "";
  if (!name) trouble = "Write a name for the room first.";
  else if ((trouble = tooLong("The name", name, MAX_NAME_CHARACTERS))) roomField.select();
  else if (!openRoom(name)) trouble = `You are in ${MAX_ROOMS} rooms. Leave one first.`;
  showTrouble(roomField, trouble);
  if (trouble) return roomField.focus();
  roomField.value = "";
  newRoom.open = false;
  focusComposer();
});

newRoom.addEventListener("toggle", () => newRoom.open && roomField.focus());
newRoom.addEventListener("keydown", (event) => {
  if (event.key !== "Escape" || !newRoom.open) return;
  newRoom.open = false;
  newRoom.querySelector("summary").focus();
});

byId("leave").addEventListener("click", () => leave(current));

/** The room that the page's address names, so that a link leads into a room. */
function roomOfAddress() {
  return new URLSearchParams(location.hash.slice(1)).get("room")?.trim() ?? "";
}

function openRoomOfAddress(name) {
  const trouble = tooLong("The room in the page’s address", name, MAX_NAME_CHARACTERS);
  if (trouble) say(trouble);
  else if (name) openRoom(name);
}

window.addEventListener("hashchange", () => openRoomOfAddress(roomOfAddress()));

// ── Messages ───────────────────────────────────────────────────────────────────────────────────────────

function received(frame) {
  if (frame.from !== "group") return;
  const room = rooms.get(frame.group);
  if (!room) return; // left a moment ago
  const author = frame.fromUserId || "(no name)";
  const id = frame.dataType === "json" ? frame.data?.id : null;
  // Only a name makes an id trustworthy: nobody can hide somebody else's message by taking its id.
  const key = frame.fromUserId && typeof id === "string" ? JSON.stringify([frame.fromUserId, id.slice(0, 64)]) : null;
  const added = room.transcript.addMessage({ author, text: readable(frame, "text"), key });
  if (!added) return;
  if (awaySince) room.missed += 1;
  if (room !== current) countUnread(room, room.unread + 1);
}

onWritten((words) => {
  if (outbox.isFull) return "Too many of your messages have not been sent yet. Wait for them, or discard some, before you write more.";
  const author = byId("you").textContent;
  const message = { room: current.name, text: words, id: newId() };
  message.entry = current.transcript.addMessage({ author, text: words, own: true, key: JSON.stringify([author, message.id]) });
  current.transcript.element.scrollTop = current.transcript.element.scrollHeight;
  outbox.add(message, connection.isOpen);
});

window.addEventListener("beforeunload", (event) => {
  if (outbox.count()) event.preventDefault();
});

// ── What a reload of this tab should not lose ──────────────────────────────────────────────────────────

function remember() {
  const name = entrance.hidden ? byId("you").textContent : "";
  try {
    sessionStorage.setItem(REMEMBERED, JSON.stringify({ name, rooms: [...rooms.keys()], current: current?.name }));
  } catch {
    // Storage may be off or full; then a reload starts over.
  }
}

function remembered() {
  try {
    const { name, rooms, current } = JSON.parse(sessionStorage.getItem(REMEMBERED));
    return { name: String(name), rooms: rooms.map(String).slice(0, MAX_ROOMS), current: String(current) };
  } catch {
    return { name: "", rooms: [], current: "" };
  }
}

const before = remembered();
const wanted = roomOfAddress(); // read before show() writes the address
for (const name of before.rooms.length ? before.rooms : [FIRST_ROOM]) addRoom(name);
show(rooms.get(before.current) ?? rooms.values().next().value);
openRoomOfAddress(wanted);

onRetry(() => connection?.retryNow());
showEntrance();
if (before.name) {
  if (!("signedIn" in nameField.dataset)) nameField.value = before.name;
  enter(before.name);
}
