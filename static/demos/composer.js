/* The field in which messages are written, and the line that says what is wrong with one. Nothing is cut silently:
   what is too long stays in the field, is said to be too long at once, and is not sent. */

import { tooLong } from "./lengths.js";

const MAX_CHARACTERS = 4000;

const form = document.getElementById("composer");
const field = document.getElementById("text");
const notice = document.getElementById("notice");

/** Say something about what was just tried; "" for nothing. */
export function say(words) {
  if (notice.textContent !== words) notice.textContent = words;
}

/** Call `send(words)` with each message; where it gives words, they say why not, and the message stays in the field. */
export function onWritten(send) {
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const words = field.value.trim();
    if (!words) return;
    const trouble = check() || send(words) || "";
    if (!trouble) field.value = "";
    say(trouble);
  });
}

export function focusComposer() {
  field.focus();
}

function check() {
  const trouble = tooLong("The message", field.value.trim(), MAX_CHARACTERS);
  if (trouble) field.setAttribute("aria-invalid", "true");
  else field.removeAttribute("aria-invalid");
  return trouble;
}

field.addEventListener("input", () => {
  const wasTooLong = field.hasAttribute("aria-invalid");
  const trouble = check();
  if (trouble || wasTooLong) say(trouble);
});

field.addEventListener("keydown", (event) => {
  // While an input method composes a character, Enter belongs to it.
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  form.requestSubmit();
});
