/* What is said when the connection is back: what was caught up on, or from when to when something is missing. */

const clock = new Intl.DateTimeFormat(undefined, { timeStyle: "medium" });

/** The same session goes on, and `count` messages have come that were missed. */
export function caughtUp(count) {
  if (!count) return "Caught up: no messages were missed.";
  return `Caught up: ${count.toLocaleString()} ${count === 1 ? "message" : "messages"}`;
}

/** Another session has begun. `lostSession`: not because somebody wanted it. */
export function missing(since, lostSession) {
  const why = lostSession ? "The session could not be recovered. " : "";
  return `${why}You were not connected from ${clock.format(since)} to ${clock.format(new Date())}. What was sent then is missing here.`;
}
