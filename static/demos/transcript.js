/* What was said in one room. Texts of people go in as text, never as HTML, and names as <bdi>: a name in a script that
   runs from right to left must not turn around what stands beside it. */

import { following } from "./following.js";

const MAX_ENTRIES = 500;
const SAME_BREATH_MSECS = 5 * 60_000;
const HUES = 8;

const clock = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit" });
const calendar = new Intl.DateTimeFormat(undefined, { dateStyle: "full", timeStyle: "medium" });

function element(tag, className, text = "") {
  const made = document.createElement(tag);
  made.className = className;
  made.textContent = text;
  return made;
}

function time(date) {
  const made = element("time", "time", clock.format(date));
  made.dateTime = date.toISOString();
  made.title = calendar.format(date);
  return made;
}

/** The same colour for the same name, on every page. */
function hue(name) {
  let sum = 0;
  for (const character of name) sum = (sum * 31 + character.codePointAt(0)) % 9973;
  return String(sum % HUES);
}

export class Transcript {
  #previous = null; // {author, own, at} of the last entry, if it was a message
  #seen = new Map(); // key of a message → its entry; as bounded as the entries are

  constructor(label) {
    this.element = element("div", "transcript");
    this.element.setAttribute("role", "log");
    this.element.setAttribute("aria-label", label);
    this.element.tabIndex = 0;
    this.element.hidden = true;
  }

  /** Add a message; gives its entry, or null when a message with this key is here already. */
  addMessage({ author, text, own = false, key = null }) {
    if (key !== null && this.#seen.has(key)) return null;
    const at = new Date();
    const entry = element("div", own ? "message own" : "message");
    const previous = this.#previous;
    if (previous?.author === author && previous.own === own && at - previous.at < SAME_BREATH_MSECS) entry.classList.add("follows");
    this.#previous = { author, own, at };

    const initial = element("span", "initial", [...author][0]?.toUpperCase() ?? "");
    initial.dataset.hue = hue(author);
    initial.setAttribute("aria-hidden", "true");
    const head = element("p", "head");
    head.append(element("bdi", "author", author), own ? element("span", "mine", " (you)") : "", " ", time(at));
    const words = element("p", "text", text);
    words.dir = "auto";
    entry.append(initial, head, words);
    if (key !== null) {
      this.#seen.set(key, entry);
      entry.dataset.key = key;
    }
    this.#append(entry);
    return entry;
  }

  /** Change what a message says, and remark on it; "" for no remark. */
  setText(entry, text, remark = "") {
    following(this.element, () => {
      const words = entry.querySelector(".text");
      words.textContent = text;
      entry.querySelector(".moderation")?.remove();
      if (!remark) return;
      const made = element("p", "moderation");
      made.append(element("span", "", remark));
      words.after(made);
    });
  }

  /** Add a line about the room itself. */
  addNote(text, className = "note") {
    this.#previous = null;
    const note = element("p", className, text);
    note.dir = "auto";
    this.#append(note);
  }

  /** Say how an own message fares: state is waiting, sending, sent or failed. `actions`: [[label, function]]. */
  setState(entry, state, words, actions = []) {
    following(this.element, () => {
      entry.dataset.state = state;
      entry.querySelector(".fate")?.remove();
      const fate = element("p", "fate");
      fate.append(element("span", "", words));
      for (const [label, act] of actions) {
        const button = element("button", "link", label);
        button.type = "button";
        button.addEventListener("click", act);
        fate.append(" ", button);
      }
      entry.append(fate);
    });
  }

  remove(entry) {
    this.#forget(entry);
    this.#previous = null;
  }

  /** Say that we are not in the room yet, though on the way. */
  setBusy(busy) {
    if (busy) this.element.setAttribute("aria-busy", "true");
    else this.element.removeAttribute("aria-busy");
  }

  show() {
    this.element.hidden = false;
    this.element.scrollTop = this.element.scrollHeight;
  }

  hide() {
    this.element.hidden = true;
  }

  #append(entry) {
    following(this.element, () => {
      this.element.append(entry);
      this.#trim();
    });
  }

  #trim() {
    // Own messages that are not sent yet stay, however old: what is lost must be seen. They are bounded elsewhere.
    let entry = this.element.firstElementChild;
    while (this.element.childElementCount > MAX_ENTRIES && entry) {
      const next = entry.nextElementSibling;
      if (!entry.dataset.state || entry.dataset.state === "sent") this.#forget(entry);
      entry = next;
    }
  }

  #forget(entry) {
    if (entry.dataset.key) this.#seen.delete(entry.dataset.key);
    // The next one loses the entry whose head it shared.
    entry.nextElementSibling?.classList.remove("follows");
    entry.remove();
  }
}
