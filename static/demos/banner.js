/* The banner that says that the connection is gone, and goes away when it is back. */

const banner = document.getElementById("banner");
const body = banner.querySelector(".banner-body");
const text = banner.querySelector(".banner-text");
const reasonShown = banner.querySelector(".banner-reason");

/** Call `retry` when somebody presses "Try now". */
export function onRetry(retry) {
  banner.querySelector("button").addEventListener("click", retry);
}

export function showLost({ reason, wasOpen }) {
  // A screen reader hears each change, so a try that fails again must not change a word.
  const words = wasOpen || text.textContent.startsWith("Connection lost") ? "Connection lost. Trying again…" : "No connection yet. Trying again…";
  if (text.textContent !== words) text.textContent = words;
  if (reasonShown.textContent !== reason) reasonShown.textContent = reason;
  body.hidden = false;
}

export function hideLost() {
  body.hidden = true;
  text.textContent = "";
  reasonShown.textContent = "";
}
