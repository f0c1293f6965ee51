/* Own messages until the service has acknowledged them. None disappears silently:

       waiting ──flush──→ sending ──ack──→ sent, and out of here
          ↑                  │ └─"no"────→ failed, with the reason; its writer tries again or discards it
          └── session lost ──┘

   A message whose socket is lost before the answer is sent again by the connection, when it has recovered its session. Only
   if the session is lost nobody knows whether the message has arrived: it waits for the next session and is sent again with
   the same id, and readers who have it already do not show it twice. After several such losses it is failed. */

import { Declined } from "./connection.js";

const MAX_MESSAGES = 100;
const MAX_TRIES = 4;

/** An id that no other message has. Not crypto.randomUUID: that is missing on pages without https. */
export function newId() {
  return Array.from(crypto.getRandomValues(new Uint8Array(12)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

export class Outbox {
  #messages = new Set();
  #send;
  #show;

  /** `send(message)` gives a promise of the acknowledgement; `show(message, state, words, actions)` tells the reader. */
  constructor(send, show) {
    this.#send = send;
    this.#show = show;
  }

  get isFull() {
    return this.#messages.size >= MAX_MESSAGES;
  }

  /** How many messages are not sent: of one room, or of all. */
  count(room = null) {
    return [...this.#messages].filter((message) => room === null || message.room === room).length;
  }

  add(message, connected) {
    message.tries = 0;
    this.#messages.add(message);
    if (connected) this.#attempt(message);
    else this.#wait(message);
  }

  /** Send what waits, oldest first. */
  flush() {
    for (const message of this.#messages) if (message.state === "waiting") this.#attempt(message);
  }

  #set(message, state, words, actions) {
    message.state = state;
    this.#show(message, state, words, actions);
  }

  #wait(message) {
    this.#set(message, "waiting", "Waiting for the connection", [["Discard", () => this.#discard(message)]]);
  }

  #discard(message) {
    this.#messages.delete(message);
    this.#show(message, "discarded", "");
  }

  #fail(message, reason) {
    this.#set(message, "failed", `Not sent: ${reason}`, [
      ["Try again", () => ((message.tries = 0), this.#attempt(message))],
      ["Discard", () => this.#discard(message)],
    ]);
  }

  async #attempt(message) {
    this.#set(message, "sending", "Sending…");
    try {
      await this.#send(message);
      this.#messages.delete(message);
      this.#set(message, "sent", "Sent");
    } catch (error) {
      if (error instanceof Declined) this.#fail(message, error.message);
      else if (++message.tries >= MAX_TRIES) this.#fail(message, "the connection was lost each time before the service answered. Others may have received it.");
      else this.#wait(message);
    }
  }
}
