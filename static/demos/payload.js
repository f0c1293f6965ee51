/* What a message from a group says, as text for people. */

// A message may have a megabyte. A page that shows hundreds of them must not keep hundreds of megabytes.
const MAX_CHARACTERS = 10_000;

const readers = {
  text: (data) => data,
  json: (data) => (typeof data === "string" ? data : JSON.stringify(data)),
};

/** The data of a message frame as text; for a json object with a text in `key`, that text. */
export function readable({ dataType, data }, key = "") {
  const inner = key && dataType === "json" && typeof data?.[key] === "string" ? data[key] : null;
  const read = readers[dataType];
  if (!read) return `(${dataType} data, ${Math.floor((String(data).replaceAll("=", "").length * 3) / 4)} bytes)`;
  return shortened(inner ?? read(data));
}

/** Text as it is kept in a page: not without a limit. */
export function shortened(text) {
  if (text.length <= MAX_CHARACTERS) return text;
  return `${text.slice(0, MAX_CHARACTERS)}… (cut here; ${text.length.toLocaleString()} characters in all)`;
}
